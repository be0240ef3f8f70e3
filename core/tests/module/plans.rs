//! What a member refuses in a plan, whoever signed it: shape, charter, burnt numbers.

use quorate_core::encoding::{Bytes, encode};
use quorate_core::error::Code;
use quorate_core::ids::{DomainId, Epoch, Hash, NodeId};
use quorate_core::module::Learnt;
use quorate_core::module::messages::{Allowed, Charter, Dealer, DealerKind, Mode, Plan, Purpose, Role, Seat};
use quorate_core::module::operator::Invite;
use quorate_core::seal::statement;

use crate::fixture::{
    Fleet, NOW, THRESHOLD, charter, index, node_id, one, order, refused, refused_record, said, seat,
};

/// Changes one field of an honest plan.
type Change = fn(&mut Plan);

#[track_caller]
fn refuses_each(fleet: &Fleet, honest: &[u8], charter: &[u8], changes: &[(Change, Code)]) {
    for (change, code) in changes {
        let mut plan = said::<Plan>(honest);
        change(&mut plan);
        let plan = fleet.forge("hub", plan);
        refused(fleet.node(1).accept_plan(&plan, charter), *code);
    }
}

#[test]
fn n92_a_stolen_hub_plans_nothing_beyond_the_charter() {
    let fleet = Fleet::founded();
    let honest = fleet.plan(1);
    refuses_each(
        &fleet,
        &honest,
        &fleet.charter,
        &[
            (|p| p.threshold = THRESHOLD - 1, Code::OutsideCharter),
            (|p| p.mode = Mode::Threshold, Code::OutsideCharter),
            (|p| p.dealers[0].node = node_id(1), Code::OutsideCharter),
            (|p| p.dealers.clear(), Code::OutsideCharter),
            (|p| p.dealers.push(Dealer { node: node_id(1), index: None }), Code::OutsideCharter),
            (|p| p.dealers[0].index = Some(index(1)), Code::OutsideCharter),
            (|p| p.committee[4] = seat(6), Code::OutsideCharter),
            (|p| p.committee[4].node = NodeId::hub(), Code::OutsideCharter),
            (|p| p.committee[4].role = Role::Backup, Code::OutsideCharter),
            (|p| p.charter = Hash([1; 32]), Code::OutsideCharter),
            (|p| p.margin = 0, Code::BadThreshold),
            (|p| p.domain = DomainId::new("other").expect("a label"), Code::UnknownDomain),
        ],
    );
    // None of them burnt the number.
    fleet.node(1).accept_plan(&honest, &fleet.charter).expect("the honest plan is taken");
}

#[test]
fn n92_no_plan_gives_one_member_a_quorum_of_indices() {
    let fleet = Fleet::founded();
    let honest = fleet.plan(1);
    let code = Code::OutsideCharter;
    refuses_each(
        &fleet,
        &honest,
        &fleet.charter,
        &[
            (|p| p.committee.iter_mut().for_each(|s| s.node = node_id(1)), code),
            (|p| p.committee.iter_mut().take(3).for_each(|s| s.node = node_id(1)), code),
        ],
    );
    let mut two_of_three = said::<Plan>(&honest);
    two_of_three.committee[1].node = node_id(1);
    let plan = fleet.forge("hub", two_of_three);
    let keys = fleet.node(1).accept_plan(&plan, &fleet.charter).expect("fewer than k are fine");
    assert_eq!(keys.len(), 2);
}

#[test]
fn n92_only_the_hub_plans() {
    let fleet = Fleet::founded();
    let plan = fleet.forge("node-2", said::<Plan>(&fleet.plan(1)));
    refused(fleet.node(1).accept_plan(&plan, &fleet.charter), Code::NotAuthorized);
    let mut altered = fleet.plan(1);
    *altered.last_mut().expect("a signature") ^= 1;
    refused(fleet.node(1).accept_plan(&altered, &fleet.charter), Code::BadSignature);
}

#[test]
fn n92_a_hub_signs_no_charter() {
    let fleet = Fleet::founded();
    let known = statement::read_approved::<Charter>(&fleet.charter).expect("a charter");
    let lower = Charter { version: 2, parent: known.hash(), threshold_floor: 2, ..known.body().clone() };
    let forged = fleet.forge_approval("hub", &lower);
    assert_eq!(refused_record(fleet.node(1), &forged), Code::BadSignature);
    refused(fleet.node(1).accept_plan(&fleet.plan(1), &forged), Code::BadSignature);
    // Nor does a signature as the hub itself pass for the operator's.
    assert_eq!(refused_record(fleet.node(1), &fleet.forge("hub", lower)), Code::BadEncoding);
}

#[test]
fn n92_a_charter_names_the_root_that_holders_must_have() {
    let fleet = Fleet::founded();
    let strict = Charter { root_rule: "pkcs11".to_owned(), ..charter() };
    let strict = fleet.operator.charter(strict, Some(&fleet.charter)).expect("signed");
    let strict_hash = statement::read_approved::<Charter>(&strict).expect("a charter").hash();
    let plan = Plan { charter: strict_hash, ..said::<Plan>(&fleet.plan(1)) };
    let plan = fleet.forge("hub", plan);
    refused(fleet.node(1).accept_plan(&plan, &strict), Code::OutsideCharter);
}

#[test]
fn n66_a_charter_never_goes_back() {
    let mut fleet = Fleet::founded();
    let first = fleet.charter.clone();
    let second =
        fleet.operator.charter(Charter { threshold_floor: 4, ..charter() }, Some(&first)).expect("signed");
    let rival =
        fleet.operator.charter(Charter { threshold_floor: 2, ..charter() }, Some(&first)).expect("signed");
    let orphan =
        fleet.operator.charter(Charter { threshold_floor: 2, ..charter() }, Some(&rival)).expect("signed");
    fleet.tell_all(std::slice::from_ref(&second));
    for stale in [&first, &rival, &orphan] {
        assert_eq!(refused_record(fleet.node(1), stale), Code::StaleVersion);
    }
    assert!(matches!(one(fleet.node(1).learn(&[second]).expect("asked")), Learnt::Known));
    fleet.reopen(1);
    assert_eq!(refused_record(fleet.node(1), &first), Code::StaleVersion);
}

#[test]
fn n06_a_threshold_is_two_or_more_and_below_the_number_of_shards() {
    let fleet = Fleet::founded();
    for threshold in [0, 1, 2, 5, 6, 255] {
        let mut bad = order(1);
        bad.threshold = threshold;
        let code = if threshold == 2 { Code::OutsideCharter } else { Code::BadThreshold };
        refused(fleet.hub.plan(&fleet.charter, bad), code);
    }
    // Even under a charter that allows anything.
    let lax = fleet.operator.charter(Charter { threshold_floor: 0, ..charter() }, Some(&fleet.charter));
    let lax = lax.expect("signed");
    fleet.tell_all(std::slice::from_ref(&lax));
    let honest = fleet.hub.plan(&lax, order(1)).expect("planned");
    let code = Code::BadThreshold;
    refuses_each(
        &fleet,
        &honest,
        &lax,
        &[
            (|p| p.threshold = 0, code),
            (|p| p.threshold = 1, code),
            (|p| p.threshold = 5, code),
            (|p| p.threshold = 6, code),
            (|p| p.committee.clear(), code),
            (|p| p.committee.truncate(3), code),
            (|p| p.committee = (0..256).map(|_| seat(1)).collect(), code),
        ],
    );
}

#[test]
fn n02_an_index_stands_once_in_a_committee() {
    let fleet = Fleet::founded();
    let twice: Change = |p| p.committee[1].index = index(1);
    refuses_each(&fleet, &fleet.plan(1), &fleet.charter, &[(twice, Code::BadIndex)]);
}

#[test]
fn n05_an_approval_without_a_signature_is_none() {
    let fleet = Fleet::founded();
    let known = statement::read_approved::<Charter>(&fleet.charter).expect("a charter");
    let lower = Charter { version: 2, parent: known.hash(), threshold_floor: 2, ..known.body().clone() };
    let mut unsigned = vec![0x82];
    unsigned.extend(encode(&Bytes(encode(&lower))));
    unsigned.push(0x80);
    assert_eq!(refused_record(fleet.node(1), &unsigned), Code::BadSignature);
    refused(fleet.node(1).accept_plan(&fleet.plan(1), &unsigned), Code::BadSignature);
}

#[test]
fn n49_an_attempt_burns_its_number_for_good() {
    let mut fleet = Fleet::founded();
    let plan = fleet.plan(7);
    fleet.node(1).accept_plan(&plan, &fleet.charter).expect("accepted");
    refused(fleet.node(1).accept_plan(&plan, &fleet.charter), Code::WrongEpoch);
    fleet.reopen(1);
    for burnt in [6, 7] {
        refused(fleet.node(1).accept_plan(&fleet.plan(burnt), &fleet.charter), Code::WrongEpoch);
    }
    fleet.crash(1);
    refused(fleet.node(1).accept_plan(&plan, &fleet.charter), Code::WrongEpoch);
    fleet.node(1).accept_plan(&fleet.plan(8), &fleet.charter).expect("the next number is free");
}

#[test]
fn n97_a_stolen_hub_burns_no_number_that_all_others_lie_below() {
    let mut fleet = Fleet::founded();
    let honest = fleet.plan(1);
    for far in [u64::MAX, (1 << 32) + 1] {
        let plan = fleet.forge("hub", Plan { to_epoch: Epoch(far), ..said::<Plan>(&honest) });
        refused(fleet.node(1).accept_plan(&plan, &fleet.charter), Code::WrongEpoch);
    }
    fleet.node(1).accept_plan(&honest, &fleet.charter).expect("the first number is free");
    fleet.reopen(1);
    let far = fleet.forge("hub", Plan { to_epoch: Epoch((1 << 32) + 2), ..said::<Plan>(&honest) });
    refused(fleet.node(1).accept_plan(&far, &fleet.charter), Code::WrongEpoch);
    fleet.node(1).accept_plan(&fleet.plan((1 << 32) + 1), &fleet.charter).expect("within the step");
}

#[test]
fn an_epoch_counts_from_one() {
    let fleet = Fleet::founded();
    refused(fleet.node(1).accept_plan(&fleet.plan(0), &fleet.charter), Code::WrongEpoch);
}

#[test]
fn a_domain_is_created_once() {
    let fleet = Fleet::ready();
    refused(fleet.node(1).accept_plan(&fleet.plan(2), &fleet.charter), Code::AlreadyExists);
    let honest = fleet.plan(2);
    refuses_each(
        &fleet,
        &honest,
        &fleet.charter,
        &[
            (|p| (p.purpose, p.from_epoch) = (Purpose::Refresh, Epoch(1)), Code::BadIndex),
            (|p| p.from_epoch = Epoch(1), Code::OutsideCharter),
            (|p| p.purpose = Purpose::Restore, Code::BadState),
        ],
    );
}

#[test]
fn a_first_epoch_is_created_from_nothing() {
    let fleet = Fleet::founded();
    let honest = fleet.plan(1);
    refuses_each(
        &fleet,
        &honest,
        &fleet.charter,
        &[
            (|p| (p.purpose, p.dealers[0].index) = (Purpose::Reshare, Some(index(1))), Code::WrongEpoch),
            (|p| p.from_epoch = Epoch(1), Code::OutsideCharter),
        ],
    );
}

#[test]
fn a_charter_of_another_mode_or_dealer_is_kept_and_not_acted_on() {
    for body in
        [Charter { mode: Mode::Threshold, ..charter() }, Charter { dealer: DealerKind::Members, ..charter() }]
    {
        let fleet = Fleet::founded();
        let mode = body.mode;
        let signed = fleet.operator.charter(body, Some(&fleet.charter)).expect("signed");
        let mut plan = Plan { mode, ..said::<Plan>(&fleet.plan(1)) };
        plan.charter = statement::read_approved::<Charter>(&signed).expect("a charter").hash();
        let plan = fleet.forge("hub", plan);
        refused(fleet.node(1).accept_plan(&plan, &signed), Code::BadState);
        // The hub learns the charter that it plans under, and refuses it likewise.
        refused(fleet.hub.plan(&signed, order(1)), Code::BadState);
    }
}

#[test]
fn n92_a_seats_role_is_its_modules_own_in_the_roster() {
    let mut fleet = Fleet::founded();
    let backup = fleet.new_module("node-7");
    let invite = Invite {
        name: node_id(7),
        role: Role::Backup,
        zone: "z".to_owned(),
        enrol_address: "127.0.0.1:2".to_owned(),
        expires: NOW + 3600,
        fingerprint: None,
    };
    let (_, invitation) = fleet.operator.invite(invite).expect("an invitation");
    let request = backup.enrol_request(&invitation, "127.0.0.1:3").expect("a request");
    let entry = fleet.operator.approve_entry(&request, NOW).expect("an entry").0;
    let roster = fleet.hub.admit(&entry).expect("admitted");
    fleet.node(1).install_roster(&roster).expect("installed");
    // As a holder, which it is not; and as a backup, which holds nothing in this version.
    for role in [Role::Holder, Role::Backup] {
        let mut body = charter();
        body.allowed[4] = Allowed { node: node_id(7), role };
        let signed = fleet.operator.charter(body, Some(&fleet.charter)).expect("signed");
        fleet.charter.clone_from(&signed);
        let mut bad = order(1);
        bad.committee[4] = Seat { index: index(5), node: node_id(7), role };
        refused(fleet.hub.plan(&signed, bad), Code::OutsideCharter);
    }
}

#[test]
fn a_member_answers_only_a_plan_that_seats_it() {
    let fleet = Fleet::founded();
    refused(fleet.node(6).accept_plan(&fleet.plan(1), &fleet.charter), Code::NotAMember);
}
