//! From a plan to a current epoch: dealings, shards, receipts; and that no vault opens a recorded dealing.

use quorate_core::encoding::{Bytes, digest, encode};
use quorate_core::error::Code;
use quorate_core::ids::{Epoch, Hash, NodeId};
use quorate_core::module::messages::{Configuration, Dealing, Plan, PlanKey, Prepared};
use quorate_core::module::{EpochState, SubShare};
use quorate_core::seal::hpke::{self, Info, KemPrivate, SUITE};
use quorate_core::seal::statement;
use quorate_core::sharing::{self, Constant, Dealt, Threshold};

use crate::fixture::{Creation, Fleet, domain, index, node_id, one, refused, rng, said, secret};

fn sub_share_info(plan: &[u8], x: u8) -> Vec<u8> {
    let plan = statement::read_unverified::<Plan>(plan).expect("a plan");
    encode(&Info {
        suite: SUITE.to_owned(),
        kind: "dealing".to_owned(),
        fleet: plan.body().fleet,
        sender: quorate_core::ids::NodeId::hub(),
        recipient: node_id(x),
        domain: Some(domain()),
        epoch: plan.body().to_epoch,
        index: Some(index(x)),
        context: Bytes(plan.hash().0.to_vec()),
    })
}

fn plan_hash(plan: &[u8]) -> Hash {
    statement::hash_in(plan).expect("a plan")
}

/// Whether a recorded sub-share of index `x` opens with this 32-byte seed of a KEM key.
fn opens(creation: &Creation, x: u8, seed: &[u8]) -> bool {
    let key = KemPrivate::from_seed(secret(seed)).expect("any seed is a key");
    let sealed = &creation.sealed[usize::from(x) - 1];
    hpke::open(&key, &sub_share_info(&creation.plan, x), &[], sealed).is_ok()
}

/// Every 32 bytes that a vault keeps, wherever they stand.
fn loot(fleet: &Fleet, name: &str) -> Vec<Vec<u8>> {
    const TABLES: [&str; 16] = [
        "identity",
        "identity-keys",
        "pins",
        "boot",
        "roster",
        "fleet-key",
        "charter",
        "burnt",
        "dealt",
        "epoch",
        "epochs",
        "share",
        "usage",
        "access",
        "key",
        "alias",
    ];
    let secrets = TABLES.iter().flat_map(|table| fleet.stolen_secrets(name, table));
    secrets
        .filter(|(_, value)| value.len() <= 128)
        .flat_map(|(_, value)| value.windows(32).map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect()
}

#[test]
fn n90_no_vault_opens_a_recorded_dealing() {
    let mut fleet = Fleet::founded();
    // Epoch 1 is dealt to a key that we hold for node-1: what opens, and how, is known to work.
    let plan = fleet.plan(1);
    let ours = KemPrivate::generate(&mut rng()).expect("a key");
    let mut keys = vec![fleet.forge(
        "node-1",
        PlanKey {
            fleet: fleet.operator.fleet(),
            domain: domain(),
            plan: plan_hash(&plan),
            index: index(1),
            kem: ours.public().clone(),
        },
    )];
    for (n, module) in fleet.holders() {
        let own = module.accept_plan(&plan, &fleet.charter).expect("accepted");
        keys.extend(own.into_iter().filter(|_| n > 1));
    }
    let (dealing, sealed) = one(fleet.hub.deal(&plan, &fleet.charter, &keys).expect("dealt"));
    let configuration = fleet
        .hub
        .configure(&plan, std::slice::from_ref(&dealing), std::slice::from_ref(&sealed))
        .expect("configured");
    let control = Creation { plan, keys, dealing, sealed, configuration };
    assert!(opens(&control, 1, ours.seed().expose()));
    for (_, module) in fleet.holders() {
        module.abort_plan(plan_hash(&control.plan)).expect("aborted");
    }

    // Epoch 2 is honest: all traffic is kept, and every vault is stolen at every stage.
    let recorded = fleet.deal_epoch(2);
    let never = |fleet: &Fleet, stage: &str| {
        for (name, x) in [("node-1", 1), ("node-2", 2), ("hub", 1)] {
            for seed in loot(fleet, name) {
                assert!(!opens(&recorded, x, &seed), "the vault of {name} opens a dealing {stage}");
            }
        }
    };
    never(&fleet, "while the plan is open");
    let receipts = fleet.prepare(&recorded);
    never(&fleet, "once prepared");
    fleet.node(1).activate(&recorded.configuration, &receipts, &[]).expect("activated");
    fleet.reopen(1);
    never(&fleet, "after a restart");
}

#[test]
fn n90_an_aborted_or_forgotten_plan_prepares_nothing() {
    let mut fleet = Fleet::founded();
    let c = fleet.deal_epoch(1);
    fleet.node(1).abort_plan(plan_hash(&c.plan)).expect("aborted");
    refused(fleet.node(1).prepare(&c.configuration, &c.dealings(), &[c.sub(1)]), Code::BadState);
    fleet.reopen(1);
    refused(fleet.node(1).prepare(&c.configuration, &c.dealings(), &[c.sub(1)]), Code::BadState);
    fleet.reopen(2);
    refused(fleet.node(2).prepare(&c.configuration, &c.dealings(), &[c.sub(2)]), Code::BadState);
    let receipt = fleet.node(3).prepare(&c.configuration, &c.dealings(), &[c.sub(3)]).expect("prepared");
    // Asked again, a member repeats its receipt, for that configuration only, and reads no dealing for it.
    fleet.reopen(3);
    assert_eq!(fleet.node(3).prepare(&c.configuration, &[], &[]).expect("repeated"), receipt);
    let other = Configuration { dealings: vec![Hash([1; 32])], ..said::<Configuration>(&c.configuration) };
    let other = fleet.forge("hub", other);
    refused(fleet.node(3).prepare(&other, &c.dealings(), &[c.sub(3)]), Code::WrongEpoch);
}

#[test]
fn n90_a_newer_plan_ends_the_older_one() {
    let fleet = Fleet::founded();
    let older = fleet.deal_epoch(1);
    let newer = fleet.deal_epoch(2);
    refused(fleet.node(1).prepare(&older.configuration, &older.dealings(), &[older.sub(1)]), Code::BadState);
    fleet.node(1).prepare(&newer.configuration, &newer.dealings(), &[newer.sub(1)]).expect("prepared");
}

#[test]
fn n05_nothing_is_no_dealing_no_key_and_no_sub_share() {
    let fleet = Fleet::founded();
    let c = fleet.deal_epoch(1);
    refused(fleet.hub.deal(&c.plan, &fleet.charter, &[]), Code::NotEnoughShares);
    refused(fleet.hub.configure(&c.plan, &[], &[]), Code::BadCommitments);
    refused(fleet.node(1).prepare(&c.configuration, &[], &[c.sub(1)]), Code::BadCommitments);
    refused(fleet.node(2).prepare(&c.configuration, &c.dealings(), &[]), Code::NotEnoughShares);
    // A plan's keys are spent with the attempt, whatever came of it.
    for n in [1, 2] {
        let again = fleet.node(n).prepare(&c.configuration, &c.dealings(), &[c.sub(n)]);
        refused(again, Code::BadState);
    }
    let empty = Configuration { dealings: Vec::new(), ..said::<Configuration>(&c.configuration) };
    let empty = fleet.forge("hub", empty);
    refused(fleet.node(3).prepare(&empty, &[], &[c.sub(3)]), Code::BadCommitments);
}

#[test]
fn n05_a_certificate_counts_distinct_members() {
    let fleet = Fleet::founded();
    let c = fleet.deal_epoch(1);
    let receipts = fleet.prepare(&c);
    let node = fleet.node(1);
    refused(node.activate(&c.configuration, &[], &[]), Code::NotEnoughShares);
    refused(node.activate(&c.configuration, &vec![receipts[0].clone(); 5], &[]), Code::NotEnoughShares);
    // k = 3 and z = 1 for five indices.
    refused(node.activate(&c.configuration, &receipts[..3], &[]), Code::NotEnoughShares);
    assert_eq!(
        node.epochs().expect("listed")[0].1,
        EpochState::Pending,
        "nothing is current before the certificate"
    );
    node.activate(&c.configuration, &receipts[1..], &[]).expect("four are enough");
    node.activate(&c.configuration, &receipts, &[]).expect("and again");
}

#[test]
fn n69_a_stolen_hub_forges_no_certificate() {
    let fleet = Fleet::founded();
    let c = fleet.deal_epoch(1);
    let receipts = fleet.prepare(&c);
    let node = fleet.node(1);
    let honest = said::<Prepared>(&receipts[4]);
    let with = |forged: Vec<u8>| [&receipts[..3], &[forged]].concat();
    let by_hub = fleet.forge("hub", honest.clone());
    refused(node.activate(&c.configuration, &with(by_hub), &[]), Code::WrongEpoch);
    // One liar speaks for its own index only, and for this configuration only.
    let for_another = fleet.forge("node-1", honest.clone());
    refused(node.activate(&c.configuration, &with(for_another), &[]), Code::WrongEpoch);
    let for_another_epoch = fleet.forge("node-5", Prepared { configuration: Hash([1; 32]), ..honest });
    refused(node.activate(&c.configuration, &with(for_another_epoch), &[]), Code::WrongEpoch);
}

#[test]
fn a_domain_is_created_once_even_if_two_attempts_were_prepared() {
    let mut fleet = Fleet::founded();
    let first = fleet.deal_epoch(1);
    let first_receipts = fleet.prepare(&first);
    let second = fleet.deal_epoch(2);
    let mut second_receipts = Vec::new();
    for (n, module) in fleet.holders().filter(|(n, _)| *n > 1) {
        let receipts = module.prepare(&second.configuration, &second.dealings(), &[second.sub(n)]);
        second_receipts.extend(receipts.expect("prepared"));
    }
    for (_, module) in fleet.holders() {
        module.activate(&first.configuration, &first_receipts, &[]).expect("activated");
    }
    // A second activation would put another domain key in the place of the first.
    refused(fleet.node(2).activate(&second.configuration, &second_receipts, &[]), Code::AlreadyExists);
    let late = fleet.node(1).prepare(&second.configuration, &second.dealings(), &[second.sub(1)]);
    refused(late, Code::AlreadyExists);
    assert_eq!(fleet.stolen_secrets("node-2", "share").len(), 1, "the other attempt's shard is erased");
    fleet.reopen(2);
    refused(fleet.node(2).activate(&second.configuration, &second_receipts, &[]), Code::AlreadyExists);
    fleet.unlock(1);
}

#[test]
fn n39_a_wrong_sub_share_convicts_its_dealer() {
    let fleet = Fleet::founded();
    let c = fleet.deal_epoch(1);
    // The sub-share of one recipient in the place of another's.
    let swapped = SubShare { sealed: c.sub(2).sealed, ..c.sub(1) };
    let e = refused(fleet.node(1).prepare(&c.configuration, &c.dealings(), &[swapped]), Code::BadShare);
    assert!(e.culprits.is_empty(), "whoever carried it may have swapped it");

    // A dealer that seals another value than it committed to.
    let kem = said::<PlanKey>(&c.keys[1]).kem;
    let wrong = [1; 64].map(|b: u8| b % 2);
    let sealed = hpke::seal(&kem, &sub_share_info(&c.plan, 2), &[], &wrong, &mut rng()).expect("sealed");
    let mut dealing = said::<Dealing>(&c.dealing);
    dealing.sealed[1] = Hash(digest("quorate/v1/epoch/sealed-sub-share", &sealed));
    let dealing = fleet.forge("hub", dealing);
    let mut configuration = said::<Configuration>(&c.configuration);
    configuration.dealings = vec![statement::hash_in(&dealing).expect("a dealing")];
    let configuration = fleet.forge("hub", configuration);
    let sub = SubShare { sealed, ..c.sub(2) };
    let e = refused(fleet.node(2).prepare(&configuration, &[dealing], &[sub]), Code::BadShare);
    assert_eq!(e.culprits, [quorate_core::ids::NodeId::hub()]);
}

/// A fresh sharing of threshold `k` for all five holders.
fn sharing_of(k: u8) -> Dealt {
    let indices = [1, 2, 3, 4, 5].map(index);
    sharing::deal(Threshold::new(u64::from(k)).expect("a threshold"), &indices, Constant::Fresh, &mut rng())
        .expect("dealt")
}

/// A stolen hub's configuration of exactly this dealing, its commitments taken over.
fn configured(fleet: &Fleet, c: &Creation, dealing: &[u8]) -> Vec<u8> {
    let commitments = said::<Dealing>(dealing).commitments;
    let dealings = vec![statement::hash_in(dealing).expect("a dealing")];
    fleet.forge("hub", Configuration { dealings, commitments, ..said::<Configuration>(&c.configuration) })
}

#[test]
fn n04_a_dealing_of_a_higher_degree_is_refused() {
    let fleet = Fleet::founded();
    let c = fleet.deal_epoch(1);
    // Everything fits together, sub-share and all; but three shards of it would not give the key back.
    let four = sharing_of(4);
    let kem = said::<PlanKey>(&c.keys[1]).kem;
    let info = sub_share_info(&c.plan, 2);
    let sealed = hpke::seal(&kem, &info, &[], &*four.shares[1].to_bytes(), &mut rng()).expect("sealed");
    let mut dealing = Dealing { commitments: four.commitments, ..said::<Dealing>(&c.dealing) };
    dealing.sealed[1] = Hash(digest("quorate/v1/epoch/sealed-sub-share", &sealed));
    let dealing = fleet.forge("hub", dealing);
    let configuration = configured(&fleet, &c, &dealing);
    let prepared = fleet.node(2).prepare(&configuration, &[dealing], &[SubShare { sealed, ..c.sub(2) }]);
    assert_eq!(refused(prepared, Code::BadCommitments).culprits, [NodeId::hub()]);
}

#[test]
fn n39_a_configurations_commitments_are_the_sum_of_its_dealings() {
    let fleet = Fleet::founded();
    let c = fleet.deal_epoch(1);
    let commitments = sharing_of(3).commitments;
    let other = Configuration { commitments, ..said::<Configuration>(&c.configuration) };
    let other = fleet.forge("hub", other);
    refused(fleet.node(1).prepare(&other, &c.dealings(), &[c.sub(1)]), Code::BadCommitments);
}

#[test]
fn a_configuration_takes_its_plans_own_dealings_and_number() {
    let fleet = Fleet::founded();
    let changes: [fn(&mut Dealing); 4] = [
        |d| d.plan = Hash([1; 32]),
        |d| d.to_epoch = Epoch(9),
        |d| d.index = Some(index(1)),
        |d| d.sealed.truncate(4),
    ];
    for (number, change) in (1..).zip(changes) {
        let c = fleet.deal_epoch(number);
        let mut dealing = said::<Dealing>(&c.dealing);
        change(&mut dealing);
        let dealing = fleet.forge("hub", dealing);
        let configuration = configured(&fleet, &c, &dealing);
        refused(fleet.node(5).prepare(&configuration, &[dealing], &[c.sub(5)]), Code::BadCommitments);
    }
    // A member's word in the dealer's place, another dealing than the one named, one too many.
    let c = fleet.deal_epoch(20);
    let by_a_member = fleet.forge("node-2", said::<Dealing>(&c.dealing));
    let configuration = configured(&fleet, &c, &by_a_member);
    refused(fleet.node(1).prepare(&configuration, &[by_a_member], &[c.sub(1)]), Code::BadCommitments);
    let honest = said::<Configuration>(&c.configuration);
    let unnamed = fleet.forge("hub", Configuration { dealings: vec![Hash([1; 32])], ..honest.clone() });
    refused(fleet.node(2).prepare(&unnamed, &c.dealings(), &[c.sub(2)]), Code::BadCommitments);
    let twice = [c.dealing.clone(), c.dealing.clone()];
    refused(fleet.node(3).prepare(&c.configuration, &twice, &[c.sub(3)]), Code::BadCommitments);
    let hashes = vec![honest.dealings[0]; 2];
    let twice_named = fleet.forge("hub", Configuration { dealings: hashes, ..honest.clone() });
    refused(fleet.node(4).prepare(&twice_named, &c.dealings(), &[c.sub(4)]), Code::BadCommitments);
    let renumbered = fleet.forge("hub", Configuration { epoch: Epoch(21), ..honest });
    refused(fleet.node(5).prepare(&renumbered, &c.dealings(), &[c.sub(5)]), Code::WrongEpoch);
}

#[test]
fn n92_a_hub_deals_no_plan_beyond_the_charter() {
    let fleet = Fleet::founded();
    let lower = Plan { threshold: 2, ..said::<Plan>(&fleet.plan(1)) };
    refused(fleet.hub.deal(&fleet.forge("hub", lower), &fleet.charter, &[]), Code::OutsideCharter);
}

#[test]
fn n41_a_number_is_dealt_for_once() {
    let fleet = Fleet::founded();
    let c = fleet.deal_epoch(3);
    refused(fleet.hub.deal(&c.plan, &fleet.charter, &c.keys), Code::WrongEpoch);
    refused(fleet.node(1).deal(&c.plan, &fleet.charter, &c.keys), Code::NotAuthorized);
}

#[test]
fn a_dealer_seals_only_to_keys_of_this_plan_and_of_its_members() {
    let fleet = Fleet::founded();
    let older = fleet.deal_epoch(1);
    let plan = fleet.plan(2);
    let mut keys = Vec::new();
    for (_, module) in fleet.holders() {
        keys.extend(module.accept_plan(&plan, &fleet.charter).expect("accepted"));
    }
    let with = |key: Vec<u8>| [&[key], &keys[1..]].concat();
    refused(fleet.hub.deal(&plan, &fleet.charter, &with(older.keys[0].clone())), Code::WrongEpoch);
    refused(fleet.hub.deal(&plan, &fleet.charter, &with(keys[1].clone())), Code::NotEnoughShares);
    let redirected = fleet.forge("node-2", said::<PlanKey>(&keys[0]));
    refused(fleet.hub.deal(&plan, &fleet.charter, &with(redirected)), Code::NotAMember);
    fleet.hub.deal(&plan, &fleet.charter, &keys).expect("the right ones will do");
}
