//! Disputes over a sub-share: the recipient's signed complaint, the dealer's opening, and whom the two convict
//! (docs/protocols/epoch-change.md, "Disputes").
//!
//! Here: what a dealer keeps to be able to answer, when it does, what an answer proves.
//! Not here: dealing and preparing (`dealings`, `epochs`), what follows from a verdict (the hub).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Module;
use super::dealings::{sealed_hash, sub_share_info};
use super::messages::{Complaint, Configuration, Dealing, Fault, Opening, Plan, PlanKey, Seat};
use super::state::{State, carried};
use crate::encoding::{Bytes, encode};
use crate::error::{Code, Result, fail};
use crate::ids::{DomainId, Epoch, Hash, NodeId, ShareIndex};
use crate::memory::Secret;
use crate::seal::hpke::{self, ENCAPS_SEED_LEN};
use crate::seal::statement::Signed;
use crate::sharing::{self, Share};
use crate::words;

/// How long a dealer keeps what it dealt, at most: a hub that says nothing more does not make it keep it.
pub const KEPT: Duration = Duration::from_secs(60);

/// What went into the sealed sub-shares of one dealing, in locked memory only, until the attempt is over. As much as
/// the polynomial: of a first epoch's dealing, which would be the key, nothing is kept.
pub struct KeptDealing {
    plan: Hash,
    domain: DomainId,
    to_epoch: Epoch,
    /// k − 1: so many points tell nothing of the polynomial's constant.
    may_open: usize,
    until: Duration,
    parts: BTreeMap<ShareIndex, Part>,
    opened: BTreeSet<ShareIndex>,
}

struct Part {
    plan_key: Bytes,
    pair: Secret<64>,
    seed: Secret<ENCAPS_SEED_LEN>,
}

impl KeptDealing {
    pub fn new(plan: &Signed<Plan>, now: Duration) -> Self {
        let p = plan.body();
        Self {
            plan: plan.hash(),
            domain: p.domain.clone(),
            to_epoch: p.to_epoch,
            may_open: usize::from(p.threshold) - 1,
            until: now + KEPT,
            parts: BTreeMap::new(),
            opened: BTreeSet::new(),
        }
    }

    pub fn keep(&mut self, key: &Signed<PlanKey>, pair: Secret<64>, seed: Secret<ENCAPS_SEED_LEN>) {
        self.parts.insert(key.body().index, Part { plan_key: carried(key), pair, seed });
    }

    pub fn plan(&self) -> Hash {
        self.plan
    }

    pub fn domain(&self) -> &DomainId {
        &self.domain
    }

    pub fn to_epoch(&self) -> Epoch {
        self.to_epoch
    }

    pub fn over(&self, now: Duration) -> bool {
        now >= self.until
    }
}

words!(
    /// Why somebody is convicted. The first two are proven to whoever holds the statements; silence proves nothing,
    /// for a network that fails looks the same.
    Reason { FalseComplaint = "false_complaint", WrongSubShare = "wrong_sub_share", Silent = "silent" }
);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub convicted: NodeId,
    pub reason: Reason,
}

impl Verdict {
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.reason != Reason::Silent
    }
}

/// A complaint that its index's own node signed about a dealing of a configuration of the hub's.
struct Case {
    plan: Signed<Plan>,
    complaint: Signed<Complaint>,
    /// The index's place in the committee.
    at: usize,
    dealer: NodeId,
}

impl Case {
    fn seat(&self) -> &Seat {
        &self.plan.body().committee[self.at]
    }
}

impl Module {
    /// Opens what this module dealt to the index that complains, for all to judge. It has no further part in the
    /// attempt then, and opens at most k − 1 indices of a dealing.
    ///
    /// # Errors
    /// `bad_state` once the attempt is over, or after a restart; `use_limit`; and for a complaint that is none.
    pub fn answer_complaint(&self, configuration: &[u8], complaint: &[u8]) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let case = s.case(configuration, complaint)?;
            let c = case.complaint.body();
            let index = c.index;
            // Of this very plan: a lying hub's other one could give the index to another node.
            let kept = s.dealt.get(&c.dealing).filter(|kept| kept.plan == c.plan);
            let Some((kept, part)) = kept.and_then(|k| k.parts.get(&index).map(|part| (k, part))) else {
                return fail(Code::BadState, "this module does not keep what it dealt: the attempt is over");
            };
            if !kept.opened.contains(&index) && kept.opened.len() >= kept.may_open {
                let what =
                    format!("{} sub-shares of this dealing are open; one more tells too much", kept.may_open);
                return fail(Code::UseLimit, what);
            }
            let opening = Opening {
                fleet: c.fleet,
                domain: c.domain.clone(),
                to_epoch: c.to_epoch,
                complaint: case.complaint.hash(),
                plan_key: part.plan_key.clone(),
                pair: *part.pair.expose(),
                seed: *part.seed.expose(),
            };
            let opening = s.sign(opening)?.bytes().to_vec();
            s.leave_attempt(c.plan, &c.domain, c.to_epoch)?;
            if let Some(kept) = s.dealt.get_mut(&c.dealing) {
                kept.opened.insert(index);
            }
            Ok(opening)
        })
    }

    /// Whom a complaint and its answer convict; the same everywhere. `opening`: none if no answer came in time.
    ///
    /// # Errors
    /// When there is nothing to judge: the complaint is not one, or the opening is not its dealer's answer to it.
    pub fn judge(
        &self,
        configuration: &[u8],
        dealing: &[u8],
        complaint: &[u8],
        opening: Option<&[u8]>,
    ) -> Result<Verdict> {
        self.with(|s, _| {
            let case = s.case(configuration, complaint)?;
            let dealing = s.verify_past::<Dealing>(dealing)?;
            let c = case.complaint.body();
            let (signer, hash, plan) = (dealing.signer(), dealing.hash(), dealing.body().plan);
            let fits = (signer, hash, plan) == (&case.dealer, c.dealing, c.plan);
            if !fits || dealing.body().sealed.len() != case.plan.body().committee.len() {
                return fail(Code::BadCommitments, "this is not the dealing that the complaint is about");
            }
            let Some(opening) = opening else {
                return Ok(Verdict { convicted: case.dealer, reason: Reason::Silent });
            };
            let opening = s.verify_past::<Opening>(opening)?;
            if opening.signer() != &case.dealer || opening.body().complaint != case.complaint.hash() {
                return fail(Code::NotAuthorized, "this is not the dealer's answer to this complaint");
            }
            Ok(if s.is_as_owed(&case, &dealing, opening.body())? {
                Verdict { convicted: case.seat().node.clone(), reason: Reason::FalseComplaint }
            } else {
                Verdict { convicted: case.dealer, reason: Reason::WrongSubShare }
            })
        })
    }
}

impl State {
    pub fn complain(
        &self,
        configuration: &Signed<Configuration>,
        plan: &Signed<Plan>,
        dealing: &Signed<Dealing>,
        index: ShareIndex,
        code: Fault,
    ) -> Result<Vec<u8>> {
        let p = plan.body();
        let complaint = Complaint {
            fleet: p.fleet,
            domain: p.domain.clone(),
            to_epoch: p.to_epoch,
            plan: plan.hash(),
            configuration: configuration.hash(),
            dealing: dealing.hash(),
            index,
            code,
        };
        Ok(self.sign(complaint)?.bytes().to_vec())
    }

    fn case(&self, configuration: &[u8], complaint: &[u8]) -> Result<Case> {
        let configuration = self.verify_hub::<Configuration>(configuration)?;
        let plan = self.verify_hub::<Plan>(&configuration.body().plan.0)?;
        let complaint = self.verify_past::<Complaint>(complaint)?;
        let (c, p) = (complaint.body(), plan.body());
        let about = (&c.domain, c.to_epoch, c.plan, c.configuration);
        if about != (&p.domain, p.to_epoch, plan.hash(), configuration.hash()) {
            return fail(Code::WrongEpoch, "a complaint about another attempt");
        }
        let seat = p.committee.iter().position(|s| s.index == c.index && &s.node == complaint.signer());
        let Some(at) = seat else {
            let what = format!("{} does not hold index {}", complaint.signer(), c.index.get());
            return fail(Code::NotAMember, what);
        };
        let position = configuration.body().dealings.iter().position(|d| *d == c.dealing);
        let Some(dealer) = position.and_then(|position| p.dealers.get(position)) else {
            return fail(Code::BadCommitments, "a complaint about a dealing that this configuration has not");
        };
        let dealer = dealer.node.clone();
        Ok(Case { plan, complaint, at, dealer })
    }

    /// Whether an opening is all that its dealer owed: sealed again it is the sub-share that the dealing names, to a
    /// key that the recipient made for this index of this plan, and the pair opens the commitment.
    fn is_as_owed(&self, case: &Case, dealing: &Signed<Dealing>, o: &Opening) -> Result<bool> {
        let seat = case.seat();
        let Ok(key) = self.verify_past::<PlanKey>(&o.plan_key.0) else { return Ok(false) };
        let k = key.body();
        if key.signer() != &seat.node || k.index != seat.index || k.plan != case.plan.hash() {
            return Ok(false);
        }
        let info = encode(&sub_share_info(&case.plan, &case.dealer, seat));
        let sealed = hpke::seal_from(&k.kem, &info, &[], &o.pair, &o.seed)?;
        if sealed_hash(&sealed) != dealing.body().sealed[case.at] {
            return Ok(false);
        }
        let share = Share::from_bytes(seat.index, &o.pair);
        Ok(share.is_ok_and(|share| sharing::verify_share(&dealing.body().commitments, &share).is_ok()))
    }
}
