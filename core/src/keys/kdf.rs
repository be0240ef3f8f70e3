//! Key derivation: HKDF (RFC 5869), HMAC (RFC 2104), and the keys that are used in a domain's name.
//!
//! Not here: the layout of any ciphertext, storage of keys.

use aws_lc_rs::{hkdf, hmac};
use minicbor::Encoder;

use crate::encoding::{Wire, put};
use crate::error::Result;
use crate::ids::DomainId;
use crate::keys::label;
use crate::memory::Secret;

/// The length of output that HKDF is asked for, in bytes.
struct Len(usize);

impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

fn hkdf(algorithm: hkdf::Algorithm, ikm: &[u8], salt: &[u8], info: &[u8], out: &mut [u8]) {
    hkdf::Salt::new(algorithm, salt)
        .extract(ikm)
        .expand(&[info], Len(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("HKDF makes at most 255 hash lengths of output");
}

/// HKDF-SHA-512, extract and expand (RFC 5869 §2). An empty `salt` stands for none.
///
/// # Panics
/// When `out` is over 16,320 bytes (255 hash lengths): callers ask for fixed, short lengths.
pub fn hkdf_sha512(ikm: &[u8], salt: &[u8], info: &[u8], out: &mut [u8]) {
    hkdf(hkdf::HKDF_SHA512, ikm, salt, info, out);
}

/// HMAC-SHA-256 of `message`, written to `out` (RFC 2104); `key` may have any length.
pub fn hmac_sha256(key: &[u8], message: &[u8], out: &mut [u8; 32]) {
    hmac::sign_to_buffer(&hmac::Key::new(hmac::HMAC_SHA256, key), message, out)
        .expect("32 bytes hold an HMAC-SHA-256");
}

/// The key that is used in a domain's name for one purpose: HKDF-SHA-512 over the domain key `s` (the
/// canonical 32 bytes of its scalar), without salt, info = [label, domain, key version, purpose].
/// `s` itself is never used as a key.
///
/// # Errors
/// `memory_lock` when the arena cannot be had or is full.
pub fn domain_use_key(
    s: &[u8; 32],
    domain: &DomainId,
    key_version: u64,
    purpose: &str,
) -> Result<Secret<32>> {
    let mut info = Encoder::new(Vec::new());
    put(info.array(4));
    put(info.str(label::DOMAIN_USE));
    domain.put(&mut info);
    key_version.put(&mut info);
    put(info.str(purpose));
    let mut key = Secret::zeroed()?;
    hkdf_sha512(s, &[], &info.into_writer(), key.expose_mut());
    Ok(key)
}
