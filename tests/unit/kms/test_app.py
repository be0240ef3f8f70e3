"""Order and promises of the endpoint: replay, audit before answer, forwarding, limits, nothing leaked."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from quorate import logs
from quorate.kms import aliases, crypto, keys
from quorate.kms.backend import CannotServe, DependencyTimeout, KeyUnavailable, Phase
from quorate.kms.errors import KmsError
from quorate.kms.http import Response, SignedRequest
from quorate.kms.refusals import BURST, RefusalLimiter
from quorate.kms.replay import ReplayGuard

from .client import ACCOUNT, Client, Failed, kms_headers, sign
from .fake_backend import SECRETS, USER

CANARY = b"canary-plaintext-5d1e"
ALL = {operation.name: operation for group in (keys, aliases, crypto) for operation in group.OPERATIONS}


@pytest.fixture
def client() -> Client:
    return Client()


def code(response: Response) -> tuple[int, str]:
    return response.status, json.loads(response.body)["__type"]


def prepared(client: Client, name: str) -> SignedRequest:
    """A request for one operation that must succeed."""
    key = client.key()
    blob = client.call("Encrypt", KeyId=key, Plaintext=CANARY)["CiphertextBlob"]
    if name == "CancelKeyDeletion":
        client.call("ScheduleKeyDeletion", KeyId=key)
    if name == "DeleteAlias":
        client.call("CreateAlias", AliasName="alias/old", TargetKeyId=key)
    members = {
        "CreateKey": {},
        "ListKeys": {},
        "ListAliases": {},
        "GenerateRandom": {"NumberOfBytes": 8},
        "CreateAlias": {"AliasName": "alias/new", "TargetKeyId": key},
        "DeleteAlias": {"AliasName": "alias/old"},
        "Encrypt": {"KeyId": key, "Plaintext": CANARY},
        "Decrypt": {"CiphertextBlob": blob},
        "ReEncrypt": {"CiphertextBlob": blob, "DestinationKeyId": key},
        "GenerateDataKey": {"KeyId": key, "KeySpec": "AES_256"},
        "GenerateDataKeyWithoutPlaintext": {"KeyId": key, "KeySpec": "AES_256"},
    }.get(name, {"KeyId": key})
    return client.signed(name, members)


# N75: replay.

ONCE = sorted(name for name, operation in ALL.items() if operation.once)


def test_n75_every_operation_that_changes_state_or_makes_a_key_is_guarded() -> None:
    assert (
        sorted(
            [
                "CreateKey",
                "EnableKey",
                "DisableKey",
                "ScheduleKeyDeletion",
                "CancelKeyDeletion",
                "CreateAlias",
                "DeleteAlias",
                "GenerateDataKey",
                "GenerateDataKeyWithoutPlaintext",
            ]
        )
        == ONCE
    )


@pytest.mark.parametrize("name", ONCE)
def test_n75_byte_identical_repeat_is_refused_and_changes_nothing(client: Client, name: str) -> None:
    request = prepared(client, name)
    assert client.send(request).status == 200
    before = [event for event in client.backend.events if ":" not in event]
    again = client.send(request)
    assert code(again) == (403, "InvalidSignatureException")
    assert "already used" in json.loads(again.body)["message"]
    assert [event for event in client.backend.events if ":" not in event] == before
    assert client.backend.audited[-1].outcome == "InvalidSignatureException"


@pytest.mark.parametrize("name", ["CreateKey", "GenerateDataKey"])
def test_calls_of_one_second_that_the_sdk_tells_apart_without_signing_it_all_run(
    client: Client, name: str
) -> None:
    """As botocore sends them: one signature, another invocation, or another attempt of one."""
    request = sign(prepared(client, name).body, kms_headers(name))
    marks = [(b"a", b"attempt=1; max=3"), (b"b", b"attempt=1; max=3"), (b"b", b"attempt=2; max=3")]
    calls = [
        replace(
            request,
            headers=(*request.headers, (b"amz-sdk-invocation-id", invocation), (b"amz-sdk-request", attempt)),
        )
        for invocation, attempt in marks
    ]
    assert [client.send(call).status for call in calls] == [200, 200, 200]
    assert [client.send(call).status for call in calls] == [403, 403, 403]


def test_n75_repeat_that_reaches_another_process_is_refused_by_the_backend(client: Client) -> None:
    request = prepared(client, "CreateKey")
    assert client.send(request).status == 200
    other = Client()
    other.backend.tokens = client.backend.tokens
    assert code(other.send(request)) == (403, "InvalidSignatureException")
    assert not other.backend.keys


def test_n75_concurrent_repeats_run_once(client: Client) -> None:
    request = prepared(client, "GenerateDataKey")

    async def race() -> list[Response]:
        return list(await asyncio.gather(*(client.app.respond(request) for _ in range(20))))

    statuses = sorted(answer.status for answer in asyncio.run(race()))
    assert statuses == [200] + [403] * 19
    assert client.backend.events.count("generate_data_key") == 1


def test_n75_reads_may_be_repeated(client: Client) -> None:
    request = prepared(client, "Decrypt")
    assert [client.send(request).status for _ in range(2)] == [200, 200]


def test_n75_guard_forgets_a_signature_only_after_the_verifier_refuses_it() -> None:
    guard = ReplayGuard(10)
    guard.admit("a" * 64, signed_at=1000.0, now=700.0)
    for now in (700.0, 1000.0, 1300.0, 1301.0):
        with pytest.raises(KmsError, match="already used"):
            guard.admit("a" * 64, signed_at=1000.0, now=now)
    guard.admit("b" * 64, signed_at=1000.0, now=1303.0)


def test_n75_guard_is_bounded_and_refuses_rather_than_forgets() -> None:
    guard = ReplayGuard(2)
    guard.admit("a" * 64, 1000.0, 1000.0)
    guard.admit("b" * 64, 1000.0, 1000.0)
    with pytest.raises(KmsError) as full:
        guard.admit("c" * 64, 1000.0, 1000.0)
    assert full.value.code == "ThrottlingException"
    with pytest.raises(KmsError, match="already used"):
        guard.admit("a" * 64, 1000.0, 1000.0)
    guard.admit("c" * 64, 1400.0, 1400.0)


# N84: nothing without a record.


@pytest.mark.parametrize("name", sorted(ALL))
def test_n84_call_is_refused_when_its_line_cannot_be_written(client: Client, name: str) -> None:
    request = prepared(client, name)
    client.backend.audit_fails = Phase.OUTCOME
    answer = client.send(request)
    assert code(answer) == (500, "KMSInternalException")
    assert set(json.loads(answer.body)) == {"__type", "message"}


@pytest.mark.parametrize("name", sorted(name for name, operation in ALL.items() if operation.changes_state))
def test_n84_intent_is_durable_before_any_change(client: Client, name: str) -> None:
    request = prepared(client, name)
    start = len(client.backend.events)
    client.backend.audit_fails = Phase.INTENT
    assert code(client.send(request)) == (500, "KMSInternalException")
    assert client.backend.events[start:] == [f"outcome:{name}:KMSInternalException"]
    client.backend.audit_fails = ""
    request = prepared(Client(), name) if name == "CreateKey" else request
    fresh = Client()
    request = prepared(fresh, name)
    start = len(fresh.backend.events)
    assert fresh.send(request).status == 200
    phases = fresh.backend.events[start:]
    assert phases[0] == f"intent:{name}:" and phases[2] == f"outcome:{name}:OK" and ":" not in phases[1]


def test_n84_refused_calls_are_audited_with_their_code(client: Client) -> None:
    with pytest.raises(Failed):
        client.call("DisableKey", who=USER, KeyId="x")
    line = client.backend.audited[-1]
    assert (line.name, line.role, line.operation, line.outcome) == (
        "alice",
        "user",
        "DisableKey",
        "AccessDeniedException",
    )
    client.send(sign(b"{}", kms_headers("ListKeys"), secret="wrong"))
    line = client.backend.audited[-1]
    assert (line.access_key_id, line.operation, line.outcome) == ("", "Unknown", "InvalidSignatureException")
    assert line.peer == "192.0.2.7"


def test_audit_line_names_key_domain_session_and_request(client: Client) -> None:
    key = client.key(Tags=[{"TagKey": "quorate:domain", "TagValue": "payroll"}])
    answer = client.send(client.signed("Encrypt", {"KeyId": key, "Plaintext": b"x"}, USER))
    line = client.backend.audited[-1]
    assert (line.key_id, line.domain, line.session_id, line.outcome) == (key, "payroll", "session-1", "OK")
    assert dict(answer.headers)[b"x-amzn-requestid"].decode() == line.request_id


def test_flood_of_unsigned_requests_is_counted_not_written(client: Client) -> None:
    unsigned = SignedRequest("POST", b"/", (), b"")
    for _ in range(int(BURST) + 50):
        assert client.send(unsigned).status == 403
    assert len(client.backend.audited) == int(BURST)
    client.backend.now += 1.0
    client.send(unsigned)
    assert client.backend.audited[-1].suppressed == 50


def test_refusal_limiter_survives_a_clock_that_steps_back() -> None:
    now = [100.0]
    limiter = RefusalLimiter(lambda: now[0])
    assert limiter.take() == 0
    now[0] = 0.0
    assert limiter.take() == 0


# N85: nothing leaks.


class Unforeseen(Exception):
    pass


def test_n85_unexpected_failure_answers_an_id_and_logs_no_text(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    key = client.key()
    client.backend.fail_with = Unforeseen(CANARY.decode())
    with caplog.at_level(logging.DEBUG), pytest.raises(Failed) as failed:
        client.call("Encrypt", KeyId=key, Plaintext=CANARY)
    assert (failed.value.code, failed.value.status) == ("KMSInternalException", 500)
    assert client.backend.audited[-1].request_id in failed.value.message
    assert "Unforeseen" in caplog.text
    assert CANARY.decode() not in caplog.text + failed.value.message
    assert "Traceback" not in failed.value.message


def logged(file: Path) -> list[dict[str, str]]:
    """What our own handler wrote, of the API's own lines."""
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in found if line["logger"] == "quorate.kms.app"]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """The file of a process's log, as JSON."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    logs.set_up(tmp_path / "node.log", process="node-1", form=logs.Format.JSON)
    yield tmp_path / "node.log"
    root.handlers[0].close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_id_that_a_client_sees_finds_its_error_in_the_log(client: Client, log: Path) -> None:
    key = client.key()
    client.backend.fail_with = Unforeseen(CANARY.decode())
    broken = client.send(client.signed("Encrypt", {"KeyId": key, "Plaintext": CANARY}))
    client.backend.fail_with = None
    wrong = client.send(client.signed("Encrypt", {"KeyId": CANARY.decode(), "Plaintext": CANARY}))
    stranger = client.signed("Encrypt", {"KeyId": key, "Plaintext": CANARY})
    refused = client.send(replace(stranger, body=stranger.body + b" "))
    for response, codes, line in (
        (broken, (500, "KMSInternalException"), "Encrypt fails: KMSInternalException (500)"),
        (wrong, (400, "NotFoundException"), "Encrypt fails: NotFoundException (400)"),
        (refused, (403, "InvalidSignatureException"), "Unknown fails: InvalidSignatureException (403)"),
    ):
        assert code(response) == codes
        seen = dict(response.headers)[b"x-amzn-requestid"].decode()
        assert line in [each["message"] for each in logged(log) if each.get("request_id") == seen]
    assert "Unforeseen" in logged(log)[0]["exception"]
    assert CANARY.decode() not in log.read_text()


def test_a_request_that_succeeds_makes_a_line_at_debug_only(client: Client, log: Path) -> None:
    key = client.key()
    client.call("Encrypt", KeyId=key, Plaintext=CANARY)
    assert logged(log) == []
    logs.set_level(logs.Level.DEBUG)
    answer = client.send(client.signed("Encrypt", {"KeyId": key, "Plaintext": CANARY}))
    (line,) = logged(log)
    assert line["message"] == "Encrypt: OK"
    assert line["request_id"] == dict(answer.headers)[b"x-amzn-requestid"].decode()
    assert CANARY.decode() not in log.read_text()


@pytest.mark.parametrize("name", sorted(ALL))
def test_n85_no_audit_line_holds_a_plaintext_or_an_access_secret(client: Client, name: str) -> None:
    client.send(prepared(client, name))
    lines = repr(client.backend.audited)
    assert CANARY.decode() not in lines and all(secret not in lines for secret in SECRETS.values())


# Forwarding.


def test_request_this_node_cannot_serve_is_forwarded_as_it_was_signed(client: Client) -> None:
    request = prepared(client, "Encrypt")
    client.backend.fail_with = CannotServe()
    client.backend.forward_to = Response(200, ((b"x-amzn-requestid", b"member-7"),), b"answer")
    assert client.send(request).body == b"answer"
    assert client.backend.forwarded == [request]
    assert (client.backend.audited[-1].outcome, client.backend.audited[-1].request_id) == (
        "Forwarded",
        "member-7",
    )


def test_forwarded_request_is_verified_again_and_never_forwarded_again(client: Client) -> None:
    request = prepared(client, "Encrypt")
    changed = replace(request, body=request.body.replace(b"KeyId", b"keyId"))
    assert asyncio.run(client.app.handle(changed)).status == 403
    assert asyncio.run(client.app.handle(request)).status == 200
    client.backend.fail_with = CannotServe()
    assert code(asyncio.run(client.app.handle(request))) == (500, "KeyUnavailableException")
    assert client.backend.forwarded == []


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(KeyUnavailable(), "KeyUnavailableException"), (DependencyTimeout(), "DependencyTimeoutException")],
)
def test_backend_failures_are_retryable(client: Client, failure: Exception, expected: str) -> None:
    request = prepared(client, "Decrypt")
    client.backend.fail_with = failure
    assert code(client.send(request)) == (500, expected)
    client.backend.fail_with = CannotServe()
    client.backend.forward_to = failure
    assert code(client.send(request)) == (500, expected)


# N79 and other limits on requests.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"Limit":"1"}',
        b'{"Limit":1.5}',
        b'{"Limit":true}',
        b"{}{}",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"Marker":"\\ud800"}',
        b'{"x":NaN}',
        b'{"x":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    ],
)
def test_body_that_is_no_proper_json_object_is_a_serialization_error(client: Client, body: bytes) -> None:
    assert code(client.send(sign(body, kms_headers("ListKeys")))) == (400, "SerializationException")


def test_numbers_beyond_any_range_are_a_client_error(client: Client) -> None:
    for digits in (25, 5000, 100_000):
        answer = client.send(client.signed("ListKeys", b'{"Limit":' + b"9" * digits + b"}"))
        assert answer.status == 400
        assert code(answer)[1] in ("ValidationException", "SerializationException")


@pytest.mark.parametrize("base64", ["QQ", "Q-==", "QQ==\\n", "QUJD=QQ=", "====", "é"])
def test_base64_is_strict(client: Client, base64: str) -> None:
    body = f'{{"CiphertextBlob":"{base64}"}}'.encode()
    assert code(client.send(sign(body, kms_headers("Decrypt")))) == (400, "SerializationException")


@pytest.mark.parametrize(
    "headers",
    [
        kms_headers("Nonsense"),
        kms_headers("encrypt"),
        kms_headers(""),
        {"X-Amz-Target": "TrentService.ListKeys"},
        {"X-Amz-Target": "Other.ListKeys", "Content-Type": "application/x-amz-json-1.1"},
        {"X-Amz-Target": "TrentService.ListKeys", "Content-Type": "application/json"},
    ],
)
def test_unknown_operation(client: Client, headers: dict[str, str]) -> None:
    assert code(client.send(sign(b"{}", headers))) == (404, "UnknownOperationException")


def test_unknown_members_are_ignored_as_aws_does(client: Client) -> None:
    assert client.call("ListKeys", Whatever={"x": [1]})["Keys"] == []


def test_every_response_has_a_request_id(client: Client) -> None:
    for request in (
        sign(b"{}", kms_headers("ListKeys")),
        SignedRequest("GET", b"/healthz", (), b""),
        SignedRequest("PUT", b"/x", (), b""),
    ):
        assert dict(client.send(request).headers)[b"x-amzn-requestid"]


ADMIN_ONLY = {
    "CreateKey",
    "EnableKey",
    "DisableKey",
    "ScheduleKeyDeletion",
    "CancelKeyDeletion",
    "CreateAlias",
    "DeleteAlias",
}


@pytest.mark.parametrize("name", sorted(ALL))
def test_role_user_may_use_keys_but_not_manage_them(client: Client, name: str) -> None:
    request = prepared(client, name)
    members = json.loads(request.body)
    answer = client.send(client.signed(name, members, USER))
    if name in ADMIN_ONLY:
        assert code(answer) == (400, "AccessDeniedException")
        expected = (
            f"User: arn:aws:iam::{ACCOUNT}:user/alice is not authorized to perform: kms:{name} on resource: *"
        )
        assert json.loads(answer.body)["message"].startswith(expected)
    else:
        assert answer.status == 200
