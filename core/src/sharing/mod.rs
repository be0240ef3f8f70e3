//! Pure arithmetic of Pedersen verifiable sharing over ristretto255 (Pedersen 1991, RFC 9496): shapes,
//! dealings, shares, commitments, assembly of an epoch, combination of a quorum.
//!
//! Here: what makes a share, a commitment or a combination valid. All encodings are canonical; no
//! function takes a secret of the caller's choice, or a coefficient.
//! Not here: who may deal, which epoch a share belongs to, sealing, disks, clocks. Randomness is an
//! argument. Variable time is used for public values only.

mod combine;
mod commitments;
mod dealing;
mod group;
mod scalar;
mod shape;
mod share;

pub use combine::{DomainSecret, LagrangeCache, Weight, combine, lagrange_at_zero};
pub use commitments::{Commitments, assemble_commitments, commitment_at, commitments_at};
pub use dealing::{Constant, Dealt, deal};
pub use group::{Point, generator_g, generator_h};
pub use shape::{Shape, Threshold, default_threshold};
pub use share::{Share, assemble, find_bad, opens, verify_share};

use crate::error::{Code, Result, fail};
use crate::ids::ShareIndex;

/// Two shares of one index would divide by zero in interpolation; they are refused before.
fn require_distinct(indices: impl IntoIterator<Item = ShareIndex>) -> Result<()> {
    let mut seen = [false; 256];
    for x in indices {
        if std::mem::replace(&mut seen[usize::from(x.get())], true) {
            return fail(Code::BadIndex, format!("share index {} occurs twice", x.get()));
        }
    }
    Ok(())
}
