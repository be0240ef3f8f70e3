//! Who counts, and as how many: members that have left, indices that one node has several of, shapes that a change may
//! not bring in with it.

use quorate_core::error::Code;
use quorate_core::ids::Epoch;
use quorate_core::module::messages::{
    Activated, Answer, Configuration, Plan, Prepared, Purpose, Role, SessionRequest,
};
use quorate_core::module::{PlanOrder, SubShare};

use crate::fixture::{Fleet, HOLDERS, index, node_id, one, order, refused, said, seat};
use crate::redealing::{self, ALL, activate, deal, prepare};

/// Changes the shape of an honest plan.
type Alter = fn(&mut Plan);

const STAYING: [u8; 4] = [1, 2, 3, 4];

/// Epoch 2 of the domain is with the nodes 1 to 4; node-5 has left.
fn without_five() -> (Fleet, redealing::Change, Vec<Vec<u8>>) {
    let fleet = Fleet::ready();
    let mut leaving = redealing::order(Purpose::Reshare, 1, 2, &[1, 2, 3]);
    leaving.committee = STAYING.into_iter().map(seat).collect();
    let change = deal(&fleet, leaving, &STAYING);
    let prepared = prepare(&fleet, &change, &STAYING);
    let activated = activate(&fleet, &change, &prepared, &STAYING);
    activate(&fleet, &change, &prepared, &[5]);
    (fleet, change, activated)
}

#[test]
fn n45_a_node_that_has_left_is_not_heard_though_it_keeps_sending() {
    let (mut fleet, change, activated) = without_five();
    let (_, request) = fleet.open_session(1);

    // It asks, in the new epoch: each holder looks its seat up again.
    let asked = fleet.forge("node-5", said::<SessionRequest>(&request));
    let grant = fleet.grant(&asked, &[2]);
    assert_eq!(fleet.refusal(2, &grant).reason, Code::NotAMember.as_str());

    // It answers, as itself and in the place of another.
    let grant = fleet.grant(&request, &[2]);
    let honest = said::<Answer>(&fleet.answer(2, &grant));
    for x in [2, 5] {
        let answer = fleet.forge("node-5", Answer { index: index(x), ..honest.clone() });
        refused(fleet.node(1).receive(&answer), Code::NotAMember);
    }

    // It says that it holds the epoch: neither lock takes its word.
    for x in [4, 5] {
        let mut receipts = activated[..3].to_vec();
        let word = Activated { index: index(x), ..said(&activated[0]) };
        receipts.push(fleet.forge("node-5", word));
        refused(fleet.node(1).erase(&receipts), Code::NotAMember);
    }
    let mut prepared = Vec::new();
    for n in [1, 2, 5] {
        let word: Activated = said(&activated[0]);
        let word = Prepared {
            fleet: word.fleet,
            domain: word.domain,
            epoch: word.epoch,
            configuration: word.configuration,
            index: index(n),
        };
        prepared.push(fleet.forge(&format!("node-{n}"), word));
    }
    refused(fleet.node(6).activate(&change.configuration, &prepared, &change.dealings), Code::WrongEpoch);
    fleet.node(1).erase(&activated).expect("the members' own words do");
}

#[test]
fn n66_neither_a_refresh_nor_a_repair_brings_another_shape_with_it() {
    let fleet = Fleet::ready();
    for purpose in [Purpose::Refresh, Purpose::Repair] {
        let honest =
            fleet.hub.plan(&fleet.charter, redealing::order(purpose, 1, 2, &[1, 2, 3])).expect("planned");
        let shapes: [(&str, Alter); 4] = [
            ("fewer shards", |p| {
                p.committee.truncate(4);
                p.margin = 0;
            }),
            ("a higher threshold", |p| p.threshold = 4),
            ("other indices", |p| p.committee[4].index = index(6)),
            ("another holder", |p| p.committee[4].node = node_id(4)),
        ];
        for (what, alter) in shapes {
            let mut plan = said::<Plan>(&honest);
            alter(&mut plan);
            let e = fleet.node(1).accept_plan(&fleet.forge("hub", plan), &fleet.charter).expect_err(what);
            assert_eq!(e.code, Code::OutsideCharter, "{what}: {e}");
        }
    }
}

/// The first epoch: indices 1 and 2 are both with node-1, the others with the nodes 3 to 5.
fn two_at_one() -> PlanOrder {
    let mut order = order(1);
    order.committee[1].node = node_id(1);
    order
}

#[test]
fn n99_receipts_are_counted_by_index_and_not_by_node() {
    let fleet = Fleet::founded();
    let plan =
        fleet.hub.plan(&fleet.charter, two_at_one()).expect("two of three indices at one node are fine");
    let nodes = [1, 3, 4, 5];
    let mut keys = Vec::new();
    for n in nodes {
        keys.extend(fleet.node(n).accept_plan(&plan, &fleet.charter).expect("accepted"));
    }
    assert_eq!(keys.len(), usize::from(HOLDERS));
    let (dealing, sealed) = one(fleet.hub.deal(&plan, &fleet.charter, &keys).expect("dealt"));
    let dealings = [dealing];
    let configuration =
        fleet.hub.configure(&plan, &dealings, std::slice::from_ref(&sealed)).expect("configured");
    let sub = |x: u8| SubShare { index: index(x), dealer: 0, sealed: sealed[usize::from(x) - 1].clone() };
    let prepare = |n: u8, own: &[u8]| {
        let subs: Vec<SubShare> = own.iter().map(|x| sub(*x)).collect();
        fleet.node(n).prepare(&configuration, &dealings, &subs).expect("prepared")
    };
    let ones = prepare(1, &[1, 2]);
    let others: Vec<Vec<u8>> = [3, 4, 5].into_iter().map(|n| one(prepare(n, &[n]))).collect();
    assert_eq!(ones.len(), 2, "one receipt for each index");

    // k + z = 4. Three nodes, and one of them twice: three indices.
    let repeated = [others[0].clone(), others[0].clone(), others[1].clone(), others[2].clone()];
    refused(fleet.node(3).activate(&configuration, &repeated, &[]), Code::NotEnoughShares);
    // A node speaks for no index but its own.
    let said_for_another = Prepared { index: index(3), ..said(&ones[0]) };
    let mut borrowed = vec![fleet.forge("node-1", said_for_another)];
    borrowed.extend([ones.clone(), others[1..].to_vec()].concat());
    refused(fleet.node(3).activate(&configuration, &borrowed, &[]), Code::WrongEpoch);
    // Three nodes with four indices are enough.
    let enough = [ones, others[..2].to_vec()].concat();
    let mut activated = Vec::new();
    for n in nodes {
        activated.push(fleet.node(n).activate(&configuration, &enough, &[]).expect("activated"));
    }
    assert_eq!(activated.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 1]);
    // The erase certificate: all five indices, so node-1's two count, and no four.
    let all: Vec<Vec<u8>> = activated.concat();
    refused(fleet.node(3).erase(&all[1..]), Code::NotEnoughShares);
    fleet.node(3).erase(&all).expect("all indices hold it");
    assert_eq!(said::<Configuration>(&configuration).epoch, Epoch(1));
}

#[test]
fn n99_no_seat_is_given_to_a_backup_node_yet() {
    let fleet = Fleet::ready();
    let honest = fleet
        .hub
        .plan(&fleet.charter, redealing::order(Purpose::Reshare, 1, 2, &[1, 2, 3]))
        .expect("planned");
    for role in [Role::Backup, Role::Recovery, Role::Hub] {
        let mut plan = said::<Plan>(&honest);
        plan.committee[4].role = role;
        refused(fleet.node(1).accept_plan(&fleet.forge("hub", plan), &fleet.charter), Code::OutsideCharter);
    }
    for n in ALL {
        fleet.node(n).accept_plan(&honest, &fleet.charter).expect("the honest one is taken");
    }
}
