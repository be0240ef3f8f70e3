//! Sealed secrets: HPKE (RFC 9180) in base mode, one message for each encapsulation, with the hybrid
//! KEM X-Wing (draft-connolly-cfrg-xwing-kem: X25519 and ML-KEM-768), HKDF-SHA256 and AES-256-GCM.
//!
//! Here: KEM keys, sealing, opening, and the `info` that ties a sealed secret to its purpose.
//! Not here: HPKE's other modes, exports, and later messages of a context: nothing of ours needs them.

use std::fmt;

use aws_lc_rs::{aead, hkdf, hmac};
use libcrux_kem::{Algorithm, Ct, PrivateKey, PublicKey, XWingKemDraft06PrivateKey, key_gen_derand};
use minicbor::{Decoder, Encoder};
use zeroize::{Zeroize, Zeroizing};

use crate::encoding::{Bytes, View, Wire, encode};
use crate::error::{Code, Error, Result, fail};
use crate::ids::{DomainId, Epoch, FleetId, NodeId, ShareIndex};
use crate::memory::Secret;
use crate::rng::CryptoRng;
#[cfg(feature = "testing")]
use crate::stand_in;

/// Length of a KEM public key, in bytes.
pub const PUBLIC_LEN: usize = 1216;
/// Length of an encapsulation, in bytes.
pub const ENC_LEN: usize = 1120;
/// What sealing adds to a plaintext, in bytes: the encapsulation and the AEAD's tag.
pub const OVERHEAD: usize = ENC_LEN + 16;
/// The cipher suite, as `Info` names it.
pub const SUITE: &str = "hpke-base/x-wing/hkdf-sha256/aes-256-gcm";

const KEM: Algorithm = Algorithm::XWingKemDraft06;
const KEM_ID: u16 = 0x647a;
const KDF_ID: u16 = 0x0001;
/// Length of the randomness of one encapsulation, in bytes.
pub const ENCAPS_SEED_LEN: usize = 64;

/// The u of every point, of curve and twist, whose order divides 8; those of 0 and 1 in their second form
/// too (<https://cr.yp.to/ecdh.html#validate>). A list, because a key is checked wherever a request is read.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    ],
    [
        0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    ],
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
    [
        0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
    [
        0xee, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
];

crate::record! {
    /// What a sealed secret is for; its canonical encoding is HPKE's `info`, so it opens in no other
    /// place. Fields that a kind does not use are `None`, epoch 0, or empty.
    pub struct Info {
        pub suite: String,
        pub kind: String,
        pub fleet: FleetId,
        pub sender: NodeId,
        pub recipient: NodeId,
        pub domain: Option<DomainId>,
        pub epoch: Epoch,
        pub index: Option<ShareIndex>,
        /// The plan's hash, the session's id, or what else makes this use unique.
        pub context: Bytes,
    }
}

impl Info {
    /// HPKE's `info`.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        encode(self)
    }
}

/// An X-Wing public key that was checked: canonical ML-KEM coefficients, and a canonical X25519 point
/// outside the small-order subgroup.
#[derive(Clone, PartialEq, Eq)]
pub struct KemPublic(Box<[u8; PUBLIC_LEN]>);

impl KemPublic {
    /// # Errors
    /// `bad_encoding` for another length or a non-canonical half, `weak_key` for a small-order X25519
    /// point.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bytes: Box<[u8; PUBLIC_LEN]> = bytes.to_vec().try_into().map_err(|_| {
            Error::new(Code::BadEncoding, format!("an X-Wing public key has {PUBLIC_LEN} bytes"))
        })?;
        if PublicKey::decode(KEM, bytes.as_slice()).is_err() {
            return fail(Code::BadEncoding, "the ML-KEM half of a public key is not in canonical form");
        }
        let u = &bytes[PUBLIC_LEN - 32..];
        if SMALL_ORDER.iter().any(|low| low == u) {
            return fail(Code::WeakKey, "the X25519 half of a public key has small order");
        }
        if !is_canonical(u) {
            return fail(Code::BadEncoding, "the X25519 half of a public key is not in canonical form");
        }
        Ok(Self(bytes))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; PUBLIC_LEN] {
        &self.0
    }
}

/// Whether a little-endian u is below p = 2^255 - 19.
fn is_canonical(u: &[u8]) -> bool {
    let (low, middle, high) = (u[0], &u[1..31], u[31]);
    high < 0x7f || high == 0x7f && (low < 0xed || middle.iter().any(|b| *b != 0xff))
}

impl fmt::Debug for KemPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str("…")
    }
}

impl Wire for KemPublic {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        self.0.put(to);
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        Self::from_bytes(&<[u8; PUBLIC_LEN]>::get(from)?)
    }
    fn view(&self) -> View {
        View::Bytes(self.0.to_vec())
    }
}

/// An X-Wing private key: its 32-byte seed in the locked arena, expanded anew for each opening.
pub struct KemPrivate {
    seed: Secret<32>,
    public: KemPublic,
}

static_assertions::assert_not_impl_any!(KemPrivate: fmt::Debug, fmt::Display, Clone, PartialEq);

impl KemPrivate {
    /// # Errors
    /// `memory_lock` when the arena cannot hold the seed.
    pub fn generate(rng: &mut dyn CryptoRng) -> Result<Self> {
        Self::from_seed(Secret::random(rng)?)
    }

    /// The key of a stored seed.
    ///
    /// # Errors
    /// `self_test` when the library cannot expand a seed.
    pub fn from_seed(seed: Secret<32>) -> Result<Self> {
        #[cfg(feature = "testing")]
        if stand_in::is_on() {
            let public = stand_in::kem_public::<PUBLIC_LEN>(seed.expose());
            return Ok(Self { public: KemPublic::from_bytes(public.as_slice())?, seed });
        }
        let (private, public) = key_gen_derand(KEM, seed.expose()).map_err(|_| broken("expand a seed"))?;
        wipe(private);
        Ok(Self { public: KemPublic::from_bytes(&public.encode())?, seed })
    }

    /// The seed, for sealing in the vault.
    #[must_use]
    pub fn seed(&self) -> &Secret<32> {
        &self.seed
    }

    #[must_use]
    pub fn public(&self) -> &KemPublic {
        &self.public
    }
}

/// Seals `plaintext` to `to`; returns the encapsulation, then the ciphertext.
///
/// # Errors
/// `weak_key` when no secret can be agreed with `to`.
pub fn seal(
    to: &KemPublic,
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>> {
    let mut seed = Zeroizing::new([0; ENCAPS_SEED_LEN]);
    rng.fill_bytes(seed.as_mut());
    seal_from(to, info, aad, plaintext, &seed)
}

/// As [`seal`], from this randomness, which must serve once only; the same gives the same bytes again, so that whoever
/// is shown it can check what was sealed.
///
/// # Errors
/// As [`seal`].
pub fn seal_from(
    to: &KemPublic,
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
    seed: &[u8; ENCAPS_SEED_LEN],
) -> Result<Vec<u8>> {
    seal_with(&AES_256_GCM, to, info, aad, plaintext, seed)
}

/// Opens what [`seal`] made with the same `info` and `aad`.
///
/// # Errors
/// `not_opened`, without saying which part failed.
pub fn open(key: &KemPrivate, info: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    open_with(&AES_256_GCM, key, info, aad, sealed)
}

/// An AEAD and its HPKE number (RFC 9180 §7.3).
struct Aead {
    id: u16,
    algorithm: &'static aead::Algorithm,
}

const AES_256_GCM: Aead = Aead { id: 0x0002, algorithm: &aead::AES_256_GCM };

fn seal_with(
    cipher: &Aead,
    to: &KemPublic,
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
    seed: &[u8; ENCAPS_SEED_LEN],
) -> Result<Vec<u8>> {
    let (shared, mut sealed) = encapsulate(to, seed)?;
    let (key, nonce) = key_schedule(KEM_ID, cipher, &shared, info)?;
    let mut ciphertext = Zeroizing::new(Vec::with_capacity(plaintext.len() + cipher.algorithm.tag_len()));
    ciphertext.extend_from_slice(plaintext);
    key.seal_in_place_append_tag(nonce, aead::Aad::from(aad), &mut *ciphertext)
        .map_err(|_| broken("encrypt"))?;
    sealed.extend_from_slice(&ciphertext);
    Ok(sealed)
}

fn open_with(
    cipher: &Aead,
    key: &KemPrivate,
    info: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let not_opened =
        || Error::new(Code::NotOpened, "a sealed secret does not open with this key and purpose");
    let (enc, ciphertext) = sealed.split_at_checked(ENC_LEN).ok_or_else(not_opened)?;
    let shared = decapsulate(key, enc).ok_or_else(not_opened)?;
    let (key, nonce) = key_schedule(KEM_ID, cipher, &shared, info)?;
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    let len = key.open_in_place(nonce, aead::Aad::from(aad), &mut plaintext).map_err(|_| not_opened())?.len();
    plaintext.truncate(len);
    Ok(plaintext)
}

/// X-Wing's `EncapsulateDerand`: the shared secret and the encapsulation.
fn encapsulate(to: &KemPublic, seed: &[u8; ENCAPS_SEED_LEN]) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>)> {
    #[cfg(feature = "testing")]
    if stand_in::is_on() {
        let enc = stand_in::encapsulation(seed, ENC_LEN);
        return Ok((Zeroizing::new(stand_in::shared_secret(to.0.as_slice(), &enc)), enc));
    }
    let weak = |_| Error::new(Code::WeakKey, "no secret can be agreed with this public key");
    let (shared, enc) = PublicKey::decode(KEM, to.0.as_slice())
        .and_then(|public| public.encapsulate_derand(seed))
        .map_err(weak)?;
    Ok((Zeroizing::new(shared.encode()), enc.encode()))
}

fn decapsulate(key: &KemPrivate, enc: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    #[cfg(feature = "testing")]
    if stand_in::is_on() {
        return Some(Zeroizing::new(stand_in::shared_secret(key.public.0.as_slice(), enc)));
    }
    let enc = Ct::decode(KEM, enc).ok()?;
    let private = PrivateKey::XWingKemDraft06(XWingKemDraft06PrivateKey { seed: *key.seed.expose() });
    let shared = enc.decapsulate(&private);
    wipe(private);
    shared.ok().map(|shared| Zeroizing::new(shared.encode()))
}

/// The library's private key holds a copy of the seed and does not wipe it.
fn wipe(mut private: PrivateKey) {
    if let PrivateKey::XWingKemDraft06(key) = &mut private {
        key.seed.zeroize();
    }
}

fn broken(what: &str) -> Error {
    Error::new(Code::SelfTest, format!("the cryptographic library failed to {what}"))
}

/// `KeySchedule` (RFC 9180 §5.1) in base mode: the key and nonce of the first message.
fn key_schedule(
    kem_id: u16,
    cipher: &Aead,
    shared_secret: &[u8],
    info: &[u8],
) -> Result<(aead::LessSafeKey, aead::Nonce)> {
    let suite = SuiteId::new(kem_id, cipher.id);
    let mut context = vec![0]; // mode_base
    context.extend_from_slice(suite.extract_public("psk_id_hash", b"").as_ref());
    context.extend_from_slice(suite.extract_public("info_hash", info).as_ref());
    let secret = suite.extract(shared_secret, "secret");

    let mut key = Zeroizing::new(vec![0; cipher.algorithm.key_len()]);
    let mut nonce = [0; aead::NONCE_LEN];
    suite.expand(&secret, "key", &context, &mut key)?;
    suite.expand(&secret, "base_nonce", &context, &mut nonce)?;
    let key = aead::UnboundKey::new(cipher.algorithm, &key).map_err(|_| broken("make an AEAD key"))?;
    Ok((aead::LessSafeKey::new(key), aead::Nonce::assume_unique_for_key(nonce)))
}

/// `suite_id` (RFC 9180 §5.1), and the labelled HKDF steps (§4).
struct SuiteId([u8; 10]);

impl SuiteId {
    const VERSION: &[u8] = b"HPKE-v1";

    fn new(kem_id: u16, aead_id: u16) -> Self {
        let mut id = *b"HPKE......";
        id[4..6].copy_from_slice(&kem_id.to_be_bytes());
        id[6..8].copy_from_slice(&KDF_ID.to_be_bytes());
        id[8..].copy_from_slice(&aead_id.to_be_bytes());
        Self(id)
    }

    /// `LabeledExtract` without salt, of a public value: HKDF-Extract is HMAC (RFC 5869 §2.2).
    fn extract_public(&self, label: &str, ikm: &[u8]) -> hmac::Tag {
        let labelled = [Self::VERSION, &self.0, label.as_bytes(), ikm].concat();
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[]), &labelled)
    }

    /// `LabeledExtract` of the empty pre-shared key, salted with the shared secret.
    fn extract(&self, salt: &[u8], label: &str) -> hkdf::Prk {
        let labelled = [Self::VERSION, &self.0, label.as_bytes()].concat();
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&labelled)
    }

    fn expand(&self, prk: &hkdf::Prk, label: &str, info: &[u8], out: &mut [u8]) -> Result<()> {
        let len = u16::try_from(out.len()).map_err(|_| broken("expand a key that long"))?;
        let info: &[&[u8]] = &[&len.to_be_bytes(), Self::VERSION, &self.0, label.as_bytes(), info];
        prk.expand(info, Length(out.len())).and_then(|okm| okm.fill(out)).map_err(|_| broken("expand a key"))
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests;
