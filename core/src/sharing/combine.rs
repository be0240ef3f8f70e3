//! Combination: Lagrange weights at zero, weighted sums of secrets, and the domain secret, which exists
//! only once it has been checked against the commitment to it.

use std::collections::VecDeque;
use std::sync::Arc;

use curve25519_dalek::scalar::Scalar;
use static_assertions::assert_not_impl_any;
use zeroize::Zeroizing;

use super::group::Point;
use super::shape::Threshold;
use super::share::Share;
use super::{require_distinct, scalar};
use crate::error::{Code, Result, fail};
use crate::ids::ShareIndex;
use crate::memory::Secret;

/// What a dealing or a share counts for in a sum: one, or a Lagrange coefficient. Public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(pub(super) Scalar);

impl Weight {
    pub const ONE: Self = Self(Scalar::ONE);
}

/// The shared secret *s* of a domain. It is the input of key derivation, never a key in use.
pub struct DomainSecret(Secret<32>);

assert_not_impl_any!(DomainSecret: std::fmt::Debug, std::fmt::Display, Clone, PartialEq);

impl DomainSecret {
    /// The scalar, little endian, for HKDF.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

/// The weights `λ_i` with `f(0) = Σ λ_i·f(x_i)` for each f of degree below their number, in the order of
/// `indices`: `λ_i = Π_{j≠i} x_j / (x_j − x_i)`.
///
/// # Errors
/// `bad_index` for a repeated index; `not_enough_shares` for none.
pub fn lagrange_at_zero(indices: &[ShareIndex]) -> Result<Vec<Weight>> {
    if indices.is_empty() {
        return fail(Code::NotEnoughShares, "nothing can be interpolated from no shares");
    }
    require_distinct(indices.iter().copied())?;
    let xs: Vec<Scalar> = indices.iter().map(|x| Scalar::from(x.get())).collect();
    let others = |i: usize| xs.iter().enumerate().filter(move |(j, _)| *j != i).map(|(_, x)| *x);
    let mut inverses: Vec<Scalar> = (0..xs.len()).map(|i| others(i).map(|x| x - xs[i]).product()).collect();
    Scalar::invert_batch_alloc(&mut inverses); // distinct indices below 256: no difference is zero
    Ok((0..xs.len()).map(|i| Weight(others(i).product::<Scalar>() * inverses[i])).collect())
}

/// The weights of the index sets used last, so that sessions of one quorum compute them once.
#[derive(Default)]
pub struct LagrangeCache(VecDeque<(Vec<ShareIndex>, Arc<[Weight]>)>);

impl LagrangeCache {
    /// How many sets are kept; the oldest gives way.
    pub const CAPACITY: usize = 64;

    /// [`lagrange_at_zero`], from the cache if the same list was asked before.
    ///
    /// # Errors
    /// As [`lagrange_at_zero`].
    pub fn weights(&mut self, indices: &[ShareIndex]) -> Result<Arc<[Weight]>> {
        if let Some((_, weights)) = self.0.iter().find(|(known, _)| known == indices) {
            return Ok(weights.clone());
        }
        let weights: Arc<[Weight]> = lagrange_at_zero(indices)?.into();
        if self.0.len() == Self::CAPACITY {
            self.0.pop_front();
        }
        self.0.push_back((indices.to_vec(), weights.clone()));
        Ok(weights)
    }
}

/// Rebuilds the domain secret from the shares of exactly `k` distinct indices and checks it, with its
/// blinding value, against `key_commitment`, the epoch's `C_0`. On `bad_combination`, ask
/// [`find_bad`](super::find_bad) for the culprits.
///
/// # Errors
/// `not_enough_shares` below `k`; `bad_index` for a repeated index; `bad_combination` above `k`, or when
/// the result does not open the commitment; `memory_lock`.
pub fn combine(
    shares: &[&Share],
    k: Threshold,
    key_commitment: &Point,
    cache: &mut LagrangeCache,
) -> Result<DomainSecret> {
    let (got, k) = (shares.len(), usize::from(k.get()));
    if got < k {
        return fail(Code::NotEnoughShares, format!("{got} of {k} shares"));
    }
    require_distinct(shares.iter().map(|s| s.index))?;
    if got > k {
        return fail(Code::BadCombination, format!("exactly {k} shares are combined, got {got}"));
    }
    let mut sorted = shares.to_vec();
    sorted.sort_by_key(|s| s.index); // one cache entry for a set, whatever the order of arrival
    let indices: Vec<ShareIndex> = sorted.iter().map(|s| s.index).collect();
    let weights = cache.weights(&indices)?;

    let weighted = || weights.iter().copied().zip(&sorted);
    let value = weighted_sum(weighted().map(|(w, s)| (w, &s.value)))?;
    let blind = weighted_sum(weighted().map(|(w, s)| (w, &s.blind)))?;
    if !key_commitment.is_opened_by(&scalar::load(&value), &scalar::load(&blind)) {
        return fail(
            Code::BadCombination,
            "the shares do not combine to the committed key; one is wrong, or of another epoch",
        );
    }
    Ok(DomainSecret(value))
}

/// `Σ w_i·v_i`, constant time in the values.
pub(super) fn weighted_sum<'a>(parts: impl Iterator<Item = (Weight, &'a Secret<32>)>) -> Result<Secret<32>> {
    let mut sum = Zeroizing::new(Scalar::ZERO);
    for (weight, value) in parts {
        *sum += weight.0 * *scalar::load(value);
    }
    scalar::store(&sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(xs: &[u64]) -> Vec<ShareIndex> {
        xs.iter().map(|&x| ShareIndex::new(x).expect("valid")).collect()
    }

    #[test]
    fn lagrange_weights_are_those_of_the_formula() {
        // x = 1, 2, 4: λ = 2·4/((2−1)(4−1)), 1·4/((1−2)(4−2)), 1·2/((1−4)(2−4)).
        let three = Scalar::from(3_u8).invert();
        let expected = [Scalar::from(8_u8) * three, -Scalar::from(2_u8), three];
        let got: Vec<Scalar> =
            lagrange_at_zero(&indices(&[1, 2, 4])).expect("distinct").iter().map(|w| w.0).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn the_cache_answers_as_the_formula_does_and_stays_bounded() {
        let mut cache = LagrangeCache::default();
        for round in 0..2 {
            for x in 2..=200 {
                let set = indices(&[1, x]);
                let weights = cache.weights(&set).expect("distinct");
                assert_eq!(weights.to_vec(), lagrange_at_zero(&set).expect("distinct"), "round {round}");
                assert!(Arc::ptr_eq(&weights, &cache.weights(&set).expect("distinct")), "computed once");
            }
        }
        assert_eq!(cache.0.len(), LagrangeCache::CAPACITY);
    }
}
