//! The key-slot file: one random key for each secret record, overwritten in place when the record is
//! erased. The record store copies on write and may keep old pages for long; what they hold stays
//! sealed for good once the slot is gone.
//!
//! A slot's key is used *together* with the root key: the file alone opens nothing, so it needs no
//! wrapping of its own, and a wrapped key that survived elsewhere could not outlive its erasure.
//! Overwriting reaches the medium where the file system and the drive write in place; where they
//! do not (btrfs, ZFS, wear levelling), the old slot survives as far as they keep old blocks.
//!
//! The first two slots hold the *mark*, the generation of the last commit, in turns: a store older
//! than the mark was put back, or lost a commit that had been acknowledged.

use std::io;

use minicbor::Encoder;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::crypt::derive;
use super::disk::Guarded;
use crate::encoding::put;
use crate::error::Result;
use crate::memory::Secret;
use crate::rng::CryptoRng;

/// Bytes of a slot: 32 of content, 32 of check. Divides a sector, so no slot spans two.
pub(super) const SLOT: usize = 64;
const MARKS: usize = 2;
#[cfg(any(test, feature = "testing"))]
pub(super) const MARK_BYTES: usize = MARKS * SLOT;
/// Slots by which the file grows.
pub(super) const BLOCK: usize = 1024;

pub(super) struct Slots {
    file: Guarded,
    used: Vec<bool>,
}

/// New keys, not yet in the file.
pub(super) struct Staged(Vec<(u32, Zeroizing<[u8; 32]>)>);

impl Slots {
    /// Fills a new file with random slots and generation 0.
    pub fn create(file: Guarded, root: &Secret<32>, rng: &mut dyn CryptoRng) -> io::Result<Self> {
        let mut slots = Self { file, used: vec![true; MARKS] };
        slots.grow(rng)?;
        slots.mark(root, 0)?;
        slots.file.sync()?;
        Ok(slots)
    }

    /// Opens the file; `None` when it is shorter than a new one. What is left of a growth that a crash
    /// cut short is no whole block, and no record names it.
    pub fn open(file: Guarded) -> io::Result<Option<Self>> {
        let blocks = file.len()? / (BLOCK * SLOT) as u64;
        let count = usize::try_from(blocks).ok().and_then(|b| b.checked_mul(BLOCK));
        let Some(count @ BLOCK..) = count else { return Ok(None) };
        let mut used = vec![false; count];
        used[..MARKS].fill(true);
        Ok(Some(Self { file, used }))
    }

    /// Claims the slot that a stored record names and returns its key; `None` when the slot does not
    /// exist, is another record's, or fails its check.
    pub fn claim(&mut self, root: &Secret<32>, at: u32) -> io::Result<Option<Zeroizing<[u8; 32]>>> {
        match self.used.get_mut(at as usize) {
            Some(used) if !*used => *used = true,
            _ => return Ok(None),
        }
        self.read(root, at)
    }

    /// The key in a slot; `None` when it fails its check.
    pub fn read(&self, root: &Secret<32>, at: u32) -> io::Result<Option<Zeroizing<[u8; 32]>>> {
        let mut slot = Zeroizing::new([0; SLOT]);
        self.file.read_at(u64::from(at) * SLOT as u64, slot.as_mut_slice())?;
        Ok(content(root, at, &slot))
    }

    /// Chooses a free slot and a fresh key for it; the file changes at [`Slots::write`].
    pub fn stage(&mut self, staged: &mut Staged, rng: &mut dyn CryptoRng) -> io::Result<usize> {
        let at = match self.used.iter().position(|u| !u) {
            Some(at) => at,
            None => self.grow(rng)?,
        };
        self.used[at] = true;
        let mut key = Zeroizing::new([0; 32]);
        rng.fill_bytes(key.as_mut_slice());
        staged.0.push((place(at)?, key));
        Ok(staged.0.len() - 1)
    }

    /// Forgets keys that were staged for a change that is not made.
    pub fn unstage(&mut self, staged: &Staged) {
        for (at, _) in &staged.0 {
            self.used[*at as usize] = false;
        }
    }

    /// Writes staged keys and makes them durable.
    pub fn write(&self, root: &Secret<32>, staged: &Staged) -> io::Result<()> {
        for (at, key) in &staged.0 {
            self.put(root, *at, key)?;
        }
        if staged.0.is_empty() { Ok(()) } else { self.file.sync() }
    }

    /// Overwrites slots in place, durably, and frees them.
    pub fn erase(&mut self, freed: &[u32], rng: &mut dyn CryptoRng) -> io::Result<()> {
        for at in freed {
            self.fill(*at as usize, 1, rng)?;
        }
        if !freed.is_empty() {
            self.file.sync()?;
        }
        for at in freed {
            self.used[*at as usize] = false;
        }
        Ok(())
    }

    /// Overwrites every slot that no record names: what a crash left between a commit and its erasures.
    pub fn scrub(&self, rng: &mut dyn CryptoRng) -> io::Result<()> {
        let mut at = 0;
        while at < self.used.len() {
            let run = self.used[at..].iter().take_while(|used| !**used).count();
            if run > 0 {
                self.fill(at, run, rng)?;
            }
            at += run.max(1);
        }
        self.file.sync()
    }

    /// Notes the generation of a commit that is durable. Not synced by itself: a lost mark only
    /// makes the next open less strict.
    pub fn mark(&self, root: &Secret<32>, generation: u64) -> io::Result<()> {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&generation.to_be_bytes());
        self.put(root, u32::from(generation % 2 == 1), &key)
    }

    /// The highest generation noted; `None` when neither mark is whole.
    pub fn marked(&self, root: &Secret<32>) -> io::Result<Option<u64>> {
        let read = |at| -> io::Result<Option<u64>> {
            Ok(self.read(root, at)?.map(|mark| {
                let mut generation = [0; 8];
                generation.copy_from_slice(&mark[..8]);
                u64::from_be_bytes(generation)
            }))
        };
        Ok(read(0)?.max(read(1)?))
    }

    fn put(&self, root: &Secret<32>, at: u32, key: &[u8; 32]) -> io::Result<()> {
        let mut slot = Zeroizing::new([0; SLOT]);
        slot[..32].copy_from_slice(key);
        slot[32..].copy_from_slice(check(root, at, key).map_err(io::Error::other)?.as_slice());
        self.file.write_at(u64::from(at) * SLOT as u64, slot.as_slice())
    }

    /// Random bytes, not zeroes: a drive may note zeroes down as a hole and leave the old block be.
    fn fill(&self, at: usize, count: usize, rng: &mut dyn CryptoRng) -> io::Result<()> {
        let mut noise = vec![0; count * SLOT];
        rng.fill_bytes(&mut noise);
        self.file.write_at((at * SLOT) as u64, &noise)
    }

    /// Adds a block of free slots, written out so that a later slot finds its space allocated;
    /// returns the first free slot.
    fn grow(&mut self, rng: &mut dyn CryptoRng) -> io::Result<usize> {
        let old = self.used.len();
        let new = (old / BLOCK + 1) * BLOCK;
        place(new)?;
        self.fill(old, new - old, rng)?;
        self.file.sync()?;
        self.used.resize(new, false);
        Ok(old)
    }
}

impl Staged {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn get(&self, nth: usize) -> (u32, &[u8; 32]) {
        let (at, key) = &self.0[nth];
        (*at, key)
    }
}

fn place(at: usize) -> io::Result<u32> {
    u32::try_from(at).map_err(|_| io::Error::other("there are too many secret records"))
}

/// A keyed check, so that a damaged slot is told from a damaged store.
fn check(root: &Secret<32>, at: u32, key: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>> {
    let mut info = Encoder::new(Vec::new());
    put(info.array(2));
    put(info.str("quorate/v1/vault/slot"));
    put(info.u32(at));
    derive(root, Some(key), &[], &info.into_writer())
}

fn content(root: &Secret<32>, at: u32, slot: &[u8; SLOT]) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(&slot[..32]);
    let want = check(root, at, &key).ok()?;
    bool::from(want.as_slice().ct_eq(&slot[32..])).then_some(key)
}
