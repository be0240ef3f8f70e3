//! Request signatures and access keys: AWS's documented example, and what must be refused.

use std::collections::HashSet;

use quorate_core::error::Code;
use quorate_core::keys::sigv4;
use quorate_core::memory::Secret;
use quorate_core::rng::SystemRng;

/// AWS General Reference, "Examples of how to derive a signing key" and "Signature Version 4 signing
/// process", the request for `ListUsers`.
const SECRET: &[u8] = b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const STRING_TO_SIGN: &[u8] = b"AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/iam/aws4_request\n\
    f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59";
const SIGNATURE: &str = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";

fn example_key() -> Secret<32> {
    sigv4::signing_key(SECRET, "20150830", "us-east-1", "iam").expect("a key")
}

fn refusal(string_to_sign: &[u8], signature: &str) -> quorate_core::error::Error {
    sigv4::verify(&example_key(), string_to_sign, signature).expect_err("refused")
}

#[test]
fn the_documented_signing_key_is_derived() {
    assert_eq!(
        hex::encode(example_key().expose()),
        "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    );
}

#[test]
fn the_documented_signature_verifies() {
    sigv4::verify(&example_key(), STRING_TO_SIGN, SIGNATURE).expect("the right signature");
}

#[test]
fn a_signing_key_depends_on_every_part_of_its_scope() {
    let others = [
        ("20150831", "us-east-1", "iam"),
        ("20150830", "us-east-2", "iam"),
        ("20150830", "us-east-1", "kms"),
    ];
    for (date, region, service) in others {
        let key = sigv4::signing_key(SECRET, date, region, service).expect("a key");
        let code = sigv4::verify(&key, STRING_TO_SIGN, SIGNATURE).expect_err("refused").code;
        assert_eq!(code, Code::BadSignature);
    }
}

#[test]
fn a_date_that_is_not_eight_digits_is_refused() {
    for date in ["", "2015083", "201508300", "2015-8-3", "2015083\u{663}", "20150830T"] {
        let error = sigv4::signing_key(SECRET, date, "us-east-1", "kms").map(|_| ()).expect_err("refused");
        assert_eq!(error.code, Code::BadEncoding, "{date}");
    }
}

#[test]
fn n77_a_wrong_and_a_malformed_signature_are_refused_alike() {
    let upper = SIGNATURE.to_uppercase();
    let padded = format!(" {}", &SIGNATURE[1..]);
    let signed = format!("+{}", &SIGNATURE[1..]);
    let longer = format!("{SIGNATURE}00");
    let wide = format!("\u{ff15}{}", &SIGNATURE[3..]);
    let wrong = refusal(STRING_TO_SIGN, &"0".repeat(64));
    assert_eq!(wrong.code, Code::BadSignature);
    for bad in ["", &SIGNATURE[..62], &SIGNATURE[..63], &upper, &padded, &signed, &longer, &wide] {
        assert_eq!(refusal(STRING_TO_SIGN, bad), wrong, "{bad}");
    }
    assert_eq!(refusal(&[STRING_TO_SIGN, b"\n"].concat(), SIGNATURE), wrong);
}

#[test]
fn every_changed_digit_of_a_signature_is_refused() {
    for at in 0..64 {
        let mut bad = SIGNATURE.as_bytes().to_vec();
        bad[at] = if bad[at] == b'0' { b'1' } else { b'0' };
        let bad = String::from_utf8(bad).expect("ASCII");
        assert_eq!(refusal(STRING_TO_SIGN, &bad).code, Code::BadSignature);
    }
}

#[test]
fn access_keys_look_like_aws_access_keys_and_use_their_whole_alphabets() {
    let (mut ids, mut id_letters, mut secret_letters) = (HashSet::new(), HashSet::new(), HashSet::new());
    for _ in 0..1000 {
        let id = sigv4::access_key_id(&mut SystemRng);
        let tail = id.strip_prefix("QKIA").expect("the prefix");
        assert_eq!(tail.len(), 16);
        id_letters.extend(tail.bytes());
        let secret = sigv4::access_key_secret(&mut SystemRng).expect("arena");
        secret_letters.extend(secret.expose().iter().copied());
        assert!(ids.insert(id));
    }
    let base32: HashSet<u8> = (b'A'..=b'Z').chain(b'2'..=b'7').collect();
    let base64: HashSet<u8> =
        (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').chain([b'+', b'/']).collect();
    assert_eq!(id_letters, base32);
    assert_eq!(secret_letters, base64);
}
