"""The verifier against requests signed by botocore, valid ones with one thing changed (N70 to N77)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from quorate.kms import aliases, crypto, keys
from quorate.kms.backend import Identity, Role
from quorate.kms.http import Response, SignedRequest

from .client import Client, encode, kms_headers, sign
from .fake_backend import ADMIN, USER, body_digest

BODY = b"{}"
OPERATIONS = [operation.name for group in (keys, aliases, crypto) for operation in group.OPERATIONS]
STRANGER = Identity("AKIANOBODYNOBODYNOBO", "nobody", Role.USER)
FORM = b"Action=GetCallerIdentity&Version=2011-06-15"
FORM_HEADERS = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}


@pytest.fixture
def client() -> Client:
    return Client()


def signed(**options: object) -> SignedRequest:
    return sign(BODY, kms_headers("ListKeys"), **options)  # type: ignore[arg-type]


def code(response: Response) -> tuple[int, str]:
    return response.status, json.loads(response.body)["__type"]


def with_header(request: SignedRequest, name: bytes, value: bytes) -> SignedRequest:
    """The request with one header replaced, or added, after signing."""
    kept = tuple((key, old) for key, old in request.headers if key != name)
    return replace(request, headers=(*kept, (name, value)))


def without_header(request: SignedRequest, name: bytes) -> SignedRequest:
    return replace(request, headers=tuple((key, old) for key, old in request.headers if key != name))


def test_request_signed_by_botocore_is_accepted(client: Client) -> None:
    assert client.send(signed()).status == 200


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
PATH = st.lists(
    st.text(st.sampled_from("abzAZ09-_.~%2F+@:"), min_size=1, max_size=8).filter(
        lambda part: part not in (".", "..")
    ),
    max_size=3,
).map(lambda parts: "/" + "/".join(parts))


@settings(max_examples=150, deadline=None)
@given(
    body=st.binary(max_size=300),
    path=PATH,
    values=st.lists(TEXT, max_size=4),
    method=st.sampled_from(["POST", "GET", "PUT"]),
    flip=st.integers(0, 10**6),
)
def test_any_signed_request_verifies_and_any_changed_byte_does_not(
    body: bytes, path: str, values: list[str], method: str, flip: int
) -> None:
    client = Client()
    headers = kms_headers("ListKeys") | {f"X-Amz-Meta-{n}": value for n, value in enumerate(values)}
    request = sign(body, headers, path=path, method=method)
    assert client.send(request).status not in (401, 403)
    changed = bytearray(body or b"x")
    changed[flip % len(changed)] ^= 1
    assert code(client.send(replace(request, body=bytes(changed)))) == (403, "InvalidSignatureException")
    assert code(client.send(replace(request, method="PATCH"))) == (403, "InvalidSignatureException")
    assert code(client.send(replace(request, target=request.target + b"x"))) == (
        403,
        "InvalidSignatureException",
    )


# N70: only what is signed counts.


@pytest.mark.parametrize("header", [b"x-amz-date", b"x-amz-target", b"content-type", b"host", b"x-amz-meta"])
def test_n70_unsigned_header_is_refused(client: Client, header: bytes) -> None:
    request = sign(BODY, kms_headers("ListKeys") | {"X-Amz-Meta": "1"})
    authorization = request.header(b"authorization")
    listed = authorization.partition(b"SignedHeaders=")[2].partition(b",")[0]
    fewer = b";".join(name for name in listed.split(b";") if name != header)
    assert fewer != listed
    changed = with_header(request, b"authorization", authorization.replace(listed, fewer))
    assert code(client.send(changed)) == (403, "InvalidSignatureException")
    assert client.checker.calls == 0, "refused before the module is asked"


def test_n70_added_amz_header_is_refused(client: Client) -> None:
    changed = with_header(signed(), b"x-amz-added", b"1")
    assert code(client.send(changed)) == (403, "InvalidSignatureException")
    assert client.checker.calls == 0


def test_n70_target_flipped_after_signing_is_refused(client: Client) -> None:
    request = client.signed("Encrypt", {"KeyId": client.key(), "Plaintext": b"x"})
    changed = with_header(request, b"x-amz-target", b"TrentService.Decrypt")
    assert code(client.send(changed)) == (403, "InvalidSignatureException")


@pytest.mark.parametrize("header", [b"x-amz-target", b"content-type", b"x-amz-date"])
def test_n70_signed_header_that_is_missing_is_refused(client: Client, header: bytes) -> None:
    assert client.send(without_header(signed(), header)).status == 403


# N71: one verifier in front of every route.

ROUTES = [(f"kms:{name}", "POST", "/", kms_headers(name), BODY, "kms") for name in OPERATIONS] + [
    ("kms:unknown", "POST", "/", kms_headers("Nonsense"), BODY, "kms"),
    ("kms:no target", "POST", "/", {"Content-Type": "application/x-amz-json-1.1"}, BODY, "kms"),
    ("sts", "POST", "/", FORM_HEADERS, FORM, "sts"),
    ("get root", "GET", "/", {}, b"", "kms"),
    ("options", "OPTIONS", "/", {}, b"", "kms"),
    ("other path", "POST", "/keys", kms_headers("ListKeys"), BODY, "kms"),
    ("post healthz", "POST", "/healthz", kms_headers("ListKeys"), BODY, "kms"),
    ("healthz below", "GET", "/healthz/", {}, b"", "kms"),
]


def forged(request: SignedRequest, kind: str) -> SignedRequest:
    authorization = request.header(b"authorization")
    match kind:
        case "none":
            return without_header(request, b"authorization")
        case "empty":
            return with_header(request, b"authorization", b"")
        case "bearer":
            return with_header(request, b"authorization", b"Bearer token")
        case "bad":
            last = b"0" if authorization[-1:] != b"0" else b"1"
            return with_header(request, b"authorization", authorization[:-1] + last)
        case "zero":
            return with_header(request, b"authorization", authorization[:-64] + b"0" * 64)
        case "short":
            return with_header(request, b"authorization", authorization[:-1])
        case "streaming":
            return with_header(
                without_header(request, b"authorization"),
                b"x-amz-content-sha256",
                b"STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            )
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["none", "empty", "bearer", "bad", "zero", "short", "streaming"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route[0])
def test_n71_every_route_refuses_what_is_not_signed(
    route: tuple[str, str, str, dict[str, str], bytes, str], kind: str
) -> None:
    _, method, path, headers, body, service = route
    client = Client()
    request = sign(body, headers, method=method, path=path, service=service)
    assert client.send(request).status != 403, "the same request with its signature passes the verifier"
    client.backend.events.clear()
    answer = client.send(forged(request, kind))
    assert answer.status == 403
    assert not [event for event in client.backend.events if not event.startswith(("outcome", "intent"))]
    assert client.backend.audited[-1].name == ""


def test_healthz_is_the_one_unsigned_route_and_tells_whether_the_node_serves(client: Client) -> None:
    probe = SignedRequest("GET", b"/healthz", (), b"")
    assert client.send(probe).status == 200
    client.backend.serving = False
    assert client.send(probe).status == 503
    assert client.send(replace(probe, target=b"/healthz?x=1")).status == 400


# N72: credentials in the query.


@pytest.mark.parametrize(
    "query", ["X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a&X-Amz-Signature=b", "a=b"]
)
def test_n72_query_authentication_is_refused_also_beside_a_valid_header(client: Client, query: str) -> None:
    both = replace(signed(), target=b"/?" + query.encode())
    assert code(client.send(both)) == (400, "IncompleteSignatureException")
    assert client.send(without_header(both, b"authorization")).status == 400
    assert client.checker.calls == 0


# N73: the body is always hashed.


@pytest.mark.parametrize(
    "value",
    [
        "UNSIGNED-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "0" * 64,
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    ],
)
def test_n73_declared_payload_hash_other_than_the_bodys_is_refused(client: Client, value: str) -> None:
    request = sign(BODY, kms_headers("ListKeys") | {"X-Amz-Content-SHA256": value})
    assert code(client.send(request)) == (403, "InvalidSignatureException")
    assert client.checker.calls == 0


def test_n73_right_payload_hash_is_accepted(client: Client) -> None:
    assert (
        client.send(sign(BODY, kms_headers("ListKeys") | {"X-Amz-Content-SHA256": body_digest(BODY)})).status
        == 200
    )


# N74: time and scope. The client signs at 22:13:20.


@pytest.mark.parametrize(
    ("offset", "accepted", "text"),
    [
        (-300, True, ""),
        (300, True, ""),
        (301, False, "Signature expired"),
        (-301, False, "Signature not yet current"),
    ],
)
def test_n74_clock_skew_over_five_minutes_is_refused(
    client: Client, offset: int, accepted: bool, text: str
) -> None:
    client.backend.now += offset
    answer = client.send(signed())
    assert (answer.status == 200) is accepted
    if not accepted:
        assert code(answer) == (403, "InvalidSignatureException")
        assert text in json.loads(answer.body)["message"]


@pytest.mark.parametrize("options", [{"region": "us-east-1"}, {"service": "sts"}, {"service": "s3"}])
def test_n74_wrong_region_or_service_in_a_valid_signature_is_refused(
    client: Client, options: dict[str, str]
) -> None:
    assert code(client.send(signed(**options))) == (403, "InvalidSignatureException")
    assert client.checker.calls == 0


def test_n74_scope_date_other_than_signing_date_is_refused(client: Client) -> None:
    request = sign(BODY, kms_headers("ListKeys"), at="20231113T221320Z")
    later = sign(BODY, kms_headers("ListKeys") | {"X-Amz-Date": "20231114T221320Z"}, at="20231113T221320Z")
    assert code(client.send(later)) == (403, "InvalidSignatureException")
    assert "Date in Credential scope" in json.loads(client.send(later).body)["message"]
    assert code(client.send(request)) == (403, "InvalidSignatureException")


@pytest.mark.parametrize(
    "stamp",
    [
        "20231114T221320",
        "2023-11-14T22:13:20Z",
        "20231314T221320Z",
        "x" * 16,
        "",
        "20231114T226020Z",
        "２０231114T22132Z",
    ],
)
def test_n74_unreadable_date_is_refused(client: Client, stamp: str) -> None:
    assert client.send(with_header(signed(), b"x-amz-date", stamp.encode())).status == 403


def test_session_tokens_are_refused(client: Client) -> None:
    request = sign(BODY, kms_headers("ListKeys") | {"X-Amz-Security-Token": "t"})
    assert code(client.send(request)) == (403, "UnrecognizedClientException")


# N76: one request, one reading.


@pytest.mark.parametrize(
    "name",
    [
        b"host",
        b"authorization",
        b"x-amz-date",
        b"x-amz-target",
        b"content-type",
        b"x-amz-extra",
        b"content-length",
        b"amz-sdk-invocation-id",
    ],
)
def test_n76_repeated_header_is_refused(client: Client, name: bytes) -> None:
    request = sign(BODY, kms_headers("ListKeys") | {"Amz-Sdk-Invocation-Id": "1"})
    value = request.header(name) or b"1"
    twice = with_header(request, name, value)
    twice = replace(twice, headers=(*twice.headers, (name, value)))
    assert code(client.send(twice)) == (400, "IncompleteSignatureException")
    assert client.checker.calls == 0


def test_n76_repeated_header_that_nobody_reads_is_harmless(client: Client) -> None:
    request = signed()
    assert (
        client.send(replace(request, headers=(*request.headers, (b"via", b"a"), (b"via", b"b")))).status
        == 200
    )


@pytest.mark.parametrize("value", [b"  spaced   out  ", b"\tspaced out", b"spaced\t out"])
def test_n76_white_space_of_a_header_is_folded(client: Client, value: bytes) -> None:
    request = sign(BODY, kms_headers("ListKeys") | {"X-Amz-Meta": "spaced out"})
    assert client.send(with_header(request, b"x-amz-meta", value)).status == 200
    assert client.send(with_header(request, b"x-amz-meta", b"spacedout")).status == 403


@pytest.mark.parametrize("target", [b"//", b"/./", b"/a/../", b"/a//b", b"*", b"a"])
def test_n76_path_that_needs_normalising_is_refused(client: Client, target: bytes) -> None:
    assert client.send(replace(signed(), target=target)).status in (400, 403)
    assert client.checker.calls == 0 or target == b"//"


@pytest.mark.parametrize(
    "body", [b'{"Limit":1,"Limit":2}', b'{"X":{"a":1,"a":1}}', b'{"Limit":1,"\\u004cimit":2}']
)
def test_n76_repeated_json_name_is_refused(client: Client, body: bytes) -> None:
    assert code(client.send(sign(body, kms_headers("ListKeys")))) == (400, "SerializationException")


@pytest.mark.parametrize(
    "change",
    [
        (b"SignedHeaders=content-type", b"SignedHeaders=Content-Type"),
        (b";host", b";host;host"),
        (b"SignedHeaders=", b"SignedHeaders=;"),
        (b"content-type;host", b"host;content-type"),
        (b"Signature=", b"Signature=A"),
        (b"AWS4-HMAC-SHA256", b"AWS4-ECDSA-P256-SHA256"),
        (b", Signature", b", Extra=1, Signature"),
        (b", Signature", b", Signature=1, Signature"),
        (b"/aws4_request", b""),
        (b"/aws4_request", b"/aws4_request/x"),
        (b"Credential=AKIA", b"Credential=AK-A"),
        (b"Credential=", b"Credential=\xff"),
        (b"/aws4_request", b"/aws5_request"),
    ],
)
def test_n76_malformed_authorization_is_refused(client: Client, change: tuple[bytes, bytes]) -> None:
    request = signed()
    changed = request.header(b"authorization").replace(*change)
    assert changed != request.header(b"authorization")
    answer = client.send(with_header(request, b"authorization", changed))
    assert answer.status == 403
    assert client.checker.calls == 0


# N77: a caller cannot learn which access keys exist.


def test_n77_unknown_key_and_wrong_signature_get_the_same_answer(client: Client) -> None:
    answers = [
        client.send(sign(BODY, kms_headers("ListKeys"), who=who, secret="wrong"))
        for who in (STRANGER, ADMIN, USER)
    ]
    assert {(answer.status, answer.body) for answer in answers} == {(403, answers[0].body)}
    assert code(answers[0]) == (403, "InvalidSignatureException")
    assert client.checker.calls == 3, "the module does its work for unknown keys too"
    names = [[name for name, _ in answer.headers] for answer in answers]
    assert names[0] == names[1] == names[2]


def test_n77_holds_for_sts(client: Client) -> None:
    answers = [
        client.send(sign(FORM, FORM_HEADERS, who=who, secret="wrong", service="sts"))
        for who in (STRANGER, ADMIN)
    ]
    bodies = {answer.body.split(b"<RequestId>")[0] for answer in answers}
    assert len(bodies) == 1
    assert b"<Code>SignatureDoesNotMatch</Code>" in bodies.pop()


def test_date_header_signs_where_x_amz_date_is_absent(client: Client) -> None:
    request = with_header(signed(), b"date", b"Tue, 14 Nov 2023 22:13:20 GMT")
    assert client.send(request).status == 200, "beside x-amz-date, an unsigned Date has no meaning"
    assert code(client.send(without_header(request, b"x-amz-date")))[0] == 403
    assert encode({}) == BODY
