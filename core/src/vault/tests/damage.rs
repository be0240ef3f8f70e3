//! What an open refuses: wrong roots, damaged or missing files, other formats, a second opener.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::super::faults::FaultyDisk;
use super::super::root::{Frame, HEADER, KEY_FILE};
use super::super::{FORMAT, Root, SLOTS, STORE, Vault, read_passphrase};
use super::{Scratch, bytes_of, contents, create, made, open, put, put_secret, refusal, rng};
use crate::encoding::{decode, encode};
use crate::error::Code;

/// A vault with a few records, closed.
fn filled() -> Scratch {
    let scratch = Scratch::new();
    let mut vault = create(&scratch);
    vault.commit(&[put(b"a", b"1"), put_secret(b"s", b"2")], &mut rng()).expect("committed");
    let long = vec![5; 10_000];
    vault.commit(&[put(b"a", &long), put_secret(b"t", b"3")], &mut rng()).expect("committed");
    scratch
}

fn with_passphrase(passphrase: &[u8]) -> (Scratch, Root<'_>) {
    let scratch = Scratch::new();
    drop(made(&scratch.vault(), Root::Passphrase(passphrase), &FaultyDisk::default()).expect("created"));
    (scratch, Root::Passphrase(passphrase))
}

#[test]
fn a_wrong_passphrase_is_told_from_damage_and_changes_nothing() {
    let (scratch, right) = with_passphrase(b"right");
    let before = bytes_of(&scratch.vault());
    for wrong in [b"wrong".as_slice(), b"right ", b"Right", b""] {
        let opened = Vault::open(&scratch.vault(), Root::Passphrase(wrong), &mut rng());
        assert_eq!(refusal(opened), Code::WrongPassphrase);
    }
    assert_eq!(refusal(Vault::open(&scratch.vault(), Root::KeyFile, &mut rng())), Code::WrongPassphrase);
    assert_eq!(bytes_of(&scratch.vault()), before);
    assert!(!scratch.vault().join(KEY_FILE).exists());
    Vault::open(&scratch.vault(), right, &mut rng()).expect("the right one opens");
}

#[test]
fn an_empty_passphrase_makes_no_vault() {
    let scratch = Scratch::new();
    let refused = made(&scratch.vault(), Root::Passphrase(b""), &FaultyDisk::default());
    assert_eq!(refusal(refused), Code::WrongPassphrase);
    assert_eq!(refusal(open(&scratch)), Code::VaultMissing);
    drop(create(&scratch));
}

#[test]
fn a_passphrase_file_is_read_without_its_lines_end() {
    let scratch = Scratch::new();
    let path = scratch.0.join("passphrase");
    let read = |content: &[u8]| {
        fs::write(&path, content).expect("written");
        read_passphrase(&path).map(|found| found.to_vec()).map_err(|e| e.code)
    };
    for content in [b"a b".as_slice(), b"a b\n", b"a b\r\n"] {
        assert_eq!(read(content), Ok(b"a b".to_vec()));
    }
    assert_eq!(read(b"a b\n\n"), Ok(b"a b\n".to_vec()));
    assert_eq!(read(b"\n"), Err(Code::WrongPassphrase));
    assert_eq!(read(&[b'x'; 1024]), Ok(vec![b'x'; 1024]));
    assert_eq!(read(&[b'x'; 1025]), Err(Code::TooLarge));
    assert_eq!(read(&vec![b'x'; 1 << 20]), Err(Code::TooLarge));
    assert_eq!(refusal(read_passphrase(&scratch.0.join("none"))), Code::Storage);
}

#[test]
fn a_vault_with_a_key_file_takes_no_passphrase() {
    let scratch = filled();
    let opened = Vault::open(&scratch.vault(), Root::Passphrase(b"x"), &mut rng());
    assert_eq!(refusal(opened), Code::WrongPassphrase);
}

#[test]
fn a_missing_vault_is_told_from_a_damaged_one() {
    let scratch = Scratch::new();
    assert_eq!(refusal(open(&scratch)), Code::VaultMissing);
    fs::create_dir(scratch.vault()).expect("made");
    assert_eq!(refusal(open(&scratch)), Code::VaultMissing);
    fs::write(scratch.vault().join("notes"), b"").expect("written");
    assert_eq!(refusal(open(&scratch)), Code::VaultMissing);
    for name in [HEADER, KEY_FILE, SLOTS, STORE] {
        let scratch = filled();
        fs::remove_file(scratch.vault().join(name)).expect("removed");
        let before = bytes_of(&scratch.vault());
        assert_eq!(refusal(open(&scratch)), Code::VaultCorrupt, "{name}");
        assert_eq!(bytes_of(&scratch.vault()), before, "{name}");
    }
}

#[test]
fn a_vault_is_made_in_an_empty_directory_only() {
    let scratch = filled();
    let before = bytes_of(&scratch.vault());
    assert_eq!(refusal(made(&scratch.vault(), Root::KeyFile, &FaultyDisk::default())), Code::AlreadyExists);
    assert_eq!(bytes_of(&scratch.vault()), before);
    let scratch = Scratch::new();
    fs::create_dir(scratch.vault()).expect("made");
    drop(create(&scratch));
    open(&scratch).expect("opened");
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let scratch = Scratch::new();
    let vault = create(&scratch);
    assert_eq!(refusal(open(&scratch)), Code::VaultInUse);
    drop(vault);
    let vault = open(&scratch).expect("opened");
    assert_eq!(refusal(open(&scratch)), Code::VaultInUse);
    drop(vault);
    open(&scratch).expect("opened");
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    let scratch = filled();
    let path = scratch.vault().join(KEY_FILE);
    for mode in [0o640, 0o604, 0o620, 0o610, 0o601, 0o777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        assert_eq!(refusal(open(&scratch)), Code::BadState, "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("set");
    open(&scratch).expect("opened");
}

#[test]
fn a_key_file_of_another_vault_or_length_or_behind_a_link_is_refused() {
    let scratch = filled();
    let path = scratch.vault().join(KEY_FILE);
    let right = fs::read(&path).expect("the key");
    for wrong in [vec![0; 32], right[..31].to_vec(), [&right[..], &[0]].concat(), Vec::new()] {
        fs::write(&path, wrong).expect("written");
        assert_eq!(refusal(open(&scratch)), Code::VaultCorrupt);
    }
    fs::remove_file(&path).expect("removed");
    let elsewhere = scratch.0.join("key");
    fs::write(&elsewhere, right).expect("written");
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).expect("set");
    symlink(&elsewhere, &path).expect("linked");
    assert_eq!(refusal(open(&scratch)), Code::Storage);
}

#[test]
fn another_format_is_named() {
    let scratch = filled();
    let path = scratch.vault().join(HEADER);
    let frame: Frame = decode(&fs::read(&path).expect("the header")).expect("a header");
    let newer = encode(&Frame { version: FORMAT + 1, ..frame.clone() });
    fs::write(&path, newer).expect("written");
    let error = open(&scratch).err().expect("refused");
    assert_eq!(error.code, Code::VaultVersion);
    fs::write(&path, encode(&Frame { magic: "another".to_owned(), ..frame })).expect("written");
    assert_eq!(refusal(open(&scratch)), Code::VaultCorrupt);
}

/// Opens the damaged copy: either it is refused as damaged, with nothing lost (the damaged file is as it
/// was, and the right one in its place opens the whole), or the damage hit nothing that counts and
/// everything is there. Returns whether it was refused.
fn refused_or_whole(intact: &Scratch, name: &str, bytes: &[u8], note: &str) -> bool {
    let scratch = intact.copy();
    let path = scratch.vault().join(name);
    let right = fs::read(&path).expect("a file");
    let whole = |vault: Vault| {
        let want = contents(&open(intact).expect("opened"));
        assert_eq!((contents(&vault), vault.generation()), (want, 2), "{name} {note}");
    };
    fs::write(&path, bytes).expect("written");
    match open(&scratch) {
        Ok(vault) => {
            whole(vault);
            false
        }
        Err(error) => {
            let codes = [Code::VaultCorrupt, Code::VaultVersion, Code::WrongPassphrase];
            assert!(codes.contains(&error.code), "{name} {note}: {error}");
            assert!(fs::read(&path).expect("a file") == bytes, "{name} {note}: a refused open wrote");
            fs::write(&path, right).expect("written");
            whole(open(&scratch).expect("the right file opens"));
            true
        }
    }
}

#[test]
fn a_damaged_byte_anywhere_is_refused_or_harmless() {
    let scratch = filled();
    for (name, stride) in [(HEADER, 1), (KEY_FILE, 1), (SLOTS, 37), (STORE, 1999)] {
        let bytes = fs::read(scratch.vault().join(name)).expect("a file");
        // The store's first bytes are its own header: all of them.
        let dense = if name == STORE { 400 } else { 6 * 64 };
        let places = (0..dense.min(bytes.len())).chain((dense..bytes.len()).step_by(stride));
        let mut refused = 0;
        for at in places {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            refused += usize::from(refused_or_whole(&scratch, name, &damaged, &format!("byte {at}")));
        }
        if [HEADER, KEY_FILE].contains(&name) {
            assert_eq!(refused, bytes.len(), "{name}");
        }
        assert!(refused > 0, "{name}");
    }
}

#[test]
fn a_file_that_was_cut_short_or_is_another_thing_is_refused() {
    let scratch = filled();
    for name in [HEADER, KEY_FILE, SLOTS, STORE] {
        let bytes = fs::read(scratch.vault().join(name)).expect("a file");
        let len = bytes.len();
        for cut in [0, 1, 31, 64, 511, 512, 4096, len / 3, len / 2, len - 1] {
            if cut < len {
                let note = format!("cut to {cut}");
                assert!(refused_or_whole(&scratch, name, &bytes[..cut], &note), "{name} {note}");
            }
        }
        for other in [vec![0; len], vec![0xff; len], b"#!/bin/sh\n".to_vec()] {
            assert!(refused_or_whole(&scratch, name, &other, "another thing"), "{name}");
        }
    }
}
