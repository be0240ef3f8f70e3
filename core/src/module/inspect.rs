//! What a simulator sees of a vault, and what a thief of one can sign: in a testing build only.
//!
//! Here: the shards that a crash at this moment would leave, the key that they come to, forged statements, mistakes
//! that modules make when a test of the tests wants them to.
//! Not here: what must hold of them (`tests/simulation`); anything that a running module does.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Module;
use super::messages::{
    Activated, Complaint, Configuration, Dealing, Erased, Fault, Opening, Plan, PlanKey, Prepared,
};
use super::state::{array, read_configuration};
use super::store::{self, EpochRecord, EpochState, stored};
use crate::encoding::{Bytes, digest, encode};
use crate::error::{Code, Result, fail};
use crate::ids::{DomainId, Epoch, Hash, NodeId, ShareIndex};
use crate::memory::Secret;
use crate::rng::SeededRng;
use crate::seal::hpke;
use crate::seal::signing::SigningKey;
use crate::seal::statement::{self, Statement, hash_in, read_unverified};
use crate::sharing::{self, Constant, LagrangeCache, Share, Threshold, combine, verify_share};
use crate::vault::faults::{FaultyDisk, Memory, Unsynced};
use crate::vault::{Root, Vault};

/// What `mistaken` may be asked for, each where the right thing is done otherwise.
const MISTAKES: [&str; 15] = [
    "receipt-unstored",
    "few-receipts",
    "any-receipts",
    "erase-early",
    "erase-short",
    "erase-at-prepare",
    "erase-at-commit",
    "burn-in-memory",
    "current-in-memory",
    "back-to-retired",
    "deals-twice",
    "any-constant",
    "any-sub-share",
    "long-term-keys",
    "serve-old",
];

static MISTAKE: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Lets every module of this process make a mistake; "" for none. False for one that is not known.
pub fn make_mistake(name: &str) -> bool {
    let at = MISTAKES.iter().position(|known| *known == name);
    MISTAKE.store(at.unwrap_or(usize::MAX), Ordering::SeqCst);
    at.is_some() || name.is_empty()
}

pub fn mistaken(name: &str) -> bool {
    MISTAKES.get(MISTAKE.load(Ordering::SeqCst)).is_some_and(|made| *made == name)
}

/// A machine's disk: a vault's directory, and what its changing files hold by now.
#[derive(Clone)]
pub struct Medium {
    pub dir: PathBuf,
    pub memory: Memory,
}

/// One shard as it lies on a medium.
pub struct Shard {
    pub domain: DomainId,
    pub epoch: Epoch,
    pub state: EpochState,
    pub index: ShareIndex,
    pub threshold: u8,
    /// The configuration's hash.
    pub configuration: Hash,
    /// The commitment to the key, encoded.
    pub constant: Vec<u8>,
    /// It opens the commitment of its epoch to its index.
    pub valid: bool,
    share: Share,
}

/// Opens what lies on the medium of the vault in `dir`, as after a crash that lost every unsynced write. A module may
/// have the vault open; nothing of it is changed.
fn with_medium<T>(medium: &Medium, look: impl FnOnce(&Vault) -> Result<T>) -> Result<T> {
    let (dir, disk) = (&medium.dir, FaultyDisk::on(&medium.memory));
    disk.lie(); // what the opening mends stays in memory
    let vault = Vault::open_on(&window(dir)?, Root::KeyFile, &mut SeededRng::new(0), &disk)?;
    let seen = look(&vault);
    disk.crash(Unsynced::Lost);
    seen
}

/// A directory whose files are those of `dir`, with a lock of its own.
fn window(dir: &Path) -> Result<PathBuf> {
    let window = dir.with_extension("window");
    let make = || -> std::io::Result<()> {
        if window.exists() {
            return Ok(());
        }
        DirBuilder::new().mode(0o700).create(&window)?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            fs::hard_link(entry.path(), window.join(entry.file_name()))?;
        }
        Ok(())
    };
    match make() {
        Ok(()) => Ok(window),
        Err(e) => fail(Code::Storage, format!("{}: {e}", window.display())),
    }
}

/// The shards that are durable in the vault on `medium`.
pub fn durable_shards(medium: &Medium) -> Result<Vec<Shard>> {
    with_medium(medium, shards_in)
}

/// The same of a vault that a module has open, all of whose writes have reached the medium.
pub fn settled_shards(module: &Module) -> Result<Vec<Shard>> {
    module.with(|s, _| shards_in(&s.vault))
}

fn shards_in(vault: &Vault) -> Result<Vec<Shard>> {
    let mut found = Vec::new();
    for (_, bytes) in vault.list(store::EPOCH)? {
        let record: EpochRecord = stored(&bytes)?;
        let (configuration, plan) = read_configuration(&record.configuration.0)?;
        let c = configuration.body();
        for index in record.indices {
            let id = store::share_id(&c.domain, c.epoch, index);
            let Some(bytes) = vault.get(store::SHARE, &id)? else { continue };
            let share = Share::from_bytes(index, &*array(&bytes)?)?;
            found.push(Shard {
                domain: c.domain.clone(),
                epoch: c.epoch,
                state: record.state,
                index,
                threshold: plan.threshold,
                configuration: configuration.hash(),
                constant: encode(c.commitments.constant()),
                valid: verify_share(&c.commitments, &share).is_ok(),
                share,
            });
        }
    }
    Ok(found)
}

/// A hash of the key that the first k shards of an epoch in these vaults combine to, checked against its commitment.
pub fn key_of(media: &[Medium], domain: &DomainId, epoch: Epoch) -> Result<Hash> {
    let mut found = Vec::new();
    for medium in media {
        found.extend(durable_shards(medium)?.into_iter().filter(|s| &s.domain == domain && s.epoch == epoch));
    }
    let Some(first) = found.first() else { return fail(Code::NotEnoughShares, "no shard of this epoch") };
    let k = Threshold::new(u64::from(first.threshold))?;
    let commitment = crate::encoding::decode(&first.constant)?;
    let shares: Vec<&Share> = found.iter().take(usize::from(k.get())).map(|s| &s.share).collect();
    let key = combine(&shares, k, &commitment, &mut LagrangeCache::default())?;
    Ok(Hash(digest("quorate/testing/key", key.expose())))
}

/// Signs as the module whose vault lies on `medium`.
pub struct Thief {
    name: NodeId,
    key: SigningKey,
}

impl Thief {
    pub fn of(medium: &Medium) -> Result<Self> {
        with_medium(medium, |vault| {
            let (name, key) =
                (vault.get(store::IDENTITY, store::ONLY)?, vault.get(store::IDENTITY_KEYS, store::SIGN)?);
            let (Some(name), Some(key)) = (name, key) else {
                return fail(Code::BadState, "no identity here");
            };
            let key = SigningKey::from_seed(Secret::take_from(&mut *array::<32>(&key)?)?);
            Ok(Self { name: stored(&name)?, key })
        })
    }

    fn sign<T: Statement>(&self, fleet: crate::ids::FleetId, body: T) -> Vec<u8> {
        statement::sign(body, &fleet, &self.name, &self.key).bytes().to_vec()
    }

    /// That `index` of this configuration is prepared.
    pub fn prepared(&self, configuration: &[u8], index: ShareIndex) -> Result<Vec<u8>> {
        let (c, hash) = said(configuration)?;
        let body = Prepared { fleet: c.fleet, domain: c.domain, epoch: c.epoch, configuration: hash, index };
        Ok(self.sign(c.fleet, body))
    }

    /// That this configuration is current for `index`.
    pub fn activated(&self, configuration: &[u8], index: ShareIndex) -> Result<Vec<u8>> {
        let (c, hash) = said(configuration)?;
        let body = Activated { fleet: c.fleet, domain: c.domain, epoch: c.epoch, configuration: hash, index };
        Ok(self.sign(c.fleet, body))
    }

    /// That nothing below this configuration's epoch is left.
    pub fn erased(&self, configuration: &[u8]) -> Result<Vec<u8>> {
        let (c, hash) = said(configuration)?;
        let body = Erased { fleet: c.fleet, domain: c.domain, below: c.epoch, configuration: hash };
        Ok(self.sign(c.fleet, body))
    }

    /// That what the dealing with this hash has for `index` does not open.
    pub fn complaint(&self, configuration: &[u8], dealing: Hash, index: ShareIndex) -> Result<Vec<u8>> {
        let (c, configuration) = said(configuration)?;
        let (fleet, domain, to_epoch, plan) = (c.fleet, c.domain, c.epoch, hash_in(&c.plan.0)?);
        let code = Fault::NotOpened;
        Ok(self.sign(fleet, Complaint { fleet, domain, to_epoch, plan, configuration, dealing, index, code }))
    }

    /// An answer to this complaint that is made up.
    pub fn opening(&self, complaint: &[u8]) -> Result<Vec<u8>> {
        let (c, complaint) = (read_unverified::<Complaint>(complaint)?.into_body(), hash_in(complaint)?);
        let (plan_key, pair, seed) = (Bytes(Vec::new()), [0; 64], [0; 64]);
        let (fleet, domain, to_epoch) = (c.fleet, c.domain, c.to_epoch);
        Ok(self.sign(fleet, Opening { fleet, domain, to_epoch, complaint, plan_key, pair, seed }))
    }

    /// A dealing of a secret that nobody knew before, and its sealed sub-shares: sound, but for what it deals.
    pub fn deal_afresh(
        &self,
        dealing: &[u8],
        plan: &[u8],
        plan_keys: &[Vec<u8>],
        seed: u64,
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
        let mut body = read_unverified::<Dealing>(dealing)?.into_body();
        let plan = read_unverified::<Plan>(plan)?;
        let keys: Vec<PlanKey> =
            plan_keys.iter().map(|k| Ok(read_unverified(k)?.into_body())).collect::<Result<_>>()?;
        let (p, mut rng) = (plan.body(), SeededRng::new(seed));
        let indices: Vec<ShareIndex> = p.committee.iter().map(|seat| seat.index).collect();
        let k = Threshold::new(u64::from(p.threshold))?;
        let dealt = sharing::deal(k, &indices, Constant::Fresh, &mut rng)?;
        let mut sealed = Vec::new();
        for (seat, share) in p.committee.iter().zip(&dealt.shares) {
            let info = encode(&super::dealings::sub_share_info(&plan, &self.name, seat));
            sealed.push(match keys.iter().find(|key| key.index == seat.index) {
                Some(key) => hpke::seal(&key.kem, &info, &[], &*share.to_bytes(), &mut rng)?,
                None => Vec::new(),
            });
        }
        body.sealed = sealed.iter().map(|s| super::dealings::sealed_hash(s)).collect();
        body.commitments = dealt.commitments;
        Ok((self.sign(body.fleet, body), sealed))
    }

    /// A dealing with other sealed sub-shares, or with the commitments of another one.
    pub fn dealing(
        &self,
        dealing: &[u8],
        sealed: &[Vec<u8>],
        commitments_of: Option<&[u8]>,
    ) -> Result<Vec<u8>> {
        let mut body = read_unverified::<Dealing>(dealing)?.into_body();
        body.sealed = sealed.iter().map(|s| super::dealings::sealed_hash(s)).collect();
        if let Some(other) = commitments_of {
            body.commitments = read_unverified::<Dealing>(other)?.into_body().commitments;
        }
        Ok(self.sign(body.fleet, body))
    }
}

fn said(configuration: &[u8]) -> Result<(Configuration, Hash)> {
    Ok((read_unverified::<Configuration>(configuration)?.into_body(), hash_in(configuration)?))
}
