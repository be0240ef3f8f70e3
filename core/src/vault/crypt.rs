//! How a record is sealed: AES-256-GCM under a key and nonce that serve one write alone.
//!
//! Key and nonce come from HKDF-SHA-512 (RFC 5869) over the root key, for a secret record followed by
//! its slot's key, with a fresh 32-byte salt, so that no two writes share a key (SP 800-38D's limits are
//! never near). `info` and the associated data are the CBOR array [label, table, id]: a record moved
//! to another name does not open.
//!
//! Not here: files, slots' places.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA512, KeyType, Salt};
use minicbor::Encoder;
use zeroize::Zeroizing;

use crate::encoding::{Bytes, decode, encode, put};
use crate::error::{Code, Error, Result};
use crate::memory::Secret;
use crate::record;
use crate::rng::CryptoRng;

const RECORD: &str = "quorate/v1/vault/record";
const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;

record! {
    /// A sealed record as it is stored. `slot` is the place of a secret record's own key.
    pub struct Sealed {
        pub slot: Option<u32>,
        pub salt: [u8; 32],
        pub body: Bytes,
    }
}

/// A record's name.
#[derive(Clone, Copy)]
pub(super) struct Name<'a> {
    pub table: &'a str,
    pub id: &'a [u8],
}

impl Name<'_> {
    fn bound(self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        put(e.array(3));
        put(e.str(RECORD));
        put(e.str(self.table));
        put(e.bytes(self.id));
        e.into_writer()
    }
}

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// `N` bytes from HKDF-SHA-512 over the root key and, for a secret record, its slot's key.
pub(super) fn derive<const N: usize>(
    root: &Secret<32>,
    slot: Option<&[u8; 32]>,
    salt: &[u8],
    info: &[u8],
) -> Result<Zeroizing<[u8; N]>> {
    // 32 or 64 bytes: the length tells the two uses apart.
    let mut ikm = Zeroizing::new([0; 64]);
    ikm[..32].copy_from_slice(root.expose());
    let mut len = 32;
    if let Some(key) = slot {
        ikm[32..].copy_from_slice(key);
        len = 64;
    }
    let mut out = Zeroizing::new([0; N]);
    Salt::new(HKDF_SHA512, salt)
        .extract(&ikm[..len])
        .expand(&[info], Len(N))
        .and_then(|okm| okm.fill(out.as_mut_slice()))
        .map_err(|_| Error::new(Code::Storage, "the key derivation failed; restart the module"))?;
    Ok(out)
}

fn record_key(
    root: &Secret<32>,
    slot: Option<&[u8; 32]>,
    salt: &[u8; 32],
    bound: &[u8],
) -> Result<(LessSafeKey, Nonce)> {
    let material = derive::<{ KEY_LEN + NONCE_LEN }>(root, slot, salt, bound)?;
    let key = UnboundKey::new(&AES_256_GCM, &material[..KEY_LEN])
        .map_err(|_| Error::new(Code::Storage, "the cipher could not be set up; restart the module"))?;
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&material[KEY_LEN..]);
    Ok((LessSafeKey::new(key), Nonce::assume_unique_for_key(nonce)))
}

/// Seals `value` under its name. `slot`: place and key of a secret record's slot.
pub(super) fn seal(
    root: &Secret<32>,
    slot: Option<(u32, &[u8; 32])>,
    name: Name<'_>,
    value: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>> {
    let mut salt = [0; 32];
    rng.fill_bytes(&mut salt);
    let bound = name.bound();
    let (key, nonce) = record_key(root, slot.map(|s| s.1), &salt, &bound)?;
    // Room for the tag from the start: the plaintext is never left behind in a smaller block.
    let mut body = Vec::with_capacity(value.len() + TAG_LEN);
    body.extend_from_slice(value);
    key.seal_in_place_append_tag(nonce, Aad::from(&bound), &mut body)
        .map_err(|_| Error::new(Code::Storage, "the record could not be sealed; restart the module"))?;
    Ok(encode(&Sealed { slot: slot.map(|s| s.0), salt, body: Bytes(body) }))
}

/// Reads a stored record's frame.
pub(super) fn parse(stored: &[u8]) -> Result<Sealed> {
    decode(stored)
}

/// Opens a record; `slot` is the key in its slot.
///
/// # Errors
/// `vault_corrupt` when root key, slot key, name or bytes are not those of the writing.
pub(super) fn open(
    root: &Secret<32>,
    slot: Option<&[u8; 32]>,
    name: Name<'_>,
    sealed: Sealed,
) -> Result<Zeroizing<Vec<u8>>> {
    let bound = name.bound();
    let (key, nonce) = record_key(root, slot, &sealed.salt, &bound)?;
    let mut body = Zeroizing::new(sealed.body.0);
    let len = key
        .open_in_place(nonce, Aad::from(&bound), &mut body)
        .map_err(|_| Error::new(Code::VaultCorrupt, "a record does not open under its key"))?
        .len();
    body.truncate(len);
    Ok(body)
}
