//! Marks: how far each module's vault had come, under that module's own signature. By them a module that was started
//! from an older copy of its vault is found, by its peers and, once it is shown one of its own, by itself
//! (docs/protocols/sessions.md, "A module on an older copy").
//!
//! Here: which start may follow which, what peers remember, what a module does that is proven to be behind.
//! Not here: who is told (the processes); what a barred share is good for (`sessions`, `epochs`).

use std::collections::{BTreeMap, BTreeSet};

use super::Module;
use super::fleet::BEHIND;
use super::messages::Mark;
use super::state::State;
use super::store;
use crate::encoding::{Bytes, decode, encode};
use crate::error::{Code, Result, fail};
use crate::ids::{Epoch, NodeId};
use crate::seal::fleet::Header;
use crate::seal::statement::{self, Signed};
use crate::vault::Change;

/// What this module remembers of its peers.
#[derive(Default)]
pub struct Marks {
    known: BTreeMap<NodeId, Signed<Mark>>,
    /// Those that are not in the vault yet.
    dirty: BTreeSet<NodeId>,
    /// Peers that showed an older copy, and the start that did.
    behind: BTreeMap<NodeId, u64>,
}

impl Marks {
    pub fn open(stored: Vec<(Vec<u8>, zeroize::Zeroizing<Vec<u8>>)>) -> Result<Self> {
        let mut known = BTreeMap::new();
        for (_, bytes) in stored {
            // It was verified when it came; the vault's own seal vouches for it since.
            let mark: Signed<Mark> = statement::read_unverified(&bytes)?;
            known.insert(mark.signer().clone(), mark);
        }
        Ok(Self { known, ..Self::default() })
    }

    /// Whether the last start that `peer` showed is one of an older copy.
    pub fn is_behind(&self, peer: &NodeId) -> bool {
        self.behind.contains_key(peer)
    }
}

/// Whether a vault may come from `known` to `later`: on in the same start, or in a later one that began after it.
fn follows(later: &Mark, known: &Mark) -> bool {
    if later.boot == known.boot {
        later.start == known.start && later.generation >= known.generation
    } else {
        later.boot > known.boot && later.began > known.generation
    }
}

impl Module {
    /// How far this module's vault has come, signed.
    pub fn mark(&self) -> Result<Vec<u8>> {
        self.with(|s, _| Ok(s.sign(s.own_mark()?)?.bytes().to_vec()))
    }

    /// Notes how far `peer` has come since its greeting.
    ///
    /// # Errors
    /// `rolled_back` when it has not come from where it was seen last.
    pub fn note_mark(&self, peer: &NodeId, mark: &[u8]) -> Result<()> {
        self.with(|s, _| {
            let mark = s.verify::<Mark>(mark)?;
            if mark.signer() != peer {
                return fail(Code::NotAuthorized, "a module speaks for itself");
            }
            s.note(mark)
        })
    }

    /// Writes marks that came since the last time; whether there were any. What is lost with a crash before is asked
    /// for again by the next greeting.
    pub fn keep_marks(&self) -> Result<bool> {
        self.with(|s, _| {
            let due: Vec<(Vec<u8>, Vec<u8>)> =
                s.marks.dirty.iter().map(|n| (encode(n), s.marks.known[n].bytes().to_vec())).collect();
            if due.is_empty() {
                return Ok(false);
            }
            let changes: Vec<Change<'_>> =
                due.iter().map(|(id, value)| Change::Put { table: store::MARK, id, value }).collect();
            s.commit(&changes)?;
            s.marks.dirty.clear();
            Ok(true)
        })
    }

    /// The newest mark that `peer` has signed, as far as it is known here.
    pub fn mark_of(&self, peer: &NodeId) -> Result<Option<Vec<u8>>> {
        self.with(|s, _| Ok(s.marks.known.get(peer).map(|m| m.bytes().to_vec())))
    }

    /// What a peer is told that runs on an older copy: its own newest mark.
    pub fn evidence(&self, peer: &NodeId) -> Result<Vec<u8>> {
        match self.mark_of(peer)? {
            Some(mark) => self.seal(peer, BEHIND, &encode(&vec![Bytes(mark)])),
            None => fail(Code::BadState, format!("no mark of {peer} is known here")),
        }
    }

    /// Takes one of this module's own marks. True if it proves that the vault is an older copy: then every share here
    /// is barred, **durably**, whatever was in use is erased, and the module goes on as a start above all it has seen.
    pub fn take_evidence(&self, mark: &[u8]) -> Result<bool> {
        self.with(|s, _| {
            let mark = s.verify::<Mark>(mark)?;
            if mark.signer() != &s.name {
                return fail(Code::NotAuthorized, "this is another module's mark");
            }
            if follows(&s.own_mark()?, mark.body()) {
                return Ok(false);
            }
            s.begin_anew(&mark)?;
            Ok(true)
        })
    }
}

impl State {
    pub fn own_mark(&self) -> Result<Mark> {
        Ok(Mark {
            fleet: self.fleet()?,
            boot: self.boot,
            start: self.start,
            began: self.began,
            generation: self.vault.generation(),
        })
    }

    /// Checks the mark in a greeting, and remembers it.
    pub fn check_hello(&mut self, header: &Header, body: &[u8]) -> Result<()> {
        let from = &header.from;
        let carried: Vec<Bytes> = decode(body)?;
        let [mark] = carried.as_slice() else {
            return fail(Code::BadEncoding, format!("{from} has greeted without its mark"));
        };
        let mark = self.verify::<Mark>(&mark.0)?;
        if mark.signer() != from || mark.body().boot != header.boot {
            return fail(Code::NotAuthorized, format!("{from} has greeted with another mark than its own"));
        }
        // Of a start below one that was heard since this module's own, it may be a recording: the window keeps that
        // start out, and the peer as it is now is not to suffer.
        let heard_later = self.peers.get(from).is_some_and(|peer| peer.boot() > header.boot);
        let noted = self.note(mark);
        if heard_later {
            self.marks.behind.remove(from);
        }
        noted
    }

    /// Messages of a start that was refused are named after the reason.
    pub fn check_behind(&self, header: &Header) -> Result<()> {
        if self.marks.behind.get(&header.from) == Some(&header.boot) {
            return fail(Code::RolledBack, format!("{} runs on an older copy of its vault", header.from));
        }
        Ok(())
    }

    fn note(&mut self, mark: Signed<Mark>) -> Result<()> {
        let (name, m) = (mark.signer().clone(), mark.body());
        if let Some(known) = self.marks.known.get(&name).map(Signed::body) {
            if !follows(m, known) {
                let what = format!(
                    "{name} runs on an older copy of its vault: it shows start {} and generation {}, and start {} \
                     with generation {} was seen",
                    m.boot, m.generation, known.boot, known.generation
                );
                self.marks.behind.insert(name, m.boot);
                return fail(Code::RolledBack, what);
            }
            if m == known {
                return Ok(());
            }
        }
        self.marks.behind.remove(&name);
        self.marks.dirty.insert(name.clone());
        self.marks.known.insert(name, mark);
        Ok(())
    }

    /// The vault is an older copy, as `mark` proves. Its shares count as lost: their counters do not know what they
    /// gave since. They stay in the vault, as those of a retired epoch do, until they are proven to be replaced.
    fn begin_anew(&mut self, mark: &Signed<Mark>) -> Result<()> {
        let boot = self.boot.max(mark.body().boot) + 1;
        let barred: Vec<Vec<u8>> = self
            .epochs
            .iter()
            .flat_map(|(domain, epochs)| epochs.iter().map(move |(epoch, held)| (domain, epoch, held)))
            .filter(|(_, _, held)| !held.shares.is_empty())
            .map(|(domain, epoch, _): (_, &Epoch, _)| store::epoch_id(domain, *epoch))
            .collect();
        let boot_value = encode(&boot);
        let mut changes = vec![Change::Put { table: store::BOOT, id: store::ONLY, value: &boot_value }];
        changes.extend(barred.iter().map(|id| Change::Put { table: store::BARRED, id, value: mark.bytes() }));
        self.vault.skip_to(mark.body().generation);
        self.commit(&changes)?;
        self.boot = boot;
        self.seq = 0;
        self.start = self.next_bytes();
        self.began = self.vault.generation();
        self.plans.clear();
        self.dealt.clear();
        self.sessions.clear();
        self.leases.clear();
        for held in self.epochs.values_mut().flat_map(BTreeMap::values_mut) {
            held.barred |= !held.shares.is_empty();
        }
        Ok(())
    }
}
