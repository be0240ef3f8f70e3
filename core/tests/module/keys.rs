//! KMS keys under a lease: what an ended lease, a key's state, and another's record do not allow.

use std::time::Duration;

use quorate_core::error::Code;
use quorate_core::ids::{DomainId, Hash};
use quorate_core::module::messages::{KeyRecord, KeyState};
use quorate_core::module::{Learnt, RecordKind};
use quorate_core::seal::statement;

use crate::fixture::{Fleet, NOW, domain, one, refused, refused_record, said};

const KEY: [u8; 16] = [7; 16];
type Context = Vec<(String, String)>;

fn context() -> Context {
    vec![("a".to_owned(), "b".to_owned())]
}

/// node-1 has a fresh lease; one key, and one ciphertext of `hello` under it.
fn with_a_key() -> (Fleet, Vec<u8>) {
    let mut fleet = Fleet::ready();
    fleet.unlock(1);
    fleet.make_key(KEY);
    let sealed = fleet.node(1).encrypt(&KEY, b"hello", &context()).expect("encrypted");
    fleet.unlock(1);
    (fleet, sealed)
}

#[test]
fn n59_a_lease_ends_by_time() {
    let (fleet, sealed) = with_a_key();
    let node = fleet.node(1);
    fleet.clock.advance(Duration::from_secs(30) - Duration::from_nanos(1));
    node.decrypt(&sealed, &context()).expect("within the lease");
    fleet.clock.advance(Duration::from_nanos(1));
    refused(node.decrypt(&sealed, &context()), Code::NoLease);
    refused(node.encrypt(&KEY, b"hello", &context()), Code::NoLease);
    assert!(node.lease(&domain()).expect("asked").is_none());
}

#[test]
fn a_lease_ends_by_uses() {
    let (mut fleet, sealed) = with_a_key();
    for left in (0..10).rev() {
        fleet.node(1).decrypt(&sealed, &context()).expect("within the lease");
        let uses = fleet.node(1).lease(&domain()).expect("asked").map_or(0, |l| l.uses);
        assert_eq!(uses, left);
    }
    refused(fleet.node(1).decrypt(&sealed, &context()), Code::NoLease);
    fleet.unlock(1);
    fleet.node(1).decrypt(&sealed, &context()).expect("a new session gives a new lease");
}

#[test]
fn a_lock_drops_the_lease_at_once() {
    let (fleet, sealed) = with_a_key();
    let node = fleet.node(1);
    assert!(node.lock(&domain()).expect("locked"));
    refused(node.decrypt(&sealed, &context()), Code::NoLease);
    refused(node.data_key(&KEY, 32, &context()), Code::NoLease);
    refused(node.reencrypt(&sealed, &context(), &KEY, &context()), Code::NoLease);
    refused(make(&fleet, 1, &domain()), Code::NoLease);
    assert!(!node.lock(&domain()).expect("nothing to lock"));
}

#[test]
fn a_restart_drops_the_lease() {
    let (mut fleet, sealed) = with_a_key();
    fleet.reopen(1);
    refused(fleet.node(1).decrypt(&sealed, &context()), Code::NoLease);
}

fn make(fleet: &Fleet, n: u8, domain: &DomainId) -> quorate_core::error::Result<Vec<u8>> {
    fleet.node(n).make_key([9; 16], domain, String::new(), Vec::new(), NOW * 1000)
}

#[test]
fn a_key_is_made_under_a_lease_of_its_own_domain() {
    let (fleet, _) = with_a_key();
    refused(make(&fleet, 2, &domain()), Code::NoLease);
    refused(make(&fleet, 1, &DomainId::new("other").expect("a label")), Code::NoLease);
    refused(
        fleet.node(1).make_key(KEY, &domain(), String::new(), Vec::new(), NOW * 1000),
        Code::AlreadyExists,
    );
    let before = fleet.node(1).lease(&domain()).expect("asked").expect("a lease").uses;
    make(&fleet, 1, &domain()).expect("made");
    let after = fleet.node(1).lease(&domain()).expect("asked").expect("a lease").uses;
    assert_eq!(after, before - 1, "a new key is a use like any other");
}

#[test]
fn n78_a_ciphertext_opens_under_its_own_context_and_key_only() {
    let (fleet, sealed) = with_a_key();
    let node = fleet.node(1);
    let other = vec![("a".to_owned(), "c".to_owned())];
    refused(node.decrypt(&sealed, &other), Code::KeyCommitment);
    refused(node.decrypt(&sealed, &[]), Code::KeyCommitment);
    let mut altered = sealed.clone();
    *altered.last_mut().expect("a tag") ^= 1;
    refused(node.decrypt(&altered, &context()), Code::NotOpened);
    let mut renamed = sealed.clone();
    renamed[1] ^= 1;
    refused(node.decrypt(&renamed, &context()), Code::UnknownKey);
    let mut reversioned = sealed.clone();
    reversioned[20] ^= 2;
    refused(node.decrypt(&reversioned, &context()), Code::UnknownKey);
    refused(node.decrypt(&[], &context()), Code::BadEncoding);
    let again = node.reencrypt(&sealed, &context(), &KEY, &other).expect("encrypted again");
    assert_eq!(node.decrypt(&again, &other).expect("opened").as_slice(), b"hello");
}

#[test]
fn each_operation_is_one_use_of_the_lease() {
    let (fleet, sealed) = with_a_key();
    let node = fleet.node(1);
    let uses = || node.lease(&domain()).expect("asked").expect("a lease").uses;
    let before = uses();
    node.encrypt(&KEY, b"hello", &context()).expect("encrypted");
    node.decrypt(&sealed, &context()).expect("decrypted");
    node.data_key(&KEY, 32, &context()).expect("a data key");
    node.reencrypt(&sealed, &context(), &KEY, &context()).expect("encrypted again");
    assert_eq!(before - uses(), 4);
    // A wrong context is found out with the key in hand: it counts. What names no key does not.
    refused(node.decrypt(&sealed, &[]), Code::KeyCommitment);
    refused(node.decrypt(&[], &context()), Code::BadEncoding);
    assert_eq!(before - uses(), 5);
}

#[test]
fn a_data_key_is_what_its_ciphertext_says() {
    let (fleet, _) = with_a_key();
    let (plain, sealed) = fleet.node(1).data_key(&KEY, 32, &context()).expect("a data key");
    assert_eq!(plain.len(), 32);
    assert_eq!(fleet.node(1).decrypt(&sealed, &context()).expect("opened"), plain);
}

#[test]
fn a_key_works_only_while_it_is_enabled() {
    let (fleet, sealed) = with_a_key();
    let node = fleet.node(1);
    for (state, deletion) in [(KeyState::Disabled, None), (KeyState::PendingDeletion, Some(NOW * 1000))] {
        fleet.tell_all(&[node.revise_key(&KEY, state, deletion).expect("revised")]);
        refused(node.decrypt(&sealed, &context()), Code::BadState);
        refused(node.encrypt(&KEY, b"hello", &context()), Code::BadState);
        refused(node.data_key(&KEY, 32, &context()), Code::BadState);
        fleet.tell_all(&[node.revise_key(&KEY, KeyState::Enabled, None).expect("revised")]);
        node.decrypt(&sealed, &context()).expect("enabled again");
    }
    let enabled = one(node.records(RecordKind::Key).expect("listed"));
    let deleted = node.revise_key(&KEY, KeyState::Deleted, None).expect("revised");
    fleet.tell_all(std::slice::from_ref(&deleted));
    refused(node.decrypt(&sealed, &context()), Code::BadState);
    refused(node.revise_key(&KEY, KeyState::Enabled, None), Code::BadState);
    let kept = one(node.records(RecordKind::Key).expect("listed"));
    assert!(said::<KeyRecord>(&kept).token.is_none(), "the material is gone");
    assert!(matches!(one(node.learn(std::slice::from_ref(&deleted)).expect("asked")), Learnt::Known));
    // Not even a member that kept the material brings the key back.
    let (version, parent) =
        (said::<KeyRecord>(&deleted).version + 1, statement::hash_in(&deleted).expect("a record"));
    let revived = KeyRecord { version, parent, ..said::<KeyRecord>(&enabled) };
    assert_eq!(refused_record(node, &fleet.forge("node-2", revived)), Code::BadState);
}

#[test]
fn n66_a_lower_or_conflicting_key_record_is_refused() {
    let (mut fleet, _) = with_a_key();
    let first = one(fleet.node(1).records(RecordKind::Key).expect("listed"));
    let disabled = fleet.node(1).revise_key(&KEY, KeyState::Disabled, None).expect("revised");
    let pending = fleet.node(2).revise_key(&KEY, KeyState::PendingDeletion, Some(1)).expect("revised");
    fleet.tell_all(std::slice::from_ref(&disabled));
    let conflicting_parent = KeyRecord { version: 3, ..said::<KeyRecord>(&pending) };
    let conflicting_parent = fleet.forge("node-2", conflicting_parent);
    for stale in [&first, &pending, &conflicting_parent] {
        assert_eq!(refused_record(fleet.node(3), stale), Code::StaleVersion);
    }
    assert!(matches!(one(fleet.node(3).learn(&[disabled]).expect("asked")), Learnt::Known));
    fleet.reopen(3);
    assert_eq!(refused_record(fleet.node(3), &first), Code::StaleVersion);
}

#[test]
fn no_single_member_takes_a_keys_material_away() {
    let (fleet, sealed) = with_a_key();
    let first = one(fleet.node(1).records(RecordKind::Key).expect("listed"));
    let parent = statement::hash_in(&first).expect("a record");
    let next = KeyRecord { version: 2, parent, ..said::<KeyRecord>(&first) };
    let mut garbage = next.token.clone().expect("a token");
    garbage.0[20..].fill(1);
    for forged in [
        KeyRecord { token: Some(garbage), ..next.clone() },
        KeyRecord { token: None, ..next.clone() },
        KeyRecord { key_version: 2, ..next.clone() },
        KeyRecord { created: 1, ..next.clone() },
        KeyRecord { domain: DomainId::new("other").expect("a label"), ..next.clone() },
    ] {
        assert_eq!(refused_record(fleet.node(1), &fleet.forge("node-2", forged)), Code::BadState);
    }
    // Nor its future: the last version there is would leave none to enable it again.
    let last = KeyRecord { version: u64::MAX, state: KeyState::Disabled, ..next };
    assert_eq!(refused_record(fleet.node(1), &fleet.forge("node-2", last)), Code::StaleVersion);
    fleet.node(1).decrypt(&sealed, &context()).expect("opened");
}

#[test]
fn a_new_key_record_has_its_material() {
    let (fleet, _) = with_a_key();
    let record = said::<KeyRecord>(&one(fleet.node(1).records(RecordKind::Key).expect("listed")));
    let empty = KeyRecord { key_id: [8; 16], version: 1, parent: Hash([0; 32]), token: None, ..record };
    assert_eq!(refused_record(fleet.node(1), &fleet.forge("node-2", empty)), Code::BadState);
}

#[test]
fn only_holders_make_records() {
    let (fleet, _) = with_a_key();
    let first = one(fleet.node(1).records(RecordKind::Key).expect("listed"));
    let parent = statement::hash_in(&first).expect("a record");
    let next = KeyRecord { version: 2, parent, state: KeyState::Disabled, ..said::<KeyRecord>(&first) };
    assert_eq!(refused_record(fleet.node(1), &fleet.forge("hub", next)), Code::NotAuthorized);
    let alias = fleet.hub.revise_alias("alias/x", Some(KEY), 1).expect("made");
    assert_eq!(refused_record(fleet.node(1), &alias), Code::NotAuthorized);
}

#[test]
fn aliases_and_keys_are_there_after_a_restart() {
    let (mut fleet, sealed) = with_a_key();
    let first = fleet.node(1).revise_alias("alias/x", Some(KEY), 1).expect("made");
    fleet.tell_all(std::slice::from_ref(&first));
    let rival = fleet.node(2).revise_alias("alias/x", None, 3).expect("made");
    let second = fleet.node(1).revise_alias("alias/x", Some([8; 16]), 2).expect("made");
    fleet.tell_all(std::slice::from_ref(&second));
    fleet.reopen(1);
    for stale in [&first, &rival] {
        assert_eq!(refused_record(fleet.node(1), stale), Code::StaleVersion);
    }
    assert_eq!(fleet.node(1).records(RecordKind::Alias).expect("listed"), [second]);
    fleet.unlock(1);
    assert_eq!(fleet.node(1).decrypt(&sealed, &context()).expect("opened").as_slice(), b"hello");
}
