//! Access keys: made by the operator, sealed by the hub's module, checked by every node's.

use aws_lc_rs::hmac;
use quorate_core::encoding::encode;
use quorate_core::error::Code;
use quorate_core::ids::{FleetId, Hash, NodeId};
use quorate_core::module::messages::{AccessKey, AccessRole, Entry};
use quorate_core::module::operator::{NewAccess, access_info};
use quorate_core::seal::{hpke, statement};

use crate::fixture::{Fleet, NOW, refused, refused_record, rng};

pub const DAY: &str = "20261124";

fn hmac_sha256(key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
}

/// What a client of AWS computes (IAM user guide, "Create a signed AWS API request").
pub fn sign(secret: &str, region: &str, text: &[u8]) -> String {
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [DAY, region, "kms", "aws4_request"] {
        key = hmac_sha256(&key, part.as_bytes());
    }
    hex::encode(hmac_sha256(&key, text))
}

pub fn body(access_key_id: &str, sealed: Vec<u8>) -> AccessKey {
    AccessKey {
        fleet: FleetId([0; 16]),
        access_key_id: access_key_id.to_owned(),
        version: 0,
        parent: Hash([0; 32]),
        user: "alice".to_owned(),
        role: AccessRole::Admin,
        enabled: true,
        created: NOW * 1000,
        sealed: quorate_core::encoding::Bytes(sealed),
    }
}

/// A fleet that knows one access key: its secret, and its record.
pub fn with_access() -> (Fleet, NewAccess, Vec<u8>) {
    let mut fleet = Fleet::founded();
    let new = fleet.operator.new_access(&fleet.hub_entry).expect("a secret");
    let sealed = fleet.hub.reseal_access_secret(&new.access_key_id, &new.sealed_to_hub).expect("sealed");
    let signed = fleet.operator.access_key(body(&new.access_key_id, sealed), None, Some(&new.secret));
    let record = signed.expect("signed");
    fleet.tell_all(std::slice::from_ref(&record));
    (fleet, new, record)
}

#[test]
fn n77_a_right_signature_is_known_and_every_other_is_told_the_same() {
    let (mut fleet, new, record) = with_access();
    let (id, text) = (new.access_key_id.as_str(), b"what the client signed".as_slice());
    let right = sign(&new.secret, "us-east-1", text);
    let check = |fleet: &Fleet, id: &str, region: &str, text: &[u8], signature: &str| {
        fleet.node(1).check_signature(id, DAY, region, "kms", text, signature)
    };
    let (user, role) = check(&fleet, id, "us-east-1", text, &right).expect("right");
    assert_eq!((user.as_str(), role), ("alice", AccessRole::Admin));
    for _ in 0..2 {
        refused(check(&fleet, id, "us-east-1", b"another text", &right), Code::BadSignature);
        refused(check(&fleet, id, "eu-west-1", text, &right), Code::BadSignature);
        refused(check(&fleet, "QKIAAAAAAAAAAAAAAAAA", "us-east-1", text, &right), Code::BadSignature);
        refused(check(&fleet, id, "us-east-1", text, &sign("wrong", "us-east-1", text)), Code::BadSignature);
        refused(check(&fleet, id, "us-east-1", text, ""), Code::BadSignature);
        check(&fleet, id, "us-east-1", text, &right).expect("still right");
    }
    fleet.reopen(1);
    check(&fleet, id, "us-east-1", text, &right).expect("right after a restart");

    let known = statement::read_approved::<AccessKey>(&record).expect("a record").into_body();
    let disabled = AccessKey { enabled: false, ..known };
    let disabled = fleet.operator.access_key(disabled, Some(&record), None).expect("signed");
    fleet.tell_all(std::slice::from_ref(&disabled));
    let of_disabled = refused(check(&fleet, id, "us-east-1", text, &right), Code::BadSignature);
    let of_wrong =
        refused(check(&fleet, id, "us-east-1", text, &sign("no", "us-east-1", text)), Code::BadSignature);
    let of_unknown =
        refused(check(&fleet, "QKIAAAAAAAAAAAAAAAAA", "us-east-1", text, &right), Code::BadSignature);
    assert_eq!(of_disabled, of_unknown);
    assert_eq!(of_disabled, of_wrong);
    // The record that enabled it does not come back.
    assert_eq!(refused_record(fleet.node(1), &record), Code::StaleVersion);
    fleet.reopen(1);
    assert_eq!(refused_record(fleet.node(1), &record), Code::StaleVersion);
    refused(check(&fleet, id, "us-east-1", text, &right), Code::BadSignature);
}

#[test]
fn n77_a_wrong_signature_of_a_known_key_reads_as_that_of_an_unknown_one() {
    let (fleet, new, _) = with_access();
    let check = |id: &str| {
        refused(
            fleet.node(1).check_signature(id, DAY, "us-east-1", "kms", b"x", &"0".repeat(64)),
            Code::BadSignature,
        )
    };
    assert_eq!(check(&new.access_key_id), check("QKIAAAAAAAAAAAAAAAAA"));
}

#[test]
fn a_record_with_another_secret_ends_the_old_one_at_once() {
    let (mut fleet, old, record) = with_access();
    let id = old.access_key_id.as_str();
    let check = |fleet: &Fleet, secret: &str| {
        let signature = sign(secret, "us-east-1", b"x");
        fleet.node(1).check_signature(id, DAY, "us-east-1", "kms", b"x", &signature)
    };
    check(&fleet, &old.secret).expect("right, and its signing key is kept for the day");
    let new = fleet.operator.new_access(&fleet.hub_entry).expect("a secret");
    let sealed = fleet.hub.reseal_access_secret(&new.access_key_id, &new.sealed_to_hub).expect("sealed");
    // The secret of another access key is bound to that one: this record opens nothing, not even the old one.
    refused(
        fleet.operator.access_key(body(id, sealed.clone()), Some(&record), Some(&new.secret)),
        Code::KeyCommitment,
    );
    let parent = statement::read_approved::<AccessKey>(&record).expect("a record").hash();
    let changed = AccessKey { version: 2, parent, fleet: fleet.operator.fleet(), ..body(id, sealed) };
    let changed = fleet.forge_approval("operator", &changed);
    fleet.tell_all(std::slice::from_ref(&changed));
    assert!(check(&fleet, &old.secret).is_err(), "the old secret still signs");
}

#[test]
fn only_the_hubs_entry_gets_an_access_keys_secret() {
    let mut fleet = Fleet::founded();
    let entries = fleet.hub.entries().expect("entries");
    let (_, member) = entries.iter().find(|(e, _)| e.name == crate::fixture::node_id(1)).expect("node-1");
    refused(fleet.operator.new_access(member), Code::NotAuthorized);
}

#[test]
fn n92_a_hub_makes_no_access_key() {
    let (fleet, new, record) = with_access();
    let known = statement::read_approved::<AccessKey>(&record).expect("a record");
    let admin = AccessKey { access_key_id: "QKIABBBBBBBBBBBBBBBB".to_owned(), ..known.body().clone() };
    assert_eq!(refused_record(fleet.node(1), &fleet.forge_approval("hub", &admin)), Code::BadSignature);
    let other_user = AccessKey { version: 2, parent: known.hash(), ..known.body().clone() };
    assert_eq!(
        refused_record(fleet.node(1), &fleet.forge_approval("node-2", &other_user)),
        Code::BadSignature
    );
    // A secret sealed for one access key opens for no other, and in no other module.
    refused(fleet.hub.reseal_access_secret(&admin.access_key_id, &new.sealed_to_hub), Code::NotOpened);
    refused(fleet.node(1).reseal_access_secret(&new.access_key_id, &new.sealed_to_hub), Code::NotOpened);
}

#[test]
fn n92_an_access_keys_secret_is_bound_to_its_id() {
    let (fleet, new, record) = with_access();
    let known = statement::read_approved::<AccessKey>(&record).expect("a record").into_body();
    let moved = body("QKIACCCCCCCCCCCCCCCC", known.sealed.0);
    refused(fleet.operator.access_key(moved.clone(), None, Some(&new.secret)), Code::KeyCommitment);
    let moved = AccessKey { version: 1, fleet: fleet.operator.fleet(), ..moved };
    let moved = fleet.forge_approval("operator", &moved);
    fleet.tell_all(std::slice::from_ref(&moved));
    let right = sign(&new.secret, "us-east-1", b"x");
    let node = fleet.node(1);
    assert!(node.check_signature("QKIACCCCCCCCCCCCCCCC", DAY, "us-east-1", "kms", b"x", &right).is_err());
}

#[test]
fn n92_a_stolen_hub_slips_no_secret_of_its_own_into_an_access_key() {
    let mut fleet = Fleet::founded();
    let new = fleet.operator.new_access(&fleet.hub_entry).expect("a secret");
    // The hub's module seals another secret under this id: one that the thief of the hub knows.
    let (other, id) = ("a secret that the thief knows, of 40 bytes!", new.access_key_id.as_str());
    let info = encode(&access_info(fleet.operator.fleet(), &NodeId::hub(), id));
    let kem = statement::read_approved::<Entry>(&fleet.hub_entry).expect("an entry").body().kem.clone();
    let to_hub = hpke::seal(&kem, &info, &[], other.as_bytes(), &mut rng()).expect("sealed");
    let sealed = fleet.hub.reseal_access_secret(id, &to_hub).expect("resealed");
    let theirs = body(id, sealed);
    refused(fleet.operator.access_key(theirs.clone(), None, Some(&new.secret)), Code::KeyCommitment);
    refused(fleet.operator.access_key(theirs, None, None), Code::KeyCommitment);
}
