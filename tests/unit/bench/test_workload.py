"""What the soak's clients take for wrong, and what for an error: against a KMS in memory that has one fault."""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from tally import Tally
from workload import Client, Keys


def refusal(code: str, retries: int = 0) -> ClientError:
    metadata = {"RetryAttempts": retries, "HTTPStatusCode": 400}
    return ClientError({"Error": {"Code": code, "Message": ""}, "ResponseMetadata": metadata}, "Any")


class Kms:
    """Answers as it should, but for the operations in `faults`, which get the right answer to spoil."""

    def __init__(self, faults: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]]) -> None:
        self.faults = faults
        self.meta = SimpleNamespace(events=SimpleNamespace(register=lambda name, handler: None))
        self.keys: list[str] = []
        self.aliases: dict[str, str] = {}
        self.blobs: dict[bytes, tuple[bytes, dict[str, str], str]] = {}

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        answers = getattr(type(self), f"on_{operation}")

        def call(**given: Any) -> dict[str, Any]:
            answer = answers(self, given) | {"ResponseMetadata": {"RetryAttempts": 0}}
            fault = self.faults.get(operation)
            return answer if fault is None else fault(given, answer)

        return call

    def key(self, name: str) -> str:
        name = self.aliases.get(name, name)
        if name not in self.keys:
            raise refusal("NotFoundException")
        return name

    def seal(self, plaintext: bytes, context: dict[str, str], key: str) -> dict[str, Any]:
        blob = uuid4().bytes
        self.blobs[blob] = plaintext, context, self.key(key)
        return {"CiphertextBlob": blob, "KeyId": self.key(key)}

    def open(self, blob: bytes, context: dict[str, str]) -> tuple[bytes, str]:
        plaintext, wanted, key = self.blobs[blob]
        if context != wanted:
            raise refusal("InvalidCiphertextException")
        return plaintext, key

    def on_create_key(self, _given: dict[str, Any]) -> dict[str, Any]:
        self.keys.append(f"arn:{len(self.keys)}")
        return {"KeyMetadata": {"Arn": self.keys[-1]}}

    def on_describe_key(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"KeyMetadata": {"Arn": self.key(given["KeyId"]), "KeyState": "Enabled"}}

    def on_list_keys(self, _given: dict[str, Any]) -> dict[str, Any]:
        return {"Keys": [{"KeyArn": key} for key in self.keys], "Truncated": False}

    def on_encrypt(self, given: dict[str, Any]) -> dict[str, Any]:
        return self.seal(given["Plaintext"], given["EncryptionContext"], given["KeyId"])

    def on_decrypt(self, given: dict[str, Any]) -> dict[str, Any]:
        plaintext, key = self.open(given["CiphertextBlob"], given["EncryptionContext"])
        return {"Plaintext": plaintext, "KeyId": key}

    def on_generate_data_key(self, given: dict[str, Any]) -> dict[str, Any]:
        plaintext = os.urandom(given.get("NumberOfBytes", 32))
        return {"Plaintext": plaintext} | self.seal(plaintext, given["EncryptionContext"], given["KeyId"])

    on_generate_data_key_without_plaintext = on_generate_data_key

    def on_re_encrypt(self, given: dict[str, Any]) -> dict[str, Any]:
        plaintext, key = self.open(given["CiphertextBlob"], given["SourceEncryptionContext"])
        sealed = self.seal(plaintext, given["DestinationEncryptionContext"], given["DestinationKeyId"])
        return sealed | {"SourceKeyId": key}

    def on_create_alias(self, given: dict[str, Any]) -> dict[str, Any]:
        self.aliases[given["AliasName"]] = given["TargetKeyId"]
        return {}

    def on_list_aliases(self, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "Aliases": [{"AliasName": name} for name, key in self.aliases.items() if key == given["KeyId"]]
        }

    def on_delete_alias(self, given: dict[str, Any]) -> dict[str, Any]:
        del self.aliases[given["AliasName"]]
        return {}


OPERATIONS = (
    "_encrypt",
    "_decrypt",
    "_data_key",
    "_data_key_without_plaintext",
    "_reencrypt",
    "_wrong_context",
    "_describe",
    "_list",
    "_alias",
)


def after(operation: str, **faults: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Tally:
    """What a client has counted after a key, a blob, and then this operation under these faults."""
    tally, kms = Tally(), Kms({})
    client = Client("client-1", 7, kms, Keys(), tally)
    client._guarded(client._create)
    client._guarded(client._encrypt)
    kms.faults = faults
    client._guarded(getattr(client, operation))
    return tally


def fails(why: Exception) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    def fault(_given: dict[str, Any], _answer: dict[str, Any]) -> Any:
        raise why

    return fault


@pytest.mark.parametrize("operation", OPERATIONS)
def test_right_answers_are_neither_wrong_nor_errors(operation: str) -> None:
    tally = after(operation)
    assert (tally.wrong, tally.errors) == ([], [])
    assert tally.total.calls >= 3


@pytest.mark.parametrize("operation", ["_decrypt", "_reencrypt", "_alias"])
def test_another_plaintext_is_wrong(operation: str) -> None:
    tally = after(operation, decrypt=lambda given, answer: answer | {"Plaintext": b"another"})
    assert [told["what"] for told in tally.wrong] == ["another plaintext than was sealed"]


@pytest.mark.parametrize("operation", ["_encrypt", "_data_key", "_decrypt", "_reencrypt"])
def test_another_key_is_wrong(operation: str) -> None:
    def spoil(given: dict[str, Any], answer: dict[str, Any]) -> Any:
        return answer | {"KeyId": "arn:another"}

    tally = after(operation, encrypt=spoil, generate_data_key=spoil, decrypt=spoil, re_encrypt=spoil)
    assert tally.total.wrong >= 1


def test_a_short_data_key_is_wrong() -> None:
    tally = after("_data_key", generate_data_key=lambda given, answer: answer | {"Plaintext": b"short"})
    assert tally.total.wrong == 1


def test_a_context_that_should_have_been_refused_is_wrong() -> None:
    class Lenient(Kms):
        def open(self, blob: bytes, context: dict[str, str]) -> tuple[bytes, str]:
            plaintext, _, key = self.blobs[blob]
            return plaintext, key

    tally = Tally()
    client = Client("client-1", 7, Lenient({}), Keys(), tally)
    for operation in (client._create, client._encrypt, client._wrong_context):
        client._guarded(operation)
    assert tally.total.wrong == 1
    assert "was opened with" in tally.wrong[0]["what"]


def test_a_key_that_is_not_found_any_more_is_wrong() -> None:
    assert after("_describe", describe_key=fails(refusal("NotFoundException"))).total.wrong == 1


def test_a_key_that_is_not_listed_is_wrong() -> None:
    assert after("_list", list_keys=lambda given, answer: answer | {"Keys": []}).total.wrong == 1


def test_a_blob_that_is_refused_is_wrong() -> None:
    assert after("_decrypt", decrypt=fails(refusal("InvalidCiphertextException"))).total.wrong == 1


def test_an_alias_that_outlives_its_deletion_is_wrong() -> None:
    def resurrect(given: dict[str, Any], answer: dict[str, Any]) -> Any:
        return {
            "KeyMetadata": {"Arn": "arn:0", "KeyState": "Enabled"},
            "ResponseMetadata": {"RetryAttempts": 0},
        }

    class Keeps(Kms):
        def on_delete_alias(self, _given: dict[str, Any]) -> dict[str, Any]:
            return {}

    tally = Tally()
    client = Client("client-1", 7, Keeps({}), Keys(), tally)
    client._guarded(client._create)
    client._guarded(client._alias)
    assert [told["operation"] for told in tally.wrong] == ["describe_key"]


@pytest.mark.parametrize(
    "why", [refusal("KeyUnavailableException", 5), ConnectionClosedError(endpoint_url="https://localhost")]
)
def test_what_still_fails_after_the_retries_is_an_error(why: Exception) -> None:
    tally = after("_decrypt", decrypt=fails(why))
    assert (tally.total.errors, tally.total.wrong) == (1, 0)


def test_an_answer_of_another_shape_is_wrong() -> None:
    tally = after("_describe", describe_key=lambda given, answer: {"ResponseMetadata": {"RetryAttempts": 0}})
    assert (tally.total.errors, tally.total.wrong) == (0, 1)


@pytest.mark.parametrize(("retries", "errors"), [(1, 0), (0, 1)])
def test_what_an_attempt_without_an_answer_had_done_is_no_error(retries: int, errors: int) -> None:
    tally = after("_alias", create_alias=fails(refusal("AlreadyExistsException", retries)))
    assert tally.total.errors == errors


def test_failed_attempts_are_counted_by_their_cause() -> None:
    tally = Tally()
    client = Client("client-1", 7, Kms({}), Keys(), tally)

    def attempt(status: int, code: str | None) -> None:
        body = {} if code is None else {"Error": {"Code": code}}
        client._note_attempt(response=(SimpleNamespace(status_code=status), body), caught_exception=None)

    attempt(200, None)
    attempt(400, "InvalidCiphertextException")
    attempt(500, "KeyUnavailableException")
    client._note_attempt(response=None, caught_exception=ConnectionClosedError(endpoint_url="x"))
    assert tally.causes == {"KeyUnavailableException": 1, "ConnectionClosedError": 1}
