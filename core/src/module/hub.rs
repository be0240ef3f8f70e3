//! What only the hub's module does: founding, admitting, planning, configuring, granting. None of it lets a
//! hub go beyond what the operator signed: every member's module checks again.

use super::Module;
use super::dealings;
use super::enrolment::{PublicKeys, rekey_info};
use super::fleet_key::{WINDOW, access_commitment};
use super::messages::{
    Called, Charter, Configuration, Dealer, EnrolRequest, Entry, Grant, Plan, Purpose, Rekey, Role,
    Roster as RosterStatement, Seat, SessionRequest, Token,
};
use super::operator::access_info;
use super::records::SealedAccess;
use super::state::carried;
use crate::encoding::{Bytes, encode};
use crate::error::{Code, Result, fail};
use crate::ids::{Epoch, Hash, NodeId};
use crate::seal::fleet::FleetKey;
use crate::seal::hpke;
use crate::seal::statement;
use crate::sharing::Shape;

/// What a plan is made of, beside the charter.
pub struct PlanOrder {
    /// The domain's key version that it is of.
    pub key_version: u64,
    pub purpose: Purpose,
    pub from_epoch: Epoch,
    pub to_epoch: Epoch,
    pub threshold: u8,
    pub dealers: Vec<Dealer>,
    pub committee: Vec<Seat>,
}

impl Module {
    /// Makes the fleet key (fleet epoch 1) and roster 1 with the hub's own operator-signed entry.
    pub fn found_fleet(&self, entry: &[u8]) -> Result<Vec<u8>> {
        self.with(|s, now| {
            if s.roster.is_some() {
                return fail(Code::AlreadyExists, "this fleet is founded already");
            }
            let body = s.verify_operator::<Entry>(entry)?.into_body();
            if body.role != Role::Hub || body.sign != s.sign.public() || body.name != s.name {
                return fail(Code::NotAuthorized, "this entry does not make this module the hub");
            }
            let fleet = s.fleet()?;
            let entries = vec![Bytes(entry.to_vec())];
            let roster = s.sign(RosterStatement { fleet, version: 1, parent: Hash([0; 32]), entries })?;
            let key = FleetKey::generate(&mut *s.rng)?;
            s.take_fleet_key(1, key, WINDOW, now)?;
            s.install_roster(roster.bytes())?;
            Ok(roster.bytes().to_vec())
        })
    }

    /// Verifies a request for a place: its own signature, the token and its secret, fresh name and keys.
    /// Returns the fingerprint for the operator to compare. `now`: Unix seconds.
    pub fn check_enrolment(&self, request: &[u8], token: &[u8], now: u64) -> Result<Hash> {
        self.with(|s, _| {
            let token = s.verify_operator::<Token>(token)?;
            let request = statement::open_self_signed::<EnrolRequest>(request, &s.fleet()?, &|r| r.sign)?;
            let (t, r) = (token.body(), request.body());
            let secret_hash = super::operator::token_secret_hash(&r.token_secret);
            if r.token_id != t.id || !crate::encoding::same_bytes(&secret_hash.0, &t.secret_hash.0) {
                return fail(Code::NotAuthorized, "the request does not hold this token's secret");
            }
            if now > t.expires {
                return fail(Code::NotAuthorized, "the token has expired; ask for a new one");
            }
            if r.name != t.name || r.role != t.role || r.zone != t.zone || request.signer() != &r.name {
                return fail(Code::NotAuthorized, "the request differs from its token in name, role or zone");
            }
            let fingerprint = PublicKeys::of_request(r).fingerprint();
            if t.fingerprint.is_some_and(|f| f != fingerprint) {
                return fail(Code::NotAuthorized, "the token is bound to another module's keys");
            }
            let entry = super::operator::entry_of(r);
            s.roster()?.admits(&entry, statement::hash_of(&entry))?;
            Ok(fingerprint)
        })
    }

    /// A new roster version with this operator-signed entry.
    pub fn admit(&self, entry: &[u8]) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let entry = s.verify_operator::<Entry>(entry)?;
            let roster = s.roster()?;
            roster.admits(entry.body(), entry.hash())?;
            let mut entries: Vec<Bytes> = roster
                .entries()
                .filter(|e| e.body().name != entry.body().name)
                .map(|e| Bytes(e.bytes().to_vec()))
                .collect();
            entries.push(Bytes(entry.bytes().to_vec()));
            let next = RosterStatement {
                fleet: s.fleet()?,
                version: roster.version + 1,
                parent: roster.hash,
                entries,
            };
            let next = s.sign(next)?;
            s.install_roster(next.bytes())?;
            Ok(next.bytes().to_vec())
        })
    }

    /// The newest fleet key, sealed to `node`'s long-term KEM key.
    pub fn rekey_for(&self, node: &NodeId) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let (fleet_epoch, _) = s.newest_fleet_key()?;
            let kem = s.roster()?.active(node)?.kem.clone();
            let info = encode(&rekey_info(s.fleet()?, &s.name, node, fleet_epoch));
            let key = s.fleet_keys[&fleet_epoch].secret();
            let sealed = hpke::seal(&kem, &info, &[], key.expose(), &mut *s.rng)?;
            let rekey =
                Rekey { fleet: s.fleet()?, fleet_epoch, recipient: node.clone(), sealed: Bytes(sealed) };
            Ok(s.sign(rekey)?.bytes().to_vec())
        })
    }

    /// A signed plan under the domain's charter.
    pub fn plan(&self, charter: &[u8], order: PlanOrder) -> Result<Vec<u8>> {
        self.with(|s, _| {
            s.learn_charter(charter)?;
            let charter = s.verify_operator::<Charter>(charter)?;
            let shape = Shape::new(u64::from(order.threshold), order.committee.len() as u64)?;
            let plan = Plan {
                fleet: s.fleet()?,
                domain: charter.body().domain.at_version(order.key_version)?,
                charter: charter.hash(),
                purpose: order.purpose,
                from_epoch: order.from_epoch,
                to_epoch: order.to_epoch,
                mode: charter.body().mode,
                threshold: order.threshold,
                margin: shape.margin(),
                dealers: order.dealers,
                committee: order.committee,
            };
            s.check_plan(&plan)?;
            Ok(s.sign(plan)?.bytes().to_vec())
        })
    }

    /// The signed configuration that a plan's dealings come to. `sealed`: the sub-shares that came with each.
    pub fn configure(&self, plan: &[u8], dealings: &[Vec<u8>], sealed: &[Vec<Vec<u8>>]) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let plan = s.verify_hub::<Plan>(plan)?;
            let hashes: Vec<Hash> = dealings.iter().map(|d| statement::hash_in(d)).collect::<Result<_>>()?;
            let dealings = s.check_dealings(&plan, None, &hashes, dealings)?;
            dealings::check_sealed(&dealings, sealed)?;
            let configuration = Configuration {
                fleet: s.fleet()?,
                domain: plan.body().domain.clone(),
                epoch: plan.body().to_epoch,
                plan: carried(&plan),
                dealings: hashes,
                commitments: dealings::sum(plan.body(), &dealings)?,
            };
            Ok(s.sign(configuration)?.bytes().to_vec())
        })
    }

    /// A grant that calls the given shards on the requester's own signed request.
    pub fn grant(&self, request: &[u8], called: Vec<Called>) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let request = s.verify::<SessionRequest>(request)?;
            let grant = Grant { fleet: s.fleet()?, request: carried(&request), called };
            Ok(s.sign(grant)?.bytes().to_vec())
        })
    }

    /// Takes an access key's secret, sealed to this module, and seals it under the fleet key.
    pub fn reseal_access_secret(&self, access_key_id: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let info = encode(&access_info(s.fleet()?, &s.name, access_key_id));
            let secret = hpke::open(&s.kem, &info, &[], sealed)?;
            let (fleet_epoch, sealed) = s.seal_access(access_key_id, &secret)?;
            let commitment = access_commitment(access_key_id, &secret);
            Ok(encode(&SealedAccess { fleet_epoch, sealed: Bytes(sealed), commitment }))
        })
    }
}
