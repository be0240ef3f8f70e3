//! A module's sealed, durable store: a directory (mode 0700) with the record store `vault.redb`, the
//! key-slot file `slots`, the `header`, and for a key-file root `root.key`.
//!
//! A commit is atomic, and durable when it returns. Each raises the vault's generation. A record is
//! sealed under the root key; a *secret* record besides under a key of its own in a slot, so that
//! erasing the slot erases every copy of the record.
//!
//! Order of a commit: new slots are written and synced, then the store's transaction, then freed
//! slots are overwritten and synced. A crash leaves at most slots that no record names; the next
//! open overwrites them. After the first failed read, write or sync the vault refuses everything, and
//! the process must end: what reached the medium is known only to the next open.
//!
//! Not here: what a record means, who may change it, whether the whole directory is an old copy
//! (the module's peers remember its generation).

mod crypt;
mod disk;
#[cfg(any(test, feature = "testing"))]
pub mod faults;
mod place;
mod root;
mod slots;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use redb::{Builder, Database, Durability, ReadableDatabase, TableDefinition};
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result, fail};
use crate::memory::Secret;
use crate::rng::CryptoRng;
use crypt::{Name, Sealed};
#[cfg(not(any(test, feature = "testing")))]
use disk::Disk;
#[cfg(any(test, feature = "testing"))]
pub use disk::{Disk, Media};
use disk::{Failed, Guarded, RealDisk};
use place::{Draft, corrupt, lock_vault, storage, store_error};
pub use root::{FORMAT, Root, read_passphrase};
use slots::{Slots, Staged};

/// The kind of a record, as the first half of its name.
pub type Table = &'static str;

/// A record's id and its value.
pub type Entry = (Vec<u8>, Zeroizing<Vec<u8>>);

/// A record as it lies in the store: table, id, sealed bytes.
type Stored = (String, Vec<u8>, Vec<u8>);

/// The longest value of a record, in bytes.
pub const MAX_VALUE: usize = 1 << 19;

const STORE: &str = "vault.redb";
const SLOTS: &str = "slots";
const RECORDS: TableDefinition<(&str, &[u8]), &[u8]> = TableDefinition::new("records");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const GENERATION: &str = "generation";
/// A name that no record can have: tables are not empty.
const GENERATION_NAME: Name<'static> = Name { table: "", id: b"generation" };
const CACHE: usize = 16 << 20;

/// One step of a commit.
#[derive(Clone, Copy)]
pub enum Change<'a> {
    /// Stores a record, in place of one of the same name.
    Put { table: Table, id: &'a [u8], value: &'a [u8] },
    /// Stores a record under a key of its own, so that it can be erased.
    PutSecret { table: Table, id: &'a [u8], value: &'a [u8] },
    /// Removes a record; none of that name is fine. A secret record is erased.
    Delete { table: Table, id: &'a [u8] },
    /// Erases a secret record for good; none of that name is fine.
    Erase { table: Table, id: &'a [u8] },
}

/// An open vault; the directory is locked while it lives.
pub struct Vault {
    // Dropped in this order: the store closes before the lock is released.
    db: Database,
    slots: Slots,
    root: Secret<32>,
    generation: u64,
    failed: Failed,
    failure: OnceLock<String>,
    dir: PathBuf,
    _lock: File,
}

static_assertions::assert_not_impl_any!(Vault: std::fmt::Debug, Clone);
static_assertions::assert_impl_all!(Vault: Send, Sync);

impl Vault {
    /// Makes a vault in `dir`, which must be absent or empty, with what `first` commits to it, and opens it. All
    /// of that appears, or none.
    ///
    /// # Errors
    /// `already_exists`, `vault_in_use` when another creation runs, `storage`, `memory_lock`, and those of `first`.
    pub fn create<T>(
        dir: &Path,
        root: Root<'_>,
        rng: &mut dyn CryptoRng,
        first: impl FnOnce(&mut Self, &mut dyn CryptoRng) -> Result<T>,
    ) -> Result<(Self, T)> {
        Self::create_with(dir, root, rng, first, &RealDisk)
    }

    /// Opens the vault in `dir`. Every record is checked; a vault that is damaged anywhere stays shut.
    ///
    /// # Errors
    /// `vault_missing`, `vault_in_use`, `vault_version`, `vault_corrupt`, `wrong_passphrase`,
    /// `bad_state` when others may read the key file, `storage`, `memory_lock`.
    pub fn open(dir: &Path, root: Root<'_>, rng: &mut dyn CryptoRng) -> Result<Self> {
        Self::open_with(dir, root, rng, &RealDisk)
    }

    /// As [`Vault::open`], on a disk that can be made to fail.
    ///
    /// # Errors
    /// As [`Vault::open`].
    #[cfg(any(test, feature = "testing"))]
    pub fn open_on(dir: &Path, root: Root<'_>, rng: &mut dyn CryptoRng, disk: &dyn Disk) -> Result<Self> {
        Self::open_with(dir, root, rng, disk)
    }

    fn create_with<T>(
        dir: &Path,
        root: Root<'_>,
        rng: &mut dyn CryptoRng,
        first: impl FnOnce(&mut Self, &mut dyn CryptoRng) -> Result<T>,
        disk: &dyn Disk,
    ) -> Result<(Self, T)> {
        let draft = Draft::begin(dir)?;
        let failed = Failed::default();
        let (key, header) = root::create(draft.path(), root, rng)?;
        let path = draft.path().join(SLOTS);
        open_media(disk, &path, &failed)
            .and_then(|file| Slots::create(file, &key, rng))
            .map_err(|e| storage(&path, &e))?;
        let path = draft.path().join(STORE);
        let file = open_media(disk, &path, &failed).map_err(|e| storage(&path, &e))?;
        let sealed = crypt::seal(&key, None, GENERATION_NAME, &0_u64.to_be_bytes(), rng)?;
        create_store(file, &sealed).map_err(|e| store_error(&path, e))?;
        let mut vault = Self::load(draft.path(), draft.lock()?, key, rng, disk)?;
        let made = first(&mut vault, rng)?;
        draft.finish(&header)?;
        dir.clone_into(&mut vault.dir);
        Ok((vault, made))
    }

    fn open_with(dir: &Path, root: Root<'_>, rng: &mut dyn CryptoRng, disk: &dyn Disk) -> Result<Self> {
        let lock = lock_vault(dir)?;
        let key = root::open(dir, root)?;
        Self::load(dir, lock, key, rng, disk)
    }

    /// Opens the two changing files, checks all they hold, and finishes what a crash left.
    fn load(
        dir: &Path,
        lock: File,
        root: Secret<32>,
        rng: &mut dyn CryptoRng,
        disk: &dyn Disk,
    ) -> Result<Self> {
        let failed = Failed::default();
        let media = |name| -> Result<(PathBuf, Guarded)> {
            let path = dir.join(name);
            if fs::metadata(&path).map_or(true, |m| m.len() == 0) {
                return corrupt(&path, "it is missing or empty");
            }
            let file = open_media(disk, &path, &failed).map_err(|e| storage(&path, &e))?;
            Ok((path, file))
        };
        let (slots_path, file) = media(SLOTS)?;
        let Some(slots) = Slots::open(file).map_err(|e| storage(&slots_path, &e))? else {
            return corrupt(&slots_path, "it is too short");
        };
        let (store_path, file) = media(STORE)?;
        let db = open_store(file, &store_path)?;
        let mut vault = Self {
            db,
            slots,
            root,
            generation: 0,
            failed,
            failure: OnceLock::new(),
            dir: dir.to_owned(),
            _lock: lock,
        };
        vault.check()?;
        vault.slots.scrub(rng).map_err(|e| storage(&slots_path, &e))?;
        Ok(vault)
    }

    /// Whether a read, write or sync has failed: the process must end, for nothing is tried twice.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.failed.is_raised()
    }

    /// Which file failed first, why, and what to do, once a command has come upon it.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Raised by every commit.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Lets the next commit be above `generation`, which another copy of this vault has reached.
    pub fn skip_to(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// Makes the changes, in order, all or none; they are durable, and erasures done, when it
    /// returns. Returns the new generation.
    ///
    /// # Errors
    /// Nothing changed: `too_large`, `wrong_kind` (an erasure of a record that is not secret),
    /// `bad_encoding` (an empty table name). `storage`: the vault has failed; the next open finds all of
    /// the changes or none.
    pub fn commit(&mut self, changes: &[Change<'_>], rng: &mut dyn CryptoRng) -> Result<u64> {
        self.usable()?;
        changes.iter().try_for_each(well_formed)?;
        let next = self.generation + 1;
        let mut staged = Staged::new();
        match self.transact(changes, next, &mut staged, rng) {
            Ok(freed) => {
                self.generation = next;
                let done = self.slots.mark(&self.root, next).and_then(|()| self.slots.erase(&freed, rng));
                done.map_err(|e| self.stop(SLOTS, &e))?;
                Ok(next)
            }
            Err(e) => {
                self.slots.unstage(&staged);
                Err(e)
            }
        }
    }

    /// The value of a record.
    ///
    /// # Errors
    /// `storage`, `vault_corrupt`.
    pub fn get(&self, table: Table, id: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
        self.usable()?;
        let read = || -> std::result::Result<_, redb::Error> {
            let records = self.db.begin_read()?.open_table(RECORDS)?;
            Ok(records.get((table, id))?.map(|stored| stored.value().to_vec()))
        };
        let Some(stored) = read().map_err(|e| self.stop(STORE, &e))? else { return Ok(None) };
        self.open_record(Name { table, id }, &stored).map(Some)
    }

    /// All records of a table, by id.
    ///
    /// # Errors
    /// `storage`, `vault_corrupt`.
    pub fn list(&self, table: Table) -> Result<Vec<Entry>> {
        self.usable()?;
        let stored = self.stored(Some(table)).map_err(|e| self.stop(STORE, &e))?;
        let open = |(table, id, stored): (String, Vec<u8>, Vec<u8>)| {
            let value = self.open_record(Name { table: &table, id: &id }, &stored)?;
            Ok((id, value))
        };
        stored.into_iter().map(open).collect()
    }

    /// Everything of a commit up to and with the store's transaction; returns the slots it freed.
    fn transact(
        &mut self,
        changes: &[Change<'_>],
        next: u64,
        staged: &mut Staged,
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<u32>> {
        let begin = || -> std::result::Result<_, redb::Error> {
            let mut tx = self.db.begin_write()?;
            tx.set_durability(Durability::Immediate)?;
            // With one phase redb answers a damaged last commit with the one before, silently.
            tx.set_two_phase_commit(true);
            Ok(tx)
        };
        let tx = begin().map_err(|e| self.stop(STORE, &e))?;
        let mut freed = Vec::new();
        {
            let mut records = tx.open_table(RECORDS).map_err(|e| self.stop(STORE, &e))?;
            for change in changes {
                let (name, value) = match *change {
                    Change::Put { table, id, value } => {
                        let name = Name { table, id };
                        (name, Some(crypt::seal(&self.root, None, name, value, rng)?))
                    }
                    Change::PutSecret { table, id, value } => {
                        let name = Name { table, id };
                        let nth = self.slots.stage(staged, rng).map_err(|e| self.stop(SLOTS, &e))?;
                        (name, Some(crypt::seal(&self.root, Some(staged.get(nth)), name, value, rng)?))
                    }
                    Change::Delete { table, id } | Change::Erase { table, id } => (Name { table, id }, None),
                };
                let key = (name.table, name.id);
                let old = match &value {
                    Some(value) => records.insert(key, value.as_slice()),
                    None => records.remove(key),
                };
                let Some(old) = old.map_err(|e| self.stop(STORE, &e))? else { continue };
                match (self.frame(old.value())?.slot, change) {
                    (Some(slot), _) => freed.push(slot),
                    (None, Change::Erase { table, .. }) => {
                        return fail(
                            Code::WrongKind,
                            format!("a record of {table} was not stored as a secret; nothing was changed"),
                        );
                    }
                    (None, _) => {}
                }
            }
            let sealed = crypt::seal(&self.root, None, GENERATION_NAME, &next.to_be_bytes(), rng)?;
            let write = || -> std::result::Result<_, redb::Error> {
                tx.open_table(META)?.insert(GENERATION, sealed.as_slice())?;
                Ok(())
            };
            write().map_err(|e| self.stop(STORE, &e))?;
        }
        self.slots.write(&self.root, staged).map_err(|e| self.stop(SLOTS, &e))?;
        tx.commit().map_err(|e| self.stop(STORE, &e))?;
        Ok(freed)
    }

    /// Opens every record, claims the slots they name, and compares the generation with the mark.
    fn check(&mut self) -> Result<()> {
        let (store, slots) = (self.dir.join(STORE), self.dir.join(SLOTS));
        let read = || -> std::result::Result<_, redb::Error> {
            let meta = self.db.begin_read()?.open_table(META)?;
            Ok(meta.get(GENERATION)?.map(|stored| stored.value().to_vec()))
        };
        let stored = read().map_err(|e| store_error(&store, e))?.unwrap_or_default();
        let opened = self.open_record(GENERATION_NAME, &stored)?;
        self.generation = match <[u8; 8]>::try_from(opened.as_slice()) {
            Ok(bytes) => u64::from_be_bytes(bytes),
            Err(_) => return corrupt(&store, "its generation is malformed"),
        };
        match self.slots.marked(&self.root).map_err(|e| storage(&slots, &e))? {
            None => return corrupt(&slots, "its mark is damaged"),
            Some(marked) if marked > self.generation => {
                return corrupt(&store, "it is older than the slots beside it: commits are missing");
            }
            Some(_) => {}
        }
        for (table, id, stored) in self.stored(None).map_err(|e| store_error(&store, e))? {
            let sealed = self.frame(&stored)?;
            let key = match sealed.slot {
                None => None,
                Some(at) => match self.slots.claim(&self.root, at).map_err(|e| storage(&slots, &e))? {
                    None => return corrupt(&slots, "a slot that a record needs is damaged"),
                    key => key,
                },
            };
            let name = Name { table: &table, id: &id };
            crypt::open(&self.root, key.as_deref(), name, sealed)
                .or_else(|_| corrupt(&store, "a record does not open"))?;
        }
        Ok(())
    }

    /// The stored records, of one table or all: table, id, sealed bytes.
    fn stored(&self, only: Option<&str>) -> std::result::Result<Vec<Stored>, redb::Error> {
        let records = self.db.begin_read()?.open_table(RECORDS)?;
        let mut found = Vec::new();
        for entry in records.range((only.unwrap_or_default(), [].as_slice())..)? {
            let (key, value) = entry?;
            let (table, id) = key.value();
            if only.is_some_and(|only| only != table) {
                break;
            }
            found.push((table.to_owned(), id.to_vec(), value.value().to_vec()));
        }
        Ok(found)
    }

    fn open_record(&self, name: Name<'_>, stored: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let sealed = self.frame(stored)?;
        let key = match sealed.slot {
            None => None,
            Some(at) => match self.slots.read(&self.root, at).map_err(|e| self.stop(SLOTS, &e))? {
                None => return corrupt(&self.dir.join(SLOTS), "a slot that a record needs is damaged"),
                key => key,
            },
        };
        crypt::open(&self.root, key.as_deref(), name, sealed)
            .or_else(|_| corrupt(&self.dir.join(STORE), "a record does not open"))
    }

    fn frame(&self, stored: &[u8]) -> Result<Sealed> {
        crypt::parse(stored).or_else(|_| corrupt(&self.dir.join(STORE), "a record is malformed"))
    }

    fn usable(&self) -> Result<()> {
        if self.failed.is_raised() {
            return fail(
                Code::Storage,
                format!("the vault in {} has failed; see the first error, then restart", self.dir.display()),
            );
        }
        Ok(())
    }

    /// Marks the vault failed and says why.
    fn stop(&self, file: &str, why: &dyn std::fmt::Display) -> Error {
        self.failed.raise();
        let error = storage(&self.dir.join(file), why);
        self.failure.get_or_init(|| error.what.clone());
        error
    }
}

fn open_media(disk: &dyn Disk, path: &Path, failed: &Failed) -> std::io::Result<Guarded> {
    Ok(Guarded::new(disk.open(path)?, failed.clone()))
}

fn create_store(file: Guarded, generation: &[u8]) -> std::result::Result<(), redb::Error> {
    let db = Builder::new().set_cache_size(CACHE).create_with_backend(file)?;
    let mut tx = db.begin_write()?;
    tx.set_two_phase_commit(true);
    tx.open_table(RECORDS)?;
    tx.open_table(META)?.insert(GENERATION, generation)?;
    tx.commit()?;
    db.close()?;
    Ok(())
}

/// Opens the store with every page's checksum checked; redb may panic on a file that it trusts.
fn open_store(file: Guarded, path: &Path) -> Result<Database> {
    Builder::new()
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true)
        .create_with_backend(file)
        .map_err(|e| store_error(path, e))
}

fn well_formed(change: &Change<'_>) -> Result<()> {
    let (table, value) = match *change {
        Change::Put { table, value, .. } | Change::PutSecret { table, value, .. } => (table, value),
        Change::Delete { table, .. } | Change::Erase { table, .. } => (table, [].as_slice()),
    };
    if table.is_empty() {
        return fail(Code::BadEncoding, "a record's table has a name");
    }
    if value.len() > MAX_VALUE {
        return fail(
            Code::TooLarge,
            format!("a record of {} bytes is over the limit of {MAX_VALUE}", value.len()),
        );
    }
    Ok(())
}
