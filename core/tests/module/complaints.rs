//! Complaints about sub-shares, what dealers open, and whom it convicts. Everybody judges alike; nobody is convicted
//! without proof, and no opening tells what k − 1 liars do not know.

use std::time::Duration;

use quorate_core::encoding::{Bytes, digest, encode};
use quorate_core::error::Code;
use quorate_core::ids::{Epoch, Hash, NodeId};
use quorate_core::module::messages::{
    Complaint, Configuration, Dealing, Fault, Opening, Plan, PlanKey, Purpose, Seat,
};
use quorate_core::module::{EpochState, KEPT, Reason, SubShare, Verdict};
use quorate_core::seal::hpke::{self, Info, KemPrivate, SUITE};
use quorate_core::seal::statement;

use crate::fixture::{Fleet, domain, index, node_id, refused, rng, said, seat};
use crate::redealing::{ALL, Change, activate, deal, order, prepare, share_slots, states};

/// `node-2` deals second.
const DEALER: usize = 1;

fn refreshed(fleet: &Fleet) -> Change {
    deal(fleet, order(Purpose::Refresh, 1, 2, &[1, 2, 3]), &ALL)
}

fn hash(statement: &[u8]) -> Hash {
    statement::hash_in(statement).expect("a statement")
}

/// What `node-n` would complain about in the dealing of `node-2`.
fn about(fleet: &Fleet, c: &Change, n: u8) -> Complaint {
    Complaint {
        fleet: fleet.operator.fleet(),
        domain: domain(),
        to_epoch: Epoch(2),
        plan: hash(&c.plan),
        configuration: hash(&c.configuration),
        dealing: hash(&c.dealings[DEALER]),
        index: index(n),
        code: Fault::NotOpened,
    }
}

/// The same, signed, whatever it really got.
fn complaint(fleet: &Fleet, c: &Change, n: u8) -> Vec<u8> {
    fleet.forge(&format!("node-{n}"), about(fleet, c, n))
}

/// What the hub's module and another member's say, which must be the same.
#[track_caller]
fn judged(fleet: &Fleet, c: &Change, complaint: &[u8], opening: Option<&[u8]>) -> Verdict {
    let judge = |module: &quorate_core::module::Module| {
        module.judge(&c.configuration, &c.dealings[DEALER], complaint, opening).expect("judged")
    };
    let verdict = judge(&fleet.hub);
    assert_eq!(verdict, judge(fleet.node(4)));
    verdict
}

fn convicts(n: u8, reason: Reason) -> Verdict {
    Verdict { convicted: node_id(n), reason }
}

/// A sub-share for index `n` as `node-2` would seal it.
fn seal(c: &Change, n: u8, content: &[u8], seed: &[u8; 64]) -> Vec<u8> {
    let plan = said::<Plan>(&c.plan);
    let info = encode(&Info {
        suite: SUITE.to_owned(),
        kind: "dealing".to_owned(),
        fleet: plan.fleet,
        sender: node_id(2),
        recipient: node_id(n),
        domain: Some(domain()),
        epoch: plan.to_epoch,
        index: Some(index(n)),
        context: Bytes(hash(&c.plan).0.to_vec()),
    });
    let key = said::<PlanKey>(&c.keys[usize::from(n) - 1]).kem;
    hpke::seal_from(&key, &info, &[], content, seed).expect("sealed")
}

/// `node-2` signs a dealing with `sealed` for index `n`, and the hub makes a configuration of it.
fn with_sub_share(fleet: &Fleet, mut c: Change, n: u8, sealed: Vec<u8>) -> Change {
    let mut dealing = said::<Dealing>(&c.dealings[DEALER]);
    let at = usize::from(n) - 1;
    dealing.sealed[at] = Hash(digest("quorate/v1/epoch/sealed-sub-share", &sealed));
    c.dealings[DEALER] = fleet.forge("node-2", dealing);
    c.sealed[DEALER][at] = sealed;
    c.configuration = fleet.hub.configure(&c.plan, &c.dealings, &c.sealed).expect("configured");
    c
}

/// The signed complaints with which `node-n` refuses to prepare.
#[track_caller]
fn complains(fleet: &Fleet, c: &Change, n: u8, code: Code) -> Vec<Vec<u8>> {
    let e = refused(fleet.node(n).prepare(&c.configuration, &c.dealings, &c.subs(n)), code);
    assert_eq!(e.culprits, [node_id(2)]);
    e.complaints
}

/// What `node-2` would honestly open to index `n`.
fn honest(fleet: &Fleet, c: &Change, n: u8) -> Opening {
    said(&fleet.node(2).answer_complaint(&c.configuration, &complaint(fleet, c, n)).expect("opened"))
}

fn opening(fleet: &Fleet, complaint: &[u8], opening: &Opening) -> Vec<u8> {
    fleet.forge("node-2", Opening { complaint: hash(complaint), ..opening.clone() })
}

/// `node-5` complains falsely of `node-2`.
pub fn dispute(fleet: &Fleet) -> Verdict {
    let c = refreshed(fleet);
    let lie = complaint(fleet, &c, 5);
    let answer = fleet.node(2).answer_complaint(&c.configuration, &lie).expect("opened");
    judged(fleet, &c, &lie, Some(&answer))
}

#[test]
fn n95_a_false_complaint_convicts_its_accuser() {
    let verdict = dispute(&Fleet::ready());
    assert_eq!(verdict, convicts(5, Reason::FalseComplaint));
    assert!(verdict.is_proven());
}

#[test]
fn n95_a_dealer_that_dealt_garbage_is_convicted_whatever_it_opens() {
    let fleet = Fleet::ready();
    let c = refreshed(&fleet);
    let true_one = honest(&fleet, &c, 5);
    let garbage = vec![7; c.sealed[DEALER][4].len()];
    let c = with_sub_share(&fleet, c, 5, garbage);
    let [complaint] = complains(&fleet, &c, 5, Code::NotOpened).try_into().expect("one complaint");
    assert_eq!(said::<Complaint>(&complaint), about(&fleet, &c, 5));
    // The pair that it owed, which it did not send: a recipient must not be convicted for it.
    let answer = opening(&fleet, &complaint, &true_one);
    assert_eq!(judged(&fleet, &c, &complaint, Some(&answer)), convicts(2, Reason::WrongSubShare));
}

#[test]
fn n95_a_dealer_that_sealed_another_value_is_convicted_by_its_own_opening() {
    let fleet = Fleet::ready();
    let c = refreshed(&fleet);
    let true_one = honest(&fleet, &c, 5);
    let pair = [1; 64].map(|b: u8| b % 2);
    let sealed = seal(&c, 5, &pair, &true_one.seed);
    let c = with_sub_share(&fleet, c, 5, sealed);
    let [complaint] = complains(&fleet, &c, 5, Code::BadShare).try_into().expect("one complaint");
    assert_eq!(said::<Complaint>(&complaint).code, Fault::BadShare);
    for pair in [pair, true_one.pair, [255; 64]] {
        let answer = opening(&fleet, &complaint, &Opening { pair, ..true_one.clone() });
        assert_eq!(judged(&fleet, &c, &complaint, Some(&answer)), convicts(2, Reason::WrongSubShare));
    }
}

#[test]
fn n95_a_sub_share_of_another_length_is_complained_of() {
    let fleet = Fleet::ready();
    let c = refreshed(&fleet);
    let sealed = seal(&c, 5, b"short", &[3; 64]);
    let c = with_sub_share(&fleet, c, 5, sealed);
    assert_eq!(complains(&fleet, &c, 5, Code::BadShare).len(), 1);
}

#[test]
fn n95_an_opening_shows_randomness_and_key_as_they_were() {
    let fleet = Fleet::ready();
    let c = refreshed(&fleet);
    let lie = complaint(&fleet, &c, 5);
    let true_one = honest(&fleet, &c, 5);
    let judge = |changed: Opening| judged(&fleet, &c, &lie, Some(&opening(&fleet, &lie, &changed)));
    assert_eq!(judge(true_one.clone()), convicts(5, Reason::FalseComplaint));
    assert_eq!(judge(Opening { seed: [1; 64], ..true_one.clone() }), convicts(2, Reason::WrongSubShare));
    // Keys of another index, of another plan, of nobody.
    let of_4 = Bytes(c.keys[3].clone());
    assert_eq!(judge(Opening { plan_key: of_4, ..true_one.clone() }), convicts(2, Reason::WrongSubShare));
    let own: PlanKey = said(&true_one.plan_key.0);
    for key in [
        fleet.forge("node-5", PlanKey { plan: Hash([1; 32]), ..own.clone() }),
        fleet.forge("node-5", PlanKey { index: index(4), ..own.clone() }),
        fleet.forge("node-4", own),
        b"nothing".to_vec(),
    ] {
        let changed = Opening { plan_key: Bytes(key), ..true_one.clone() };
        assert_eq!(judge(changed), convicts(2, Reason::WrongSubShare));
    }
}

#[test]
fn n95_a_recipient_that_signs_two_plan_keys_is_convicted_by_the_one_that_was_used() {
    let fleet = Fleet::ready();
    let plan = fleet.hub.plan(&fleet.charter, order(Purpose::Refresh, 1, 2, &[1, 2, 3])).expect("planned");
    let mut keys = Vec::new();
    for n in ALL {
        keys.extend(fleet.node(n).accept_plan(&plan, &fleet.charter).expect("accepted"));
    }
    // What the hub and the dealers see is not the key that it opens with.
    let other = KemPrivate::generate(&mut rng()).expect("a key").public().clone();
    keys[4] = fleet.forge("node-5", PlanKey { kem: other, ..said(&keys[4]) });
    let (mut dealings, mut sealed) = (Vec::new(), Vec::new());
    for n in [1, 2, 3] {
        for (dealing, subs) in fleet.node(n).deal(&plan, &fleet.charter, &keys).expect("dealt") {
            dealings.push(dealing);
            sealed.push(subs);
        }
    }
    let configuration = fleet.hub.configure(&plan, &dealings, &sealed).expect("configured");
    let committee = (1..=5).map(seat).collect();
    let c = Change { plan, keys, dealings, sealed, configuration, committee };
    let e = refused(fleet.node(5).prepare(&c.configuration, &c.dealings, &c.subs(5)), Code::NotOpened);
    assert_eq!(e.complaints.len(), 3);
    let answer = fleet.node(2).answer_complaint(&c.configuration, &e.complaints[DEALER]).expect("opened");
    let verdict = judged(&fleet, &c, &e.complaints[DEALER], Some(&answer));
    assert_eq!(verdict, convicts(5, Reason::FalseComplaint));
}

#[test]
fn n95_silence_convicts_the_dealer_and_proves_nothing() {
    let fleet = Fleet::ready();
    let c = refreshed(&fleet);
    let verdict = judged(&fleet, &c, &complaint(&fleet, &c, 5), None);
    assert_eq!(verdict, convicts(2, Reason::Silent));
    assert!(!verdict.is_proven());
}

#[test]
fn n95_a_complaint_is_its_own_indexs_and_of_this_attempt() {
    let fleet = Fleet::ready();
    let c = refreshed(&fleet);
    let true_one = about(&fleet, &c, 5);
    let other = Hash([1; 32]);
    for (forged, code) in [
        (fleet.forge("node-4", true_one.clone()), Code::NotAMember),
        (fleet.forge("hub", true_one.clone()), Code::NotAMember),
        (fleet.forge_as("node-4", "node-5", true_one.clone()), Code::BadSignature),
        (fleet.forge("node-5", Complaint { index: index(4), ..true_one.clone() }), Code::NotAMember),
        (fleet.forge("node-5", Complaint { index: index(6), ..true_one.clone() }), Code::NotAMember),
        (fleet.forge("node-5", Complaint { plan: other, ..true_one.clone() }), Code::WrongEpoch),
        (fleet.forge("node-5", Complaint { configuration: other, ..true_one.clone() }), Code::WrongEpoch),
        (fleet.forge("node-5", Complaint { to_epoch: Epoch(3), ..true_one.clone() }), Code::WrongEpoch),
        (fleet.forge("node-5", Complaint { dealing: other, ..true_one }), Code::BadCommitments),
    ] {
        refused(fleet.node(2).answer_complaint(&c.configuration, &forged), code);
        refused(fleet.hub.judge(&c.configuration, &c.dealings[DEALER], &forged, None), code);
    }
    let by_a_member = fleet.forge("node-4", said::<Configuration>(&c.configuration));
    let complaint = complaint(&fleet, &c, 5);
    refused(fleet.node(2).answer_complaint(&by_a_member, &complaint), Code::NotAuthorized);
    refused(fleet.hub.judge(&by_a_member, &c.dealings[DEALER], &complaint, None), Code::NotAuthorized);
    refused(fleet.hub.judge(&c.configuration, &c.dealings[0], &complaint, None), Code::BadCommitments);
    // None of it has opened anything: both that may be are still to be had.
    honest(&fleet, &c, 4);
    honest(&fleet, &c, 5);
}

#[test]
fn n95_a_hub_that_lies_about_the_plan_has_no_index_of_another_node_opened() {
    let fleet = Fleet::ready();
    let c = refreshed(&fleet);
    // In another plan of the same number index 4 is with node-5, which complains of what node-2 dealt to node-4.
    let mut plan = said::<Plan>(&c.plan);
    plan.committee[3] = Seat { node: node_id(5), ..seat(4) };
    let plan = fleet.forge("hub", plan);
    let other = Configuration { plan: Bytes(plan.clone()), ..said(&c.configuration) };
    let other = fleet.forge("hub", other);
    let (plan, configuration) = (hash(&plan), hash(&other));
    let about = Complaint { plan, configuration, index: index(4), ..about(&fleet, &c, 5) };
    let complaint = fleet.forge("node-5", about);
    refused(fleet.node(2).answer_complaint(&other, &complaint), Code::BadState);
    // Nor does it convict the dealer, which would seal to another plan's context.
    refused(fleet.node(4).judge(&other, &c.dealings[DEALER], &complaint, None), Code::BadCommitments);
}

#[test]
fn n95_an_opening_answers_its_own_complaint_and_is_its_dealers() {
    let fleet = Fleet::ready();
    let c = refreshed(&fleet);
    let (of_4, of_5) = (complaint(&fleet, &c, 4), complaint(&fleet, &c, 5));
    let answer = fleet.node(2).answer_complaint(&c.configuration, &of_5).expect("opened");
    let judge = |complaint: &[u8], opening: &[u8]| {
        fleet.hub.judge(&c.configuration, &c.dealings[DEALER], complaint, Some(opening))
    };
    refused(judge(&of_4, &answer), Code::NotAuthorized);
    refused(judge(&of_5, &fleet.forge("node-3", said::<Opening>(&answer))), Code::NotAuthorized);
    refused(judge(&of_5, &of_5), Code::WrongKind);
    // Nor is one of an earlier attempt an answer in a later one.
    fleet.node(2).abort_plan(hash(&c.plan)).expect("aborted");
    let later = deal(&fleet, order(Purpose::Refresh, 1, 3, &[1, 2, 3]), &ALL);
    let again = Complaint { to_epoch: Epoch(3), ..about(&fleet, &later, 5) };
    let again = fleet.forge("node-5", again);
    let replayed = fleet.hub.judge(&later.configuration, &later.dealings[DEALER], &again, Some(&answer));
    refused(replayed, Code::NotAuthorized);
    refused(fleet.node(2).answer_complaint(&later.configuration, &of_5), Code::WrongEpoch);
}

#[test]
fn n95_a_dealer_opens_fewer_than_k_indices_of_a_dealing() {
    let fleet = Fleet::ready();
    let c = refreshed(&fleet);
    honest(&fleet, &c, 4);
    let once = honest(&fleet, &c, 5);
    refused(fleet.node(2).answer_complaint(&c.configuration, &complaint(&fleet, &c, 1)), Code::UseLimit);
    assert_eq!(honest(&fleet, &c, 5), once, "the same again tells nothing more");
}

#[test]
fn n95_nothing_is_opened_once_the_attempt_is_over() {
    let mut fleet = Fleet::ready();
    let c = refreshed(&fleet);
    let lie = complaint(&fleet, &c, 5);
    let over = |fleet: &Fleet, n: u8, c: &Change, lie: &[u8]| {
        refused(fleet.node(n).answer_complaint(&c.configuration, lie), Code::BadState);
    };
    fleet.node(2).abort_plan(hash(&c.plan)).expect("aborted");
    over(&fleet, 2, &c, &lie);

    let number = |fleet: &Fleet, to: u64| {
        let c = deal(fleet, order(Purpose::Refresh, 1, to, &[1, 2, 3]), &ALL);
        let lie = fleet.forge("node-5", Complaint { to_epoch: Epoch(to), ..about(fleet, &c, 5) });
        (c, lie)
    };
    let (c, lie) = number(&fleet, 3);
    fleet.reopen(2);
    over(&fleet, 2, &c, &lie);

    let (c, lie) = number(&fleet, 4);
    let (later, of_later) = number(&fleet, 5);
    over(&fleet, 2, &c, &lie);
    fleet.clock.advance(KEPT);
    over(&fleet, 2, &later, &of_later);

    let (c, lie) = number(&fleet, 6);
    let prepared = prepare(&fleet, &c, &ALL);
    activate(&fleet, &c, &prepared, &[1, 2, 3, 4]);
    over(&fleet, 2, &c, &lie);
    assert_eq!(states(&fleet, 2).last(), Some(&(6, EpochState::Current, 1)), "a commit is not undone");
}

#[test]
fn n95_what_a_dealer_opened_is_of_no_epoch_that_it_prepares() {
    let fleet = Fleet::ready();
    let c = refreshed(&fleet);
    honest(&fleet, &c, 5);
    refused(fleet.node(2).prepare(&c.configuration, &c.dealings, &c.subs(2)), Code::BadState);
}

#[test]
fn n95_what_a_dealer_had_prepared_goes_before_it_opens() {
    let mut fleet = Fleet::ready();
    let c = refreshed(&fleet);
    let prepared = prepare(&fleet, &c, &ALL);
    assert_eq!(share_slots(&fleet, 2), 2);
    honest(&fleet, &c, 5);
    fleet.crash(2);
    assert_eq!(states(&fleet, 2), [(1, EpochState::Current, 1)]);
    assert_eq!(share_slots(&fleet, 2), 1);
    refused(fleet.node(2).prepare(&c.configuration, &c.dealings, &c.subs(2)), Code::BadState);
    // A hub that commits it all the same leaves it behind without a share, and able to follow.
    activate(&fleet, &c, &prepared, &[1, 2]);
    assert_eq!(states(&fleet, 2), [(1, EpochState::Retired, 1), (2, EpochState::Current, 0)]);
    assert_eq!(states(&fleet, 1), [(1, EpochState::Retired, 1), (2, EpochState::Current, 1)]);
}

#[test]
fn n95_a_first_epochs_dealer_keeps_nothing_to_open() {
    let fleet = Fleet::founded();
    let c = fleet.deal_epoch(1);
    let complaint = Complaint {
        fleet: fleet.operator.fleet(),
        domain: domain(),
        to_epoch: Epoch(1),
        plan: hash(&c.plan),
        configuration: hash(&c.configuration),
        dealing: hash(&c.dealing),
        index: index(5),
        code: Fault::NotOpened,
    };
    let complaint = fleet.forge("node-5", complaint);
    refused(fleet.hub.answer_complaint(&c.configuration, &complaint), Code::BadState);
    let verdict = fleet.hub.judge(&c.configuration, &c.dealing, &complaint, None).expect("judged");
    assert_eq!(verdict.convicted, NodeId::hub());
}

#[test]
fn a_member_complains_of_all_that_is_wrong_and_its_keys_are_used_up() {
    let fleet = Fleet::ready();
    let c = refreshed(&fleet);
    let mut c = with_sub_share(&fleet, c, 5, vec![7; 1200]);
    let mut dealing = said::<Dealing>(&c.dealings[2]);
    dealing.sealed[4] = Hash(digest("quorate/v1/epoch/sealed-sub-share", &[8; 1200]));
    c.dealings[2] = fleet.forge("node-3", dealing);
    c.sealed[2][4] = vec![8; 1200];
    c.configuration = fleet.hub.configure(&c.plan, &c.dealings, &c.sealed).expect("configured");
    let complaints = complains(&fleet, &c, 5, Code::NotOpened);
    let about = complaints.iter().map(|made| said::<Complaint>(made).dealing);
    assert_eq!(about.collect::<Vec<_>>(), [hash(&c.dealings[1]), hash(&c.dealings[2])]);
    refused(fleet.node(5).prepare(&c.configuration, &c.dealings, &c.subs(5)), Code::BadState);
    // Who only carries a wrong sub-share gives no cause for a complaint.
    let swapped: Vec<SubShare> =
        c.subs(4).into_iter().map(|s| SubShare { sealed: vec![9; 1200], ..s }).collect();
    let e = refused(fleet.node(4).prepare(&c.configuration, &c.dealings, &swapped), Code::BadShare);
    assert!(e.complaints.is_empty());
}

#[test]
fn what_was_dealt_is_kept_for_a_minute_at_most() {
    let fleet = Fleet::ready();
    let c = refreshed(&fleet);
    fleet.clock.advance(KEPT.checked_sub(Duration::from_millis(1)).expect("more than that"));
    honest(&fleet, &c, 5);
    fleet.clock.advance(Duration::from_millis(1));
    refused(fleet.node(2).answer_complaint(&c.configuration, &complaint(&fleet, &c, 5)), Code::BadState);
}
