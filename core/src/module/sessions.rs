//! Sessions: asking for shards as a requester, giving one as a holder.
//!
//! The requester trusts the roster, the epoch's commitments and its own session key; the holder trusts
//! the requester's signature and the hub's, and its own counters. Neither trusts the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use zeroize::Zeroizing;

use super::Module;
use super::lease::Lease;
use super::messages::{Answer, Called, Closed, Grant, Outcome, Refusal, SessionRequest};
use super::state::{HeldEpoch, MAX_SESSIONS, State, array, must};
use super::store;
use crate::encoding::{Bytes, digest, encode};
use crate::error::{Code, Error, Result, fail};
use crate::ids::{DomainId, Epoch, Hash, NodeId, SessionId, ShareIndex};
use crate::keys::kdf::domain_use_key;
use crate::seal::hpke::{self, Info, KemPrivate, SUITE};
use crate::seal::statement::Signed;
use crate::sharing::{self, Share};
use crate::vault::Change;

/// How long a requester keeps a session open; its own deadline is shorter.
const SESSION_TTL: Duration = Duration::from_secs(5);
/// What a session is for: this version has one purpose.
const UNLOCK: &str = "unlock";

/// A session that this module asked for.
pub struct OpenSession {
    request: Signed<SessionRequest>,
    kem: KemPrivate,
    shares: BTreeMap<ShareIndex, Share>,
    culprits: BTreeSet<ShareIndex>,
    ends: Duration,
}

impl OpenSession {
    pub fn over(&self, now: Duration) -> bool {
        now >= self.ends
    }

    pub fn domain(&self) -> &DomainId {
        &self.request.body().domain
    }
}

/// What a holder says to a grant, for one of its indices.
pub struct Given {
    pub index: ShareIndex,
    /// An [`Answer`], or where `refused` gives the reason a [`Refusal`].
    pub statement: Vec<u8>,
    pub refused: Option<Code>,
}

/// A grant that was verified, and what this module says to it.
pub struct Answered {
    pub session: SessionId,
    pub domain: DomainId,
    pub epoch: Epoch,
    pub requester: NodeId,
    /// Everybody whom the grant calls.
    pub called: Vec<Called>,
    pub given: Vec<Given>,
}

/// Where a session stands after an answer.
pub struct Progress {
    pub have: usize,
    pub need: usize,
    /// Members whose shares did not open their commitments.
    pub culprits: Vec<(ShareIndex, NodeId)>,
    /// The `Closed` statement, once the domain is under a lease.
    pub closed: Option<Vec<u8>>,
}

fn answer_info(request: &Signed<SessionRequest>, holder: &NodeId, index: ShareIndex) -> Info {
    let r = request.body();
    Info {
        suite: SUITE.to_owned(),
        kind: "answer".to_owned(),
        fleet: r.fleet,
        sender: holder.clone(),
        recipient: request.signer().clone(),
        domain: Some(r.domain.clone()),
        epoch: r.epoch,
        index: Some(index),
        context: Bytes(r.session.0.to_vec()),
    }
}

/// How an answer names its request: as signed, so that the same words signed by another member are another
/// request.
fn request_hash(request: &Signed<SessionRequest>) -> Hash {
    Hash(digest("quorate/v1/session/signed-request", request.bytes()))
}

impl Module {
    /// Opens a session of `domain` as its requester: (session id, the signed request).
    pub fn open_session(&self, domain: &DomainId) -> Result<(SessionId, Vec<u8>)> {
        self.with(|s, now| {
            let held = s.serving(domain)?;
            let (epoch, configuration) = (held.configuration.body().epoch, held.configuration.hash());
            if s.sessions.len() >= MAX_SESSIONS {
                return fail(Code::RateLimited, "too many sessions are open in this module");
            }
            let kem = KemPrivate::generate(&mut *s.rng)?;
            let session = SessionId(s.next_bytes());
            let request = s.sign(SessionRequest {
                fleet: s.fleet()?,
                session,
                domain: domain.clone(),
                epoch,
                configuration,
                purpose: UNLOCK.to_owned(),
                inputs: Vec::new(),
                kem: kem.public().clone(),
            })?;
            let bytes = request.bytes().to_vec();
            let ends = now + SESSION_TTL;
            let (shares, culprits) = (BTreeMap::new(), BTreeSet::new());
            s.sessions.insert(session, OpenSession { request, kem, shares, culprits, ends });
            Ok((session, bytes))
        })
    }

    /// Answers a grant for each index of this module that it calls: shard counted, sealed, signed; or a
    /// signed refusal with the reason. The requester may read whom it calls, though it calls nobody there.
    pub fn answer(&self, grant: &[u8]) -> Result<Answered> {
        self.with(|s, now| {
            let grant = s.verify_hub::<Grant>(grant)?;
            let request = s.verify::<SessionRequest>(&grant.body().request.0)?;
            let (called, name) = (grant.body().called.clone(), s.name.clone());
            let mut given = Vec::new();
            for own in called.iter().filter(|c| c.node == name) {
                let (statement, refused) = match s.give(&request, own, now) {
                    Ok(answer) => (answer, None),
                    Err(e) if s.vault.is_failed() => return Err(e),
                    Err(e) => (s.refuse(&request, own, &e)?, Some(e.code)),
                };
                given.push(Given { index: own.index, statement, refused });
            }
            if given.is_empty() && request.signer() != &name {
                return fail(Code::WrongRecipient, "this grant calls no index of this module");
            }
            let r = request.body();
            Ok(Answered {
                session: r.session,
                domain: r.domain.clone(),
                epoch: r.epoch,
                requester: request.signer().clone(),
                called,
                given,
            })
        })
    }

    /// Takes one holder's answer; with the k-th good one the domain is under a lease.
    pub fn receive(&self, answer: &[u8]) -> Result<Progress> {
        self.with(|s, now| {
            let answer = s.verify::<Answer>(answer)?;
            let session = answer.body().session;
            let Some(mut open) = s.sessions.remove(&session) else {
                return fail(Code::NoSession, "this session is not open here");
            };
            let taken = s.take_share(&mut open, &answer);
            let progress = taken.and_then(|()| s.try_combine(&mut open, now));
            match &progress {
                Ok(p) if p.closed.is_some() => {}
                _ => {
                    s.sessions.insert(session, open);
                }
            }
            progress
        })
    }

    /// Forgets a session that came to nothing; returns its `Closed`.
    pub fn abandon(&self, session: SessionId, outcome: Outcome) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let Some(open) = s.sessions.remove(&session) else {
                return fail(Code::NoSession, "this session is not open here");
            };
            s.closed(&open, outcome)
        })
    }

    /// Frees the slots that a session held here, on its requester's word.
    pub fn close_session(&self, closed: &[u8]) -> Result<()> {
        self.with(|s, _| {
            let closed = s.verify::<Closed>(closed)?;
            let session = closed.body().session;
            let held = s.current_mut(&closed.body().domain)?;
            if held.plan.committee.iter().all(|seat| &seat.node != closed.signer()) {
                return fail(Code::NotAMember, format!("{} is no member of the domain", closed.signer()));
            }
            for usage in held.shares.values_mut() {
                usage.release(session, closed.signer());
            }
            Ok(())
        })
    }

    /// What is left of a domain's lease.
    pub fn lease(&self, domain: &DomainId) -> Result<Option<super::lease::Remaining>> {
        self.with(|s, now| Ok(s.leases.get(domain).map(|l| l.remaining(now))))
    }

    /// Drops the leases of the domain's key versions now; true if there was one.
    pub fn lock(&self, domain: &DomainId) -> Result<bool> {
        self.with(|s, _| {
            let before = s.leases.len();
            s.leases.retain(|name, _| name.base() != domain.base());
            Ok(s.leases.len() < before)
        })
    }

    /// Erases all that is in use, as a process does when it begins to stop: leases, open sessions, signing keys,
    /// the keys made for plans. What the vault can open again stays until the module is closed.
    pub fn drop_uses(&self) -> Result<()> {
        self.with(|s, _| {
            s.leases.clear();
            s.sessions.clear();
            s.signing_keys.clear();
            s.plans.clear();
            Ok(())
        })
    }

    /// Makes every answer of this module carry a corrupted shard.
    #[cfg(feature = "testing")]
    pub fn corrupt_answers(&self, on: bool) -> Result<()> {
        self.with(|s, _| {
            s.corrupt_answers = on;
            Ok(())
        })
    }
}

impl State {
    /// One shard for one grant. Every check comes before the count; the count is durable before the seal.
    fn give(&mut self, request: &Signed<SessionRequest>, called: &Called, now: Duration) -> Result<Vec<u8>> {
        let r = request.body();
        let limits = self.charter(&r.domain)?.limits.clone();
        let behind = self.marks.is_behind(request.signer());
        let held = self.answering(r)?;
        check_request(held, request)?;
        held.check_barred()?;
        if behind {
            return fail(
                Code::RolledBack,
                format!("{} runs on an older copy of its vault", request.signer()),
            );
        }
        let (domain, epoch) = (r.domain.clone(), r.epoch);
        let held = self.answering(r)?;
        let Some(usage) = held.shares.get_mut(&called.index) else {
            return fail(Code::BadIndex, format!("index {} is not held here", called.index.get()));
        };
        let by = (r.session, request.signer().clone());
        let reserve = usage.take(by, (called.term, called.fence), &limits, now)?;
        let uses = usage.uses();
        let id = store::share_id(&domain, epoch, called.index);
        if let Some(reserve) = reserve {
            self.commit(&[Change::Put { table: store::USAGE, id: &id, value: &encode(&reserve) }])?;
        }
        let bytes = array::<64>(&must(&self.vault, store::SHARE, &id)?)?;
        #[cfg(feature = "testing")]
        let bytes = if self.corrupt_answers { corrupted(bytes) } else { bytes };
        let info = encode(&answer_info(request, &self.name, called.index));
        let sealed = hpke::seal(&r.kem, &info, &[], &*bytes, &mut *self.rng)?;
        let answer = Answer {
            fleet: r.fleet,
            session: r.session,
            request: request_hash(request),
            domain,
            epoch,
            configuration: r.configuration,
            index: called.index,
            term: called.term,
            fence: called.fence,
            uses,
            sealed: Bytes(sealed),
        };
        Ok(self.sign(answer)?.bytes().to_vec())
    }

    /// The epoch that a request is answered in: the current one, whatever it asks for.
    fn answering(&mut self, r: &SessionRequest) -> Result<&mut HeldEpoch> {
        #[cfg(feature = "testing")]
        if super::inspect::mistaken("serve-old")
            && self.known(&r.domain, r.epoch).is_some_and(|held| held.state.is_committed())
        {
            let known = self.epochs.get_mut(&r.domain).and_then(|epochs| epochs.get_mut(&r.epoch));
            return known.ok_or_else(|| super::state::no_shard(&r.domain));
        }
        self.current_mut(&r.domain)
    }

    fn refuse(&self, request: &Signed<SessionRequest>, called: &Called, why: &Error) -> Result<Vec<u8>> {
        let r = request.body();
        let usage = self.current(&r.domain).ok().and_then(|held| held.shares.get(&called.index));
        let (term, fence) = usage.map_or((0, 0), super::usage::Usage::fence);
        let refusal = Refusal {
            fleet: r.fleet,
            session: r.session,
            domain: r.domain.clone(),
            index: called.index,
            reason: why.code.as_str().to_owned(),
            term,
            fence,
        };
        Ok(self.sign(refusal)?.bytes().to_vec())
    }

    fn take_share(&self, open: &mut OpenSession, answer: &Signed<Answer>) -> Result<()> {
        let (a, r) = (answer.body(), open.request.body());
        if a.request != request_hash(&open.request) || a.domain != r.domain {
            return fail(Code::Replayed, "an answer to another request of this session");
        }
        if a.epoch != r.epoch || a.configuration != r.configuration {
            return fail(Code::WrongEpoch, "a share of another epoch; shares of two epochs never mix");
        }
        if self.marks.is_behind(answer.signer()) {
            return fail(Code::RolledBack, format!("{} runs on an older copy of its vault", answer.signer()));
        }
        let held = self.current(&r.domain)?;
        if held.node_of(a.index) != Some(answer.signer()) {
            return fail(
                Code::NotAMember,
                format!("{} does not hold index {}", answer.signer(), a.index.get()),
            );
        }
        if open.culprits.contains(&a.index) || open.shares.contains_key(&a.index) {
            return fail(Code::Replayed, format!("index {} has answered this session", a.index.get()));
        }
        let info = encode(&answer_info(&open.request, answer.signer(), a.index));
        let blame = |e: Error| e.blaming(answer.signer().clone());
        let opened = hpke::open(&open.kem, &info, &[], &a.sealed.0).map_err(blame)?;
        let bytes: Zeroizing<[u8; 64]> = match <[u8; 64]>::try_from(opened.as_slice()) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(_) => return Err(blame(Error::new(Code::BadShare, "a shard has a wrong length"))),
        };
        open.shares.insert(a.index, Share::from_bytes(a.index, &bytes).map_err(blame)?);
        Ok(())
    }

    /// Combines once k shares are there. The result is checked against the epoch's commitment to the key;
    /// on a mismatch every share is checked against its own commitment, and the wrong ones are named.
    fn try_combine(&mut self, open: &mut OpenSession, now: Duration) -> Result<Progress> {
        let domain = open.request.body().domain.clone();
        let limits = self.charter(&domain)?.limits.clone();
        let mut lagrange = std::mem::take(&mut self.lagrange);
        let held = self.current(&domain)?;
        let need = usize::from(held.plan.threshold);
        let mut progress = Progress { have: open.shares.len(), need, culprits: Vec::new(), closed: None };
        let combined = if open.shares.len() < need {
            None
        } else {
            let shares: Vec<&Share> = open.shares.values().collect();
            let points: Vec<_> = held.points.iter().map(|(x, p)| (*x, p)).collect();
            let key_commitment = held.configuration.body().commitments.constant();
            match sharing::combine(&shares, held.threshold()?, key_commitment, &mut lagrange) {
                Ok(secret) => Some(secret),
                Err(e) if e.code == Code::BadCombination => {
                    for index in sharing::find_bad(&shares, &points) {
                        let node = held.node_of(index).cloned().unwrap_or_else(NodeId::hub);
                        progress.culprits.push((index, node));
                    }
                    None
                }
                Err(e) => {
                    self.lagrange = lagrange;
                    return Err(e);
                }
            }
        };
        self.lagrange = lagrange;
        for (index, _) in &progress.culprits {
            open.shares.remove(index);
            open.culprits.insert(*index);
        }
        progress.have = open.shares.len();
        if let Some(secret) = combined {
            let wrap = domain_use_key(secret.expose(), &domain.base(), domain.key_version(), "wrap")?;
            self.leases.insert(domain, Lease::start(wrap, &limits, now));
            progress.closed = Some(self.closed(open, Outcome::Combined)?);
        }
        Ok(progress)
    }

    fn closed(&self, open: &OpenSession, outcome: Outcome) -> Result<Vec<u8>> {
        let r = open.request.body();
        let closed = Closed {
            fleet: r.fleet,
            session: r.session,
            domain: r.domain.clone(),
            outcome,
            culprits: open.culprits.iter().copied().collect(),
        };
        Ok(self.sign(closed)?.bytes().to_vec())
    }
}

/// The requester is a member, and asks for the epoch that is current here.
fn check_request(held: &HeldEpoch, request: &Signed<SessionRequest>) -> Result<()> {
    let r = request.body();
    if held.plan.committee.iter().all(|seat| &seat.node != request.signer()) {
        return fail(Code::NotAMember, format!("{} is no member of {}", request.signer(), r.domain));
    }
    if r.epoch != held.configuration.body().epoch || r.configuration != held.configuration.hash() {
        return fail(Code::WrongEpoch, format!("epoch {} of {} is not current here", r.epoch, r.domain));
    }
    if r.purpose != UNLOCK {
        return fail(Code::NotAuthorized, format!("sessions serve no purpose {:?}", r.purpose));
    }
    Ok(())
}

#[cfg(feature = "testing")]
fn corrupted(mut bytes: Zeroizing<[u8; 64]>) -> Zeroizing<[u8; 64]> {
    // The lowest byte keeps the scalar canonical, so that the commitment is what finds the change.
    bytes[0] ^= 1;
    bytes
}
