//! What a module keeps in its vault: tables and record shapes. One name for each kind of record.

use super::messages::Configuration;
use super::state::carried;
use crate::encoding::{Bytes, Wire, decode, encode};
use crate::error::Result;
use crate::ids::{DomainId, Epoch, ShareIndex};
use crate::seal::statement::Signed;
use crate::{record, words};

pub const IDENTITY: &str = "identity";
pub const IDENTITY_KEYS: &str = "identity-keys";
pub const PINS: &str = "pins";
pub const BOOT: &str = "boot";
pub const ROSTER: &str = "roster";
pub const FLEET_KEY: &str = "fleet-key";
/// How many seconds the fleet key before the newest opens messages.
pub const FLEET_WINDOW: &str = "fleet-window";
pub const CHARTER: &str = "charter";
pub const BURNT: &str = "burnt";
pub const DEALT: &str = "dealt";
pub const EPOCH: &str = "epochs";
/// The dealings that the current epoch was made of, one record each. Epochs of releases before this have none.
pub const DEALING: &str = "dealings";
/// Where the releases before epoch changes kept their epochs, as [`OldEpochRecord`].
pub const OLD_EPOCH: &str = "epoch";
pub const SHARE: &str = "share";
pub const USAGE: &str = "usage";
/// Epochs whose shares serve nothing any more, for the vault was an older copy; the mark that proved it.
pub const BARRED: &str = "barred";
/// The newest mark of each peer.
pub const MARK: &str = "mark";
pub const ACCESS: &str = "access";
pub const ACCESS_SEAL: &str = "access-seal";
pub const KEY: &str = "key";
pub const ALIAS: &str = "alias";
/// Tokens that were replaced, as `rotation::KeptRecord`, until their key version is dropped.
pub const KEPT: &str = "kept";
pub const DROPPED: &str = "dropped";

/// The id of a table's only record.
pub const ONLY: &[u8] = b"";
pub const SIGN: &[u8] = b"sign";
pub const KEM: &[u8] = b"kem";
pub const TLS: &[u8] = b"tls";

record! {
    /// Whom this module obeys; written once.
    pub struct Pins {
        pub fleet: crate::ids::FleetId,
        pub operator: crate::seal::signing::VerifyKey,
    }
}

words!(
    /// An epoch's state in one module. Pending: prepared, and may yet come to nothing. Current: committed, and none
    /// later is known. Retired: committed, replaced by a later one, not erased yet.
    EpochState { Pending = "pending", Current = "current", Retired = "retired" }
);

impl EpochState {
    #[must_use]
    pub fn is_committed(self) -> bool {
        self != Self::Pending
    }
}

record! {
    pub struct EpochRecord {
        pub state: EpochState,
        /// The `Configuration` statement.
        pub configuration: Bytes,
        /// The indices whose shares lie in this vault.
        pub indices: Vec<ShareIndex>,
        /// While current: the `Prepared` receipts that it was committed on.
        pub certificate: Vec<Bytes>,
    }
}

impl EpochRecord {
    pub fn new(
        state: EpochState,
        configuration: &Signed<Configuration>,
        indices: Vec<ShareIndex>,
        certificate: &[Vec<u8>],
    ) -> Self {
        let certificate = certificate.iter().cloned().map(Bytes).collect();
        Self { state, configuration: carried(configuration), indices, certificate }
    }
}

record! {
    /// An epoch before epochs could change: its member has all its indices.
    pub struct OldEpochRecord {
        pub current: bool,
        pub configuration: Bytes,
    }
}

record! {
    /// Names one epoch's record.
    pub struct EpochKey { pub domain: DomainId, pub epoch: Epoch }
}

record! {
    /// Names one share's records.
    pub struct ShareKey { pub domain: DomainId, pub epoch: Epoch, pub index: ShareIndex }
}

record! {
    /// Names one dealing of an epoch, by its place in the configuration.
    pub struct DealingKey { pub domain: DomainId, pub epoch: Epoch, pub position: u32 }
}

pub fn dealing_id(domain: &DomainId, epoch: Epoch, position: u32) -> Vec<u8> {
    encode(&DealingKey { domain: domain.clone(), epoch, position })
}

pub fn epoch_id(domain: &DomainId, epoch: Epoch) -> Vec<u8> {
    encode(&EpochKey { domain: domain.clone(), epoch })
}

pub fn share_id(domain: &DomainId, epoch: Epoch, index: ShareIndex) -> Vec<u8> {
    encode(&ShareKey { domain: domain.clone(), epoch, index })
}

/// Reads a record that this module wrote.
pub fn stored<T: Wire>(bytes: &[u8]) -> Result<T> {
    decode(bytes)
}
