//! Rotation of the fleet key: a new fleet epoch, what is wrapped under the old one renewed, the old one erased on
//! proof that the new one is held (docs/protocols/fleet-key.md).
//!
//! A module has two fleet keys at most: the newest, which seals, and the one before it, which still opens messages
//! for a bounded window, and stored material until none is left under it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Module;
use super::enrolment::rekey_info;
use super::messages::{AccessKey, AccessSeal, FleetKeyKept, FleetKeyRetired, KeyRecord, KeyState, Rekey};
use super::records::{check_version_step, token_context};
use super::rotation::{KeptRecord, sharing_of};
use super::state::{State, secret};
use super::store;
use crate::encoding::{Bytes, encode, same_bytes};
use crate::error::{Code, Error, Result, fail};
use crate::ids::{Hash, NodeId};
use crate::keys::token;
use crate::record;
use crate::seal::fleet::FleetKey;
use crate::seal::hpke;
use crate::seal::statement::{Approved, Signed};
use crate::vault::Change;

/// How long messages under the fleet key before the newest are opened, where nothing else was said.
pub const WINDOW: Duration = Duration::from_secs(3600);
/// The longest window: an old fleet key is never accepted for ever.
pub const MAX_WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);

/// Fleet keys and what is wrapped under them, as this module stands.
pub struct FleetKeyState {
    /// The newest fleet epoch, 0 before there is one.
    pub epoch: u64,
    /// The one before, while its key is here.
    pub previous: Option<u64>,
    /// KMS keys with material.
    pub keys: usize,
    /// Those whose material is not under the newest fleet key.
    pub keys_left: Vec<[u8; 16]>,
    /// Enabled access keys whose secret is not under the newest fleet key.
    pub access_left: Vec<String>,
    /// Enabled access keys without a commitment: a module that gets only the newest fleet key cannot use them.
    pub uncommitted: Vec<String>,
}

record! {
    /// What an operator-signed access key commits to, hashed.
    pub struct Committed { pub access_key_id: String, pub secret: Bytes }
}

/// Binds an access key to its secret without betraying it: the secret has 240 random bits.
#[must_use]
pub fn access_commitment(access_key_id: &str, secret: &[u8]) -> Hash {
    let committed = Committed { access_key_id: access_key_id.to_owned(), secret: Bytes(secret.to_vec()) };
    Hash(crate::encoding::digest("quorate/v1/access/commitment", &encode(&committed)))
}

impl Module {
    pub fn fleet_key(&self) -> Result<FleetKeyState> {
        self.with(|s, _| Ok(s.fleet_key_state()))
    }

    /// The hub's: makes the key of the next fleet epoch. Refused while the one before the newest is here.
    pub fn rotate_fleet_key(&self, window: Duration) -> Result<u64> {
        self.with(|s, now| {
            if s.roster()?.hub() != &s.name {
                return fail(Code::NotAuthorized, "only the hub's module makes fleet keys");
            }
            let next = s.newest_fleet_key()?.0 + 1;
            let key = FleetKey::generate(&mut *s.rng)?;
            s.take_fleet_key(next, key, window, now)?;
            Ok(next)
        })
    }

    /// Opens and stores a fleet key that the hub sealed to this module; returns its fleet epoch. `window`: how long the
    /// key before it still opens messages.
    pub fn accept_rekey(&self, bytes: &[u8], window: Duration) -> Result<u64> {
        self.with(|s, now| {
            let rekey = s.verify_hub::<Rekey>(bytes)?;
            let r = rekey.body();
            if r.recipient != s.name {
                return fail(Code::WrongRecipient, format!("this fleet key is sealed to {}", r.recipient));
            }
            let info = rekey_info(s.fleet()?, rekey.signer(), &s.name, r.fleet_epoch);
            let opened = hpke::open(&s.kem, &encode(&info), &[], &r.sealed.0)?;
            let key = FleetKey::from_secret(secret(&opened)?);
            if let Some(known) = s.fleet_keys.get(&r.fleet_epoch) {
                if !same_bytes(known.secret().expose(), key.secret().expose()) {
                    return fail(
                        Code::StaleVersion,
                        format!("another key of fleet epoch {} is known", r.fleet_epoch),
                    );
                }
                s.shorten_window(window, now)?;
                return Ok(r.fleet_epoch);
            }
            s.take_fleet_key(r.fleet_epoch, key, window, now)?;
            Ok(r.fleet_epoch)
        })
    }

    /// The receipt that the newest fleet key lies durably in this module.
    pub fn fleet_key_kept(&self) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let (fleet_epoch, _) = s.newest_fleet_key()?;
            Ok(s.sign(FleetKeyKept { fleet: s.fleet()?, fleet_epoch })?.bytes().to_vec())
        })
    }

    /// Erases the fleet key before the newest, shown that the hub and most modules of the fleet hold the newest, and
    /// once nothing stored here needs the old one. Returns the receipt that none is left.
    pub fn retire_fleet_key(&self, receipts: &[Vec<u8>]) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let (below, _) = s.newest_fleet_key()?;
            s.check_kept(below, receipts)?;
            if let Some(old) = s.previous_fleet_key() {
                let state = s.fleet_key_state();
                if !state.keys_left.is_empty() || !state.access_left.is_empty() {
                    return fail(
                        Code::BadState,
                        format!(
                            "{} keys and {} access keys here are still wrapped under fleet epoch {old}",
                            state.keys_left.len(),
                            state.access_left.len()
                        ),
                    );
                }
                let kept = s.renewed_kept()?;
                let id = encode(&old);
                let mut changes = vec![Change::Erase { table: store::FLEET_KEY, id: &id }];
                let values: Vec<_> = kept.iter().map(|(id, record)| (id, encode(record))).collect();
                for (id, value) in &values {
                    changes.push(Change::Put { table: store::KEPT, id: *id, value });
                }
                s.commit(&changes)?;
                for (id, record) in kept {
                    if let Some(kept) = s.kept.get_mut(&id) {
                        kept.record = record;
                    }
                }
                s.fleet_keys.remove(&old);
                s.fleet_wraps.remove(&old);
            }
            Ok(s.sign(FleetKeyRetired { fleet: s.fleet()?, below })?.bytes().to_vec())
        })
    }

    /// The next version of a key's record, its material under the newest fleet key. Not learnt yet.
    pub fn renew_outer(&self, key_id: &[u8; 16]) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let (newest, _) = s.newest_fleet_key()?;
            let Some(known) = s.keys.get(key_id) else {
                return fail(Code::UnknownKey, "no key of this id is known");
            };
            let mut next = known.body().clone();
            let Some(old) = &next.token else {
                return fail(Code::BadState, "the key is deleted");
            };
            let under = sharing_of(&next.domain, old)?;
            let context = token_context(&under, next.key_id, next.key_version);
            let wraps = &s.fleet_wraps;
            let inner = token::open_outer(&old.0, &context, &|epoch| wraps.get(&epoch))?;
            let renewed = token::wrap_outer(&inner, &context, &wraps[&newest], newest, &mut *s.rng)?;
            next.version += 1;
            next.parent = known.hash();
            next.token = Some(Bytes(renewed));
            Ok(s.sign(next)?.bytes().to_vec())
        })
    }

    /// The hub's: an access key's secret, sealed anew under the newest fleet key. Not learnt yet.
    pub fn renew_access(&self, access_key_id: &str) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let Some(key) = s.access.get(access_key_id) else {
                return fail(Code::UnknownKey, "no access key of this id is known");
            };
            let access_version = key.body().version;
            let secret = s.access_secret(access_key_id)?;
            let (fleet_epoch, sealed) = s.seal_access(access_key_id, &secret)?;
            let seal = AccessSeal {
                fleet: s.fleet()?,
                access_key_id: access_key_id.to_owned(),
                access_version,
                fleet_epoch,
                sealed: Bytes(sealed),
            };
            Ok(s.sign(seal)?.bytes().to_vec())
        })
    }
}

impl State {
    pub fn newest_fleet_key(&self) -> Result<(u64, &FleetKey)> {
        match self.fleet_keys.last_key_value() {
            Some((&epoch, key)) => Ok((epoch, key)),
            None => fail(
                Code::NoFleetKey,
                "this module has no fleet key yet; the hub sends it once it is enrolled",
            ),
        }
    }

    /// The fleet epoch before the newest, while its key is here.
    pub fn previous_fleet_key(&self) -> Option<u64> {
        self.fleet_keys.keys().rev().nth(1).copied()
    }

    /// The fleet key of an epoch, if messages under it are still opened at `now`.
    pub fn accepted_fleet_key(&self, epoch: u64, now: Duration) -> Result<&FleetKey> {
        let (newest, _) = self.newest_fleet_key()?;
        match self.fleet_keys.get(&epoch) {
            Some(key) if epoch == newest || now < self.previous_until => Ok(key),
            None if epoch > newest => {
                fail(Code::NoFleetKey, format!("the fleet key of fleet epoch {epoch} is not here yet"))
            }
            _ => {
                fail(Code::OldFleetKey, format!("fleet epoch {epoch} is over; this module accepts {newest}"))
            }
        }
    }

    pub fn take_fleet_key(
        &mut self,
        epoch: u64,
        key: FleetKey,
        window: Duration,
        now: Duration,
    ) -> Result<()> {
        let newest = self.fleet_keys.keys().last().copied().unwrap_or(0);
        if epoch <= newest {
            return fail(
                Code::StaleVersion,
                format!("fleet epoch {epoch} is not above {newest}, which is known here"),
            );
        }
        check_version_step(newest, epoch)?;
        if let Some(old) = self.previous_fleet_key() {
            return fail(
                Code::BadState,
                format!("the fleet key of fleet epoch {old} is still here; it must be erased first"),
            );
        }
        let window = window.min(MAX_WINDOW);
        self.commit(&[
            Change::PutSecret { table: store::FLEET_KEY, id: &encode(&epoch), value: key.secret().expose() },
            Change::Put { table: store::FLEET_WINDOW, id: store::ONLY, value: &encode(&window.as_secs()) },
        ])?;
        self.previous_until = now + window;
        self.hold_fleet_key(epoch, key)
    }

    /// The key may have come without a window before: a shorter one counts.
    fn shorten_window(&mut self, window: Duration, now: Duration) -> Result<()> {
        let window = window.min(MAX_WINDOW);
        if self.previous_fleet_key().is_none() || now + window >= self.previous_until {
            return Ok(());
        }
        let seconds = encode(&window.as_secs());
        self.commit(&[Change::Put { table: store::FLEET_WINDOW, id: store::ONLY, value: &seconds }])?;
        self.previous_until = now + window;
        Ok(())
    }

    /// `FleetKeyKept` receipts of the newest fleet key by the hub and by more than half of the roster's active modules:
    /// what alone will open everything is in enough hands.
    fn check_kept(&self, epoch: u64, receipts: &[Vec<u8>]) -> Result<()> {
        let mut kept = BTreeSet::new();
        for bytes in receipts {
            let receipt = self.verify::<FleetKeyKept>(bytes)?;
            if receipt.body().fleet_epoch != epoch {
                return fail(
                    Code::WrongEpoch,
                    format!("a receipt is for fleet epoch {}, not {epoch}", receipt.body().fleet_epoch),
                );
            }
            kept.insert(receipt.signer().clone());
        }
        let roster = self.roster()?;
        let active = roster.entries().filter(|e| roster.active(&e.body().name).is_ok()).count();
        if !kept.contains(roster.hub()) || 2 * kept.len() <= active {
            return fail(
                Code::NotEnoughShares,
                format!("{} of {active} modules have shown that they hold fleet epoch {epoch}", kept.len()),
            );
        }
        Ok(())
    }

    /// The tokens that this module keeps of a rotation of a domain's key, under the newest fleet key. Nobody else has
    /// them, so nobody else renews them.
    fn renewed_kept(&mut self) -> Result<Vec<([u8; 16], KeptRecord)>> {
        let (newest, _) = self.newest_fleet_key()?;
        let mut renewed = Vec::new();
        for (id, kept) in &self.kept {
            let Some(known) = self.keys.get(id).map(Signed::body) else { continue };
            let old = &kept.record.token;
            if token::fleet_epoch(&old.0)? == newest {
                continue;
            }
            let context = token_context(&sharing_of(&known.domain, old)?, *id, known.key_version);
            let wraps = &self.fleet_wraps;
            let inner = token::open_outer(&old.0, &context, &|epoch| wraps.get(&epoch))?;
            let token = token::wrap_outer(&inner, &context, &wraps[&newest], newest, &mut *self.rng)?;
            renewed.push((*id, KeptRecord { token: Bytes(token), ..kept.record.clone() }));
        }
        Ok(renewed)
    }

    fn fleet_key_state(&self) -> FleetKeyState {
        let epoch = self.fleet_keys.keys().last().copied().unwrap_or(0);
        let under = |r: &KeyRecord| r.token.as_ref().map(|t| token::fleet_epoch(&t.0));
        let stale = |r: &KeyRecord| under(r).is_some_and(|e| e.is_ok_and(|e| e != epoch));
        let mut keys_left: Vec<_> =
            self.keys.values().map(Signed::body).filter(|r| stale(r)).map(|r| r.key_id).collect();
        keys_left.sort_unstable();
        let enabled = || self.access.values().map(Approved::body).filter(|k| k.enabled);
        let ids = |wanted: &dyn Fn(&AccessKey) -> bool| {
            let mut ids: Vec<_> = enabled().filter(|k| wanted(k)).map(|k| k.access_key_id.clone()).collect();
            ids.sort_unstable();
            ids
        };
        // What cannot be opened here any more needs no key that is.
        let opens = |k: &AccessKey| {
            self.access_seal(k)
                .ok()
                .map(|seal| seal.0)
                .filter(|e| *e != epoch && self.fleet_keys.contains_key(e))
        };
        FleetKeyState {
            epoch,
            previous: self.previous_fleet_key(),
            keys: self.keys.values().filter(|k| k.body().state != KeyState::Deleted).count(),
            keys_left,
            access_left: ids(&|k| opens(k).is_some()),
            uncommitted: ids(&|k| {
                super::records::read_sealed(&k.sealed.0).is_ok_and(|sealed| sealed.commitment.is_none())
            }),
        }
    }

    /// Whether a hub-signed seal of an access key's secret is new (true) or known (false).
    pub fn check_access_seal(&self, signer: &NodeId, seal: &AccessSeal) -> Result<bool> {
        if signer != self.roster()?.hub() {
            return fail(Code::NotAuthorized, format!("{signer} is not the hub, which alone seals anew"));
        }
        let Some(key) = self.access.get(&seal.access_key_id) else {
            return fail(Code::UnknownKey, "a seal of an access key that is not known");
        };
        let key = key.body();
        if seal.access_version != key.version {
            return fail(
                if seal.access_version < key.version { Code::StaleVersion } else { Code::UnknownKey },
                format!("a seal of version {}, where {} is known", seal.access_version, key.version),
            );
        }
        let (known_epoch, known_sealed) = self.access_seal(key)?;
        if seal.fleet_epoch <= known_epoch {
            if seal.fleet_epoch == known_epoch && seal.sealed.0 == known_sealed {
                return Ok(false);
            }
            return fail(
                Code::StaleVersion,
                format!("a seal under fleet epoch {}; one under {known_epoch} is known", seal.fleet_epoch),
            );
        }
        let secret = self.open_access(&seal.access_key_id, seal.fleet_epoch, &seal.sealed.0)?;
        let same = match super::records::read_sealed(&key.sealed.0)?.commitment {
            Some(committed) => same_bytes(&committed.0, &access_commitment(&seal.access_key_id, &secret).0),
            // Made before access keys had commitments: only who can still open the old seal can compare.
            None => same_bytes(
                &self
                    .open_access(&seal.access_key_id, known_epoch, &known_sealed)
                    .map_err(|why| uncommitted(&why))?,
                &secret,
            ),
        };
        if !same {
            return fail(Code::KeyCommitment, "a seal holds another secret than the operator signed for");
        }
        Ok(true)
    }
}

fn uncommitted(why: &Error) -> Error {
    Error::new(
        why.code,
        format!("an access key without a commitment cannot be taken from the hub alone: {}", why.what),
    )
}
