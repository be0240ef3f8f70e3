//! The Quorate HSM module: the only room where a secret exists in the clear.
//!
//! Map: `memory` (locked arena) · `encoding` (canonical CBOR) · `ids`, `error` (values every room
//! shares) · `sharing/` (pure arithmetic) · `seal/` (HPKE, statements, fleet messages) · `vault/`
//! (sealed store, key slots, roots) · `keys/` (export tokens, ciphertext blobs, request signatures) ·
//! `module/` (commands, sessions, limits, leases) · `python` (the only file that knows `PyO3`, but for
//! `python_testing`, which is never shipped).
//!
//! Not here: sockets, orchestration, anything that prints. No command returns a private key, a fleet
//! key, a shard, a domain key or a backing key.

pub mod clock;
pub mod encoding;
pub mod error;
pub mod hardening;
pub mod ids;
pub mod keys;
pub mod memory;
pub mod module;
#[cfg(feature = "testing")]
mod needles;
pub mod rng;
pub mod seal;
pub mod sharing;
#[cfg(feature = "testing")]
mod stand_in;
pub mod vault;

mod python;
#[cfg(feature = "testing")]
mod python_testing;

#[global_allocator]
static ALLOCATOR: memory::ZeroizingAllocator = memory::ZeroizingAllocator;
