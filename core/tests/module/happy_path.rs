//! The way it should go: found, enrol, create a domain, unlock it, use a key, start again.

use quorate_core::ids::NodeId;
use quorate_core::module::EpochState;

use crate::fixture::{Fleet, domain, node_id};

const KEY: [u8; 16] = [7; 16];

#[test]
fn a_key_of_an_unlocked_domain_encrypts_and_decrypts() {
    let mut fleet = Fleet::ready();
    let progress = fleet.unlock(1);
    assert_eq!((progress.have, progress.need, progress.culprits.len()), (3, 3, 0));
    fleet.make_key(KEY);
    let context = [("a".to_owned(), "b".to_owned())];
    let sealed = fleet.node(1).encrypt(&KEY, b"hello", &context).expect("encrypted");
    assert_eq!(fleet.node(1).decrypt(&sealed, &context).expect("decrypted").as_slice(), b"hello");
    fleet.unlock(5);
    let elsewhere = fleet.node(5).decrypt(&sealed, &context).expect("any member's lease opens it");
    assert_eq!(elsewhere.as_slice(), b"hello");
}

#[test]
fn modules_greet_and_then_talk() {
    let fleet = Fleet::founded();
    let (a, b) = (fleet.node(1), fleet.node(2));
    let hello = a.hellos(&node_id(2)).expect("sealed").remove(0);
    let (from, kind, _) = b.open_message(&hello).expect("opened");
    assert_eq!((from, kind.as_str()), (node_id(1), "link/hello"));
    let hello = b.hellos(&node_id(1)).expect("sealed").remove(0);
    a.open_message(&hello).expect("opened");
    let talk = a.seal(&node_id(2), "session/grant", b"x").expect("sealed");
    let (from, kind, said) = b.open_message(&talk).expect("opened");
    assert_eq!((from, kind.as_str(), said.as_slice()), (node_id(1), "session/grant", b"x".as_slice()));
}

#[test]
fn a_restarted_holder_keeps_its_shard_and_answers() {
    let mut fleet = Fleet::ready();
    let before = fleet.node(2).boot().expect("a boot number");
    fleet.reopen(2);
    assert_eq!(fleet.node(2).boot().expect("a boot number"), before + 1);
    let epochs = fleet.node(2).epochs().expect("listed");
    assert_eq!((epochs.len(), epochs[0].1), (1, EpochState::Current), "one epoch, current");
    fleet.unlock(1);
    assert!(fleet.node(1).lease(&domain()).expect("asked").is_some());
}

#[test]
fn a_module_knows_its_name_its_role_and_its_fleet_after_a_restart() {
    let mut fleet = Fleet::founded();
    fleet.reopen(3);
    assert_eq!(fleet.node(3).name().expect("a name"), node_id(3));
    assert_eq!(fleet.node(3).fleet().expect("asked"), Some(fleet.operator.fleet()));
    assert_eq!(fleet.node(3).role().expect("asked"), Some(quorate_core::module::messages::Role::Holder));
    assert_eq!(fleet.hub.name().expect("a name"), NodeId::hub());
}
