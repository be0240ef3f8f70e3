//! Ciphertext blobs: round trips, and attacks N78, N79, N80, N82.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;

use proptest::prelude::*;
use quorate_core::error::Code;
use quorate_core::keys::blob::{self, BlobHeader, MAX_PLAINTEXT, OVERHEAD};
use quorate_core::keys::random;
use quorate_core::memory::Secret;
use quorate_core::rng::SystemRng;
use rand_core::{TryCryptoRng, TryRng};

const HEADER: usize = 21;
const SALT: usize = HEADER + 32;
const COMMITMENT: usize = SALT + 32;
const KEY_ID: [u8; 16] = [0xab; 16];

/// The same bytes at every call: the worst generator, so that equal salts can be studied.
struct Stuck;

impl TryRng for Stuck {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(0)
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(0)
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Infallible> {
        dest.fill(7);
        Ok(())
    }
}

impl TryCryptoRng for Stuck {}

fn key(byte: u8) -> Secret<32> {
    Secret::take_from(&mut [byte; 32]).expect("arena")
}

fn context(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn encrypt(pairs: &[(&str, &str)], plaintext: &[u8]) -> Vec<u8> {
    blob::encrypt(&key(1), KEY_ID, 3, &context(pairs), plaintext, &mut SystemRng).expect("encrypts")
}

fn refusal(backing: &Secret<32>, pairs: &[(&str, &str)], text: &[u8]) -> Code {
    blob::decrypt(backing, &context(pairs), text).expect_err("refused").code
}

#[test]
fn a_blob_names_its_key_and_costs_101_bytes() {
    let made = encrypt(&[], b"x");
    assert_eq!(OVERHEAD, 101);
    assert_eq!(made.len(), OVERHEAD + 1);
    assert_eq!(
        blob::parse_header(&made).expect("a header"),
        BlobHeader { version: 1, key_id: KEY_ID, key_version: 3 }
    );
}

#[test]
fn n78_only_the_exact_context_opens() {
    let pairs = [("Tenant", "acme"), ("purpose", "caf\u{e9}")];
    let text = encrypt(&pairs, b"secret");
    let wrong: [&[(&str, &str)]; 12] = [
        &[],
        &[("Tenant", "acme")],
        &[("tenant", "acme"), ("purpose", "caf\u{e9}")],
        &[("Tenant", "Acme"), ("purpose", "caf\u{e9}")],
        &[("Tenant", "acme "), ("purpose", "caf\u{e9}")],
        &[("Tenant", "acme"), ("purpose", "cafe\u{301}")],
        &[("Tenant", "caf\u{e9}"), ("purpose", "acme")],
        &[("Tenanta", "cme"), ("purpose", "caf\u{e9}")],
        &[("acme", "Tenant"), ("purpose", "caf\u{e9}")],
        &[("Tenant", "acmepurpose"), ("", "caf\u{e9}")],
        &[("Tenant", "acme"), ("purpose", "caf\u{e9}"), ("", "")],
        &[("Tenant", "acme"), ("purpose", "caf\u{e9}"), ("x", "y")],
    ];
    for pairs in wrong {
        assert_eq!(refusal(&key(1), pairs, &text), Code::KeyCommitment, "{pairs:?}");
    }
    assert_eq!(*blob::decrypt(&key(1), &context(&pairs), &text).expect("opens"), b"secret");
    let reordered = context(&[pairs[1], pairs[0]]);
    assert_eq!(*blob::decrypt(&key(1), &reordered, &text).expect("opens"), b"secret");
}

#[test]
fn n78_a_context_is_not_optional_once_absent() {
    let text = encrypt(&[], b"secret");
    assert_eq!(refusal(&key(1), &[("a", "b")], &text), Code::KeyCommitment);
    assert_eq!(refusal(&key(1), &[("", "")], &text), Code::KeyCommitment);
}

#[test]
fn n78_a_context_that_names_a_key_twice_is_refused() {
    let twice = context(&[("a", "1"), ("b", "2"), ("a", "1")]);
    let error = blob::encrypt(&key(1), KEY_ID, 1, &twice, b"x", &mut SystemRng).expect_err("refused");
    assert_eq!(error.code, Code::BadEncoding);
    let text = encrypt(&[("a", "1"), ("b", "2")], b"x");
    assert_eq!(blob::decrypt(&key(1), &twice, &text).expect_err("refused").code, Code::BadEncoding);
}

#[test]
fn n78_another_keys_ciphertext_swapped_in_is_refused() {
    assert_eq!(refusal(&key(2), &[], &encrypt(&[], b"secret")), Code::KeyCommitment);
}

#[test]
fn n79_a_plaintext_has_1_to_4096_bytes() {
    let try_len = |len: usize| {
        blob::encrypt(&key(1), KEY_ID, 1, &[], &vec![0; len], &mut SystemRng).map_err(|e| e.code)
    };
    assert_eq!(try_len(0), Err(Code::BadEncoding));
    for len in [1, MAX_PLAINTEXT] {
        let text = try_len(len).expect("encrypts");
        assert_eq!(blob::decrypt(&key(1), &[], &text).expect("opens").len(), len);
    }
    for len in [MAX_PLAINTEXT + 1, 1 << 20] {
        assert_eq!(try_len(len), Err(Code::TooLarge));
    }
    assert_eq!(MAX_PLAINTEXT, 4096);
}

#[test]
fn n79_an_oversized_ciphertext_is_refused_before_it_is_decrypted() {
    let mut text = encrypt(&[], &[0; MAX_PLAINTEXT]);
    assert!(blob::parse_header(&text).is_ok());
    text.push(0);
    assert_eq!(blob::parse_header(&text).expect_err("refused").code, Code::TooLarge);
    assert_eq!(refusal(&key(1), &[], &text), Code::TooLarge);
}

#[test]
fn n80_a_hundred_thousand_messages_never_share_a_salt_or_a_commitment() {
    let mut salts = HashSet::new();
    let mut commitments = HashSet::new();
    for i in 0..100_000 {
        let text = encrypt(&[], b"the same message");
        assert!(salts.insert(text[HEADER..SALT].to_vec()), "message {i} repeats a salt");
        assert!(commitments.insert(text[SALT..COMMITMENT].to_vec()), "message {i} repeats a key");
    }
}

/// Even if a salt repeated, messages of another header, context or backing key have other message keys.
#[test]
fn n80_an_equal_salt_still_gives_other_keys_under_another_header_or_context() {
    let stuck = |backing: u8, id: [u8; 16], version: u32, pairs: &[(&str, &str)]| {
        blob::encrypt(&key(backing), id, version, &context(pairs), &[0; 64], &mut Stuck).expect("encrypts")
    };
    let texts = [
        stuck(1, KEY_ID, 1, &[]),
        stuck(1, KEY_ID, 2, &[]),
        stuck(1, [0xac; 16], 1, &[]),
        stuck(1, KEY_ID, 1, &[("a", "b")]),
        stuck(2, KEY_ID, 1, &[]),
    ];
    assert_eq!(texts[0], stuck(1, KEY_ID, 1, &[]), "the generator is not stuck: this test shows nothing");
    let mut commitments = HashSet::new();
    let mut keystreams = HashSet::new(); // the plaintext is zeroes
    for text in &texts {
        assert_eq!(text[HEADER..SALT], [7; 32]);
        assert!(commitments.insert(&text[SALT..COMMITMENT]));
        assert!(keystreams.insert(&text[COMMITMENT..COMMITMENT + 64]));
    }
}

#[test]
fn n82_every_truncation_is_refused() {
    let text = encrypt(&[("a", "b")], b"twenty bytes of text");
    for len in 0..text.len() {
        let want = if len <= OVERHEAD { Code::BadEncoding } else { Code::NotOpened };
        assert_eq!(refusal(&key(1), &[("a", "b")], &text[..len]), want, "{len} bytes");
    }
    let longer = [text.as_slice(), &[0]].concat();
    assert_eq!(refusal(&key(1), &[("a", "b")], &longer), Code::NotOpened);
}

#[test]
fn n82_a_tag_cut_short_is_refused_whatever_the_plaintexts_length() {
    for len in [1, 15, 16, 17, 200] {
        let text = encrypt(&[], &vec![9; len]);
        for cut in 1..=16 {
            let code = refusal(&key(1), &[], &text[..text.len() - cut]);
            assert!(matches!(code, Code::BadEncoding | Code::NotOpened), "{code:?}");
        }
    }
}

#[test]
fn n82_every_flipped_bit_is_refused() {
    let text = encrypt(&[("a", "b")], b"twenty bytes of text");
    for bit in 0..text.len() * 8 {
        let mut altered = text.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let want = match bit / 8 {
            0 => Code::BadEncoding,
            1..COMMITMENT => Code::KeyCommitment,
            _ => Code::NotOpened,
        };
        assert_eq!(refusal(&key(1), &[("a", "b")], &altered), want, "bit {bit}");
    }
}

#[test]
fn n82_no_other_version_byte_is_read() {
    let mut text = encrypt(&[], b"x");
    for version in (0..=255).filter(|v| *v != blob::VERSION) {
        text[0] = version;
        assert_eq!(blob::parse_header(&text).expect_err("refused").code, Code::BadEncoding);
        assert_eq!(refusal(&key(1), &[], &text), Code::BadEncoding);
    }
}

#[test]
fn n82_headers_and_parts_of_two_blobs_do_not_mix() {
    let make = |version| {
        blob::encrypt(&key(1), KEY_ID, version, &[], b"some text", &mut SystemRng).expect("encrypts")
    };
    let (a, b) = (make(1), make(2));
    let splice = |at: usize| [&a[..at], &b[at..]].concat();
    assert_eq!(refusal(&key(1), &[], &splice(HEADER)), Code::KeyCommitment);
    assert_eq!(refusal(&key(1), &[], &splice(SALT)), Code::KeyCommitment);
    assert_eq!(refusal(&key(1), &[], &splice(COMMITMENT)), Code::NotOpened);
    assert_eq!(refusal(&key(1), &[], &splice(a.len() - 16)), Code::NotOpened);
}

#[test]
fn random_bytes_are_asked_for_1_to_1024_at_a_time() {
    let code = |n| random::bytes(n, &mut SystemRng).map_err(|e| e.code).map(|b| b.len());
    assert_eq!(code(0), Err(Code::BadEncoding));
    assert_eq!(code(1), Ok(1));
    assert_eq!(code(1024), Ok(1024));
    assert_eq!(code(1025), Err(Code::TooLarge));
    let bytes = random::bytes(32, &mut SystemRng).expect("random");
    assert_ne!(*bytes, *random::bytes(32, &mut SystemRng).expect("random"));
}

proptest! {
    #[test]
    fn what_was_encrypted_is_decrypted(
        backing: [u8; 32],
        key_id: [u8; 16],
        key_version: u32,
        pairs in prop::collection::btree_map(".{0,20}", ".{0,20}", 0..6),
        plaintext in prop::collection::vec(any::<u8>(), 1..=MAX_PLAINTEXT),
    ) {
        let backing = Secret::take_from(&mut { backing }).expect("arena");
        let mut pairs: Vec<(String, String)> = BTreeMap::into_iter(pairs).collect();
        let text = blob::encrypt(&backing, key_id, key_version, &pairs, &plaintext, &mut SystemRng)
            .expect("encrypts");
        prop_assert_eq!(text.len(), plaintext.len() + OVERHEAD);
        let header = blob::parse_header(&text).expect("a header");
        prop_assert_eq!((header.key_id, header.key_version), (key_id, key_version));
        pairs.reverse();
        prop_assert_eq!(&*blob::decrypt(&backing, &pairs, &text).expect("opens"), &plaintext);
    }

    #[test]
    fn nonsense_is_never_opened(text in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(blob::decrypt(&key(1), &[], &text).is_err());
    }
}
