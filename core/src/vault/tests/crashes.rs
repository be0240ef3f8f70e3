//! A fault at every write, resize and sync in turn, during creation, open and commits (row N47): what was
//! acknowledged is found whole, what was not is found whole or not at all, and erased slots are gone.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::faults::{Fault, FaultyDisk, Unsynced};
use super::super::slots::{BLOCK, SLOT};
use super::super::{Change, Root, SLOTS, Vault};
use super::{Contents, Scratch, after, contents, create, erase, open, put, put_secret, refusal, rng};
use crate::error::{Code, Error};
use crate::rng::{CryptoRng, SeededRng};

const FATES: [Unsynced; 6] = [
    Unsynced::Lost,
    Unsynced::Kept,
    Unsynced::Torn(1),
    Unsynced::Torn(2),
    Unsynced::Torn(3),
    Unsynced::Torn(4),
];

type Commit<'a> = Vec<Change<'a>>;

fn script() -> Vec<Commit<'static>> {
    static LONG: [u8; 20_000] = [7; 20_000];
    vec![
        vec![put(b"a", b"1"), put_secret(b"s", b"one")],
        vec![put(b"a", b"2"), put(b"long", &LONG), put_secret(b"t", b"two"), put_secret(b"s", b"one again")],
        vec![erase(b"t"), put(b"b", b"3")],
        vec![
            Change::Delete { table: "secret", id: b"s" },
            put_secret(b"u", b"three"),
            put_secret(b"t", b"four"),
        ],
        vec![erase(b"u"), erase(b"t"), Change::Delete { table: "plain", id: b"long" }, erase(b"absent")],
    ]
}

/// The slots of the file beside the two marks, as the medium has them.
fn slots(scratch: &Scratch) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(scratch.vault().join(SLOTS)).expect("the slots");
    bytes.chunks_exact(SLOT).skip(2).map(<[u8]>::to_vec).collect()
}

/// Slots that hold a record's key.
fn live(scratch: &Scratch, vault: &Vault) -> BTreeSet<Vec<u8>> {
    let held =
        |nth: &usize| vault.slots.read(&vault.root, u32::try_from(nth + 2).expect("few")).expect("read");
    let slots = slots(scratch);
    (0..slots.len()).filter(|nth| held(nth).is_some()).map(|nth| slots[nth].clone()).collect()
}

/// How far a sequence of commits came.
struct Run {
    /// What the vault held after each acknowledged commit, from the start on.
    states: Vec<Contents>,
    /// Slots whose erasure was acknowledged.
    erased: BTreeSet<Vec<u8>>,
    error: Option<Error>,
}

/// Makes the commits until one fails.
fn run(scratch: &Scratch, vault: &mut Vault, commits: &[Commit<'_>]) -> Run {
    let mut run = Run { states: vec![contents(vault)], erased: BTreeSet::new(), error: None };
    let mut held = live(scratch, vault);
    for commit in commits {
        match vault.commit(commit, &mut rng_of(run.states.len())) {
            Ok(_) => {
                let now = live(scratch, vault);
                run.erased.extend(held.difference(&now).cloned());
                held = now;
                run.states.push(after(run.states.last().expect("a first"), commit));
                assert_eq!(&contents(vault), run.states.last().expect("a first"));
            }
            Err(error) => {
                run.error = Some(error);
                break;
            }
        }
    }
    run
}

fn rng_of(nth: usize) -> SeededRng {
    SeededRng::new(100 + nth as u64)
}

/// Checks what a fault left, and that the vault lives on.
fn survives(scratch: &Scratch, run: &Run, commits: &[Commit<'_>], base: u64) {
    let on_medium: BTreeSet<_> = slots(scratch).into_iter().collect();
    assert!(on_medium.is_disjoint(&run.erased), "an acknowledged erasure did not reach the medium");

    let mut vault = open(scratch).expect("it opens after a fault");
    let acknowledged = run.states.len() - 1;
    let mut allowed = vec![(base + acknowledged as u64, run.states[acknowledged].clone())];
    if let (Some(_), Some(commit)) = (&run.error, commits.get(acknowledged)) {
        allowed.push((base + acknowledged as u64 + 1, after(&run.states[acknowledged], commit)));
    }
    let found = (vault.generation(), contents(&vault));
    assert!(allowed.contains(&found), "generation {} after {acknowledged} acknowledged", found.0);

    let secrets = found.1.keys().filter(|(table, _)| *table == "secret").count();
    assert_eq!(live(scratch, &vault).len(), secrets, "a slot without a record survived the open");

    vault.commit(&[put(b"later", b"1"), put_secret(b"later", b"2")], &mut rng_of(50)).expect("it lives on");
    let want = contents(&vault);
    drop(vault);
    assert_eq!(contents(&open(scratch).expect("it opens again")), want);
}

/// Runs the commits with a fault at each change in turn, until one run is not reached by its fault.
fn every_fault(base: &Scratch, commits: &[Commit<'_>], fault: Fault, fate: Unsynced) {
    for nth in 0.. {
        let scratch = base.copy();
        let disk = FaultyDisk::default();
        let mut vault = Vault::open_on(&scratch.vault(), Root::KeyFile, &mut rng(), &disk).expect("opened");
        let generation = vault.generation();
        disk.arm(nth, fault, fate);
        let run = run(&scratch, &mut vault, commits);
        let Some(error) = &run.error else {
            disk.crash(fate);
            drop(vault);
            survives(&scratch, &run, commits, generation);
            assert!(nth > commits.len(), "no fault struck");
            return;
        };
        assert_eq!(error.code, Code::Storage, "{error}");
        stays_shut(vault, &disk);
        survives(&scratch, &run, commits, generation);
    }
}

/// Everything is refused, and nothing reaches the disk again, not even at the drop.
fn stays_shut(mut vault: Vault, disk: &FaultyDisk) {
    assert!(vault.is_failed());
    let requests = disk.requests();
    assert_eq!(refusal(vault.get("plain", b"a")), Code::Storage);
    assert_eq!(refusal(vault.list("plain")), Code::Storage);
    assert_eq!(refusal(vault.commit(&[put(b"x", b"x")], &mut rng())), Code::Storage);
    drop(vault);
    assert_eq!(disk.requests(), requests, "the disk was touched after a failure");
}

fn empty() -> Scratch {
    let scratch = Scratch::new();
    drop(create(&scratch));
    scratch
}

#[test]
fn n47_a_crash_at_any_write_or_sync_keeps_all_of_each_acknowledged_commit_and_no_half() {
    let base = empty();
    for fate in FATES {
        every_fault(&base, &script(), Fault::Crash, fate);
    }
}

#[test]
fn n47_after_a_failed_write_or_sync_everything_is_refused_and_nothing_tried_again() {
    let base = empty();
    for fate in FATES {
        every_fault(&base, &script(), Fault::Fail, fate);
    }
}

#[test]
fn n47_a_fault_while_the_slot_file_grows_loses_nothing() {
    let base = Scratch::new();
    let ids: Vec<[u8; 2]> = (0..BLOCK - 3).map(|n| u16::try_from(n).expect("few").to_be_bytes()).collect();
    let fill: Vec<_> = ids.iter().map(|id| put_secret(id, b"s")).collect();
    create(&base).commit(&fill, &mut rng()).expect("committed");
    let grow =
        [vec![put_secret(b"s", b"1"), put_secret(b"t", b"2"), put_secret(b"u", b"3")], vec![erase(b"t")]];
    for fault in [Fault::Crash, Fault::Fail] {
        for fate in [Unsynced::Lost, Unsynced::Torn(1)] {
            every_fault(&base, &grow, fault, fate);
        }
    }
}

#[test]
fn n47_a_failed_read_stops_the_vault() {
    let base = empty();
    let disk = FaultyDisk::default();
    let mut vault = Vault::open_on(&base.vault(), Root::KeyFile, &mut rng(), &disk).expect("opened");
    vault.commit(&[put_secret(b"s", b"1")], &mut rng()).expect("committed");
    disk.fail_reads();
    assert_eq!(refusal(vault.get("secret", b"s")), Code::Storage);
    stays_shut(vault, &disk);
}

#[test]
fn n47_a_crash_during_the_open_after_a_crash_changes_nothing_that_was_found() {
    let base = empty();
    // In the middle of a commit that frees slots: the open has something to finish.
    for at in [0, 3, 6, 9, 12] {
        let disk = FaultyDisk::default();
        let crashed = base.copy();
        let mut vault = Vault::open_on(&crashed.vault(), Root::KeyFile, &mut rng(), &disk).expect("opened");
        let first = run(&crashed, &mut vault, &script()[..1]);
        disk.arm(at, Fault::Crash, Unsynced::Kept);
        assert!(vault.commit(&script()[1], &mut rng_of(1)).is_err(), "no fault at {at}");
        drop(vault);
        let want = contents(&open(&crashed.copy()).expect("opened"));
        for fate in FATES {
            for nth in 0.. {
                let scratch = crashed.copy();
                let disk = FaultyDisk::default();
                disk.arm(nth, Fault::Crash, fate);
                let opened = Vault::open_on(&scratch.vault(), Root::KeyFile, &mut rng(), &disk);
                let struck = opened.is_err();
                disk.crash(fate);
                drop(opened);
                assert_eq!(contents(&open(&scratch).expect("it opens")), want, "{at} {nth} {fate:?}");
                assert!(slots(&scratch).iter().all(|slot| !first.erased.contains(slot)));
                if !struck {
                    break;
                }
            }
        }
    }
}

#[test]
fn n47_a_crash_during_the_creation_leaves_a_whole_vault_or_none() {
    for fate in FATES {
        for nth in 0.. {
            let scratch = Scratch::new();
            let disk = FaultyDisk::default();
            disk.arm(nth, Fault::Crash, fate);
            let first = |vault: &mut Vault, rng: &mut dyn CryptoRng| vault.commit(&script()[0], rng);
            let made = Vault::create_with(&scratch.vault(), Root::KeyFile, &mut rng(), first, &disk);
            let struck = made.is_err();
            disk.crash(fate);
            drop(made);
            match open(&scratch) {
                Ok(vault) => assert_eq!(
                    (vault.generation(), contents(&vault)),
                    (1, after(&Contents::new(), &script()[0]))
                ),
                Err(error) => {
                    assert_eq!(error.code, Code::VaultMissing, "{error}");
                    assert!(struck, "a creation that succeeded was lost");
                    drop(create(&scratch));
                }
            }
            if !struck {
                assert!(nth > 5, "no fault struck");
                break;
            }
        }
    }
}

/// A change that owns what it holds: kind, id, value.
type Owned = (u8, [u8; 1], Vec<u8>);

/// Changes of commits: kind, id, length of the value.
fn commits() -> impl Strategy<Value = Vec<Vec<(u8, u8, usize)>>> {
    let change = (0..4_u8, 0..6_u8, prop_oneof![4 => 0..50_usize, 1 => 4000..9000_usize]);
    prop::collection::vec(prop::collection::vec(change, 1..6), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn n47_any_commits_survive_a_fault_anywhere(
        commits in commits(), nth in 0..120_usize, seed in any::<u64>(), crash in any::<bool>(),
    ) {
        let value = |nth: usize, len: usize| vec![u8::try_from(nth % 251).expect("small"); len];
        let owned: Vec<Vec<Owned>> = commits
            .iter()
            .enumerate()
            .map(|(nth, commit)| commit.iter().map(|(k, id, len)| (*k, [*id], value(nth, *len))).collect())
            .collect();
        let commits: Vec<Commit<'_>> = owned
            .iter()
            .map(|commit| {
                commit
                    .iter()
                    .map(|(kind, id, value)| match kind {
                        0 => put(id, value),
                        1 => put_secret(id, value),
                        2 => erase(id),
                        _ => Change::Delete { table: "plain", id },
                    })
                    .collect()
            })
            .collect();
        let scratch = empty();
        let disk = FaultyDisk::default();
        let mut vault = Vault::open_on(&scratch.vault(), Root::KeyFile, &mut rng(), &disk).expect("opened");
        let fate = Unsynced::Torn(seed);
        disk.arm(nth, if crash { Fault::Crash } else { Fault::Fail }, fate);
        let run = run(&scratch, &mut vault, &commits);
        if run.error.is_some() {
            stays_shut(vault, &disk);
        } else {
            disk.crash(fate);
            drop(vault);
        }
        survives(&scratch, &run, &commits, 0);
    }
}
