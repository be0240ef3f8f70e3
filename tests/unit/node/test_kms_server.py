"""The KMS port's TLS: what comes in before there is a request, or instead of one."""

import asyncio
import logging
import os
import socket
import ssl
from pathlib import Path

import pytest
import uvloop
from tests.unit.wire.certificates import node_files, root

from quorate import logs
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
        logs.take_failures(asyncio.get_running_loop())
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
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_an_answer_does_not_wait_for_the_acknowledgement_of_what_came_before(tmp_path: Path) -> None:
    """TLS 1.3 sends its tickets before the first answer: without TCP_NODELAY that one comes 40 ms late."""
    tls = node_files(tmp_path, root(), "node-1")

    async def run() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = KmsServer(Answers(), tls)  # type: ignore[arg-type]
        await server.start(Address("127.0.0.1", port))
        trusted = ssl.create_default_context(cafile=str(tls.roots))
        trusted.check_hostname = False
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: node\r\n\r\n")
        await reader.readline()
        found = _options(writer.get_extra_info("sockname"))
        writer.close()
        await server.stop()
        assert found == [1]

    uvloop.run(asyncio.wait_for(run(), 20))


def _options(peer: tuple[str, int]) -> list[int]:
    """TCP_NODELAY of this process's sockets that are connected to `peer`."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            with socket.socket(fileno=os.dup(int(entry.name))) as each:
                if each.getpeername() == peer:
                    found.append(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        except OSError:
            continue
    return found
