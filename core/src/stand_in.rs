//! A fast stand-in for the arithmetic of curves and lattices, for the simulator (feature `testing`, never shipped):
//! a point is its own discrete logarithm, a signature a hash under the public key, an encapsulation a hash.
//!
//! Only arithmetic is replaced: encodings, lengths, checks, comparisons and refusals are those of the callers
//! (`sharing/group`, `seal/signing`, `seal/hpke`), which run unchanged. A process uses one or the other from start to
//! end. Nothing here is secure, and nothing needs to be: the simulator's liars lie with keys of their own.

use std::ops::Add;
use std::sync::{LazyLock, OnceLock};

use aws_lc_rs::digest::{Context, SHA256, digest};
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{Identity, VartimeMultiscalarMul};
use subtle::{Choice, ConstantTimeEq};

use crate::error::{Code, Result, fail};

static ON: OnceLock<bool> = OnceLock::new();

/// Lets this process use the stand-in from now on.
///
/// # Errors
/// `bad_state` when something was computed for real before.
pub fn switch_on() -> Result<()> {
    if *ON.get_or_init(|| true) {
        return Ok(());
    }
    fail(Code::BadState, "this process has computed with real curves before: it takes no stand-in")
}

pub fn is_on() -> bool {
    *ON.get_or_init(|| false)
}

/// What log(H) to the base G is here, so that commitments hide nothing but open to one pair for all that tests try.
static LOG_OF_H: LazyLock<Scalar> = LazyLock::new(|| {
    let mut wide = [0; 64];
    wide[..32].copy_from_slice(digest(&SHA256, b"quorate/testing/log-of-h").as_ref());
    wide[32..].copy_from_slice(digest(&SHA256, b"quorate/testing/log-of-h/2").as_ref());
    Scalar::from_bytes_mod_order_wide(&wide)
});

/// An element of the group, or the logarithm that stands for one. The two never meet in one process.
#[derive(Clone, Copy)]
pub enum Element {
    Real(RistrettoPoint),
    Log(Scalar),
}

impl Element {
    pub fn commit(value: &Scalar, blind: &Scalar) -> Self {
        Self::Log(value + blind * *LOG_OF_H)
    }

    pub fn decompress(bytes: &[u8; 32]) -> Option<Self> {
        if is_on() {
            return Option::from(Scalar::from_canonical_bytes(*bytes)).map(Self::Log);
        }
        CompressedRistretto(*bytes).decompress().map(Self::Real)
    }

    pub fn compress(&self) -> CompressedRistretto {
        match self {
            Self::Real(point) => point.compress(),
            Self::Log(log) => CompressedRistretto(log.to_bytes()),
        }
    }
}

impl Identity for Element {
    fn identity() -> Self {
        if is_on() { Self::Log(Scalar::ZERO) } else { Self::Real(RistrettoPoint::identity()) }
    }
}

impl ConstantTimeEq for Element {
    fn ct_eq(&self, other: &Self) -> Choice {
        match (self, other) {
            (Self::Real(a), Self::Real(b)) => a.ct_eq(b),
            (Self::Log(a), Self::Log(b)) => a.ct_eq(b),
            _ => unreachable!("one process computes in one way"),
        }
    }
}

impl Add for Element {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        match (self, other) {
            (Self::Real(a), Self::Real(b)) => Self::Real(a + b),
            (Self::Log(a), Self::Log(b)) => Self::Log(a + b),
            _ => unreachable!("one process computes in one way"),
        }
    }
}

/// `scalars`·`elements`, public all.
pub fn weighted_sum(scalars: &[Scalar], elements: &[Element]) -> Element {
    if is_on() {
        let log = |e: &Element| match e {
            Element::Log(log) => *log,
            Element::Real(_) => unreachable!("one process computes in one way"),
        };
        return Element::Log(scalars.iter().zip(elements).map(|(s, e)| s * log(e)).sum());
    }
    let point = |e: &Element| match e {
        Element::Real(point) => *point,
        Element::Log(_) => unreachable!("one process computes in one way"),
    };
    Element::Real(RistrettoPoint::vartime_multiscalar_mul(scalars, elements.iter().map(point)))
}

fn hash(label: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(label);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// The signature of whoever has the private half of `public`, which nothing here asks for.
pub fn sign(public: &[u8; 32], message: &[u8]) -> [u8; 64] {
    let half = hash(b"quorate/testing/signature", &[public, message]);
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&half);
    signature[32..].copy_from_slice(&hash(b"quorate/testing/signature/2", &[&half]));
    signature
}

/// A KEM public key of the right length in canonical form: coefficients of zero, then a seed, then a u below 2^254.
pub fn kem_public<const N: usize>(seed: &[u8; 32]) -> [u8; N] {
    let mut public = [0; N];
    let half = hash(b"quorate/testing/kem-public", &[seed]);
    public[N - 64..N - 32].copy_from_slice(&half);
    public[N - 32..].copy_from_slice(&hash(b"quorate/testing/kem-public/2", &[&half]));
    public[N - 1] &= 0x3f;
    public
}

/// An encapsulation of `len` bytes, out of the random ones in `seed`.
pub fn encapsulation(seed: &[u8], len: usize) -> Vec<u8> {
    let mut enc = vec![0; len];
    enc[..32].copy_from_slice(&hash(b"quorate/testing/encapsulation", &[seed]));
    enc
}

/// What the holder of `public` and the maker of `enc` share.
pub fn shared_secret(public: &[u8], enc: &[u8]) -> Vec<u8> {
    hash(b"quorate/testing/shared-secret", &[public, enc]).to_vec()
}
