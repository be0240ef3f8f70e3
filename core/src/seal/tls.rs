//! Certificates for mutual TLS: operator root, a CA for each module, leaves for its processes (RFC 5280,
//! P-256). The operator certifies a module's CA key, the module's CA certifies leaf keys.
//!
//! TLS only carries messages: a leaf key is an ordinary file and opens nothing by itself. CA keys are
//! sealed in the vault or kept with the operator key; here they exist only while they sign.
//! Not here: connections, which certificates are trusted, when a leaf is renewed.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm,
};
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result, fail};
use crate::ids::{FleetId, NodeId};
use crate::rng::CryptoRng;

/// 9999-12-31T23:59:59Z, the last instant a certificate can name (RFC 5280 §4.1.2.5).
const LAST_INSTANT: u64 = 253_402_300_799;

/// When a certificate holds, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: u64,
    pub not_after: u64,
}

/// A certificate in both of its usual forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub der: Vec<u8>,
    pub pem: String,
}

impl From<&Certificate> for Issued {
    fn from(certificate: &Certificate) -> Self {
        Self { der: certificate.der().to_vec(), pem: certificate.pem() }
    }
}

/// Whose CA a key is: fixes the subject of its certificate, and so the issuer of what it signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    Operator(FleetId),
    Module(NodeId),
}

impl Authority {
    fn subject(&self) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        match self {
            Self::Operator(fleet) => {
                let short: String = fleet.to_string().chars().take(8).collect();
                name.push(DnType::CommonName, format!("quorate operator {short}"));
            }
            Self::Module(module) => {
                // Apart from the name, which alone may be as long as a common name can be (64).
                name.push(DnType::OrganizationName, "quorate module");
                name.push(DnType::CommonName, module.as_str());
            }
        }
        name
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = self.subject();
        let below = match self {
            Self::Operator(_) => 1,
            Self::Module(_) => 0,
        };
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        params
    }
}

/// A P-256 CA key while it signs.
pub struct TlsAuthority {
    key: KeyPair,
    whose: Authority,
}

static_assertions::assert_not_impl_any!(TlsAuthority: fmt::Debug, fmt::Display, Clone, PartialEq);

impl TlsAuthority {
    /// Makes a key; keep [`TlsAuthority::pkcs8`] sealed.
    ///
    /// # Errors
    /// `self_test` when the library cannot make a key.
    pub fn generate(whose: Authority) -> Result<Self> {
        Ok(Self { key: new_key()?, whose })
    }

    /// # Errors
    /// `bad_encoding` unless the bytes are a P-256 key in PKCS#8.
    pub fn from_pkcs8(whose: Authority, pkcs8: &[u8]) -> Result<Self> {
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.into(), &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| Error::new(Code::BadEncoding, "a TLS authority's key is not P-256 in PKCS#8"))?;
        Ok(Self { key, whose })
    }

    /// The private key, for sealing in the vault or the operator's file.
    #[must_use]
    pub fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.key.serialize_der())
    }

    /// `SubjectPublicKeyInfo`, DER.
    #[must_use]
    pub fn public(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    /// The operator's self-signed root certificate.
    ///
    /// # Errors
    /// `bad_state` for a module's key; `bad_encoding` for an impossible validity.
    pub fn root(&self, validity: Validity, rng: &mut dyn CryptoRng) -> Result<Issued> {
        self.expect_operator()?;
        let mut params = self.whose.params();
        dated(&mut params, validity, rng)?;
        params.self_signed(&self.key).map(|c| Issued::from(&c)).map_err(|e| not_made(&e))
    }

    /// Certifies a module's CA key (`spki`: P-256, DER).
    ///
    /// # Errors
    /// `bad_state` when this is not the operator's key; `bad_encoding` or `bad_point` for another kind
    /// of public key; `bad_encoding` for an impossible validity.
    pub fn certify_module(
        &self,
        module: &NodeId,
        spki: &[u8],
        validity: Validity,
        rng: &mut dyn CryptoRng,
    ) -> Result<Issued> {
        self.expect_operator()?;
        self.issue(Authority::Module(module.clone()).params(), spki, validity, rng)
    }

    /// Certifies a leaf key for `node`, for both ends of a TLS connection. Each of `names` is an IP
    /// address or a DNS name; the node's own name is always among them.
    ///
    /// # Errors
    /// As [`TlsAuthority::certify_module`]; `bad_state` when this is the operator's key; `bad_encoding`
    /// for a name that cannot stand in a certificate.
    pub fn certify_leaf(
        &self,
        node: &NodeId,
        spki: &[u8],
        names: &[String],
        validity: Validity,
        rng: &mut dyn CryptoRng,
    ) -> Result<Issued> {
        let Authority::Module(_) = self.whose else {
            return fail(Code::BadState, "the operator's TLS key certifies modules, not leaves");
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.as_str());
        params.subject_alt_names = alternative_names(node, names)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        self.issue(params, spki, validity, rng)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        spki: &[u8],
        validity: Validity,
        rng: &mut dyn CryptoRng,
    ) -> Result<Issued> {
        let public = P256Public::from_spki(spki)?;
        dated(&mut params, validity, rng)?;
        let issuer = Issuer::new(self.whose.params(), &self.key);
        params.signed_by(&public, &issuer).map(|c| Issued::from(&c)).map_err(|e| not_made(&e))
    }

    fn expect_operator(&self) -> Result<()> {
        match self.whose {
            Authority::Operator(_) => Ok(()),
            Authority::Module(_) => fail(Code::BadState, "only the operator's TLS key certifies modules"),
        }
    }
}

/// Makes a leaf key, writes it to `path` (PKCS#8, PEM, mode 0600, replacing what is there in one step),
/// and returns its `SubjectPublicKeyInfo`.
///
/// # Errors
/// `storage` when the file cannot be written; what stood at `path` is then unchanged.
pub fn write_leaf_key(path: &Path) -> Result<Vec<u8>> {
    let key = new_key()?;
    let pem = Zeroizing::new(key.serialize_pem());
    write_private(path, pem.as_bytes()).map_err(|e| {
        Error::new(Code::Storage, format!("cannot write the TLS key {}: {e}", path.display()))
    })?;
    Ok(key.subject_public_key_info())
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| not_made(&e))
}

fn not_made(e: &rcgen::Error) -> Error {
    Error::new(Code::SelfTest, format!("the certificate library failed: {e}"))
}

fn dated(params: &mut CertificateParams, validity: Validity, rng: &mut dyn CryptoRng) -> Result<()> {
    let Validity { not_before, not_after } = validity;
    if not_before >= not_after || not_after > LAST_INSTANT {
        return fail(
            Code::BadEncoding,
            format!("a certificate cannot hold from {not_before} to {not_after} (seconds since 1970)"),
        );
    }
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
    // 20 octets at most, positive, 64 random bits at least (RFC 5280 §4.1.2.2).
    let mut serial = [0; 16];
    rng.fill_bytes(&mut serial);
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

fn alternative_names(node: &NodeId, names: &[String]) -> Result<Vec<SanType>> {
    let mut sans = Vec::new();
    for name in std::iter::once(node.as_str()).chain(names.iter().map(String::as_str)) {
        let san = match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(name.try_into().map_err(|_| {
                Error::new(Code::BadEncoding, format!("{name:?} cannot stand in a certificate"))
            })?),
        };
        if !sans.contains(&san) {
            sans.push(san);
        }
    }
    Ok(sans)
}

/// A P-256 public key: an uncompressed point (SEC 1 §2.3.3).
struct P256Public([u8; 65]);

impl P256Public {
    /// `SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING }` (RFC 5480 §2): DER fixes every
    /// byte before the point.
    const PREFIX: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];

    fn from_spki(spki: &[u8]) -> Result<Self> {
        let point: [u8; 65] = spki
            .strip_prefix(&Self::PREFIX)
            .and_then(|point| point.try_into().ok())
            .ok_or_else(|| Error::new(Code::BadEncoding, "a TLS public key is not P-256, uncompressed"))?;
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .map_err(|_| Error::new(Code::BadPoint, "a TLS public key is not a point of P-256"))?;
        Ok(Self(point))
    }
}

impl PublicKeyData for P256Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests;
