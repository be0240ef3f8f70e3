//! Epochs at a member: accepting a plan, dealing, preparing a shard durably, activating on a certificate.
//!
//! This version makes first epochs only (`create`, dealt by the hub); every other purpose is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use zeroize::Zeroizing;

use super::Module;
use super::messages::{Activated, Configuration, Dealing, Plan, PlanKey, Prepared, Seat};
use super::state::{HeldEpoch, OpenPlan, State, carried};
use super::store::{self, EpochRecord};
use super::usage::{Reserved, Usage};
use crate::encoding::{Bytes, digest, encode};
use crate::error::{Code, Error, Result, fail};
use crate::ids::{Hash, NodeId, ShareIndex};
use crate::seal::hpke::{self, Info, KemPrivate, SUITE};
use crate::seal::statement::Signed;
use crate::sharing::{self, Constant, Share, Threshold, Weight};
use crate::vault::Change;

/// An epoch at its member: configuration, whether it is current, the member's indices, the threshold.
pub type EpochHeld = (Signed<Configuration>, bool, Vec<ShareIndex>, u8);

/// One sealed sub-share for this module: its index, the dealer's place in the plan, the sealed bytes.
pub struct SubShare {
    pub index: ShareIndex,
    pub dealer: usize,
    pub sealed: Vec<u8>,
}

fn sub_share_info(plan: &Signed<Plan>, dealer: &NodeId, seat: &Seat) -> Info {
    let p = plan.body();
    Info {
        suite: SUITE.to_owned(),
        kind: "dealing".to_owned(),
        fleet: p.fleet,
        sender: dealer.clone(),
        recipient: seat.node.clone(),
        domain: Some(p.domain.clone()),
        epoch: p.to_epoch,
        index: Some(seat.index),
        context: Bytes(plan.hash().0.to_vec()),
    }
}

fn sealed_hash(sealed: &[u8]) -> Hash {
    Hash(digest("quorate/v1/epoch/sealed-sub-share", sealed))
}

fn own_seats(plan: &Plan, me: &NodeId) -> Vec<Seat> {
    plan.committee.iter().filter(|s| &s.node == me).cloned().collect()
}

impl Module {
    /// Checks a plan against its charter, burns its number durably, and makes KEM keys for it alone.
    pub fn accept_plan(&self, plan: &[u8], charter: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.with(|s, _| {
            s.learn_charter(charter)?;
            let plan = s.verify_hub::<Plan>(plan)?;
            s.check_plan(plan.body())?;
            let seats = own_seats(plan.body(), &s.name);
            if seats.is_empty() {
                return fail(Code::NotAMember, "this plan gives this module no index");
            }
            s.burn(&plan.body().domain, plan.body().to_epoch)?;
            let mut kem = BTreeMap::new();
            let mut answers = Vec::new();
            for seat in seats {
                let key = KemPrivate::generate(&mut *s.rng)?;
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
            s.plans.insert(plan.hash(), OpenPlan { plan, kem });
            Ok(answers)
        })
    }

    /// Deals for `plan`: a polynomial that exists in this call only. A number is dealt for once, ever.
    pub fn deal(&self, plan: &[u8], plan_keys: &[Vec<u8>]) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
        self.with(|s, _| {
            let plan = s.verify_hub::<Plan>(plan)?;
            let p = plan.body();
            s.check_plan(p)?;
            if !p.dealers.iter().any(|d| d.node == s.name) {
                return fail(Code::NotAuthorized, "this module is no dealer of the plan");
            }
            let keys = s.check_plan_keys(&plan, plan_keys)?;
            s.burn_dealing(&p.domain, p.to_epoch)?;
            let indices: Vec<ShareIndex> = p.committee.iter().map(|seat| seat.index).collect();
            let dealt = sharing::deal(
                Threshold::new(u64::from(p.threshold))?,
                &indices,
                Constant::Fresh,
                &mut *s.rng,
            )?;
            let mut sealed = Vec::new();
            for ((seat, key), share) in p.committee.iter().zip(&keys).zip(&dealt.shares) {
                let info = encode(&sub_share_info(&plan, &s.name, seat));
                sealed.push(hpke::seal(&key.body().kem, &info, &[], &*share.to_bytes(), &mut *s.rng)?);
            }
            let dealing = Dealing {
                fleet: p.fleet,
                domain: p.domain.clone(),
                to_epoch: p.to_epoch,
                plan: plan.hash(),
                index: None,
                commitments: dealt.commitments,
                sealed: sealed.iter().map(|s| sealed_hash(s)).collect(),
            };
            Ok((s.sign(dealing)?.bytes().to_vec(), sealed))
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
            if let Some(held) = s.epochs.get(&c.domain).and_then(|e| e.get(&c.epoch)) {
                // Asked again: the shard lies here already, under this very configuration or none.
                if held.configuration.hash() == configuration.hash() {
                    return s.prepared_receipts(&configuration);
                }
                return fail(Code::WrongEpoch, format!("epoch {} has another configuration here", c.epoch));
            }
            s.refuse_second_creation(&c.domain, c.epoch)?;
            let plan = s.verify_hub::<Plan>(&c.plan.0)?;
            let Some(open) = s.plans.remove(&plan.hash()) else {
                return fail(Code::BadState, "this module has no open plan of this hash; its keys are gone");
            };
            // The plan's keys go with `open`, whatever happens next.
            let shares = s.assemble(&configuration, &plan, dealings, &open, subs)?;
            s.store_pending(&configuration, plan.into_body(), shares, now)
        })
    }

    /// Checks the commit certificate and makes the pending epoch current.
    pub fn activate(&self, configuration: &[u8], receipts: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        self.with(|s, _| {
            let configuration = s.verify_hub::<Configuration>(configuration)?;
            let (domain, epoch) = (configuration.body().domain.clone(), configuration.body().epoch);
            let hash = configuration.hash();
            s.refuse_second_creation(&domain, epoch)?;
            let held = s.epochs.get(&domain).and_then(|e| e.get(&epoch));
            let Some(held) = held.filter(|h| h.configuration.hash() == hash) else {
                return fail(Code::WrongEpoch, format!("epoch {epoch} of {domain} is not prepared here"));
            };
            let (plan, current) = (held.plan.clone(), held.current);
            s.check_certificate(&configuration, &plan, receipts)?;
            if !current {
                s.make_current(&configuration)?;
            }
            let mut out = Vec::new();
            for seat in own_seats(&plan, &s.name) {
                let fleet = s.fleet()?;
                let (domain, index) = (domain.clone(), seat.index);
                let body = Activated { fleet, domain, epoch, configuration: hash, index };
                out.push(s.sign(body)?.bytes().to_vec());
            }
            Ok(out)
        })
    }

    /// Erases a plan's KEM keys.
    pub fn abort_plan(&self, plan: Hash) -> Result<()> {
        self.with(|s, _| {
            s.plans.remove(&plan);
            Ok(())
        })
    }

    /// Every epoch that this module holds indices of: its configuration, and whether it is current.
    pub fn epochs(&self) -> Result<Vec<EpochHeld>> {
        self.with(|s, _| {
            let held = s.epochs.values().flat_map(BTreeMap::values);
            Ok(held
                .map(|e| {
                    (e.configuration.clone(), e.current, e.shares.keys().copied().collect(), e.plan.threshold)
                })
                .collect())
        })
    }
}

impl State {
    fn assemble(
        &self,
        configuration: &Signed<Configuration>,
        plan: &Signed<Plan>,
        dealings: &[Vec<u8>],
        open: &OpenPlan,
        subs: &[SubShare],
    ) -> Result<Vec<Share>> {
        let (c, p) = (configuration.body(), plan.body());
        if (&c.domain, c.epoch) != (&p.domain, p.to_epoch) {
            return fail(Code::WrongEpoch, "the configuration and its plan name different epochs");
        }
        let dealings = self.check_dealings(plan, &c.dealings, dealings)?;
        let parts: Vec<_> = dealings.iter().map(|d| (Weight::ONE, &d.body().commitments)).collect();
        if sharing::assemble_commitments(&parts)? != c.commitments {
            return fail(
                Code::BadCommitments,
                "the configuration's commitments are not the sum of its dealings'",
            );
        }
        let mut shares = Vec::new();
        for (at, seat) in p.committee.iter().enumerate().filter(|(_, seat)| seat.node == self.name) {
            let key = open
                .kem
                .get(&seat.index)
                .ok_or_else(|| Error::new(Code::BadState, "the plan's key for this index is gone"))?;
            let mut own = Vec::new();
            for (position, dealing) in dealings.iter().enumerate() {
                own.push(open_sub_share(plan, seat, at, position, dealing, key, subs)?);
            }
            let parts: Vec<_> = own.iter().map(|share| (Weight::ONE, share)).collect();
            let share = sharing::assemble(seat.index, &parts)?;
            sharing::verify_share(&c.commitments, &share)?;
            shares.push(share);
        }
        Ok(shares)
    }

    /// The exact dealings that the configuration names, in the plan's order of dealers.
    pub fn check_dealings(
        &self,
        plan: &Signed<Plan>,
        hashes: &[Hash],
        dealings: &[Vec<u8>],
    ) -> Result<Vec<Signed<Dealing>>> {
        let p = plan.body();
        let threshold = Threshold::new(u64::from(p.threshold))?;
        if dealings.len() != p.dealers.len() || hashes.len() != p.dealers.len() {
            return fail(Code::BadCommitments, "the configuration does not hold one dealing of each dealer");
        }
        let mut out = Vec::new();
        for ((dealer, hash), bytes) in p.dealers.iter().zip(hashes).zip(dealings) {
            let dealing = self.verify::<Dealing>(bytes)?;
            let d = dealing.body();
            let blame = |e: Error| e.blaming(dealer.node.clone());
            if dealing.signer() != &dealer.node || dealing.hash() != *hash || d.plan != plan.hash() {
                return fail(Code::BadCommitments, "a dealing is not the one that the configuration names");
            }
            d.commitments.require_threshold(threshold).map_err(blame)?;
            if d.sealed.len() != p.committee.len() || d.to_epoch != p.to_epoch || d.index != dealer.index {
                return Err(blame(Error::new(Code::BadCommitments, "a dealing does not fit its plan")));
            }
            out.push(dealing);
        }
        Ok(out)
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
        let record = encode(&EpochRecord { current: false, configuration: carried(configuration) });
        let id = store::epoch_id(&domain, epoch);
        let secrets: Vec<(Vec<u8>, Zeroizing<[u8; 64]>)> =
            shares.iter().map(|s| (store::share_id(&domain, epoch, s.index()), s.to_bytes())).collect();
        let mut changes = vec![Change::Put { table: store::EPOCH, id: &id, value: &record }];
        for (id, value) in &secrets {
            changes.push(Change::PutSecret { table: store::SHARE, id, value: &**value });
        }
        self.commit(&changes)?;
        let mut held = HeldEpoch::open(configuration.clone(), false, plan)?;
        for share in shares {
            held.shares.insert(share.index(), Usage::resume(Reserved::NONE, &limits, now));
        }
        self.epochs.entry(domain).or_default().insert(epoch, held);
        self.prepared_receipts(configuration)
    }

    /// Makes a prepared epoch current, and erases what other attempts left, in one commit.
    fn make_current(&mut self, configuration: &Signed<Configuration>) -> Result<()> {
        let (domain, epoch) = (&configuration.body().domain, configuration.body().epoch);
        let record = encode(&EpochRecord { current: true, configuration: carried(configuration) });
        let id = store::epoch_id(domain, epoch);
        let held = self.epochs.entry(domain.clone()).or_default();
        let others = || held.iter().filter(|(_, h)| !h.current && h.epoch() != epoch);
        let epochs: Vec<Vec<u8>> = others().map(|(e, _)| store::epoch_id(domain, *e)).collect();
        let shares: Vec<Vec<u8>> =
            others().flat_map(|(e, h)| h.shares.keys().map(|x| store::share_id(domain, *e, *x))).collect();
        let mut changes = vec![Change::Put { table: store::EPOCH, id: &id, value: &record }];
        changes.extend(epochs.iter().map(|id| Change::Delete { table: store::EPOCH, id }));
        changes.extend(shares.iter().map(|id| Change::Erase { table: store::SHARE, id }));
        self.commit(&changes)?;
        let held = self.epochs.entry(domain.clone()).or_default();
        held.retain(|_, h| h.current || h.epoch() == epoch);
        if let Some(now_current) = held.get_mut(&epoch) {
            now_current.current = true;
        }
        Ok(())
    }

    fn prepared_receipts(&self, configuration: &Signed<Configuration>) -> Result<Vec<Vec<u8>>> {
        let c = configuration.body();
        let Some(held) = self.epochs.get(&c.domain).and_then(|e| e.get(&c.epoch)) else {
            return fail(Code::BadState, "nothing is prepared");
        };
        held.shares
            .keys()
            .map(|&index| {
                let (fleet, domain) = (c.fleet, c.domain.clone());
                let body =
                    Prepared { fleet, domain, epoch: c.epoch, configuration: configuration.hash(), index };
                Ok(self.sign(body)?.bytes().to_vec())
            })
            .collect()
    }

    /// At least k + z receipts by distinct indices of this very configuration, each by its seat's node.
    fn check_certificate(
        &self,
        configuration: &Signed<Configuration>,
        plan: &Plan,
        receipts: &[Vec<u8>],
    ) -> Result<()> {
        let mut indices = BTreeSet::new();
        for bytes in receipts {
            let receipt = self.verify::<Prepared>(bytes)?;
            let r = receipt.body();
            let seat = plan.committee.iter().find(|s| s.index == r.index);
            if r.configuration != configuration.hash() || seat.is_none_or(|s| &s.node != receipt.signer()) {
                return fail(Code::WrongEpoch, "a receipt of the certificate is not for this configuration");
            }
            indices.insert(r.index);
        }
        let need = usize::from(plan.threshold) + usize::from(plan.margin);
        if indices.len() < need {
            return fail(
                Code::NotEnoughShares,
                format!("the certificate holds {} of {need} receipts", indices.len()),
            );
        }
        Ok(())
    }
}

fn open_sub_share(
    plan: &Signed<Plan>,
    seat: &Seat,
    at: usize,
    position: usize,
    dealing: &Signed<Dealing>,
    key: &KemPrivate,
    subs: &[SubShare],
) -> Result<Share> {
    let dealer = dealing.signer();
    let blame = |e: Error| e.blaming(dealer.clone());
    let Some(sub) = subs.iter().find(|s| s.index == seat.index && s.dealer == position) else {
        return fail(
            Code::NotEnoughShares,
            format!("no sub-share of {dealer} for index {}", seat.index.get()),
        );
    };
    if dealing.body().sealed[at] != sealed_hash(&sub.sealed) {
        return fail(Code::BadShare, "a sealed sub-share is not the one that its dealing names");
    }
    let info = encode(&sub_share_info(plan, dealer, seat));
    let opened = hpke::open(key, &info, &[], &sub.sealed).map_err(blame)?;
    let bytes: Zeroizing<[u8; 64]> = match <[u8; 64]>::try_from(opened.as_slice()) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(_) => return Err(blame(Error::new(Code::BadShare, "a sub-share has a wrong length"))),
    };
    let share = Share::from_bytes(seat.index, &bytes).map_err(blame)?;
    sharing::verify_share(&dealing.body().commitments, &share).map_err(blame)?;
    Ok(share)
}
