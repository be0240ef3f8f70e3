//! The roster as this module has verified it: whom to believe, in which role.
//!
//! Every entry is operator-signed; the list is signed by the hub that it names. A name or a key is never
//! used twice, and an entry never disappears: a hub cannot drop a member by leaving it out.

use std::collections::{BTreeMap, HashSet};

use crate::error::{Code, Result, fail};
use crate::ids::{FleetId, Hash, NodeId};
use crate::module::messages::{Entry, Role, Roster as RosterStatement, Standing};
use crate::seal::signing::VerifyKey;
use crate::seal::statement::{self, Approved};

/// A verified roster.
pub struct Roster {
    pub version: u64,
    pub parent: Hash,
    pub hash: Hash,
    pub bytes: Vec<u8>,
    entries: BTreeMap<NodeId, Approved<Entry>>,
    hub: NodeId,
}

impl Roster {
    /// Verifies a roster on its own: entries by the operator, the list by its hub.
    pub fn open(bytes: &[u8], fleet: &FleetId, operator: &VerifyKey) -> Result<Self> {
        // The signer's key stands in the list itself: the list is read first, and believed only once its
        // entries carry the operator's signature and its hub has signed the whole.
        let mut entries = BTreeMap::new();
        let mut hub = None;
        for entry in &statement::read_unverified::<RosterStatement>(bytes)?.body().entries {
            let entry = statement::open_approved::<Entry>(&entry.0, fleet, operator)?;
            let b = entry.body();
            let active_hub = b.role == Role::Hub && b.standing == Standing::Active;
            if active_hub && hub.replace(b.name.clone()).is_some() {
                return fail(Code::NotAuthorized, "a roster names two active hubs");
            }
            if entries.insert(b.name.clone(), entry).is_some() {
                return fail(Code::AlreadyExists, "a roster names one module twice");
            }
        }
        let Some(hub) = hub else { return fail(Code::NotAuthorized, "a roster names no active hub") };
        refuse_repeated_keys(entries.values().map(Approved::body))?;
        let hub_key = entries[&hub].body().sign;
        let key_of = |signer: &NodeId| (signer == &hub).then_some(hub_key);
        let signed = statement::open::<RosterStatement>(bytes, fleet, &key_of)?;
        let (version, parent, hash) = (signed.body().version, signed.body().parent, signed.hash());
        Ok(Self { version, parent, hash, bytes: bytes.to_vec(), entries, hub })
    }

    /// Checks that this roster may follow `known`.
    pub fn follows(&self, known: &Self) -> Result<()> {
        if self.version < known.version {
            return fail(
                Code::StaleVersion,
                format!("roster {} is older than {}, which is known here", self.version, known.version),
            );
        }
        if self.version == known.version && self.hash != known.hash {
            return fail(Code::StaleVersion, format!("two different rosters claim version {}", self.version));
        }
        if self.version == known.version + 1 && self.parent != known.hash {
            return fail(
                Code::StaleVersion,
                format!("roster {} does not follow the one known here", self.version),
            );
        }
        for (name, old) in &known.entries {
            match self.entries.get(name) {
                None => {
                    return fail(Code::StaleVersion, format!("roster {} leaves out {name}", self.version));
                }
                Some(new) if new.body().version < old.body().version => {
                    return fail(Code::StaleVersion, format!("roster {} takes {name} back", self.version));
                }
                Some(new) if new.body().version == old.body().version && new.hash() != old.hash() => {
                    return fail(
                        Code::StaleVersion,
                        format!("two different entries for {name} claim one version"),
                    );
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    pub fn hub(&self) -> &NodeId {
        &self.hub
    }

    /// The active entry of `name`.
    pub fn active(&self, name: &NodeId) -> Result<&Entry> {
        match self.entries.get(name) {
            Some(e) if e.body().standing == Standing::Active => Ok(e.body()),
            Some(_) => fail(Code::NotAMember, format!("{name} is retired from this fleet")),
            None => fail(Code::NotAMember, format!("{name} is not in this fleet's roster")),
        }
    }

    pub fn key_of(&self, name: &NodeId) -> Option<VerifyKey> {
        self.active(name).ok().map(|e| e.sign)
    }

    /// The key of a module that is, or was, in the fleet: for what it signed while it was.
    pub fn past_key_of(&self, name: &NodeId) -> Option<VerifyKey> {
        self.entries.get(name).map(|e| e.body().sign)
    }

    pub fn entries(&self) -> impl Iterator<Item = &Approved<Entry>> {
        self.entries.values()
    }

    /// Checks that `entry` may be added: a new name with new keys, or the next version of a known one.
    pub fn admits(&self, entry: &Entry, hash_of_entry: Hash) -> Result<()> {
        if entry.name == NodeId::operator() {
            return fail(Code::NotAuthorized, "no module may be called operator");
        }
        if let Some(known) = self.entries.get(&entry.name) {
            if known.hash() == hash_of_entry {
                return fail(Code::AlreadyExists, format!("{} is in the roster already", entry.name));
            }
            if known.body().standing == Standing::Retired {
                return fail(Code::NotAMember, format!("{} is retired from this fleet for good", entry.name));
            }
            if entry.version != known.body().version + 1 || entry.parent != known.hash() {
                return fail(
                    Code::AlreadyExists,
                    format!("{} is taken; a name is never used twice", entry.name),
                );
            }
            if entry.sign != known.body().sign
                || entry.kem != known.body().kem
                || entry.tls != known.body().tls
            {
                return fail(
                    Code::DuplicateKey,
                    format!("a new version of {} must keep its keys", entry.name),
                );
            }
            return Ok(());
        }
        if entry.version != 1 {
            return fail(Code::StaleVersion, format!("the first entry of {} must be version 1", entry.name));
        }
        if entry.role == Role::Hub && self.active(&self.hub).is_ok() {
            return fail(Code::NotAuthorized, "this fleet has an active hub");
        }
        refuse_repeated_keys(self.entries.values().map(Approved::body).chain([entry]))
    }
}

fn refuse_repeated_keys<'a>(entries: impl Iterator<Item = &'a Entry>) -> Result<()> {
    let mut seen = HashSet::new();
    for e in entries {
        let keys = [e.sign.as_bytes().to_vec(), e.kem.as_bytes().to_vec(), e.tls.0.clone()];
        for key in keys {
            if !seen.insert(key) {
                return fail(Code::DuplicateKey, format!("{} has a key that another module has", e.name));
            }
        }
    }
    Ok(())
}
