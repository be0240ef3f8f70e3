//! What keys are used for: derivation from the domain key, export tokens (backing keys at rest),
//! ciphertext blobs (what clients hold), request signatures, and the self-tests of the primitives.
//!
//! `gcm` and `kdf` are the only callers of the primitives; `sealed` is the one key-committing AEAD, and
//! `token` and `blob` are formats on top of it.
//!
//! Not here: where a key comes from (`module/` opens sessions and holds leases), who may use one, storage.

pub mod blob;
pub(crate) mod gcm;
pub mod kdf;
pub mod random;
pub mod sealed;
pub mod selftest;
pub mod sigv4;
pub mod token;

/// Labels of this room's derivations: each names one purpose, so that a key or a ciphertext made for one
/// never serves another.
pub mod label {
    pub const DOMAIN_USE: &str = "quorate/v1/keys/domain-use";
    pub const TOKEN_INNER: &str = "quorate/v1/keys/token-inner";
    pub const TOKEN_OUTER: &str = "quorate/v1/keys/token-outer";
    pub const BLOB: &str = "quorate/v1/keys/blob";

    pub const ALL: &[&str] = &[DOMAIN_USE, TOKEN_INNER, TOKEN_OUTER, BLOB];
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::label;

    #[test]
    fn no_two_purposes_share_a_label() {
        let distinct: BTreeSet<_> = label::ALL.iter().collect();
        assert_eq!(distinct.len(), label::ALL.len());
    }
}
