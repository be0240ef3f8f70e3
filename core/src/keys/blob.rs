//! Ciphertext blobs, what KMS Encrypt returns: version (1) ‖ key id (16, a UUID) ‖ key version (4,
//! big-endian) ‖ sealed text. The derivation binds [label, header, encryption context], so a blob opens
//! only under its own key, header and exact context.
//!
//! Not here: which key a blob may be opened with, AWS's error codes.

use minicbor::Encoder;
use zeroize::Zeroizing;

use crate::encoding::put;
use crate::error::{Code, Result, fail};
use crate::keys::{label, sealed};
use crate::memory::Secret;
use crate::rng::CryptoRng;

pub const VERSION: u8 = 1;
/// The longest plaintext, in bytes (AWS KMS Encrypt).
pub const MAX_PLAINTEXT: usize = 4096;

const HEADER_LEN: usize = 1 + 16 + 4;
/// What encryption adds to a plaintext, in bytes.
pub const OVERHEAD: usize = HEADER_LEN + sealed::OVERHEAD;

const _: () = assert!(OVERHEAD < 200);

/// What a blob says about itself, before anything is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobHeader {
    pub version: u8,
    /// The 16 bytes of the key's UUID.
    pub key_id: [u8; 16],
    pub key_version: u32,
}

/// Reads the header and checks the blob's length, so that nonsense is refused before a session is opened.
///
/// # Errors
/// `bad_encoding` for an unknown version or a blob too short; `too_large` for one longer than any that
/// [`encrypt`] makes.
pub fn parse_header(blob: &[u8]) -> Result<BlobHeader> {
    if blob.len() <= OVERHEAD {
        return fail(
            Code::BadEncoding,
            format!("a ciphertext of {} bytes is cut short; the least is {}", blob.len(), OVERHEAD + 1),
        );
    }
    if blob.len() > OVERHEAD + MAX_PLAINTEXT {
        return fail(
            Code::TooLarge,
            format!("a ciphertext of {} bytes is over {}", blob.len(), OVERHEAD + MAX_PLAINTEXT),
        );
    }
    if blob[0] != VERSION {
        return fail(Code::BadEncoding, format!("ciphertext version {} is not known here", blob[0]));
    }
    Ok(BlobHeader {
        version: blob[0],
        key_id: blob[1..17].try_into().expect("16 bytes"),
        key_version: u32::from_be_bytes(blob[17..HEADER_LEN].try_into().expect("4 bytes")),
    })
}

/// The info [label, header, context]; the context is the list of its [key, value] pairs in the order of
/// the keys' bytes, exactly as given: no folding of case, no normalization.
fn info(header: &[u8], context: &[(String, String)]) -> Result<Vec<u8>> {
    let mut pairs: Vec<&(String, String)> = context.iter().collect();
    pairs.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    if pairs.windows(2).any(|two| two[0].0 == two[1].0) {
        return fail(Code::BadEncoding, "the encryption context names a key twice");
    }
    let mut e = Encoder::new(Vec::new());
    put(e.array(3));
    put(e.str(label::BLOB));
    put(e.bytes(header));
    put(e.array(pairs.len() as u64));
    for (key, value) in pairs {
        put(e.array(2));
        put(e.str(key));
        put(e.str(value));
    }
    Ok(e.into_writer())
}

/// Encrypts 1 to [`MAX_PLAINTEXT`] bytes under a backing key; `context` is the encryption context, in any
/// order. Returns [`OVERHEAD`] bytes more than `plaintext`.
///
/// # Errors
/// `too_large` past [`MAX_PLAINTEXT`]; `bad_encoding` for an empty plaintext or a context that names a
/// key twice.
pub fn encrypt(
    backing: &Secret<32>,
    key_id: [u8; 16],
    key_version: u32,
    context: &[(String, String)],
    plaintext: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>> {
    if plaintext.is_empty() {
        return fail(Code::BadEncoding, "there is nothing to encrypt: the plaintext is empty");
    }
    if plaintext.len() > MAX_PLAINTEXT {
        return fail(
            Code::TooLarge,
            format!(
                "a plaintext of {} bytes is over {MAX_PLAINTEXT}; encrypt it under a data key",
                plaintext.len()
            ),
        );
    }
    let mut blob = Vec::with_capacity(plaintext.len() + OVERHEAD);
    blob.push(VERSION);
    blob.extend_from_slice(&key_id);
    blob.extend_from_slice(&key_version.to_be_bytes());
    let text = sealed::seal_with_info(backing.expose(), &info(&blob, context)?, plaintext, rng)?;
    blob.extend_from_slice(&text);
    Ok(blob)
}

/// Decrypts what [`encrypt`] made, given the same backing key and context.
///
/// # Errors
/// As [`parse_header`]; `bad_encoding` for a context that names a key twice; `key_commitment` for another
/// key or context, or an altered header; `not_opened` for an altered ciphertext.
pub fn decrypt(
    backing: &Secret<32>,
    context: &[(String, String)],
    blob: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    parse_header(blob)?;
    let (header, text) = blob.split_at(HEADER_LEN);
    sealed::open_with_info(backing.expose(), &info(header, context)?, text)
}
