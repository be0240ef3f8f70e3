//! AES-256-GCM (SP 800-38D) with 96-bit nonces and whole tags: the primitive under `sealed`.
//!
//! It commits to no key, and repeats of a nonce are fatal: callers outside this room want `sealed`,
//! unless their protocol derives a fresh key and nonce for each message.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result, fail};

pub const NONCE_LEN: usize = 12;
pub const TAG_LEN: usize = 16;

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes"))
}

/// Encrypts `in_out` in place and returns the tag.
///
/// # Errors
/// `too_large` past GCM's limit of 2^36 − 32 bytes.
pub fn seal(key: &[u8; 32], nonce: [u8; NONCE_LEN], aad: &[u8], in_out: &mut [u8]) -> Result<[u8; TAG_LEN]> {
    let mut tag = [0; TAG_LEN];
    let made = cipher(key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), in_out)
        .map_err(|_| Error::new(Code::TooLarge, "more plaintext than AES-GCM can take"))?;
    tag.copy_from_slice(made.as_ref());
    Ok(tag)
}

/// Decrypts `sealed` (ciphertext and tag). Plaintext that does not verify is wiped, never returned.
///
/// # Errors
/// `not_opened` when the tag is missing, cut short or wrong.
pub fn open(key: &[u8; 32], nonce: [u8; NONCE_LEN], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let opened = cipher(key).open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut buffer);
    let Ok(plaintext) = opened else {
        return fail(Code::NotOpened, "the ciphertext does not verify under this key");
    };
    let len = plaintext.len();
    buffer.truncate(len);
    Ok(buffer)
}
