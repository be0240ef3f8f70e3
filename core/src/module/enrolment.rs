//! Who is who: pinning operator and fleet, asking for a place, taking rosters and fleet keys, and
//! certifying the process's TLS keys.

use super::Module;
use super::messages::{EnrolRequest, Entry, FleetInfo, Invitation, Role, Token};
use super::records::check_version_step;
use super::roster::Roster;
use super::state::State;
use super::store::{self, Pins};
use crate::encoding::{Bytes, encode};
use crate::error::{Code, Result, fail};
use crate::ids::{Epoch, FleetId, Hash, NodeId};
use crate::record;
use crate::seal::hpke::{Info, KemPublic, SUITE};
use crate::seal::signing::VerifyKey;
use crate::seal::statement;
use crate::seal::tls::{Authority, TlsAuthority, Validity};
use crate::vault::Change;

record! {
    /// What an operator compares before signing an entry.
    pub struct PublicKeys { pub sign: VerifyKey, pub kem: KemPublic, pub tls: Bytes }
}

impl PublicKeys {
    #[must_use]
    pub fn of_request(r: &EnrolRequest) -> Self {
        Self { sign: r.sign, kem: r.kem.clone(), tls: r.tls.clone() }
    }

    #[must_use]
    pub fn of_entry(e: &Entry) -> Self {
        Self { sign: e.sign, kem: e.kem.clone(), tls: e.tls.clone() }
    }

    #[must_use]
    pub fn fingerprint(&self) -> Hash {
        Hash(crate::encoding::digest("quorate/v1/module/keys", &encode(self)))
    }
}

/// HPKE info of a fleet key sealed to a module; the context is the fleet epoch's digest.
pub fn rekey_info(fleet: FleetId, hub: &NodeId, recipient: &NodeId, fleet_epoch: u64) -> Info {
    Info {
        suite: SUITE.to_owned(),
        kind: "rekey".to_owned(),
        fleet,
        sender: hub.clone(),
        recipient: recipient.clone(),
        domain: None,
        epoch: Epoch(fleet_epoch),
        index: None,
        context: Bytes(Vec::new()),
    }
}

impl Module {
    pub fn name(&self) -> Result<NodeId> {
        self.with(|s, _| Ok(s.name.clone()))
    }

    pub fn fleet(&self) -> Result<Option<FleetId>> {
        self.with(|s, _| Ok(s.pins.as_ref().map(|p| p.fleet)))
    }

    pub fn role(&self) -> Result<Option<Role>> {
        self.with(|s, _| Ok(s.roster.as_ref().and_then(|r| r.active(&s.name).ok()).map(|e| e.role)))
    }

    pub fn boot(&self) -> Result<u64> {
        self.with(|s, _| Ok(s.boot))
    }

    pub fn generation(&self) -> Result<u64> {
        self.with(|s, _| Ok(s.vault.generation()))
    }

    /// True after a failed write or fsync: the process must stop.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.inner.lock().as_ref().is_some_and(|s| s.vault.is_failed())
    }

    /// Which file of the vault failed, why, and what to do.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.inner.lock().as_ref().and_then(|s| s.vault.failure().map(str::to_owned))
    }

    pub fn fingerprint(&self) -> Result<Hash> {
        self.with(|s, _| Ok(s.public_keys().fingerprint()))
    }

    pub fn tls_spki(&self) -> Result<Vec<u8>> {
        self.with(|s, _| Ok(s.tls_spki.clone()))
    }

    /// Pins operator key and fleet, once and for good.
    pub fn pin(&self, fleet_info: &[u8], operator: &VerifyKey) -> Result<()> {
        self.with(|s, _| {
            let fleet = statement::read_approved::<FleetInfo>(fleet_info)?.body().fleet;
            let info = statement::open_approved::<FleetInfo>(fleet_info, &fleet, operator)?;
            if &info.body().operator != operator {
                return fail(Code::NotAuthorized, "the fleet's statement names another operator key");
            }
            s.pin(fleet, operator)
        })
    }

    /// The hub's own request for a place; the operator decides beside it, so it needs no token.
    pub fn enrol_request_hub(&self, zone: &str, address: &str) -> Result<Vec<u8>> {
        self.with(|s, _| s.enrol_request([0; 16], [0; 32], Role::Hub, zone, address))
    }

    /// Pins the invitation's operator and fleet, and asks for the place that its token names.
    pub fn enrol_request(&self, invitation: &Invitation, address: &str) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let fleet = statement::read_approved::<Token>(&invitation.token.0)?.body().fleet;
            let token = statement::open_approved::<Token>(&invitation.token.0, &fleet, &invitation.operator)?;
            let t = token.body();
            if t.name != s.name {
                return fail(
                    Code::NotAuthorized,
                    format!("this invitation is for {}, this module is {}", t.name, s.name),
                );
            }
            s.pin(fleet, &invitation.operator)?;
            s.enrol_request(t.id, invitation.secret, t.role, &t.zone, address)
        })
    }

    /// A TLS leaf certificate (DER) for `spki`, signed by this module's TLS CA.
    pub fn certify_tls(&self, spki: &[u8], names: &[String], validity: Validity) -> Result<Vec<u8>> {
        self.with(|s, _| {
            let authority = TlsAuthority::from_pkcs8(Authority::Module(s.name.clone()), &s.tls)?;
            Ok(authority.certify_leaf(&s.name, spki, names, validity, &mut *s.rng)?.der)
        })
    }

    /// Verifies a roster and stores it; a lower or a conflicting version is refused.
    pub fn install_roster(&self, bytes: &[u8]) -> Result<u64> {
        self.with(|s, _| s.install_roster(bytes))
    }

    pub fn roster_bytes(&self) -> Result<Option<Vec<u8>>> {
        self.with(|s, _| Ok(s.roster.as_ref().map(|r| r.bytes.clone())))
    }

    /// Every entry of the roster, with its hash.
    pub fn entries(&self) -> Result<Vec<(Entry, Vec<u8>)>> {
        self.with(|s, _| Ok(s.roster()?.entries().map(|e| (e.body().clone(), e.bytes().to_vec())).collect()))
    }
}

impl State {
    pub fn public_keys(&self) -> PublicKeys {
        PublicKeys {
            sign: self.sign.public(),
            kem: self.kem.public().clone(),
            tls: Bytes(self.tls_spki.clone()),
        }
    }

    fn pin(&mut self, fleet: FleetId, operator: &VerifyKey) -> Result<()> {
        let pins = Pins { fleet, operator: *operator };
        if let Some(known) = &self.pins {
            if known.fleet == pins.fleet && known.operator == pins.operator {
                return Ok(());
            }
            return fail(Code::WrongFleet, format!("this module belongs to fleet {} already", known.fleet));
        }
        self.commit(&[Change::Put { table: store::PINS, id: store::ONLY, value: &encode(&pins) }])?;
        self.pins = Some(pins);
        Ok(())
    }

    fn enrol_request(
        &mut self,
        token_id: [u8; 16],
        token_secret: [u8; 32],
        role: Role,
        zone: &str,
        address: &str,
    ) -> Result<Vec<u8>> {
        let keys = self.public_keys();
        let request = EnrolRequest {
            fleet: self.fleet()?,
            token_id,
            token_secret,
            name: self.name.clone(),
            role,
            zone: zone.to_owned(),
            root: "file".to_owned(),
            address: address.to_owned(),
            sign: keys.sign,
            kem: keys.kem,
            tls: keys.tls,
        };
        Ok(self.sign(request)?.bytes().to_vec())
    }

    pub fn install_roster(&mut self, bytes: &[u8]) -> Result<u64> {
        let pins = self.pins()?;
        let roster = Roster::open(bytes, &pins.fleet, &pins.operator)?;
        check_version_step(self.roster.as_ref().map_or(0, |r| r.version), roster.version)?;
        if let Some(known) = &self.roster {
            roster.follows(known)?;
            if roster.version == known.version {
                return Ok(roster.version);
            }
        }
        self.commit(&[Change::Put { table: store::ROSTER, id: store::ONLY, value: bytes }])?;
        let version = roster.version;
        self.roster = Some(roster);
        Ok(version)
    }
}
