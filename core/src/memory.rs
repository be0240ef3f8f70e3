//! The locked arena: where long-lived secrets lie. One anonymous mapping, locked (never swapped) and
//! left out of core dumps; fixed slots, wiped when freed. Also the allocator that wipes what it frees, and
//! the wiping of the stack that a command has used.
//!
//! The only file of ours with `unsafe`. Not here: what a secret means.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags};
use zeroize::Zeroize;

use crate::error::{Code, Error, Result};
use crate::rng::CryptoRng;

const SLOT: usize = 64;
const SLOTS: usize = 1 << 14;

/// How much of the stack is wiped after a command, in bytes; no command goes deeper (`tests/module/stack.rs`).
pub const STACK: usize = 64 * 1024;

/// Set to 1, a process may run although its secrets' memory cannot be locked.
const ALLOW_UNLOCKED: &str = "QUORATE_ALLOW_UNLOCKED_MEMORY";

struct Arena {
    base: usize,
    locked: bool,
    used: Mutex<Vec<bool>>,
}

static ARENA: OnceLock<Result<Arena>> = OnceLock::new();

fn arena() -> Result<&'static Arena> {
    ARENA.get_or_init(Arena::map).as_ref().map_err(Clone::clone)
}

/// Maps and locks the arena now, so that a start can be refused with the reason. False when it could not be
/// locked, which the environment has allowed.
///
/// # Errors
/// `memory_lock` when the system does not let this process lock memory.
pub fn lock_memory() -> Result<bool> {
    arena().map(|arena| arena.locked)
}

/// Runs `command`, then wipes the stack that it used, where arithmetic may have left copies of secrets.
pub fn wiping_stack<T>(command: impl FnOnce() -> T) -> T {
    let out = below(command);
    if wipes() {
        wipe_below();
    }
    out
}

/// In a frame of its own, so that the whole of it lies where `wipe_below` writes.
#[inline(never)]
fn below<T>(command: impl FnOnce() -> T) -> T {
    command()
}

#[inline(never)]
#[expect(clippy::large_stack_arrays, reason = "the stack is what is to be written")]
fn wipe_below() {
    black_box(&mut [0_u8; STACK]);
}

impl Arena {
    fn map() -> Result<Self> {
        #[cfg(feature = "testing")]
        crate::needles::start();
        let len = SLOT * SLOTS;
        // SAFETY: a fresh anonymous private mapping at an address of the kernel's choice; nothing
        // else refers to it, and it is never unmapped.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .map_err(|e| Error::new(Code::MemoryLock, format!("cannot map {len} bytes for secrets: {e}")))?;
        // SAFETY: `base` and `len` are exactly the mapping made above.
        let locked = match unsafe { rustix::mm::mlock(base, len) } {
            Ok(()) => true,
            Err(_) if std::env::var_os(ALLOW_UNLOCKED).is_some_and(|v| v == "1") => false,
            Err(e) => {
                let limit = len / 1024;
                let what = format!(
                    "cannot lock {len} bytes for secrets ({e}); raise the limit (ulimit -l {limit}), or let secrets be \
                     swapped to disk ({ALLOW_UNLOCKED}=1)"
                );
                return Err(Error::new(Code::MemoryLock, what));
            }
        };
        // SAFETY: as above.
        unsafe {
            rustix::mm::madvise(base, len, Advice::LinuxDontDump).map_err(|e| {
                Error::new(Code::MemoryLock, format!("cannot keep secrets out of core dumps: {e}"))
            })?;
            rustix::mm::madvise(base, len, Advice::LinuxWipeOnFork).map_err(|e| {
                Error::new(Code::MemoryLock, format!("cannot keep secrets out of forks: {e}"))
            })?;
        }
        Ok(Self { base: base as usize, locked, used: Mutex::new(vec![false; SLOTS]) })
    }

    fn take(&self, len: usize) -> Result<usize> {
        let need = len.div_ceil(SLOT);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut run = 0;
        for at in 0..SLOTS {
            run = if used[at] { 0 } else { run + 1 };
            if run == need {
                let first = at + 1 - need;
                used[first..=at].fill(true);
                return Ok(self.base + first * SLOT);
            }
        }
        Err(Error::new(Code::MemoryLock, "the locked memory for secrets is full; drop leases or restart"))
    }

    fn give_back(&self, at: usize, len: usize) {
        let first = (at - self.base) / SLOT;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used[first..first + len.div_ceil(SLOT)].fill(false);
    }
}

/// `N` secret bytes in the locked arena; wiped on drop. A move copies only the address.
pub struct Secret<const N: usize> {
    at: usize,
}

static_assertions::assert_not_impl_any!(Secret<32>: std::fmt::Debug, std::fmt::Display, Clone, PartialEq);

impl<const N: usize> Secret<N> {
    /// # Errors
    /// `memory_lock` when the arena cannot be had or is full.
    pub fn zeroed() -> Result<Self> {
        Ok(Self { at: arena()?.take(N)? })
    }

    /// # Errors
    /// As [`Secret::zeroed`].
    pub fn random(rng: &mut dyn CryptoRng) -> Result<Self> {
        let mut s = Self::zeroed()?;
        rng.fill_bytes(s.expose_mut());
        Ok(s)
    }

    /// Copies `bytes` in and wipes the source.
    ///
    /// # Errors
    /// As [`Secret::zeroed`].
    pub fn take_from(bytes: &mut [u8; N]) -> Result<Self> {
        let mut s = Self::zeroed()?;
        s.expose_mut().copy_from_slice(bytes);
        bytes.zeroize();
        Ok(s)
    }

    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        // SAFETY: `at` is this value's own run of slots, at least N bytes, mapped for the process's
        // life, aligned for u8; shared access follows `&self`.
        unsafe { &*(self.at as *const [u8; N]) }
    }

    pub fn expose_mut(&mut self) -> &mut [u8; N] {
        // SAFETY: as `expose`; exclusive access follows `&mut self`.
        unsafe { &mut *(self.at as *mut [u8; N]) }
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        #[cfg(feature = "testing")]
        crate::needles::keep(self.expose());
        if wipes() {
            self.expose_mut().zeroize();
        }
        if let Ok(arena) = arena() {
            arena.give_back(self.at, N);
        }
    }
}

/// Always, but for the scanner's control in a `testing` build.
fn wipes() -> bool {
    #[cfg(feature = "testing")]
    return !crate::needles::left();
    #[cfg(not(feature = "testing"))]
    true
}

/// Has glibc's heap give back what it does not need: a block of 32 KiB or more (TLS buffers, pages of the store) is
/// mapped, and unmapped when freed. By default the first large block that is freed raises that limit for good, so that
/// such blocks come and go among small ones that stay, and a process with many connections grows for hours.
pub fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) changes two parameters of the allocator under its own lock; a refused one changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 * 1024);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 * 1024);
    }
}

/// The system's allocator, wiping every block before it is freed.
pub struct ZeroizingAllocator;

// SAFETY: every call is passed to `System` with the caller's own arguments; `dealloc` and `realloc`
// first write zeroes to a block that the caller still owns.
unsafe impl GlobalAlloc for ZeroizingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `GlobalAlloc::alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the block is the caller's, `layout.size()` bytes long, and is not used again. The
        // writes are volatile in effect through `zeroize`.
        unsafe {
            if wipes() {
                let block = ptr.cast::<std::mem::MaybeUninit<u8>>();
                std::slice::from_raw_parts_mut(block, layout.size()).zeroize();
            }
            System.dealloc(ptr, layout);
        }
    }

    // `realloc` is left to the trait's default: allocate, copy, `dealloc` (which wipes).
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_secret_leaves_zeroes_and_its_slot_is_used_again() {
        let mut bytes = [7; 32];
        let secret = Secret::take_from(&mut bytes).expect("arena");
        assert_eq!(bytes, [0; 32]);
        let at = secret.at;
        assert_eq!(secret.expose(), &[7; 32]);
        drop(secret);
        // SAFETY: the arena stays mapped for the process's life.
        let left = unsafe { *(at as *const [u8; 32]) };
        assert_eq!(left, [0; 32]);
    }

    #[test]
    fn secrets_longer_than_a_slot_do_not_overlap() {
        let mut a = Secret::<200>::zeroed().expect("arena");
        let b = Secret::<200>::zeroed().expect("arena");
        a.expose_mut().fill(1);
        assert_eq!(b.expose(), &[0; 200]);
    }
}
