//! Every statement of the protocol, with its label: what is signed, by whom, and what it names.
//! `docs/protocol.cddl` describes the same structures for readers outside the core.
//!
//! Not here: checks beyond an encoding's own (those are the commands'), transport, secrets in the clear.

use crate::encoding::Bytes;
use crate::ids::{DomainId, Epoch, FleetId, Hash, NodeId, SessionId, ShareIndex};
use crate::seal::hpke::KemPublic;
use crate::seal::signing::VerifyKey;
use crate::sharing::Commitments;
use crate::{record, statements, words};

words!(
    /// What a module may do in its fleet.
    Role { Hub = "hub", Holder = "holder", Backup = "backup", Recovery = "recovery" }
);
words!(
    /// Whether a roster entry counts.
    Standing { Active = "active", Retired = "retired" }
);
words!(
    /// What a session gives: the domain key under a lease, or partial evaluations.
    Mode { Reconstruct = "reconstruct", Threshold = "threshold" }
);
words!(
    /// Who deals when a domain is created.
    DealerKind { Hub = "hub", Members = "members" }
);
words!(
    /// Why an epoch is made.
    Purpose {
        Create = "create", Refresh = "refresh", Reshare = "reshare", Repair = "repair", Restore = "restore",
        Rotate = "rotate",
    }
);
words!(
    /// How a session ended, in its requester's words.
    Outcome { Combined = "combined", Refused = "refused", Expired = "expired" }
);
words!(
    /// What is wrong with a sealed sub-share: it does not open, or not to its commitment.
    Fault { NotOpened = "not_opened", BadShare = "bad_share" }
);
words!(
    /// A KMS key's state.
    KeyState {
        Enabled = "enabled", Disabled = "disabled", PendingDeletion = "pending-deletion", Deleted = "deleted",
    }
);
words!(
    /// What an access key may do: `user` works with keys, `admin` manages them too.
    AccessRole { Admin = "admin", User = "user" }
);

record! {
    /// What an operator hands to a new node: the token, its secret, and whom to trust.
    pub struct Invitation {
        pub token: Bytes,
        pub secret: [u8; 32],
        pub operator: VerifyKey,
        /// The operator's TLS root certificate (DER).
        pub tls_root: Bytes,
    }
}

record! {
    /// A node that may hold indices of a domain, and in which role.
    pub struct Allowed { pub node: NodeId, pub role: Role }
}

record! {
    /// What a module lets one shard and one lease do.
    pub struct Limits {
        /// Answers that one shard gives in one epoch.
        pub uses_per_epoch: u64,
        /// Answers per second, sustained, and at once.
        pub rate_per_second: u32,
        pub burst: u32,
        pub lease_seconds: u32,
        /// KMS operations under one lease.
        pub lease_uses: u32,
    }
}

record! {
    /// One index of a committee.
    pub struct Seat { pub index: ShareIndex, pub node: NodeId, pub role: Role }
}

record! {
    /// One dealer of a plan; `index` is the old index whose share it deals, none at a creation or a rotation.
    pub struct Dealer { pub node: NodeId, pub index: Option<ShareIndex> }
}

record! {
    /// One shard that a grant calls on, with its fencing number, which is counted anew in each term.
    pub struct Called { pub index: ShareIndex, pub node: NodeId, pub term: u64, pub fence: u64 }
}

record! {
    pub struct Tag { pub key: String, pub value: String }
}

statements! {
    /// What a fleet is called and where it stands; operator-signed once, at `fleet init`.
    pub struct FleetInfo = "quorate/v1/fleet/info" {
        pub fleet: FleetId,
        pub operator: VerifyKey,
        pub region: String,
        pub account: String,
        /// SHA-256 of the operator's TLS root certificate (DER).
        pub tls_root: Hash,
    }

    /// One module's place in the fleet; operator-signed. Names and keys are never used twice.
    pub struct Entry = "quorate/v1/roster/entry" {
        pub fleet: FleetId,
        pub name: NodeId,
        pub version: u64,
        pub parent: Hash,
        pub role: Role,
        pub standing: Standing,
        pub zone: String,
        pub root: String,
        pub address: String,
        pub sign: VerifyKey,
        pub kem: KemPublic,
        /// `SubjectPublicKeyInfo` (DER) of the module's TLS certifying key.
        pub tls: Bytes,
    }

    /// The fleet's modules at one version; signed by the hub that it lists.
    pub struct Roster = "quorate/v1/roster/roster" {
        pub fleet: FleetId,
        pub version: u64,
        pub parent: Hash,
        /// Operator-signed [`Entry`] statements.
        pub entries: Vec<Bytes>,
    }

    /// Leave for one new module to ask for a place; operator-signed, used once.
    pub struct Token = "quorate/v1/enrol/token" {
        pub fleet: FleetId,
        pub id: [u8; 16],
        pub name: NodeId,
        pub role: Role,
        pub zone: String,
        /// Binds the token to one module's key when the operator knows it beforehand.
        pub fingerprint: Option<Hash>,
        /// SHA-256 of the secret that the invitation carries.
        pub secret_hash: Hash,
        /// Unix seconds.
        pub expires: u64,
        /// `host:port` of the hub's enrolment door.
        pub enrol_address: String,
    }

    /// A new module asks for its place; signed by the key that it names.
    pub struct EnrolRequest = "quorate/v1/enrol/request" {
        pub fleet: FleetId,
        pub token_id: [u8; 16],
        pub token_secret: [u8; 32],
        pub name: NodeId,
        pub role: Role,
        pub zone: String,
        pub root: String,
        pub address: String,
        pub sign: VerifyKey,
        pub kem: KemPublic,
        pub tls: Bytes,
    }

    /// A fleet key, sealed to one module's long-term KEM key; the one message outside the fleet layer.
    pub struct Rekey = "quorate/v1/fleet/rekey" {
        pub fleet: FleetId,
        pub fleet_epoch: u64,
        pub recipient: NodeId,
        pub sealed: Bytes,
    }

    /// Receipt: the fleet key of this fleet epoch lies durably in the signer's vault.
    pub struct FleetKeyKept = "quorate/v1/fleet/key-kept" {
        pub fleet: FleetId,
        pub fleet_epoch: u64,
    }

    /// Receipt: no fleet key of a fleet epoch below this one is left in the signer's vault.
    pub struct FleetKeyRetired = "quorate/v1/fleet/key-retired" {
        pub fleet: FleetId,
        pub below: u64,
    }

    /// How far a module's vault has come; signed by that module.
    pub struct Mark = "quorate/v1/fleet/mark" {
        pub fleet: FleetId,
        /// The number of its start, and what tells this start from another one of the same number.
        pub boot: u64,
        pub start: [u8; 16],
        /// The vault's generation when the start began, and now.
        pub began: u64,
        pub generation: u64,
    }

    /// What a domain may become; operator-signed. A hub acts inside it, never beyond.
    pub struct Charter = "quorate/v1/domain/charter" {
        pub fleet: FleetId,
        pub domain: DomainId,
        pub version: u64,
        pub parent: Hash,
        pub allowed: Vec<Allowed>,
        pub threshold_floor: u8,
        pub mode: Mode,
        pub dealer: DealerKind,
        /// The root every holder must have, or `any`.
        pub root_rule: String,
        pub limits: Limits,
    }

    /// One attempt at an epoch; hub-signed.
    pub struct Plan = "quorate/v1/epoch/plan" {
        pub fleet: FleetId,
        pub domain: DomainId,
        pub charter: Hash,
        pub purpose: Purpose,
        pub from_epoch: Epoch,
        pub to_epoch: Epoch,
        pub mode: Mode,
        pub threshold: u8,
        pub margin: u8,
        pub dealers: Vec<Dealer>,
        pub committee: Vec<Seat>,
    }

    /// A recipient's KEM key for one index of one plan.
    pub struct PlanKey = "quorate/v1/epoch/plan-key" {
        pub fleet: FleetId,
        pub domain: DomainId,
        pub plan: Hash,
        pub index: ShareIndex,
        pub kem: KemPublic,
    }

    /// One dealer's polynomial, public part; `sealed` hashes the sealed sub-shares in committee order.
    pub struct Dealing = "quorate/v1/epoch/dealing" {
        pub fleet: FleetId,
        pub domain: DomainId,
        pub to_epoch: Epoch,
        pub plan: Hash,
        pub index: Option<ShareIndex>,
        pub commitments: Commitments,
        pub sealed: Vec<Hash>,
    }

    /// The epoch that a plan came to; hub-signed. Its hash names the epoch from here on.
    pub struct Configuration = "quorate/v1/epoch/configuration" {
        pub fleet: FleetId,
        pub domain: DomainId,
        pub epoch: Epoch,
        /// The [`Plan`] statement, as signed.
        pub plan: Bytes,
        /// Hashes of the [`Dealing`] statements, in the plan's order of dealers.
        pub dealings: Vec<Hash>,
        /// Commitments of the assembled sharing, constant term first.
        pub commitments: Commitments,
    }

    /// A recipient says that what this dealing has for its index is wrong. Alone it proves nothing.
    pub struct Complaint = "quorate/v1/epoch/complaint" {
        pub fleet: FleetId,
        pub domain: DomainId,
        pub to_epoch: Epoch,
        pub plan: Hash,
        pub configuration: Hash,
        pub dealing: Hash,
        pub index: ShareIndex,
        pub code: Fault,
    }

    /// The dealer's answer to one complaint: all that went into the sealed sub-share, so that anybody can seal it again
    /// and compare.
    pub struct Opening = "quorate/v1/epoch/opening" {
        pub fleet: FleetId,
        pub domain: DomainId,
        pub to_epoch: Epoch,
        /// The [`Complaint`] statement's hash.
        pub complaint: Hash,
        /// The [`PlanKey`] statement that it was sealed to: the recipient may have signed two.
        pub plan_key: Bytes,
        /// f(x) and g(x).
        pub pair: [u8; 64],
        /// The randomness of the encapsulation.
        pub seed: [u8; 64],
    }

    /// Receipt: the new shard of this index lies durably beside the old one.
    pub struct Prepared = "quorate/v1/epoch/prepared" {
        pub fleet: FleetId,
        pub domain: DomainId,
        pub epoch: Epoch,
        pub configuration: Hash,
        pub index: ShareIndex,
    }

    /// Receipt: the epoch is current for this index; no older share leaves the module.
    pub struct Activated = "quorate/v1/epoch/activated" {
        pub fleet: FleetId,
        pub domain: DomainId,
        pub epoch: Epoch,
        pub configuration: Hash,
        pub index: ShareIndex,
    }

    /// Receipt: no share of an epoch below this one is left in the module.
    pub struct Erased = "quorate/v1/epoch/erased" {
        pub fleet: FleetId,
        pub domain: DomainId,
        pub below: Epoch,
        /// The configuration of epoch `below`, which the erase certificate was for.
        pub configuration: Hash,
    }

    /// Nothing in this module needs a domain's key version any more: no key has its token under it, and of each that
    /// was wrapped anew, the new token was opened and has the same material.
    pub struct Clean = "quorate/v1/key/clean" {
        pub fleet: FleetId,
        pub domain: DomainId,
        pub key_version: u64,
    }

    /// Receipt: no share of this key version of the domain, or of one below, is left in the module.
    pub struct Dropped = "quorate/v1/key/dropped" {
        pub fleet: FleetId,
        pub domain: DomainId,
        pub key_version: u64,
    }

    /// A module asks for a session; the KEM key is made for this session alone.
    pub struct SessionRequest = "quorate/v1/session/request" {
        pub fleet: FleetId,
        pub session: SessionId,
        pub domain: DomainId,
        pub epoch: Epoch,
        pub configuration: Hash,
        pub purpose: String,
        pub inputs: Vec<Hash>,
        pub kem: KemPublic,
    }

    /// The hub calls a quorum; carries the requester's own signed request, so it cannot be redirected.
    pub struct Grant = "quorate/v1/session/grant" {
        pub fleet: FleetId,
        /// The [`SessionRequest`] statement, as signed.
        pub request: Bytes,
        pub called: Vec<Called>,
    }

    /// A holder's shard for one session, sealed to the session's key.
    pub struct Answer = "quorate/v1/session/answer" {
        pub fleet: FleetId,
        pub session: SessionId,
        /// Digest of the [`SessionRequest`] statement as signed, its signer included.
        pub request: Hash,
        pub domain: DomainId,
        pub epoch: Epoch,
        pub configuration: Hash,
        pub index: ShareIndex,
        pub term: u64,
        pub fence: u64,
        /// The shard's use counter, this use included.
        pub uses: u64,
        pub sealed: Bytes,
    }

    /// A holder's refusal, with the highest fence that it saw (so that a hub restored from an old copy
    /// can jump ahead for this shard).
    pub struct Refusal = "quorate/v1/session/refusal" {
        pub fleet: FleetId,
        pub session: SessionId,
        pub domain: DomainId,
        pub index: ShareIndex,
        pub reason: String,
        pub term: u64,
        pub fence: u64,
    }

    /// The requester's last word on a session; frees the holders' slots.
    pub struct Closed = "quorate/v1/session/closed" {
        pub fleet: FleetId,
        pub session: SessionId,
        pub domain: DomainId,
        pub outcome: Outcome,
        /// Indices whose answers did not open their commitment.
        pub culprits: Vec<ShareIndex>,
    }

    /// A KMS key: its public state, and its material as an export token. Signed by the module that made
    /// this version.
    pub struct KeyRecord = "quorate/v1/record/key" {
        pub fleet: FleetId,
        pub key_id: [u8; 16],
        pub version: u64,
        pub parent: Hash,
        pub domain: DomainId,
        pub state: KeyState,
        pub description: String,
        pub tags: Vec<Tag>,
        /// Unix milliseconds.
        pub created: u64,
        /// Unix milliseconds; set while deletion is pending.
        pub deletion: Option<u64>,
        pub key_version: u32,
        /// None once the key is deleted.
        pub token: Option<Bytes>,
    }

    /// An alias; no target once deleted.
    pub struct AliasRecord = "quorate/v1/record/alias" {
        pub fleet: FleetId,
        pub alias: String,
        pub version: u64,
        pub parent: Hash,
        pub target: Option<[u8; 16]>,
        /// Unix milliseconds.
        pub created: u64,
        pub updated: u64,
    }

    /// An access key; operator-signed. The secret lies sealed under the fleet key.
    pub struct AccessKey = "quorate/v1/access/key" {
        pub fleet: FleetId,
        pub access_key_id: String,
        pub version: u64,
        pub parent: Hash,
        pub user: String,
        pub role: AccessRole,
        pub enabled: bool,
        /// Unix milliseconds.
        pub created: u64,
        pub sealed: Bytes,
    }

    /// The secret of one version of an access key under another fleet key; hub-signed. A module takes it only if the
    /// secret is the one that it knows, or that the operator committed to.
    pub struct AccessSeal = "quorate/v1/access/seal" {
        pub fleet: FleetId,
        pub access_key_id: String,
        pub access_version: u64,
        pub fleet_epoch: u64,
        pub sealed: Bytes,
    }
}
