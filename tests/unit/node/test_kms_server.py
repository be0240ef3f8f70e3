"""The KMS port's TLS: what comes in before there is a request, or instead of one."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
import uvloop
from tests.unit.wire.certificates import node_files, root

from quorate.kms.errors import KmsError
from quorate.kms.http import Response, SignedRequest
from quorate.node.kms import KmsServer
from quorate.wire.links import Address


class Answers:
    """Stands behind the port; says yes."""

    async def respond(self, _request: SignedRequest) -> Response:
        return Response(200, ((b"content-length", b"0"),), b"")

    async def refuse(self, request: SignedRequest, _error: KmsError) -> Response:
        return await self.respond(request)


def test_a_client_that_leaves_before_its_handshake_leaves_nothing_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever watches the port with bare connections would fill the disk with the library's tracebacks."""
    tls = node_files(tmp_path, root(), "node-1")

    async def run() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = KmsServer(Answers(), tls)  # type: ignore[arg-type]
        await server.start(Address("127.0.0.1", port))
        _, bare = await asyncio.open_connection("127.0.0.1", port)
        bare.close()
        await bare.wait_closed()
        trusted = ssl.create_default_context(cafile=str(tls.roots))
        trusted.check_hostname = False
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: node\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")  # by now the bare one was dealt with
        writer.close()
        await server.stop()

    uvloop.run(run())
    assert caplog.records == []
