"""A client without sockets: signs with botocore, independent of our verifier, and calls the app directly."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

from quorate.kms.app import KmsApp
from quorate.kms.backend import Identity
from quorate.kms.http import Response, SignedRequest
from quorate.kms.operation import Settings

from .fake_backend import ADMIN, SECRETS, FakeBackend, FakeChecker

REGION = "eu-central-1"
ACCOUNT = "111122223333"
ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:"


class Signer(SigV4Auth):  # type: ignore[misc]
    """botocore's signer with the date as an argument."""

    def __init__(self, who: Identity, at: str, region: str, service: str, secret: str) -> None:
        super().__init__(Credentials(who.access_key_id, secret), service, region)
        self.at = at

    def add_auth(self, request: AWSRequest) -> None:
        request.context["timestamp"] = self.at
        if "X-Amz-Date" not in request.headers:
            request.headers["X-Amz-Date"] = self.at
        signed: HTTPHeaders = self.headers_to_sign(request)
        canonical = self.canonical_request(request)
        request.headers["Authorization"] = ", ".join(
            [
                f"AWS4-HMAC-SHA256 Credential={self.scope(request)}",
                f"SignedHeaders={self.signed_headers(signed)}",
                f"Signature={self.signature(self.string_to_sign(request, canonical), request)}",
            ]
        )


def sign(
    body: bytes,
    headers: Mapping[str, str],
    *,
    who: Identity = ADMIN,
    at: str = "20231114T221320Z",
    region: str = REGION,
    service: str = "kms",
    secret: str = "",
    method: str = "POST",
    path: str = "/",
) -> SignedRequest:
    """`at` is 1,700,000,000 s since 1970 unless told otherwise."""
    request = AWSRequest(method, f"http://kms.test{path}", dict(headers), body)
    Signer(who, at, region, service, secret or SECRETS[who.access_key_id]).add_auth(request)
    listed = [(b"host", b"kms.test")]
    listed += [
        (name.lower().encode(), value.encode() if isinstance(value, str) else value)
        for name, value in request.headers.items()
    ]
    return SignedRequest(method, path.encode(), tuple(listed), body, "192.0.2.7")


def kms_headers(operation: str) -> dict[str, str]:
    return {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"TrentService.{operation}"}


class Failed(Exception):
    def __init__(self, response: Response) -> None:
        answer = json.loads(response.body)
        self.code, self.message, self.status = answer["__type"], answer.get("message", ""), response.status
        super().__init__(f"{self.status} {self.code}: {self.message}")


class Client:
    """`send` goes through all but HTTP. Each call of `call` has another signature."""

    def __init__(self, **settings: Any) -> None:
        self.backend = FakeBackend()
        self.checker = FakeChecker()
        self.app = KmsApp(
            self.backend, self.checker, Settings(REGION, ACCOUNT, **settings), lambda: self.backend.now
        )
        self.count = 0

    def send(self, request: SignedRequest) -> Response:
        return asyncio.run(self.app.respond(request))

    def signed(
        self, operation: str, members: Mapping[str, Any] | bytes, who: Identity = ADMIN, **options: Any
    ) -> SignedRequest:
        self.count += 1
        body = members if isinstance(members, bytes) else encode(members)
        headers = kms_headers(operation) | {"amz-sdk-invocation-id": str(self.count)}
        return sign(body, headers, who=who, **options)

    def call(self, operation: str, who: Identity = ADMIN, body: bytes | None = None, **members: Any) -> Any:
        response = self.send(self.signed(operation, encode(members) if body is None else body, who))
        if response.status != 200:
            raise Failed(response)
        return json.loads(response.body) if response.body else None

    def key(self, **members: Any) -> str:
        found: str = self.call("CreateKey", **members)["KeyMetadata"]["KeyId"]
        return found


def encode(members: Mapping[str, Any]) -> bytes:
    return json.dumps(
        {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in members.items()
        }
    ).encode()
