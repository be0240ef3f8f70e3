"""Types of the compiled core (`core/src/python.rs`): opaque handles out, sealed bytes in.

Statements, records and messages are `bytes` exactly as they were signed. A *view* is a plain dict of a
statement's public fields (names as in `docs/protocol.cddl`), with `label`, `signer` and `hash` added;
identifiers of bytes stay bytes, names are `str`. Every failed check raises `CoreError`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final

View = dict[str, Any]

CODES: list[str]
"""Every code that a `CoreError` can have."""

class CoreError(Exception):
    code: str
    message: str
    culprits: list[str]
    complaints: list[bytes]
    """`Complaint` statements about what the culprits did."""

def build_info() -> dict[str, Any]:
    """`version` (str), `testing` (bool)."""

def harden_process() -> bool:
    """No core dumps, not dumpable, secrets' memory locked. False when it could not be locked, and
    QUORATE_ALLOW_UNLOCKED_MEMORY=1 allows that; else raises `CoreError` (`memory_lock`).
    """

def encode(value: object) -> bytes:
    """Canonical CBOR of None, bool, int ≥ 0, bytes, str and lists of these."""

def decode(data: bytes) -> Any:
    """The strict inverse of `encode`. Raises `CoreError` (`bad_encoding`, `too_large`)."""

def view(statement: bytes) -> View:
    """A statement's public view; its signature is NOT checked here."""

def view_approved(statement: bytes) -> View:
    """The same for an operator-signed statement."""

def token_key_version(token: bytes) -> int:
    """The domain's key version that an export token names; nothing of it is verified."""

def view_invitation(invitation: str) -> View:
    """`token` (a view of it), `operator` (key), `tls_root` (DER); the secret is left out."""

def write_tls_key(path: Path) -> bytes:
    """Makes a P-256 TLS key in a PEM file of mode 0600; returns its SubjectPublicKeyInfo (DER)."""

@final
class Operator:
    """The operator key: signs what a hub must not decide alone. Lives with the CLI only."""

    @staticmethod
    def create(
        path: Path, *, region: str, account: str, not_before: int, passphrase_file: Path | None = None
    ) -> Operator:
        """Makes the key (and the fleet's id) in directory `path`. Raises if one is there already."""
    @staticmethod
    def open(path: Path, *, passphrase_file: Path | None = None) -> Operator: ...
    @property
    def fleet(self) -> bytes: ...
    @property
    def public_key(self) -> bytes: ...
    @property
    def tls_root(self) -> bytes:
        """The operator's TLS root certificate (DER)."""
    @property
    def fleet_info(self) -> bytes:
        """The operator-signed `FleetInfo`."""
    def invite(
        self,
        *,
        name: str,
        role: str,
        zone: str,
        enrol_address: str,
        expires: int,
        fingerprint: bytes | None = None,
    ) -> tuple[bytes, str]:
        """(the signed token for the hub, the invitation text for the node)."""
    def approve_entry(self, request: bytes, *, not_before: int) -> tuple[bytes, bytes]:
        """Signs a roster entry for a verified `EnrolRequest`: (entry, module's TLS CA certificate, DER)."""
    def retire(self, entry: bytes) -> bytes:
        """Signs the next version of a roster entry: the module is retired for good."""
    def charter(
        self,
        *,
        domain: str,
        allowed: Sequence[tuple[str, str]],
        threshold_floor: int,
        mode: str,
        dealer: str,
        root_rule: str = "any",
        uses_per_epoch: int,
        rate_per_second: int,
        burst: int,
        lease_seconds: int,
        lease_uses: int,
        parent: bytes | None = None,
    ) -> bytes: ...
    def new_access_secret(self, hub_entry: bytes) -> tuple[str, str, bytes]:
        """(access key id, secret access key, the secret sealed to the hub's module)."""
    def access_key(
        self,
        *,
        access_key_id: str,
        user: str,
        role: str,
        enabled: bool,
        created: int,
        sealed: bytes,
        parent: bytes | None = None,
        secret: str | None = None,
    ) -> bytes:
        """Signs the next version after `parent`. `sealed` is what `parent` has, or is committed to `secret`; else
        `CoreError` (`key_commitment`).
        """

@final
class Module:
    """One HSM module: an identity, a sealed vault and a fixed command set."""

    @staticmethod
    def create(path: Path, name: str, *, passphrase_file: Path | None = None) -> Module: ...
    @staticmethod
    def open(path: Path, *, passphrase_file: Path | None = None) -> Module: ...
    def close(self) -> None:
        """Erases every lease, session and key in memory, and releases the vault."""
    @property
    def name(self) -> str: ...
    @property
    def fleet(self) -> bytes | None: ...
    @property
    def role(self) -> str | None:
        """From the roster; None before enrolment."""
    @property
    def boot(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def fingerprint(self) -> bytes:
        """SHA-256 over the module's public keys; what an operator compares."""
    @property
    def failed(self) -> bool:
        """True after a failed write or fsync: the process must stop."""
    @property
    def failure(self) -> str | None:
        """Which file of the vault failed, why, and what to do, once a command has come upon it."""

    # --- enrolment, roster, fleet key
    def pin(self, fleet_info: bytes, operator: bytes) -> None: ...
    def enrol_request_hub(self, *, zone: str, address: str) -> bytes: ...
    def enrol_request(self, invitation: str, *, address: str) -> bytes:
        """Pins the invitation's operator key and fleet, and asks for the place that its token names."""
    def tls_spki(self) -> bytes: ...
    def certify_tls(self, spki: bytes, *, names: Sequence[str], not_before: int, not_after: int) -> bytes:
        """A TLS leaf certificate (DER) for `spki` (DNS names and IP addresses), signed by this module's CA."""
    def install_roster(self, roster: bytes) -> View:
        """Verifies (operator-signed entries, hub's signature, version above or equal), stores durably."""
    def roster(self) -> bytes | None: ...
    def entries(self) -> list[View]:
        """Views of the roster's entries, active and retired, with `statement` and `fingerprint` added."""
    def accept_rekey(self, rekey: bytes, *, window: int | None = None) -> int:
        """Opens and stores a fleet key; returns its fleet epoch. `window`: seconds in which the one before it still
        opens messages (an hour, and at most a week).
        """
    def fleet_key(self) -> View:
        """epoch, previous (while its key is here), keys (that have material), keys_left (ids of those that are not
        under the newest fleet key), access_left and uncommitted (ids of access keys).
        """
    def fleet_key_kept(self) -> bytes:
        """The `FleetKeyKept` receipt of the newest fleet key."""
    def retire_fleet_key(self, receipts: Sequence[bytes]) -> bytes:
        """Erases the fleet key before the newest, on `FleetKeyKept` receipts of the hub and most modules; the
        `FleetKeyRetired` receipt.
        """
    def renew_outer(self, key_id: bytes) -> bytes:
        """The next version of a `KeyRecord`, its material under the newest fleet key; not learnt yet."""

    # --- fleet messages
    def seal(self, to: str, kind: str, body: bytes) -> bytes: ...
    def hellos(self, to: str) -> list[bytes]:
        """`link/hello` to `to`, under each fleet key that is accepted here."""
    def open_message(self, message: bytes) -> tuple[str, str, bytes]:
        """(sender, kind, body). Raises with a named reason for what is not for us, seen, or not verified."""
    def peer_boot(self, peer: str) -> int | None:
        """The boot number under which `peer` said hello last; None before it has."""
    def peer_version(self, peer: str) -> int | None:
        """The version of messages to `peer`, the newest that both speak; None before it has said hello."""
    def opened_versions(self) -> dict[int, int]:
        """How many messages were opened since the start, hellos left out, by version."""
    def mark(self) -> bytes:
        """How far this module's vault has come: a `Mark`."""
    def note_mark(self, peer: str, mark: bytes) -> None:
        """Raises `rolled_back` where `peer` has not come from where it was seen last."""
    def keep_marks(self) -> bool:
        """Writes the marks that came since the last time; whether there were any."""
    def mark_of(self, peer: str) -> bytes | None:
        """The newest `Mark` of `peer` that is known here."""
    def evidence(self, peer: str) -> bytes:
        """A sealed `link/behind`, for a peer that runs on an older copy of its vault."""
    def take_evidence(self, mark: bytes) -> bool:
        """True if this mark of its own proves that this module's vault is an older copy: then every share here is
        barred durably, and the module goes on under a boot number above all that it has seen.
        """
    def verify(self, statement: bytes) -> View:
        """A statement's view, its signature checked against the roster."""

    # --- hub only
    def found_fleet(self, entry: bytes) -> bytes:
        """Makes the fleet key (fleet epoch 1) and roster 1 with the hub's own entry; returns the roster."""
    def check_enrolment(self, request: bytes, token: bytes, *, now: int) -> View:
        """Verifies request against token and roster (keys fresh, names fresh, secret right, not expired).

        Returns the request's view, its token secret left out, with `fingerprint` added."""
    def admit(self, entry: bytes) -> bytes:
        """A new roster version with this entry added or replaced (same name, next version)."""
    def rekey_for(self, node: str) -> bytes: ...
    def rotate_fleet_key(self, *, window: int) -> int:
        """Makes the key of the next fleet epoch. Refused while the one before the newest is here."""
    def renew_access(self, access_key_id: str) -> bytes:
        """An `AccessSeal` of this access key under the newest fleet key; not learnt yet."""
    def plan(
        self,
        *,
        charter: bytes,
        purpose: str,
        from_epoch: int,
        to_epoch: int,
        threshold: int,
        dealers: Sequence[tuple[str, int | None]],
        committee: Sequence[tuple[int, str, str]],
        key_version: int = 1,
    ) -> bytes: ...
    def configure(self, plan: bytes, dealings: Sequence[bytes], sealed: Sequence[Sequence[bytes]]) -> bytes:
        """The `Configuration` that the dealings come to; `sealed`: the sub-shares that came with each."""
    def grant(self, request: bytes, called: Sequence[tuple[int, str, tuple[int, int]]]) -> bytes:
        """A `Grant`; `called`: index, node, fence as (term, number)."""
    def reseal_access_secret(self, access_key_id: str, sealed: bytes) -> bytes: ...

    # --- epochs
    def accept_plan(self, plan: bytes, charter: bytes) -> list[bytes]:
        """Burns the plan's number durably, makes plan-bound KEM keys; returns a `PlanKey` for each own index."""
    def deal(
        self, plan: bytes, charter: bytes, plan_keys: Sequence[bytes]
    ) -> list[tuple[bytes, list[bytes]]]:
        """For each own index among the dealers: (the `Dealing`, the sealed sub-shares in committee order, empty for a
        seat without a `PlanKey`). Once for a number, ever.
        """
    def prepare(
        self, configuration: bytes, dealings: Sequence[bytes], sealed: Sequence[tuple[int, int, bytes]]
    ) -> list[bytes]:
        """Verifies, assembles, stores; `sealed`: (own index, dealer's position, sub-share). Receipts. Where a sub-share
        is wrong, the error has a signed `Complaint` about each that is.
        """
    def answer_complaint(self, configuration: bytes, complaint: bytes) -> bytes:
        """The `Opening` of what this module dealt to the index that complains; it leaves the attempt with it."""
    def judge(
        self, configuration: bytes, dealing: bytes, complaint: bytes, opening: bytes | None = None
    ) -> View:
        """`convicted` (a node), `reason` (`false_complaint` | `wrong_sub_share` | `silent`), `proven` (bool: all but
        silence, which is what no opening means).
        """
    def activate(
        self, configuration: bytes, receipts: Sequence[bytes], dealings: Sequence[bytes]
    ) -> list[bytes]:
        """Checks the commit certificate, makes the epoch current. `Activated` receipts: none where this module did not
        prepare it. Then `dealings` are needed, if it has held a share of the domain.
        """
    def erase(self, receipts: Sequence[bytes]) -> bytes:
        """Erases all shares before the epoch whose `Activated` receipts these are; the `Erased` statement."""
    def commit_certificate(self, domain: str) -> tuple[bytes, list[bytes], list[bytes]]:
        """The current epoch's `Configuration`, the `Prepared` receipts that it was committed on, and the dealings that
        it is made of, none where an earlier release made it current.
        """
    def abort_plan(self, plan_hash: bytes) -> None:
        """Erases the plan's KEM keys, and what was kept of its dealings."""
    def epochs(self, domain_name: str | None = None) -> list[View]:
        """domain, epoch, configuration (hash), state (`pending`|`current`|`retired`), indices, threshold, barred,
        worn, `statement`; of all domains, or of one.
        """
    def is_worn(self, domain_name: str) -> bool:
        """Whether a shard of the current epoch has given so many answers that it is to be replaced."""
    def charter(self, domain_name: str) -> bytes | None:
        """The newest charter of the domain that this module knows."""
    def configuration(self, domain: str) -> bytes | None:
        """The current epoch's `Configuration` statement."""

    # --- sessions
    def open_session(self, domain: str) -> tuple[bytes, bytes]:
        """(session id, `SessionRequest`)."""
    def answer(self, grant: bytes) -> View:
        """session, domain, epoch, requester, called (list of (index, node)), given.

        `given`, for each own index that the grant calls: (index, `Answer`, None), the shard counted durably and
        sealed; or (index, `Refusal`, reason)."""
    def receive(self, answer: bytes) -> View:
        """state (`collecting`|`combined`), have, need, culprits (list of (index, node)), closed (bytes|None).

        `combined`: the domain is under a lease now, and `closed` is to be sent to hub and holders."""
    def abandon(self, session: bytes, outcome: str) -> bytes:
        """Forgets the session; returns its `Closed`."""
    def close_session(self, closed: bytes) -> None:
        """Frees the slots that the session held here."""
    def lease(self, domain: str) -> View | None:
        """seconds_left (float), uses_left, seconds, uses."""
    def lock(self, domain: str) -> bool:
        """Drops the leases of all the domain's key versions now; True if there was one."""

    def drop_uses(self) -> None:
        """Erases leases, open sessions, signing keys and plans' keys: this process begins to stop."""

    # --- records (charters, access keys, KMS keys, aliases)
    def learn(self, statements: Sequence[bytes]) -> list[str]:
        """Verifies and stores durably, in one commit. For each: `new`, `known`, or a refusal's error code."""
    def records(self, kind: Literal["charter", "access", "key", "alias", "seal"]) -> list[bytes]: ...
    def make_key(
        self, *, key_id: bytes, domain: str, description: str, tags: Sequence[tuple[str, str]], created: int
    ) -> bytes:
        """A first `KeyRecord` with fresh backing key; needs a lease of the domain. Not learnt yet."""
    def revise_key(self, key_id: bytes, *, state: str, deletion: int | None) -> bytes:
        """The next version of a known key's record; not learnt yet."""
    def key_sharings(self, key_id: bytes) -> tuple[str, str]:
        """The sharing whose lease a use of the key takes, and the one that its record's token names."""
    def newest_sharing(self, domain: str) -> str:
        """The sharing that a new key is wrapped under. Raises `CoreError` (`not_a_member`) where none is known."""
    def rewrap_key(self, key_id: bytes) -> bytes:
        """The next `KeyRecord`, wrapped under the domain's newest key version; needs leases of both. Not learnt yet.
        Raises `CoreError` (`bad_state`) when it is so already, and rightly."""
    def unchecked_keys(self, domain: str) -> list[bytes]:
        """Keys whose new token was not found yet to hold what the one before holds."""
    def check_rewrapped(self, key_id: bytes) -> None:
        """Opens a key's new token and the one before, under leases of both versions, and compares. Raises `CoreError`
        (`wrong_material`; its culprit signed the new one); the one before stays in use."""
    def clean(self, domain: str, key_version: int) -> bytes:
        """The statement that nothing here needs this key version of the domain any more."""
    def drop_version(self, cleans: Sequence[bytes]) -> bytes:
        """Erases every share of the version that all members of the next say is not needed; the `Dropped` statement."""
    def revise_alias(self, alias: str, *, target: bytes | None, now: int) -> bytes: ...

    # --- what a client asked for
    def encrypt(self, key_id: bytes, plaintext: bytes, context: Sequence[tuple[str, str]]) -> bytes: ...
    def decrypt(self, blob: bytes, context: Sequence[tuple[str, str]]) -> bytes: ...
    def reencrypt(
        self,
        blob: bytes,
        context: Sequence[tuple[str, str]],
        key_id: bytes,
        new_context: Sequence[tuple[str, str]],
    ) -> bytes: ...
    def data_key(
        self, key_id: bytes, length: int, context: Sequence[tuple[str, str]], *, plaintext: bool
    ) -> tuple[bytes | None, bytes]: ...
    def blob_key(self, blob: bytes) -> bytes:
        """The id of the key that a ciphertext blob names."""
    def random(self, length: int) -> bytes: ...
    def check_signature(
        self, access_key_id: str, date: str, region: str, service: str, string_to_sign: bytes, signature: str
    ) -> tuple[str, str]:
        """(user, role). Raises `CoreError` (`bad_signature`) for an unknown, disabled or wrong one alike."""

    # --- `testing` builds only
    def corrupt_answers(self, on: bool) -> None: ...
