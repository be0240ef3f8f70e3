//! The public side of a dealing or an epoch: exactly k commitments, the commitment to any index's share
//! which follows from them, and their weighted sums. Everything here is public: variable time is fine.

use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;
use minicbor::{Decoder, Encoder};

use super::combine::Weight;
use super::group::{Element, Point, weighted_sum};
use super::shape::Threshold;
use crate::encoding::{self, View, Wire};
use crate::error::{Code, Error, Result, fail};
use crate::ids::ShareIndex;

/// `C_0` … C_{k−1}, constant term first, `C_j = f_j·G + g_j·H`. None is the identity, so a dealer cannot
/// lower the degree in the open. Coded as a list of points; 2 to 254 of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commitments(Vec<Point>);

impl Commitments {
    /// Decodes the commitments of a sharing with threshold `k`. The length is checked first: a longer
    /// list would raise the degree, and k shares of the key would no longer give it back.
    ///
    /// # Errors
    /// `bad_commitments` unless there are exactly `k`; `bad_point`; `bad_encoding`; `too_large`.
    pub fn decode(bytes: &[u8], k: Threshold) -> Result<Self> {
        let announced = encoding::read(Decoder::new(bytes).array())?;
        if announced != Some(u64::from(k.get())) {
            return fail(
                Code::BadCommitments,
                format!("a sharing of threshold {} has as many commitments", k.get()),
            );
        }
        encoding::decode(bytes)
    }

    /// For commitments that came inside a larger record: call before using them with `k`.
    ///
    /// # Errors
    /// `bad_commitments` unless there are exactly `k`.
    pub fn require_threshold(&self, k: Threshold) -> Result<()> {
        if self.0.len() == usize::from(k.get()) {
            return Ok(());
        }
        fail(
            Code::BadCommitments,
            format!("a sharing of threshold {} has as many commitments, got {}", k.get(), self.0.len()),
        )
    }

    pub(super) fn new(points: Vec<Point>) -> Result<Self> {
        Threshold::new(points.len() as u64).map_err(|_| wrong_length(points.len() as u64))?;
        Ok(Self(points))
    }

    /// `C_0`, the commitment to the shared secret. It never changes over the epochs of one key.
    #[must_use]
    pub fn constant(&self) -> &Point {
        &self.0[0]
    }

    /// Constant term first.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.0
    }
}

fn wrong_length(got: u64) -> Error {
    Error::new(Code::BadCommitments, format!("a sharing has 2 to 254 commitments, got {got}"))
}

impl Wire for Commitments {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        encoding::put(to.array(self.0.len() as u64));
        self.0.iter().for_each(|p| p.put(to));
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        let Some(len) = encoding::read(from.array())? else {
            return fail(Code::BadEncoding, "indefinite lengths are not canonical");
        };
        Threshold::new(len).map_err(|_| wrong_length(len))?; // before any arithmetic
        (0..len).map(|_| Point::get(from)).collect::<Result<_>>().map(Self)
    }
    fn view(&self) -> View {
        View::List(self.0.iter().map(Wire::view).collect())
    }
}

/// `P_x = Σ x^j·C_j`, the commitment to the share of index `x`.
///
/// # Errors
/// `bad_point` when the sum is the identity, which no honest dealing reaches.
pub fn commitment_at(commitments: &Commitments, x: ShareIndex) -> Result<Point> {
    let sum = commitments.0.iter().rev().fold(Element::identity(), |sum, c| times(&sum, x.get()) + c.element);
    Point::new(sum)
}

/// [`commitment_at`] for each of `indices`, in their order.
///
/// # Errors
/// As [`commitment_at`].
pub fn commitments_at(commitments: &Commitments, indices: &[ShareIndex]) -> Result<Vec<Point>> {
    indices.iter().map(|&x| commitment_at(commitments, x)).collect()
}

/// `x`·`p` by doubling: an index has eight bits, and a general multiplication would spend 253.
fn times(p: &Element, x: u8) -> Element {
    (0..8).rev().fold(Element::identity(), |sum, bit| {
        let doubled = sum + sum;
        if x >> bit & 1 == 1 { doubled + *p } else { doubled }
    })
}

/// The commitments of an epoch: the weighted sum of its dealings' commitments, term by term.
///
/// # Errors
/// `bad_commitments` without a dealing, or when two differ in length; `bad_point` when a sum is the
/// identity.
pub fn assemble_commitments(parts: &[(Weight, &Commitments)]) -> Result<Commitments> {
    let Some(((_, first), rest)) = parts.split_first() else {
        return fail(Code::BadCommitments, "an epoch is assembled from at least one dealing");
    };
    let len = first.0.len();
    if let Some((_, other)) = rest.iter().find(|(_, c)| c.0.len() != len) {
        return fail(
            Code::BadCommitments,
            format!(
                "the dealings of an epoch have equally many commitments, got {len} and {}",
                other.0.len()
            ),
        );
    }
    let weights: Vec<Scalar> = parts.iter().map(|(w, _)| w.0).collect();
    let sum = |j: usize| {
        let terms: Vec<Element> = parts.iter().map(|(_, c)| c.0[j].element).collect();
        Point::new(weighted_sum(&weights, &terms))
    };
    Commitments::new((0..len).map(sum).collect::<Result<_>>()?)
}
