//! The vault under damage, crashes and failing disks, through its public calls; where an attacker
//! holds the root key too, with the vault's own parts.
//!
//! `crashes`: faults at every write and sync. `damage`: what is refused at the open. `erasure`: what an
//! erasure leaves.

mod crashes;
mod damage;
mod erasure;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::faults::FaultyDisk;
use super::{Change, Disk, Root, Table, Vault};
use crate::error::{Code, Result};
use crate::rng::SeededRng;

const TABLES: [Table; 2] = ["plain", "secret"];

/// What a vault holds: table and id to value.
type Contents = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// A directory that goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::SeqCst);
        let dir = std::env::temp_dir().join(format!("quorate-vault-{}-{n}", std::process::id()));
        fs::create_dir(&dir).expect("a fresh directory");
        Self(dir)
    }

    fn vault(&self) -> PathBuf {
        self.0.join("vault")
    }

    /// A copy of the vault in a scratch directory of its own.
    fn copy(&self) -> Self {
        let copy = Self::new();
        copy_dir(&self.vault(), &copy.vault());
        copy
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that failed must not fail twice.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a fresh directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
    }
}

/// The names and bytes of a directory's files.
fn bytes_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a directory");
    entries.map(|e| e.expect("an entry").path()).map(|p| (p.clone(), fs::read(&p).expect("a file"))).collect()
}

fn rng() -> SeededRng {
    SeededRng::new(1)
}

/// A new vault without records.
fn made(dir: &Path, root: Root<'_>, disk: &dyn Disk) -> Result<Vault> {
    Vault::create_with(dir, root, &mut rng(), |_, _| Ok(()), disk).map(|(vault, ())| vault)
}

fn create(scratch: &Scratch) -> Vault {
    made(&scratch.vault(), Root::KeyFile, &FaultyDisk::default()).expect("a new vault")
}

/// Opens on a disk that never calls a real sync.
fn open(scratch: &Scratch) -> Result<Vault> {
    Vault::open_on(&scratch.vault(), Root::KeyFile, &mut SeededRng::new(2), &FaultyDisk::default())
}

fn put<'a>(id: &'a [u8], value: &'a [u8]) -> Change<'a> {
    Change::Put { table: "plain", id, value }
}

fn put_secret<'a>(id: &'a [u8], value: &'a [u8]) -> Change<'a> {
    Change::PutSecret { table: "secret", id, value }
}

fn erase(id: &[u8]) -> Change<'_> {
    Change::Erase { table: "secret", id }
}

fn contents(vault: &Vault) -> Contents {
    let mut found = Contents::new();
    for table in TABLES {
        for (id, value) in vault.list(table).expect("listed") {
            assert_eq!(vault.get(table, &id).expect("read").as_deref(), Some(&*value));
            found.insert((table, id), value.to_vec());
        }
    }
    found
}

/// What `changes` make of `before`.
fn after(before: &Contents, changes: &[Change<'_>]) -> Contents {
    let mut then = before.clone();
    for change in changes {
        match *change {
            Change::Put { table, id, value } | Change::PutSecret { table, id, value } => {
                then.insert((table, id.to_vec()), value.to_vec());
            }
            Change::Delete { table, id } | Change::Erase { table, id } => {
                then.remove(&(table, id.to_vec()));
            }
        }
    }
    then
}

fn refusal<T>(result: Result<T>) -> Code {
    result.err().expect("refused").code
}

#[test]
fn a_vault_gives_back_what_was_committed_after_it_is_opened_again() {
    let scratch = Scratch::new();
    let mut vault = create(&scratch);
    let big = vec![7; super::MAX_VALUE];
    let changes = [put(b"a", b"1"), put_secret(b"s", b"2"), put(b"b", &big), put(b"a", b"3")];
    assert_eq!(vault.commit(&changes, &mut rng()).expect("committed"), 1);
    let want = after(&Contents::new(), &changes);
    assert_eq!(contents(&vault), want);
    drop(vault);
    let vault = Vault::open(&scratch.vault(), Root::KeyFile, &mut rng()).expect("opened");
    assert_eq!((contents(&vault), vault.generation()), (want, 1));
    assert_eq!(vault.get("plain", b"absent").expect("read"), None);
}

#[test]
fn a_vault_is_its_owners_alone() {
    let scratch = Scratch::new();
    drop(create(&scratch));
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode(&scratch.vault()), 0o700);
    for path in bytes_of(&scratch.vault()).keys() {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
}

#[test]
fn a_refused_commit_changes_nothing_and_the_vault_goes_on() {
    let scratch = Scratch::new();
    let mut vault = create(&scratch);
    vault.commit(&[put(b"a", b"1"), put_secret(b"s", b"2")], &mut rng()).expect("committed");
    let want = contents(&vault);
    let big = vec![0; super::MAX_VALUE + 1];
    let plain = Change::Erase { table: "plain", id: b"a" };
    let nameless = Change::Put { table: "", id: b"generation", value: b"" };
    for (change, code) in
        [(plain, Code::WrongKind), (put(b"a", &big), Code::TooLarge), (nameless, Code::BadEncoding)]
    {
        let changes = [put(b"b", b"x"), put_secret(b"s", b"x"), put_secret(b"t", b"x"), change];
        assert_eq!(refusal(vault.commit(&changes, &mut rng())), code);
        assert_eq!((contents(&vault), vault.generation(), vault.is_failed()), (want.clone(), 1, false));
    }
    vault.commit(&[erase(b"s"), erase(b"absent"), put_secret(b"t", b"3")], &mut rng()).expect("committed");
    let want = contents(&vault);
    drop(vault);
    let vault = open(&scratch).expect("opened");
    assert_eq!((contents(&vault), vault.generation()), (want, 2));
}
