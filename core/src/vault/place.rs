//! A vault's directory: its lock, its creation in one step, and the errors that name its files.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::root::{HEADER, KEY_FILE};
use super::{SLOTS, STORE};
use crate::error::{Code, Error, Result, fail};

/// A vault being made: built beside its place, then renamed, so that a creation cut short leaves no
/// half of a vault.
pub(super) struct Draft {
    at: PathBuf,
    parent: PathBuf,
    target: PathBuf,
    lock: File,
}

impl Draft {
    pub fn begin(target: &Path) -> Result<Self> {
        let occupied = match fs::read_dir(target) {
            Ok(mut entries) => entries.next().is_some(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(storage(target, &e)),
        };
        if occupied {
            return fail(
                Code::AlreadyExists,
                format!("{} is not empty; a new vault goes into a directory of its own", target.display()),
            );
        }
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return fail(Code::Storage, format!("{} cannot be a vault's directory", target.display()));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let mut draft = OsString::from(name);
        draft.push(".creating");
        let at = parent.join(draft);
        let lock = empty_directory(&at)?;
        Ok(Self { at, parent: parent.to_owned(), target: target.to_owned(), lock })
    }

    pub fn path(&self) -> &Path {
        &self.at
    }

    /// The lock of the directory, wherever that is moved.
    pub fn lock(&self) -> Result<File> {
        self.lock.try_clone().map_err(|e| storage(&self.at, &e))
    }

    /// Writes the header and moves the whole to its place, durably.
    pub fn finish(self, header: &[u8]) -> Result<()> {
        let finish = || -> io::Result<()> {
            write_new(&self.at.join(HEADER), header)?;
            self.lock.sync_all()?;
            fs::rename(&self.at, &self.target)?;
            File::open(&self.parent)?.sync_all()
        };
        finish().map_err(|e| storage(&self.target, &e))
    }
}

/// Makes the directory `at` and locks it; one that an earlier creation left is removed first.
fn empty_directory(at: &Path) -> Result<File> {
    let make = || DirBuilder::new().mode(0o700).create(at);
    match make() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let left = File::open(at).map_err(|e| storage(at, &e))?;
            take_lock(&left, at)?;
            fs::remove_dir_all(at).and_then(|()| make()).map_err(|e| storage(at, &e))?;
        }
        done => done.map_err(|e| storage(at, &e))?,
    }
    let dir = File::open(at).map_err(|e| storage(at, &e))?;
    take_lock(&dir, at)?;
    Ok(dir)
}

/// Locks the directory of a vault, which must be there.
pub(super) fn lock_vault(dir: &Path) -> Result<File> {
    let missing = || {
        let what = format!("there is no vault in {}; create one, or name its directory", dir.display());
        Err(Error::new(Code::VaultMissing, what))
    };
    let lock = match File::open(dir) {
        Ok(lock) => lock,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return missing(),
        Err(e) => return Err(storage(dir, &e)),
    };
    take_lock(&lock, dir)?;
    let present = |name: &&str| dir.join(name).exists();
    if present(&HEADER) {
        return Ok(lock);
    }
    if [STORE, SLOTS, KEY_FILE].iter().any(present) {
        return corrupt(&dir.join(HEADER), "it is missing");
    }
    missing()
}

fn take_lock(dir: &File, path: &Path) -> Result<()> {
    match dir.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => fail(
            Code::VaultInUse,
            format!("another process has the vault in {} open; stop it first", path.display()),
        ),
        Err(TryLockError::Error(e)) => Err(storage(path, &e)),
    }
}

/// Writes a new file, mode 0600, durably.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A file that the system could not read or write.
pub(super) fn storage(path: &Path, why: &dyn Display) -> Error {
    Error::new(
        Code::Storage,
        format!("{}: {why}; check the disk's space and health, then restart", path.display()),
    )
}

/// A file that is not what was written.
pub(super) fn corrupt<T>(path: &Path, why: &str) -> Result<T> {
    fail(
        Code::VaultCorrupt,
        format!(
            "{}: {why}; nothing was changed; keep the directory and re-enrol this module",
            path.display()
        ),
    )
}

/// What the record store reports, as one of the above.
pub(super) fn store_error(path: &Path, e: impl Into<redb::Error>) -> Error {
    let damaged = |why: &str| corrupt::<()>(path, why).expect_err("corrupt() is an error");
    match e.into() {
        redb::Error::Corrupted(_) => damaged("it is damaged"),
        redb::Error::Io(e)
            if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            damaged("it is damaged")
        }
        redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. } => {
            damaged("it lacks a table")
        }
        redb::Error::UpgradeRequired(_) => Error::new(
            Code::VaultVersion,
            format!("{} is of another format; use the matching release", path.display()),
        ),
        e => storage(path, &e),
    }
}
