//! Signed records that a module keeps: charters, access keys, KMS keys, aliases. Each carries a version
//! and its parent's hash; a lower or a conflicting version is refused.

use std::collections::BTreeSet;

use super::Module;
use super::messages::{AccessKey, AccessRole, AliasRecord, Charter, KeyRecord, KeyState, Role, Tag};
use super::state::State;
use super::store;
use crate::encoding::{Bytes, encode};
use crate::error::{Code, Result, fail};
use crate::ids::{DomainId, Hash};
use crate::keys::{kdf, sealed, sigv4, token};
use crate::memory::Secret;
use crate::record;
use crate::seal::statement::{self, Statement};
use crate::vault::Change;

/// Kinds of record, as Python names them.
#[derive(Clone, Copy)]
pub enum RecordKind {
    Charter,
    Access,
    Key,
    Alias,
}

impl RecordKind {
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "charter" => Ok(Self::Charter),
            "access" => Ok(Self::Access),
            "key" => Ok(Self::Key),
            "alias" => Ok(Self::Alias),
            _ => fail(Code::BadEncoding, format!("{text:?} is no kind of record")),
        }
    }
}

/// What a module made of one record.
pub enum Learnt {
    New,
    Known,
    Refused(crate::error::Error),
}

record! {
    /// An access key's secret under a key of one fleet epoch.
    pub struct SealedAccess { pub fleet_epoch: u64, pub sealed: Bytes }
}

const ACCESS_LABEL: &str = "quorate/v1/access/secret";
/// Signing keys of recent days, kept so that a request costs one HMAC.
const MAX_SIGNING_KEYS: usize = 1024;

impl Module {
    /// Verifies and stores records durably, all in one commit.
    pub fn learn(&self, statements: &[Vec<u8>]) -> Result<Vec<Learnt>> {
        self.with(|s, _| s.learn(statements))
    }

    pub fn records(&self, kind: RecordKind) -> Result<Vec<Vec<u8>>> {
        self.with(|s, _| {
            Ok(match kind {
                RecordKind::Charter => s.charters.values().map(|r| r.bytes().to_vec()).collect(),
                RecordKind::Access => s.access.values().map(|r| r.bytes().to_vec()).collect(),
                RecordKind::Key => s.keys.values().map(|r| r.bytes().to_vec()).collect(),
                RecordKind::Alias => s.aliases.values().map(|r| r.bytes().to_vec()).collect(),
            })
        })
    }

    /// A first record of a KMS key with fresh material; needs a lease of its domain. Not learnt yet.
    pub fn make_key(
        &self,
        key_id: [u8; 16],
        domain: &DomainId,
        description: String,
        tags: Vec<Tag>,
        created: u64,
    ) -> Result<Vec<u8>> {
        self.with(|s, now| {
            if s.keys.contains_key(&key_id) {
                return fail(Code::AlreadyExists, "a key of this id is known");
            }
            let Some((&fleet_epoch, _)) = s.fleet_keys.last_key_value() else {
                return fail(Code::NoFleetKey, "this module has no fleet key yet");
            };
            let backing = Secret::random(&mut *s.rng)?;
            domain.require_base()?;
            // Without an epoch of it there is no lease of it either.
            let under = s.newest(domain).unwrap_or_else(|_| domain.clone());
            s.spend_leases(&BTreeSet::from([under.clone()]), now)?;
            let (wrap, fleet_wrap) = (&s.leases[&under].wrap, &s.fleet_wraps[&fleet_epoch]);
            let context = token_context(&under, key_id, 1);
            let token = token::wrap(&backing, &context, wrap, fleet_wrap, fleet_epoch, &mut *s.rng)?;
            let record = KeyRecord {
                fleet: s.fleet()?,
                key_id,
                version: 1,
                parent: Hash([0; 32]),
                domain: domain.clone(),
                state: KeyState::Enabled,
                description,
                tags,
                created,
                deletion: None,
                key_version: 1,
                token: Some(Bytes(token)),
            };
            Ok(s.sign(record)?.bytes().to_vec())
        })
    }

    /// The next version of a known key's record; not learnt yet.
    pub fn revise_key(&self, key_id: &[u8; 16], state: KeyState, deletion: Option<u64>) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let Some(known) = s.keys.get(key_id) else {
                return fail(Code::UnknownKey, "no key of this id is known");
            };
            let mut next = known.body().clone();
            if next.state == KeyState::Deleted {
                return fail(Code::BadState, "the key is deleted");
            }
            next.version += 1;
            next.parent = known.hash();
            next.state = state;
            next.deletion = deletion;
            if state == KeyState::Deleted {
                next.token = None;
            }
            Ok(s.sign(next)?.bytes().to_vec())
        })
    }

    /// The next version of an alias (the first, if it is not known); no target deletes it.
    pub fn revise_alias(&self, alias: &str, target: Option<[u8; 16]>, now: u64) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let fleet = s.fleet()?;
            let next = match s.aliases.get(alias) {
                Some(known) => AliasRecord {
                    version: known.body().version + 1,
                    parent: known.hash(),
                    target,
                    updated: now,
                    // An alias that was deleted begins anew.
                    created: if known.body().target.is_none() { now } else { known.body().created },
                    ..known.body().clone()
                },
                None => AliasRecord {
                    fleet,
                    alias: alias.to_owned(),
                    version: 1,
                    parent: Hash([0; 32]),
                    target,
                    created: now,
                    updated: now,
                },
            };
            Ok(s.sign(next)?.bytes().to_vec())
        })
    }

    /// Checks a request's signature. An unknown access key, a disabled one and a wrong signature are told
    /// the same and cost the same: what is derived for an unknown one is kept like any other.
    pub fn check_signature(
        &self,
        access_key_id: &str,
        date: &str,
        region: &str,
        service: &str,
        string_to_sign: &[u8],
        signature: &str,
    ) -> Result<(String, AccessRole)> {
        self.with(|s, _| {
            let scope = format!("{access_key_id}/{date}/{region}/{service}");
            if !s.signing_keys.contains_key(&scope) {
                let key = s.signing_key(access_key_id, date, region, service)?;
                if s.signing_keys.len() >= MAX_SIGNING_KEYS {
                    s.signing_keys.clear();
                }
                s.signing_keys.insert(scope.clone(), key);
            }
            let verified = sigv4::verify(&s.signing_keys[&scope], string_to_sign, signature);
            match (verified, s.access.get(access_key_id).map(statement::Approved::body)) {
                (Ok(()), Some(key)) if key.enabled => Ok((key.user.clone(), key.role)),
                _ => fail(Code::BadSignature, "no enabled access key has made this signature"),
            }
        })
    }
}

/// `under`: the sharing of the domain that the token is wrapped under.
pub fn token_context(under: &DomainId, key_id: [u8; 16], key_version: u32) -> token::TokenContext {
    token::TokenContext {
        domain: under.base(),
        key_id: key_id.iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}")),
        key_version: u64::from(key_version),
        domain_key_version: under.key_version(),
    }
}

/// Table, id, and a value; none deletes.
type Written = (&'static str, Vec<u8>, Option<Vec<u8>>);

enum Checked {
    Charter,
    Access(Box<statement::Approved<AccessKey>>),
    Key(Box<statement::Signed<KeyRecord>>),
    Alias(Box<statement::Signed<AliasRecord>>),
    Known,
}

impl State {
    fn learn(&mut self, statements: &[Vec<u8>]) -> Result<Vec<Learnt>> {
        let mut out = Vec::new();
        let mut fresh = Vec::new();
        for bytes in statements {
            match self.check_record(bytes) {
                Ok(Checked::Charter) => {
                    out.push(Learnt::New);
                }
                Ok(Checked::Known) => out.push(Learnt::Known),
                Ok(record) => {
                    // A later record of the same list may follow this one, so it counts at once; nobody
                    // sees it before the commit below.
                    fresh.extend(self.remember(record, bytes));
                    out.push(Learnt::New);
                }
                Err(e) if self.vault.is_failed() => return Err(e),
                Err(e) => out.push(Learnt::Refused(e)),
            }
        }
        let changes: Vec<_> = fresh
            .iter()
            .map(|(table, id, value)| match value {
                Some(value) => Change::Put { table, id, value },
                None => Change::Delete { table, id },
            })
            .collect();
        if !changes.is_empty() {
            self.commit(&changes)?;
        }
        Ok(out)
    }

    fn check_record(&mut self, bytes: &[u8]) -> Result<Checked> {
        let label = statement::peek_any(bytes)?;
        match label.as_str() {
            Charter::LABEL => Ok(if self.learn_charter(bytes)? { Checked::Charter } else { Checked::Known }),
            AccessKey::LABEL => {
                let next = self.verify_operator::<AccessKey>(bytes)?;
                let known = self.access.get(&next.body().access_key_id);
                let known = known.map(|k| (k.body().version, k.hash()));
                Ok(if follows(known, next.body().version, next.body().parent, next.hash())? {
                    Checked::Access(Box::new(next))
                } else {
                    Checked::Known
                })
            }
            KeyRecord::LABEL => {
                let next = self.verify::<KeyRecord>(bytes)?;
                if self.roster()?.active(next.signer())?.role != Role::Holder {
                    return fail(Code::NotAuthorized, format!("{} makes no key records", next.signer()));
                }
                let known = self.keys.get(&next.body().key_id);
                let version = known.map(|k| (k.body().version, k.hash()));
                if !follows(version, next.body().version, next.body().parent, next.hash())? {
                    return Ok(Checked::Known);
                }
                let served = self.newest_served(&next.body().domain);
                check_material(known.map(statement::Signed::body), next.body(), served)?;
                Ok(Checked::Key(Box::new(next)))
            }
            AliasRecord::LABEL => {
                let next = self.verify::<AliasRecord>(bytes)?;
                if self.roster()?.active(next.signer())?.role != Role::Holder {
                    return fail(Code::NotAuthorized, format!("{} makes no aliases", next.signer()));
                }
                let known = self.aliases.get(&next.body().alias).map(|k| (k.body().version, k.hash()));
                Ok(if follows(known, next.body().version, next.body().parent, next.hash())? {
                    Checked::Alias(Box::new(next))
                } else {
                    Checked::Known
                })
            }
            other => fail(Code::WrongKind, format!("{other} is no record")),
        }
    }

    /// What is to be written for a record that counts from now on.
    fn remember(&mut self, record: Checked, bytes: &[u8]) -> Vec<Written> {
        let value = Some(bytes.to_vec());
        match record {
            Checked::Access(key) => {
                let id = key.body().access_key_id.clone();
                // A new version may disable the key: what was derived from it goes.
                self.signing_keys.retain(|scope, _| !scope.starts_with(&format!("{id}/")));
                self.access.insert(id.clone(), *key);
                vec![(store::ACCESS, id.into_bytes(), value)]
            }
            Checked::Key(key) => {
                let id = key.body().key_id;
                if key.body().state == KeyState::Deleted {
                    for lease in self.leases.values_mut() {
                        lease.backing.retain(|(held, _), _| held != &id);
                    }
                }
                let kept = self.keep_before(key.body(), key.signer());
                self.keys.insert(id, *key);
                let kept = kept.map(|(id, token)| (store::KEPT, id, token));
                [(store::KEY, id.to_vec(), value)].into_iter().chain(kept).collect()
            }
            Checked::Alias(alias) => {
                let id = alias.body().alias.clone();
                self.aliases.insert(id.clone(), *alias);
                vec![(store::ALIAS, id.into_bytes(), value)]
            }
            Checked::Charter | Checked::Known => {
                unreachable!("only new records of the three kinds are remembered")
            }
        }
    }

    /// An unknown key costs what a known one does: its signing key comes from a random secret.
    fn signing_key(
        &mut self,
        access_key_id: &str,
        date: &str,
        region: &str,
        service: &str,
    ) -> Result<Secret<32>> {
        let Some(key) = self.access.get(access_key_id) else {
            let dummy = Secret::<40>::random(&mut *self.rng)?;
            return sigv4::signing_key(dummy.expose(), date, region, service);
        };
        let sealed: SealedAccess = store::stored(&key.body().sealed.0)?;
        let under = self.access_wrap(sealed.fleet_epoch)?;
        let aad = encode(&access_key_id.to_owned());
        let secret = sealed::open(under.expose(), ACCESS_LABEL, &aad, &sealed.sealed.0)?;
        sigv4::signing_key(&secret, date, region, service)
    }

    pub fn seal_access(&mut self, access_key_id: &str, secret: &[u8]) -> Result<Vec<u8>> {
        let Some((&fleet_epoch, _)) = self.fleet_keys.last_key_value() else {
            return fail(Code::NoFleetKey, "this module has no fleet key yet");
        };
        let under = self.access_wrap(fleet_epoch)?;
        let aad = encode(&access_key_id.to_owned());
        let sealed = sealed::seal(under.expose(), ACCESS_LABEL, &aad, secret, &mut *self.rng)?;
        Ok(encode(&SealedAccess { fleet_epoch, sealed: Bytes(sealed) }))
    }

    fn access_wrap(&self, fleet_epoch: u64) -> Result<Secret<32>> {
        match self.fleet_keys.get(&fleet_epoch) {
            Some(key) => fleet_use_key(key.secret(), "access"),
            None => fail(Code::NoFleetKey, format!("the fleet key of fleet epoch {fleet_epoch} is not here")),
        }
    }
}

/// A key used in the fleet's name for one purpose.
pub fn fleet_use_key(fleet_key: &Secret<32>, purpose: &str) -> Result<Secret<32>> {
    let mut out = Secret::zeroed()?;
    let info = encode(&vec!["quorate/v1/fleet/use-key".to_owned(), purpose.to_owned()]);
    kdf::hkdf_sha512(fleet_key.expose(), &[], &info, out.expose_mut());
    Ok(out)
}

/// A key has material until it is deleted, and always the same: no member can put other material, or none, in its
/// place. The token may change for one under the same or a later key version of the domain, not under the first: what
/// it holds is compared with what is kept of the one before (`rotation`). `served`: the domain's newest key version
/// here, if this module is a member; a token of a far later one is of none.
fn check_material(old: Option<&KeyRecord>, new: &KeyRecord, served: Option<u64>) -> Result<()> {
    new.domain.require_base()?;
    let deleted = new.state == KeyState::Deleted;
    if deleted != new.token.is_none() {
        return fail(Code::BadState, "a key has material until it is deleted, and none afterwards");
    }
    let under = new.token.as_ref().map(|t| token::domain_key_version(&t.0)).transpose()?;
    if let (Some(under), Some(served)) = (under, served)
        && under > served.saturating_add(1)
    {
        return fail(Code::BadState, format!("there is no key version {under} of {}", new.domain));
    }
    let Some(old) = old else { return Ok(()) };
    let fixed = |r: &KeyRecord| (r.domain.clone(), r.created, r.key_version);
    if fixed(old) != fixed(new) {
        return fail(Code::BadState, "a key's domain, creation and material never change");
    }
    if old.token == new.token {
        return Ok(());
    }
    let before = old.token.as_ref().map(|t| token::domain_key_version(&t.0).unwrap_or(1));
    match (before, under) {
        (_, None) => Ok(()),
        (Some(before), Some(under)) if under >= before.max(2) => Ok(()),
        _ => fail(Code::BadState, "a key's material is wrapped anew under a later key version, or stays"),
    }
}

/// The furthest that one record may move a version: a thief of a signing key cannot use up the versions
/// that are left, and so freeze what they count.
const MAX_VERSION_STEP: u64 = 1 << 32;

/// Refuses a version too far above the known one (0 for none).
pub fn check_version_step(known: u64, version: u64) -> Result<()> {
    if version.saturating_sub(known) > MAX_VERSION_STEP {
        return fail(
            Code::StaleVersion,
            format!("version {version} jumps too far ahead of {known}, which is known here"),
        );
    }
    Ok(())
}

/// Whether a record is new (true) or the known one (false).
fn follows(known: Option<(u64, Hash)>, version: u64, parent: Hash, hash: Hash) -> Result<bool> {
    check_version_step(known.map_or(0, |(version, _)| version), version)?;
    match known {
        Some((_, known_hash)) if known_hash == hash => Ok(false),
        Some((known_version, _)) if version <= known_version => fail(
            Code::StaleVersion,
            format!("version {version} is not above {known_version}, which is known here"),
        ),
        Some((known_version, known_hash)) if version == known_version + 1 && parent != known_hash => {
            fail(Code::StaleVersion, format!("version {version} does not follow the version known here"))
        }
        _ => Ok(true),
    }
}
