//! Key versions of a domain: a new one dealt by the members, tokens wrapped anew under it, the old one erased when
//! nothing needs it (docs/protocols/key-rotation.md).
//!
//! A key version is a sharing of its own, `NAME.N`, so its epochs are made, refreshed and erased like any (`epochs`).
//! Here: what is refused in a rotation's plan, which token of a key is in use, what was compared, and what may be
//! erased on whose word.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Module;
use super::epochs::{Gone, own_seats};
use super::messages::{Clean, Dropped, KeyRecord, Plan};
use super::records::token_context;
use super::state::State;
use super::store::{self, stored};
use crate::encoding::{Bytes, encode, same_bytes};
use crate::error::{Code, Error, Result, fail};
use crate::ids::{DomainId, NodeId};
use crate::keys::token;
use crate::memory::Secret;
use crate::record;
use crate::vault::Change;

record! {
    /// A key's token before it was replaced, and who signed the record that replaced it, where that is known. `same`:
    /// this module has said that the present token holds the same.
    pub struct KeptRecord { pub token: Bytes, pub by: Option<NodeId>, pub same: bool }
}

/// The token that a key had before: what is trusted until the new one was opened and found to hold the same.
pub struct Kept {
    pub record: KeptRecord,
    /// What comparing it with the present token came to. Durable with the statement that rests on it: once others
    /// have dropped the old version, nothing could be compared again.
    pub same: Option<bool>,
}

impl Kept {
    pub fn stored(bytes: &[u8]) -> Result<Self> {
        let record: KeptRecord = stored(bytes)?;
        let same = record.same.then_some(true);
        Ok(Self { record, same })
    }
}

/// The sharing that a token of a key of this domain was wrapped under.
pub fn sharing_of(domain: &DomainId, token: &Bytes) -> Result<DomainId> {
    domain.at_version(token::domain_key_version(&token.0)?)
}

/// What no plan of a rotation may be, whoever signed it. That all members deal is what keeps the new key from any one
/// of them, and from the hub (attacks N92, N94).
pub fn check_rotation(p: &Plan) -> Result<()> {
    let outside = |what: &str| fail(Code::OutsideCharter, format!("a rotation {what}"));
    if p.domain.is_base() {
        return outside("makes a later key version, not the first");
    }
    if p.from_epoch.0 != 0 || p.dealers.iter().any(|d| d.index.is_some()) {
        return outside("deals a fresh secret, not an old share");
    }
    let members: BTreeSet<&NodeId> = p.committee.iter().map(|seat| &seat.node).collect();
    let dealers: BTreeSet<&NodeId> = p.dealers.iter().map(|dealer| &dealer.node).collect();
    if dealers != members || dealers.len() != p.dealers.len() {
        return outside("is dealt by each node of its committee, once, and by nobody else");
    }
    if dealers.len() < usize::from(p.threshold) {
        return outside("is dealt by at least as many nodes as its threshold says");
    }
    Ok(())
}

impl Module {
    /// The sharing whose lease the next use of a key takes, and the one that its record names.
    pub fn key_sharings(&self, key_id: &[u8; 16]) -> Result<(DomainId, DomainId)> {
        self.with(|s, _| {
            let (known, token) = s.key_and_token(key_id)?;
            Ok((s.in_use(key_id)?.1, sharing_of(&known.domain, token)?))
        })
    }

    /// The sharing that a new key of this domain is wrapped under: the newest key version that is known here.
    pub fn newest_sharing(&self, domain: &DomainId) -> Result<DomainId> {
        self.with(|s, _| s.newest(domain))
    }

    /// The next version of a key's record, its material wrapped under the domain's newest key version; not learnt
    /// yet. Needs leases of both versions. A token that is wrapped so already is made anew only if it is wrong.
    pub fn rewrap_key(&self, key_id: &[u8; 16]) -> Result<Vec<u8>> {
        self.with(|s, now| {
            let (known, token) = s.key_and_token(key_id)?;
            let mut next = known.clone();
            let (target, present) = (s.newest(&next.domain)?, sharing_of(&next.domain, token)?);
            s.serving(&target)?;
            if present.key_version() >= target.key_version() {
                match s.compare(key_id, now) {
                    Ok(()) => {
                        return fail(Code::BadState, "the key is wrapped under the newest version already");
                    }
                    Err(e) if e.code == Code::NoLease => return Err(e),
                    Err(_) => {}
                }
            }
            let (source, under) = s.in_use(key_id)?;
            let source = source.clone();
            s.spend_leases(&BTreeSet::from([under, target.clone()]), now)?;
            let Some((&fleet_epoch, _)) = s.fleet_keys.last_key_value() else {
                return fail(Code::NoFleetKey, "this module has no fleet key yet");
            };
            let backing = s.open_token(&next, &source)?;
            let context = token_context(&target, *key_id, next.key_version);
            let (wrap, fleet_wrap) = (&s.leases[&target].wrap, &s.fleet_wraps[&fleet_epoch]);
            let token = token::wrap(&backing, &context, wrap, fleet_wrap, fleet_epoch, &mut *s.rng)?;
            (next.version, next.parent) = (next.version + 1, s.keys[key_id].hash());
            next.token = Some(Bytes(token));
            Ok(s.sign(next)?.bytes().to_vec())
        })
    }

    /// The keys of a domain whose present token was not found yet to hold what the one before holds.
    pub fn unchecked_keys(&self, domain: &DomainId) -> Result<Vec<[u8; 16]>> {
        self.with(|s, _| {
            let open = s.kept.iter().filter(|(id, kept)| {
                s.keys.get(*id).is_some_and(|k| k.body().domain == domain.base())
                    && kept.same != Some(true)
                    && s.can_be_opened(id, kept)
            });
            Ok(open.map(|(id, _)| *id).collect())
        })
    }

    /// Opens a key's present token and the one before, and compares them. Needs leases of both versions.
    ///
    /// # Errors
    /// `wrong_material` when they differ, which blames the signer of the record that brought the present one; the
    /// key stays in use with the one before.
    pub fn check_rewrapped(&self, key_id: &[u8; 16]) -> Result<()> {
        self.with(|s, now| s.compare(key_id, now))
    }

    /// Says that nothing here needs key version `version` of the domain any more.
    pub fn clean(&self, domain: &DomainId, version: u64) -> Result<Vec<u8>> {
        self.with(|s, _| {
            s.require_clean(domain, version)?;
            s.store_compared(domain)?;
            let clean = Clean { fleet: s.fleet()?, domain: domain.base(), key_version: version };
            Ok(s.sign(clean)?.bytes().to_vec())
        })
    }

    /// Erases every share of a key version, on the word of each member of the next one that it is not needed any
    /// more. A repeat gives the same statement.
    pub fn drop_version(&self, cleans: &[Vec<u8>]) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let (domain, version) = s.check_cleans(cleans)?;
            if s.dropped.get(&domain).is_none_or(|d| *d < version) {
                s.erase_versions(&domain, version)?;
            }
            let dropped = Dropped { fleet: s.fleet()?, domain, key_version: version };
            Ok(s.sign(dropped)?.bytes().to_vec())
        })
    }
}

impl State {
    /// The newest key version of a domain of which a current epoch is known here. Not the newest that this module
    /// holds a share of: one that has said that an old version is not needed never wraps under it again.
    pub fn newest(&self, domain: &DomainId) -> Result<DomainId> {
        let base = domain.base();
        let versions = self.epochs.keys().filter(|name| name.base() == base && self.current(name).is_ok());
        versions.max_by_key(|name| name.key_version()).cloned().ok_or_else(|| {
            Error::new(Code::NotAMember, format!("no epoch of {base} is current in this module"))
        })
    }

    /// The newest key version of a domain that this module holds a share of.
    pub fn newest_served(&self, domain: &DomainId) -> Option<u64> {
        let versions = self.epochs.keys().filter(|name| name.base() == domain.base());
        versions.filter(|name| self.serving(name).is_ok()).map(DomainId::key_version).max()
    }

    fn key_and_token(&self, key_id: &[u8; 16]) -> Result<(&KeyRecord, &Bytes)> {
        let Some(known) = self.keys.get(key_id) else {
            return fail(Code::UnknownKey, "no key of this id is known");
        };
        match &known.body().token {
            Some(token) => Ok((known.body(), token)),
            None => fail(Code::BadState, "the key has no material any more"),
        }
    }

    /// The token that a key is used with, and the sharing that it is under: the one before, until the present one
    /// was found to hold the same, for any member can sign a record.
    pub fn in_use(&self, key_id: &[u8; 16]) -> Result<(&Bytes, DomainId)> {
        let (known, token) = self.key_and_token(key_id)?;
        if let Some(kept) = self.kept.get(key_id).filter(|kept| kept.same != Some(true)) {
            let before = sharing_of(&known.domain, &kept.record.token)?;
            if self.serving(&before).is_ok() {
                return Ok((&kept.record.token, before));
            }
        }
        Ok((token, sharing_of(&known.domain, token)?))
    }

    /// Whether the version of a kept token is known here: one that came before this module did opens nothing.
    fn can_be_opened(&self, key_id: &[u8; 16], kept: &Kept) -> bool {
        let domain = self.keys.get(key_id).map(|k| &k.body().domain);
        domain.is_some_and(|d| {
            sharing_of(d, &kept.record.token)
                .is_ok_and(|before| self.epochs.get(&before).is_some_and(|e| !e.is_empty()))
        })
    }

    pub fn open_token(&self, known: &KeyRecord, token: &Bytes) -> Result<Secret<32>> {
        let under = sharing_of(&known.domain, token)?;
        let Some(lease) = self.leases.get(&under) else {
            return fail(Code::NoLease, format!("no lease of {under} is held"));
        };
        let context = token_context(&under, known.key_id, known.key_version);
        token::unwrap(&token.0, &context, &lease.wrap, &|epoch| self.fleet_wraps.get(&epoch))
    }

    fn compare(&mut self, key_id: &[u8; 16], now: Duration) -> Result<()> {
        let (known, token) = self.key_and_token(key_id)?;
        let Some(kept) = self.kept.get(key_id).filter(|kept| self.can_be_opened(key_id, kept)) else {
            return Ok(());
        };
        if kept.same == Some(true) {
            return Ok(());
        }
        let (before, by) = (kept.record.token.clone(), kept.record.by.clone());
        let (known, token) = (known.clone(), token.clone());
        let needed = [sharing_of(&known.domain, &before)?, sharing_of(&known.domain, &token)?];
        self.spend_leases(&BTreeSet::from(needed), now)?;
        let old = self.open_token(&known, &before)?;
        let same = match self.open_token(&known, &token) {
            Ok(new) => same_bytes(old.expose(), new.expose()),
            Err(e) if matches!(e.code, Code::KeyCommitment | Code::NotOpened | Code::BadEncoding) => false,
            Err(e) => return Err(e),
        };
        if let Some(kept) = self.kept.get_mut(key_id) {
            kept.same = Some(same);
        }
        if same {
            return Ok(());
        }
        let wrong = Error::new(Code::WrongMaterial, "a key's new token does not hold the key's material");
        Err(by.into_iter().fold(wrong, Error::blaming))
    }

    /// What a learnt record leaves of the token that the key had: kept, as long as it is the best that is known.
    pub fn keep_before(&mut self, next: &KeyRecord, by: &NodeId) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let id = next.key_id;
        let known = self.keys.get(&id)?.body();
        let before = known.token.clone()?;
        match &next.token {
            None => return self.kept.remove(&id).map(|_| (id.to_vec(), None)),
            Some(token) if token == &before => return None,
            // What is kept, and what comparing it came to, is of the inner text, which stays.
            Some(_) if self.is_renewed(known, next).unwrap_or(false) => return None,
            Some(_) => {}
        }
        let by = (next.version == known.version + 1).then(|| by.clone());
        let older =
            self.kept.get(&id).filter(|kept| kept.same != Some(true) && self.can_be_opened(&id, kept));
        let known_here = sharing_of(&known.domain, &before).is_ok_and(|d| self.epochs.contains_key(&d));
        let token = match older {
            Some(kept) => kept.record.token.clone(),
            None if known_here => before,
            // Neither could be opened here, so there is nothing to compare with.
            None => return self.kept.remove(&id).map(|_| (id.to_vec(), None)),
        };
        let record = KeptRecord { token, by, same: false };
        let value = encode(&record);
        self.kept.insert(id, Kept { record, same: None });
        Some((id.to_vec(), Some(value)))
    }

    /// A rotation begins from the version before it, in its committee, and only one of them at a time.
    pub fn check_succession(&self, p: &Plan) -> Result<()> {
        let version = p.domain.key_version();
        let before = p.domain.at_version(version.saturating_sub(1))?;
        let Ok(current) = self.current(&before) else {
            return fail(Code::WrongEpoch, format!("no epoch of {before} is current here"));
        };
        let left = self.epochs.iter().find(|(name, epochs)| {
            name.base() == before.base() && name.key_version() < version - 1 && !epochs.is_empty()
        });
        if let Some((name, _)) = left {
            return fail(Code::BadState, format!("{name} is not dropped here yet"));
        }
        if p.threshold != current.plan.threshold || p.committee != current.plan.committee {
            return fail(Code::OutsideCharter, "a rotation changes neither threshold nor committee");
        }
        Ok(())
    }

    pub fn refuse_dropped(&self, domain: &DomainId) -> Result<()> {
        match self.dropped.get(&domain.base()) {
            Some(dropped) if domain.key_version() <= *dropped => {
                let what =
                    format!("key version {} of {} was dropped here", domain.key_version(), domain.base());
                fail(Code::StaleVersion, what)
            }
            _ => Ok(()),
        }
    }

    /// No key here needs `version` or one before it: each token is under a later one and was compared. This module
    /// has its shares of the next version.
    fn require_clean(&self, domain: &DomainId, version: u64) -> Result<()> {
        self.require_own_shares(&domain.at_version(version.saturating_add(1))?)?;
        let base = domain.base();
        for key in self.keys.values().filter(|key| key.body().domain == base) {
            let Some(token) = &key.body().token else { continue };
            if token::domain_key_version(&token.0)? <= version {
                return fail(
                    Code::BadState,
                    format!("a key is wrapped under version {version} of {base} still"),
                );
            }
            let kept = self.kept.get(&key.body().key_id);
            if kept.is_some_and(|k| k.same != Some(true) && self.can_be_opened(&key.body().key_id, k)) {
                return fail(Code::BadState, "a key's new token was not compared with the one before it yet");
            }
        }
        Ok(())
    }

    fn store_compared(&mut self, domain: &DomainId) -> Result<()> {
        let base = domain.base();
        let of_domain = |id: &[u8; 16]| self.keys.get(id).is_some_and(|key| key.body().domain == base);
        let fresh =
            self.kept.iter().filter(|(id, k)| k.same == Some(true) && !k.record.same && of_domain(id));
        let records: Vec<_> =
            fresh.map(|(id, kept)| (*id, KeptRecord { same: true, ..kept.record.clone() })).collect();
        let written: Vec<_> = records.iter().map(|(id, record)| (id, encode(record))).collect();
        let changes: Vec<_> = written
            .iter()
            .map(|(id, value)| Change::Put { table: store::KEPT, id: &id[..], value })
            .collect();
        if !changes.is_empty() {
            self.commit(&changes)?;
        }
        for (id, record) in records {
            if let Some(kept) = self.kept.get_mut(&id) {
                kept.record = record;
            }
        }
        Ok(())
    }

    fn require_own_shares(&self, sharing: &DomainId) -> Result<()> {
        let held = self.serving(sharing)?;
        if own_seats(&held.plan, &self.name).len() != held.shares.len() {
            return fail(Code::BadState, format!("this module's own share of {sharing} is not here yet"));
        }
        Ok(())
    }

    /// The domain and the key version that a certificate says is not needed: signed by every member of the next.
    fn check_cleans(&self, cleans: &[Vec<u8>]) -> Result<(DomainId, u64)> {
        let mut of = None;
        let mut signers = BTreeSet::new();
        for bytes in cleans {
            let clean = self.verify_past::<Clean>(bytes)?;
            let this = (clean.body().domain.clone(), clean.body().key_version);
            if of.get_or_insert_with(|| this.clone()) != &this {
                return fail(Code::WrongEpoch, "a certificate of a drop is for one key version");
            }
            signers.insert(clean.signer().clone());
        }
        let Some((domain, version)) = of else {
            return fail(Code::NotEnoughShares, "a certificate of a drop without a statement");
        };
        domain.require_base()?;
        if self.dropped.get(&domain).is_some_and(|d| *d >= version) {
            return Ok((domain, version));
        }
        let (old, next) = (domain.at_version(version)?, domain.at_version(version.saturating_add(1))?);
        let committee = &self.current(&next)?.plan.committee;
        if let Some(seat) = committee.iter().find(|seat| !signers.contains(&seat.node)) {
            return fail(
                Code::NotEnoughShares,
                format!("{} has not said that {old} is not needed", seat.node),
            );
        }
        // Whoever serves either version looks into its own store too: no number of liars has it erase what it needs.
        let seated = |name: &DomainId| {
            self.current(name).is_ok_and(|held| !own_seats(&held.plan, &self.name).is_empty())
        };
        if seated(&next) || seated(&old) {
            self.require_clean(&domain, version)?;
        }
        Ok((domain, version))
    }

    fn erase_versions(&mut self, domain: &DomainId, version: u64) -> Result<()> {
        let goes = |name: &DomainId| &name.base() == domain && name.key_version() <= version;
        let epochs = self.epochs.iter().filter(|(name, _)| goes(name));
        let gone: Vec<Gone> =
            epochs.flat_map(|(name, held)| held.iter().map(|(e, h)| Gone::new(name, *e, h))).collect();
        let of_domain = |id: &[u8; 16]| self.keys.get(id).is_some_and(|key| &key.body().domain == domain);
        let old = |token: &Bytes| token::domain_key_version(&token.0).is_ok_and(|v| v <= version);
        let kept: Vec<[u8; 16]> = self
            .kept
            .iter()
            .filter(|(id, kept)| of_domain(id) && old(&kept.record.token))
            .map(|(id, _)| *id)
            .collect();
        let (id, value) = (encode(domain), encode(&version));
        let mut changes = vec![Change::Put { table: store::DROPPED, id: &id, value: &value }];
        changes.extend(gone.iter().flat_map(Gone::changes));
        changes.extend(kept.iter().map(|id| Change::Delete { table: store::KEPT, id }));
        self.commit(&changes)?;
        self.dropped.insert(domain.clone(), version);
        self.epochs.retain(|name, _| !goes(name));
        self.leases.retain(|name, _| !goes(name));
        self.sessions.retain(|_, session| !goes(session.domain()));
        self.plans.retain(|_, open| !goes(&open.plan.body().domain));
        for id in kept {
            self.kept.remove(&id);
        }
        Ok(())
    }

    /// One use of each of these leases; nothing is spent where one is missing.
    pub fn spend_leases(&mut self, domains: &BTreeSet<DomainId>, now: Duration) -> Result<()> {
        for domain in domains {
            if self.leases.get(domain).is_none_or(|lease| lease.over(now)) {
                return fail(Code::NoLease, format!("no lease of {domain} is held"));
            }
        }
        for domain in domains {
            if let Some(lease) = self.leases.get_mut(domain) {
                lease.spend(now)?;
            }
        }
        Ok(())
    }
}
