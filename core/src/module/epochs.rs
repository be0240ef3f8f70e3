//! Epochs at a member: keys for a plan, dealing, a new shard durably beside the old one, then two locks. The first
//! makes the new epoch current, on receipts that it is prepared; the second erases what was before, on receipts that
//! it is current (docs/protocols/epoch-change.md).
//!
//! Not here: what is refused in a plan (`plans`), what is wrong with a dealing (`dealings`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use zeroize::Zeroizing;

use super::Module;
use super::dealings::{Made, SubShare};
use super::messages::{Activated, Configuration, Erased, Plan, PlanKey, Prepared, Purpose, Seat};
use super::rotation;
use super::state::{HeldEpoch, OpenPlan, State, must};
use super::store::{self, EpochRecord, EpochState};
use super::usage::{Reserved, Usage};
use crate::encoding::encode;
use crate::error::{Code, Result, fail};
use crate::ids::{DomainId, Epoch, Hash, NodeId, ShareIndex};
use crate::seal::hpke::KemPrivate;
use crate::seal::statement::{Signed, Statement, hash_in};
use crate::sharing::Share;
use crate::vault::Change;

/// An epoch as its member knows it: configuration, state, the member's indices, the threshold, whether its shares are
/// barred, whether one of them is worn.
pub type EpochHeld = (Signed<Configuration>, EpochState, Vec<ShareIndex>, u8, bool, bool);

/// A commit as one shows it to another: configuration, receipts, dealings.
pub type Commit = (Vec<u8>, Vec<Vec<u8>>, Vec<Vec<u8>>);

pub fn own_seats(plan: &Plan, me: &NodeId) -> Vec<Seat> {
    plan.committee.iter().filter(|s| &s.node == me).cloned().collect()
}

impl Module {
    /// Checks a plan against its charter, burns its number durably, and makes KEM keys for it alone.
    pub fn accept_plan(&self, plan: &[u8], charter: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.with(|s, _| {
            s.learn_charter(charter)?;
            let plan = s.verify_hub::<Plan>(plan)?;
            s.check_plan(plan.body())?;
            s.dealt_epoch(plan.body())?;
            let seats = own_seats(plan.body(), &s.name);
            if seats.is_empty() {
                return fail(Code::NotAMember, "this plan gives this module no index");
            }
            s.burn(&plan.body().domain, plan.body().to_epoch)?;
            let mut kem = BTreeMap::new();
            let mut answers = Vec::new();
            for seat in seats {
                let key = KemPrivate::generate(&mut *s.rng)?;
                #[cfg(feature = "testing")]
                let key = if super::inspect::mistaken("long-term-keys") { s.long_term_key()? } else { key };
                let body = PlanKey {
                    fleet: plan.body().fleet,
                    domain: plan.body().domain.clone(),
                    plan: plan.hash(),
                    index: seat.index,
                    kem: key.public().clone(),
                };
                answers.push(s.sign(body)?.bytes().to_vec());
                kem.insert(seat.index, key);
            }
            // One open plan for each domain: an older one's keys go now.
            let domain = plan.body().domain.clone();
            s.plans.retain(|_, open| open.plan.body().domain != domain);
            s.dealt.retain(|_, kept| kept.domain() != &domain);
            s.plans.insert(plan.hash(), OpenPlan { plan, kem });
            Ok(answers)
        })
    }

    /// Deals for `plan`, once for each of its dealers that this module is. A number is dealt for once, ever.
    pub fn deal(&self, plan: &[u8], charter: &[u8], plan_keys: &[Vec<u8>]) -> Result<Vec<Made>> {
        self.with(|s, now| {
            s.learn_charter(charter)?;
            let plan = s.verify_hub::<Plan>(plan)?;
            let p = plan.body();
            s.check_plan(p)?;
            let own: Vec<_> = p.dealers.iter().filter(|d| d.node == s.name).cloned().collect();
            if own.is_empty() {
                return fail(Code::NotAuthorized, "this module is no dealer of the plan");
            }
            s.may_deal(&plan, &own)?;
            let keys = s.check_plan_keys(&plan, plan_keys)?;
            s.burn_dealing(&p.domain, p.to_epoch)?;
            s.dealt.retain(|_, kept| kept.domain() != &p.domain);
            own.iter().map(|dealer| s.deal_as(&plan, dealer, &keys, now)).collect()
        })
    }

    /// Verifies every dealing, assembles the new shards, and stores them durably before the receipts.
    pub fn prepare(
        &self,
        configuration: &[u8],
        dealings: &[Vec<u8>],
        subs: &[SubShare],
    ) -> Result<Vec<Vec<u8>>> {
        self.with(|s, now| {
            let configuration = s.verify_hub::<Configuration>(configuration)?;
            let c = configuration.body();
            if let Some(held) = s.known(&c.domain, c.epoch) {
                // Asked again: the shard lies here already, under this very configuration or none.
                if held.configuration.hash() == configuration.hash() {
                    return s.prepared_receipts(&configuration);
                }
                return fail(Code::WrongEpoch, format!("epoch {} has another configuration here", c.epoch));
            }
            let plan = s.verify_hub::<Plan>(&c.plan.0)?;
            let Some(open) = s.plans.remove(&plan.hash()) else {
                return fail(Code::BadState, "this module has no open plan of this hash; its keys are gone");
            };
            // The plan's keys go with `open`, whatever happens next.
            let from = s.dealt_epoch(plan.body())?;
            let shares = s.assemble(&configuration, &plan, from, dealings, &open, subs)?;
            s.store_pending(&configuration, plan.into_body(), shares, now)
        })
    }

    /// The first lock: checks the commit certificate and makes the epoch current. Receipts for the indices held.
    ///
    /// A module that did not prepare the epoch learns of it, and gives no receipt: from now on it holds no shard
    /// that serves. It must be shown the dealings too, which prove that holders of its own epoch took part.
    pub fn activate(
        &self,
        configuration: &[u8],
        receipts: &[Vec<u8>],
        dealings: &[Vec<u8>],
    ) -> Result<Vec<Vec<u8>>> {
        self.with(|s, _| {
            let configuration = s.verify_hub::<Configuration>(configuration)?;
            let (domain, epoch) = (configuration.body().domain.clone(), configuration.body().epoch);
            let known = s.known(&domain, epoch).map(|h| (h.configuration.hash(), h.state));
            match known {
                Some((hash, _)) if hash != configuration.hash() => {
                    return fail(Code::WrongEpoch, format!("epoch {epoch} has another configuration here"));
                }
                #[cfg(feature = "testing")]
                Some((_, EpochState::Retired)) if super::inspect::mistaken("back-to-retired") => {
                    s.make_current(&configuration, receipts, dealings)?;
                }
                Some((_, EpochState::Retired)) => {
                    return fail(Code::WrongEpoch, format!("a later epoch than {epoch} is current here"));
                }
                Some((_, EpochState::Current)) => {}
                Some((_, EpochState::Pending)) => s.activate_pending(&configuration, receipts, dealings)?,
                None => s.learn_epoch(&configuration, receipts, dealings)?,
            }
            s.activated_receipts(&configuration)
        })
    }

    /// The second lock: erases every share of earlier epochs, once enough indices of a later one have shown by their
    /// `activated` receipts that they hold it. A repeat gives the same statement.
    pub fn erase(&self, receipts: &[Vec<u8>]) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let (domain, epoch, configuration) = s.check_erase_certificate(receipts)?;
            let earlier = |(e, _): &(&Epoch, &HeldEpoch)| **e < epoch;
            let held = s.epochs.entry(domain.clone()).or_default();
            let gone: Vec<Gone> =
                held.iter().filter(earlier).map(|(e, h)| Gone::new(&domain, *e, h)).collect();
            s.commit(&gone.iter().flat_map(Gone::changes).collect::<Vec<_>>())?;
            s.epochs.entry(domain.clone()).or_default().retain(|e, _| *e >= epoch);
            let erased = Erased { fleet: s.fleet()?, domain, below: epoch, configuration };
            Ok(s.sign(erased)?.bytes().to_vec())
        })
    }

    /// Erases a plan's KEM keys, and what was kept of its dealings.
    pub fn abort_plan(&self, plan: Hash) -> Result<()> {
        self.with(|s, _| {
            s.plans.remove(&plan);
            s.dealt.retain(|_, kept| kept.plan() != plan);
            Ok(())
        })
    }

    /// Every epoch that this module knows, by domain and number.
    pub fn epochs(&self) -> Result<Vec<EpochHeld>> {
        self.with(|s, _| s.epochs.values().flat_map(BTreeMap::values).map(|held| s.told(held)).collect())
    }

    /// Those of one domain, by number.
    pub fn epochs_of(&self, domain: &DomainId) -> Result<Vec<EpochHeld>> {
        self.with(|s, _| {
            s.epochs.get(domain).into_iter().flat_map(BTreeMap::values).map(|held| s.told(held)).collect()
        })
    }

    /// Whether a share of the domain's current epoch has given so many of its answers that it is to be replaced.
    pub fn is_worn(&self, domain: &DomainId) -> Result<bool> {
        self.with(|s, _| s.is_worn(s.current(domain)?))
    }

    /// The current epoch of `domain` with the certificate that it was committed on and the dealings that it is made
    /// of, for one that knows an older. An epoch that an earlier release made current has no dealings here.
    pub fn commit_certificate(&self, domain: &DomainId) -> Result<Commit> {
        self.with(|s, _| {
            let configuration = &s.current(domain)?.configuration;
            let id = store::epoch_id(domain, configuration.body().epoch);
            let record: EpochRecord = store::stored(&must(&s.vault, store::EPOCH, &id)?)?;
            let mut dealings = Vec::new();
            for id in dealing_ids(configuration) {
                dealings.extend(s.vault.get(store::DEALING, &id)?.map(|dealing| dealing.to_vec()));
            }
            let receipts = record.certificate.into_iter().map(|r| r.0).collect();
            Ok((configuration.bytes().to_vec(), receipts, dealings))
        })
    }
}

/// The names of the records of an epoch's dealings.
fn dealing_ids(configuration: &Signed<Configuration>) -> Vec<Vec<u8>> {
    let c = configuration.body();
    (0..).take(c.dealings.len()).map(|position| store::dealing_id(&c.domain, c.epoch, position)).collect()
}

/// What an epoch leaves in the vault, by name, to be erased.
pub struct Gone {
    epoch: Vec<u8>,
    shares: Vec<Vec<u8>>,
    dealings: Vec<Vec<u8>>,
}

impl Gone {
    pub fn new(domain: &DomainId, epoch: Epoch, held: &HeldEpoch) -> Self {
        let shares = held.shares.keys().map(|x| store::share_id(domain, epoch, *x)).collect();
        Self { epoch: store::epoch_id(domain, epoch), shares, dealings: dealing_ids(&held.configuration) }
    }

    pub fn changes(&self) -> Vec<Change<'_>> {
        let mut changes = vec![
            Change::Delete { table: store::EPOCH, id: &self.epoch },
            Change::Delete { table: store::BARRED, id: &self.epoch },
        ];
        for id in &self.shares {
            changes.push(Change::Erase { table: store::SHARE, id });
            changes.push(Change::Delete { table: store::USAGE, id });
        }
        changes.extend(self.dealings.iter().map(|id| Change::Delete { table: store::DEALING, id }));
        changes
    }
}

impl State {
    fn told(&self, held: &HeldEpoch) -> Result<EpochHeld> {
        let indices = held.shares.keys().copied().collect();
        let (threshold, worn) = (held.plan.threshold, self.is_worn(held)?);
        Ok((held.configuration.clone(), held.state, indices, threshold, held.barred, worn))
    }

    fn is_worn(&self, held: &HeldEpoch) -> Result<bool> {
        let limits = &self.charter(&held.configuration.body().domain)?.limits;
        Ok(held.shares.values().any(|usage| usage.is_worn(limits)))
    }

    #[cfg(feature = "testing")]
    fn long_term_key(&self) -> Result<KemPrivate> {
        KemPrivate::from_seed(crate::memory::Secret::take_from(&mut self.kem.seed().expose().to_owned())?)
    }

    fn store_pending(
        &mut self,
        configuration: &Signed<Configuration>,
        plan: Plan,
        shares: Vec<Share>,
        now: Duration,
    ) -> Result<Vec<Vec<u8>>> {
        let (domain, epoch) = (configuration.body().domain.clone(), configuration.body().epoch);
        let limits = self.charter(&domain)?.limits.clone();
        let indices = shares.iter().map(Share::index).collect();
        let record = EpochRecord::new(EpochState::Pending, configuration, indices, &[]);
        let (id, record) = (store::epoch_id(&domain, epoch), encode(&record));
        let secrets: Vec<(Vec<u8>, Zeroizing<[u8; 64]>)> =
            shares.iter().map(|s| (store::share_id(&domain, epoch, s.index()), s.to_bytes())).collect();
        let mut changes = vec![Change::Put { table: store::EPOCH, id: &id, value: &record }];
        for (id, value) in &secrets {
            changes.push(Change::PutSecret { table: store::SHARE, id, value: &**value });
        }
        #[cfg(feature = "testing")]
        let gone: Vec<Gone> = self
            .epochs
            .get(&domain)
            .into_iter()
            .flatten()
            .filter(|_| super::inspect::mistaken("erase-at-prepare"))
            .map(|(e, h)| Gone::new(&domain, *e, h))
            .collect();
        #[cfg(feature = "testing")]
        changes.extend(gone.iter().flat_map(Gone::changes));
        #[cfg(feature = "testing")]
        if super::inspect::mistaken("receipt-unstored") {
            changes.clear();
        }
        self.commit(&changes)?;
        let mut held = HeldEpoch::open(configuration.clone(), EpochState::Pending, plan)?;
        for share in shares {
            held.shares.insert(share.index(), Usage::resume(Reserved::NONE, &limits, now));
        }
        self.epochs.entry(domain).or_default().insert(epoch, held);
        self.prepared_receipts(configuration)
    }

    /// This module has no further part in an attempt: its plan keys go, and, durably, what it had prepared.
    pub fn leave_attempt(&mut self, plan: Hash, domain: &DomainId, epoch: Epoch) -> Result<()> {
        if let Some(held) = self.known(domain, epoch)
            && held.state.is_committed()
        {
            return fail(Code::WrongEpoch, format!("epoch {epoch} is committed"));
        }
        self.plans.remove(&plan);
        let Some(held) = self.known(domain, epoch) else { return Ok(()) };
        let gone = Gone::new(domain, epoch, held);
        self.commit(&gone.changes())?;
        self.epochs.entry(domain.clone()).or_default().remove(&epoch);
        Ok(())
    }

    fn activate_pending(
        &mut self,
        configuration: &Signed<Configuration>,
        receipts: &[Vec<u8>],
        dealings: &[Vec<u8>],
    ) -> Result<()> {
        let plan: Signed<Plan> = self.verify_hub(&configuration.body().plan.0)?;
        self.dealt_epoch(plan.body())?;
        self.check_certificate(configuration, plan.body(), receipts)?;
        self.make_current(configuration, receipts, dealings)
    }

    /// Takes up a committed epoch in which this module has no share: it was away, or has no index.
    fn learn_epoch(
        &mut self,
        configuration: &Signed<Configuration>,
        receipts: &[Vec<u8>],
        dealings: &[Vec<u8>],
    ) -> Result<()> {
        let c = configuration.body();
        let plan: Signed<Plan> = self.verify_hub(&c.plan.0)?;
        let p = plan.body();
        if (&c.domain, c.epoch) != (&p.domain, p.to_epoch) {
            return fail(Code::WrongEpoch, "the configuration and its plan name different epochs");
        }
        self.refuse_dropped(&c.domain)?;
        if p.threshold < self.charter(&c.domain)?.threshold_floor {
            return fail(Code::OutsideCharter, "this epoch's threshold is below its charter's floor");
        }
        let signers = self.check_certificate(configuration, p, receipts)?;
        let mut known = self.epochs.get(&c.domain).into_iter().flat_map(BTreeMap::values);
        // One that holds shares believes no later epoch that their holders had no part in (attacks N35, N69): k of them
        // have prepared it, or k holders of the epoch before have dealt it. One without has nothing to lose but the
        // key's commitment, and may never have known the epoch that was dealt from.
        let held = |h: &&HeldEpoch| h.state.is_committed() && !h.shares.is_empty() && !h.barred;
        let is_vouched_for = |own: &HeldEpoch| {
            !matches!(p.purpose, Purpose::Create | Purpose::Rotate) && own.is_vouched_for_by(&signers)
        };
        if known.clone().rfind(held).is_some_and(|own| !is_vouched_for(own)) {
            let from = self.dealt_epoch(p)?;
            self.check_configuration(configuration, &plan, from, dealings)?;
        }
        if let Some(current) = known.find(|h| h.state == EpochState::Current) {
            if current.epoch() >= c.epoch {
                return fail(Code::WrongEpoch, format!("epoch {} is current here", current.epoch()));
            }
            if current.configuration.body().commitments.constant() != c.commitments.constant() {
                return fail(Code::BadCommitments, "this epoch would be one of another key");
            }
        } else if c.domain.key_version() > 1
            && self.serving(&c.domain.at_version(c.domain.key_version() - 1)?).is_ok()
        {
            // One that holds the version before has a seat in the first epoch of this one, and has dealt for it.
            if p.purpose != Purpose::Rotate {
                return fail(Code::OutsideCharter, "a later key version begins with a rotation");
            }
            rotation::check_rotation(p)?;
            let from = self.dealt_epoch(p)?;
            self.check_configuration(configuration, &plan, from, dealings)?;
        }
        let held = HeldEpoch::open(configuration.clone(), EpochState::Pending, p.clone())?;
        if self.burnt.get(&c.domain).is_none_or(|b| *b < c.epoch) {
            self.burn(&c.domain, c.epoch)?;
        }
        self.epochs.entry(c.domain.clone()).or_default().insert(c.epoch, held);
        self.make_current(configuration, receipts, dealings)
    }

    /// Makes a known epoch current, the one before it retired, and erases what other attempts left; in one commit. The
    /// dealings are kept, if they are those that the configuration names: who missed the epoch believes no other.
    fn make_current(
        &mut self,
        configuration: &Signed<Configuration>,
        receipts: &[Vec<u8>],
        dealings: &[Vec<u8>],
    ) -> Result<()> {
        let (domain, epoch) = (configuration.body().domain.clone(), configuration.body().epoch);
        let known = self.epochs.entry(domain.clone()).or_default();
        let indices = known.get(&epoch).map(|h| h.shares.keys().copied().collect()).unwrap_or_default();
        let record = encode(&EpochRecord::new(EpochState::Current, configuration, indices, receipts));
        let id = store::epoch_id(&domain, epoch);
        // Without a share in it, a replaced epoch is of no more use here.
        let stays = |h: &HeldEpoch| h.state.is_committed() && !h.shares.is_empty();
        #[cfg(feature = "testing")]
        let stays = |h: &HeldEpoch| stays(h) && !super::inspect::mistaken("erase-at-commit");
        let others = || known.iter().filter(|(e, _)| **e != epoch);
        let gone: Vec<Gone> =
            others().filter(|(_, h)| !stays(h)).map(|(e, h)| Gone::new(&domain, *e, h)).collect();
        let retired: Vec<(Vec<u8>, Vec<u8>)> = others()
            .filter(|(_, h)| stays(h) && h.state == EpochState::Current)
            .map(|(e, h)| {
                let indices = h.shares.keys().copied().collect();
                let record = EpochRecord::new(EpochState::Retired, &h.configuration, indices, &[]);
                (store::epoch_id(&domain, *e), encode(&record))
            })
            .collect();
        let replaced: Vec<Vec<u8>> = others()
            .filter(|(_, h)| h.state == EpochState::Current)
            .flat_map(|(_, h)| dealing_ids(&h.configuration))
            .collect();
        let ids = dealing_ids(configuration);
        let is_named = |(bytes, hash): (&Vec<u8>, &Hash)| hash_in(bytes).is_ok_and(|h| h == *hash);
        let are_named =
            dealings.len() == ids.len() && dealings.iter().zip(&configuration.body().dealings).all(is_named);
        let mut changes = vec![Change::Put { table: store::EPOCH, id: &id, value: &record }];
        changes.extend(replaced.iter().map(|id| Change::Delete { table: store::DEALING, id }));
        if are_named {
            let each = ids.iter().zip(dealings);
            changes.extend(each.map(|(id, value)| Change::Put { table: store::DEALING, id, value }));
        }
        changes.extend(retired.iter().map(|(id, value)| Change::Put { table: store::EPOCH, id, value }));
        changes.extend(gone.iter().flat_map(Gone::changes));
        #[cfg(feature = "testing")]
        if super::inspect::mistaken("current-in-memory") {
            changes.clear();
        }
        self.commit(&changes)?;
        let known = self.epochs.entry(domain.clone()).or_default();
        known.retain(|e, h| *e == epoch || stays(h));
        for (e, held) in known.iter_mut() {
            held.state = if *e == epoch { EpochState::Current } else { EpochState::Retired };
        }
        self.dealt.retain(|_, kept| kept.domain() != &domain || kept.to_epoch() > epoch);
        // Shares of two epochs never mix: what was asked for in the old one starts again.
        self.sessions.retain(|_, session| session.domain() != &domain);
        Ok(())
    }

    fn prepared_receipts(&self, configuration: &Signed<Configuration>) -> Result<Vec<Vec<u8>>> {
        let (c, hash) = (configuration.body(), configuration.hash());
        self.receipts(configuration, |index| {
            let (fleet, domain, epoch) = (c.fleet, c.domain.clone(), c.epoch);
            Prepared { fleet, domain, epoch, configuration: hash, index }
        })
    }

    fn activated_receipts(&self, configuration: &Signed<Configuration>) -> Result<Vec<Vec<u8>>> {
        let (c, hash) = (configuration.body(), configuration.hash());
        self.receipts(configuration, |index| {
            let (fleet, domain, epoch) = (c.fleet, c.domain.clone(), c.epoch);
            Activated { fleet, domain, epoch, configuration: hash, index }
        })
    }

    /// One signed receipt for each index held here.
    fn receipts<T: Statement>(
        &self,
        configuration: &Signed<Configuration>,
        receipt: impl Fn(ShareIndex) -> T,
    ) -> Result<Vec<Vec<u8>>> {
        let held = self.held_indices(configuration)?;
        held.into_iter().map(|index| Ok(self.sign(receipt(index))?.bytes().to_vec())).collect()
    }

    fn held_indices(&self, configuration: &Signed<Configuration>) -> Result<Vec<ShareIndex>> {
        match self.known(&configuration.body().domain, configuration.body().epoch) {
            Some(held) if held.barred => Ok(Vec::new()),
            Some(held) => Ok(held.shares.keys().copied().collect()),
            None => fail(Code::BadState, "this epoch is not known here"),
        }
    }

    /// At least k + z receipts by distinct indices of this very configuration, each by its seat's node; who signed.
    fn check_certificate(
        &self,
        configuration: &Signed<Configuration>,
        plan: &Plan,
        receipts: &[Vec<u8>],
    ) -> Result<BTreeSet<NodeId>> {
        let (mut indices, mut signers) = (BTreeSet::new(), BTreeSet::new());
        for bytes in receipts {
            let receipt = self.verify_past::<Prepared>(bytes)?;
            let r = receipt.body();
            let seat = plan.committee.iter().find(|s| s.index == r.index);
            let fits = r.configuration == configuration.hash();
            #[cfg(feature = "testing")]
            let fits = fits || super::inspect::mistaken("any-receipts");
            if !fits || seat.is_none_or(|s| &s.node != receipt.signer()) {
                return fail(Code::WrongEpoch, "a receipt of the certificate is not for this configuration");
            }
            indices.insert(r.index);
            signers.insert(receipt.signer().clone());
        }
        let need = usize::from(plan.threshold) + usize::from(plan.margin);
        #[cfg(feature = "testing")]
        let need = if super::inspect::mistaken("few-receipts") { 1 } else { need };
        if indices.len() < need {
            return fail(
                Code::NotEnoughShares,
                format!("the certificate holds {} of {need} receipts", indices.len()),
            );
        }
        Ok(signers)
    }

    /// The epoch that an erase certificate proves to be held by enough indices, and its configuration's hash.
    fn check_erase_certificate(&self, receipts: &[Vec<u8>]) -> Result<(DomainId, Epoch, Hash)> {
        let mut indices = BTreeSet::new();
        let mut of = None;
        for bytes in receipts {
            let receipt = self.verify_past::<Activated>(bytes)?;
            let r = receipt.body();
            let held = self.known(&r.domain, r.epoch).filter(|h| h.state.is_committed());
            let Some(held) = held.filter(|h| h.configuration.hash() == r.configuration) else {
                return fail(Code::WrongEpoch, format!("epoch {} is not committed here", r.epoch));
            };
            if held.node_of(r.index) != Some(receipt.signer()) {
                let what = format!("{} does not hold index {}", receipt.signer(), r.index.get());
                return fail(Code::NotAMember, what);
            }
            let this = (r.domain.clone(), r.epoch, r.configuration);
            if of.get_or_insert_with(|| this.clone()) != &this {
                return fail(Code::WrongEpoch, "an erase certificate is for one epoch");
            }
            indices.insert(r.index);
        }
        let Some((domain, epoch, configuration)) = of else {
            return fail(Code::NotEnoughShares, "an erase certificate without a receipt");
        };
        let is_here = |h: &&HeldEpoch| !h.barred && own_seats(&h.plan, &self.name).len() == h.shares.len();
        let held = self.known(&domain, epoch).filter(is_here);
        let Some(held) = held else {
            return fail(Code::BadState, format!("this module's own share of epoch {epoch} is not here yet"));
        };
        let need = erase_quorum(&held.plan);
        #[cfg(feature = "testing")]
        let need = if super::inspect::mistaken("erase-early") { 1 } else { need };
        #[cfg(feature = "testing")]
        let need = if super::inspect::mistaken("erase-short") { need - 1 } else { need };
        if indices.len() < need {
            let what = format!("the erase certificate holds {} of {need} receipts", indices.len());
            return fail(Code::NotEnoughShares, what);
        }
        Ok((domain, epoch, configuration))
    }
}

/// How many indices must hold a new epoch before an old one is erased: with k − 1 liars among 2k − 1, k do hold it.
fn erase_quorum(plan: &Plan) -> usize {
    plan.committee.len().min(2 * usize::from(plan.threshold) - 1)
}
