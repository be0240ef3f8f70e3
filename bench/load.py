"""A load generator for KMS endpoints: pre-signed requests over kept connections, each answer checked.

Requests are signed once for each operation, with botocore's own signer, and told apart by the header
`amz-sdk-invocation-id`, which SDKs do not sign: the client's cost is small, so that it is the server's time that
is measured on a machine that both share. Every answer must be a 200 with the members it should have; each
Decrypt's plaintext is compared.

Here: connections, signing, timing. Not here: which fleet, which figures are wanted (`warm`).
"""

import asyncio
import base64
import json
import os
import resource
import ssl
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import aiofastnet
import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

_MARK = b"amz-sdk-invocation-id: "


@dataclass(frozen=True)
class Endpoint:
    """Where, and as whom. `ca`: the bundle to trust; None for plain HTTP."""

    url: str
    access_key_id: str
    secret: str
    ca: Path | None
    region: str = "us-east-1"


@dataclass(frozen=True)
class Operation:
    """`wanted`: what stands in every right answer's body."""

    name: str
    members: dict[str, Any]
    wanted: bytes


@dataclass
class Measured:
    """`seconds`: of each call, in the order of their ends. `wrong`: answers that were not right, by their text."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    took: float = 0.0
    cpu: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.took

    def ms(self, part: float) -> float:
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))]


class _Template:
    """One signed request, in which the invocation id is filled in for each call."""

    def __init__(self, endpoint: Endpoint, operation: Operation) -> None:
        request = AWSRequest(
            method="POST",
            url=endpoint.url + "/",
            data=json.dumps(operation.members).encode(),
            headers={
                "Content-Type": "application/x-amz-json-1.1",
                "X-Amz-Target": f"TrentService.{operation.name}",
            },
        )
        SigV4Auth(Credentials(endpoint.access_key_id, endpoint.secret), "kms", endpoint.region).add_auth(
            request
        )
        body = request.data
        headers = dict(request.headers) | {
            "Host": urlsplit(endpoint.url).netloc,
            "Content-Length": str(len(body)),
            "User-Agent": "bench",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f"POST / HTTP/1.1\r\n{lines}".encode() + _MARK
        self._tail = b"\r\n\r\n" + body
        self.wanted = operation.wanted

    def fill(self, mark: bytes) -> bytes:
        return self._head + mark + self._tail


class _Connection(asyncio.Protocol):
    """Sends one request after another while `more` yields them; notes how long each took."""

    def __init__(self, more: Iterator[_Template], into: Measured) -> None:
        self._more = more
        self._into = into
        self._mark = uuid.uuid4().hex[:24].encode()
        self._sent = 0
        self._buffer = b""
        self._template: _Template
        self._begun = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def start(self) -> None:
        template = next(self._more, None)
        if template is None:
            self.ended.set_result(None)
            self._transport.close()
            return
        self._template = template
        self._sent += 1
        self._begun = time.perf_counter()
        self._transport.write(template.fill(self._mark + b"%08x" % self._sent))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        if len(body) < _length(head):
            return
        self._into.seconds.append(time.perf_counter() - self._begun)
        if head[9:12] != b"200" or self._template.wanted not in body:
            self._into.wrong.append(head.partition(b"\r\n")[0].decode() + " " + body.decode("latin-1")[:300])
        self._buffer = b""
        self.start()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self._into.wrong.append(f"the connection was lost: {exc}")
            self.ended.set_result(None)


class Connection:
    """One kept connection, for calls one by one."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, endpoint: Endpoint
    ) -> None:
        self._reader, self._writer, self.endpoint = reader, writer, endpoint

    async def call(self, template: _Template) -> float:
        """Seconds. Raises `AssertionError` when the answer is not right."""
        begun = time.perf_counter()
        self._writer.write(template.fill(uuid.uuid4().hex.encode()))
        head = await self._reader.readuntil(b"\r\n\r\n")
        body = await self._reader.readexactly(_length(head))
        took = time.perf_counter() - begun
        assert head[9:12] == b"200", head + body
        assert template.wanted in body, body
        return took

    def close(self) -> None:
        self._writer.close()


async def connect(endpoint: Endpoint) -> Connection:
    where = urlsplit(endpoint.url)
    reader, writer = await aiofastnet.open_connection(
        asyncio.get_running_loop(), where.hostname, where.port, ssl=_context(endpoint)
    )
    return Connection(reader, writer, endpoint)


async def at_once(calls: list[tuple[Connection, Operation]]) -> list[float]:
    """Makes all calls at the same instant; the seconds of each."""
    signed = [(connection, _Template(connection.endpoint, operation)) for connection, operation in calls]
    return list(await asyncio.gather(*(connection.call(template) for connection, template in signed)))


def _context(endpoint: Endpoint) -> ssl.SSLContext | None:
    return None if endpoint.ca is None else ssl.create_default_context(cafile=str(endpoint.ca))


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


async def run(
    endpoint: Endpoint, operations: list[Operation], *, connections: int, seconds: float, keep: bool = True
) -> Measured:
    """Calls the operations in turn over so many connections, each with one call at a time; `keep`: connections are
    kept, else each call has one of its own, for servers that can do no other.
    """
    templates = [_Template(endpoint, operation) for operation in operations]
    deadline = 0.0

    def more(first: int) -> Iterator[_Template]:
        turn = first
        while time.perf_counter() < deadline:
            yield templates[turn % len(templates)]
            turn += 1

    measured = Measured()
    where = urlsplit(endpoint.url)
    made: list[_Connection] = []
    for number in range(connections if keep else 0):
        _, protocol = await aiofastnet.create_connection(
            asyncio.get_running_loop(),
            lambda number=number: _Connection(more(number), measured),  # type: ignore[misc]
            where.hostname,
            where.port,
            ssl=_context(endpoint),
        )
        made.append(protocol)
    used = _processor_seconds()
    begun = time.perf_counter()
    deadline = begun + seconds
    if keep:
        for protocol in made:
            protocol.start()
        await asyncio.gather(*(protocol.ended for protocol in made))
    else:
        await asyncio.gather(*(_reconnect(endpoint, more(number), measured) for number in range(connections)))
    measured.took = time.perf_counter() - begun
    measured.cpu = _processor_seconds() - used
    return measured


async def _reconnect(endpoint: Endpoint, more: Iterator[_Template], into: Measured) -> None:
    where = urlsplit(endpoint.url)
    for template in more:
        begun = time.perf_counter()
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(template.fill(uuid.uuid4().hex.encode()))
        answer = await reader.read()
        writer.close()
        into.seconds.append(time.perf_counter() - begun)
        if answer[9:12] != b"200" or template.wanted not in answer:
            into.wrong.append(answer.decode("latin-1")[:500])


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def call(endpoint: Endpoint, operation: str, members: dict[str, Any]) -> dict[str, Any]:
    """One call, outside of any measurement."""
    client = boto3.client(
        "kms",
        endpoint_url=endpoint.url,
        region_name=endpoint.region,
        aws_access_key_id=endpoint.access_key_id,
        aws_secret_access_key=endpoint.secret,
        verify=None if endpoint.ca is None else str(endpoint.ca),
    )
    return getattr(client, operation)(**members)  # type: ignore[no-any-return]


def three(endpoint: Endpoint, domain: str | None = None) -> list[Operation]:
    """Encrypt, Decrypt and GenerateDataKey under a key made for it, of 32-byte plaintexts."""
    tags = [] if domain is None else [{"TagKey": "quorate:domain", "TagValue": domain}]
    key = call(endpoint, "create_key", {"Tags": tags})["KeyMetadata"]["KeyId"]
    plaintext = os.urandom(32)
    context = {"tenant": "17"}
    blob = call(endpoint, "encrypt", {"KeyId": key, "Plaintext": plaintext, "EncryptionContext": context})[
        "CiphertextBlob"
    ]
    text, sealed = base64.b64encode(plaintext).decode(), base64.b64encode(blob).decode()
    return [
        Operation(
            "Encrypt", {"KeyId": key, "Plaintext": text, "EncryptionContext": context}, b'"CiphertextBlob":'
        ),
        Operation("Decrypt", {"CiphertextBlob": sealed, "EncryptionContext": context}, text.encode()),
        Operation(
            "GenerateDataKey",
            {"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": context},
            b'"Plaintext":',
        ),
    ]
