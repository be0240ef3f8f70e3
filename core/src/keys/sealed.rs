//! The one key-committing AEAD. A sealed text is salt (32) ‖ commitment (32) ‖ AES-256-GCM ciphertext ‖
//! tag (16). Commitment, key and nonce come from HKDF-SHA-512(key, salt, info), so every message has a
//! key of its own (no limit from random nonces), and no text opens under two keys or two infos: that
//! takes a collision of 256 bits of HMAC-SHA-512 (Albertini et al. 2022, §5.3; AWS Encryption SDK 0x0478).
//!
//! Not here: what is sealed for whom; formats with a version (`token`, `blob`) stand on top of this.

use aws_lc_rs::constant_time;
use minicbor::Encoder;
use zeroize::Zeroizing;

use crate::encoding::put;
use crate::error::{Code, Error, Result, fail};
use crate::keys::gcm::{self, NONCE_LEN, TAG_LEN};
use crate::keys::kdf::hkdf_sha512;
use crate::rng::CryptoRng;

pub const SALT_LEN: usize = 32;
pub const COMMITMENT_LEN: usize = 32;
/// What sealing adds to a plaintext, in bytes.
pub const OVERHEAD: usize = SALT_LEN + COMMITMENT_LEN + TAG_LEN;

const KEY_END: usize = COMMITMENT_LEN + 32;

/// commitment (32) ‖ key (32) ‖ nonce (12) of one message.
struct Derived(Zeroizing<[u8; KEY_END + NONCE_LEN]>);

impl Derived {
    fn new(key: &[u8; 32], salt: &[u8], info: &[u8]) -> Self {
        let mut out = Zeroizing::new([0; KEY_END + NONCE_LEN]);
        hkdf_sha512(key, salt, info, &mut *out);
        Self(out)
    }

    fn commitment(&self) -> &[u8] {
        &self.0[..COMMITMENT_LEN]
    }

    fn key(&self) -> &[u8; 32] {
        self.0[COMMITMENT_LEN..KEY_END].try_into().expect("32 bytes")
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        self.0[KEY_END..].try_into().expect("12 bytes")
    }
}

/// The info [label, aad].
fn info(label: &str, aad_cbor: &[u8]) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new());
    put(e.array(2));
    put(e.str(label));
    let mut info = e.into_writer();
    info.extend_from_slice(aad_cbor);
    info
}

/// Seals `plaintext`; `label` names the purpose, `aad_cbor` is one CBOR item that must be shown again to
/// open. Returns [`OVERHEAD`] bytes more than `plaintext`.
///
/// # Errors
/// `too_large` past GCM's limit.
pub fn seal(
    key: &[u8; 32],
    label: &str,
    aad_cbor: &[u8],
    plaintext: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>> {
    seal_with_info(key, &info(label, aad_cbor), plaintext, rng)
}

/// Opens what [`seal`] made with the same key, label and associated data.
///
/// # Errors
/// `bad_encoding` when shorter than [`OVERHEAD`]; `key_commitment` when made under another key, label or
/// associated data; `not_opened` when the ciphertext was altered.
pub fn open(key: &[u8; 32], label: &str, aad_cbor: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    open_with_info(key, &info(label, aad_cbor), sealed)
}

/// As [`seal`], for a format that builds its whole info, an array that begins with its label.
pub(super) fn seal_with_info(
    key: &[u8; 32],
    info: &[u8],
    plaintext: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>> {
    let mut salt = [0; SALT_LEN];
    rng.fill_bytes(&mut salt);
    let derived = Derived::new(key, &salt, info);
    let mut out = Vec::with_capacity(plaintext.len() + OVERHEAD);
    out.extend_from_slice(&salt);
    out.extend_from_slice(derived.commitment());
    out.extend_from_slice(plaintext);
    // The info is bound twice: by the derivation, and as GCM's own associated data.
    let tag = gcm::seal(derived.key(), derived.nonce(), info, &mut out[SALT_LEN + COMMITMENT_LEN..])?;
    out.extend_from_slice(&tag);
    Ok(out)
}

/// As [`open`], with the whole info.
pub(super) fn open_with_info(key: &[u8; 32], info: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    if sealed.len() < OVERHEAD {
        return fail(Code::BadEncoding, format!("a sealed text has at least {OVERHEAD} bytes"));
    }
    let (salt, rest) = sealed.split_at(SALT_LEN);
    let (commitment, ciphertext) = rest.split_at(COMMITMENT_LEN);
    let derived = Derived::new(key, salt, info);
    constant_time::verify_slices_are_equal(derived.commitment(), commitment).map_err(|_| {
        Error::new(Code::KeyCommitment, "sealed under another key, or for another purpose or context")
    })?;
    gcm::open(derived.key(), derived.nonce(), info, ciphertext)
}
