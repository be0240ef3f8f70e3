//! Random bytes that are handed out: data keys and KMS `GenerateRandom`.
//!
//! Not here: secrets that stay inside (`Secret::random`).

use zeroize::Zeroizing;

use crate::error::{Code, Result, fail};
use crate::rng::CryptoRng;

/// The most bytes for one call (AWS KMS `GenerateRandom`, `GenerateDataKey`).
pub const MAX: usize = 1024;

/// `n` random bytes, 1 to [`MAX`].
///
/// # Errors
/// `bad_encoding` for none; `too_large` past [`MAX`].
pub fn bytes(n: usize, rng: &mut dyn CryptoRng) -> Result<Zeroizing<Vec<u8>>> {
    if n == 0 {
        return fail(Code::BadEncoding, "ask for at least 1 random byte");
    }
    if n > MAX {
        return fail(Code::TooLarge, format!("{n} random bytes are over the limit of {MAX} for one call"));
    }
    let mut out = Zeroizing::new(vec![0; n]);
    rng.fill_bytes(&mut out);
    Ok(out)
}
