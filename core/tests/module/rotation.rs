//! Rotation of a domain's key: dealt by the members, tokens wrapped anew and compared, the old version erased.

use quorate_core::encoding::Bytes;
use quorate_core::error::Code;
use quorate_core::ids::{DomainId, Epoch, NodeId};
use quorate_core::keys::token;
use quorate_core::module::messages::{
    Activated, Clean, Configuration, Dealer, Dropped, KeyRecord, KeyState, Plan, Prepared, Purpose,
};
use quorate_core::module::{EpochState, Learnt, PlanOrder, RecordKind};
use quorate_core::seal::statement;

use crate::fixture::{
    Fleet, NOW, THRESHOLD, charter, domain, index, node_id, one, order, refused, refused_record, said, seat,
};
use crate::redealing::{Change, activate, deal, prepare};

/// Changes an honest plan, and a part of the reason for which it is refused then.
type Case = (fn(&mut Plan), &'static str);

const ALL: [u8; 5] = [1, 2, 3, 4, 5];
const KEY: [u8; 16] = [9; 16];
const OTHER: [u8; 16] = [8; 16];

fn at(version: u64) -> DomainId {
    domain().at_version(version).expect("a version")
}

fn rotation(version: u64) -> PlanOrder {
    PlanOrder {
        key_version: version,
        purpose: Purpose::Rotate,
        from_epoch: Epoch(0),
        to_epoch: Epoch(1),
        threshold: THRESHOLD,
        dealers: ALL.map(|n| Dealer { node: node_id(n), index: None }).to_vec(),
        committee: ALL.map(seat).to_vec(),
    }
}

/// Key version `version`, current at every member.
fn rotate(fleet: &Fleet, version: u64) -> Change {
    let change = deal(fleet, rotation(version), &ALL);
    let prepared = prepare(fleet, &change, &ALL);
    activate(fleet, &change, &prepared, &ALL);
    change
}

/// A fresh lease of a key version for `node-n`.
fn unlock(fleet: &mut Fleet, n: u8, version: u64) {
    let (_, request) = fleet.node(n).open_session(&at(version)).expect("a session");
    let grant = fleet.grant(&request, &[1, 2, 3]);
    let answers = [1, 2, 3].map(|holder| fleet.answer(holder, &grant));
    let progress = answers.map(|answer| fleet.node(n).receive(&answer).expect("received"));
    let closed = progress[2].closed.as_ref().expect("combined");
    for holder in [1, 2, 3] {
        fleet.node(holder).close_session(closed).expect("closed");
    }
}

/// A ready fleet with a key, and `kept` under it; `node-1` has a lease.
fn with_a_key() -> (Fleet, Vec<u8>) {
    let mut fleet = Fleet::ready();
    fleet.unlock(1);
    fleet.make_key(KEY);
    let sealed = fleet.node(1).encrypt(&KEY, b"kept", &[]).expect("encrypted");
    (fleet, sealed)
}

/// As [`with_a_key`], with key version 2 current, and the key wrapped under it by `node-1`, as all know.
fn rewrapped() -> (Fleet, Vec<u8>) {
    let (mut fleet, sealed) = with_a_key();
    rotate(&fleet, 2);
    for version in [1, 2] {
        unlock(&mut fleet, 1, version);
    }
    let record = fleet.node(1).rewrap_key(&KEY).expect("wrapped anew");
    fleet.tell_all(&[record]);
    (fleet, sealed)
}

/// Every member compares what it has not compared yet.
fn check(fleet: &mut Fleet, old: u64) {
    for n in ALL {
        for version in [old, old + 1] {
            unlock(fleet, n, version);
        }
        for key in fleet.node(n).unchecked_keys(&domain()).expect("listed") {
            fleet.node(n).check_rewrapped(&key).expect("the same material");
        }
    }
}

fn cleans(fleet: &Fleet, old: u64) -> Vec<Vec<u8>> {
    ALL.iter().map(|&n| fleet.node(n).clean(&domain(), old).expect("clean")).collect()
}

fn drop_everywhere(fleet: &Fleet, old: u64) {
    let cleans = cleans(fleet, old);
    for n in ALL {
        let dropped: Dropped = said(&fleet.node(n).drop_version(&cleans).expect("dropped"));
        assert_eq!((dropped.domain, dropped.key_version), (domain(), old));
    }
}

fn key_version(fleet: &Fleet, n: u8) -> u64 {
    let record: KeyRecord = said(&record_of(fleet, n, KEY));
    token::domain_key_version(&record.token.expect("a token").0).expect("a version")
}

fn record_of(fleet: &Fleet, n: u8, key: [u8; 16]) -> Vec<u8> {
    let records = fleet.node(n).records(RecordKind::Key).expect("listed");
    records.into_iter().find(|r| said::<KeyRecord>(r).key_id == key).expect("known")
}

/// Name, number and state of every epoch that `node-n` knows.
fn states(fleet: &Fleet, n: u8) -> Vec<(String, u64, EpochState)> {
    let known = fleet.node(n).epochs().expect("listed");
    known.iter().map(|(c, state, ..)| (c.body().domain.to_string(), c.body().epoch.0, *state)).collect()
}

/// The next version of the key's record with another token, signed by `node-2`'s thief.
fn with_token(fleet: &Fleet, token: Vec<u8>) -> Vec<u8> {
    let known = record_of(fleet, 1, KEY);
    let record: KeyRecord = said(&known);
    let next = KeyRecord {
        version: record.version + 1,
        parent: statement::hash_in(&known).expect("a record"),
        token: Some(Bytes(token)),
        ..record
    };
    fleet.forge("node-2", next)
}

/// A token of another key, well formed and under the newest version: what only opening it tells from the right one.
fn foreign_token(fleet: &mut Fleet) -> Vec<u8> {
    unlock(fleet, 1, 2);
    let made = fleet.node(1).make_key(OTHER, &domain(), String::new(), Vec::new(), NOW * 1000).expect("made");
    said::<KeyRecord>(&made).token.expect("a token").0
}

fn slots(fleet: &Fleet, n: u8, table: &'static str) -> usize {
    fleet.stolen_secrets(&format!("node-{n}"), table).len()
}

#[test]
fn a_domain_key_is_rotated_and_the_old_one_is_gone() {
    let (mut fleet, sealed) = with_a_key();
    let change = rotate(&fleet, 2);
    let first: Configuration = said(&fleet.node(1).commit_certificate(&domain()).expect("shown").0);
    let second: Configuration = said(&change.configuration);
    assert_ne!(first.commitments.constant(), second.commitments.constant(), "another key");
    // Until it is wrapped anew, a key is used under the version that its token names.
    assert_eq!(fleet.node(1).key_sharings(&KEY).expect("known"), (domain(), domain()));
    assert_eq!(fleet.node(1).decrypt(&sealed, &[]).expect("opened").as_slice(), b"kept");
    for version in [1, 2] {
        unlock(&mut fleet, 1, version);
    }
    let record = fleet.node(1).rewrap_key(&KEY).expect("wrapped anew");
    assert_eq!(said::<KeyRecord>(&record).token.expect("a token").0[0], 2);
    fleet.tell_all(&[record]);
    assert_eq!((key_version(&fleet, 4), slots(&fleet, 4, "kept"), slots(&fleet, 4, "share")), (2, 1, 2));
    check(&mut fleet, 1);
    let old: Vec<_> = ALL.iter().flat_map(|n| fleet.stolen_secrets(&format!("node-{n}"), "share")).collect();
    drop_everywhere(&fleet, 1);
    for n in ALL {
        assert_eq!((slots(&fleet, n, "kept"), slots(&fleet, n, "share")), (0, 1));
        let left = one(fleet.stolen_secrets(&format!("node-{n}"), "share"));
        assert_eq!(old.iter().filter(|share| **share == left).count(), 1, "of ten shares, five are left");
        fleet.reopen(n);
        assert_eq!(states(&fleet, n), [("default.2".to_owned(), 1, EpochState::Current)]);
    }
    unlock(&mut fleet, 5, 2);
    assert_eq!(fleet.node(5).decrypt(&sealed, &[]).expect("the old ciphertext").as_slice(), b"kept");
    // And once more: a second rotation stands on the first.
    rotate(&fleet, 3);
    for version in [2, 3] {
        unlock(&mut fleet, 2, version);
    }
    fleet.tell_all(&[fleet.node(2).rewrap_key(&KEY).expect("wrapped anew")]);
    check(&mut fleet, 2);
    drop_everywhere(&fleet, 2);
    unlock(&mut fleet, 3, 3);
    assert_eq!(fleet.node(3).decrypt(&sealed, &[]).expect("the old ciphertext").as_slice(), b"kept");
    assert_eq!(states(&fleet, 3), [("default.3".to_owned(), 1, EpochState::Current)]);
}

#[test]
fn a_new_key_is_wrapped_under_the_newest_version_that_is_known() {
    let (mut fleet, _) = with_a_key();
    rotate(&fleet, 2);
    fleet.unlock(1);
    let make = |fleet: &Fleet| fleet.node(1).make_key(OTHER, &domain(), String::new(), Vec::new(), NOW);
    refused(make(&fleet), Code::NoLease);
    unlock(&mut fleet, 1, 2);
    let record: KeyRecord = said(&make(&fleet).expect("made"));
    assert_eq!(token::domain_key_version(&record.token.expect("a token").0), Ok(2));
    assert_eq!(record.domain, domain(), "a record names the domain");
}

#[test]
fn disabled_keys_and_keys_pending_deletion_are_wrapped_anew_too() {
    let (mut fleet, _) = with_a_key();
    rotate(&fleet, 2);
    for version in [1, 2] {
        unlock(&mut fleet, 1, version);
    }
    let disabled = fleet.node(1).revise_key(&KEY, KeyState::PendingDeletion, Some(7)).expect("revised");
    fleet.tell_all(&[disabled]);
    let record: KeyRecord = said(&fleet.node(1).rewrap_key(&KEY).expect("wrapped anew"));
    assert_eq!((record.state, record.deletion, record.version), (KeyState::PendingDeletion, Some(7), 3));
    refused(fleet.node(1).rewrap_key(&OTHER), Code::UnknownKey);
}

#[test]
fn n92_a_rotation_is_dealt_by_the_members_and_never_by_the_hub() {
    let (fleet, _) = with_a_key();
    let honest: Plan = said(&fleet.hub.plan(&fleet.charter, rotation(2)).expect("planned"));
    let hub = || Dealer { node: NodeId::hub(), index: None };
    let plans: [fn(&mut Plan, Dealer); 6] = [
        |p, hub| p.dealers = vec![hub],
        |p, hub| p.dealers[0] = hub,
        |p, hub| p.dealers.push(hub),
        |p, _| p.dealers[4].node = node_id(6),
        |p, _| (p.purpose, p.dealers) = (Purpose::Create, p.dealers.clone()),
        |p, hub| (p.purpose, p.dealers) = (Purpose::Create, vec![hub]),
    ];
    for change in plans {
        let mut plan = honest.clone();
        change(&mut plan, hub());
        let plan = fleet.forge("hub", plan);
        for n in ALL {
            refused(fleet.node(n).accept_plan(&plan, &fleet.charter), Code::OutsideCharter);
        }
    }
    // Neither does a hub's own module plan it, nor deal for an honest plan.
    refused(
        fleet.hub.plan(&fleet.charter, PlanOrder { dealers: vec![hub()], ..rotation(2) }),
        Code::OutsideCharter,
    );
    let plan = fleet.forge("hub", honest);
    refused(fleet.hub.deal(&plan, &fleet.charter, &[]), Code::NotAuthorized);
    fleet.node(1).accept_plan(&plan, &fleet.charter).expect("the honest plan is taken: no number was burnt");
}

#[test]
fn n94_the_dealers_of_a_rotation_are_all_members_of_its_committee() {
    let (fleet, _) = with_a_key();
    let honest: Plan = said(&fleet.hub.plan(&fleet.charter, rotation(2)).expect("planned"));
    let cases: [Case; 8] = [
        (|p| p.domain = domain(), "a later key version"),
        (|p| p.dealers.truncate(4), "by each node"),
        (|p| p.dealers.clear(), "by each node"),
        (|p| p.dealers[1].node = node_id(1), "by each node"),
        (|p| p.dealers.push(Dealer { node: node_id(1), index: None }), "by each node"),
        (|p| p.dealers[1].index = Some(index(2)), "fresh secret"),
        (|p| p.from_epoch = Epoch(1), "fresh secret"),
        (
            |p| {
                p.committee = [(1, 1), (2, 1), (3, 2), (4, 2)]
                    .map(|(x, n)| quorate_core::module::messages::Seat { node: node_id(n), ..seat(x) })
                    .to_vec();
                (p.dealers, p.margin) = (p.dealers[..2].to_vec(), 0);
            },
            "at least as many nodes",
        ),
    ];
    for (change, why) in cases {
        let mut plan = honest.clone();
        change(&mut plan);
        let e = refused(
            fleet.node(1).accept_plan(&fleet.forge("hub", plan), &fleet.charter),
            Code::OutsideCharter,
        );
        assert!(e.what.contains(why), "{e}");
    }
}

#[test]
fn n94_a_rotation_has_the_committee_and_threshold_of_the_version_before() {
    let (fleet, _) = with_a_key();
    let honest: Plan = said(&fleet.hub.plan(&fleet.charter, rotation(2)).expect("planned"));
    let cases: [fn(&mut Plan); 3] = [
        |p| {
            p.committee.truncate(4);
            (p.dealers, p.margin) = (p.dealers[..4].to_vec(), 0);
        },
        |p| (p.threshold, p.margin) = (4, 1),
        |p| p.committee.swap(0, 1),
    ];
    for change in cases {
        let mut plan = honest.clone();
        change(&mut plan);
        let e = refused(
            fleet.node(3).accept_plan(&fleet.forge("hub", plan), &fleet.charter),
            Code::OutsideCharter,
        );
        assert!(e.what.contains("neither threshold nor committee"), "{e}");
    }
}

#[test]
fn n92_a_dealer_of_a_rotation_deals_for_the_plan_that_it_has_answered_only() {
    let (fleet, _) = with_a_key();
    let plan = fleet.hub.plan(&fleet.charter, rotation(2)).expect("planned");
    refused(fleet.node(1).deal(&plan, &fleet.charter, &[]), Code::BadState);
    let keys: Vec<_> = ALL
        .iter()
        .flat_map(|&n| fleet.node(n).accept_plan(&plan, &fleet.charter).expect("accepted"))
        .collect();
    refused(fleet.node(1).deal(&plan, &fleet.charter, &keys[..4]), Code::NotEnoughShares);
    fleet.node(1).deal(&plan, &fleet.charter, &keys).expect("dealt");
    refused(fleet.node(1).deal(&plan, &fleet.charter, &keys), Code::WrongEpoch);
}

#[test]
fn n92_no_hub_piles_up_key_versions() {
    let (mut fleet, _) = with_a_key();
    let accept = |fleet: &Fleet, version: u64, to: u64| {
        let order = PlanOrder { to_epoch: Epoch(to), ..rotation(version) };
        let plan = fleet.hub.plan(&fleet.charter, order).expect("planned");
        fleet.node(1).accept_plan(&plan, &fleet.charter)
    };
    refused(accept(&fleet, 3, 1), Code::WrongEpoch);
    rotate(&fleet, 2);
    refused(accept(&fleet, 2, 2), Code::AlreadyExists);
    let e = refused(accept(&fleet, 3, 1), Code::BadState);
    assert!(e.what.contains("default is not dropped"), "{e}");
    for version in [1, 2] {
        unlock(&mut fleet, 1, version);
    }
    fleet.tell_all(&[fleet.node(1).rewrap_key(&KEY).expect("wrapped anew")]);
    check(&mut fleet, 1);
    drop_everywhere(&fleet, 1);
    accept(&fleet, 3, 1).expect("the one before is gone");
    refused(accept(&fleet, 2, 2), Code::AlreadyExists);
}

#[test]
fn a_domain_is_named_without_a_key_version() {
    let (fleet, _) = with_a_key();
    let dotted = quorate_core::module::messages::Charter { domain: at(2), ..charter() };
    refused(fleet.operator.charter(dotted, None), Code::BadEncoding);
    refused(fleet.node(1).make_key(OTHER, &at(2), String::new(), Vec::new(), NOW), Code::BadEncoding);
    let record: KeyRecord = said(&record_of(&fleet, 1, KEY));
    let record = KeyRecord { key_id: OTHER, domain: at(2), ..record };
    assert_eq!(refused_record(fleet.node(1), &fleet.forge("node-2", record)), Code::BadEncoding);
    refused(fleet.hub.plan(&fleet.charter, PlanOrder { key_version: 0, ..order(2) }), Code::BadEncoding);
}

#[test]
fn a_holder_believes_no_new_key_version_that_it_has_not_dealt_for() {
    // A stolen hub with node-1 to node-3 makes up a version 2 without node-5, so that it would drop version 1.
    let (fleet, _) = with_a_key();
    let real = deal(&fleet, rotation(2), &ALL);
    let forged = |purpose: Purpose, committee: std::ops::RangeInclusive<u8>, by_hub: bool| {
        let mut plan: Plan = said(&real.plan);
        (plan.purpose, plan.margin) = (purpose, u8::from(committee.end() > &4));
        plan.committee = committee.clone().map(seat).collect();
        plan.dealers = committee.map(|n| Dealer { node: node_id(n), index: None }).collect();
        if by_hub {
            plan.dealers = vec![Dealer { node: NodeId::hub(), index: None }];
        }
        plan.to_epoch = Epoch(9);
        let mut configuration: Configuration = said(&real.configuration);
        configuration.plan.0 = fleet.forge("hub", plan);
        configuration.epoch = Epoch(9);
        let configuration = fleet.forge("hub", configuration);
        let hash = statement::hash_in(&configuration).expect("a statement");
        let receipts: Vec<Vec<u8>> = (1..=4)
            .map(|n| {
                let (domain, configuration) = (at(2), hash);
                let fleet_id = fleet.operator.fleet();
                let body =
                    Prepared { fleet: fleet_id, domain, epoch: Epoch(9), configuration, index: index(n) };
                fleet.forge(&format!("node-{n}"), body)
            })
            .collect();
        (configuration, receipts)
    };
    let node = fleet.node(5);
    for (purpose, committee, by_hub, code) in [
        (Purpose::Rotate, 1..=4, false, Code::OutsideCharter),
        (Purpose::Rotate, 1..=5, true, Code::OutsideCharter),
        (Purpose::Reshare, 1..=4, false, Code::OutsideCharter),
        (Purpose::Create, 1..=4, false, Code::OutsideCharter),
        // Its own dealing was for another plan.
        (Purpose::Rotate, 1..=5, false, Code::BadCommitments),
    ] {
        let (configuration, receipts) = forged(purpose, committee, by_hub);
        refused(node.activate(&configuration, &receipts, &real.dealings), code);
    }
    assert_eq!(states(&fleet, 5), [("default".to_owned(), 1, EpochState::Current)]);
    // node-6, which holds nothing, has nothing to lose either.
    let (configuration, receipts) = forged(Purpose::Rotate, 1..=4, false);
    assert!(fleet.node(6).activate(&configuration, &receipts, &[]).expect("learnt").is_empty());
}

#[test]
fn a_member_that_was_away_at_the_commit_of_a_rotation_takes_it_up_with_its_dealings() {
    let (fleet, _) = with_a_key();
    let change = deal(&fleet, rotation(2), &ALL);
    let prepared = prepare(&fleet, &change, &[1, 2, 3, 4]);
    activate(&fleet, &change, &prepared, &[1, 2, 3, 4]);
    refused(fleet.node(5).activate(&change.configuration, &prepared, &[]), Code::BadCommitments);
    let receipts = fleet.node(5).activate(&change.configuration, &prepared, &change.dealings);
    assert!(receipts.expect("learnt").is_empty());
    refused(fleet.node(5).clean(&domain(), 1), Code::NotAMember);
}

#[test]
fn a_token_is_replaced_by_one_of_a_later_key_version_only() {
    let (fleet, _) = rewrapped();
    let now = said::<KeyRecord>(&record_of(&fleet, 1, KEY)).token.expect("a token").0;
    let mut first = vec![1; token::LEN];
    first[1..9].copy_from_slice(&1_u64.to_be_bytes());
    let mut far = now.clone();
    far[9..17].copy_from_slice(&4_u64.to_be_bytes());
    for bad in [first, far] {
        assert_eq!(refused_record(fleet.node(3), &with_token(&fleet, bad)), Code::BadState);
    }
    assert_eq!(refused_record(fleet.node(3), &with_token(&fleet, vec![2; 9])), Code::BadEncoding);
}

#[test]
fn a_wrong_token_of_a_member_is_found_and_named_and_loses_nothing() {
    let (mut fleet, sealed) = with_a_key();
    rotate(&fleet, 2);
    let foreign = foreign_token(&mut fleet);
    // It fits, as far as a record can be seen: every module takes it.
    let record = with_token(&fleet, foreign);
    fleet.tell_all(std::slice::from_ref(&record));
    assert_eq!(key_version(&fleet, 3), 2);
    for version in [1, 2] {
        unlock(&mut fleet, 3, version);
    }
    assert_eq!(fleet.node(3).unchecked_keys(&domain()).expect("listed"), [KEY]);
    let e = refused(fleet.node(3).check_rewrapped(&KEY), Code::WrongMaterial);
    assert_eq!(e.culprits, [node_id(2)]);
    refused(fleet.node(3).clean(&domain(), 1), Code::BadState);
    // The key is used with the token that it had before, under its own version.
    assert_eq!(fleet.node(3).key_sharings(&KEY).expect("known"), (domain(), at(2)));
    assert_eq!(fleet.node(3).decrypt(&sealed, &[]).expect("opened").as_slice(), b"kept");
    // Another member wraps it anew from there, also one that has not compared yet, and after a restart.
    fleet.reopen(4);
    for version in [1, 2] {
        unlock(&mut fleet, 4, version);
    }
    fleet.tell_all(&[fleet.node(4).rewrap_key(&KEY).expect("wrapped anew")]);
    check(&mut fleet, 1);
    refused(fleet.node(4).rewrap_key(&KEY), Code::BadState);
    drop_everywhere(&fleet, 1);
    unlock(&mut fleet, 5, 2);
    assert_eq!(fleet.node(5).decrypt(&sealed, &[]).expect("nothing is lost").as_slice(), b"kept");
}

#[test]
fn a_token_that_opens_under_nothing_is_wrong_too() {
    let (mut fleet, sealed) = with_a_key();
    rotate(&fleet, 2);
    let mut broken = foreign_token(&mut fleet);
    *broken.last_mut().expect("a tag") ^= 1;
    fleet.tell_all(&[with_token(&fleet, broken)]);
    for version in [1, 2] {
        unlock(&mut fleet, 1, version);
    }
    let e = refused(fleet.node(1).check_rewrapped(&KEY), Code::WrongMaterial);
    assert_eq!(e.culprits, [node_id(2)]);
    assert_eq!(fleet.node(1).decrypt(&sealed, &[]).expect("opened").as_slice(), b"kept");
}

#[test]
fn a_token_that_is_well_wrapped_and_holds_other_material_is_wrong() {
    let mut fleet = Fleet::ready();
    fleet.unlock(1);
    let made = fleet.node(1).make_key(KEY, &domain(), String::new(), Vec::new(), NOW * 1000);
    let record = made.expect("made");
    rotate(&fleet, 2);
    // node-2 has not heard of the key yet: it makes another of the same id, under version 2.
    unlock(&mut fleet, 2, 2);
    let other = fleet.node(2).make_key(KEY, &domain(), String::new(), Vec::new(), NOW * 1000).expect("made");
    fleet.tell_all(&[record]);
    let sealed = fleet.node(1).encrypt(&KEY, b"kept", &[]).expect("encrypted");
    fleet.tell_all(&[with_token(&fleet, said::<KeyRecord>(&other).token.expect("a token").0)]);
    for version in [1, 2] {
        unlock(&mut fleet, 3, version);
    }
    let e = refused(fleet.node(3).check_rewrapped(&KEY), Code::WrongMaterial);
    assert_eq!(e.culprits, [node_id(2)]);
    refused(fleet.node(3).clean(&domain(), 1), Code::BadState);
    assert_eq!(fleet.node(3).decrypt(&sealed, &[]).expect("opened").as_slice(), b"kept");
}

#[test]
fn whoever_carries_a_wrong_token_on_is_not_blamed_for_it() {
    let (mut fleet, _) = with_a_key();
    rotate(&fleet, 2);
    let foreign = foreign_token(&mut fleet);
    let wrong = with_token(&fleet, foreign);
    // node-4 hears of node-3's change only, which follows node-2's.
    assert!(matches!(one(fleet.node(3).learn(&[wrong]).expect("asked")), Learnt::New));
    let carried = fleet.node(3).revise_key(&KEY, KeyState::Disabled, None).expect("revised");
    assert!(matches!(one(fleet.node(4).learn(&[carried]).expect("asked")), Learnt::New));
    for version in [1, 2] {
        unlock(&mut fleet, 4, version);
    }
    let e = refused(fleet.node(4).check_rewrapped(&KEY), Code::WrongMaterial);
    assert!(e.culprits.is_empty(), "{:?}", e.culprits);
}

#[test]
fn a_wrong_token_after_the_drop_loses_nothing_either() {
    let (mut fleet, sealed) = rewrapped();
    check(&mut fleet, 1);
    drop_everywhere(&fleet, 1);
    let foreign = foreign_token(&mut fleet);
    fleet.tell_all(&[with_token(&fleet, foreign)]);
    fleet.reopen(5);
    unlock(&mut fleet, 5, 2);
    assert_eq!(fleet.node(5).decrypt(&sealed, &[]).expect("opened").as_slice(), b"kept");
    rotate(&fleet, 3);
    for version in [2, 3] {
        unlock(&mut fleet, 5, version);
    }
    fleet.tell_all(&[fleet.node(5).rewrap_key(&KEY).expect("from the right one")]);
    check(&mut fleet, 2);
    drop_everywhere(&fleet, 2);
    unlock(&mut fleet, 4, 3);
    assert_eq!(fleet.node(4).decrypt(&sealed, &[]).expect("opened").as_slice(), b"kept");
}

#[test]
fn wrapping_anew_and_comparing_take_leases_of_both_versions() {
    let (mut fleet, _) = with_a_key();
    rotate(&fleet, 2);
    refused(fleet.node(1).rewrap_key(&KEY), Code::NoLease);
    fleet.node(1).lock(&domain()).expect("locked");
    unlock(&mut fleet, 1, 2);
    refused(fleet.node(1).rewrap_key(&KEY), Code::NoLease);
    unlock(&mut fleet, 1, 1);
    let left = |fleet: &Fleet, n: u8| {
        [1, 2].map(|version| fleet.node(n).lease(&at(version)).expect("asked").expect("a lease").uses)
    };
    fleet.tell_all(&[fleet.node(1).rewrap_key(&KEY).expect("wrapped anew")]);
    assert_eq!(left(&fleet, 1), [9, 9], "one use of each");
    refused(fleet.node(2).check_rewrapped(&KEY), Code::NoLease);
    unlock(&mut fleet, 2, 1);
    refused(fleet.node(2).check_rewrapped(&KEY), Code::NoLease);
    unlock(&mut fleet, 2, 2);
    fleet.node(2).check_rewrapped(&KEY).expect("compared");
    assert_eq!(left(&fleet, 2), [9, 9], "one use of each");
    // A lock of the domain is one of all its versions.
    assert!(fleet.node(2).lock(&domain()).expect("locked"));
    for version in [1, 2] {
        assert!(fleet.node(2).lease(&at(version)).expect("asked").is_none());
    }
}

#[test]
fn nobody_says_that_it_is_clean_before_it_is() {
    let (mut fleet, _) = with_a_key();
    refused(fleet.node(1).clean(&domain(), 1), Code::NotAMember);
    rotate(&fleet, 2);
    let e = refused(fleet.node(1).clean(&domain(), 1), Code::BadState);
    assert!(e.what.contains("still"), "{e}");
    for version in [1, 2] {
        unlock(&mut fleet, 1, version);
    }
    fleet.tell_all(&[fleet.node(1).rewrap_key(&KEY).expect("wrapped anew")]);
    let e = refused(fleet.node(1).clean(&domain(), 1), Code::BadState);
    assert!(e.what.contains("compared"), "{e}");
    fleet.node(1).check_rewrapped(&KEY).expect("compared");
    // What was compared is forgotten with a restart, until the module has said so.
    fleet.reopen(1);
    refused(fleet.node(1).clean(&domain(), 1), Code::BadState);
    for version in [1, 2] {
        unlock(&mut fleet, 1, version);
    }
    fleet.node(1).check_rewrapped(&KEY).expect("compared");
    let clean: Clean = said(&fleet.node(1).clean(&domain(), 1).expect("clean"));
    assert_eq!((clean.domain, clean.key_version), (domain(), 1));
    fleet.tell_all(&[fleet.node(1).revise_key(&KEY, KeyState::Disabled, None).expect("revised")]);
    fleet.crash(1);
    fleet.node(1).clean(&domain(), 1).expect("the token is the same, and nobody is there to compare with");
    assert!(fleet.node(1).unchecked_keys(&domain()).expect("listed").is_empty());
    // Another token is another matter.
    unlock(&mut fleet, 1, 2);
    let foreign = foreign_token(&mut fleet);
    fleet.tell_all(&[with_token(&fleet, foreign)]);
    refused(fleet.node(1).clean(&domain(), 1), Code::BadState);
}

#[test]
fn nothing_is_dropped_without_the_word_of_every_member_of_the_next_version() {
    let (mut fleet, _) = rewrapped();
    check(&mut fleet, 1);
    let cleans = cleans(&fleet, 1);
    let node = fleet.node(3);
    refused(node.drop_version(&[]), Code::NotEnoughShares);
    refused(node.drop_version(&cleans[..4]), Code::NotEnoughShares);
    refused(node.drop_version(&[&cleans[..4], &cleans[..1]].concat()), Code::NotEnoughShares);
    let outsider = fleet.forge("node-6", said::<Clean>(&cleans[4]));
    refused(node.drop_version(&[&cleans[..4], &[outsider]].concat()), Code::NotEnoughShares);
    let later = fleet.forge("node-5", Clean { key_version: 2, ..said(&cleans[4]) });
    refused(node.drop_version(&[&cleans[..4], std::slice::from_ref(&later)].concat()), Code::WrongEpoch);
    refused(node.drop_version(&[later]), Code::NotAMember);
    let mut forged = cleans.clone();
    forged[4] = fleet.forge_as("node-1", "node-5", said::<Clean>(&cleans[4]));
    refused(node.drop_version(&forged), Code::BadSignature);
    assert_eq!(slots(&fleet, 3, "share"), 2);
    let said_once = node.drop_version(&cleans).expect("dropped");
    assert_eq!(node.drop_version(&cleans).expect("again"), said_once);
}

#[test]
fn whatever_others_say_a_member_drops_nothing_that_its_own_store_needs() {
    let (mut fleet, sealed) = with_a_key();
    rotate(&fleet, 2);
    let everybody = |fleet: &Fleet| -> Vec<Vec<u8>> {
        let body = Clean { fleet: fleet.operator.fleet(), domain: domain(), key_version: 1 };
        ALL.iter().map(|n| fleet.forge(&format!("node-{n}"), body.clone())).collect()
    };
    // Four liars and a hub: the key is wrapped under version 1 here.
    refused(fleet.node(5).drop_version(&everybody(&fleet)), Code::BadState);
    // It is under version 2, but with other material; and then rightly, but not compared here.
    let foreign = foreign_token(&mut fleet);
    fleet.tell_all(&[with_token(&fleet, foreign)]);
    for version in [1, 2] {
        unlock(&mut fleet, 5, version);
    }
    refused(fleet.node(5).drop_version(&everybody(&fleet)), Code::BadState);
    refused(fleet.node(5).check_rewrapped(&KEY), Code::WrongMaterial);
    refused(fleet.node(5).drop_version(&everybody(&fleet)), Code::BadState);
    fleet.tell_all(&[fleet.node(5).rewrap_key(&KEY).expect("wrapped anew")]);
    refused(fleet.node(5).drop_version(&everybody(&fleet)), Code::BadState);
    assert_eq!((slots(&fleet, 5, "share"), slots(&fleet, 5, "kept")), (2, 1));
    fleet.node(5).check_rewrapped(&KEY).expect("compared");
    fleet.node(5).drop_version(&everybody(&fleet)).expect("dropped");
    assert_eq!(fleet.node(5).decrypt(&sealed, &[]).expect("opened").as_slice(), b"kept");
}

#[test]
fn a_member_without_its_own_new_share_drops_nothing() {
    let (fleet, _) = with_a_key();
    let change = deal(&fleet, rotation(2), &ALL);
    let prepared = prepare(&fleet, &change, &[1, 2, 3, 4]);
    activate(&fleet, &change, &prepared, &ALL);
    let body = Clean { fleet: fleet.operator.fleet(), domain: domain(), key_version: 1 };
    let everybody: Vec<_> = ALL.iter().map(|n| fleet.forge(&format!("node-{n}"), body.clone())).collect();
    refused(fleet.node(5).drop_version(&everybody), Code::NotAMember);
    assert_eq!(slots(&fleet, 5, "share"), 1);
}

#[test]
fn a_dropped_version_does_not_come_back() {
    let (mut fleet, _) = rewrapped();
    let (old, receipts, _) = fleet.node(1).commit_certificate(&domain()).expect("shown");
    let activated: Vec<_> = ALL
        .iter()
        .map(|&n| {
            let hash = statement::hash_in(&old).expect("a statement");
            let (fleet_id, domain) = (fleet.operator.fleet(), domain());
            let body =
                Activated { fleet: fleet_id, domain, epoch: Epoch(1), configuration: hash, index: index(n) };
            fleet.forge(&format!("node-{n}"), body)
        })
        .collect();
    check(&mut fleet, 1);
    drop_everywhere(&fleet, 1);
    fleet.reopen(2);
    for n in [1, 2] {
        let node = fleet.node(n);
        refused(node.accept_plan(&fleet.plan(7), &fleet.charter), Code::StaleVersion);
        let refresh = deal_order(&fleet);
        refused(node.accept_plan(&refresh, &fleet.charter), Code::StaleVersion);
        refused(node.activate(&old, &receipts, &[]), Code::StaleVersion);
        refused(node.erase(&activated), Code::WrongEpoch);
        refused(node.open_session(&domain()), Code::NotAMember);
        refused(node.prepare(&old, &[], &[]), Code::BadState);
    }
}

/// A refresh of version 1 that a hub plans after it was dropped.
fn deal_order(fleet: &Fleet) -> Vec<u8> {
    let dealers = [1, 2, 3].map(|n| Dealer { node: node_id(n), index: Some(index(n)) }).to_vec();
    let order = PlanOrder { purpose: Purpose::Refresh, from_epoch: Epoch(1), dealers, ..order(8) };
    fleet.hub.plan(&fleet.charter, order).expect("planned")
}

#[test]
fn a_session_of_one_key_version_serves_no_other() {
    let (fleet, _) = with_a_key();
    rotate(&fleet, 2);
    let mut fleet = fleet;
    let (_, first) = fleet.node(1).open_session(&at(1)).expect("a session");
    let (_, second) = fleet.node(1).open_session(&at(2)).expect("a session");
    let grant = fleet.grant(&first, &[2]);
    let answer = fleet.answer(2, &grant);
    // The same shard's answer under the other request.
    let forged = quorate_core::module::messages::Answer {
        session: said::<quorate_core::module::messages::SessionRequest>(&second).session,
        domain: at(2),
        ..said(&answer)
    };
    refused(fleet.node(1).receive(&fleet.forge("node-2", forged)), Code::Replayed);
}

#[test]
fn a_deleted_keys_kept_token_goes_with_it() {
    let (fleet, _) = rewrapped();
    assert_eq!(slots(&fleet, 2, "kept"), 1);
    fleet.tell_all(&[fleet.node(1).revise_key(&KEY, KeyState::Deleted, None).expect("revised")]);
    assert_eq!(slots(&fleet, 2, "kept"), 0);
    fleet.node(2).clean(&domain(), 1).expect("a deleted key needs nothing");
}

#[test]
fn an_old_version_is_refreshed_like_any_until_it_is_dropped() {
    let (mut fleet, sealed) = with_a_key();
    rotate(&fleet, 2);
    for version in [1, 2] {
        let dealers = [1, 2, 3].map(|n| Dealer { node: node_id(n), index: Some(index(n)) }).to_vec();
        let order = PlanOrder {
            key_version: version,
            purpose: Purpose::Refresh,
            from_epoch: Epoch(1),
            to_epoch: Epoch(2),
            dealers,
            ..order(2)
        };
        let change = deal(&fleet, order, &ALL);
        let prepared = prepare(&fleet, &change, &ALL);
        let activated = activate(&fleet, &change, &prepared, &ALL);
        for n in ALL {
            fleet.node(n).erase(&activated).expect("erased");
        }
    }
    assert_eq!(
        states(&fleet, 1),
        [("default".to_owned(), 2, EpochState::Current), ("default.2".to_owned(), 2, EpochState::Current)]
    );
    for version in [1, 2] {
        unlock(&mut fleet, 1, version);
    }
    fleet.tell_all(&[fleet.node(1).rewrap_key(&KEY).expect("wrapped anew")]);
    check(&mut fleet, 1);
    drop_everywhere(&fleet, 1);
    unlock(&mut fleet, 4, 2);
    assert_eq!(fleet.node(4).decrypt(&sealed, &[]).expect("opened").as_slice(), b"kept");
}

#[test]
fn a_node_that_comes_later_trusts_the_newest_token() {
    // node-6 learns the key's whole history, and has no share of a version that any kept token is under.
    let (mut fleet, _) = rewrapped();
    check(&mut fleet, 1);
    drop_everywhere(&fleet, 1);
    assert_eq!(fleet.node(6).key_sharings(&KEY).expect("known"), (at(2), at(2)));
    assert!(fleet.node(6).unchecked_keys(&domain()).expect("listed").is_empty());
}
