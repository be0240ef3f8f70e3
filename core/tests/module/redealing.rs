//! Epoch changes: the shares of one epoch dealt to the next, the two locks, members that were away, come or go.

use std::collections::BTreeSet;

use quorate_core::error::Code;
use quorate_core::ids::{Epoch, Hash, ShareIndex};
use quorate_core::module::messages::{
    Activated, Configuration, Dealer, Dealing, Erased, Plan, Prepared, Purpose, Seat, SessionRequest,
};
use quorate_core::module::{EpochState, PlanOrder, SubShare};
use quorate_core::seal::statement;
use quorate_core::sharing::{LagrangeCache, Share, Threshold, combine, verify_share};

use crate::fixture::{Fleet, THRESHOLD, domain, index, node_id, refused, said, seat};

/// One change, from plan to configuration.
pub struct Change {
    pub plan: Vec<u8>,
    pub keys: Vec<Vec<u8>>,
    pub dealings: Vec<Vec<u8>>,
    /// By dealer, then by seat.
    pub sealed: Vec<Vec<Vec<u8>>>,
    pub configuration: Vec<u8>,
    pub committee: Vec<Seat>,
}

impl Change {
    /// What `node-n` is sent of the sub-shares.
    pub fn subs(&self, n: u8) -> Vec<SubShare> {
        let own = self.committee.iter().enumerate().filter(|(_, seat)| seat.node == node_id(n));
        own.flat_map(|(at, seat)| {
            self.sealed.iter().enumerate().map(move |(dealer, sealed)| SubShare {
                index: seat.index,
                dealer,
                sealed: sealed[at].clone(),
            })
        })
        .collect()
    }
}

/// `to` from `from`, dealt by the indices `dealers`, each at the node of its number.
pub fn order(purpose: Purpose, from: u64, to: u64, dealers: &[u8]) -> PlanOrder {
    PlanOrder {
        key_version: 1,
        purpose,
        from_epoch: Epoch(from),
        to_epoch: Epoch(to),
        threshold: THRESHOLD,
        dealers: dealers.iter().map(|&n| Dealer { node: node_id(n), index: Some(index(n)) }).collect(),
        committee: (1..=5).map(seat).collect(),
    }
}

/// A change up to its configuration; the nodes `present` make keys.
pub fn deal(fleet: &Fleet, order: PlanOrder, present: &[u8]) -> Change {
    let committee = order.committee.clone();
    let dealers: BTreeSet<String> = order.dealers.iter().map(|d| d.node.to_string()).collect();
    let plan = fleet.hub.plan(&fleet.charter, order).expect("planned");
    let mut keys = Vec::new();
    for &n in present.iter().filter(|n| committee.iter().any(|s| s.node == node_id(**n))) {
        keys.extend(fleet.node(n).accept_plan(&plan, &fleet.charter).expect("accepted"));
    }
    let (mut dealings, mut sealed) = (Vec::new(), Vec::new());
    for n in (1..=6).filter(|n| dealers.contains(node_id(*n).as_str())) {
        for (dealing, subs) in fleet.node(n).deal(&plan, &fleet.charter, &keys).expect("dealt") {
            dealings.push(dealing);
            sealed.push(subs);
        }
    }
    let configuration = fleet.hub.configure(&plan, &dealings, &sealed).expect("configured");
    Change { plan, keys, dealings, sealed, configuration, committee }
}

pub fn prepare(fleet: &Fleet, c: &Change, present: &[u8]) -> Vec<Vec<u8>> {
    present
        .iter()
        .filter(|n| c.committee.iter().any(|s| s.node == node_id(**n)))
        .flat_map(|&n| fleet.node(n).prepare(&c.configuration, &c.dealings, &c.subs(n)).expect("prepared"))
        .collect()
}

pub fn activate(fleet: &Fleet, c: &Change, receipts: &[Vec<u8>], nodes: &[u8]) -> Vec<Vec<u8>> {
    nodes
        .iter()
        .flat_map(|&n| fleet.node(n).activate(&c.configuration, receipts, &c.dealings).expect("activated"))
        .collect()
}

/// Refreshes with `present` from `from` to `to`: the change, its certificate, the receipts of the second lock.
pub fn refresh(fleet: &Fleet, from: u64, to: u64, present: &[u8]) -> (Change, Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let change = deal(fleet, order(Purpose::Refresh, from, to, &present[..3]), present);
    let prepared = prepare(fleet, &change, present);
    let activated = activate(fleet, &change, &prepared, present);
    (change, prepared, activated)
}

pub const ALL: [u8; 5] = [1, 2, 3, 4, 5];

/// Number and state of every epoch that `node-n` knows, with how many shares of it.
pub fn states(fleet: &Fleet, n: u8) -> Vec<(u64, EpochState, usize)> {
    let known = fleet.node(n).epochs().expect("listed");
    known.iter().map(|(c, state, indices, ..)| (c.body().epoch.0, *state, indices.len())).collect()
}

pub fn share_slots(fleet: &Fleet, n: u8) -> usize {
    fleet.stolen_secrets(&format!("node-{n}"), "share").len()
}

const KEY: [u8; 16] = [9; 16];

/// Changes one field of an honest plan.
type Alter = fn(&mut Plan);

#[test]
fn a_refreshed_domain_has_the_same_key_in_new_shards() {
    let mut fleet = Fleet::ready();
    fleet.unlock(1);
    fleet.make_key(KEY);
    let sealed = fleet.node(1).encrypt(&KEY, b"kept", &[]).expect("encrypted");
    let (_, _, activated) = refresh(&fleet, 1, 2, &ALL);
    assert_eq!(states(&fleet, 1), [(1, EpochState::Retired, 1), (2, EpochState::Current, 1)]);
    for n in ALL {
        let erased: Erased = said(&fleet.node(n).erase(&activated).expect("erased"));
        assert_eq!((erased.domain, erased.below), (domain(), Epoch(2)));
        assert_eq!(states(&fleet, n), [(2, EpochState::Current, 1)]);
        assert_eq!(share_slots(&fleet, n), 1);
        fleet.reopen(n);
        assert_eq!(states(&fleet, n), [(2, EpochState::Current, 1)]);
    }
    fleet.unlock(4);
    assert_eq!(fleet.node(4).decrypt(&sealed, &[]).expect("the same key").as_slice(), b"kept");
    assert_ne!(
        said::<Configuration>(&refresh(&fleet, 2, 3, &ALL).0.configuration).commitments.points()[1],
        said::<Configuration>(&activated_configuration(&fleet, 2, 1)).commitments.points()[1],
        "the polynomial is another",
    );
}

fn activated_configuration(fleet: &Fleet, epoch: u64, n: u8) -> Vec<u8> {
    let known = fleet.node(n).epochs().expect("listed");
    known.iter().find(|(c, ..)| c.body().epoch == Epoch(epoch)).expect("known").0.bytes().to_vec()
}

#[test]
fn n48_after_the_commit_no_older_share_leaves_a_module() {
    let mut fleet = Fleet::ready();
    let (_, request) = fleet.open_session(1);
    let grant = fleet.grant(&request, &[1, 2, 3]);
    refresh(&fleet, 1, 2, &ALL);
    let refusal = fleet.refusal(2, &grant);
    assert_eq!(refusal.reason, Code::WrongEpoch.as_str());
    let (configuration, certificate, _) = fleet.node(2).commit_certificate(&domain()).expect("shown");
    assert_eq!(said::<Configuration>(&configuration).epoch, Epoch(2));
    assert_eq!(certificate.len(), 5);
    // The one that asked has no session in the old epoch any more, so that it cannot mix the two.
    let again = fleet.open_session(1).1;
    let answer = fleet.answer(3, &fleet.grant_at(&again, &[3], 900));
    fleet.node(1).receive(&answer).expect("a share of the new epoch");
}

#[test]
fn n36_n69_nothing_is_activated_or_erased_without_enough_signatures() {
    let fleet = Fleet::ready();
    let change = deal(&fleet, order(Purpose::Refresh, 1, 2, &[1, 2, 3]), &ALL);
    let prepared = prepare(&fleet, &change, &ALL);
    let node = fleet.node(1);
    refused(node.activate(&change.configuration, &prepared[..3], &[]), Code::NotEnoughShares);
    assert_eq!(states(&fleet, 1), [(1, EpochState::Current, 1), (2, EpochState::Pending, 1)]);
    let activated = activate(&fleet, &change, &prepared, &ALL);
    refused(node.erase(&[]), Code::NotEnoughShares);
    refused(node.erase(&activated[..4]), Code::NotEnoughShares);
    refused(node.erase(&vec![activated[0].clone(); 5]), Code::NotEnoughShares);
    let forged = fleet.forge("node-2", Activated { index: index(3), ..said(&activated[1]) });
    refused(node.erase(&[&activated[..2], &[forged], &activated[3..]].concat()), Code::NotAMember);
    let other = fleet.forge("node-2", Activated { configuration: Hash([1; 32]), ..said(&activated[1]) });
    refused(node.erase(&[other]), Code::WrongEpoch);
    assert_eq!(share_slots(&fleet, 1), 2);
    node.erase(&activated).expect("five of five");
    assert_eq!(share_slots(&fleet, 1), 1);
}

#[test]
fn n93_two_liars_and_one_absent_member_do_not_have_the_old_shares_erased() {
    // node-1 and node-2 only say that they hold the new epoch, node-5 is away: its shares are with 3 and 4, too few.
    let fleet = Fleet::ready();
    let (_, _, activated) = refresh(&fleet, 1, 2, &[1, 2, 3, 4]);
    for n in [3, 4] {
        refused(fleet.node(n).erase(&activated), Code::NotEnoughShares);
    }
    assert_eq!(states(&fleet, 3)[0], (1, EpochState::Retired, 1));
    assert_eq!(states(&fleet, 5), [(1, EpochState::Current, 1)], "with 3 and 4 it can rebuild the key");
}

#[test]
fn n39_a_dealer_deals_its_own_share_or_nothing() {
    let fleet = Fleet::ready();
    let change = deal(&fleet, order(Purpose::Refresh, 1, 2, &[1, 2, 3]), &ALL);
    // node-2 deals what node-3 has: its constant term is not the commitment to its own share.
    let wrong = Dealing { index: Some(index(2)), ..said(&change.dealings[2]) };
    let mut dealings = change.dealings.clone();
    dealings[1] = fleet.forge("node-2", wrong);
    let [one, _, three] = change.sealed.as_slice() else { panic!("three dealers") };
    let swapped = [one.clone(), three.clone(), three.clone()];
    let configuration =
        fleet.hub.configure(&change.plan, &dealings, &swapped).expect("the hub does not know shares");
    let e = refused(fleet.node(4).prepare(&configuration, &dealings, &change.subs(4)), Code::BadCommitments);
    assert_eq!(e.culprits, [node_id(2)]);
}

#[test]
fn a_dealer_that_sends_other_sub_shares_than_its_dealing_names_is_found_by_the_hub() {
    let fleet = Fleet::ready();
    let change = deal(&fleet, order(Purpose::Refresh, 1, 2, &[1, 2, 3]), &ALL);
    let mut sealed = change.sealed.clone();
    sealed[1][4][7] ^= 1;
    let e = refused(fleet.hub.configure(&change.plan, &change.dealings, &sealed), Code::BadShare);
    assert_eq!(e.culprits, [node_id(2)]);
    sealed[1].pop();
    refused(fleet.hub.configure(&change.plan, &change.dealings, &sealed), Code::BadShare);
    refused(fleet.hub.configure(&change.plan, &change.dealings, &change.sealed[..2]), Code::NotEnoughShares);
}

#[test]
fn n40_a_sub_share_or_a_dealing_outside_the_configurations_set_is_not_used() {
    let fleet = Fleet::ready();
    let a = deal(&fleet, order(Purpose::Refresh, 1, 2, &[1, 2, 3]), &ALL);
    let swapped = [a.dealings[1].clone(), a.dealings[0].clone(), a.dealings[2].clone()];
    refused(fleet.node(4).prepare(&a.configuration, &swapped, &a.subs(4)), Code::BadCommitments);
    // Each attempt's keys are spent; the next has another number and another set.
    let b = deal(&fleet, order(Purpose::Refresh, 1, 3, &[2, 3, 4]), &ALL);
    refused(fleet.node(4).prepare(&b.configuration, &a.dealings, &a.subs(4)), Code::BadCommitments);
    refused(fleet.node(5).prepare(&b.configuration, &b.dealings, &a.subs(5)), Code::BadShare);
    fleet.node(1).prepare(&b.configuration, &b.dealings, &b.subs(1)).expect("the right ones");
}

#[test]
fn n41_n49_a_number_is_planned_and_dealt_for_once() {
    let mut fleet = Fleet::ready();
    let plan = fleet.hub.plan(&fleet.charter, order(Purpose::Refresh, 1, 2, &[1, 2, 3])).expect("planned");
    let other = fleet.hub.plan(&fleet.charter, order(Purpose::Refresh, 1, 2, &[1, 2, 4])).expect("planned");
    let mut keys = Vec::new();
    for n in ALL {
        keys.extend(fleet.node(n).accept_plan(&plan, &fleet.charter).expect("accepted"));
        refused(fleet.node(n).accept_plan(&other, &fleet.charter), Code::WrongEpoch);
    }
    refused(fleet.node(1).deal(&other, &fleet.charter, &[]), Code::BadState);
    fleet.node(1).deal(&plan, &fleet.charter, &keys).expect("dealt");
    refused(fleet.node(1).deal(&plan, &fleet.charter, &keys), Code::WrongEpoch);
    fleet.reopen(2);
    refused(fleet.node(2).deal(&plan, &fleet.charter, &keys), Code::BadState);
}

#[test]
fn n42_n66_n94_what_a_plan_may_not_change_or_invent() {
    let fleet = Fleet::ready();
    let honest = fleet.hub.plan(&fleet.charter, order(Purpose::Refresh, 1, 2, &[1, 2, 3])).expect("planned");

    let cases: [(Alter, Code); 12] = [
        (|p| p.threshold = 4, Code::OutsideCharter),
        (|p| p.threshold = 2, Code::OutsideCharter),
        (|p| p.committee.truncate(4), Code::BadThreshold), // its margin is another
        (|p| p.dealers.truncate(2), Code::BadThreshold),
        (|p| p.dealers.push(Dealer { node: node_id(4), index: Some(index(4)) }), Code::BadThreshold),
        (|p| p.dealers[1] = p.dealers[0].clone(), Code::BadIndex),
        (|p| p.dealers[1].index = None, Code::BadIndex),
        (|p| p.dealers[1].index = Some(index(5)), Code::NotAMember),
        (|p| p.dealers[1].node = node_id(6), Code::NotAMember),
        (|p| p.from_epoch = Epoch(0), Code::WrongEpoch),
        (|p| p.from_epoch = Epoch(7), Code::WrongEpoch),
        (|p| p.to_epoch = Epoch(1), Code::WrongEpoch),
    ];
    for (at, (alter, code)) in cases.iter().enumerate() {
        let mut plan = said::<Plan>(&honest);
        alter(&mut plan);
        let plan = fleet.forge("hub", plan);
        let e = fleet.node(1).accept_plan(&plan, &fleet.charter).expect_err("refused");
        assert_eq!(e.code, *code, "case {at}: {e}");
    }
    fleet.node(1).accept_plan(&honest, &fleet.charter).expect("none of them burnt the number");
}

#[test]
fn n44_n51_a_member_that_was_away_learns_of_the_change_and_is_repaired() {
    let fleet = Fleet::ready();
    let present = [1, 2, 3, 4];
    let (second, certificate, _) = refresh(&fleet, 1, 2, &present);
    let (third, later, _) = refresh(&fleet, 2, 3, &present);
    // k holders of its own epoch have prepared epoch 3: one of them, at least, has followed every step (N35, N44).
    let lagging = fleet.node(5);
    assert!(activate(&fleet, &third, &later, &[5]).is_empty());
    refused(lagging.activate(&second.configuration, &certificate, &second.dealings), Code::WrongEpoch);
    assert_eq!(states(&fleet, 5), [(1, EpochState::Retired, 1), (3, EpochState::Current, 0)]);
    refused(lagging.open_session(&domain()), Code::NotAMember);
    // Repaired, it holds its own share, and learnt nobody else's.
    let repair = deal(&fleet, order(Purpose::Repair, 3, 4, &[1, 2, 3]), &ALL);
    let prepared = prepare(&fleet, &repair, &ALL);
    let activated = activate(&fleet, &repair, &prepared, &ALL);
    assert_eq!(activated.len(), 5);
    for n in ALL {
        fleet.node(n).erase(&activated).expect("erased");
        assert_eq!(states(&fleet, n), [(4, EpochState::Current, 1)]);
    }
}

#[test]
fn a_module_without_a_share_follows_over_an_epoch_that_it_never_knew() {
    // node-6 learns of epoch 2, as one that has no index; epoch 3 is rebuilt from epoch 1.
    let fleet = Fleet::ready();
    let (second, certificate, _) = refresh(&fleet, 1, 2, &ALL);
    assert!(activate(&fleet, &second, &certificate, &[6]).is_empty());
    let third = deal(&fleet, order(Purpose::Repair, 1, 3, &[3, 4, 5]), &ALL);
    let later = prepare(&fleet, &third, &ALL);
    activate(&fleet, &third, &later, &ALL);
    let mut other: Configuration = said(&third.configuration);
    other.commitments = said::<Dealing>(&third.dealings[0]).commitments;
    let other = fleet.forge("hub", other);
    let hash = statement::hash_in(&other).expect("a statement");
    let forged: Vec<Vec<u8>> = (1..=4)
        .map(|n| {
            let receipt = Prepared { configuration: hash, index: index(n), ..said(&later[0]) };
            fleet.forge(&format!("node-{n}"), receipt)
        })
        .collect();
    refused(fleet.node(6).activate(&other, &forged, &[]), Code::BadCommitments);
    activate(&fleet, &third, &later, &[6]);
    assert_eq!(states(&fleet, 6), [(3, EpochState::Current, 0)]);
    refused(fleet.node(6).activate(&second.configuration, &certificate, &second.dealings), Code::WrongEpoch);
}

#[test]
fn n35_a_member_without_the_new_share_keeps_the_old_one() {
    let fleet = Fleet::ready();
    let change = deal(&fleet, order(Purpose::Refresh, 1, 2, &[1, 2, 3]), &ALL);
    let prepared = prepare(&fleet, &change, &[1, 2, 3, 4]);
    let mut activated = activate(&fleet, &change, &prepared, &[1, 2, 3, 4]);
    activate(&fleet, &change, &prepared, &[5]);
    // Even if node-5's own word were forged into the certificate.
    activated.push(fleet.forge("node-5", Activated { index: index(5), ..said(&activated[0]) }));
    refused(fleet.node(5).erase(&activated), Code::BadState);
    assert_eq!(share_slots(&fleet, 5), 1);
}

#[test]
fn n69_no_holder_believes_a_forged_commit() {
    // A stolen hub with two members of five and a node of its own makes up an epoch of three of four, and certifies it.
    let fleet = Fleet::ready();
    let real = deal(&fleet, order(Purpose::Refresh, 1, 2, &[1, 2, 3]), &ALL);
    let mut plan: Plan = said(&real.plan);
    (plan.purpose, plan.to_epoch, plan.threshold, plan.margin) = (Purpose::Reshare, Epoch(9), 3, 0);
    plan.committee = (1..=4).map(seat).collect();
    plan.committee[2].node = node_id(6);
    let plan_bytes = fleet.forge("hub", plan);
    let mut configuration: Configuration = said(&real.configuration);
    configuration.plan.0.clone_from(&plan_bytes);
    configuration.epoch = Epoch(9);
    let configuration = fleet.forge("hub", configuration);
    let hash = statement::hash_in(&configuration).expect("a statement");
    let receipt = |n: u8, node: u8| {
        let (fleet_id, domain) = (fleet.operator.fleet(), domain());
        let body =
            Prepared { fleet: fleet_id, domain, epoch: Epoch(9), configuration: hash, index: index(n) };
        fleet.forge(&format!("node-{node}"), body)
    };
    let certificate = [receipt(1, 1), receipt(2, 2), receipt(3, 6)];
    refused(fleet.node(5).activate(&configuration, &certificate, &real.dealings), Code::BadCommitments);
    assert_eq!(states(&fleet, 5)[0], (1, EpochState::Current, 1));
}

#[test]
fn n52_shards_of_two_epochs_lie_on_two_polynomials() {
    let fleet = Fleet::ready();
    let kept = |n: u8| fleet.stolen_secrets(&format!("node-{n}"), "share");
    let old = [kept(1), kept(2)];
    let (change, _, activated) = refresh(&fleet, 1, 2, &ALL);
    for n in ALL {
        fleet.node(n).erase(&activated).expect("erased");
    }
    let new = [kept(3), kept(4)];
    let configuration: Configuration = said(&change.configuration);
    let opens = |x: u8, bytes: &[u8]| {
        let bytes: [u8; 64] = bytes.try_into().expect("a share");
        let share = quorate_core::sharing::Share::from_bytes(index(x), &bytes).expect("a share");
        quorate_core::sharing::verify_share(&configuration.commitments, &share).is_ok()
    };
    for (x, loot) in [1, 2].into_iter().zip(&old) {
        assert!(!opens(x, &loot[0].1), "an old share is none of the new epoch");
    }
    for (x, loot) in [3, 4].into_iter().zip(&new) {
        assert!(opens(x, &loot[0].1));
        assert_eq!(loot.len(), 1);
    }
}

#[test]
fn a_reshared_domain_has_another_committee_and_threshold() {
    let mut fleet = Fleet::ready();
    fleet.unlock(1);
    fleet.make_key(KEY);
    let sealed = fleet.node(1).encrypt(&KEY, b"kept", &[]).expect("encrypted");
    // 3 of 5 → 3 of 4: node-2 leaves, its index goes to nobody.
    let keeps = [1, 3, 4, 5];
    let mut order = order(Purpose::Reshare, 1, 2, &[1, 2, 3]);
    order.committee = keeps.map(seat).to_vec();
    let change = deal(&fleet, order, &ALL);
    let prepared = prepare(&fleet, &change, &ALL);
    assert_eq!(prepared.len(), 4);
    let activated = activate(&fleet, &change, &prepared, &ALL);
    assert_eq!(activated.len(), 4);
    assert_eq!(states(&fleet, 2), [(1, EpochState::Retired, 1), (2, EpochState::Current, 0)]);
    for n in ALL {
        fleet.node(n).erase(&activated).expect("erased");
    }
    assert_eq!((share_slots(&fleet, 2), states(&fleet, 2)), (0, vec![(2, EpochState::Current, 0)]));
    fleet.reopen(2);
    refused(fleet.node(2).open_session(&domain()), Code::NotAMember);
    let (_, request) = fleet.open_session(5);
    let grant = fleet.grant(&request, &[1, 3, 5]);
    for holder in [1, 3, 5] {
        fleet.node(5).receive(&fleet.answer(holder, &grant)).expect("received");
    }
    assert_eq!(fleet.node(5).decrypt(&sealed, &[]).expect("the same key").as_slice(), b"kept");
    let held: Vec<ShareIndex> = fleet.node(5).epochs().expect("listed")[0].2.clone();
    assert_eq!(held, [index(5)]);
}

#[test]
fn an_epoch_that_lost_its_shares_is_rebuilt_from_the_retired_one() {
    let mut fleet = Fleet::ready();
    fleet.unlock(1);
    fleet.make_key(KEY);
    let sealed = fleet.node(1).encrypt(&KEY, b"kept", &[]).expect("encrypted");
    refresh(&fleet, 1, 2, &ALL);
    // What only has to be fresh is dealt from the current epoch.
    let from_retired = |purpose| order(purpose, 1, 3, &[3, 4, 5]);
    let plan = fleet.hub.plan(&fleet.charter, from_retired(Purpose::Refresh)).expect("planned");
    refused(fleet.node(3).accept_plan(&plan, &fleet.charter), Code::WrongEpoch);
    let change = deal(&fleet, from_retired(Purpose::Repair), &ALL);
    let prepared = prepare(&fleet, &change, &ALL);
    let activated = activate(&fleet, &change, &prepared, &ALL);
    for n in ALL {
        fleet.node(n).erase(&activated).expect("erased");
        assert_eq!(states(&fleet, n), [(3, EpochState::Current, 1)]);
    }
    fleet.unlock(2);
    assert_eq!(fleet.node(2).decrypt(&sealed, &[]).expect("the same key").as_slice(), b"kept");
}

#[test]
fn n35_a_crash_at_any_step_leaves_an_epoch_that_works() {
    let mut fleet = Fleet::ready();
    let change = deal(&fleet, order(Purpose::Refresh, 1, 2, &[1, 2, 3]), &ALL);
    let prepared = prepare(&fleet, &change, &ALL);
    for n in ALL {
        fleet.crash(n);
    }
    assert_eq!(states(&fleet, 1), [(1, EpochState::Current, 1), (2, EpochState::Pending, 1)]);
    let activated = activate(&fleet, &change, &prepared, &ALL);
    for n in ALL {
        fleet.crash(n);
    }
    assert_eq!(states(&fleet, 1), [(1, EpochState::Retired, 1), (2, EpochState::Current, 1)]);
    fleet.unlock(3);
    let receipt = fleet.node(1).activate(&change.configuration, &prepared, &[]).expect("again");
    assert!(activated.contains(&receipt[0]), "a repeat gives the same receipt");
    let first = fleet.node(1).erase(&activated).expect("erased");
    fleet.crash(1);
    assert_eq!(fleet.node(1).erase(&activated).expect("erased before"), first);
    fleet.unlock(3);
}

#[test]
fn a_retired_members_word_stays_good_for_what_was_before_and_opens_nothing_new() {
    let mut fleet = Fleet::ready();
    let (change, certificate, _) = refresh(&fleet, 1, 2, &[1, 2, 3, 4]);
    fleet.retire(2);
    // node-2 dealt, and prepared; the certificate still convinces one that was away.
    assert!(activate(&fleet, &change, &certificate, &[5]).is_empty());
    assert_eq!(states(&fleet, 5)[1], (2, EpochState::Current, 0));
    refused(fleet.hub.plan(&fleet.charter, order(Purpose::Refresh, 2, 3, &[1, 3, 4])), Code::NotAMember);
    let keeps = [1, 3, 4, 5];
    let mut without = order(Purpose::Reshare, 2, 3, &[1, 3, 4]);
    without.committee = keeps.map(seat).to_vec();
    let change = deal(&fleet, without, &keeps);
    let prepared = prepare(&fleet, &change, &keeps);
    let activated = activate(&fleet, &change, &prepared, &keeps);
    fleet.node(5).erase(&activated).expect("erased");
    let (_, request) = fleet.open_session(5);
    let by_a_retired_one = fleet.forge("node-2", said::<SessionRequest>(&request));
    refused(fleet.hub.grant(&by_a_retired_one, Vec::new()), Code::UnknownSigner);
    refused(fleet.operator.retire(&fleet.entry("node-2")), Code::AlreadyExists);
}

#[test]
fn n50_a_share_is_reported_once_it_is_kept_and_any_quorum_of_them_gives_the_key() {
    let fleet = Fleet::ready();
    let change = deal(&fleet, order(Purpose::Refresh, 1, 2, &[1, 2, 3]), &ALL);
    let commitments = said::<Configuration>(&change.configuration).commitments;
    let kept = |n: u8| -> Option<Share> {
        let found = fleet.stolen_secrets(&format!("node-{n}"), "share").into_iter();
        let shares = found
            .map(|(_, bytes)| Share::from_bytes(index(n), bytes.as_slice().try_into().expect("64 bytes")))
            .map(|share| share.expect("a share"));
        shares.into_iter().find(|share| verify_share(&commitments, share).is_ok())
    };
    // A part that is of no use is reported by nobody, and nothing of it is kept.
    let mut parts = change.subs(5);
    parts[1].sealed.clone_from(&change.subs(4)[1].sealed);
    refused(fleet.node(5).prepare(&change.configuration, &change.dealings, &parts), Code::BadShare);
    assert!(kept(5).is_none());
    let mut shares = Vec::new();
    for n in 1..=4 {
        assert!(kept(n).is_none());
        assert_eq!(prepare(&fleet, &change, &[n]).len(), 1);
        shares.push(kept(n).expect("what is reported is in the vault"));
    }
    let key: Configuration = said(&activated_configuration(&fleet, 1, 1));
    let threshold = Threshold::new(u64::from(THRESHOLD)).expect("a threshold");
    for left_out in 0..4 {
        let quorum: Vec<&Share> = (0..4).filter(|n| *n != left_out).map(|n| &shares[n]).collect();
        combine(&quorum, threshold, key.commitments.constant(), &mut LagrangeCache::default())
            .expect("the key of epoch 1");
    }
}
