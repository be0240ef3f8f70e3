//! What an erasure leaves for someone who keeps old copies of the store (row N88).

use std::collections::BTreeMap;
use std::fs;

use redb::{Builder, ReadableDatabase, ReadableTable};

use super::super::crypt::{self, Name};
use super::super::slots::SLOT;
use super::super::{Change, RECORDS, SLOTS, STORE, Vault};
use super::{Scratch, create, erase, open, put, put_secret, refusal, rng};
use crate::error::Code;

/// A vault with secrets "s" and "kept", and the two changing files as they were before `change`.
fn erased_by(change: Change<'_>) -> (Scratch, Vault, Vec<u8>, Vec<u8>) {
    let scratch = Scratch::new();
    let mut vault = create(&scratch);
    vault.commit(&[put_secret(b"s", b"share"), put_secret(b"kept", b"x")], &mut rng()).expect("committed");
    drop(vault);
    let old = |name| fs::read(scratch.vault().join(name)).expect("a file");
    let (store, slots) = (old(STORE), old(SLOTS));
    let mut vault = open(&scratch).expect("opened");
    vault.commit(&[change], &mut crate::rng::SeededRng::new(9)).expect("committed");
    (scratch, vault, store, slots)
}

/// Which secrets of a store open under the root key with any key that lies in `slots`: what an attacker
/// with the root key, the store and the slots can try.
fn opened_with(vault: &Vault, store: &[u8], slots: &[u8]) -> BTreeMap<Vec<u8>, bool> {
    let scratch = Scratch::new();
    let path = scratch.0.join("old");
    fs::write(&path, store).expect("written");
    let db = Builder::new().create(&path).expect("a store");
    let records = db.begin_read().expect("read").open_table(RECORDS).expect("a table");
    let mut found = BTreeMap::new();
    for entry in records.iter().expect("entries") {
        let (key, stored) = entry.expect("an entry");
        let (table, id) = key.value();
        let opens = slots.chunks_exact(SLOT).any(|slot| {
            let key: [u8; 32] = slot[..32].try_into().expect("a key");
            let sealed = crypt::parse(stored.value()).expect("a record");
            crypt::open(&vault.root, Some(&key), Name { table, id }, sealed).is_ok()
        });
        found.insert(id.to_vec(), opens);
    }
    found
}

#[test]
fn n88_an_erased_record_in_an_old_store_never_opens_even_with_the_root_key() {
    let again = Change::PutSecret { table: "secret", id: b"s", value: b"other" };
    for change in [erase(b"s"), Change::Delete { table: "secret", id: b"s" }, put(b"s", b""), again] {
        let change = if let Change::Put { id, value, .. } = change {
            // A plain record in the secret one's place.
            Change::Put { table: "secret", id, value }
        } else {
            change
        };
        let (scratch, vault, old_store, old_slots) = erased_by(change);
        let both = BTreeMap::from([(b"kept".to_vec(), true), (b"s".to_vec(), true)]);
        assert_eq!(opened_with(&vault, &old_store, &old_slots), both, "the attack works before the erasure");
        let slots = fs::read(scratch.vault().join(SLOTS)).expect("the slots");
        let left = BTreeMap::from([(b"kept".to_vec(), true), (b"s".to_vec(), false)]);
        assert_eq!(opened_with(&vault, &old_store, &slots), left);
    }
}

#[test]
fn n88_an_old_store_put_back_beside_the_new_slots_is_refused() {
    let (scratch, vault, old_store, old_slots) = erased_by(erase(b"s"));
    drop(vault);
    fs::write(scratch.vault().join(STORE), &old_store).expect("written");
    let error = open(&scratch).err().expect("refused");
    assert_eq!(error.code, Code::VaultCorrupt);
    assert!(error.what.contains("older than the slots"), "{error}");

    // With the old marks too: the generation fits, the erased slot does not.
    let mut slots = fs::read(scratch.vault().join(SLOTS)).expect("the slots");
    slots[..2 * SLOT].copy_from_slice(&old_slots[..2 * SLOT]);
    fs::write(scratch.vault().join(SLOTS), &slots).expect("written");
    let error = open(&scratch).err().expect("refused");
    assert_eq!(error.code, Code::VaultCorrupt);
    assert!(error.what.contains("a slot that a record needs"), "{error}");
}

#[test]
fn n88_the_files_hold_no_secret_and_no_slot_key_twice() {
    let scratch = Scratch::new();
    let mut vault = create(&scratch);
    let value = b"a share that must not be seen!!!";
    let mut other = crate::rng::SeededRng::new(9);
    vault.commit(&[put_secret(b"s", value), put(b"p", value)], &mut other).expect("committed");
    drop(vault);
    let slots = fs::read(scratch.vault().join(SLOTS)).expect("the slots");
    for (path, bytes) in super::bytes_of(&scratch.vault()) {
        assert!(!bytes.windows(value.len()).any(|w| w == value), "{}", path.display());
        if !path.ends_with(SLOTS) {
            let key = &slots[2 * SLOT..2 * SLOT + 32];
            assert!(!bytes.windows(32).any(|w| w == key), "{}", path.display());
        }
    }
}

#[test]
fn a_record_moved_to_another_name_or_vault_does_not_open() {
    let (one, other) = (Scratch::new(), Scratch::new());
    for scratch in [&one, &other] {
        create(scratch).commit(&[put(b"a", b"1"), put(b"b", b"2")], &mut rng()).expect("committed");
    }
    let swap = |scratch: &Scratch| {
        let db = Builder::new().open(scratch.vault().join(STORE)).expect("a store");
        let tx = db.begin_write().expect("begun");
        {
            let mut records = tx.open_table(RECORDS).expect("a table");
            let a = records.get(("plain", b"a".as_slice())).expect("read").expect("there").value().to_vec();
            records.insert(("plain", b"b".as_slice()), a.as_slice()).expect("inserted");
        }
        tx.commit().expect("committed");
    };
    swap(&one);
    assert_eq!(refusal(open(&one)), Code::VaultCorrupt);

    let third = Scratch::new();
    drop(Vault::create_with(
        &third.vault(),
        super::Root::KeyFile,
        &mut crate::rng::SeededRng::new(77),
        |_, _| Ok(()),
        &super::FaultyDisk::default(),
    ));
    fs::copy(other.vault().join(STORE), third.vault().join(STORE)).expect("copied");
    assert_eq!(refusal(open(&third)), Code::VaultCorrupt);
}
