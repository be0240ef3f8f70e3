//! The two files of a vault that change, behind one small door, so that a test can make them fail.
//!
//! Here: reading, writing and syncing at an offset; the flag that stops a vault after the first
//! failure. Not here: what the bytes mean.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An open file.
#[allow(clippy::len_without_is_empty, reason = "a file, not a collection; public in a testing build only")]
pub trait Media: Debug + Send + Sync {
    fn len(&self) -> io::Result<u64>;
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns once everything written before is on the medium (fdatasync).
    fn sync(&self) -> io::Result<()>;
}

/// Where files are opened.
pub trait Disk {
    /// Opens `path` for reading and writing, creating it empty (mode 0600) where it is absent.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Media>>;
}

/// The file system.
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn Media>> {
        Ok(Box::new(open_file(path)?))
    }
}

pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let mut how = OpenOptions::new();
    how.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

impl Media for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Raised by the first failure of either file, and never lowered. After a failed fsync the kernel
/// may report success for pages that it dropped (Rebello et al., USENIX ATC 2020), so nothing is
/// tried twice: what is on the medium is known again only at the next open.
#[derive(Clone, Debug, Default)]
pub(super) struct Failed(Arc<AtomicBool>);

impl Failed {
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A file that is never touched again once the vault has failed.
#[derive(Debug)]
pub(super) struct Guarded {
    media: Box<dyn Media>,
    failed: Failed,
}

impl Guarded {
    pub fn new(media: Box<dyn Media>, failed: Failed) -> Self {
        Self { media, failed }
    }

    fn run<T>(&self, work: impl FnOnce(&dyn Media) -> io::Result<T>) -> io::Result<T> {
        if self.failed.is_raised() {
            return Err(io::Error::other("the vault has failed before"));
        }
        work(self.media.as_ref()).inspect_err(|_| self.failed.raise())
    }

    pub fn len(&self) -> io::Result<u64> {
        self.run(|m| m.len())
    }

    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.run(|m| m.read_at(offset, out))
    }

    pub fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.run(|m| m.write_at(offset, data))
    }

    pub fn sync(&self) -> io::Result<()> {
        self.run(|m| m.sync())
    }
}

/// redb's view of the file. Its locks stay unsupported: the vault's directory is locked instead,
/// which covers every file.
impl redb::StorageBackend for Guarded {
    fn len(&self) -> io::Result<u64> {
        Guarded::len(self)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.run(|m| m.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(offset, data)
    }
}
