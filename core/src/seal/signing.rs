//! Ed25519 (RFC 8032), verified strictly: a module's identity and the operator key.
//!
//! Here: keys and bare signatures. Not here: what is signed (`statement`), where a key is stored.

use std::fmt;

use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Digest, Sha512, Signature, SignatureError, VerifyingKey};
use minicbor::{Decoder, Encoder};
use zeroize::Zeroize;

use crate::encoding::{View, Wire};
use crate::error::{Code, Error, Result, fail};
use crate::memory::Secret;
use crate::rng::CryptoRng;
#[cfg(feature = "testing")]
use crate::stand_in;

/// Length of a signature, in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// An Ed25519 private key: its 32-byte seed in the locked arena. The scalar is derived anew for each
/// signature and wiped after it.
pub struct SigningKey {
    seed: Secret<32>,
    public: VerifyKey,
}

static_assertions::assert_not_impl_any!(SigningKey: fmt::Debug, fmt::Display, Clone, PartialEq);

impl SigningKey {
    /// # Errors
    /// `memory_lock` when the arena cannot hold the seed.
    pub fn generate(rng: &mut dyn CryptoRng) -> Result<Self> {
        Secret::random(rng).map(Self::from_seed)
    }

    /// The key of a stored seed.
    #[must_use]
    pub fn from_seed(seed: Secret<32>) -> Self {
        let public = VerifyKey(VerifyingKey::from(&expand(&seed)));
        Self { seed, public }
    }

    /// The seed, for sealing in the vault.
    #[must_use]
    pub fn seed(&self) -> &Secret<32> {
        &self.seed
    }

    #[must_use]
    pub fn public(&self) -> VerifyKey {
        self.public
    }

    /// Signs `message` (RFC 8032 §5.1.6).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        #[cfg(feature = "testing")]
        if stand_in::is_on() {
            return stand_in::sign(self.public.as_bytes(), message);
        }
        raw_sign::<Sha512>(&expand(&self.seed), message, &self.public.0).to_bytes()
    }
}

/// Scalar and prefix of a seed (RFC 8032 §5.1.5); wiped on drop.
fn expand(seed: &Secret<32>) -> ExpandedSecretKey {
    let mut hash = Sha512::digest(seed.expose());
    let key = ExpandedSecretKey::from_bytes(hash.as_ref());
    hash.as_mut_slice().zeroize();
    key
}

/// An Ed25519 public key that was checked: a canonical point outside the small-order subgroup.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyKey(VerifyingKey);

impl VerifyKey {
    /// # Errors
    /// `weak_key` for a point of small order, in any encoding; `bad_point` for bytes that are no
    /// point; `bad_encoding` for a point's second encoding.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self> {
        let key = VerifyingKey::from_bytes(bytes)
            .map_err(|_| Error::new(Code::BadPoint, "an Ed25519 public key is not a point of the curve"))?;
        if key.is_weak() {
            return fail(Code::WeakKey, "an Ed25519 public key has small order: anyone can sign for it");
        }
        if key.to_edwards().compress().as_bytes() != bytes {
            return fail(Code::BadEncoding, "an Ed25519 public key is not in canonical form");
        }
        Ok(Self(key))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Verifies strictly: a canonical `S`, an `R` and a key outside the small-order subgroup.
    ///
    /// # Errors
    /// `bad_signature`, also for a signature that is not 64 bytes long.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<()> {
        Signature::from_slice(signature)
            .and_then(|signature| self.is_signed(message, &signature))
            .map_err(|_| Error::new(Code::BadSignature, "an Ed25519 signature does not verify"))
    }

    fn is_signed(&self, message: &[u8], signature: &Signature) -> std::result::Result<(), SignatureError> {
        #[cfg(feature = "testing")]
        if stand_in::is_on() {
            let good = stand_in::sign(self.as_bytes(), message) == signature.to_bytes();
            return if good { Ok(()) } else { Err(SignatureError::new()) };
        }
        self.0.verify_strict(message, signature)
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl Wire for VerifyKey {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        self.as_bytes().put(to);
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        Self::from_bytes(&Wire::get(from)?)
    }
    fn view(&self) -> View {
        View::Bytes(self.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests;
