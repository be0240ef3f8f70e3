//! One holder's share, its check against public commitments, and its assembly from sub-shares.

use static_assertions::assert_not_impl_any;
use zeroize::Zeroizing;

use super::combine::{Weight, weighted_sum};
use super::commitments::{Commitments, commitment_at};
use super::group::Point;
use super::scalar;
use crate::error::{Code, Result, fail};
use crate::ids::ShareIndex;
use crate::memory::Secret;

/// The point (x, f(x), g(x)) of a sharing: value and blinding value, both scalars in the locked arena.
/// Leaves this room only as [`Share::to_bytes`], to be sealed.
pub struct Share {
    pub(super) index: ShareIndex,
    pub(super) value: Secret<32>,
    pub(super) blind: Secret<32>,
}

assert_not_impl_any!(Share: std::fmt::Debug, std::fmt::Display, Clone, PartialEq);

impl Share {
    /// Reads `value ‖ blind`, 32 bytes little endian each. The index comes from the signed committee,
    /// never from the sender.
    ///
    /// # Errors
    /// `bad_scalar` when either is not below the group order; `memory_lock`.
    pub fn from_bytes(index: ShareIndex, bytes: &[u8; 64]) -> Result<Self> {
        let half = |at: usize| {
            let mut half = Zeroizing::new([0; 32]);
            half.copy_from_slice(&bytes[at..at + 32]);
            scalar::parse(&half)
        };
        Ok(Self { index, value: half(0)?, blind: half(32)? })
    }

    /// `value ‖ blind`, for sealing.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 64]> {
        let mut bytes = Zeroizing::new([0; 64]);
        bytes[..32].copy_from_slice(self.value.expose());
        bytes[32..].copy_from_slice(self.blind.expose());
        bytes
    }

    #[must_use]
    pub fn index(&self) -> ShareIndex {
        self.index
    }
}

/// Checks a share against the commitment `P_x` to its index.
///
/// # Errors
/// `bad_share` when it does not open `point`.
pub fn opens(point: &Point, share: &Share) -> Result<()> {
    if point.is_opened_by(&scalar::load(&share.value), &scalar::load(&share.blind)) {
        return Ok(());
    }
    fail(Code::BadShare, format!("the share of index {} does not match its commitment", share.index.get()))
}

/// Checks a share against the commitments of its dealing: `f(x)·G + g(x)·H = Σ x^j·C_j`.
///
/// # Errors
/// `bad_share` when it is not on the committed polynomials; `bad_point` as [`commitment_at`].
pub fn verify_share(commitments: &Commitments, share: &Share) -> Result<()> {
    opens(&commitment_at(commitments, share.index)?, share)
}

/// The indices of the shares that do not open their own commitment, in the order of `shares`: who is to
/// blame for a combination that failed. A share whose index has no commitment is a stranger's, and bad.
#[must_use]
pub fn find_bad(shares: &[&Share], points: &[(ShareIndex, &Point)]) -> Vec<ShareIndex> {
    let good = |share: &Share| points.iter().any(|(x, p)| *x == share.index && opens(p, share).is_ok());
    shares.iter().filter(|share| !good(share)).map(|share| share.index).collect()
}

/// A new share of index `index`: the weighted sum of the sub-shares which each dealer gave that index.
/// Verify each against its dealing before.
///
/// # Errors
/// `not_enough_shares` without a part; `bad_index` when a part is for another index; `memory_lock`.
pub fn assemble(index: ShareIndex, parts: &[(Weight, &Share)]) -> Result<Share> {
    if parts.is_empty() {
        return fail(Code::NotEnoughShares, "a share is assembled from at least one dealing");
    }
    if let Some((_, other)) = parts.iter().find(|(_, share)| share.index != index) {
        return fail(
            Code::BadIndex,
            format!("a sub-share for index {} is no part of share {}", other.index.get(), index.get()),
        );
    }
    Ok(Share {
        index,
        value: weighted_sum(parts.iter().map(|(w, s)| (*w, &s.value)))?,
        blind: weighted_sum(parts.iter().map(|(w, s)| (*w, &s.blind)))?,
    })
}
