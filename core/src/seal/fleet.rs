//! The fleet message: the one door between modules. A signed statement whose payload is a public
//! header and a body that is encrypted under the fleet key; and the window that refuses repeats.
//!
//! Not here: what a body says, which fleet keys are still accepted, connections.

use std::fmt;

use aws_lc_rs::{aead, hkdf};
use minicbor::{Decoder, Encoder};
use zeroize::Zeroizing;

use crate::encoding::{Bytes, Wire, decode, encode, put, read};
use crate::error::{Code, Error, Result, fail};
use crate::ids::{FleetId, NodeId};
use crate::memory::Secret;
use crate::rng::CryptoRng;
use crate::seal::signing::{SigningKey, VerifyKey};
use crate::seal::statement::{self, Statement, Unverified};

/// The oldest version of the fleet message that this module opens, and the form of every `link/hello`: all builds of
/// one major line can read it.
pub const OLDEST: u8 = 1;
/// The newest version that this module speaks.
pub const NEWEST: u8 = 1;

crate::record! {
    /// Who says something to whom, and when in the sender's own counting. Public, and signed.
    pub struct Header {
        pub version: u8,
        pub fleet: FleetId,
        /// Which fleet key encrypts the body.
        pub fleet_epoch: u64,
        pub from: NodeId,
        pub to: NodeId,
        pub kind: String,
        /// The sender's boot number, durable, raised at each start.
        pub boot: u64,
        /// Counts the sender's messages within this boot.
        pub seq: u64,
        /// The recipient's boot number as the sender knows it. In `link/hello`, which knows none: the newest version that
        /// the sender speaks (0 from builds that did not say so, and spoke 1).
        pub to_boot: u64,
        /// Random for each message: no two messages have one key.
        pub salt: [u8; 32],
    }
}

crate::statements! {
    /// A fleet message: an encoded [`Header`], and the encrypted body.
    pub struct Message = "quorate/v1/fleet/message" {
        pub header: Bytes,
        pub ciphertext: Bytes,
    }
}

/// The 256-bit key that every module of the fleet holds.
pub struct FleetKey(Secret<32>);

static_assertions::assert_not_impl_any!(FleetKey: fmt::Debug, fmt::Display, Clone, PartialEq);

impl FleetKey {
    /// # Errors
    /// `memory_lock` when the arena cannot hold the key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Result<Self> {
        Secret::random(rng).map(Self)
    }

    #[must_use]
    pub fn from_secret(key: Secret<32>) -> Self {
        Self(key)
    }

    /// The key itself, for sealing to a module or in the vault, and for deriving from.
    #[must_use]
    pub fn secret(&self) -> &Secret<32> {
        &self.0
    }

    /// Key and nonce for one message: HKDF-SHA-512(fleet key, salt, [label, header]). The header is
    /// bound by the derivation, so the AEAD needs no associated data.
    fn derive(&self, salt: &[u8; 32], header: &[u8]) -> Result<(aead::LessSafeKey, aead::Nonce)> {
        const KEY: usize = 32;
        let mut e = Encoder::new(Vec::new());
        put(e.array(2));
        put(e.str(Message::LABEL));
        put(e.bytes(header));
        let mut okm = Zeroizing::new([0; KEY + aead::NONCE_LEN]);
        hkdf::Salt::new(hkdf::HKDF_SHA512, salt)
            .extract(self.0.expose())
            .expand(&[&e.into_writer()], KeyAndNonce)
            .and_then(|out| out.fill(okm.as_mut()))
            .map_err(|_| broken("derive a message key"))?;
        let (key, nonce) = okm.split_at(KEY);
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, key).map_err(|_| broken("make an AEAD key"))?;
        let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken("make a nonce"))?;
        Ok((aead::LessSafeKey::new(key), nonce))
    }
}

struct KeyAndNonce;

impl hkdf::KeyType for KeyAndNonce {
    fn len(&self) -> usize {
        32 + aead::NONCE_LEN
    }
}

fn broken(what: &str) -> Error {
    Error::new(Code::SelfTest, format!("the cryptographic library failed to {what}"))
}

/// Encrypts `body` under the fleet key and signs it as `header.from`, whose key `signer` must be.
///
/// # Errors
/// None in practice.
pub fn seal_message(header: &Header, body: &[u8], key: &FleetKey, signer: &SigningKey) -> Result<Vec<u8>> {
    let encoded = encode(header);
    let (key, nonce) = key.derive(&header.salt, &encoded)?;
    let mut ciphertext = Vec::with_capacity(body.len() + aead::AES_256_GCM.tag_len());
    ciphertext.extend_from_slice(body);
    key.seal_in_place_append_tag(nonce, aead::Aad::empty(), &mut ciphertext)
        .map_err(|_| broken("encrypt a message"))?;
    let message = Message { header: Bytes(encoded), ciphertext: Bytes(ciphertext) };
    Ok(statement::sign(message, &header.fleet, &header.from, signer).bytes().to_vec())
}

/// Verifies and decrypts a message for `me`, of a version from [`OLDEST`] to `newest`. `key_for` gives the fleet key of
/// an accepted fleet epoch, or says why there is none; `key_of` a roster name's key. Whether the message is a repeat is for the caller's [`Window`]
/// to say.
///
/// # Errors
/// In this order: `bad_encoding` or `too_large` for malformed bytes, `wrong_kind`, `unknown_version`, `wrong_fleet`, `wrong_recipient`, `bad_signature` when header and signature name two
/// senders, `unknown_signer`, `bad_signature`, what `key_for` says, `not_opened`.
pub fn open_message<'k>(
    bytes: &[u8],
    newest: u8,
    fleet: &FleetId,
    me: &NodeId,
    key_for: &dyn Fn(u64) -> Result<&'k FleetKey>,
    key_of: &dyn Fn(&NodeId) -> Option<VerifyKey>,
) -> Result<(Header, Vec<u8>)> {
    let unverified = Unverified::<Message>::read(bytes)?;
    let header = read_header(&unverified.body().header.0, newest)?;
    if header.fleet != *fleet {
        return fail(Code::WrongFleet, format!("a message of fleet {} came to fleet {fleet}", header.fleet));
    }
    if header.to != *me {
        return fail(Code::WrongRecipient, format!("a message for {} came to {me}", header.to));
    }
    if header.from != *unverified.signer() {
        return fail(
            Code::BadSignature,
            format!("a message from {} is signed by {}", header.from, unverified.signer()),
        );
    }
    let message = unverified.verify(fleet, key_of)?.into_body();
    let key = key_for(header.fleet_epoch).map_err(|why| {
        Error::new(why.code, format!("a message of {} was not opened: {}", header.from, why.what))
    })?;
    let (key, nonce) = key.derive(&header.salt, &message.header.0)?;
    let mut body = message.ciphertext.0;
    let len = key
        .open_in_place(nonce, aead::Aad::empty(), &mut body)
        .map_err(|_| Error::new(Code::NotOpened, format!("a message of {} does not decrypt", header.from)))?
        .len();
    body.truncate(len);
    Ok((header, body))
}

/// The header of a message, unverified: for routing and for naming what was dropped.
///
/// # Errors
/// `bad_encoding`, `too_large`, `wrong_kind` or `unknown_version`.
pub fn peek_header(bytes: &[u8], newest: u8) -> Result<Header> {
    read_header(&Unverified::<Message>::read(bytes)?.body().header.0, newest)
}

/// The version stands first, so that it can be named whatever another version's header looks like.
fn read_header(bytes: &[u8], newest: u8) -> Result<Header> {
    let mut d = Decoder::new(bytes);
    read(d.array())?;
    let version = u8::get(&mut d)?;
    if !(OLDEST..=newest).contains(&version) {
        return fail(
            Code::UnknownVersion,
            format!("a fleet message has version {version}; this module speaks {OLDEST} to {newest}"),
        );
    }
    decode(bytes)
}

const WINDOW: u64 = 1024;

/// Which messages of one sender were seen: its highest boot number, and within that the last 1024
/// sequence numbers. What is older than the window counts as seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    boot: u64,
    highest: Option<u64>,
    /// Bit `seq % 1024` for each of the last 1024 sequence numbers.
    seen: [u64; 16],
}

impl Window {
    /// Refuses boot numbers below `boot`, the highest that is known of this sender.
    #[must_use]
    pub fn new(boot: u64) -> Self {
        Self { boot, highest: None, seen: [0; 16] }
    }

    /// The highest boot number seen.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Notes a message; call it only with a verified header.
    ///
    /// # Errors
    /// `stale_boot` for a boot before the highest seen, `replayed` for a sequence number that was seen
    /// or lies before the window.
    pub fn accept(&mut self, boot: u64, seq: u64) -> Result<()> {
        if boot < self.boot {
            return fail(Code::StaleBoot, format!("a message of boot {boot} came after boot {}", self.boot));
        }
        if boot > self.boot {
            *self = Self::new(boot);
        }
        match self.highest {
            Some(highest) if seq <= highest => {
                if highest - seq >= WINDOW || self.is_seen(seq) {
                    return fail(Code::Replayed, format!("message {seq} of boot {boot} came again"));
                }
            }
            Some(highest) => {
                for skipped in highest + 1..seq.min(highest.saturating_add(WINDOW + 1)) {
                    self.mark(skipped, false);
                }
                self.highest = Some(seq);
            }
            None => self.highest = Some(seq),
        }
        self.mark(seq, true);
        Ok(())
    }

    fn is_seen(&self, seq: u64) -> bool {
        let (word, bit) = place(seq);
        self.seen[word] & bit != 0
    }

    fn mark(&mut self, seq: u64, seen: bool) {
        let (word, bit) = place(seq);
        if seen {
            self.seen[word] |= bit;
        } else {
            self.seen[word] &= !bit;
        }
    }
}

fn place(seq: u64) -> (usize, u64) {
    let at = seq % WINDOW;
    (usize::try_from(at / 64).expect("below 16"), 1 << (at % 64))
}

#[cfg(test)]
mod tests;
