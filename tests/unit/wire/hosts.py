"""What tests of links need: a host whose every event can be waited for, and a client without manners."""

import asyncio
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any

import uvloop
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect
from tests.unit.wire.certificates import Issuer, node_files

from quorate.ids import NodeId
from quorate.wire.links import PATH, Address, Limits, Links, OnMessage, TlsFiles

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs on uvloop; a test that waits for what never comes fails after half a minute."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    uvloop.run(bounded())


class Host:
    """One process's links, with a queue for each kind of event."""

    def __init__(
        self,
        name: NodeId,
        tls: TlsFiles,
        *,
        limits: Limits | None = None,
        on_message: OnMessage | None = None,
    ) -> None:
        self.name = name
        self.ups: asyncio.Queue[NodeId] = asyncio.Queue()
        self.downs: asyncio.Queue[NodeId] = asyncio.Queue()
        self.refusals: asyncio.Queue[str] = asyncio.Queue()
        self.messages: asyncio.Queue[tuple[NodeId, bytes]] = asyncio.Queue()
        self.port = 0
        self.links = Links(
            name,
            tls,
            on_message=on_message or self._keep,
            on_up=self.ups.put_nowait,
            on_down=self.downs.put_nowait,
            on_refused=self.refusals.put_nowait,
            limits=limits,
        )

    def _keep(self, sender: NodeId, message: bytes) -> Awaitable[None] | None:
        self.messages.put_nowait((sender, message))
        return None

    async def listen(self, port: int = 0) -> "Host":
        self.port = await self.links.start("127.0.0.1", port)
        return self

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    def knows(self, *others: "Host") -> None:
        self.links.set_peers({other.name: other.address if other.port else None for other in others})


async def pair(directory: Path, operator: Issuer, **of_b: Any) -> tuple[Host, Host]:
    """`a` and `b` of one fleet, linked; `of_b` are settings of `b`."""
    a = await Host(A, node_files(directory, operator, "a")).listen()
    b = await Host(B, node_files(directory, operator, "b"), **of_b).listen()
    await join(a, b)
    return a, b


async def join(a: Host, b: Host) -> None:
    a.knows(b)
    b.knows(a)
    assert (await a.ups.get(), await b.ups.get()) == (b.name, a.name)


async def close(*hosts: Host) -> None:
    await asyncio.gather(*(host.links.close() for host in hosts))


class Rude(WSListener):
    """A WebSocket client that does as it is told, whatever the protocol says."""

    def __init__(self) -> None:
        self.transport: WSTransport | None = None
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed: asyncio.Future[WSCloseCode | None] = asyncio.get_running_loop().create_future()
        self._code: WSCloseCode | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            self._code = frame.get_close_code()
            transport.disconnect()
        elif frame.msg_type == WSMsgType.BINARY:
            self.messages.put_nowait(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.closed.set_result(self._code)

    def send(self, kind: WSMsgType, message: bytes, *, fin: bool = True) -> None:
        assert self.transport is not None
        self.transport.send(kind, message, fin=fin)


async def rude(host: Address, tls: TlsFiles, path: str = PATH, *, pong: bool = True) -> Rude:
    client = Rude()
    await ws_connect(
        lambda _request, _response: client,
        f"wss://{host}{path}",
        ssl_context=tls.client_context(),
        use_aiofastnet=False,
        enable_auto_pong=pong,
    )
    return client
