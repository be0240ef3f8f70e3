//! Signed records that a module keeps: charters, access keys, KMS keys, aliases. Each carries a version
//! and its parent's hash; a lower or a conflicting version is refused.

use std::collections::BTreeSet;

use super::Module;
use super::messages::{
    AccessKey, AccessRole, AccessSeal, AliasRecord, Charter, KeyRecord, KeyState, Role, Tag,
};
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
use zeroize::Zeroizing;

/// Kinds of record, as Python names them.
#[derive(Clone, Copy)]
pub enum RecordKind {
    Charter,
    Access,
    Key,
    Alias,
    Seal,
}

impl RecordKind {
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "charter" => Ok(Self::Charter),
            "access" => Ok(Self::Access),
            "key" => Ok(Self::Key),
            "alias" => Ok(Self::Alias),
            "seal" => Ok(Self::Seal),
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
    /// An access key's secret under a key of one fleet epoch, and a hash by which it is known again.
    pub struct SealedAccess { pub fleet_epoch: u64, pub sealed: Bytes, pub commitment: Hash }
}

record! {
    /// The same as earlier releases made it.
    pub struct OldSealedAccess { pub fleet_epoch: u64, pub sealed: Bytes }
}

/// What an operator-signed access key holds of its secret.
pub struct ReadSealed {
    pub fleet_epoch: u64,
    pub sealed: Vec<u8>,
    pub commitment: Option<Hash>,
}

pub fn read_sealed(bytes: &[u8]) -> Result<ReadSealed> {
    if let Ok(old) = store::stored::<OldSealedAccess>(bytes) {
        return Ok(ReadSealed { fleet_epoch: old.fleet_epoch, sealed: old.sealed.0, commitment: None });
    }
    let s: SealedAccess = store::stored(bytes)?;
    Ok(ReadSealed { fleet_epoch: s.fleet_epoch, sealed: s.sealed.0, commitment: Some(s.commitment) })
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
                RecordKind::Seal => s.access_seals.values().map(|r| r.bytes().to_vec()).collect(),
            })
        })
    }

    /// The newest charter of `domain`.
    pub fn charter(&self, domain: &DomainId) -> Result<Option<Vec<u8>>> {
        self.with(|s, _| Ok(s.charters.get(domain).map(|c| c.bytes().to_vec())))
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
            let (fleet_epoch, _) = s.newest_fleet_key()?;
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
    Seal(Box<statement::Signed<AccessSeal>>),
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
                self.check_material(known.map(statement::Signed::body), next.body())?;
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
            AccessSeal::LABEL => {
                let next = self.verify::<AccessSeal>(bytes)?;
                Ok(if self.check_access_seal(next.signer(), next.body())? {
                    Checked::Seal(Box::new(next))
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
            Checked::Seal(seal) => {
                let id = seal.body().access_key_id.clone();
                // Until now the secret may not have been here.
                self.signing_keys.retain(|scope, _| !scope.starts_with(&format!("{id}/")));
                self.access_seals.insert(id.clone(), *seal);
                vec![(store::ACCESS_SEAL, id.into_bytes(), value)]
            }
            Checked::Charter | Checked::Known => {
                unreachable!("only new records of the four kinds are remembered")
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
        // Nor does one that cannot be opened here any more: disabled, or from before access keys had commitments.
        let lost = |e: &crate::error::Error| e.code == Code::NoFleetKey;
        let secret = match self.access_secret(access_key_id) {
            Err(e) if e.code == Code::UnknownKey || lost(&e) => None,
            found => Some(found?),
        };
        let Some(secret) = secret else {
            let dummy = Secret::<40>::random(&mut *self.rng)?;
            return sigv4::signing_key(dummy.expose(), date, region, service);
        };
        sigv4::signing_key(&secret, date, region, service)
    }

    /// The secret of an access key, from its newest seal.
    pub fn access_secret(&self, access_key_id: &str) -> Result<Zeroizing<Vec<u8>>> {
        let Some(key) = self.access.get(access_key_id) else {
            return fail(Code::UnknownKey, "no access key of this id is known");
        };
        let (fleet_epoch, sealed) = self.access_seal(key.body())?;
        self.open_access(access_key_id, fleet_epoch, &sealed)
    }

    /// The newest seal of an access key's secret: its fleet epoch, and the sealed text.
    pub fn access_seal(&self, key: &AccessKey) -> Result<(u64, Vec<u8>)> {
        match self.access_seals.get(&key.access_key_id).map(statement::Signed::body) {
            Some(seal) if seal.access_version == key.version => Ok((seal.fleet_epoch, seal.sealed.0.clone())),
            _ => read_sealed(&key.sealed.0).map(|s| (s.fleet_epoch, s.sealed)),
        }
    }

    pub fn open_access(
        &self,
        access_key_id: &str,
        fleet_epoch: u64,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let under = self.access_wrap(fleet_epoch)?;
        sealed::open(under.expose(), ACCESS_LABEL, &encode(&access_key_id.to_owned()), sealed)
    }

    /// Seals an access key's secret under the newest fleet key: (fleet epoch, sealed text).
    pub fn seal_access(&mut self, access_key_id: &str, secret: &[u8]) -> Result<(u64, Vec<u8>)> {
        let (fleet_epoch, _) = self.newest_fleet_key()?;
        let under = self.access_wrap(fleet_epoch)?;
        let aad = encode(&access_key_id.to_owned());
        let sealed = sealed::seal(under.expose(), ACCESS_LABEL, &aad, secret, &mut *self.rng)?;
        Ok((fleet_epoch, sealed))
    }

    fn access_wrap(&self, fleet_epoch: u64) -> Result<Secret<32>> {
        match self.fleet_keys.get(&fleet_epoch) {
            Some(key) => fleet_use_key(key.secret(), "access"),
            None => fail(Code::NoFleetKey, format!("the fleet key of fleet epoch {fleet_epoch} is not here")),
        }
    }
}

impl State {
    /// A key has material until it is deleted, and always the same: no member can put other material, or none, in its
    /// place. The token may change to one under another fleet key, which is seen at once to hold the same; or to one
    /// under the same or a later key version of the domain, not the first: what it holds is compared with what is kept
    /// of the one before (`rotation`).
    fn check_material(&self, old: Option<&KeyRecord>, new: &KeyRecord) -> Result<()> {
        new.domain.require_base()?;
        let deleted = new.state == KeyState::Deleted;
        if deleted != new.token.is_none() {
            return fail(Code::BadState, "a key has material until it is deleted, and none afterwards");
        }
        if let Some(token) = &new.token {
            let epoch = token::fleet_epoch(&token.0)?;
            if !self.fleet_wraps.contains_key(&epoch) {
                return fail(Code::NoFleetKey, format!("the key's material needs fleet epoch {epoch}"));
            }
        }
        let under = new.token.as_ref().map(|t| token::domain_key_version(&t.0)).transpose()?;
        // A token of a version far beyond what this member serves is of none.
        if let (Some(under), Some(served)) = (under, self.newest_served(&new.domain))
            && under > served.saturating_add(1)
        {
            return fail(Code::BadState, format!("there is no key version {under} of {}", new.domain));
        }
        let Some(old) = old else { return Ok(()) };
        let fixed = |r: &KeyRecord| (r.domain.clone(), r.created, r.key_version);
        if fixed(old) != fixed(new) {
            return fail(Code::BadState, "a key's domain, creation and material never change");
        }
        if old.token == new.token || self.is_renewed(old, new)? {
            return Ok(());
        }
        let before = old.token.as_ref().map(|t| token::domain_key_version(&t.0).unwrap_or(1));
        match (before, under) {
            (_, None) => Ok(()),
            (Some(before), Some(under)) if under >= before.max(2) => Ok(()),
            _ => fail(Code::BadState, "a key's material is wrapped anew under a later key version, or stays"),
        }
    }

    /// Whether two tokens of one key differ in the fleet's layer alone.
    pub fn is_renewed(&self, old: &KeyRecord, new: &KeyRecord) -> Result<bool> {
        let (Some(before), Some(after)) = (&old.token, &new.token) else { return Ok(false) };
        let under = super::rotation::sharing_of(&old.domain, before)?;
        if token::fleet_epoch(&after.0)? <= token::fleet_epoch(&before.0)?
            || super::rotation::sharing_of(&new.domain, after)? != under
        {
            return Ok(false);
        }
        let context = token_context(&under, old.key_id, old.key_version);
        let inner = |t: &Bytes| token::open_outer(&t.0, &context, &|epoch| self.fleet_wraps.get(&epoch));
        Ok(*inner(before)? == *inner(after)?)
    }
}

/// A key used in the fleet's name for one purpose.
pub fn fleet_use_key(fleet_key: &Secret<32>, purpose: &str) -> Result<Secret<32>> {
    let mut out = Secret::zeroed()?;
    let info = encode(&vec!["quorate/v1/fleet/use-key".to_owned(), purpose.to_owned()]);
    kdf::hkdf_sha512(fleet_key.expose(), &[], &info, out.expose_mut());
    Ok(out)
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
