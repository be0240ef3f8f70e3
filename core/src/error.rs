//! The one error type of the core: a stable code, a sentence for people, and, where a member
//! misbehaved, who. Never a secret, never a key's bytes.

use std::fmt;

use crate::ids::NodeId;

pub type Result<T> = std::result::Result<T, Error>;

macro_rules! codes {
    ($($variant:ident = $text:literal),+ $(,)?) => {
        /// Stable error codes; `docs/errors.md` and the audit log use the text form.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($variant),+ }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

codes! {
    BadEncoding = "bad_encoding",
    BadIndex = "bad_index",
    BadThreshold = "bad_threshold",
    BadScalar = "bad_scalar",
    BadPoint = "bad_point",
    BadCommitments = "bad_commitments",
    BadShare = "bad_share",
    BadCombination = "bad_combination",
    NotEnoughShares = "not_enough_shares",
    BadSignature = "bad_signature",
    UnknownSigner = "unknown_signer",
    WrongKind = "wrong_kind",
    WrongFleet = "wrong_fleet",
    WrongRecipient = "wrong_recipient",
    WrongEpoch = "wrong_epoch",
    UnknownVersion = "unknown_version",
    LowerVersion = "lower_version",
    Replayed = "replayed",
    StaleVersion = "stale_version",
    StaleBoot = "stale_boot",
    RolledBack = "rolled_back",
    StaleFence = "stale_fence",
    NotOpened = "not_opened",
    NotAuthorized = "not_authorized",
    OutsideCharter = "outside_charter",
    NotAMember = "not_a_member",
    SlotBusy = "slot_busy",
    RateLimited = "rate_limited",
    UseLimit = "use_limit",
    NoLease = "no_lease",
    NoSession = "no_session",
    NoFleetKey = "no_fleet_key",
    OldFleetKey = "old_fleet_key",
    UnknownDomain = "unknown_domain",
    UnknownKey = "unknown_key",
    KeyCommitment = "key_commitment",
    WrongMaterial = "wrong_material",
    WeakKey = "weak_key",
    DuplicateKey = "duplicate_key",
    AlreadyExists = "already_exists",
    BadState = "bad_state",
    WrongPassphrase = "wrong_passphrase",
    VaultMissing = "vault_missing",
    VaultCorrupt = "vault_corrupt",
    VaultVersion = "vault_version",
    VaultInUse = "vault_in_use",
    Storage = "storage",
    MemoryLock = "memory_lock",
    SelfTest = "self_test",
    TooLarge = "too_large",
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    pub what: String,
    /// Members proven to have misbehaved; data, so that callers can route around them.
    pub culprits: Vec<NodeId>,
    /// Signed complaints about what they did, for the dispute (docs/protocols/epoch-change.md).
    pub complaints: Vec<Vec<u8>>,
}

impl Error {
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), culprits: Vec::new(), complaints: Vec::new() }
    }

    #[must_use]
    pub fn blaming(mut self, culprit: NodeId) -> Self {
        self.culprits.push(culprit);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.what)
    }
}

impl std::error::Error for Error {}

/// Shorthand for `Err(Error::new(..))`.
pub fn fail<T>(code: Code, what: impl Into<String>) -> Result<T> {
    Err(Error::new(code, what))
}
