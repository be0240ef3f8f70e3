//! Randomness: the system's generator, asked anew for each use, so that a fork or a restored
//! snapshot never repeats a value (no user-space pool).

use rand_core::{TryCryptoRng, TryRng};
use std::convert::Infallible;

pub use rand_core::CryptoRng;

/// `getrandom(2)` for every call.
pub struct SystemRng;

impl TryRng for SystemRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut b = [0; 4];
        self.try_fill_bytes(&mut b)?;
        Ok(u32::from_le_bytes(b))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut b = [0; 8];
        self.try_fill_bytes(&mut b)?;
        Ok(u64::from_le_bytes(b))
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Infallible> {
        // Without randomness nothing here is safe; the process must stop.
        getrandom::fill(dest).expect("the system's random generator failed");
        Ok(())
    }
}

impl TryCryptoRng for SystemRng {}

/// A seeded generator (SHA-256 in counter mode) for reproducible tests and the simulator.
#[cfg(any(test, feature = "testing"))]
pub struct SeededRng {
    seed: [u8; 32],
    counter: u64,
}

#[cfg(any(test, feature = "testing"))]
impl SeededRng {
    /// More bytes than this are noise for a file, which a short recurrence gives (xorshift, Marsaglia 2003).
    const LONG: usize = 4096;

    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self { seed: bytes, counter: 0 }
    }
}

#[cfg(any(test, feature = "testing"))]
impl TryRng for SeededRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut b = [0; 4];
        self.try_fill_bytes(&mut b)?;
        Ok(u32::from_le_bytes(b))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut b = [0; 8];
        self.try_fill_bytes(&mut b)?;
        Ok(u64::from_le_bytes(b))
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Infallible> {
        if dest.len() > Self::LONG {
            let mut next = self.try_next_u64()?;
            for chunk in dest.chunks_mut(8) {
                next ^= next << 13;
                next ^= next >> 7;
                next ^= next << 17;
                chunk.copy_from_slice(&next.to_le_bytes()[..chunk.len()]);
            }
            return Ok(());
        }
        for chunk in dest.chunks_mut(32) {
            let mut block = [0; 40];
            block[..32].copy_from_slice(&self.seed);
            block[32..].copy_from_slice(&self.counter.to_le_bytes());
            self.counter += 1;
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &block);
            chunk.copy_from_slice(&digest.as_ref()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(any(test, feature = "testing"))]
impl TryCryptoRng for SeededRng {}
