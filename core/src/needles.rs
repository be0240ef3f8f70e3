//! What a memory scanner needs (feature `testing`, never shipped): every secret that the locked arena let go,
//! written to a file as it is wiped; and a switch that leaves wiping out, so that the scanner has something to
//! find.
//!
//! The bytes go from the arena to the kernel in one system call, so that this leaves no copy of its own. Not
//! here: secrets that are still alive; the scanner reads those in the arena itself.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The directory for one file per process; unset, nothing is written.
const DIRECTORY: &str = "QUORATE_TESTING_NEEDLES";

/// Set, nothing is wiped.
const NO_WIPING: &str = "QUORATE_TESTING_NO_WIPING";

static FILE: OnceLock<Option<File>> = OnceLock::new();
static LEFT: AtomicBool = AtomicBool::new(false);

/// Reads the switch; the allocator cannot ask the environment itself.
pub fn start() {
    LEFT.store(std::env::var_os(NO_WIPING).is_some(), Ordering::Relaxed);
}

/// Whether secrets and freed blocks are left as they are.
pub fn left() -> bool {
    LEFT.load(Ordering::Relaxed)
}

fn open() -> Option<File> {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY)?);
    let path = directory.join(format!("{}.needles", std::process::id()));
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).ok()
}

/// Notes a secret: its length (one byte), then its bytes.
pub fn keep(secret: &[u8]) {
    let Some(mut file) = FILE.get_or_init(open).as_ref() else { return };
    let Ok(len) = u8::try_from(secret.len()) else { return };
    if secret.iter().any(|b| *b != 0) {
        // In append mode one call writes one record, whatever other threads do.
        let _ = file.write_vectored(&[IoSlice::new(&[len]), IoSlice::new(secret)]);
    }
}
