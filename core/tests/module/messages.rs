//! Fleet messages between modules: what is refused as a repeat, as stale, as not for this module.

use quorate_core::encoding::{Bytes, encode};
use quorate_core::error::Code;
use quorate_core::ids::{Epoch, NodeId};
use quorate_core::module::WINDOW;
use quorate_core::module::messages::Rekey;
use quorate_core::seal::hpke::{self, Info, SUITE};

use crate::fixture::{Fleet, node_id, refused, rng, said};

const HELLO: &str = "link/hello";

/// Two nodes that have greeted each other.
fn greeted() -> Fleet {
    let fleet = Fleet::founded();
    greet(&fleet, 1, 2);
    greet(&fleet, 2, 1);
    fleet
}

fn greet(fleet: &Fleet, from: u8, to: u8) -> Vec<u8> {
    let hello = fleet.node(from).hellos(&node_id(to)).expect("sealed").remove(0);
    fleet.node(to).open_message(&hello).expect("opened");
    hello
}

fn say(fleet: &Fleet, from: u8, to: u8) -> Vec<u8> {
    fleet.node(from).seal(&node_id(to), "session/answer", b"said").expect("sealed")
}

#[test]
fn a_peers_boot_number_is_known_from_its_hello_on_and_follows_its_restarts() {
    let mut fleet = Fleet::founded();
    let boot = |fleet: &Fleet| fleet.node(2).peer_boot(&node_id(1)).expect("open");
    assert_eq!(boot(&fleet), None);
    greet(&fleet, 1, 2);
    let first = boot(&fleet).expect("greeted");
    fleet.reopen(1);
    assert_eq!(boot(&fleet), Some(first));
    greet(&fleet, 1, 2);
    assert_eq!(boot(&fleet), Some(first + 1));
}

#[test]
fn n56_a_message_is_opened_once() {
    let fleet = greeted();
    let (first, second) = (say(&fleet, 1, 2), say(&fleet, 1, 2));
    fleet.node(2).open_message(&second).expect("opened");
    fleet.node(2).open_message(&first).expect("late, and new");
    for again in [&first, &second] {
        refused(fleet.node(2).open_message(again), Code::Replayed);
    }
    let hello = greet(&fleet, 1, 2);
    refused(fleet.node(2).open_message(&hello), Code::Replayed);
}

#[test]
fn n56_a_restarted_receiver_opens_no_older_message() {
    let mut fleet = greeted();
    let (seen, unseen) = (say(&fleet, 1, 2), say(&fleet, 1, 2));
    fleet.node(2).open_message(&seen).expect("opened");
    fleet.reopen(2);
    for older in [&seen, &unseen] {
        refused(fleet.node(2).open_message(older), Code::StaleBoot);
    }
    // Even once the two have greeted each other again.
    greet(&fleet, 1, 2);
    greet(&fleet, 2, 1);
    for older in [&seen, &unseen] {
        refused(fleet.node(2).open_message(older), Code::StaleBoot);
    }
    fleet.node(2).open_message(&say(&fleet, 1, 2)).expect("opened");
}

#[test]
fn n56_a_restarted_sender_is_not_heard_in_its_former_life() {
    let mut fleet = greeted();
    let unseen = say(&fleet, 1, 2);
    let hello = fleet.node(1).hellos(&node_id(2)).expect("sealed").remove(0);
    fleet.reopen(1);
    greet(&fleet, 1, 2);
    refused(fleet.node(2).open_message(&unseen), Code::StaleBoot);
    refused(fleet.node(2).open_message(&hello), Code::RolledBack);
    refused(fleet.node(1).seal(&node_id(2), "session/answer", b""), Code::BadState);
    greet(&fleet, 2, 1);
    fleet.node(2).open_message(&say(&fleet, 1, 2)).expect("opened");
}

#[test]
fn a_module_speaks_to_nobody_who_has_not_said_hello() {
    let fleet = Fleet::founded();
    refused(fleet.node(1).seal(&node_id(2), "session/answer", b""), Code::BadState);
    greet(&fleet, 2, 1);
    let message = say(&fleet, 1, 2);
    refused(fleet.node(2).open_message(&message), Code::StaleBoot);
}

#[test]
fn a_message_is_opened_by_its_receiver_only() {
    let fleet = greeted();
    greet(&fleet, 1, 3);
    let message = say(&fleet, 1, 2);
    refused(fleet.node(3).open_message(&message), Code::WrongRecipient);
    let mut altered = message;
    *altered.last_mut().expect("a signature") ^= 1;
    refused(fleet.node(2).open_message(&altered), Code::BadSignature);
    refused(fleet.node(1).seal(&NodeId::new("node-9").expect("a label"), HELLO, b""), Code::NotAMember);
}

#[test]
fn a_fleet_key_is_for_one_module_and_one_fleet_epoch() {
    let fleet = Fleet::founded();
    let rekey = fleet.hub.rekey_for(&node_id(2)).expect("a rekey");
    refused(fleet.node(1).accept_rekey(&rekey, WINDOW), Code::WrongRecipient);
    fleet.node(2).accept_rekey(&rekey, WINDOW).expect("the known key again");
    let by_a_node = fleet.forge("node-3", said::<Rekey>(&rekey));
    refused(fleet.node(2).accept_rekey(&by_a_node, WINDOW), Code::NotAuthorized);
}

#[test]
fn n92_a_stolen_hub_replaces_no_fleet_key_that_is_held() {
    let fleet = Fleet::founded();
    let rekey = said::<Rekey>(&fleet.hub.rekey_for(&node_id(2)).expect("a rekey"));
    let entries = fleet.hub.entries().expect("entries");
    let kem = &entries.iter().find(|(e, _)| e.name == node_id(2)).expect("node-2").0.kem;
    let info = encode(&Info {
        suite: SUITE.to_owned(),
        kind: "rekey".to_owned(),
        fleet: rekey.fleet,
        sender: NodeId::hub(),
        recipient: node_id(2),
        domain: None,
        epoch: Epoch(rekey.fleet_epoch),
        index: None,
        context: Bytes(Vec::new()),
    });
    let sealed = Bytes(hpke::seal(kem, &info, &[], &[7; 32], &mut rng()).expect("sealed"));
    let other = fleet.forge("hub", Rekey { sealed, ..rekey });
    refused(fleet.node(2).accept_rekey(&other, WINDOW), Code::StaleVersion);
}

/// The byte that tells a message's version: the first item of its header.
fn with_version(message: &[u8], version: u8) -> Vec<u8> {
    let fleet_id = [0x8a, message_version(message), 0x50];
    let at = message.windows(3).position(|w| w == fleet_id).expect("a header") + 1;
    let mut out = message.to_vec();
    out[at] = version;
    out
}

fn message_version(message: &[u8]) -> u8 {
    quorate_core::seal::fleet::peek_header(message, u8::MAX).expect("a header").version
}

#[test]
fn two_modules_speak_the_newest_version_that_both_know() {
    let mut fleet = Fleet::founded();
    fleet.node(2).speak(2).expect("raised");
    greet(&fleet, 1, 2);
    greet(&fleet, 2, 1);
    for (from, to) in [(1, 2), (2, 1)] {
        assert_eq!(message_version(&say(&fleet, from, to)), 1);
        fleet.node(to).open_message(&say(&fleet, from, to)).expect("opened");
    }
    fleet.reopen(1);
    fleet.node(1).speak(2).expect("raised");
    // Of every version: a hello must be read before anything is known.
    assert_eq!(message_version(&greet(&fleet, 1, 2)), 1);
    assert_eq!(message_version(&greet(&fleet, 2, 1)), 1);
    for (from, to) in [(1, 2), (2, 1)] {
        assert_eq!(message_version(&say(&fleet, from, to)), 2);
        fleet.node(to).open_message(&say(&fleet, from, to)).expect("opened");
        assert_eq!(fleet.node(from).peer_version(&node_id(to)).expect("asked"), Some(2));
    }
    assert_eq!(fleet.node(2).opened_versions().expect("asked"), [(1, 1), (2, 1)].into());
}

#[test]
fn a_build_that_told_no_version_is_spoken_to_in_the_first() {
    let fleet = Fleet::founded();
    fleet.node(2).speak(2).expect("raised");
    fleet.node(1).speak(0).expect("as the release before");
    greet(&fleet, 1, 2);
    fleet.node(1).speak(1).expect("as the release before");
    greet(&fleet, 2, 1);
    for (from, to) in [(1, 2), (2, 1)] {
        assert_eq!(message_version(&say(&fleet, from, to)), 1);
        fleet.node(to).open_message(&say(&fleet, from, to)).expect("opened");
    }
}

#[test]
fn n66_a_message_of_an_unknown_version_is_refused_by_name() {
    let fleet = greeted();
    let message = say(&fleet, 1, 2);
    for version in [0, 2, 3, 23] {
        let error = fleet.node(2).open_message(&with_version(&message, version)).expect_err("refused");
        assert_eq!(error.code, Code::UnknownVersion);
        assert!(error.what.contains(&format!("version {version}")), "{error}");
    }
    fleet.node(2).speak(2).expect("raised");
    refused(fleet.node(2).open_message(&with_version(&message, 3)), Code::UnknownVersion);
    fleet.node(2).open_message(&message).expect("opened");
}

#[test]
fn n66_who_spoke_a_version_in_this_boot_speaks_no_lower_one() {
    let mut fleet = Fleet::founded();
    let early = {
        fleet.node(2).speak(2).expect("raised");
        greet(&fleet, 1, 2);
        greet(&fleet, 2, 1);
        say(&fleet, 1, 2)
    };
    // Node 1 says that it speaks version 2; what it said before in version 1 may not come any more, nor new of it.
    fleet.node(1).speak(2).expect("raised");
    greet(&fleet, 1, 2);
    fleet.node(1).speak(1).expect("lowered");
    for lower in [early, say(&fleet, 1, 2)] {
        refused(fleet.node(2).open_message(&lower), Code::LowerVersion);
    }
    // A hello that tells less takes nothing back.
    greet(&fleet, 1, 2);
    refused(fleet.node(2).open_message(&say(&fleet, 1, 2)), Code::LowerVersion);
    // A start with an older build does.
    fleet.reopen(1);
    greet(&fleet, 1, 2);
    greet(&fleet, 2, 1);
    fleet.node(2).open_message(&say(&fleet, 1, 2)).expect("opened");
}

#[test]
fn a_message_of_a_start_that_has_not_said_hello_is_not_opened() {
    let mut fleet = greeted();
    fleet.reopen(1);
    greet(&fleet, 2, 1);
    refused(fleet.node(2).open_message(&say(&fleet, 1, 2)), Code::StaleBoot);
    greet(&fleet, 1, 2);
    fleet.node(2).open_message(&say(&fleet, 1, 2)).expect("opened");
}
