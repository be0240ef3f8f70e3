"""How many connections the HTTP server keeps, and who gives way. The limits of one connection are tested from outside
(tests/e2e/test_clients.py).
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from quorate.host import http_server
from quorate.host.http_server import HttpServer


class Application:
    """Answers `ok`, holds back the answer to `/slow` until it is told, and says much to `/much`."""

    MUCH = 64 << 20

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.slow = asyncio.Event()
        self.said = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        if scope["path"] == "/slow":
            self.slow.set()
            await self.go.wait()
        if scope["path"] == "/much":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(self.MUCH >> 20):
                await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            await send({"type": "http.response.body"})
            self.said.set()
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def ask(self, path: str = "/", length: int = 0) -> "Client":
        """`length`: of a body that is announced, and not sent."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode())
        return self

    async def status(self) -> int:
        """Of the next answer."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        await self._reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        return int(head.split()[1])

    async def rest(self) -> int:
        """Bytes until the end of the connection."""
        total = 0
        with contextlib.suppress(ConnectionError):
            while part := await self._reader.read(1 << 20):
                total += len(part)
        return total

    async def is_closed(self) -> bool:
        return await self._reader.read() == b""


Connect = Callable[[], Awaitable[Client]]


def run(test: Callable[[Application, HttpServer, Connect], Awaitable[None]]) -> None:
    async def main() -> None:
        app = Application()
        server = HttpServer(app, grace=1, connections=3)
        clients: list[Client] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()

            async def connect() -> Client:
                clients.append(Client(*await asyncio.open_connection(*address)))
                return clients[-1]

            await server.start(listener)
            try:
                async with asyncio.timeout(10):
                    await test(app, server, connect)
            finally:
                for client in clients:
                    client.writer.close()
                    with contextlib.suppress(ConnectionError):
                        await client.writer.wait_closed()
                await server.stop()

    asyncio.run(main())


def test_n62_the_connection_that_waited_longest_gives_way() -> None:
    async def test(_app: Application, _server: HttpServer, connect: Connect) -> None:
        first, second, third = [(await connect()).ask() for _ in range(3)]
        assert [await client.status() for client in (first, second, third)] == [200] * 3
        assert await first.ask().status() == 200  # now the second has waited longest
        fourth = await connect()
        assert await fourth.ask().status() == 200
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await second.ask().status()
        assert [await client.ask().status() for client in (first, third, fourth)] == [200] * 3

    run(test)


def test_n62_a_request_without_its_body_gives_way() -> None:
    async def test(_app: Application, _server: HttpServer, connect: Connect) -> None:
        for _ in range(5):
            (await connect()).ask(length=10)
        good = await connect()
        assert [await good.ask().status() for _ in range(3)] == [200] * 3

    run(test)


def test_n62_no_request_under_way_gives_way() -> None:
    async def test(app: Application, _server: HttpServer, connect: Connect) -> None:
        busy = []
        for _ in range(3):
            app.slow.clear()
            busy.append((await connect()).ask("/slow"))
            await app.slow.wait()
        fourth = await connect()
        assert await fourth.ask().status() == 503
        assert await fourth.is_closed()
        app.go.set()
        assert [await client.status() for client in busy] == [200] * 3

    run(test)


def test_n62_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "WRITE_SECONDS", 0.1)

    async def test(app: Application, _server: HttpServer, connect: Connect) -> None:
        deaf = (await connect()).ask("/much")
        await app.said.wait()  # to nobody: the node holds none of it any more
        assert await deaf.rest() < app.MUCH

    run(test)


def test_stopping_lets_the_call_under_way_end_and_closes_the_others() -> None:
    async def test(app: Application, server: HttpServer, connect: Connect) -> None:
        idle = await connect()
        assert await idle.ask().status() == 200
        slow = (await connect()).ask("/slow")
        await app.slow.wait()
        stopping = asyncio.create_task(server.stop())
        assert await idle.is_closed()
        assert not server.listening
        app.go.set()
        assert await slow.status() == 200
        assert await slow.is_closed()
        await stopping

    run(test)
