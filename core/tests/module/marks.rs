//! Modules on older copies of their vaults: found by their peers, told so with their own signature, and of use again
//! once a new epoch has replaced what the copy brought back.

use quorate_core::error::Code;
use quorate_core::ids::{Epoch, NodeId};
use quorate_core::module::EpochState;
use quorate_core::module::messages::{Mark, Purpose};

use crate::fixture::{Fleet, THRESHOLD, domain, node_id, one, refused, said};
use crate::redealing::{ALL, activate, deal, order, prepare, refresh, states};

/// `node-from` greets `node-to`, or the hub for 0.
fn greet(fleet: &Fleet, from: u8, to: u8) -> quorate_core::error::Result<()> {
    let (receiver, name) = if to == 0 { (&fleet.hub, NodeId::hub()) } else { (fleet.node(to), node_id(to)) };
    let hello = fleet.node(from).hellos(&name).expect("sealed").remove(0);
    receiver.open_message(&hello).map(|_| ())
}

/// What the hub shows `node-n`, brought to it: its own newest mark.
fn show(fleet: &Fleet, n: u8) -> quorate_core::error::Result<bool> {
    let (_, kind, body) =
        fleet.node(n).open_message(&fleet.hub.evidence(&node_id(n)).expect("a mark")).expect("opened");
    assert_eq!(kind, "link/behind");
    fleet
        .node(n)
        .take_evidence(&one(quorate_core::encoding::decode::<Vec<quorate_core::encoding::Bytes>>(&body)?).0)
}

/// A fleet in which `node-2` has told the hub and `node-1` of itself, and a copy of its vault from before.
fn copied() -> (Fleet, std::path::PathBuf) {
    let mut fleet = Fleet::ready();
    fleet.node(2).close();
    let copy = fleet.snapshot(2);
    fleet.reopen(2);
    for to in [0, 1] {
        greet(&fleet, 2, to).expect("heard");
    }
    (fleet, copy)
}

fn answers(fleet: &mut Fleet, n: u8) -> Result<(), Code> {
    let (_, request) = fleet.open_session(1);
    let grant = fleet.grant(&request, &[n]);
    let given = one(fleet.node(n).answer(&grant).expect("taken").given);
    given.refused.map_or(Ok(()), Err)
}

#[test]
fn n89_a_copy_that_starts_under_a_number_that_was_seen_is_refused_by_hub_and_members() {
    let (mut fleet, copy) = copied();
    fleet.roll_back(2, copy); // the very number of start that was seen, but another start
    for to in [0, 1] {
        let why = refused(greet(&fleet, 2, to), Code::RolledBack);
        assert!(why.what.contains("older copy"), "{why}");
    }
    greet(&fleet, 2, 3).expect("one that never heard of it");
    // Whatever else it says is named so, too.
    let hub = NodeId::hub();
    let hello = fleet.hub.hellos(&node_id(2)).expect("sealed").remove(0);
    fleet.node(2).open_message(&hello).expect("heard");
    let message = fleet.node(2).seal(&hub, "epoch/prepared", b"").expect("sealed");
    refused(fleet.hub.open_message(&message), Code::RolledBack);
}

#[test]
fn n89_a_copy_taken_while_the_module_ran_is_found_by_its_generation() {
    let mut fleet = Fleet::ready();
    greet(&fleet, 2, 0).expect("heard");
    let copy = fleet.snapshot(2); // no start lies between this and what follows
    refresh(&fleet, 1, 2, &ALL);
    fleet.hub.note_mark(&node_id(2), &fleet.node(2).mark().expect("signed")).expect("it has gone on");
    fleet.roll_back(2, copy);
    refused(greet(&fleet, 2, 0), Code::RolledBack);
}

#[test]
fn n89_what_was_seen_is_remembered_over_a_restart() {
    let (mut fleet, copy) = copied();
    assert!(fleet.node(1).keep_marks().expect("written"));
    assert!(!fleet.node(1).keep_marks().expect("nothing more to write"));
    fleet.reopen(1);
    fleet.roll_back(2, copy);
    refused(greet(&fleet, 2, 1), Code::RolledBack);
}

#[test]
fn a_module_that_restarts_or_greets_again_is_no_copy() {
    let mut fleet = Fleet::ready();
    for _ in 0..3 {
        greet(&fleet, 2, 1).expect("heard");
        greet(&fleet, 2, 1).expect("heard again");
        fleet.unlock(2);
        greet(&fleet, 2, 1).expect("heard after a write");
        fleet.reopen(2);
        fleet.crash(2);
    }
}

#[test]
fn n89_a_module_that_is_shown_its_own_later_mark_bars_its_shares_for_good() {
    let (mut fleet, copy) = copied();
    fleet.unlock(2);
    fleet.roll_back(2, copy);
    answers(&mut fleet, 2).expect("it does not know yet");
    assert!(show(&fleet, 2).expect("taken"));
    for restart in [false, true] {
        if restart {
            fleet.reopen(2);
        }
        assert_eq!(answers(&mut fleet, 2), Err(Code::RolledBack));
        refused(fleet.node(2).open_session(&domain()), Code::RolledBack);
        let epochs = fleet.node(2).epochs().expect("listed");
        let (configuration, state, indices, _, barred, _) = &epochs[0];
        assert_eq!((*state, indices.len(), *barred), (EpochState::Current, 1, true), "kept, and of no use");
        let repeated = fleet.node(2).activate(configuration.bytes(), &[], &[]).expect("known");
        assert_eq!(repeated, Vec::<Vec<u8>>::new(), "no receipt for a share that is barred");
    }
    // It is a new start above all that was seen, so it is heard again.
    for to in [0, 1] {
        greet(&fleet, 2, to).expect("heard");
    }
    assert!(!show(&fleet, 2).expect("shown again"), "an honest module is not to be put out by repeating it");
}

#[test]
fn n89_only_a_modules_own_signature_puts_it_out() {
    let (fleet, _) = copied();
    let own: Mark = said(&fleet.node(2).mark().expect("signed"));
    let ahead = Mark { boot: own.boot + 5, ..own };
    for thief in ["hub", "node-1"] {
        refused(fleet.node(2).take_evidence(&fleet.forge(thief, ahead.clone())), Code::NotAuthorized);
        refused(
            fleet.node(2).take_evidence(&fleet.forge_as(thief, "node-2", ahead.clone())),
            Code::BadSignature,
        );
    }
    let others = fleet.hub.mark_of(&node_id(2)).expect("asked").expect("seen");
    refused(fleet.node(1).take_evidence(&others), Code::NotAuthorized);
    assert!(!fleet.node(2).take_evidence(&others).expect("its own present start"));
    refused(fleet.hub.note_mark(&node_id(1), &others), Code::NotAuthorized);
}

#[test]
fn n89_a_new_epoch_gives_a_rolled_back_module_a_share_and_the_old_ones_are_erased() {
    let (mut fleet, copy) = copied();
    let (_, _, activated) = refresh(&fleet, 1, 2, &ALL);
    for n in ALL {
        fleet.node(n).erase(&activated).expect("erased");
    }
    fleet.hub.note_mark(&node_id(2), &fleet.node(2).mark().expect("signed")).expect("noted");
    fleet.roll_back(2, copy);
    assert_eq!(states(&fleet, 2), [(1, EpochState::Current, 1)], "a share that was erased is back");
    assert!(show(&fleet, 2).expect("taken"));
    // Led on to the epoch that is current, whose predecessors nobody keeps: it has no share of it, but the old one.
    let (configuration, certificate, _) = fleet.node(1).commit_certificate(&domain()).expect("known");
    assert_eq!(
        fleet.node(2).activate(&configuration, &certificate, &[]).expect("learnt"),
        Vec::<Vec<u8>>::new()
    );
    assert_eq!(states(&fleet, 2), [(1, EpochState::Retired, 1), (2, EpochState::Current, 0)]);
    let repair = deal(&fleet, order(Purpose::Repair, 2, 3, &[1, 3, 4]), &ALL);
    let prepared = prepare(&fleet, &repair, &ALL);
    let activated = activate(&fleet, &repair, &prepared, &ALL);
    answers(&mut fleet, 2).expect("its new share serves");
    fleet.node(2).erase(&activated).expect("erased");
    assert_eq!(states(&fleet, 2), [(3, EpochState::Current, 1)]);
    fleet.reopen(2);
    answers(&mut fleet, 2).expect("and after a restart");
}

#[test]
fn n89_if_too_many_are_rolled_back_their_barred_shares_are_dealt_into_a_new_epoch() {
    let mut fleet = Fleet::ready();
    fleet.unlock(1);
    fleet.make_key([9; 16]);
    let sealed = fleet.node(1).encrypt(&[9; 16], b"kept", &[]).expect("encrypted");
    for n in [1, 2, 3] {
        let copy = fleet.snapshot(n);
        fleet.reopen(n);
        greet(&fleet, n, 0).expect("heard");
        fleet.roll_back(n, copy);
        assert!(show(&fleet, n).expect("taken"));
    }
    assert!(ALL.len() - 3 < usize::from(THRESHOLD), "too few are left to work without");
    let repair = deal(&fleet, order(Purpose::Repair, 1, 2, &[1, 2, 3]), &ALL);
    let prepared = prepare(&fleet, &repair, &ALL);
    activate(&fleet, &repair, &prepared, &ALL);
    fleet.unlock(3);
    assert_eq!(fleet.node(3).decrypt(&sealed, &[]).expect("the same key").as_slice(), b"kept");
    let epochs = fleet.node(3).epochs().expect("listed");
    let barred: Vec<(Epoch, bool)> = epochs.iter().map(|(c, _, _, _, b, _)| (c.body().epoch, *b)).collect();
    assert_eq!(barred, [(Epoch(1), true), (Epoch(2), false)]);
}
