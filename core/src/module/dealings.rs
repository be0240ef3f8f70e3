//! Dealings: what a dealer makes of a fresh secret or of an old share, and what a recipient makes of all dealings
//! of a plan (docs/protocols/epoch-change.md, "2. Deal" and "3. Prepare").
//!
//! Not here: who may deal for what (`plans`), what becomes durable when (`epochs`).

use std::time::Duration;

use zeroize::Zeroizing;

use super::disputes::KeptDealing;
use super::messages::{Configuration, Dealer, Dealing, Fault, Plan, PlanKey, Seat};
use super::state::{HeldEpoch, OpenPlan, State, array, must};
use super::store;
use crate::encoding::{Bytes, digest, encode};
use crate::error::{Code, Error, Result, fail};
use crate::ids::{Hash, NodeId, ShareIndex};
use crate::memory::Secret;
use crate::seal::hpke::{self, Info, KemPrivate, SUITE};
use crate::seal::statement::Signed;
use crate::sharing::{self, Constant, Share, Threshold, Weight};

/// One sealed sub-share for this module: its index, the dealer's place in the plan, the sealed bytes.
pub struct SubShare {
    pub index: ShareIndex,
    pub dealer: usize,
    pub sealed: Vec<u8>,
}

/// A signed dealing, and the sealed sub-shares in the order of the plan's seats; empty for a seat without a key.
pub type Made = (Vec<u8>, Vec<Vec<u8>>);

pub fn sub_share_info(plan: &Signed<Plan>, dealer: &NodeId, seat: &Seat) -> Info {
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

pub fn sealed_hash(sealed: &[u8]) -> Hash {
    Hash(digest("quorate/v1/epoch/sealed-sub-share", sealed))
}

/// What each dealing of a plan counts for: one where fresh secrets are dealt, else Lagrange's coefficient of the dealt
/// index.
pub fn weights(plan: &Plan) -> Result<Vec<Weight>> {
    let indices: Option<Vec<ShareIndex>> = plan.dealers.iter().map(|d| d.index).collect();
    indices.map_or_else(|| Ok(vec![Weight::ONE; plan.dealers.len()]), |xs| sharing::lagrange_at_zero(&xs))
}

impl State {
    /// Deals once, as `dealer`: a polynomial that exists in this call only. Of an old share's dealing stays, for a
    /// while, what it takes to answer a complaint; of a first one nothing, for that would be the key.
    pub fn deal_as(
        &mut self,
        plan: &Signed<Plan>,
        dealer: &Dealer,
        keys: &[Option<Signed<PlanKey>>],
        now: Duration,
    ) -> Result<Made> {
        let p = plan.body();
        let indices: Vec<ShareIndex> = p.committee.iter().map(|seat| seat.index).collect();
        let held = match dealer.index {
            None => None,
            Some(x) => {
                let id = store::share_id(&p.domain, p.from_epoch, x);
                Some(Share::from_bytes(x, &*array(&must(&self.vault, store::SHARE, &id)?)?)?)
            }
        };
        let constant = held.as_ref().map_or(Constant::Fresh, Constant::Held);
        let threshold = Threshold::new(u64::from(p.threshold))?;
        let dealt = sharing::deal(threshold, &indices, constant, &mut *self.rng)?;
        let (mut sealed, mut kept) = (Vec::new(), KeptDealing::new(plan, now));
        for ((seat, key), share) in p.committee.iter().zip(keys).zip(&dealt.shares) {
            let Some(key) = key else {
                sealed.push(Vec::new());
                continue;
            };
            let info = encode(&sub_share_info(plan, &self.name, seat));
            let (mut pair, seed) = (share.to_bytes(), Secret::random(&mut *self.rng)?);
            sealed.push(hpke::seal_from(&key.body().kem, &info, &[], &*pair, seed.expose())?);
            if dealer.index.is_some() {
                kept.keep(key, Secret::take_from(&mut pair)?, seed);
            }
        }
        let dealing = Dealing {
            fleet: p.fleet,
            domain: p.domain.clone(),
            to_epoch: p.to_epoch,
            plan: plan.hash(),
            index: dealer.index,
            commitments: dealt.commitments,
            sealed: sealed.iter().map(|s| sealed_hash(s)).collect(),
        };
        let dealing = self.sign(dealing)?;
        if dealer.index.is_some() {
            self.dealt.insert(dealing.hash(), kept);
        }
        Ok((dealing.bytes().to_vec(), sealed))
    }

    /// The new shares of this module; every dealing has been checked, and is a part of each. An error because of a
    /// sub-share carries a signed complaint for each that is wrong.
    pub fn assemble(
        &self,
        configuration: &Signed<Configuration>,
        plan: &Signed<Plan>,
        from: Option<&HeldEpoch>,
        dealings: &[Vec<u8>],
        open: &OpenPlan,
        subs: &[SubShare],
    ) -> Result<Vec<Share>> {
        let (c, p) = (configuration.body(), plan.body());
        if (&c.domain, c.epoch) != (&p.domain, p.to_epoch) {
            return fail(Code::WrongEpoch, "the configuration and its plan name different epochs");
        }
        let dealings = self.check_configuration(configuration, plan, from, dealings)?;
        let weights = weights(p)?;
        let (mut shares, mut complaints, mut wrong) = (Vec::new(), Vec::new(), None);
        for (at, seat) in p.committee.iter().enumerate().filter(|(_, seat)| seat.node == self.name) {
            let key = open
                .kem
                .get(&seat.index)
                .ok_or_else(|| Error::new(Code::BadState, "the plan's key for this index is gone"))?;
            let mut own = Vec::new();
            for (position, dealing) in dealings.iter().enumerate() {
                match open_sub_share(plan, seat, at, position, dealing, key, subs) {
                    Ok(part) => own.push(part),
                    Err(e) if e.culprits.is_empty() => return Err(e),
                    Err(e) => {
                        let fault =
                            if e.code == Code::NotOpened { Fault::NotOpened } else { Fault::BadShare };
                        complaints.push(self.complain(configuration, plan, dealing, seat.index, fault)?);
                        wrong.get_or_insert(e);
                    }
                }
            }
            if wrong.is_some() {
                continue; // the next index may have more to complain of
            }
            let parts: Vec<_> = weights.iter().copied().zip(&own).collect();
            let share = sharing::assemble(seat.index, &parts)?;
            #[cfg(feature = "testing")]
            if super::inspect::mistaken("any-sub-share") {
                shares.push(share);
                continue;
            }
            sharing::verify_share(&c.commitments, &share)?;
            shares.push(share);
        }
        match wrong {
            None => Ok(shares),
            Some(e) => Err(Error { complaints, ..e }),
        }
    }

    /// The dealings that a configuration names, each checked, and their sum: what the epoch is made of.
    pub fn check_configuration(
        &self,
        configuration: &Signed<Configuration>,
        plan: &Signed<Plan>,
        from: Option<&HeldEpoch>,
        dealings: &[Vec<u8>],
    ) -> Result<Vec<Signed<Dealing>>> {
        let c = configuration.body();
        let dealings = self.check_dealings(plan, from, &c.dealings, dealings)?;
        if sum(plan.body(), &dealings)? != c.commitments {
            return fail(
                Code::BadCommitments,
                "the configuration's commitments are not the sum of its dealings'",
            );
        }
        #[cfg(feature = "testing")]
        let from = from.filter(|_| !super::inspect::mistaken("any-constant"));
        if from.is_some_and(|f| f.configuration.body().commitments.constant() != c.commitments.constant()) {
            return fail(Code::BadCommitments, "this epoch would be one of another key");
        }
        Ok(dealings)
    }

    /// The exact dealings that the configuration names, in the plan's order of dealers. `from`: the epoch whose
    /// shares they deal, where this module knows it.
    pub fn check_dealings(
        &self,
        plan: &Signed<Plan>,
        from: Option<&HeldEpoch>,
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
            let dealing = self.verify_past::<Dealing>(bytes)?;
            let d = dealing.body();
            let blame = |e: Error| e.blaming(dealer.node.clone());
            if dealing.signer() != &dealer.node || dealing.hash() != *hash || d.plan != plan.hash() {
                return fail(Code::BadCommitments, "a dealing is not the one that the configuration names");
            }
            d.commitments.require_threshold(threshold).map_err(blame)?;
            if d.sealed.len() != p.committee.len() || d.to_epoch != p.to_epoch || d.index != dealer.index {
                return Err(blame(Error::new(Code::BadCommitments, "a dealing does not fit its plan")));
            }
            // Who deals an old share deals that share: its commitment is known to all (attack N39).
            let owed = from.zip(dealer.index).map(|(f, x)| f.points.get(&x));
            #[cfg(feature = "testing")]
            let owed = owed.filter(|_| !super::inspect::mistaken("any-constant"));
            if owed.is_some_and(|point| point != Some(d.commitments.constant())) {
                let what = "a dealer dealt something else than its share";
                return Err(blame(Error::new(Code::BadCommitments, what)));
            }
            out.push(dealing);
        }
        Ok(out)
    }
}

/// Each dealer has sent the sub-shares that its dealing names.
pub fn check_sealed(dealings: &[Signed<Dealing>], sealed: &[Vec<Vec<u8>>]) -> Result<()> {
    if sealed.len() != dealings.len() {
        return fail(Code::NotEnoughShares, "not each dealing has come with its sub-shares");
    }
    for (dealing, parts) in dealings.iter().zip(sealed) {
        let named = &dealing.body().sealed;
        if parts.len() != named.len()
            || parts.iter().zip(named).any(|(part, hash)| sealed_hash(part) != *hash)
        {
            let what = "a dealer sent other sub-shares than its dealing names";
            return Err(Error::new(Code::BadShare, what).blaming(dealing.signer().clone()));
        }
    }
    Ok(())
}

/// The commitments that a plan's dealings come to.
pub fn sum(plan: &Plan, dealings: &[Signed<Dealing>]) -> Result<sharing::Commitments> {
    let parts: Vec<_> =
        weights(plan)?.into_iter().zip(dealings.iter().map(|d| &d.body().commitments)).collect();
    sharing::assemble_commitments(&parts)
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
    #[cfg(feature = "testing")]
    if super::inspect::mistaken("any-sub-share") {
        return Ok(share);
    }
    sharing::verify_share(&dealing.body().commitments, &share).map_err(blame)?;
    Ok(share)
}
