"""Clients that remember: KMS calls of every kind, each answer checked against what the client knows.

A *wrong result* is an answer that contradicts it: another plaintext, a context that should have been refused, a key
that is not there any more. An *error* is a call that failed after the SDK's own retries. What an SDK retried was no
error, and is counted by its cause.

Here: the operations, and what is known. Not here: which fleet, and what happens to it meanwhile.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from tally import Tally

LOST = frozenset(
    {
        "NotFoundException",
        "AccessDeniedException",
        "InvalidCiphertextException",
        "IncorrectKeyException",
        "DisabledException",
        "KMSInvalidStateException",
    }
)
"""Refusals that a call with a known key and a blob of its own must never get."""
KEPT_BLOBS = 500
"""By each client; beyond that, a new one takes the place of a random one, so that some become old."""

Members = dict[str, Any]


class Keys:
    """The ARNs of keys that were made, by whichever client; all may use them from then on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arns: list[str] = []

    def add(self, arn: str) -> None:
        with self._lock:
            self._arns.append(arn)

    def all(self) -> list[str]:
        with self._lock:
            return list(self._arns)


@dataclass(frozen=True)
class Sealed:
    """A blob, and everything that is known of it."""

    blob: bytes
    plaintext: bytes
    context: dict[str, str]
    key: str


class _Over(Exception):
    """A call came to nothing, and this has been counted: what was to follow is left out."""


class Client:
    """One client: a boto3 client of its own, its blobs, and the operations on them. `name` chooses its random bits."""

    def __init__(self, name: str, seed: int, kms: Any, keys: Keys, tally: Tally) -> None:
        self._name = name
        self._rng = random.Random(f"{seed}/{name}")
        self._kms = kms
        self._keys = keys
        self._tally = tally
        self._blobs: list[Sealed] = []
        self._causes: list[str] = []
        self._aliases = 0
        kms.meta.events.register("needs-retry.kms", self._note_attempt)
        now = time.monotonic()
        self._create_at = now + self._rng.uniform(10, 120)
        self._alias_at = now + self._rng.uniform(0, 20)
        self._reconnect_at = now + self._rng.uniform(5, 20)
        self._mix: list[tuple[int, Callable[[], None]]] = [
            (18, self._encrypt),
            (38, self._decrypt),
            (12, self._data_key),
            (8, self._data_key_without_plaintext),
            (8, self._reencrypt),
            (8, self._wrong_context),
            (5, self._describe),
            (2, self._list),
        ]

    def run(self, stop: threading.Event, pause: float) -> None:
        """Calls until `stop`, `pause` seconds (half to one and a half times as many) between two operations."""
        weights, operations = zip(*self._mix, strict=True)
        self._guarded(self._create)
        while not stop.wait(self._rng.uniform(0.5, 1.5) * pause):
            now = time.monotonic()
            if (
                now >= self._reconnect_at
            ):  # or all kept connections would end up at the node that is never killed
                self._kms.close()
                self._reconnect_at = now + self._rng.uniform(5, 20)
            if now >= self._create_at or not self._keys.all():
                self._create_at = now + self._rng.uniform(60, 180)
                self._guarded(self._create)
            elif now >= self._alias_at:
                self._alias_at = now + self._rng.uniform(10, 30)
                self._guarded(self._alias)
            else:
                self._guarded(self._rng.choices(operations, weights)[0])
        self._kms.close()

    def _guarded(self, operation: Callable[[], None]) -> None:
        try:
            operation()
        except _Over:
            return
        except Exception as why:  # a fault of this program, or an answer that lacks a member
            self._tally.wronged(operation.__name__.strip("_"), f"{type(why).__name__}: {why}")

    # The operations.

    def _create(self) -> None:
        made = self._call("create_key", {"Description": f"soak {self._name}"})
        self._keys.add(made["KeyMetadata"]["Arn"])

    def _encrypt(self) -> None:
        key, plaintext, context = self._key(), self._plaintext(), self._context()
        given = {"KeyId": key, "Plaintext": plaintext, "EncryptionContext": context}
        answer = self._call("encrypt", given)
        self._same("encrypt", "key", answer["KeyId"], key)
        self._keep(Sealed(answer["CiphertextBlob"], plaintext, context, key))

    def _decrypt(self) -> None:
        self._opens(self._blob())

    def _data_key(self) -> None:
        key, context = self._key(), self._context()
        size = self._rng.choice((16, 32, 64, 200))
        given = {"KeyId": key, "NumberOfBytes": size, "EncryptionContext": context}
        answer = self._call("generate_data_key", given)
        self._same("generate_data_key", "key", answer["KeyId"], key)
        self._same("generate_data_key", "length", len(answer["Plaintext"]), size)
        self._keep(Sealed(answer["CiphertextBlob"], answer["Plaintext"], context, key))

    def _data_key_without_plaintext(self) -> None:
        key, context = self._key(), self._context()
        given = {"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": context}
        blob = self._call("generate_data_key_without_plaintext", given)["CiphertextBlob"]
        answer = self._call("decrypt", {"CiphertextBlob": blob, "EncryptionContext": context})
        self._same("decrypt", "length", len(answer["Plaintext"]), 32)
        self._keep(Sealed(blob, answer["Plaintext"], context, key))

    def _reencrypt(self) -> None:
        old, key, context = self._blob(), self._key(), self._context()
        given = {
            "CiphertextBlob": old.blob,
            "SourceEncryptionContext": old.context,
            "DestinationKeyId": key,
            "DestinationEncryptionContext": context,
        }
        answer = self._call("re_encrypt", given)
        self._same("re_encrypt", "source key", answer["SourceKeyId"], old.key)
        self._same("re_encrypt", "key", answer["KeyId"], key)
        new = Sealed(answer["CiphertextBlob"], old.plaintext, context, key)
        self._opens(new)
        self._keep(new)

    def _wrong_context(self) -> None:
        one = self._blob()
        wrong = one.context | {"not": "this"} if self._rng.random() < 0.5 else {}
        if wrong == one.context:
            wrong = {"tenant": "?"}
        given = {"CiphertextBlob": one.blob, "EncryptionContext": wrong}
        if self._call("decrypt", given, refusals={"InvalidCiphertextException"}) is not None:
            self._tally.wronged("decrypt", f"a blob sealed with {one.context} was opened with {wrong}")

    def _describe(self) -> None:
        key = self._key()
        self._describes(key, key)

    def _list(self) -> None:
        known = self._keys.all()
        listed: set[str] = set()
        marker: Members = {}
        while True:
            page = self._call("list_keys", {"Limit": 50, **marker})
            listed.update(key["KeyArn"] for key in page["Keys"])
            if not page["Truncated"]:
                break
            marker = {"Marker": page["NextMarker"]}
        if missing := set(known) - listed:
            self._tally.wronged("list_keys", f"not listed: {', '.join(sorted(missing))}")

    def _alias(self) -> None:
        """Made, used, listed, taken away. After a retry, an answer may tell that the first attempt did it."""
        self._aliases += 1  # few names, again and again: nodes keep the last version of each record for good
        name, key = f"alias/soak/{self._name}-{self._aliases % 4}", self._key()
        self._call("create_alias", {"AliasName": name, "TargetKeyId": key}, again={"AlreadyExistsException"})
        self._describes(name, key)
        listed = self._call("list_aliases", {"KeyId": key, "Limit": 100})["Aliases"]
        if name not in (alias["AliasName"] for alias in listed):
            self._tally.wronged("list_aliases", f"{name} is not listed for {key}")
        plaintext, context = self._plaintext(), self._context()
        given = {"KeyId": name, "Plaintext": plaintext, "EncryptionContext": context}
        answer = self._call("encrypt", given)
        self._same("encrypt", "key", answer["KeyId"], key)
        self._opens(Sealed(answer["CiphertextBlob"], plaintext, context, key))
        self._call("delete_alias", {"AliasName": name}, again={"NotFoundException"})
        if self._call("describe_key", {"KeyId": name}, refusals={"NotFoundException"}) is not None:
            self._tally.wronged("describe_key", f"{name} was deleted, and still names a key")

    def _opens(self, one: Sealed) -> None:
        given = {"CiphertextBlob": one.blob, "EncryptionContext": one.context}
        answer = self._call("decrypt", given)
        self._same("decrypt", "key", answer["KeyId"], one.key)
        if answer["Plaintext"] != one.plaintext:
            self._tally.wronged("decrypt", "another plaintext than was sealed")

    def _describes(self, name: str, key: str) -> None:
        found = self._call("describe_key", {"KeyId": name})["KeyMetadata"]
        self._same("describe_key", "key", found["Arn"], key)
        self._same("describe_key", "state", found["KeyState"], "Enabled")

    def _same(self, operation: str, what: str, got: Any, wanted: Any) -> None:
        if got != wanted:
            self._tally.wronged(operation, f"{what}: {got}, not {wanted}")

    # What it knows.

    def _key(self) -> str:
        return self._rng.choice(self._keys.all())

    def _plaintext(self) -> bytes:
        return self._rng.randbytes(self._rng.choice((1, 32, 256, 4096)))

    def _context(self) -> dict[str, str]:
        names = self._rng.sample(("tenant", "purpose", "größe"), self._rng.randrange(4))
        return {name: str(self._rng.randrange(1000)) for name in names}

    def _blob(self) -> Sealed:
        if not self._blobs:
            self._encrypt()
        return self._rng.choice(self._blobs)

    def _keep(self, one: Sealed) -> None:
        if len(self._blobs) < KEPT_BLOBS:
            self._blobs.append(one)
        else:
            self._blobs[self._rng.randrange(KEPT_BLOBS)] = one

    # One call.

    def _call(
        self,
        operation: str,
        members: Members,
        *,
        refusals: frozenset[str] | set[str] = frozenset(),
        again: frozenset[str] | set[str] = frozenset(),
    ) -> Any:
        """The answer; None for a refusal that is wanted. `again`: refusals that say, after a retry, that an attempt
        without an answer had done it. Raises `_Over` once a failure has been counted.
        """
        self._causes = []
        begun = time.perf_counter()
        try:
            answer = getattr(self._kms, operation)(**members)
        except ClientError as why:
            code, retries = why.response["Error"]["Code"], why.response["ResponseMetadata"]["RetryAttempts"]
            self._tally.called(operation, time.perf_counter() - begun, retries)
            if code in refusals or (code in again and retries > 0):
                return None
            if code in LOST:
                self._tally.wronged(operation, f"{why} ({members.get('KeyId', 'a blob of its own')})")
            else:
                self._tally.failed(operation, str(why), self._causes)
            raise _Over from why
        except BotoCoreError as why:
            self._tally.called(operation, time.perf_counter() - begun, max(0, len(self._causes) - 1))
            self._tally.failed(operation, f"{type(why).__name__}: {why}", self._causes)
            raise _Over from why
        self._tally.called(
            operation, time.perf_counter() - begun, answer["ResponseMetadata"]["RetryAttempts"]
        )
        return answer

    def _note_attempt(
        self, response: tuple[Any, Members] | None, caught_exception: Exception | None, **_rest: Any
    ) -> None:
        """Botocore asks after each attempt whether to retry; this one has no say."""
        if caught_exception is not None:
            cause = type(caught_exception).__name__
        elif response is not None and "Error" in response[1]:
            cause = str(response[1]["Error"]["Code"])
            if response[0].status_code < 500 and cause != "ThrottlingException":
                return
        else:
            return
        self._causes.append(cause)
        self._tally.attempt_failed(cause)
