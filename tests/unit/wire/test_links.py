"""Links over real TLS on loopback: delivery, order, bounds, and getting back after a loss."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picows import WSCloseCode, WSMsgType
from tests.unit.wire.certificates import node_files, root
from tests.unit.wire.hosts import A, B, C, Host, close, join, pair, rude, run

from quorate.errors import BadInput, PortInUse
from quorate.ids import HUB, NodeId
from quorate.wire.links import Address, Limits, LinkDown, dials
from quorate.wire.websocket import Keepalive

MIB = 1 << 20


def test_messages_of_every_size_arrive_whole_and_in_order_both_ways(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path, root())
        sizes = [1, 125, 126, 2048, 65535, 65536, MIB]
        for number, size in enumerate(sizes):
            await a.links.send(B, bytes([number]) * size)
            await b.links.send(A, bytes([number + 100]) * size)
        for number, size in enumerate(sizes):
            assert await b.messages.get() == (A, bytes([number]) * size)
            assert await a.messages.get() == (B, bytes([number + 100]) * size)
        await close(a, b)

    run(main())


def test_link_is_up_at_both_ends_until_closed(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path, root())
        assert (set(a.links.up), set(b.links.up)) == ({B}, {A})
        await a.links.close()
        assert (await a.downs.get(), await b.downs.get()) == (B, A)
        assert not a.links.up | b.links.up
        await close(b)

    run(main())


def test_node_dials_the_hub(tmp_path: Path) -> None:
    """`a` sorts before `hub` and `z` after it; both know its address, it knows neither's."""

    async def main() -> None:
        operator = root()
        hub = await Host(HUB, node_files(tmp_path, operator, "hub")).listen()
        nodes = [Host(NodeId(name), node_files(tmp_path, operator, name)) for name in ("a", "z")]
        hub.knows(*nodes)
        for node in nodes:
            node.knows(hub)
            assert await node.ups.get() == HUB
            assert await hub.ups.get() == node.name
        await close(hub, *nodes)

    run(main())


names = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True).map(NodeId) | st.just(HUB)


@given(names, names)
def test_exactly_one_of_a_pair_dials(one: NodeId, other: NodeId) -> None:
    if one != other:
        assert dials(one, other) != dials(other, one)
        assert dials(one, HUB) or one == HUB


def test_send_without_a_link_fails_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        a = Host(A, node_files(tmp_path, root(), "a"))
        a.links.set_peers({C: None})
        with pytest.raises(LinkDown, match="no link") as down:
            await a.links.send(C, b"x")
        assert down.value.peer == C
        with pytest.raises(LinkDown, match="not in the roster"):
            await a.links.send(B, b"x")
        await close(a)

    run(main())


def test_link_comes_back_when_its_peer_restarts(tmp_path: Path) -> None:
    async def main() -> None:
        operator = root()
        a, b = await pair(tmp_path, operator)
        await b.links.close()
        assert await a.downs.get() == B
        again = await Host(B, node_files(tmp_path / "new", operator, "b")).listen(b.port)
        again.knows(a)
        assert (await a.ups.get(), await again.ups.get()) == (B, A)
        await a.links.send(B, b"welcome back")
        assert await again.messages.get() == (A, b"welcome back")
        await close(a, again)

    run(main())


def test_new_connection_of_a_restarted_dialler_replaces_the_old_one(tmp_path: Path) -> None:
    async def main() -> None:
        operator = root()
        a, b = await pair(tmp_path, operator)
        again = Host(A, node_files(tmp_path / "new", operator, "a"))
        a.links.set_peers({B: b.address})
        again.knows(b)
        assert await b.downs.get() == A
        assert (await b.ups.get(), await again.ups.get()) == (A, B)
        assert await a.downs.get() == B
        await a.links.close()  # it would take the link back
        while b.links.up != {A} or again.links.up != {B}:
            await again.ups.get()
        await again.links.send(B, b"new")
        assert await b.messages.get() == (A, b"new")
        await close(again, b)

    run(main())


def test_peer_that_left_the_roster_loses_its_link_and_gets_no_new_one(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path, root())
        b.links.set_peers({})
        assert (await b.downs.get(), await a.downs.get()) == (A, B)
        assert "a is not in the roster" in await b.refusals.get()  # it dialled again
        assert a.ups.empty()
        await close(a, b)

    run(main())


def test_changed_address_is_dialled_again(tmp_path: Path) -> None:
    async def main() -> None:
        operator = root()
        a, b = await pair(tmp_path, operator)
        moved = await Host(B, node_files(tmp_path / "new", operator, "b")).listen()
        moved.knows(a)
        a.knows(moved)
        assert (await a.downs.get(), await a.ups.get(), await moved.ups.get()) == (B, B, A)
        await close(a, b, moved)

    run(main())


def test_same_roster_again_leaves_links_alone(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path, root())
        a.knows(b)
        b.knows(a)
        await a.links.send(B, b"still here")
        assert await b.messages.get() == (A, b"still here")
        assert a.downs.empty()
        await close(a, b)

    run(main())


@pytest.mark.parametrize("size", [0, MIB + 1])
def test_sender_refuses_a_message_of_wrong_size(tmp_path: Path, size: int) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path, root())
        with pytest.raises(ValueError, match="1 to 1048576 bytes"):
            await a.links.send(B, bytes(size))
        await a.links.send(B, b"the link lives")
        assert await b.messages.get() == (A, b"the link lives")
        await close(a, b)

    run(main())


@pytest.mark.parametrize(
    ("kind", "message", "fin", "code"),
    [
        (WSMsgType.BINARY, bytes(MIB + 1), True, WSCloseCode.MESSAGE_TOO_BIG),
        (WSMsgType.BINARY, b"", True, WSCloseCode.PROTOCOL_ERROR),
        (WSMsgType.TEXT, b"text", True, WSCloseCode.UNSUPPORTED_DATA),
        (WSMsgType.BINARY, b"piece", False, WSCloseCode.UNSUPPORTED_DATA),
        (WSMsgType.CONTINUATION, b"piece", True, WSCloseCode.UNSUPPORTED_DATA),
    ],
    ids=["too-big", "empty", "text", "piece", "continuation"],
)
def test_message_of_another_kind_or_size_ends_the_link(
    tmp_path: Path, kind: WSMsgType, message: bytes, fin: bool, code: WSCloseCode
) -> None:
    async def main() -> None:
        operator = root()
        b = await Host(B, node_files(tmp_path, operator, "b")).listen()
        b.links.set_peers({A: None})
        client = await rude(b.address, node_files(tmp_path, operator, "a"))
        assert await client.messages.get() == b""  # the welcome
        client.send(kind, message, fin=fin)
        assert await client.closed == code
        assert await b.downs.get() == A
        assert b.messages.empty()
        a = Host(A, node_files(tmp_path, operator, "a"))
        await join(a, b)  # b lives
        await close(a, b)

    run(main())


def test_other_path_is_not_found(tmp_path: Path) -> None:
    async def main() -> None:
        operator = root()
        b = await Host(B, node_files(tmp_path, operator, "b")).listen()
        b.links.set_peers({A: None})
        with pytest.raises(Exception, match="404"):
            await rude(b.address, node_files(tmp_path, operator, "a"), "/other")
        assert b.ups.empty()
        await close(b)

    run(main())


def test_silent_peer_is_dropped_after_a_ping_without_answer(tmp_path: Path) -> None:
    async def main() -> None:
        operator = root()
        limits = Limits(keepalive=Keepalive(idle=0.05, reply=0.05))
        b = await Host(B, node_files(tmp_path, operator, "b"), limits=limits).listen()
        b.links.set_peers({A: None})
        client = await rude(b.address, node_files(tmp_path, operator, "a"), pong=False)
        assert (await b.ups.get(), await b.downs.get()) == (A, A)
        await client.closed
        await close(b)

    run(main())


def test_slow_handler_pauses_its_sender_only_and_a_full_queue_drops_the_link(tmp_path: Path) -> None:
    async def main() -> None:
        operator = root()
        go = asyncio.Event()
        seen: asyncio.Queue[tuple[NodeId, bytes]] = asyncio.Queue()

        async def wait_for_go() -> None:
            await go.wait()

        def handle(sender: NodeId, message: bytes) -> Awaitable[None] | None:
            seen.put_nowait((sender, message[:8]))
            return wait_for_go() if sender == A else None

        limits = Limits(send_queue=2 * MIB, backlog=64 * 1024)
        a = await Host(A, node_files(tmp_path, operator, "a"), limits=limits).listen()
        b = await Host(B, node_files(tmp_path, operator, "b"), limits=limits).listen()
        c = await Host(C, node_files(tmp_path, operator, "c"), limits=limits, on_message=handle).listen()
        for host in (a, b, c):
            host.knows(*{a, b, c} - {host})
        for _ in range(2):
            await a.ups.get(), await b.ups.get(), await c.ups.get()

        with pytest.raises(LinkDown, match="unread"):
            for _ in range(1000):  # 256 MiB: far more than all buffers together
                await a.links.send(C, b"blocking" * 32768)
                await asyncio.sleep(0)  # lets bytes flow
        assert await seen.get() == (A, b"blocking")  # the one handler that waits; none was started beside it
        await b.links.send(C, b"not slow")
        assert await seen.get() == (B, b"not slow")
        assert (await a.downs.get(), await c.downs.get()) == (C, A)
        assert a.links.up >= {B}
        go.set()
        await a.ups.get()
        await close(a, b, c)

    run(main())


def test_paused_link_goes_on_when_its_handler_does(tmp_path: Path) -> None:
    async def main() -> None:
        go = asyncio.Event()
        seen: list[int] = []
        last = asyncio.Event()

        async def slow(number: int) -> None:
            await go.wait()
            seen.append(number)
            if number == 199:
                last.set()

        def handle(sender: NodeId, message: bytes) -> Awaitable[None] | None:
            return slow(message[0])

        a, b = await pair(tmp_path, root(), limits=Limits(backlog=32 * 1024), on_message=handle)
        for number in range(200):
            await a.links.send(B, bytes([number]) * 8192)  # 1.6 MB against a backlog of 32 KB
        go.set()
        await last.wait()
        assert seen == list(range(200))
        await close(a, b)

    run(main())


def test_waiting_and_immediate_handlers_of_one_link_keep_the_order(tmp_path: Path) -> None:
    async def main() -> None:
        seen: list[int] = []
        last = asyncio.Event()

        async def later(number: int) -> None:
            await asyncio.sleep(0)
            seen.append(number)

        def handle(sender: NodeId, message: bytes) -> Awaitable[None] | None:
            if message[0] % 3 == 0:
                return later(message[0])
            seen.append(message[0])
            if message[0] == 100:
                last.set()
            return None

        a, b = await pair(tmp_path, root(), on_message=handle)
        for number in range(101):
            await a.links.send(B, bytes([number]))
        await last.wait()
        assert seen == list(range(101))
        await close(a, b)

    run(main())


@pytest.mark.parametrize("waits", [False, True])
def test_handler_that_fails_costs_its_message_alone(
    tmp_path: Path, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        seen: asyncio.Queue[bytes] = asyncio.Queue()

        async def fail() -> None:
            raise RuntimeError("later")

        def handle(sender: NodeId, message: bytes) -> Awaitable[None] | None:
            if message == b"bad":
                if waits:
                    return fail()
                raise RuntimeError("now")
            seen.put_nowait(message)
            return None

        a, b = await pair(tmp_path, root(), on_message=handle)
        await a.links.send(B, b"bad")
        await a.links.send(B, b"good")
        assert await seen.get() == b"good"
        assert b.downs.empty()
        await close(a, b)

    run(main())
    assert "the handler of a message from a failed" in caplog.text


def test_closing_lets_queued_messages_leave(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path, root())
        for _ in range(3):
            await a.links.send(B, bytes(MIB))
        await a.links.close()
        for _ in range(3):
            assert len((await b.messages.get())[1]) == MIB
        await close(b)

    run(main())


def test_closing_is_not_held_up_by_a_handler_that_never_returns(tmp_path: Path) -> None:
    async def main() -> None:
        entered = asyncio.Event()

        async def never() -> None:
            entered.set()
            await asyncio.Event().wait()

        a, b = await pair(tmp_path, root(), on_message=lambda sender, message: never())
        await a.links.send(B, b"x")
        await entered.wait()
        await close(b, a)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_taken_port_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        operator = root()
        a = await Host(A, node_files(tmp_path, operator, "a")).listen()
        b = Host(B, node_files(tmp_path, operator, "b"))
        with pytest.raises(PortInUse, match=f"127.0.0.1:{a.port}"):
            await b.listen(a.port)
        await close(a, b)

    run(main())


def test_foreign_address_is_bad_input(tmp_path: Path) -> None:
    async def main() -> None:
        a = Host(A, node_files(tmp_path, root(), "a"))
        with pytest.raises(BadInput, match="cannot listen"):
            await a.links.start("192.0.2.1", 0)
        await close(a)

    run(main())


@pytest.mark.parametrize(
    ("text", "host", "port"), [("node-1.example:4501", "node-1.example", 4501), ("[::1]:1", "::1", 1)]
)
def test_address_reads_what_it_writes(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert str(Address(host, port)) == text


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:0", "host:65536", "host:1a", "host:-1", "host:²"]
)
def test_address_without_host_or_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Address.parse(text)
