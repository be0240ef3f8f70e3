//! What a module refuses in a plan, and the numbers that attempts burn (docs/protocols/epochs.md).
//!
//! Not here: what follows an accepted plan (`epochs`).

use std::collections::{BTreeMap, BTreeSet};

use super::messages::{Charter, DealerKind, Mode, Plan, PlanKey, Purpose, Role};
use super::state::{State, unknown_domain};
use super::store;
use crate::encoding::encode;
use crate::error::{Code, Result, fail};
use crate::ids::{DomainId, Epoch};
use crate::seal::statement::Signed;
use crate::sharing::Shape;
use crate::vault::Change;

/// The furthest that one plan may move a domain's numbers: one plan of a stolen hub cannot burn them all, and
/// so leave a domain that nobody can create.
const MAX_NUMBER_STEP: u64 = 1 << 32;

impl State {
    /// What a module refuses in a plan, whoever signed it (docs/protocols/epochs.md, "1. Plan").
    pub fn check_plan(&self, p: &Plan) -> Result<()> {
        let Some(charter) = self.charters.get(&p.domain) else { return Err(unknown_domain(&p.domain)) };
        let c = charter.body();
        let outside = |what: &str| {
            fail(Code::OutsideCharter, format!("the charter of {} does not allow {what}", p.domain))
        };
        if charter.hash() != p.charter {
            return outside("a plan under another version of it");
        }
        if p.purpose != Purpose::Create || p.from_epoch != Epoch(0) {
            return fail(Code::BadState, "this version makes first epochs only");
        }
        self.refuse_second_creation(&p.domain, p.to_epoch)?;
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
        let [dealer] = p.dealers.as_slice() else { return outside("this set of dealers") };
        if &dealer.node != self.roster()?.hub() || dealer.index.is_some() {
            return outside("this dealer");
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

    /// A domain is created once: a second creation would put another key in the place of the first.
    pub fn refuse_second_creation(&self, domain: &DomainId, epoch: Epoch) -> Result<()> {
        if self.epochs.get(domain).is_some_and(|e| e.values().any(|h| h.current && h.epoch() != epoch)) {
            return fail(
                Code::AlreadyExists,
                format!("{domain} has a committed epoch; it cannot be created again"),
            );
        }
        Ok(())
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
        self.commit(&[Change::Put { table: store::BURNT, id: &encode(domain), value: &encode(&number) }])?;
        self.burnt.insert(domain.clone(), number);
        Ok(())
    }

    pub fn burn_dealing(&mut self, domain: &DomainId, number: Epoch) -> Result<()> {
        let id = encode(domain);
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

    /// One key for each seat, in the committee's order, each signed by its seat's node for this plan.
    pub fn check_plan_keys(&self, plan: &Signed<Plan>, keys: &[Vec<u8>]) -> Result<Vec<Signed<PlanKey>>> {
        let committee = &plan.body().committee;
        if keys.len() != committee.len() {
            return fail(
                Code::NotEnoughShares,
                format!("{} plan keys for {} indices", keys.len(), committee.len()),
            );
        }
        let mut by_index = BTreeMap::new();
        for bytes in keys {
            let key = self.verify::<PlanKey>(bytes)?;
            if key.body().plan != plan.hash() {
                return fail(Code::WrongEpoch, "a plan key was made for another plan");
            }
            by_index.insert(key.body().index, key);
        }
        committee
            .iter()
            .map(|seat| match by_index.remove(&seat.index) {
                Some(key) if key.signer() == &seat.node => Ok(key),
                _ => fail(
                    Code::NotAMember,
                    format!("index {} has no plan key of {}", seat.index.get(), seat.node),
                ),
            })
            .collect()
    }

    pub fn learn_charter(&mut self, bytes: &[u8]) -> Result<bool> {
        let charter = self.verify_operator::<Charter>(bytes)?;
        let c = charter.body();
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
