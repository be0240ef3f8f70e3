//! Rotation of the fleet key: what an old one still opens and for how long, what may be wrapped anew and by whom, when
//! the old one goes.

use std::time::Duration;

use quorate_core::encoding::{Bytes, encode};
use quorate_core::error::Code;
use quorate_core::keys::{kdf, sealed, token};
use quorate_core::memory::Secret;
use quorate_core::module::messages::{
    AccessKey, AccessSeal, FleetKeyKept, FleetKeyRetired, KeyRecord, KeyState, Rekey,
};
use quorate_core::module::{Learnt, MAX_WINDOW, Module, RecordKind};
use quorate_core::seal::fleet::peek_header;
use quorate_core::seal::statement;

use crate::access::{DAY, body, sign};
use crate::fixture::{Fleet, OUTSIDER, domain, node_id, one, refused, refused_record, rng, said, secret};

const KEY: [u8; 16] = [7; 16];
const HOUR: Duration = Duration::from_secs(3600);
const NANO: Duration = Duration::from_nanos(1);

/// A fleet of real use: a domain, a key with a ciphertext, an access key.
struct InUse {
    fleet: Fleet,
    blob: Vec<u8>,
    access: String,
    secret: String,
}

impl InUse {
    fn new() -> Self {
        let mut fleet = Fleet::ready();
        fleet.unlock(1);
        fleet.make_key(KEY);
        let blob = fleet.node(1).encrypt(&KEY, b"hello", &[]).expect("encrypted");
        let new = fleet.operator.new_access(&fleet.hub_entry).expect("a secret");
        let resealed = fleet.hub.reseal_access_secret(&new.access_key_id, &new.sealed_to_hub);
        let key = body(&new.access_key_id, resealed.expect("sealed"));
        let record = fleet.operator.access_key(key, None, Some(&new.secret)).expect("signed");
        fleet.tell_all(&[record]);
        let secret = new.secret.to_string();
        Self { fleet, blob, access: new.access_key_id, secret }
    }

    fn node(&self, n: u8) -> &Module {
        self.fleet.node(n)
    }

    fn signs(&self, module: &Module) -> bool {
        let signature = sign(&self.secret, "us-east-1", b"x");
        module.check_signature(&self.access, DAY, "us-east-1", "kms", b"x", &signature).is_ok()
    }

    /// The hub makes the next fleet key, and everyone takes it.
    fn rotate(&self) -> u64 {
        let epoch = self.fleet.hub.rotate_fleet_key(HOUR).expect("rotated");
        for n in 1..=OUTSIDER {
            give(&self.fleet, n);
        }
        epoch
    }

    /// Everything that is wrapped is renewed, and everyone learns it.
    fn renew(&self) {
        self.fleet.tell_all(&[self.node(2).renew_outer(&KEY).expect("renewed")]);
        self.fleet.tell_all(&[self.fleet.hub.renew_access(&self.access).expect("renewed")]);
    }

    fn receipts(&self) -> Vec<Vec<u8>> {
        let nodes = (1..=OUTSIDER).map(|n| self.node(n));
        nodes.chain([&self.fleet.hub]).map(|m| m.fleet_key_kept().expect("held")).collect()
    }

    fn retire(&self) {
        for module in (1..=OUTSIDER).map(|n| self.node(n)).chain([&self.fleet.hub]) {
            module.retire_fleet_key(&self.receipts()).expect("retired");
        }
    }
}

fn give(fleet: &Fleet, n: u8) {
    fleet.node(n).accept_rekey(&fleet.hub.rekey_for(&node_id(n)).expect("a rekey"), HOUR).expect("taken");
}

fn greet(fleet: &Fleet, from: u8, to: u8) {
    let hellos = fleet.node(from).hellos(&node_id(to)).expect("sealed");
    assert!(hellos.iter().filter(|hello| fleet.node(to).open_message(hello).is_ok()).count() > 0, "not read");
}

fn say(fleet: &Fleet, from: u8, to: u8) -> Vec<u8> {
    fleet.node(from).seal(&node_id(to), "session/answer", b"said").expect("sealed")
}

fn epoch_of(message: &[u8]) -> u64 {
    peek_header(message, 1).expect("a header").fleet_epoch
}

/// The fleet's wrapping key of export tokens, as a thief of `node-2` derives it.
fn stolen_wrap(fleet: &Fleet, epoch: u64) -> Secret<32> {
    use_key(fleet, epoch, "export-token")
}

fn use_key(fleet: &Fleet, epoch: u64, purpose: &str) -> Secret<32> {
    let keys = fleet.stolen_secrets("node-2", "fleet-key");
    let key = keys.into_iter().find(|(id, _)| id == &encode(&epoch)).expect("a fleet key").1;
    let mut out = [0; 32];
    let info = encode(&vec!["quorate/v1/fleet/use-key".to_owned(), purpose.to_owned()]);
    kdf::hkdf_sha512(secret(&key).expose(), &[], &info, &mut out);
    secret(&out)
}

fn held(fleet: &Fleet, name: &str) -> usize {
    fleet.stolen_secrets(name, "fleet-key").len()
}

fn learnt(module: &Module, record: &[u8]) -> bool {
    matches!(one(module.learn(&[record.to_vec()]).expect("asked")), Learnt::New)
}

#[test]
fn a_rotation_renews_everything_and_erases_the_old_key_everywhere() {
    let mut used = InUse::new();
    assert_eq!(used.rotate(), 2);
    for module in [used.node(1), &used.fleet.hub] {
        let state = module.fleet_key().expect("asked");
        assert_eq!((state.epoch, state.previous, state.keys), (2, Some(1), 1));
        assert_eq!((state.keys_left, state.access_left), (vec![KEY], vec![used.access.clone()]));
        assert!(state.uncommitted.is_empty());
    }
    used.renew();
    used.retire();
    for name in ["hub", "node-1", "node-6"] {
        assert_eq!(held(&used.fleet, name), 1, "{name} has the old fleet key");
    }
    for _ in 0..2 {
        let state = used.node(1).fleet_key().expect("asked");
        assert_eq!((state.epoch, state.previous, state.keys_left.len()), (2, None, 0));
        used.fleet.unlock(1);
        assert_eq!(*used.node(1).decrypt(&used.blob, &[]).expect("opened"), b"hello");
        assert!(used.signs(used.node(1)));
        used.fleet.reopen(1);
    }
    // And once more.
    assert_eq!(used.rotate(), 3);
    used.renew();
    used.retire();
    assert!(used.signs(used.node(1)));
}

#[test]
fn a_node_that_is_enrolled_after_a_rotation_uses_what_was_made_before() {
    let mut used = InUse::new();
    let old: Vec<Vec<u8>> = [RecordKind::Charter, RecordKind::Access, RecordKind::Key]
        .map(|k| used.node(1).records(k).expect("listed"))
        .concat();
    used.rotate();
    used.renew();
    used.retire();
    used.fleet.enrol(7);
    let late = used.node(7);
    // The hub's whole order, from the first record on: the old version of the key is passed over.
    let outcomes = late.learn(&old).expect("asked");
    assert!(matches!(&outcomes[2], Learnt::Refused(e) if e.code == Code::NoFleetKey));
    assert!(!used.signs(late), "its secret is not here yet");
    for kind in [RecordKind::Key, RecordKind::Seal] {
        assert!(learnt(late, &one(used.node(1).records(kind).expect("listed"))));
    }
    assert!(used.signs(late));
    assert_eq!(late.fleet_key().expect("asked").keys_left.len(), 0);
    assert_eq!(
        said::<FleetKeyRetired>(&late.retire_fleet_key(&used.receipts()).expect("nothing to do")).below,
        2
    );
}

#[test]
fn two_modules_use_the_newest_fleet_key_that_both_have() {
    let fleet = Fleet::founded();
    greet(&fleet, 1, 2);
    greet(&fleet, 2, 1);
    fleet.hub.rotate_fleet_key(HOUR).expect("rotated");
    give(&fleet, 1);
    for (from, to) in [(1, 2), (2, 1)] {
        let message = say(&fleet, from, to);
        assert_eq!(epoch_of(&message), 1);
        fleet.node(to).open_message(&message).expect("opened");
    }
    greet(&fleet, 1, 2); // as after every new key; node-2 cannot read the one under epoch 2
    give(&fleet, 2);
    greet(&fleet, 2, 1);
    assert_eq!(epoch_of(&say(&fleet, 1, 2)), 2);
    fleet.node(2).open_message(&say(&fleet, 1, 2)).expect("opened");
    assert_eq!(epoch_of(&say(&fleet, 2, 1)), 2);
    // Who restarts, or comes anew, is told again.
    greet(&fleet, 3, 1);
    greet(&fleet, 1, 3);
    let message = say(&fleet, 3, 1);
    assert_eq!(epoch_of(&message), 1);
    fleet.node(1).open_message(&message).expect("opened");
}

#[test]
fn n67_the_old_fleet_key_opens_messages_for_a_window_only() {
    let mut fleet = Fleet::founded();
    greet(&fleet, 1, 2);
    greet(&fleet, 2, 1);
    fleet.hub.rotate_fleet_key(HOUR).expect("rotated");
    give(&fleet, 2);
    let (before, after) = (say(&fleet, 1, 2), say(&fleet, 1, 2));
    let hello = fleet.node(1).hellos(&node_id(2)).expect("sealed");
    fleet.clock.advance(HOUR.checked_sub(NANO).expect("longer"));
    fleet.node(2).open_message(&before).expect("within the window");
    fleet.clock.advance(NANO);
    for old in hello.iter().chain([&after]) {
        let error = refused(fleet.node(2).open_message(old), Code::OldFleetKey);
        assert!(error.what.contains("fleet epoch 1 is over"), "{error}");
    }
    assert_eq!(epoch_of(&say(&fleet, 2, 1)), 2, "what is over is not used either");
    // After a start the window begins anew, for the clock does not tell how long a module was away; it ends again.
    fleet.reopen(2);
    greet(&fleet, 1, 2);
    fleet.clock.advance(HOUR);
    refused(
        fleet.node(2).open_message(&fleet.node(1).hellos(&node_id(2)).expect("sealed")[0]),
        Code::OldFleetKey,
    );
}

#[test]
fn n67_no_window_is_longer_than_a_week() {
    let fleet = Fleet::founded();
    fleet.hub.rotate_fleet_key(Duration::MAX).expect("rotated");
    let rekey = fleet.hub.rekey_for(&node_id(2)).expect("a rekey");
    fleet.node(2).accept_rekey(&rekey, Duration::MAX).expect("taken");
    fleet.clock.advance(MAX_WINDOW);
    let hello = one(fleet.node(1).hellos(&node_id(2)).expect("sealed"));
    refused(fleet.node(2).open_message(&hello), Code::OldFleetKey);
}

#[test]
fn n67_a_shorter_window_counts_and_a_longer_one_does_not() {
    let fleet = Fleet::founded();
    fleet.hub.rotate_fleet_key(HOUR).expect("rotated");
    let rekey = fleet.hub.rekey_for(&node_id(2)).expect("a rekey");
    for window in [HOUR, HOUR / 60, Duration::MAX] {
        fleet.node(2).accept_rekey(&rekey, window).expect("taken");
    }
    let [first, second] = [1, 1].map(|n| one(fleet.node(n).hellos(&node_id(2)).expect("sealed")));
    fleet.clock.advance((HOUR / 60).checked_sub(NANO).expect("longer"));
    fleet.node(2).open_message(&first).expect("within the window");
    fleet.clock.advance(NANO);
    refused(fleet.node(2).open_message(&second), Code::OldFleetKey);
}

#[test]
fn n67_nothing_under_an_erased_fleet_key_is_opened() {
    let used = InUse::new();
    greet(&used.fleet, 1, 2);
    greet(&used.fleet, 2, 1);
    let recorded = say(&used.fleet, 1, 2);
    used.rotate();
    used.renew();
    used.node(2).retire_fleet_key(&used.receipts()).expect("retired");
    refused(used.node(2).open_message(&recorded), Code::OldFleetKey);
}

#[test]
fn n67_a_module_has_two_fleet_keys_at_most_and_takes_no_older_one() {
    let used = InUse::new();
    let first = used.fleet.hub.rekey_for(&node_id(3)).expect("a rekey");
    used.rotate();
    refused(used.fleet.hub.rotate_fleet_key(HOUR), Code::BadState);
    refused(used.node(1).rotate_fleet_key(HOUR), Code::NotAuthorized);
    used.node(3).accept_rekey(&first, HOUR).expect("known, and still here");
    used.renew();
    used.retire();
    refused(used.node(3).accept_rekey(&first, HOUR), Code::StaleVersion);
    // node-4 misses the next two: it keeps what it has until it has erased the one before.
    used.fleet.hub.rotate_fleet_key(HOUR).expect("rotated");
    give(&used.fleet, 4);
    let third = used.fleet.hub.rekey_for(&node_id(5)).expect("a rekey");
    let far = Rekey { fleet_epoch: u64::MAX, ..said::<Rekey>(&third) };
    assert!(
        used.node(5).accept_rekey(&used.fleet.forge("hub", far), HOUR).is_err(),
        "its number is sealed with it"
    );
    used.node(5).accept_rekey(&third, HOUR).expect("taken");
    let state = used.node(4).fleet_key().expect("asked");
    assert_eq!((state.epoch, state.previous), (3, Some(2)));
}

#[test]
fn n67_the_old_key_goes_only_on_proof_that_the_new_one_is_held() {
    let used = InUse::new();
    let of_the_first = used.receipts();
    used.rotate();
    used.renew();
    let node = used.node(1);
    let all = used.receipts();
    refused(node.retire_fleet_key(&[]), Code::NotEnoughShares);
    refused(node.retire_fleet_key(&all[..6]), Code::NotEnoughShares); // without the hub's, the last
    refused(node.retire_fleet_key(&all[4..]), Code::NotEnoughShares); // three of seven
    refused(node.retire_fleet_key(&vec![all[6].clone(); 7]), Code::NotEnoughShares);
    refused(node.retire_fleet_key(&of_the_first), Code::WrongEpoch);
    let mut forged = all[3..].to_vec();
    forged[0] = used.fleet.forge_as("node-5", "node-4", said::<FleetKeyKept>(&all[3]));
    refused(node.retire_fleet_key(&forged), Code::BadSignature);
    assert_eq!(held(&used.fleet, "node-1"), 2);
    let receipt = node.retire_fleet_key(&all[3..]).expect("four of seven, the hub among them");
    assert_eq!(said::<FleetKeyRetired>(&receipt).below, 2);
    assert_eq!(held(&used.fleet, "node-1"), 1);
    assert_eq!(node.retire_fleet_key(&all).expect("again"), receipt);
}

#[test]
fn n67_the_old_key_stays_while_something_stored_needs_it() {
    let used = InUse::new();
    used.rotate();
    let node = used.node(1);
    let error = refused(node.retire_fleet_key(&used.receipts()), Code::BadState);
    assert!(error.what.contains("1 keys and 1 access keys"), "{error}");
    let key = node.renew_outer(&KEY).expect("renewed");
    assert!(learnt(node, &key));
    refused(node.retire_fleet_key(&used.receipts()), Code::BadState);
    let access = used.fleet.hub.renew_access(&used.access).expect("renewed");
    assert!(learnt(node, &access));
    node.retire_fleet_key(&used.receipts()).expect("retired");
    // Others have not learnt it, and so have not erased theirs.
    refused(used.node(2).retire_fleet_key(&used.receipts()), Code::BadState);
}

#[test]
fn n67_a_deleted_key_and_a_disabled_access_key_hold_nothing_up() {
    let used = InUse::new();
    used.rotate();
    used.fleet.tell_all(&[used.node(1).revise_key(&KEY, KeyState::Deleted, None).expect("revised")]);
    let known = one(used.node(1).records(RecordKind::Access).expect("listed"));
    let disabled = AccessKey {
        enabled: false,
        ..statement::read_approved::<AccessKey>(&known).expect("read").body().clone()
    };
    used.fleet.tell_all(&[used.fleet.operator.access_key(disabled, Some(&known), None).expect("signed")]);
    used.retire();
    assert!(!used.signs(used.node(1)));
}

#[test]
fn n67_a_record_under_a_fleet_key_that_is_not_here_is_not_taken() {
    let used = InUse::new();
    used.fleet.hub.rotate_fleet_key(HOUR).expect("rotated");
    give(&used.fleet, 2);
    let renewed = used.node(2).renew_outer(&KEY).expect("renewed");
    assert_eq!(refused_record(used.node(1), &renewed), Code::NoFleetKey);
    let seal = used.fleet.hub.renew_access(&used.access).expect("renewed");
    assert_eq!(refused_record(used.node(1), &seal), Code::NoFleetKey);
    give(&used.fleet, 1);
    assert!(learnt(used.node(1), &renewed) && learnt(used.node(1), &seal));
}

#[test]
fn n92_nobody_puts_other_material_into_a_key_with_a_renewal() {
    let used = InUse::new();
    used.rotate();
    let known = one(used.node(1).records(RecordKind::Key).expect("listed"));
    let (old, hash) = (said::<KeyRecord>(&known), statement::hash_in(&known).expect("a record"));
    let next = KeyRecord { version: 2, parent: hash, ..old.clone() };
    let context = token::TokenContext {
        domain: domain(),
        key_id: "07".repeat(16),
        key_version: 1,
        domain_key_version: 1,
    };
    let wrap = |inner: &[u8], epoch: u64| {
        let under = stolen_wrap(&used.fleet, epoch);
        Some(Bytes(token::wrap_outer(inner, &context, &under, epoch, &mut rng()).expect("wrapped")))
    };
    let first = stolen_wrap(&used.fleet, 1);
    let inner = token::open_outer(&old.token.as_ref().expect("a token").0, &context, &|_| Some(&first));
    let inner = inner.expect("the context is the module's");
    let other = vec![1; inner.len()];
    let refuse = |token, code| {
        let forged = used.fleet.forge("node-2", KeyRecord { token, ..next.clone() });
        assert_eq!(refused_record(used.node(1), &forged), code);
    };
    refuse(wrap(&other, 2), Code::BadState);
    refuse(wrap(&inner, 1), Code::BadState); // the same epoch again: nothing is renewed
    let honest = used.fleet.forge("node-2", KeyRecord { token: wrap(&inner, 2), ..next.clone() });
    assert!(learnt(used.node(1), &honest));
    // Nor back under the key that is about to go.
    let back = KeyRecord {
        version: 3,
        parent: statement::hash_in(&honest).expect("a record"),
        token: wrap(&inner, 1),
        ..old
    };
    assert_eq!(refused_record(used.node(1), &used.fleet.forge("node-2", back)), Code::BadState);
}

#[test]
fn n92_a_stolen_hub_changes_no_access_keys_secret() {
    let mut used = InUse::new();
    let seal_of = |used: &InUse, secret: &str, epoch: u64, version: u64| {
        let under = use_key(&used.fleet, epoch, "access");
        let aad = encode(&used.access);
        let sealed =
            sealed::seal(under.expose(), "quorate/v1/access/secret", &aad, secret.as_bytes(), &mut rng());
        AccessSeal {
            fleet: used.fleet.operator.fleet(),
            access_key_id: used.access.clone(),
            access_version: version,
            fleet_epoch: epoch,
            sealed: Bytes(sealed.expect("sealed")),
        }
    };
    used.rotate();
    let theirs = used.fleet.forge("hub", seal_of(&used, "known to the thief", 2, 1));
    assert_eq!(refused_record(used.node(1), &theirs), Code::KeyCommitment);
    let right = seal_of(&used, &used.secret, 2, 1);
    let by_a_node = used.fleet.forge("node-2", right.clone());
    assert_eq!(refused_record(used.node(1), &by_a_node), Code::NotAuthorized);
    let unknown = used.fleet.forge("hub", AccessSeal { access_version: 2, ..right.clone() });
    assert_eq!(refused_record(used.node(1), &unknown), Code::UnknownKey);
    let same_epoch = used.fleet.forge("hub", seal_of(&used, &used.secret, 1, 1));
    assert_eq!(refused_record(used.node(1), &same_epoch), Code::StaleVersion);
    used.fleet.tell_all(&[used.fleet.forge("hub", right)]);
    assert!(used.signs(used.node(1)));
    // A node that never had the old key goes by what the operator committed to.
    used.fleet.tell_all(&[used.node(1).renew_outer(&KEY).expect("renewed")]);
    used.retire();
    used.fleet.enrol(7);
    let late = used.node(7);
    assert!(learnt(late, &one(used.node(1).records(RecordKind::Access).expect("listed"))));
    assert_eq!(refused_record(late, &theirs), Code::KeyCommitment);
    assert!(learnt(late, &one(used.node(1).records(RecordKind::Seal).expect("listed"))));
    assert!(used.signs(late));
}

#[test]
fn an_access_key_of_an_earlier_release_is_renewed_where_it_can_be_compared_and_nowhere_else() {
    let mut used = InUse::new();
    let known = one(used.node(1).records(RecordKind::Access).expect("listed"));
    let known = statement::read_approved::<AccessKey>(&known).expect("read");
    // [fleet epoch, sealed], without the commitment that is now the third.
    let now = known.body().sealed.0.clone();
    let mut earlier = vec![0x82];
    earlier.extend_from_slice(&now[1..now.len() - 34]);
    let old = AccessKey { version: 2, parent: known.hash(), sealed: Bytes(earlier), ..known.body().clone() };
    let old = used.fleet.forge_approval("operator", &old);
    used.fleet.tell_all(std::slice::from_ref(&old));
    assert!(used.signs(used.node(1)));
    used.rotate();
    assert_eq!(used.fleet.hub.fleet_key().expect("asked").uncommitted, [used.access.clone()]);
    used.renew();
    used.retire();
    assert!(used.signs(used.node(1)));
    used.fleet.enrol(7);
    assert!(learnt(used.node(7), &old));
    let seal = one(used.node(1).records(RecordKind::Seal).expect("listed"));
    assert_eq!(refused_record(used.node(7), &seal), Code::NoFleetKey);
    assert!(!used.signs(used.node(7)));
    // A new version of it by the operator, disabled, is taken as ever.
    let disabled = AccessKey {
        enabled: false,
        ..statement::read_approved::<AccessKey>(&old).expect("read").body().clone()
    };
    let disabled = used.fleet.operator.access_key(disabled, Some(&old), None).expect("signed");
    assert!(learnt(used.node(7), &disabled));
}
