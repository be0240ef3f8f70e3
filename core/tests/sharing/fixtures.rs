//! Generators whose every byte a test decides, and short ways to say common things.

use std::collections::VecDeque;
use std::convert::Infallible;

use quorate_core::error::{Code, Result};
use quorate_core::ids::ShareIndex;
use quorate_core::sharing::{Dealt, LagrangeCache, Point, Share, Threshold, combine};
use rand_core::{TryCryptoRng, TryRng};
use serde_json::Value;

/// The order of ristretto255, little endian.
pub const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Vigna's `SplitMix64`: repeatable, and no more than that.
pub struct Seeded(pub u64);

impl TryRng for Seeded {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> std::result::Result<u32, Infallible> {
        self.try_next_u64().map(|x| (x >> 32) as u32)
    }
    fn try_next_u64(&mut self) -> std::result::Result<u64, Infallible> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(z ^ (z >> 31))
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> std::result::Result<(), Infallible> {
        for chunk in dest.chunks_mut(8) {
            chunk.copy_from_slice(&self.try_next_u64()?.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Seeded {}

/// Gives out prepared 64-byte draws: a scalar below the order, padded with zeroes, comes out as itself.
pub struct Scripted(VecDeque<[u8; 64]>);

impl Scripted {
    pub fn new(scalars: impl IntoIterator<Item = [u8; 32]>) -> Self {
        let pad = |scalar: [u8; 32]| {
            let mut wide = [0; 64];
            wide[..32].copy_from_slice(&scalar);
            wide
        };
        Self(scalars.into_iter().map(pad).collect())
    }

    pub fn is_used_up(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryRng for Scripted {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> std::result::Result<u32, Infallible> {
        panic!("a dealing draws 64 bytes at a time")
    }
    fn try_next_u64(&mut self) -> std::result::Result<u64, Infallible> {
        panic!("a dealing draws 64 bytes at a time")
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> std::result::Result<(), Infallible> {
        dest.copy_from_slice(&self.0.pop_front().expect("a draw more than scripted"));
        Ok(())
    }
}

impl TryCryptoRng for Scripted {}

pub fn index(x: u64) -> ShareIndex {
    ShareIndex::new(x).expect("a valid index")
}

pub fn indices(n: u64) -> Vec<ShareIndex> {
    (1..=n).map(index).collect()
}

pub fn threshold(k: u64) -> Threshold {
    Threshold::new(k).expect("a valid threshold")
}

/// What `shares` combine to under `key`.
pub fn secret_of(shares: &[&Share], key: &Point) -> Result<[u8; 32]> {
    combine(shares, threshold(shares.len() as u64), key, &mut LagrangeCache::default()).map(|s| *s.expose())
}

pub fn first(dealt: &Dealt, count: usize) -> Vec<&Share> {
    dealt.shares.iter().take(count).collect()
}

/// The code that `result` was refused with.
pub fn refusal<T>(result: Result<T>) -> Code {
    match result {
        Ok(_) => panic!("accepted, but must be refused"),
        Err(e) => e.code,
    }
}

pub fn vectors(file: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/").to_owned() + file;
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).expect("JSON")
}

pub fn bytes32(hex_text: &Value) -> [u8; 32] {
    let bytes = hex::decode(hex_text.as_str().expect("a string")).expect("hex");
    bytes.try_into().expect("32 bytes")
}
