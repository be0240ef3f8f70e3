//! The group: canonical points that are never the identity, the generators G and H, and the Pedersen
//! commitment itself.

use std::fmt;
use std::sync::LazyLock;

use aws_lc_rs::digest;
use curve25519_dalek::constants::RISTRETTO_BASEPOINT_TABLE;
#[cfg(not(feature = "testing"))]
use curve25519_dalek::ristretto::CompressedRistretto;
use curve25519_dalek::ristretto::{RistrettoBasepointTable, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use minicbor::{Decoder, Encoder};
use subtle::ConstantTimeEq;

use crate::encoding::{View, Wire};
use crate::error::{Code, Error, Result, fail};
#[cfg(feature = "testing")]
use crate::stand_in;

/// What a point is computed with; in a testing build it may be the simulator's stand-in.
#[cfg(not(feature = "testing"))]
pub(super) type Element = RistrettoPoint;
#[cfg(feature = "testing")]
pub(super) type Element = stand_in::Element;

/// What H is hashed from. A change gives other commitments to every key there is.
const H_LABEL: &[u8] = b"quorate/v1/sharing/pedersen-h";

/// A public element of ristretto255, never the identity; its encoding is kept beside it.
#[derive(Clone, Copy)]
pub struct Point {
    pub(super) element: Element,
    encoding: [u8; 32],
}

impl Point {
    /// Reads 32 bytes as RFC 9496 §4.3.1 says.
    ///
    /// # Errors
    /// `bad_point` for anything but a canonical encoding, and for the identity.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self> {
        let element = decompress(bytes)
            .ok_or_else(|| Error::new(Code::BadPoint, "not the canonical encoding of a group element"))?;
        Self::new(element)
    }

    pub(super) fn new(element: Element) -> Result<Self> {
        if element.is_identity() {
            return fail(Code::BadPoint, "the identity commits to nothing");
        }
        Ok(Self { element, encoding: element.compress().to_bytes() })
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.encoding
    }

    /// Whether `value`·G + `blind`·H is this point, in constant time.
    pub(super) fn is_opened_by(&self, value: &Scalar, blind: &Scalar) -> bool {
        commit(value, blind).ct_eq(&self.element).into()
    }
}

impl PartialEq for Point {
    fn eq(&self, other: &Self) -> bool {
        self.encoding == other.encoding
    }
}

impl Eq for Point {}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.encoding.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl Wire for Point {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        self.encoding.put(to);
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        Self::from_bytes(&Wire::get(from)?)
    }
    fn view(&self) -> View {
        self.encoding.view()
    }
}

static H_TABLE: LazyLock<RistrettoBasepointTable> = LazyLock::new(|| {
    // The one-way map of RFC 9496 §4.3.4 on SHA-512 of the label: nobody knows log_G(H).
    let mut uniform = [0; 64];
    uniform.copy_from_slice(digest::digest(&digest::SHA512, H_LABEL).as_ref());
    RistrettoBasepointTable::create(&RistrettoPoint::from_uniform_bytes(&uniform))
});

/// G, the generator of RFC 9496.
#[must_use]
pub fn generator_g() -> Point {
    generator(&Scalar::ONE, &Scalar::ZERO)
}

/// H, hashed to the group from a fixed label; pinned by a known answer in the tests.
#[must_use]
pub fn generator_h() -> Point {
    generator(&Scalar::ZERO, &Scalar::ONE)
}

fn generator(of_g: &Scalar, of_h: &Scalar) -> Point {
    let element = commit(of_g, of_h);
    Point { element, encoding: element.compress().to_bytes() }
}

/// `value`·G + `blind`·H in constant time, by precomputed tables.
pub(super) fn commit(value: &Scalar, blind: &Scalar) -> Element {
    #[cfg(feature = "testing")]
    if stand_in::is_on() {
        return Element::commit(value, blind);
    }
    let point = RISTRETTO_BASEPOINT_TABLE * value + &*H_TABLE * blind;
    #[cfg(feature = "testing")]
    let point = Element::Real(point);
    point
}

#[cfg(not(feature = "testing"))]
fn decompress(bytes: &[u8; 32]) -> Option<Element> {
    CompressedRistretto(*bytes).decompress()
}
#[cfg(feature = "testing")]
fn decompress(bytes: &[u8; 32]) -> Option<Element> {
    Element::decompress(bytes)
}

/// `Σ w_i·e_i`; all public.
#[cfg(not(feature = "testing"))]
pub(super) fn weighted_sum(weights: &[Scalar], elements: &[Element]) -> Element {
    use curve25519_dalek::traits::VartimeMultiscalarMul;
    Element::vartime_multiscalar_mul(weights, elements)
}
#[cfg(feature = "testing")]
pub(super) use stand_in::weighted_sum;
