//! What an application asked for: Encrypt, Decrypt, `ReEncrypt`, data keys. Each is one use of the lease of
//! each domain that it needs; the only plaintext that leaves is the answer that the client asked for.

use std::collections::BTreeSet;
use std::time::Duration;

use zeroize::Zeroizing;

use super::Module;
use super::messages::KeyState;
use super::state::State;
use crate::error::{Code, Result, fail};
use crate::keys::{blob, random};
use crate::memory::Secret;
use crate::rng::CryptoRng;

/// An encryption context: pairs, in any order.
pub type Context<'a> = &'a [(String, String)];

impl Module {
    pub fn encrypt(&self, key_id: &[u8; 16], plaintext: &[u8], context: Context<'_>) -> Result<Vec<u8>> {
        self.with(|s, now| {
            s.spend(&[key_id], now)?;
            s.encrypt(key_id, plaintext, context)
        })
    }

    pub fn decrypt(&self, sealed: &[u8], context: Context<'_>) -> Result<Zeroizing<Vec<u8>>> {
        self.with(|s, now| {
            s.spend(&[&blob::parse_header(sealed)?.key_id], now)?;
            s.decrypt(sealed, context)
        })
    }

    /// Decrypts and encrypts again; the plaintext stays inside.
    pub fn reencrypt(
        &self,
        sealed: &[u8],
        context: Context<'_>,
        key_id: &[u8; 16],
        new_context: Context<'_>,
    ) -> Result<Vec<u8>> {
        self.with(|s, now| {
            s.spend(&[&blob::parse_header(sealed)?.key_id, key_id], now)?;
            let plaintext = s.decrypt(sealed, context)?;
            s.encrypt(key_id, &plaintext, new_context)
        })
    }

    /// A fresh data key of `length` bytes: in the clear, and encrypted under the KMS key.
    pub fn data_key(
        &self,
        key_id: &[u8; 16],
        length: usize,
        context: Context<'_>,
    ) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>)> {
        self.with(|s, now| {
            let key = random::bytes(length, &mut *s.rng)?;
            s.spend(&[key_id], now)?;
            let sealed = s.encrypt(key_id, &key, context)?;
            Ok((key, sealed))
        })
    }

    pub fn random(&self, length: usize) -> Result<Zeroizing<Vec<u8>>> {
        self.with(|s, _| random::bytes(length, &mut *s.rng))
    }
}

impl State {
    /// One use of the lease of each sharing that these keys are under; nothing is spent where one is missing.
    fn spend(&mut self, keys: &[&[u8; 16]], now: Duration) -> Result<()> {
        let mut domains = BTreeSet::new();
        for key_id in keys {
            self.usable(key_id)?;
            domains.insert(self.in_use(key_id)?.1);
        }
        self.spend_leases(&domains, now)
    }

    fn encrypt(&mut self, key_id: &[u8; 16], plaintext: &[u8], context: Context<'_>) -> Result<Vec<u8>> {
        let version = self.usable(key_id)?;
        self.with_backing(key_id, version, |backing, rng| {
            blob::encrypt(backing, *key_id, version, context, plaintext, rng)
        })
    }

    fn decrypt(&mut self, sealed: &[u8], context: Context<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let header = blob::parse_header(sealed)?;
        let version = self.usable(&header.key_id)?;
        if header.key_version != version {
            return fail(Code::UnknownKey, "the ciphertext names a version of the key that is not known");
        }
        self.with_backing(&header.key_id, version, |backing, _| blob::decrypt(backing, context, sealed))
    }

    /// The key's current version, if it may be used.
    fn usable(&self, key_id: &[u8; 16]) -> Result<u32> {
        match self.keys.get(key_id).map(crate::seal::statement::Signed::body) {
            Some(record) if record.state == KeyState::Enabled => Ok(record.key_version),
            Some(record) => fail(Code::BadState, format!("the key is {}", record.state.as_str())),
            None => fail(Code::UnknownKey, "no key of this id is known"),
        }
    }

    /// Runs with a key's backing key open, under a lease whose use was counted.
    fn with_backing<T>(
        &mut self,
        key_id: &[u8; 16],
        version: u32,
        run: impl FnOnce(&Secret<32>, &mut dyn CryptoRng) -> Result<T>,
    ) -> Result<T> {
        let (_, under) = self.in_use(key_id)?;
        let Some(lease) = self.leases.get(&under) else {
            return fail(Code::NoLease, format!("no lease of {under} is held"));
        };
        if let Some(backing) = lease.backing.get(&(*key_id, version)) {
            return run(backing, &mut *self.rng);
        }
        let (token, _) = self.in_use(key_id)?;
        let backing = self.open_token(self.keys[key_id].body(), token)?;
        let out = run(&backing, &mut *self.rng);
        if let Some(lease) = self.leases.get_mut(&under) {
            lease.keep_backing((*key_id, version), backing);
        }
        out
    }
}
