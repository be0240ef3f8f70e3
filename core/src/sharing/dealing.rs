//! Dealing: two random polynomials, commitments to their coefficients, one share for each index.
//! The polynomials live in the locked arena for the length of one call.

use curve25519_dalek::scalar::Scalar;
use zeroize::Zeroizing;

use super::commitments::Commitments;
use super::group::{Point, commit};
use super::shape::{Shape, Threshold};
use super::share::Share;
use super::{require_distinct, scalar};
use crate::error::Result;
use crate::ids::ShareIndex;
use crate::memory::Secret;
use crate::rng::CryptoRng;

/// What a dealing shares. There is no third choice: nobody can have a secret of their own shared, so a
/// commitment never covers anything that can be guessed.
#[derive(Clone, Copy)]
pub enum Constant<'a> {
    /// A uniformly random secret, made here.
    Fresh,
    /// A share of an earlier epoch: f(0) is its value and g(0) its blinding value, so that `C_0` is the
    /// public commitment to it.
    Held(&'a Share),
}

/// One dealer's polynomial, as commitments and shares.
pub struct Dealt {
    pub commitments: Commitments,
    /// In the order of the indices dealt to.
    pub shares: Vec<Share>,
}

/// Deals a sharing of threshold `k` to `indices`. Draws the coefficients of f, then those of g, constant
/// terms first (held ones are not drawn), 64 bytes each.
///
/// Pedersen hides f: recipients cannot tell a dealer whose f has too low a degree. One honest dealer
/// among an epoch's is enough to make the sum's degree full; a sole dealer knows the secret anyway.
///
/// # Errors
/// `bad_index` for a repeated index; `bad_threshold` unless `k` is below the number of indices;
/// `bad_point` when a coefficient pair commits to the identity (a broken generator); `memory_lock`.
/// Source: Pedersen 1991, section 4.
pub fn deal(
    k: Threshold,
    indices: &[ShareIndex],
    constant: Constant<'_>,
    rng: &mut dyn CryptoRng,
) -> Result<Dealt> {
    require_distinct(indices.iter().copied())?;
    Shape::new(u64::from(k.get()), indices.len() as u64)?;
    let (f0, g0) = match constant {
        Constant::Fresh => (scalar::random(rng)?, None),
        Constant::Held(share) => (copy(&share.value)?, Some(copy(&share.blind)?)),
    };
    let f = Polynomial::through(f0, k, rng)?;
    let g0 = g0.map_or_else(|| scalar::random(rng), Ok)?;
    let g = Polynomial::through(g0, k, rng)?;

    let commitments =
        f.0.iter().zip(&g.0).map(|(a, b)| Point::new(commit(&scalar::load(a), &scalar::load(b))));
    let shares = indices.iter().map(|&index| Ok(Share { index, value: f.at(index)?, blind: g.at(index)? }));
    Ok(Dealt {
        commitments: Commitments::new(commitments.collect::<Result<_>>()?)?,
        shares: shares.collect::<Result<_>>()?,
    })
}

fn copy(secret: &Secret<32>) -> Result<Secret<32>> {
    scalar::store(&scalar::load(secret))
}

/// Coefficients, constant term first.
struct Polynomial(Vec<Secret<32>>);

impl Polynomial {
    /// k coefficients: the given constant term, the others uniformly random.
    fn through(constant: Secret<32>, k: Threshold, rng: &mut dyn CryptoRng) -> Result<Self> {
        let mut coefficients = vec![constant];
        for _ in 1..k.get() {
            coefficients.push(scalar::random(rng)?);
        }
        Ok(Self(coefficients))
    }

    /// The value at `x`, by Horner's rule.
    fn at(&self, x: ShareIndex) -> Result<Secret<32>> {
        let x = Scalar::from(x.get());
        let mut sum = Zeroizing::new(Scalar::ZERO);
        for coefficient in self.0.iter().rev() {
            *sum = *sum * x + *scalar::load(coefficient);
        }
        scalar::store(&sum)
    }
}
