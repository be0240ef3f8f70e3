use std::path::Path;

use curve25519_dalek::montgomery::MontgomeryPoint;
use serde_json::Value;

use super::*;
use crate::encoding::decode;
use crate::rng::SeededRng;

const AES_128_GCM: Aead = Aead { id: 0x0001, algorithm: &aead::AES_128_GCM };
const CHACHA20_POLY1305: Aead = Aead { id: 0x0003, algorithm: &aead::CHACHA20_POLY1305 };

fn vectors(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(name);
    let all: Value = serde_json::from_slice(&std::fs::read(path).expect("vectors")).expect("JSON");
    all.as_array().expect("a list").clone()
}

fn field(of: &Value, name: &str) -> Vec<u8> {
    hex::decode(of[name].as_str().expect("text")).expect("hex")
}

fn cipher(test: &Value) -> Option<Aead> {
    match test["aead_id"].as_u64().expect("number") {
        1 => Some(AES_128_GCM),
        2 => Some(AES_256_GCM),
        3 => Some(CHACHA20_POLY1305),
        _ => None,
    }
}

fn private(seed: &[u8]) -> KemPrivate {
    let mut seed: [u8; 32] = seed.try_into().expect("32 bytes");
    KemPrivate::from_seed(Secret::take_from(&mut seed).expect("arena")).expect("a key")
}

/// The key schedule does not depend on the KEM, so RFC 9180's own vectors check it from their shared
/// secrets on: the first encryption of each suite with HKDF-SHA256.
#[test]
fn the_key_schedule_agrees_with_rfc_9180() {
    let mut checked = 0;
    let all = [vectors("hpke/rfc9180-base.json"), vectors("hpke/hpke-pq-test-vectors.json")].concat();
    for test in &all {
        let (Some(cipher), Some(1)) = (cipher(test), test["kdf_id"].as_u64()) else { continue };
        let kem = u16::try_from(test["kem_id"].as_u64().expect("number")).expect("16 bits");
        let (key, nonce) =
            key_schedule(kem, &cipher, &field(test, "shared_secret"), &field(test, "info")).expect("keys");
        assert_eq!(nonce.as_ref().as_slice(), field(test, "base_nonce"));
        let first = &test["encryptions"][0];
        let mut sealed = field(first, "pt");
        key.seal_in_place_append_tag(nonce, aead::Aad::from(field(first, "aad")), &mut sealed)
            .expect("seals");
        assert_eq!(sealed, field(first, "ct"), "KEM {kem:#06x}, AEAD {}", cipher.id);
        checked += 1;
    }
    assert!(checked >= 12, "{checked} suites");
}

#[test]
fn x_wing_agrees_with_its_draft() {
    let all = vectors("xwing/test-vectors.json");
    assert_eq!(all.len(), 3);
    for test in &all {
        let key = private(&field(test, "seed"));
        assert_eq!(key.public().as_bytes().as_slice(), field(test, "pk"));
        let seed: [u8; 64] = field(test, "eseed").try_into().expect("64 bytes");
        let (shared, enc) = encapsulate(key.public(), &seed).expect("encapsulates");
        assert_eq!(enc, field(test, "ct"));
        assert_eq!(*shared, field(test, "ss"));
        assert_eq!(*decapsulate(&key, &enc).expect("decapsulates"), field(test, "ss"));
    }
}

#[test]
fn hpke_with_x_wing_agrees_with_its_draft() {
    let mut checked = 0;
    for test in vectors("hpke/hpke-pq-test-vectors.json") {
        if test["kem_id"].as_u64() != Some(u64::from(KEM_ID)) || test["kdf_id"].as_u64() != Some(1) {
            continue;
        }
        let cipher = cipher(&test).expect("an AEAD");
        let key = private(&field(&test, "skRm"));
        assert_eq!(key.public().as_bytes().as_slice(), field(&test, "pkRm"));
        let first = &test["encryptions"][0];
        let (info, aad, pt) = (field(&test, "info"), field(first, "aad"), field(first, "pt"));
        let want = [field(&test, "enc"), field(first, "ct")].concat();
        let seed: [u8; 64] = field(&test, "ikmE").try_into().expect("64 bytes");
        let sealed = seal_with(&cipher, key.public(), &info, &aad, &pt, &seed).expect("seals");
        assert_eq!(sealed, want);
        assert_eq!(*open_with(&cipher, &key, &info, &aad, &want).expect("opens"), pt);
        checked += 1;
    }
    assert_eq!(checked, 1);
}

fn info() -> Info {
    Info {
        suite: SUITE.into(),
        kind: "answer".into(),
        fleet: FleetId([1; 16]),
        sender: NodeId::new("a").expect("name"),
        recipient: NodeId::new("b").expect("name"),
        domain: Some(DomainId::new("default").expect("name")),
        epoch: Epoch(3),
        index: Some(ShareIndex::new(2).expect("index")),
        context: Bytes(vec![5; 32]),
    }
}

fn sealed_to(seed: u64) -> (KemPrivate, Vec<u8>) {
    let mut rng = SeededRng::new(seed);
    let key = KemPrivate::generate(&mut rng).expect("a key");
    let sealed = seal(key.public(), &info().bytes(), b"aad", b"sub-share", &mut rng).expect("seals");
    (key, sealed)
}

#[test]
fn what_is_sealed_opens_for_its_recipient_alone() {
    let (key, sealed) = sealed_to(1);
    assert_eq!(sealed.len(), b"sub-share".len() + OVERHEAD);
    assert_eq!(**open(&key, &info().bytes(), b"aad", &sealed).expect("opens"), *b"sub-share");
    let (other, _) = sealed_to(2);
    let code = open(&other, &info().bytes(), b"aad", &sealed).expect_err("refused").code;
    assert_eq!(code, Code::NotOpened);
}

#[test]
fn n55_a_sealed_secret_opens_for_no_other_purpose() {
    let (key, sealed) = sealed_to(1);
    let name = |text| NodeId::new(text).expect("name");
    let others = [
        Info { suite: "other".into(), ..info() },
        Info { kind: "dealing".into(), ..info() },
        Info { fleet: FleetId([2; 16]), ..info() },
        Info { sender: name("c"), ..info() },
        Info { recipient: name("c"), ..info() },
        Info { domain: None, ..info() },
        Info { domain: Some(DomainId::new("other").expect("name")), ..info() },
        Info { epoch: Epoch(4), ..info() },
        Info { index: None, ..info() },
        Info { index: Some(ShareIndex::new(3).expect("index")), ..info() },
        Info { context: Bytes(vec![6; 32]), ..info() },
        Info { context: Bytes(vec![5; 31]), ..info() },
    ];
    for other in others {
        let code = open(&key, &other.bytes(), b"aad", &sealed).expect_err("refused").code;
        assert_eq!(code, Code::NotOpened, "{other:?}");
    }
    assert_eq!(open(&key, &info().bytes(), b"add", &sealed).expect_err("refused").code, Code::NotOpened);
}

#[test]
fn n22_moving_a_boundary_between_fields_changes_the_info() {
    let name = |text| NodeId::new(text).expect("name");
    let one = Info { sender: name("ab"), recipient: name("c"), ..info() };
    let two = Info { sender: name("a"), recipient: name("bc"), ..info() };
    assert_ne!(one.bytes(), two.bytes());
    assert_eq!(decode::<Info>(&one.bytes()).expect("decodes"), one);
}

#[test]
fn n82_altered_and_truncated_seals_do_not_open() {
    let (key, sealed) = sealed_to(1);
    let opens = |sealed: &[u8]| open(&key, &info().bytes(), b"aad", sealed).map(|_| ()).map_err(|e| e.code);
    assert_eq!(opens(&sealed), Ok(()));
    for at in (0..sealed.len()).step_by(37).chain(ENC_LEN - 40..sealed.len()) {
        let mut bad = sealed.clone();
        bad[at] ^= 1;
        assert_eq!(opens(&bad), Err(Code::NotOpened), "byte {at}");
    }
    for len in [0, 1, ENC_LEN - 1, ENC_LEN, ENC_LEN + 15, sealed.len() - 1] {
        assert_eq!(opens(&sealed[..len]), Err(Code::NotOpened), "{len} bytes");
    }
    assert_eq!(opens(&[sealed.as_slice(), &[0]].concat()), Err(Code::NotOpened));
}

#[test]
fn n80_two_seals_share_nothing() {
    let mut rng = SeededRng::new(1);
    let key = KemPrivate::generate(&mut rng).expect("a key");
    let one = seal(key.public(), b"", b"", &[0; 32], &mut rng).expect("seals");
    let two = seal(key.public(), b"", b"", &[0; 32], &mut rng).expect("seals");
    assert_ne!(one[..ENC_LEN], two[..ENC_LEN]);
    assert_ne!(one[ENC_LEN..], two[ENC_LEN..]);
}

#[test]
fn n64_the_list_of_small_orders_is_right() {
    let times_8 = |u: &[u8; 32]| MontgomeryPoint(*u).mul_bits_be([true, false, false, false].into_iter()).0;
    for low in &SMALL_ORDER {
        assert_eq!(times_8(low), [0; 32]);
    }
    let distinct: std::collections::BTreeSet<_> = SMALL_ORDER.iter().filter(|u| is_canonical(*u)).collect();
    assert_eq!(distinct.len(), 5, "0, 1, -1 and two of order 8");
    let mut rng = SeededRng::new(3);
    for _ in 0..200 {
        let key = KemPrivate::generate(&mut rng).expect("a key");
        let u: [u8; 32] = key.public().as_bytes()[PUBLIC_LEN - 32..].try_into().expect("32 bytes");
        assert_ne!(times_8(&u), [0; 32]);
    }
}

#[test]
fn n64_public_keys_with_a_bad_half_are_refused() {
    let good = *private(&[7; 32]).public().as_bytes();
    let code = |bytes: &[u8]| KemPublic::from_bytes(bytes).expect_err("refused").code;
    let with_x25519 = |hex_text: &str| {
        let mut bytes = good;
        bytes[PUBLIC_LEN - 32..].copy_from_slice(&hex::decode(hex_text).expect("hex"));
        bytes
    };
    // The points of small order of curve and twist, p and p + 1 too (https://cr.yp.to/ecdh.html#validate).
    for weak in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        assert_eq!(code(&with_x25519(weak)), Code::WeakKey, "{weak}");
    }
    let second = "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"; // p + 3
    assert_eq!(code(&with_x25519(second)), Code::BadEncoding);
    let mut high_bit = good;
    high_bit[PUBLIC_LEN - 1] ^= 0x80;
    assert_eq!(code(&high_bit), Code::BadEncoding);
    let mut coefficient = good; // the first 12 bits: 4095, above ML-KEM's modulus 3329
    coefficient[0] = 0xff;
    coefficient[1] |= 0x0f;
    assert_eq!(code(&coefficient), Code::BadEncoding);
    assert_eq!(code(&good[1..]), Code::BadEncoding);
    assert_eq!(code(&[]), Code::BadEncoding);
    assert_eq!(KemPublic::from_bytes(&good).expect("good").as_bytes(), &good);
}
