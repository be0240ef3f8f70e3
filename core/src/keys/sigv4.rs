//! AWS Signature Version 4: the part that needs the secret of an access key, and the making of access
//! keys. Source: AWS IAM user guide, "Create a signed AWS API request".
//!
//! Not here: the canonical request, the string to sign, clock skew (Python, `kms/`); who holds which key.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result, fail};
use crate::keys::kdf::hmac_sha256;
use crate::memory::Secret;
use crate::rng::CryptoRng;

/// The length of an access key's secret, in bytes.
pub const SECRET_LEN: usize = 40;

const ID_PREFIX: &str = "QKIA";
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A new access key's public name: "QKIA" and 16 of A-Z, 2-7 (80 random bits), 20 in all.
pub fn access_key_id(rng: &mut dyn CryptoRng) -> String {
    let mut random = [0; 16];
    rng.fill_bytes(&mut random);
    let tail = random.map(|b| char::from(BASE32[usize::from(b % 32)]));
    ID_PREFIX.chars().chain(tail).collect()
}

/// A new access key's secret: 40 characters of the base64 alphabet (240 random bits).
///
/// # Errors
/// `memory_lock` when the arena cannot be had or is full.
pub fn access_key_secret(rng: &mut dyn CryptoRng) -> Result<Secret<SECRET_LEN>> {
    let mut secret = Secret::random(rng)?;
    for b in secret.expose_mut() {
        *b = BASE64[usize::from(*b % 64)];
    }
    Ok(secret)
}

/// The key that signs one day's requests: HMAC-SHA-256 chained over "AWS4" ‖ `secret`, `date`
/// ("YYYYMMDD"), `region`, `service` and "`aws4_request`".
///
/// # Errors
/// `bad_encoding` when the date is not eight digits; `memory_lock` when the arena is full.
pub fn signing_key(secret: &[u8], date: &str, region: &str, service: &str) -> Result<Secret<32>> {
    if date.len() != 8 || !date.bytes().all(|b| b.is_ascii_digit()) {
        return fail(Code::BadEncoding, "the date of a credential scope is YYYYMMDD");
    }
    let first = Zeroizing::new([b"AWS4", secret].concat());
    let mut key = Secret::zeroed()?;
    hmac_sha256(&first, date.as_bytes(), key.expose_mut());
    for part in [region, service, "aws4_request"] {
        let mut next = Secret::zeroed()?;
        hmac_sha256(key.expose(), part.as_bytes(), next.expose_mut());
        key = next;
    }
    Ok(key)
}

/// Checks a request's signature, 64 lower-case hexadecimal digits, in constant time.
///
/// # Errors
/// `bad_signature` for a wrong signature and for a malformed one alike.
pub fn verify(signing_key: &Secret<32>, string_to_sign: &[u8], signature_hex: &str) -> Result<()> {
    let bad = || Error::new(Code::BadSignature, "the request's signature does not match");
    let signature = unhex(signature_hex).ok_or_else(bad)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, signing_key.expose());
    hmac::verify(&key, string_to_sign, &signature).map_err(|_| bad())
}

/// Exactly 32 bytes in lower-case hexadecimal.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let digits: [u8; 64] = text.as_bytes().try_into().ok()?;
    let mut out = [0; 32];
    for (o, two) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *o = digit(two[0])? << 4 | digit(two[1])?;
    }
    Some(out)
}
