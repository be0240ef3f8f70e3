//! Sealing: who said something (statements), to whom it is readable (HPKE), and the one door between
//! modules (fleet messages).
//!
//! Here: signing and KEM keys, the formats they make, replay windows, TLS certificates.
//! Not here: what a statement means, who may make it, sockets, the vault.

pub mod fleet;
pub mod hpke;
pub mod labels;
pub mod signing;
pub mod statement;
pub mod tls;
