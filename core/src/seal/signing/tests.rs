use std::path::Path;

use serde_json::Value;

use super::*;
use crate::encoding::{decode, encode};
use crate::rng::SeededRng;

/// The eight points of small order (RFC 8032's curve has cofactor 8), and their second encodings.
const SMALL_ORDER: [&str; 8] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
];
const SMALL_ORDER_AGAIN: [&str; 6] = [
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

fn bytes<const N: usize>(hex_text: &str) -> [u8; N] {
    hex::decode(hex_text).expect("hex").try_into().expect("length")
}

fn from_hex(text: &str) -> SigningKey {
    SigningKey::from_seed(Secret::take_from(&mut bytes(text)).expect("arena"))
}

#[test]
fn the_vectors_of_rfc_8032_are_signed_as_there() {
    // RFC 8032 §7.1, tests 1 and 3.
    let cases = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ];
    for (seed, public, message, signature) in cases {
        let key = from_hex(seed);
        let message = hex::decode(message).expect("hex");
        assert_eq!(key.public().as_bytes(), &bytes(public));
        assert_eq!(key.sign(&message), bytes(signature));
        key.public().verify(&message, &bytes::<64>(signature)).expect("verifies");
    }
}

/// Strict verification may refuse more than the vectors do; it does not.
#[test]
fn wycheproof_signatures_verify_exactly_when_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/wycheproof/ed25519_test.json");
    let all: Value = serde_json::from_slice(&std::fs::read(path).expect("vectors")).expect("JSON");
    let (mut valid, mut invalid) = (0_u64, 0_u64);
    for group in all["testGroups"].as_array().expect("groups") {
        let key = VerifyKey::from_bytes(&bytes(group["publicKey"]["pk"].as_str().expect("pk")));
        for test in group["tests"].as_array().expect("tests") {
            let field = |name: &str| hex::decode(test[name].as_str().expect("text")).expect("hex");
            let got = key.clone().and_then(|key| key.verify(&field("msg"), &field("sig")));
            if test["result"].as_str().expect("result") == "valid" {
                valid += 1;
                assert_eq!(got, Ok(()), "{}", test["tcId"]);
            } else {
                invalid += 1;
                assert!(got.is_err(), "{}: {}", test["tcId"], test["comment"]);
            }
        }
    }
    assert_eq!(valid + invalid, all["numberOfTests"].as_u64().expect("number"));
    assert!(valid > 50 && invalid > 50, "{valid} valid, {invalid} invalid");
}

#[test]
fn n64_keys_of_small_order_are_refused_in_every_encoding() {
    for text in SMALL_ORDER.iter().chain(&SMALL_ORDER_AGAIN) {
        let key: [u8; 32] = bytes(text);
        assert_eq!(VerifyKey::from_bytes(&key).expect_err(text).code, Code::WeakKey, "{text}");
        let wire = encode(&key);
        assert_eq!(decode::<VerifyKey>(&wire).expect_err(text).code, Code::WeakKey, "{text}");
    }
}

#[test]
fn n03_keys_in_a_second_encoding_and_keys_off_the_curve_are_refused() {
    // Every y from p to 2^255 - 1, either sign: points here have small order or a smaller y.
    let mut second = 0;
    for low in 0xed..=0xffu8 {
        for high in [0x7f, 0xff] {
            let mut key = [0xff; 32];
            key[0] = low;
            key[31] = high;
            let code = VerifyKey::from_bytes(&key).expect_err("refused").code;
            assert!(
                matches!(code, Code::WeakKey | Code::BadPoint | Code::BadEncoding),
                "{code:?} for {low:02x} {high:02x}"
            );
            second += u32::from(code == Code::BadEncoding);
        }
    }
    assert!(second > 0, "no point of large order has a second encoding among these");
    let mut off = [0; 32];
    off[0] = 2;
    assert_eq!(VerifyKey::from_bytes(&off).expect_err("y = 2 is on no point").code, Code::BadPoint);
    assert_eq!(decode::<VerifyKey>(&encode(&[1u8; 31])).expect_err("31 bytes").code, Code::BadEncoding);
}

#[test]
fn a_changed_bit_anywhere_fails() {
    let key = SigningKey::generate(&mut SeededRng::new(1)).expect("arena");
    let signature = key.sign(b"message");
    key.public().verify(b"message", &signature).expect("verifies");
    for at in 0..SIGNATURE_LEN * 8 {
        let mut bad = signature;
        bad[at / 8] ^= 1 << (at % 8);
        let code = key.public().verify(b"message", &bad).expect_err("refused").code;
        assert_eq!(code, Code::BadSignature);
    }
    for bad in [&signature[..63], &[]] {
        assert_eq!(key.public().verify(b"message", bad).expect_err("refused").code, Code::BadSignature);
    }
    let code = key.public().verify(b"massage", &signature).expect_err("refused").code;
    assert_eq!(code, Code::BadSignature);
}

/// With a small-order key, or `R` of small order, one signature could hold for many messages.
#[test]
fn n64_a_signature_with_small_order_r_is_refused() {
    let key = SigningKey::generate(&mut SeededRng::new(2)).expect("arena");
    for text in SMALL_ORDER {
        let mut signature = key.sign(b"message");
        signature[..32].copy_from_slice(&bytes::<32>(text));
        assert_eq!(key.public().verify(b"message", &signature).expect_err(text).code, Code::BadSignature);
    }
}

#[test]
fn a_stored_seed_gives_the_same_key_again() {
    let key = SigningKey::generate(&mut SeededRng::new(3)).expect("arena");
    let mut seed = *key.seed().expose();
    let again = SigningKey::from_seed(Secret::take_from(&mut seed).expect("arena"));
    assert_eq!(key.public(), again.public());
    assert_ne!(key.public(), SigningKey::generate(&mut SeededRng::new(4)).expect("arena").public());
}
