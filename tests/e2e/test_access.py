"""Access keys and signatures at a real node: who is let in, who is not, and with which words."""

import datetime
import hashlib
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from tests.e2e.fleet import Fleet, code_of, until


def test_a_user_may_use_keys_and_an_admin_may_make_them(fleet: Fleet) -> None:
    pair = fleet.cli.json("access", "create", "--user", "app", "--role", "user")
    user = fleet.client(key=pair["access_key_id"], secret=pair["secret_access_key"])
    key = fleet.client().create_key()["KeyMetadata"]["KeyId"]
    blob = user.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    assert user.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    with pytest.raises(ClientError) as failure:
        user.create_key()
    assert code_of(failure) == "AccessDeniedException"


def test_a_disabled_access_key_is_refused_like_an_unknown_one(fleet: Fleet) -> None:
    pair = fleet.cli.json("access", "create", "--user", "leaver")
    client = fleet.client(key=pair["access_key_id"], secret=pair["secret_access_key"])
    assert client.list_keys()["Keys"] is not None
    fleet.cli("access", "disable", pair["access_key_id"])
    disabled = until(lambda: _refusal(client), what="the refusal of a disabled access key")
    unknown = _refusal(fleet.client(key="QKIA" + "A" * 16, secret="x" * 40))
    wrong = _refusal(fleet.client(secret="x" * 40))
    assert unknown is not None
    assert disabled == wrong == unknown
    assert unknown[0] == "InvalidSignatureException"
    listed = {one["access_key_id"]: one["enabled"] for one in fleet.cli.json("access", "list")}
    assert listed[pair["access_key_id"]] is False


def _refusal(client: Any) -> tuple[str, str] | None:
    try:
        client.list_keys()
    except ClientError as why:
        return why.response["Error"]["Code"], why.response["Error"]["Message"]
    return None


def signed(
    fleet: Fleet, body: bytes = b"{}", target: str = "TrentService.ListKeys", **headers: str
) -> AWSRequest:
    env = fleet.env
    url = env["AWS_ENDPOINT_URL_KMS"] + "/"
    request = AWSRequest(
        "POST",
        url,
        {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target, **headers},
        body,
    )
    who = Credentials(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])
    SigV4Auth(who, "kms", env["AWS_DEFAULT_REGION"]).add_auth(request)
    return request


def send(fleet: Fleet, request: AWSRequest, body: bytes | None = None) -> tuple[int, str]:
    """(status, error code or "")."""
    context = ssl.create_default_context(cafile=fleet.env["AWS_CA_BUNDLE"])
    sent = urllib.request.Request(
        request.url,
        data=request.body if body is None else body,
        headers=dict(request.headers.items()),
        method="POST",
    )
    try:
        with urllib.request.urlopen(sent, context=context, timeout=10) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as why:
        return why.code, json.loads(why.read())["__type"]


def _without(name: str) -> Callable[[AWSRequest], None]:
    def change(request: AWSRequest) -> None:
        del request.headers[name]

    return change


def _with(name: str, value: str) -> Callable[[AWSRequest], None]:
    def change(request: AWSRequest) -> None:
        del request.headers[name]
        request.headers[name] = value

    return change


_INVALID = (403, "InvalidSignatureException")
CHANGES: dict[str, tuple[Callable[[AWSRequest], None], tuple[int, str]]] = {
    "no signature": (_without("Authorization"), (403, "MissingAuthenticationTokenException")),
    "an unsigned x-amz header": (_with("X-Amz-Expected-Bucket", "x"), _INVALID),
    "another operation": (_with("X-Amz-Target", "TrentService.CreateKey"), _INVALID),
    "another body hash": (_with("X-Amz-Content-Sha256", hashlib.sha256(b"x").hexdigest()), _INVALID),
}


@pytest.mark.parametrize("what", CHANGES)
def test_n70_n71_n73_a_request_changed_after_signing_is_refused(fleet: Fleet, what: str) -> None:
    change, refusal = CHANGES[what]
    request = signed(fleet)
    change(request)
    assert send(fleet, request) == refusal
    assert send(fleet, signed(fleet)) == (200, "")


def test_n73_another_body_than_the_signed_one_is_refused(fleet: Fleet) -> None:
    assert send(fleet, signed(fleet), b'{"Limit": 1}') == _INVALID


def test_n74_a_clock_more_than_five_minutes_off_is_refused(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = datetime.datetime.now(datetime.UTC)
    served = (200, "")
    for minutes, answer in ((-6, _INVALID), (6, _INVALID), (-4, served), (4, served)):
        moved = real + datetime.timedelta(minutes=minutes)
        monkeypatch.setattr(
            "botocore.auth.get_current_datetime", lambda remove_tzinfo=True, at=moved: at.replace(tzinfo=None)
        )
        assert send(fleet, signed(fleet)) == answer, minutes


def test_n79_an_oversized_body_is_refused_and_the_node_goes_on(fleet: Fleet) -> None:
    body = b'{"x":"' + b"a" * (2 << 20) + b'"}'
    status, code = send(fleet, signed(fleet, body))
    assert (status, code) == (413, "RequestEntityTooLargeException")
    assert send(fleet, signed(fleet)) == (200, "")
