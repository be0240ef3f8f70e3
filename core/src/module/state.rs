//! A module's state: what it has verified and holds in memory, and how it comes back from the vault.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use super::disputes::KeptDealing;
use super::epochs::own_seats;
use super::fleet::{Peer, newest_version};
use super::lease::Lease;
use super::marks::Marks;
use super::messages::{AccessKey, AccessSeal, AliasRecord, Charter, Configuration, KeyRecord, Plan};
use super::records::fleet_use_key;
use super::roster::Roster;
use super::rotation::Kept;
use super::sessions::OpenSession;
use super::store::{self, EpochRecord, EpochState, OldEpochRecord, Pins, stored};
use super::usage::{Reserved, Usage};
use crate::encoding::{Bytes, encode};
use crate::error::{Code, Error, Result, fail};
use crate::ids::{DomainId, Epoch, FleetId, Hash, NodeId, SessionId, ShareIndex};
use crate::memory::Secret;
use crate::rng::CryptoRng;
use crate::seal::fleet::FleetKey;
use crate::seal::hpke::KemPrivate;
use crate::seal::signing::{SigningKey, VerifyKey};
use crate::seal::statement::{self, Approved, Signed, Statement};
use crate::seal::tls::{Authority, TlsAuthority};
use crate::sharing::{self, LagrangeCache, Point, Share, Threshold};
use crate::vault::{Change, Root, Vault};

/// The longest list of half-open sessions that one module keeps as a requester.
pub const MAX_SESSIONS: usize = 256;

pub struct State {
    pub vault: Vault,
    pub rng: Box<dyn CryptoRng + Send>,
    pub name: NodeId,
    pub sign: SigningKey,
    pub kem: KemPrivate,
    /// PKCS#8 of the TLS certifying key.
    pub tls: Zeroizing<Vec<u8>>,
    pub tls_spki: Vec<u8>,
    pub boot: u64,
    /// Tells this start from another one of the same number.
    pub start: [u8; 16],
    /// The vault's generation when this start began.
    pub began: u64,
    pub seq: u64,
    pub pins: Option<Pins>,
    pub roster: Option<Roster>,
    pub fleet_keys: BTreeMap<u64, FleetKey>,
    /// The outer wrapping keys of export tokens, by fleet epoch.
    pub fleet_wraps: BTreeMap<u64, Secret<32>>,
    /// Until when messages under the fleet key before the newest are opened.
    pub previous_until: Duration,
    pub peers: HashMap<NodeId, Peer>,
    /// The newest version of the fleet message that this module speaks.
    pub newest: u8,
    /// Messages opened since the start, hellos left out, by version.
    pub opened: BTreeMap<u8, u64>,
    pub marks: Marks,
    pub charters: BTreeMap<DomainId, Approved<Charter>>,
    pub burnt: BTreeMap<DomainId, Epoch>,
    pub plans: HashMap<Hash, OpenPlan>,
    /// What this module dealt and may have to open, by the dealing's hash.
    pub dealt: HashMap<Hash, KeptDealing>,
    pub epochs: BTreeMap<DomainId, BTreeMap<Epoch, HeldEpoch>>,
    pub lagrange: LagrangeCache,
    pub sessions: HashMap<SessionId, OpenSession>,
    pub leases: BTreeMap<DomainId, Lease>,
    pub access: HashMap<String, Approved<AccessKey>>,
    /// Secrets of access keys under a later fleet key than the one that the operator signed for.
    pub access_seals: HashMap<String, Signed<AccessSeal>>,
    /// `SigV4` signing keys by `access key id/date/region/service`.
    pub signing_keys: HashMap<String, Secret<32>>,
    pub keys: HashMap<[u8; 16], Signed<KeyRecord>>,
    /// Of keys whose record has another token now: the one before.
    pub kept: HashMap<[u8; 16], Kept>,
    /// The highest key version of each domain that was dropped here.
    pub dropped: BTreeMap<DomainId, u64>,
    pub aliases: HashMap<String, Signed<AliasRecord>>,
    #[cfg(feature = "testing")]
    pub corrupt_answers: bool,
}

/// A plan that this module answered: its KEM keys, in memory only, so that no vault ever opens a dealing.
pub struct OpenPlan {
    pub plan: Signed<Plan>,
    pub kem: BTreeMap<ShareIndex, KemPrivate>,
}

/// One epoch of a domain, as far as this module knows it.
pub struct HeldEpoch {
    pub state: EpochState,
    pub configuration: Signed<Configuration>,
    pub plan: Plan,
    /// `P_x` for every index of the committee.
    pub points: BTreeMap<ShareIndex, Point>,
    /// The indices held here, and their limits; none when this module was away, or has left. The shares themselves
    /// rest sealed in the vault.
    pub shares: BTreeMap<ShareIndex, Usage>,
    /// This vault was an older copy: the shares serve no session and give no receipt. A dealing may start from them.
    pub barred: bool,
}

impl HeldEpoch {
    pub fn open(configuration: Signed<Configuration>, state: EpochState, plan: Plan) -> Result<Self> {
        let indices: Vec<ShareIndex> = plan.committee.iter().map(|s| s.index).collect();
        let points = sharing::commitments_at(&configuration.body().commitments, &indices)?;
        let points = indices.into_iter().zip(points).collect();
        Ok(Self { state, configuration, plan, points, shares: BTreeMap::new(), barred: false })
    }

    pub fn epoch(&self) -> Epoch {
        self.configuration.body().epoch
    }

    pub fn threshold(&self) -> Result<Threshold> {
        Threshold::new(u64::from(self.plan.threshold))
    }

    /// # Errors
    /// `rolled_back` where the shares came out of an older copy of the vault.
    pub fn check_barred(&self) -> Result<()> {
        if self.barred {
            let what = "this module's vault was an older copy: its shard serves again from the next epoch on";
            return fail(Code::RolledBack, what);
        }
        Ok(())
    }

    /// Whether holders of k of its indices are among `signers`: not all of them lie.
    pub fn is_vouched_for_by(&self, signers: &BTreeSet<NodeId>) -> bool {
        let held = self.plan.committee.iter().filter(|seat| signers.contains(&seat.node)).count();
        held >= usize::from(self.plan.threshold)
    }

    pub fn node_of(&self, index: ShareIndex) -> Option<&NodeId> {
        self.plan.committee.iter().find(|s| s.index == index).map(|s| &s.node)
    }
}

impl State {
    pub fn create(
        dir: &Path,
        name: &NodeId,
        root: &Root<'_>,
        mut rng: Box<dyn CryptoRng + Send>,
        now: Duration,
    ) -> Result<Self> {
        if name == &NodeId::operator() {
            return fail(Code::NotAuthorized, "no module may be called operator");
        }
        let (vault, _) = Vault::create(dir, *root, &mut *rng, |vault, rng| {
            let sign = Secret::<32>::random(rng)?;
            let kem = Secret::<32>::random(rng)?;
            let tls = TlsAuthority::generate(Authority::Module(name.clone()))?.pkcs8();
            let identity = [
                Change::Put { table: store::IDENTITY, id: store::ONLY, value: &encode(name) },
                Change::PutSecret { table: store::IDENTITY_KEYS, id: store::SIGN, value: sign.expose() },
                Change::PutSecret { table: store::IDENTITY_KEYS, id: store::KEM, value: kem.expose() },
                Change::PutSecret { table: store::IDENTITY_KEYS, id: store::TLS, value: &tls },
            ];
            vault.commit(&identity, rng)
        })?;
        Self::load(vault, rng, now)
    }

    pub fn open(
        dir: &Path,
        root: &Root<'_>,
        mut rng: Box<dyn CryptoRng + Send>,
        now: Duration,
    ) -> Result<Self> {
        let vault = Vault::open(dir, *root, &mut *rng)?;
        Self::load(vault, rng, now)
    }

    #[cfg(feature = "testing")]
    pub fn open_on(
        dir: &Path,
        root: &Root<'_>,
        mut rng: Box<dyn CryptoRng + Send>,
        now: Duration,
        disk: &dyn crate::vault::Disk,
    ) -> Result<Self> {
        let vault = Vault::open_on(dir, *root, &mut *rng, disk)?;
        Self::load(vault, rng, now)
    }

    fn load(mut vault: Vault, mut rng: Box<dyn CryptoRng + Send>, now: Duration) -> Result<Self> {
        let name: NodeId = stored(&must(&vault, store::IDENTITY, store::ONLY)?)?;
        let sign = SigningKey::from_seed(secret(&must(&vault, store::IDENTITY_KEYS, store::SIGN)?)?);
        let kem = KemPrivate::from_seed(secret(&must(&vault, store::IDENTITY_KEYS, store::KEM)?)?)?;
        let tls = must(&vault, store::IDENTITY_KEYS, store::TLS)?;
        let tls_spki = TlsAuthority::from_pkcs8(Authority::Module(name.clone()), &tls)?.public();
        let boot = match vault.get(store::BOOT, store::ONLY)? {
            Some(bytes) => stored::<u64>(&bytes)? + 1,
            None => 1,
        };
        vault.commit(
            &[Change::Put { table: store::BOOT, id: store::ONLY, value: &encode(&boot) }],
            &mut *rng,
        )?;
        let mut start = [0; 16];
        rng.fill_bytes(&mut start);
        let marks = Marks::open(vault.list(store::MARK)?)?;
        let began = vault.generation();
        let mut state = Self {
            vault,
            rng,
            name,
            sign,
            kem,
            tls,
            tls_spki,
            boot,
            start,
            began,
            seq: 0,
            pins: None,
            roster: None,
            fleet_keys: BTreeMap::new(),
            fleet_wraps: BTreeMap::new(),
            previous_until: now,
            peers: HashMap::new(),
            newest: newest_version(),
            opened: BTreeMap::new(),
            marks,
            charters: BTreeMap::new(),
            burnt: BTreeMap::new(),
            plans: HashMap::new(),
            dealt: HashMap::new(),
            epochs: BTreeMap::new(),
            lagrange: LagrangeCache::default(),
            sessions: HashMap::new(),
            leases: BTreeMap::new(),
            access: HashMap::new(),
            access_seals: HashMap::new(),
            signing_keys: HashMap::new(),
            keys: HashMap::new(),
            kept: HashMap::new(),
            dropped: BTreeMap::new(),
            aliases: HashMap::new(),
            #[cfg(feature = "testing")]
            corrupt_answers: false,
        };
        state.load_fleet(now)?;
        state.load_epochs(now)?;
        Ok(state)
    }

    fn load_fleet(&mut self, now: Duration) -> Result<()> {
        let Some(pins) = self.vault.get(store::PINS, store::ONLY)? else { return Ok(()) };
        let pins: Pins = stored(&pins)?;
        let (fleet, operator) = (pins.fleet, pins.operator);
        self.pins = Some(pins);
        if let Some(bytes) = self.vault.get(store::ROSTER, store::ONLY)? {
            self.roster = Some(Roster::open(&bytes, &fleet, &operator)?);
        }
        for (id, bytes) in self.vault.list(store::FLEET_KEY)? {
            let fleet_epoch = stored(&id)?;
            self.hold_fleet_key(fleet_epoch, FleetKey::from_secret(secret(&bytes)?))?;
        }
        if let Some(seconds) = self.vault.get(store::FLEET_WINDOW, store::ONLY)? {
            // The boot clock does not say how long this module was away: the window begins anew.
            self.previous_until = now + Duration::from_secs(stored(&seconds)?);
        }
        for (_, bytes) in self.vault.list(store::CHARTER)? {
            let charter: Approved<Charter> = statement::open_approved(&bytes, &fleet, &operator)?;
            self.charters.insert(charter.body().domain.clone(), charter);
        }
        for (id, bytes) in self.vault.list(store::BURNT)? {
            self.burnt.insert(stored(&id)?, stored(&bytes)?);
        }
        for (_, bytes) in self.vault.list(store::ACCESS)? {
            let key: Approved<AccessKey> = statement::open_approved(&bytes, &fleet, &operator)?;
            self.access.insert(key.body().access_key_id.clone(), key);
        }
        for (_, bytes) in self.vault.list(store::ACCESS_SEAL)? {
            let seal: Signed<AccessSeal> = statement::read_unverified(&bytes)?;
            self.access_seals.insert(seal.body().access_key_id.clone(), seal);
        }
        // Records were verified when they were learnt; the vault's own seal vouches for them since. Their
        // signers may have retired in the meantime.
        for (_, bytes) in self.vault.list(store::KEY)? {
            let key: Signed<KeyRecord> = statement::read_unverified(&bytes)?;
            self.keys.insert(key.body().key_id, key);
        }
        for (id, bytes) in self.vault.list(store::KEPT)? {
            self.kept.insert(*array(&id)?, Kept::stored(&bytes)?);
        }
        for (id, bytes) in self.vault.list(store::DROPPED)? {
            self.dropped.insert(stored(&id)?, stored(&bytes)?);
        }
        for (_, bytes) in self.vault.list(store::ALIAS)? {
            let alias: Signed<AliasRecord> = statement::read_unverified(&bytes)?;
            self.aliases.insert(alias.body().alias.clone(), alias);
        }
        Ok(())
    }

    fn load_epochs(&mut self, now: Duration) -> Result<()> {
        self.take_over_old_epochs()?;
        for (_, bytes) in self.vault.list(store::EPOCH)? {
            let record: EpochRecord = stored(&bytes)?;
            let (configuration, plan) = read_configuration(&record.configuration.0)?;
            let (domain, epoch) = (configuration.body().domain.clone(), configuration.body().epoch);
            let limits = self.charter(&domain)?.limits.clone();
            let mut held = HeldEpoch::open(configuration, record.state, plan)?;
            held.barred = self.vault.get(store::BARRED, &store::epoch_id(&domain, epoch))?.is_some();
            for index in record.indices {
                let id = store::share_id(&domain, epoch, index);
                Share::from_bytes(index, &*array(&must(&self.vault, store::SHARE, &id)?)?)?;
                let reserved = match self.vault.get(store::USAGE, &id)? {
                    Some(bytes) => stored(&bytes)?,
                    None => Reserved::NONE,
                };
                held.shares.insert(index, Usage::resume(reserved, &limits, now));
            }
            self.epochs.entry(domain).or_default().insert(epoch, held);
        }
        Ok(())
    }

    /// Brings the epochs of a vault that an earlier release wrote into the form of this one.
    fn take_over_old_epochs(&mut self) -> Result<()> {
        let mut taken = Vec::new();
        for (id, bytes) in self.vault.list(store::OLD_EPOCH)? {
            let old: OldEpochRecord = stored(&bytes)?;
            let (configuration, plan) = read_configuration(&old.configuration.0)?;
            let state = if old.current { EpochState::Current } else { EpochState::Pending };
            let own = own_seats(&plan, &self.name).into_iter().map(|seat| seat.index).collect();
            taken.push((id, encode(&EpochRecord::new(state, &configuration, own, &[]))));
        }
        let mut changes = Vec::new();
        for (id, record) in &taken {
            changes.push(Change::Put { table: store::EPOCH, id, value: record });
            changes.push(Change::Delete { table: store::OLD_EPOCH, id });
        }
        if changes.is_empty() { Ok(()) } else { self.commit(&changes) }
    }

    pub fn hold_fleet_key(&mut self, fleet_epoch: u64, key: FleetKey) -> Result<()> {
        self.fleet_wraps.insert(fleet_epoch, fleet_use_key(key.secret(), "export-token")?);
        self.fleet_keys.insert(fleet_epoch, key);
        Ok(())
    }

    /// Erases what has ended by `now`; true when nothing timed is left.
    pub fn sweep(&mut self, now: Duration) -> bool {
        self.leases.retain(|_, lease| !lease.over(now));
        self.sessions.retain(|_, session| !session.over(now));
        self.dealt.retain(|_, kept| !kept.over(now));
        self.leases.is_empty() && self.sessions.is_empty() && self.dealt.is_empty()
    }

    pub fn commit(&mut self, changes: &[Change<'_>]) -> Result<()> {
        self.vault.commit(changes, &mut *self.rng).map(|_| ())
    }

    pub fn pins(&self) -> Result<&Pins> {
        self.pins
            .as_ref()
            .ok_or_else(|| Error::new(Code::BadState, "this module belongs to no fleet yet; enrol it"))
    }

    pub fn fleet(&self) -> Result<FleetId> {
        self.pins().map(|p| p.fleet)
    }

    pub fn roster(&self) -> Result<&Roster> {
        self.roster
            .as_ref()
            .ok_or_else(|| Error::new(Code::BadState, "this module has no roster yet; enrol it"))
    }

    pub fn key_of(&self) -> impl Fn(&NodeId) -> Option<VerifyKey> + '_ {
        |name| self.roster.as_ref().and_then(|r| r.key_of(name))
    }

    pub fn charter(&self, domain: &DomainId) -> Result<&Charter> {
        self.charters.get(&domain.base()).map(Approved::body).ok_or_else(|| unknown_domain(domain))
    }

    /// An epoch of `domain` by its number, if this module knows it.
    pub fn known(&self, domain: &DomainId, epoch: Epoch) -> Option<&HeldEpoch> {
        self.epochs.get(domain)?.get(&epoch)
    }

    /// The current epoch of `domain`, if this module knows one.
    pub fn current(&self, domain: &DomainId) -> Result<&HeldEpoch> {
        self.epochs
            .get(domain)
            .and_then(|epochs| epochs.values().find(|e| e.state == EpochState::Current))
            .ok_or_else(|| no_shard(domain))
    }

    pub fn current_mut(&mut self, domain: &DomainId) -> Result<&mut HeldEpoch> {
        self.epochs
            .get_mut(domain)
            .and_then(|epochs| epochs.values_mut().find(|e| e.state == EpochState::Current))
            .ok_or_else(|| no_shard(domain))
    }

    /// The current epoch of `domain`, of which this module must hold a shard.
    pub fn serving(&self, domain: &DomainId) -> Result<&HeldEpoch> {
        let held = self.current(domain)?;
        held.check_barred()?;
        if held.shares.is_empty() { Err(no_shard(domain)) } else { Ok(held) }
    }

    /// Signs as this module.
    pub fn sign<T: Statement>(&self, body: T) -> Result<Signed<T>> {
        Ok(statement::sign(body, &self.fleet()?, &self.name, &self.sign))
    }

    /// Opens a statement signed by any active module.
    pub fn verify<T: Statement>(&self, bytes: &[u8]) -> Result<Signed<T>> {
        statement::open(bytes, &self.fleet()?, &self.key_of())
    }

    /// Opens a statement signed by a module that is, or was, in the fleet: a certificate outlives its signers.
    pub fn verify_past<T: Statement>(&self, bytes: &[u8]) -> Result<Signed<T>> {
        let roster = self.roster()?;
        statement::open(bytes, &self.fleet()?, &|name: &NodeId| roster.past_key_of(name))
    }

    /// Opens a statement that only the hub may sign.
    pub fn verify_hub<T: Statement>(&self, bytes: &[u8]) -> Result<Signed<T>> {
        let signed = self.verify::<T>(bytes)?;
        if signed.signer() != self.roster()?.hub() {
            return fail(
                Code::NotAuthorized,
                format!("{} is signed by {}, which is not the hub", T::LABEL, signed.signer()),
            );
        }
        Ok(signed)
    }

    pub fn verify_operator<T: Statement>(&self, bytes: &[u8]) -> Result<Approved<T>> {
        let pins = self.pins()?;
        statement::open_approved(bytes, &pins.fleet, &pins.operator)
    }

    pub fn next_bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.rng.fill_bytes(&mut out);
        out
    }
}

pub fn unknown_domain(domain: &DomainId) -> Error {
    Error::new(Code::UnknownDomain, format!("this module knows no charter of {domain}"))
}

pub fn no_shard(domain: &DomainId) -> Error {
    Error::new(Code::NotAMember, format!("this module holds no shard of the current epoch of {domain}"))
}

pub fn read_configuration(bytes: &[u8]) -> Result<(Signed<Configuration>, Plan)> {
    let configuration: Signed<Configuration> = statement::read_unverified(bytes)?;
    let plan: Signed<Plan> = statement::read_unverified(&configuration.body().plan.0)?;
    Ok((configuration, plan.into_body()))
}

pub fn must(vault: &Vault, table: &'static str, id: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    vault.get(table, id)?.ok_or_else(|| {
        Error::new(
            Code::VaultCorrupt,
            format!("the vault lacks a record of {table} that it must have; restore it from a copy or retire this node"),
        )
    })
}

pub fn array<const N: usize>(bytes: &[u8]) -> Result<Zeroizing<[u8; N]>> {
    let array = bytes
        .try_into()
        .map_err(|_| Error::new(Code::VaultCorrupt, "a secret of the vault has a wrong length"))?;
    Ok(Zeroizing::new(array))
}

pub fn secret(bytes: &[u8]) -> Result<Secret<32>> {
    Secret::take_from(&mut *array::<32>(bytes)?)
}

/// Wraps signed bytes as they travel inside another statement.
pub fn carried<T>(signed: &Signed<T>) -> Bytes {
    Bytes(signed.bytes().to_vec())
}
