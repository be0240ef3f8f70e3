//! A disk that fails when a test says so, with what a file system may do to writes that were not
//! synced: all, none, or any mixture of whole sectors reaches the medium.
//!
//! The real file is the medium, or a copy of it in memory; what the process wrote since the last sync waits beside
//! it. A real sync is never called, so that thousands of crashes cost seconds.
//!
//! Not here: the vault's creation outside its two changing files (header, key file, rename).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::disk::{Disk, Media, open_file};
use crate::rng::{CryptoRng, SeededRng};

/// What a medium writes all or nothing of, in bytes.
const SECTOR: usize = 512;
/// In place of a sector's number: the file's length.
const LENGTH: u64 = u64::MAX;

/// What happens at the chosen write, resize or sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The machine stops: this request and every later one fails.
    Crash,
    /// This request fails with EIO, a write after its first half; later ones succeed. A failed sync
    /// lets go of the unsynced writes: later reads see them, later syncs succeed without them, as with
    /// Linux's page cache (Rebello et al., USENIX ATC 2020).
    Fail,
}

/// What becomes of unsynced writes at the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    Lost,
    Kept,
    /// Each sector holds what it held at some moment since the last sync; the seed chooses which.
    Torn(u64),
}

/// What lies on a machine's medium, by file: at first what the files of a vault held, later what was synced. The files
/// themselves stay as they are, so that many schedules begin from one vault.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<OsString, Bytes>>>);

type Bytes = Arc<Mutex<Vec<u8>>>;

impl Memory {
    /// A copy that what is written later does not reach.
    #[must_use]
    pub fn copy(&self) -> Self {
        let files = locked(&self.0);
        let copied =
            files.iter().map(|(name, file)| (name.clone(), Arc::new(Mutex::new(locked(file).clone()))));
        Self(Arc::new(Mutex::new(copied.collect())))
    }

    fn file(&self, path: &Path) -> io::Result<Medium> {
        let mut files = locked(&self.0);
        let name = path.file_name().unwrap_or_default();
        if let Some(file) = files.get(name) {
            return Ok(Medium::Memory(file.clone()));
        }
        let file = Arc::new(Mutex::new(std::fs::read(path)?));
        files.insert(name.to_owned(), file.clone());
        Ok(Medium::Memory(file))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
enum Medium {
    File(File),
    Memory(Bytes),
}

impl Medium {
    fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::File(file) => {
                let mut read = vec![0; offset(file.metadata()?.len())];
                file.read_exact_at(&mut read, 0)?;
                Ok(read)
            }
            Self::Memory(bytes) => Ok(locked(bytes).clone()),
        }
    }

    fn set_len(&self, len: usize) {
        match self {
            Self::File(file) => file.set_len(len as u64).expect("the real disk works"),
            Self::Memory(bytes) => locked(bytes).resize(len, 0),
        }
    }

    fn write_at(&self, at: usize, data: &[u8]) {
        match self {
            Self::File(file) => file.write_all_at(data, at as u64).expect("the real disk works"),
            Self::Memory(bytes) => {
                let (mut bytes, end) = (locked(bytes), at + data.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[at..end].copy_from_slice(data);
            }
        }
    }
}

/// A [`Disk`] with at most one fault to come; clones share it.
#[derive(Clone, Debug, Default)]
pub struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    armed: Option<(usize, Fault, Unsynced)>,
    down: bool,
    reads_fail: bool,
    lies: bool,
    requests: usize,
    memory: Option<Memory>,
    files: Vec<Pages>,
}

/// A file as the process sees it, and what of that may not be on the medium yet.
#[derive(Debug)]
struct Pages {
    medium: Medium,
    /// Up to here a lost write loses no more than a vault's mark, which makes an open less strict.
    marks: usize,
    view: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Debug)]
enum Pending {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Pending {
    fn is_below(&self, end: usize) -> bool {
        matches!(self, Self::Write(offset, data) if offset + data.len() <= end)
    }
}

/// One opening of a file; `at` is its place in `State::files`.
#[derive(Debug)]
struct Handle {
    disk: FaultyDisk,
    at: usize,
}

impl FaultyDisk {
    /// A disk whose medium is in memory.
    #[must_use]
    pub fn on(memory: &Memory) -> Self {
        Self(Arc::new(Mutex::new(State { memory: Some(memory.clone()), ..State::default() })))
    }

    /// Whether all that was written is on the medium, but for a vault's mark.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let state = self.state();
        let synced = |pages: &Pages| pages.pending.iter().all(|p| p.is_below(pages.marks));
        !state.lies && !state.down && state.files.iter().all(synced)
    }

    /// Lets `fault` happen at the `nth` write, resize or sync from now on, counted from 0.
    pub fn arm(&self, nth: usize, fault: Fault, unsynced: Unsynced) {
        self.state().armed = Some((nth, fault, unsynced));
    }

    /// Lets every read fail with EIO from now on.
    pub fn fail_reads(&self) {
        self.state().reads_fail = true;
    }

    /// Lets every sync succeed from now on, and write nothing.
    pub fn lie(&self) {
        self.state().lies = true;
    }

    /// Stops the machine now.
    pub fn crash(&self, unsynced: Unsynced) {
        self.state().crash(unsynced);
    }

    /// The requests that reached the disk, of any kind.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.state().requests
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn Media>> {
        let mut state = self.state();
        state.request()?;
        let medium = match &state.memory {
            Some(memory) => memory.file(path)?,
            None => Medium::File(open_file(path)?),
        };
        let view = medium.read()?;
        let marks = if path.ends_with(super::SLOTS) { super::slots::MARK_BYTES } else { 0 };
        state.files.push(Pages { medium, view, pending: Vec::new(), marks });
        Ok(Box::new(Handle { disk: self.clone(), at: state.files.len() - 1 }))
    }
}

impl State {
    fn request(&mut self) -> io::Result<()> {
        self.requests += 1;
        if self.down { Err(io::Error::other("the machine is down")) } else { Ok(()) }
    }

    /// Counts down to the fault; `Some` when it strikes this request.
    fn strikes(&mut self) -> Option<(Fault, Unsynced)> {
        let (left, fault, unsynced) = self.armed.take()?;
        if left == 0 {
            return Some((fault, unsynced));
        }
        self.armed = Some((left - 1, fault, unsynced));
        None
    }

    fn crash(&mut self, unsynced: Unsynced) {
        self.down = true;
        for pages in &mut self.files {
            pages.settle(unsynced);
        }
    }

    fn change(&mut self, at: usize, change: Pending) -> io::Result<()> {
        self.request()?;
        match self.strikes() {
            None => {
                self.files[at].apply(change);
                Ok(())
            }
            Some((Fault::Crash, unsynced)) => {
                self.files[at].apply(change);
                self.crash(unsynced);
                Err(Errno::IO.into())
            }
            Some((Fault::Fail, _)) => {
                if let Pending::Write(offset, mut data) = change {
                    data.truncate(data.len() / 2);
                    self.files[at].apply(Pending::Write(offset, data));
                }
                Err(Errno::IO.into())
            }
        }
    }

    fn sync(&mut self, at: usize) -> io::Result<()> {
        self.request()?;
        match self.strikes() {
            None if self.lies => Ok(()),
            None => {
                self.files[at].settle(Unsynced::Kept);
                Ok(())
            }
            Some((Fault::Crash, unsynced)) => {
                self.crash(unsynced);
                Err(Errno::IO.into())
            }
            Some((Fault::Fail, unsynced)) => {
                self.files[at].settle(unsynced);
                Err(Errno::IO.into())
            }
        }
    }
}

impl Pages {
    fn apply(&mut self, change: Pending) {
        match &change {
            Pending::Write(offset, data) => {
                let end = offset + data.len();
                if self.view.len() < end {
                    self.view.resize(end, 0);
                }
                self.view[*offset..end].copy_from_slice(data);
            }
            Pending::SetLen(len) => self.view.resize(*len, 0),
        }
        self.pending.push(change);
    }

    /// Lets what survives of the unsynced writes reach the medium, and forgets the rest.
    fn settle(&mut self, unsynced: Unsynced) {
        let pending = std::mem::take(&mut self.pending);
        let mut cuts = Cuts::new(unsynced, pending.len());
        for (nth, change) in pending.iter().enumerate() {
            match change {
                Pending::SetLen(len) if nth < cuts.of(LENGTH) => {
                    self.medium.set_len(*len);
                }
                Pending::SetLen(_) => {}
                Pending::Write(offset, data) if unsynced == Unsynced::Kept => {
                    self.medium.write_at(*offset, data);
                }
                Pending::Write(offset, data) => {
                    let mut done = 0;
                    while done < data.len() {
                        let at = offset + done;
                        let len = (SECTOR - at % SECTOR).min(data.len() - done);
                        if nth < cuts.of((at / SECTOR) as u64) {
                            self.medium.write_at(at, &data[done..done + len]);
                        }
                        done += len;
                    }
                }
            }
        }
    }
}

/// For each sector, how many of the pending changes it has seen.
struct Cuts {
    unsynced: Unsynced,
    pending: usize,
    rng: SeededRng,
    drawn: BTreeMap<u64, usize>,
}

impl Cuts {
    fn new(unsynced: Unsynced, pending: usize) -> Self {
        let seed = if let Unsynced::Torn(seed) = unsynced { seed } else { 0 };
        Self { unsynced, pending, rng: SeededRng::new(seed), drawn: BTreeMap::new() }
    }

    fn of(&mut self, sector: u64) -> usize {
        match self.unsynced {
            Unsynced::Lost => 0,
            Unsynced::Kept => self.pending,
            Unsynced::Torn(_) => {
                let (rng, pending): (&mut dyn CryptoRng, _) = (&mut self.rng, self.pending);
                // None and all often, or a sector that was written once would mostly be lost.
                *self.drawn.entry(sector).or_insert_with(|| match rng.next_u32() % 4 {
                    0 => 0,
                    1 => pending,
                    _ => rng.next_u32() as usize % (pending + 1),
                })
            }
        }
    }
}

impl Media for Handle {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.request()?;
        Ok(state.files[self.at].view.len() as u64)
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.request()?;
        if state.reads_fail {
            return Err(Errno::IO.into());
        }
        let at = offset(at);
        let found = state.files[self.at].view.get(at..at + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.disk.state().change(self.at, Pending::Write(offset(at), data.to_owned()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.state().change(self.at, Pending::SetLen(offset(len)))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.state().sync(self.at)
    }
}

/// A file that is closed while the machine runs is written back in time.
impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if !state.down {
            state.files[self.at].settle(Unsynced::Kept);
        }
    }
}

fn offset(at: u64) -> usize {
    usize::try_from(at).expect("a test's files fit in memory")
}
