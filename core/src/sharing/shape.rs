//! The numbers of a sharing: threshold k, indices n, margin z. Checked once, here.

use minicbor::{Decoder, Encoder};

use crate::encoding::{View, Wire};
use crate::error::{Code, Result, fail};

/// How many shares it takes: 2 to 254.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Threshold(u8);

impl Threshold {
    pub const MIN: u8 = 2;
    pub const MAX: u8 = 254;

    /// # Errors
    /// `bad_threshold` outside 2 to 254.
    pub fn new(k: u64) -> Result<Self> {
        match u8::try_from(k) {
            Ok(k @ Self::MIN..=Self::MAX) => Ok(Self(k)),
            _ => fail(Code::BadThreshold, format!("a threshold is 2 to 254, got {k}")),
        }
    }

    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Wire for Threshold {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        self.0.put(to);
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        Self::new(u64::get(from)?)
    }
    fn view(&self) -> View {
        View::Int(u64::from(self.0))
    }
}

/// A sharing's k and n, with 2 ≤ k < n ≤ 255; n counts indices, escrow included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    threshold: Threshold,
    shares: u8,
}

impl Shape {
    /// # Errors
    /// `bad_threshold` unless 2 ≤ `k` < `n` ≤ 255.
    pub fn new(k: u64, n: u64) -> Result<Self> {
        let threshold = Threshold::new(k)?;
        match u8::try_from(n) {
            Ok(shares) if threshold.0 < shares => Ok(Self { threshold, shares }),
            _ => fail(Code::BadThreshold, format!("k of n shares needs k < n ≤ 255, got {k} of {n}")),
        }
    }

    #[must_use]
    pub const fn threshold(self) -> Threshold {
        self.threshold
    }

    #[must_use]
    pub const fn shares(self) -> u8 {
        self.shares
    }

    /// The commit margin z: how many receipts beyond k an epoch change waits for. Never above n − k.
    #[must_use]
    pub fn margin(self) -> u8 {
        let by_size = match self.shares {
            0..=4 => 0,
            5..=8 => 1,
            9..=15 => 2,
            16..=23 => 3,
            24.. => 4,
        };
        by_size.min(self.shares - self.threshold.0)
    }
}

/// The threshold of a domain that does not name one: ⌊n/2⌋ + 1.
///
/// # Errors
/// `bad_threshold` for n outside 3 to 255, where no shape exists.
pub fn default_threshold(n: u64) -> Result<Threshold> {
    Shape::new(n / 2 + 1, n).map(Shape::threshold)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::{decode, encode};

    #[test]
    fn n06_thresholds_and_sizes_without_a_safe_sharing_are_refused() {
        let bad =
            [(0, 5), (1, 5), (5, 5), (6, 5), (2, 2), (2, 0), (255, 255), (2, 256), (254, 256), (2, u64::MAX)];
        for (k, n) in bad {
            assert_eq!(Shape::new(k, n).expect_err("refused").code, Code::BadThreshold, "{k} of {n}");
        }
        for (k, n) in [(2, 3), (3, 5), (2, 255), (254, 255)] {
            let shape = Shape::new(k, n).expect("valid");
            assert_eq!((u64::from(shape.threshold().get()), u64::from(shape.shares())), (k, n));
        }
        for k in [0_u64, 1, 255, 256, u64::MAX] {
            assert_eq!(decode::<Threshold>(&encode(&k)).expect_err("refused").code, Code::BadThreshold);
        }
        assert_eq!(decode::<Threshold>(&encode(&3_u64)).expect("valid").get(), 3);
    }

    #[test]
    fn the_default_threshold_is_a_majority() {
        for (n, k) in [(3, 2), (4, 3), (5, 3), (6, 4), (255, 128)] {
            assert_eq!(default_threshold(n).expect("valid").get(), k, "n = {n}");
        }
        for n in [0, 1, 2, 256, u64::MAX] {
            assert_eq!(default_threshold(n).expect_err("refused").code, Code::BadThreshold, "n = {n}");
        }
    }

    #[test]
    fn the_margin_grows_with_n_and_never_exceeds_the_spare_shares() {
        let cases =
            [(2, 3, 0), (2, 4, 0), (3, 5, 1), (5, 8, 1), (5, 9, 2), (8, 15, 2), (9, 16, 3), (12, 23, 3)];
        let capped =
            [(13, 24, 4), (128, 255, 4), (4, 5, 1), (8, 9, 1), (23, 24, 1), (22, 24, 2), (254, 255, 1)];
        for (k, n, z) in cases.into_iter().chain(capped) {
            assert_eq!(Shape::new(k, n).expect("valid").margin(), z, "{k} of {n}");
        }
    }
}
