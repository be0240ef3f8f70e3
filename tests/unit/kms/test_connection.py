"""HTTP/1.1 over real sockets, without TLS: order, framing, and every bound. The clock is the test's."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator

import pytest

from quorate.kms import connection
from quorate.kms.connection import (
    BODY_MAX,
    BODY_SECONDS,
    FIELDS_MAX,
    HEAD_MAX,
    HEAD_SECONDS,
    IDLE_SECONDS,
    LINGER_SECONDS,
    READ_SECONDS,
    Connection,
    Connections,
)
from quorate.kms.errors import KmsError
from quorate.kms.http import Response, SignedRequest


@pytest.fixture(autouse=True)
def _quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_SWEEP_SECONDS", 0.02)


Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Service:
    """Answers with what it was asked; holds back the answer to a target with "wait" in it until `go`."""

    def __init__(self) -> None:
        self.seen: list[SignedRequest] = []
        self.refused: list[str] = []
        self.waiting = asyncio.Event()
        self.go = asyncio.Event()
        self.big = b""

    async def respond(self, request: SignedRequest) -> Response:
        self.seen.append(request)
        if b"wait" in request.target:
            self.waiting.set()
            await self.go.wait()
        if b"fault" in request.target:
            raise RuntimeError("secret")
        body = request.target + b":" + request.body + (self.big if b"big" in request.target else b"")
        return Response(200, ((b"content-length", b"%d" % len(body)),), body)

    async def refuse(self, request: SignedRequest, error: KmsError) -> Response:
        self.refused.append(error.code)
        return Response(error.status, ((b"content-length", b"0"),), b"")


class Server:
    """`time` is what the connections take for now."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.service = Service()
        self.connections = Connections(self.service, lambda: self.time)
        self._writers: list[asyncio.StreamWriter] = []
        self.made: asyncio.Queue[None] = asyncio.Queue()
        self.alive: weakref.WeakSet[Connection] = weakref.WeakSet()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._make, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        self.connections.start()

    def _make(self) -> Connection:
        made = self.connections.make(asyncio.get_running_loop().create_future())
        self.made.put_nowait(None)
        self.alive.add(made)
        return made

    async def connect(self, data: bytes = b"") -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(writer)
        writer.write(data)
        return reader, writer

    async def ask(self, data: bytes) -> bytes:
        """All that comes back until the server ends the connection, which it does soon."""
        reader, _ = await self.connect(data)
        got = await reader.readuntil(b"\r\nconnection: close\r\n\r\n")
        self.time += LINGER_SECONDS + 0.1
        return got + await reader.read()

    async def close(self) -> None:
        self._server.close()
        await self.connections.stop(0.0)
        for writer in self._writers:
            writer.close()


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Whatever goes, goes because nothing refers to it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def with_server(test: Callable[[Server], Awaitable[None]]) -> None:
    async def main() -> None:
        server = Server()
        await server.open()
        try:
            async with asyncio.timeout(20):
                await test(server)
        finally:
            await server.close()

    asyncio.run(main())


def post(target: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)


def test_connection_that_ended_is_freed_without_the_garbage_collector() -> None:
    async def run(server: Server) -> None:
        with without_collector():
            await server.ask(post("/a", b"x", "Connection: close"))
            for data in (b"", b"POST / HT", post("/b", b"y")):
                _, writer = await server.connect(data)
                writer.close()
                await writer.wait_closed()
            for _ in range(4):
                await server.made.get()
            await server.connections._empty.wait()
            assert not server.alive

    with_server(run)


def test_requests_of_one_connection_are_answered_one_after_another() -> None:
    async def run(server: Server) -> None:
        reader, writer = await server.connect()
        for number in range(3):
            writer.write(post(f"/{number}", b"body", "X-Amz-Date: now"))
            assert await answer(reader) == (200, f"/{number}:body".encode())
        seen = server.service.seen[0]
        assert (seen.method, seen.peer) == ("POST", "127.0.0.1")
        assert seen.headers == ((b"host", b"x"), (b"content-length", b"4"), (b"x-amz-date", b"now"))

    with_server(run)


@pytest.mark.parametrize("after", [post("/b", b"2"), b"nonsense\r\n\r\n", post("/b")[:20]])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "while the first is served"])
def test_n76_what_comes_before_an_answer_is_complete_is_not_read(after: bytes, late: bool) -> None:
    async def run(server: Server) -> None:
        reader, writer = await server.connect(post("/wait") + (b"" if late else after))
        await server.service.waiting.wait()
        if late:
            writer.write(after)
            await answer((await server.connect(post("/seen")))[0])  # so those bytes have been read as well
        server.service.go.set()
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert head.endswith(b"\r\nconnection: close\r\n\r\n")
        server.time += LINGER_SECONDS + 0.1
        assert await reader.read() == b"/wait:"
        assert b"/b" not in [request.target for request in server.service.seen]

    with_server(run)


def test_n70_a_trailer_is_no_header() -> None:
    async def run(server: Server) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        reader, _ = await server.connect(head + b"3\r\nabc\r\n0\r\nX-Amz-Date: now\r\n\r\n")
        assert await answer(reader) == (200, b"/:abc")
        assert [name for name, _ in server.service.seen[0].headers] == [b"host", b"transfer-encoding"]

    with_server(run)


def test_body_in_chunks_is_read_whole() -> None:
    async def run(server: Server) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        reader, _ = await server.connect(head + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
        assert await answer(reader) == (200, b"/:abcdefg")

    with_server(run)


def test_client_that_expects_a_continue_gets_it() -> None:
    async def run(server: Server) -> None:
        whole = post("/", b"body", "Expect: 100-continue")
        reader, writer = await server.connect(whole[:-4])
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert (await answer(reader))[1] == b"/:body"

    with_server(run)


@pytest.mark.parametrize("ending", ["HTTP/1.0\r\n", "HTTP/1.1\r\nConnection: close\r\n"])
def test_connection_ends_with_the_answer_where_the_client_says_so(ending: str) -> None:
    async def run(server: Server) -> None:
        got = await server.ask(f"POST /a {ending}Host: x\r\nContent-Length: 0\r\n\r\n".encode() + post("/b"))
        assert got.startswith(b"HTTP/1.1 200 OK\r\n")
        assert got.endswith(b"\r\nconnection: close\r\n\r\n/a:")
        assert [request.target for request in server.service.seen] == [b"/a"]

    with_server(run)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: " + b"a" * HEAD_MAX + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + b"X: a\r\n" * (FIELDS_MAX + 1) + b"\r\n",
        b"POST /" + b"a" * 1_000_000,
        b"POST / HTTP/1.1\r\nX: " + b"a" * 1_000_000,
    ],
    ids=[
        "tls",
        "http2",
        "two-lengths",
        "length-and-chunks",
        "bad-chunk",
        "space-before-colon",
        "connect",
        "long-header",
        "many-headers",
        "endless-line",
        "endless-header",
    ],
)
def test_n76_what_is_no_request_is_refused_and_ends_the_connection(data: bytes) -> None:
    async def run(server: Server) -> None:
        got = await server.ask(data)
        assert got[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431")
        assert got.count(b"HTTP/1.1") == 1
        assert server.service.seen == []

    with_server(run)


def test_upgrade_is_answered_as_without_it_and_ends_the_connection() -> None:
    async def run(server: Server) -> None:
        head = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
        assert (await server.ask(head + b"PRI * HTTP/2.0")).endswith(b"\r\n/a:")

    with_server(run)


def test_n79_body_over_the_limit_is_refused_by_its_declared_length() -> None:
    async def run(server: Server) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 18 + b"\r\n\r\n"
        reader, _ = await server.connect(head)
        assert await answer(reader) == (413, b"")
        assert server.service.refused == ["RequestEntityTooLargeException"]
        server.time += 5
        assert await reader.read() == b""

    with_server(run)


def test_n79_body_over_the_limit_is_refused_while_it_arrives() -> None:
    async def run(server: Server) -> None:
        reader, writer = await server.connect(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(40):
            writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        assert await answer(reader) == (413, b"")
        assert server.service.seen == []
        assert server.service.refused == ["RequestEntityTooLargeException"]

    with_server(run)


def test_body_at_the_limit_is_served() -> None:
    async def run(server: Server) -> None:
        reader, _ = await server.connect(post("/", b"x" * BODY_MAX))
        assert (await answer(reader))[0] == 200

    with_server(run)


@pytest.mark.parametrize(
    ("data", "more", "seconds"),
    [
        (b"", b"", IDLE_SECONDS),
        (b"\r\n\r\n", b"\r\n", IDLE_SECONDS),
        (b"P", b"O", HEAD_SECONDS),
        (b"POST / HTTP/1.1\r\nHost: x\r\nVia: a", b"b", HEAD_SECONDS),
    ],
    ids=["silent", "empty-lines", "first-byte", "half-a-head"],
)
def test_n79_silent_and_slow_clients_are_cut_off(data: bytes, more: bytes, seconds: float) -> None:
    async def run(server: Server) -> None:
        reader, writer = await server.connect(post("/first"))
        await answer(reader)
        writer.write(data)
        other, _ = await server.connect(post("/seen"))
        await answer(other)  # so the first connection's bytes have been read as well
        server.time += seconds - 1
        writer.write(more)
        third, _ = await server.connect(post("/still"))
        await answer(third)
        assert not reader.at_eof()
        server.time += 2
        assert await reader.read() == b""

    with_server(run)


def test_n79_slow_body_is_refused_in_time() -> None:
    async def run(server: Server) -> None:
        reader, writer = await server.connect(post("/", b"x" * 100)[:-50])
        other, _ = await server.connect(post("/seen"))
        await answer(other)
        for _ in range(4):
            server.time += BODY_SECONDS / 3
            writer.write(b"x")
        await answer(reader)
        assert server.service.refused == ["RequestTimeoutException"]
        server.time += 5
        assert await reader.read() == b""

    with_server(run)


def test_n79_client_that_reads_no_answers_is_cut_off() -> None:
    async def run(server: Server) -> None:
        server.service.big = b"x" * 20_000_000  # more than the kernel holds
        reader, writer = await server.connect(post("/big"))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        slow, slow_writer = await server.connect(post("/b"))  # the same sweep will find it
        await answer(slow)
        slow_writer.write(b"P")
        await answer((await server.connect(post("/other")))[0])
        writer.write(post("/a"))  # is not read
        server.time += max(READ_SECONDS, HEAD_SECONDS) + 1
        assert await slow.read() == b""
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(ConnectionResetError):
            assert len(await reader.read()) < 20_000_000
        assert [request.target for request in server.service.seen] == [b"/big", b"/b", b"/other"]

    with_server(run)


def test_connection_goes_on_after_a_pause_within_bounds() -> None:
    async def run(server: Server) -> None:
        reader, writer = await server.connect(post("/a"))
        await answer(reader)
        server.time += IDLE_SECONDS - 1
        writer.write(post("/b"))
        assert (await answer(reader))[1] == b"/b:"

    with_server(run)


def test_call_under_way_is_not_cut_off_by_the_clock() -> None:
    async def run(server: Server) -> None:
        reader, _ = await server.connect(post("/wait"))
        await server.service.waiting.wait()
        idle, _ = await server.connect(post("/a"))
        await answer(idle)
        server.time += 10_000
        assert await idle.read() == b""
        server.service.go.set()
        assert (await answer(reader))[1] == b"/wait:"

    with_server(run)


def test_n79_one_connection_too_many_ends_the_one_that_is_idle_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS_MAX", 3)

    async def run(server: Server) -> None:
        busy, _ = await server.connect(post("/wait"))
        await server.service.waiting.wait()
        old, _ = await server.connect(post("/old"))
        await answer(old)
        server.time += 1
        young, young_writer = await server.connect(post("/young"))
        await answer(young)
        extra, _ = await server.connect(post("/extra"))
        assert (await answer(extra))[1] == b"/extra:"
        assert await old.read() == b""
        young_writer.write(post("/again"))
        assert (await answer(young))[1] == b"/again:"
        server.service.go.set()
        assert (await answer(busy))[1] == b"/wait:"

    with_server(run)


def test_n79_where_all_connections_are_busy_another_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS_MAX", 1)

    async def run(server: Server) -> None:
        busy, _ = await server.connect(post("/wait"))
        await server.service.waiting.wait()
        assert (await server.ask(post("/extra")))[:12] == b"HTTP/1.1 503"
        server.service.go.set()
        assert (await answer(busy))[1] == b"/wait:"

    with_server(run)


def test_fault_of_the_service_ends_the_connection_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def run(server: Server) -> None:
        reader, _ = await server.connect(post("/fault"))
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""

    with_server(run)
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_stop_lets_calls_under_way_end() -> None:
    async def run(server: Server) -> None:
        busy, _ = await server.connect(post("/wait"))
        await server.service.waiting.wait()
        idle, _ = await server.connect(post("/a"))
        await answer(idle)
        stopping = asyncio.ensure_future(server.connections.stop(5.0))
        assert await idle.read() == b""
        server.service.go.set()
        got = await busy.read()
        assert got.endswith(b"connection: close\r\n\r\n/wait:")
        await stopping

    with_server(run)
