//! The operator key: signs what a hub must not decide alone. It lives with the CLI, in a sealed directory
//! of its own, never in a hub's or a node's process.

use std::path::Path;

use zeroize::Zeroizing;

use super::fleet_key::access_commitment;
use super::messages::{
    AccessKey, Charter, EnrolRequest, Entry, FleetInfo, Invitation, Role, Standing, Token,
};
use super::records::read_sealed;
use super::store::{IDENTITY, IDENTITY_KEYS, ONLY, SIGN, TLS, stored};
use crate::encoding::{Bytes, digest, encode};
use crate::error::{Code, Error, Result, fail};
use crate::ids::{Epoch, FleetId, Hash, NodeId};
use crate::keys::sigv4;
use crate::memory::Secret;
use crate::record;
use crate::rng::CryptoRng;
use crate::seal::hpke::{self, Info, SUITE};
use crate::seal::signing::{SigningKey, VerifyKey};
use crate::seal::statement;
use crate::seal::tls::{Authority, TlsAuthority, Validity};
use crate::vault::{Change, Root, Vault};

record! {
    /// What the operator's vault keeps in the clear.
    pub struct Stored {
        pub fleet_info: Bytes,
        pub tls_root: Bytes,
    }
}

/// The operator key and what belongs to it.
pub struct Operator {
    fleet: FleetId,
    sign: SigningKey,
    /// PKCS#8 of the TLS root's key.
    tls: Zeroizing<Vec<u8>>,
    stored: Stored,
    rng: Box<dyn CryptoRng + Send>,
}

/// What a token asks for.
pub struct Invite {
    pub name: NodeId,
    pub role: Role,
    pub zone: String,
    pub enrol_address: String,
    /// Unix seconds.
    pub expires: u64,
    pub fingerprint: Option<Hash>,
}

/// A new access key, before the hub's module has sealed its secret under the fleet key.
pub struct NewAccess {
    pub access_key_id: String,
    pub secret: Zeroizing<String>,
    pub sealed_to_hub: Vec<u8>,
}

impl Operator {
    /// Makes an operator key, and a fleet's id with it. `not_before`: Unix seconds.
    pub fn create(
        dir: &Path,
        root: &Root<'_>,
        region: &str,
        account: &str,
        not_before: u64,
        mut rng: Box<dyn CryptoRng + Send>,
    ) -> Result<Self> {
        let (_, (fleet, sign, tls, stored)) = Vault::create(dir, *root, &mut *rng, |vault, rng| {
            let sign = Secret::<32>::random(rng)?;
            let mut fleet = FleetId([0; 16]);
            rng.fill_bytes(&mut fleet.0);
            let authority = TlsAuthority::generate(Authority::Operator(fleet))?;
            let tls_root = authority.root(ca_validity(not_before), rng)?.der;
            let tls = authority.pkcs8();
            let key = SigningKey::from_seed(sign);
            let info = FleetInfo {
                fleet,
                operator: key.public(),
                region: region.to_owned(),
                account: account.to_owned(),
                tls_root: root_hash(&tls_root),
            };
            let stored = Stored {
                fleet_info: Bytes(statement::approve(&info, &fleet, &key)),
                tls_root: Bytes(tls_root),
            };
            let identity = [
                Change::Put { table: IDENTITY, id: ONLY, value: &encode(&stored) },
                Change::PutSecret { table: IDENTITY_KEYS, id: SIGN, value: key.seed().expose() },
                Change::PutSecret { table: IDENTITY_KEYS, id: TLS, value: &tls },
            ];
            vault.commit(&identity, rng)?;
            Ok((fleet, key, tls, stored))
        })?;
        Ok(Self { fleet, sign, tls, stored, rng })
    }

    pub fn open(dir: &Path, root: &Root<'_>, mut rng: Box<dyn CryptoRng + Send>) -> Result<Self> {
        let vault = Vault::open(dir, *root, &mut *rng)?;
        let missing =
            || Error::new(Code::VaultCorrupt, "the operator's vault lacks its keys; restore it from a copy");
        let kept: Stored = stored(&vault.get(IDENTITY, ONLY)?.ok_or_else(missing)?)?;
        let seed = vault.get(IDENTITY_KEYS, SIGN)?.ok_or_else(missing)?;
        let sign = SigningKey::from_seed(super::state::secret(&seed)?);
        let tls = vault.get(IDENTITY_KEYS, TLS)?.ok_or_else(missing)?;
        let fleet = statement::read_approved::<FleetInfo>(&kept.fleet_info.0)?.body().fleet;
        statement::open_approved::<FleetInfo>(&kept.fleet_info.0, &fleet, &sign.public())?;
        Ok(Self { fleet, sign, tls, stored: kept, rng })
    }

    #[must_use]
    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    #[must_use]
    pub fn public(&self) -> VerifyKey {
        self.sign.public()
    }

    /// The operator's TLS root certificate (DER).
    #[must_use]
    pub fn tls_root(&self) -> &[u8] {
        &self.stored.tls_root.0
    }

    #[must_use]
    pub fn fleet_info(&self) -> &[u8] {
        &self.stored.fleet_info.0
    }

    /// (the signed token for the hub, the invitation for the node).
    pub fn invite(&mut self, invite: Invite) -> Result<(Vec<u8>, Invitation)> {
        let mut id = [0; 16];
        let mut secret = [0; 32];
        self.rng.fill_bytes(&mut id);
        self.rng.fill_bytes(&mut secret);
        let token = Token {
            fleet: self.fleet,
            id,
            name: invite.name,
            role: invite.role,
            zone: invite.zone,
            fingerprint: invite.fingerprint,
            secret_hash: token_secret_hash(&secret),
            expires: invite.expires,
            enrol_address: invite.enrol_address,
        };
        let token = statement::approve(&token, &self.fleet, &self.sign);
        let invitation = Invitation {
            token: Bytes(token.clone()),
            secret,
            operator: self.public(),
            tls_root: self.stored.tls_root.clone(),
        };
        Ok((token, invitation))
    }

    /// Signs a roster entry for a request, and its module's TLS CA certificate (DER).
    pub fn approve_entry(&mut self, request: &[u8], not_before: u64) -> Result<(Vec<u8>, Vec<u8>)> {
        let request = statement::open_self_signed::<EnrolRequest>(request, &self.fleet, &|r| r.sign)?;
        let entry = entry_of(request.body());
        let authority = TlsAuthority::from_pkcs8(Authority::Operator(self.fleet), &self.tls)?;
        let ca =
            authority.certify_module(&entry.name, &entry.tls.0, ca_validity(not_before), &mut *self.rng)?.der;
        Ok((statement::approve(&entry, &self.fleet, &self.sign), ca))
    }

    /// Signs the next version of a module's roster entry, with which it is retired from the fleet for good.
    pub fn retire(&self, entry: &[u8]) -> Result<Vec<u8>> {
        let known = statement::open_approved::<Entry>(entry, &self.fleet, &self.public())?;
        let b = known.body();
        if b.role == Role::Hub {
            return fail(Code::NotAuthorized, "a hub is replaced, not retired");
        }
        if b.standing == Standing::Retired {
            return fail(Code::AlreadyExists, format!("{} is retired already", b.name));
        }
        let (version, parent) = (b.version + 1, known.hash());
        let next = Entry { version, parent, standing: Standing::Retired, ..b.clone() };
        Ok(statement::approve(&next, &self.fleet, &self.sign))
    }

    /// Signs a charter; version and parent follow `parent`.
    pub fn charter(&self, mut charter: Charter, parent: Option<&[u8]>) -> Result<Vec<u8>> {
        charter.domain.require_base()?;
        charter.fleet = self.fleet;
        (charter.version, charter.parent) = match parent {
            None => (1, Hash([0; 32])),
            Some(bytes) => {
                let known = statement::open_approved::<Charter>(bytes, &self.fleet, &self.public())?;
                (known.body().version + 1, known.hash())
            }
        };
        Ok(statement::approve(&charter, &self.fleet, &self.sign))
    }

    /// A new access key: its secret for the person who asked, and sealed to the hub's module.
    pub fn new_access(&mut self, hub_entry: &[u8]) -> Result<NewAccess> {
        let hub = statement::open_approved::<Entry>(hub_entry, &self.fleet, &self.public())?;
        if hub.body().role != Role::Hub {
            return fail(Code::NotAuthorized, "this entry is not the hub's");
        }
        let access_key_id = sigv4::access_key_id(&mut *self.rng);
        let secret = sigv4::access_key_secret(&mut *self.rng)?;
        let info = encode(&access_info(self.fleet, &hub.body().name, &access_key_id));
        let sealed_to_hub = hpke::seal(&hub.body().kem, &info, &[], secret.expose(), &mut *self.rng)?;
        let text = String::from_utf8_lossy(secret.expose()).into_owned();
        Ok(NewAccess { access_key_id, secret: Zeroizing::new(text), sealed_to_hub })
    }

    /// Signs an access key; version and parent follow `parent`. What it holds sealed must be committed to `secret`, or be
    /// what the operator signed before: a stolen hub puts no other secret in.
    pub fn access_key(
        &self,
        mut key: AccessKey,
        parent: Option<&[u8]>,
        secret: Option<&str>,
    ) -> Result<Vec<u8>> {
        key.fleet = self.fleet;
        let commitment = read_sealed(&key.sealed.0)?.commitment;
        let wanted = secret.map(|s| access_commitment(&key.access_key_id, s.as_bytes()));
        let mut checked = wanted.is_some() && commitment == wanted;
        (key.version, key.parent) = match parent {
            None => (1, Hash([0; 32])),
            Some(bytes) => {
                let known = statement::open_approved::<AccessKey>(bytes, &self.fleet, &self.public())?;
                checked |=
                    known.body().access_key_id == key.access_key_id && known.body().sealed == key.sealed;
                (known.body().version + 1, known.hash())
            }
        };
        if !checked {
            return fail(
                Code::KeyCommitment,
                "the hub's module did not seal the secret that this access key was made with",
            );
        }
        Ok(statement::approve(&key, &self.fleet, &self.sign))
    }
}

/// CA certificates live as long as the keys they name: what ends a module is the roster.
fn ca_validity(not_before: u64) -> Validity {
    const TWENTY_YEARS: u64 = 20 * 366 * 24 * 3600;
    Validity { not_before, not_after: not_before.saturating_add(TWENTY_YEARS) }
}

/// The first entry of the module that made this request.
#[must_use]
pub fn entry_of(r: &EnrolRequest) -> Entry {
    Entry {
        fleet: r.fleet,
        name: r.name.clone(),
        version: 1,
        parent: Hash([0; 32]),
        role: r.role,
        standing: Standing::Active,
        zone: r.zone.clone(),
        root: r.root.clone(),
        address: r.address.clone(),
        sign: r.sign,
        kem: r.kem.clone(),
        tls: r.tls.clone(),
    }
}

#[must_use]
pub fn token_secret_hash(secret: &[u8; 32]) -> Hash {
    Hash(digest("quorate/v1/enrol/token-secret", secret))
}

fn root_hash(tls_root: &[u8]) -> Hash {
    let mut out = Hash([0; 32]);
    out.0.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, tls_root).as_ref());
    out
}

/// HPKE info of an access key's secret on its way from the operator to the hub's module.
#[must_use]
pub fn access_info(fleet: FleetId, hub: &NodeId, access_key_id: &str) -> Info {
    Info {
        suite: SUITE.to_owned(),
        kind: "access-secret".to_owned(),
        fleet,
        sender: NodeId::operator(),
        recipient: hub.clone(),
        domain: None,
        epoch: Epoch(0),
        index: None,
        context: Bytes(access_key_id.as_bytes().to_vec()),
    }
}
