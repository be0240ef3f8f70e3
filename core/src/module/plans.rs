//! What a module refuses in a plan, and the numbers that attempts burn (docs/protocols/epoch-change.md).
//!
//! Not here: what follows an accepted plan (`epochs`).

use std::collections::{BTreeMap, BTreeSet};

use super::epochs::own_seats;
use super::messages::{Charter, Dealer, DealerKind, Mode, Plan, PlanKey, Purpose, Role};
use super::rotation;
use super::state::{HeldEpoch, State, unknown_domain};
use super::store::{self, EpochState};
use crate::encoding::encode;
use crate::error::{Code, Result, fail};
use crate::ids::{DomainId, Epoch, ShareIndex};
use crate::seal::statement::Signed;
use crate::sharing::Shape;
use crate::vault::Change;

/// The furthest that one plan may move a domain's numbers: one plan of a stolen hub cannot burn them all, and
/// so leave a domain that nobody can create.
const MAX_NUMBER_STEP: u64 = 1 << 32;

impl State {
    /// What a module refuses in a plan, whoever signed it (docs/protocols/epoch-change.md, "1. Plan").
    pub fn check_plan(&self, p: &Plan) -> Result<()> {
        let base = p.domain.base();
        let Some(charter) = self.charters.get(&base) else { return Err(unknown_domain(&base)) };
        let c = charter.body();
        self.refuse_dropped(&p.domain)?;
        let outside = |what: &str| {
            fail(Code::OutsideCharter, format!("the charter of {} does not allow {what}", p.domain))
        };
        if charter.hash() != p.charter {
            return outside("a plan under another version of it");
        }
        if p.mode != c.mode {
            return outside("this mode");
        }
        if p.mode != Mode::Reconstruct || c.dealer != DealerKind::Hub {
            return fail(
                Code::BadState,
                "this version makes domains of mode reconstruct, dealt by the hub, only",
            );
        }
        if p.threshold < c.threshold_floor {
            return outside("so low a threshold");
        }
        let n = p.committee.len();
        let shape = Shape::new(u64::from(p.threshold), n as u64)?;
        if p.margin != shape.margin() {
            return fail(
                Code::BadThreshold,
                format!("the commit margin of this shape is {}", shape.margin()),
            );
        }
        match p.purpose {
            Purpose::Create => self.check_creation(p)?,
            Purpose::Rotate => rotation::check_rotation(p)?,
            Purpose::Refresh | Purpose::Reshare | Purpose::Repair => check_redealing(p)?,
            Purpose::Restore => return fail(Code::BadState, "this version restores no epoch from backups"),
        }
        let (mut indices, mut held) = (BTreeSet::new(), BTreeMap::new());
        for seat in &p.committee {
            let held: &mut u8 = held.entry(&seat.node).or_default();
            *held = held.saturating_add(1);
            if *held >= p.threshold {
                return outside("a quorum of indices at one member: it would hold the key alone");
            }
            if !indices.insert(seat.index) {
                return fail(
                    Code::BadIndex,
                    format!("index {} stands twice in the committee", seat.index.get()),
                );
            }
            let entry = self.roster()?.active(&seat.node)?;
            let allowed = c.allowed.iter().any(|a| a.node == seat.node && a.role == seat.role);
            if !allowed || entry.role != seat.role || seat.role != Role::Holder {
                return outside("this member in this role");
            }
            if c.root_rule != "any" && entry.root != c.root_rule {
                return outside("this member's root");
            }
        }
        Ok(())
    }

    /// The only dealer of a first epoch is the hub. A domain is created once: a second creation would put another key
    /// in the place of the first.
    fn check_creation(&self, p: &Plan) -> Result<()> {
        let [dealer] = p.dealers.as_slice() else {
            return fail(Code::OutsideCharter, format!("the charter of {} wants one dealer", p.domain));
        };
        if &dealer.node != self.roster()?.hub() || dealer.index.is_some() || p.from_epoch != Epoch(0) {
            return fail(Code::OutsideCharter, format!("the charter of {} wants the hub to deal", p.domain));
        }
        if !p.domain.is_base() {
            return fail(Code::OutsideCharter, "a later key version of a domain is dealt by its members");
        }
        Ok(())
    }

    /// The epoch whose shares a plan deals, as this module knows it; none at a creation or a rotation, where none may
    /// be known.
    ///
    /// # Errors
    /// `already_exists`, `wrong_epoch`, `outside_charter`; at a rotation `bad_state`.
    pub fn dealt_epoch(&self, p: &Plan) -> Result<Option<&HeldEpoch>> {
        let mut committed =
            self.epochs.get(&p.domain).into_iter().flatten().filter(|(_, h)| h.state.is_committed());
        if matches!(p.purpose, Purpose::Create | Purpose::Rotate) {
            if committed.next().is_some() {
                let what = format!("{} has a committed epoch; it cannot be created again", p.domain);
                return fail(Code::AlreadyExists, what);
            }
            if p.purpose == Purpose::Rotate {
                self.check_succession(p)?;
            }
            return Ok(None);
        }
        let Some((_, from)) = committed.find(|(e, _)| **e == p.from_epoch) else {
            let what = format!("epoch {} of {} is not committed here", p.from_epoch, p.domain);
            return fail(Code::WrongEpoch, what);
        };
        let current = self.current(&p.domain)?;
        if current.epoch() >= p.to_epoch {
            return fail(Code::WrongEpoch, format!("epoch {} is current here", current.epoch()));
        }
        if from.state != EpochState::Current && p.purpose == Purpose::Refresh {
            let what = format!("epoch {} is retired; a refresh deals current shares", p.from_epoch);
            return fail(Code::WrongEpoch, what);
        }
        // A dealer's index is one of the old committee's, and exactly k of them deal (attacks N42, N94).
        if p.dealers.len() != usize::from(from.plan.threshold) {
            let what = format!("exactly {} indices deal the next epoch", from.plan.threshold);
            return fail(Code::BadThreshold, what);
        }
        if p.dealers.iter().any(|d| d.index.and_then(|x| from.node_of(x)) != Some(&d.node)) {
            return fail(Code::NotAMember, "a dealer does not hold the index that it is to deal");
        }
        let same = p.threshold == from.plan.threshold && p.committee == from.plan.committee;
        if p.purpose != Purpose::Reshare && !same {
            let what = format!("a {} changes neither threshold nor committee", p.purpose.as_str());
            return fail(Code::OutsideCharter, what);
        }
        Ok(Some(from))
    }

    /// A dealer of old shares holds them; and for a member that deals, this is the one plan that it knows for the
    /// number.
    pub fn may_deal(&mut self, plan: &Signed<Plan>, own: &[Dealer]) -> Result<()> {
        let p = plan.body();
        if p.purpose == Purpose::Create {
            return Ok(());
        }
        if let Some(from) = self.dealt_epoch(p)?
            && own.iter().any(|d| d.index.is_none_or(|x| !from.shares.contains_key(&x)))
        {
            return fail(Code::NotAMember, "this module does not hold the share that it is to deal");
        }
        if own_seats(p, &self.name).is_empty() {
            return self.burn(&p.domain, p.to_epoch);
        }
        if self.plans.contains_key(&plan.hash()) {
            return Ok(());
        }
        fail(Code::BadState, "this module has no open plan of this hash; it deals for no other")
    }

    pub fn burn(&mut self, domain: &DomainId, number: Epoch) -> Result<()> {
        let burnt = self.burnt.get(domain).map_or(0, |b| b.0);
        if number.0 <= burnt {
            return fail(Code::WrongEpoch, format!("epoch number {number} of {domain} is burnt"));
        }
        if number.0 - burnt > MAX_NUMBER_STEP {
            return fail(
                Code::WrongEpoch,
                format!(
                    "epoch number {number} of {domain} jumps too far ahead of {burnt}, which is burnt here"
                ),
            );
        }
        #[cfg(feature = "testing")]
        if super::inspect::mistaken("burn-in-memory") {
            self.burnt.insert(domain.clone(), number);
            return Ok(());
        }
        self.commit(&[Change::Put { table: store::BURNT, id: &encode(domain), value: &encode(&number) }])?;
        self.burnt.insert(domain.clone(), number);
        Ok(())
    }

    pub fn burn_dealing(&mut self, domain: &DomainId, number: Epoch) -> Result<()> {
        let id = encode(domain);
        #[cfg(feature = "testing")]
        if super::inspect::mistaken("deals-twice") {
            return Ok(());
        }
        if let Some(bytes) = self.vault.get(store::DEALT, &id)?
            && number <= store::stored::<Epoch>(&bytes)?
        {
            return fail(
                Code::WrongEpoch,
                format!("this module has dealt for epoch {number} of {domain} before"),
            );
        }
        self.commit(&[Change::Put { table: store::DEALT, id: &id, value: &encode(&number) }])
    }

    /// The key of each seat, in the committee's order, each signed by its seat's node for this plan. A member that is
    /// away has none; a creation waits for all, another change for k + z.
    pub fn check_plan_keys(
        &self,
        plan: &Signed<Plan>,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Signed<PlanKey>>>> {
        let p = plan.body();
        let committee = &p.committee;
        let mut by_index = BTreeMap::new();
        for bytes in keys {
            let key = self.verify::<PlanKey>(bytes)?;
            if key.body().plan != plan.hash() {
                return fail(Code::WrongEpoch, "a plan key was made for another plan");
            }
            let seat = committee.iter().find(|s| s.index == key.body().index);
            if seat.is_none_or(|s| &s.node != key.signer()) {
                let what = format!("{} does not hold index {}", key.signer(), key.body().index.get());
                return fail(Code::NotAMember, what);
            }
            by_index.insert(key.body().index, key);
        }
        let need = match p.purpose {
            Purpose::Create | Purpose::Rotate => committee.len(),
            _ => usize::from(p.threshold) + usize::from(p.margin),
        };
        if by_index.len() < need {
            let what = format!("{} plan keys, of {need} that it takes", by_index.len());
            return fail(Code::NotEnoughShares, what);
        }
        Ok(committee.iter().map(|seat| by_index.remove(&seat.index)).collect())
    }

    pub fn learn_charter(&mut self, bytes: &[u8]) -> Result<bool> {
        let charter = self.verify_operator::<Charter>(bytes)?;
        let c = charter.body();
        c.domain.require_base()?;
        if let Some(known) = self.charters.get(&c.domain) {
            let (version, hash) = (known.body().version, known.hash());
            if hash == charter.hash() {
                return Ok(false);
            }
            if c.version <= version || (c.version == version + 1 && c.parent != hash) {
                return fail(
                    Code::StaleVersion,
                    format!("charter {} of {} does not follow {version}", c.version, c.domain),
                );
            }
        }
        self.commit(&[Change::Put { table: store::CHARTER, id: &encode(&c.domain), value: bytes }])?;
        self.charters.insert(c.domain.clone(), charter);
        Ok(true)
    }
}

/// Old shares are dealt by distinct indices.
fn check_redealing(p: &Plan) -> Result<()> {
    let indices: BTreeSet<Option<ShareIndex>> = p.dealers.iter().map(|d| d.index).collect();
    if indices.contains(&None) || indices.len() != p.dealers.len() {
        return fail(Code::BadIndex, "each dealer of old shares deals one index, and none is dealt twice");
    }
    Ok(())
}
