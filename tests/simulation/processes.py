"""The hub and the nodes as processes that start, stop and crash: the services' own classes, put together without
sockets and threads.

Here: what `hub/service` and `node/service` do for epoch changes: their parts, clockwork, what ends them.
Not here: when they crash (`schedule`), what lies about (`liars`), what must hold (`reference`).
"""

import asyncio
import contextlib
import logging
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, cast

from quorate import _core
from quorate.errors import QuorateError, StorageFailed
from quorate.host.dispatch import Dispatch, Dropped, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.hub.changes import Changes
from quorate.hub.epochs import Domain
from quorate.hub.epochs import Epochs as HubEpochs
from quorate.hub.journal import Journal as HubJournal
from quorate.hub.nodes import Domains, Nodes
from quorate.ids import HUB, DomainId, NodeId
from quorate.node.epochs import Epochs as NodeEpochs
from quorate.node.journal import Journal as NodeJournal
from quorate.store import database as real
from quorate.wire.links import LinkDown

from . import core, storage

if TYPE_CHECKING:
    from .world import World

T = TypeVar("T")

BEAT_SECONDS = 0.4
TICK_SECONDS = 0.4

for _name in ("quorate.hub", "quorate.node", "quorate.host"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # what happens is in the trace


class Inline:
    """As `quorate.hsm.Hsm`: one command after another, each in a moment of virtual time."""

    def __init__(self, process: "Process", module: _core.Module) -> None:
        self._process = process
        self.module = module
        self._turn = asyncio.Lock()

    async def slow(self, command: Callable[..., T], *arguments: object) -> T:
        rng = self._process.rng
        async with self._turn:
            await asyncio.sleep(rng.uniform(0.0, 0.003))
            result = self._process.run(command, *arguments)
            await asyncio.sleep(rng.uniform(0.0, 0.003))
            return result


class Port:
    """As `quorate.host.fleet.Fleet`, on the simulated network."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self.own = process.name

    def post(self, to: NodeId, kind: str, *fields: object) -> None:
        process = self._process
        if not process.alive:
            return
        sent = process.says(kind, list(fields))
        process.world.reference.said(process.name, kind, sent)
        process.world.network.post(process.name, to, kind, _core.encode(sent))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._process.spawn(work)


class Watched(Dispatch):
    """A handler that fails in a way that nobody thought of is a mistake."""

    def __init__(self, process: "Process") -> None:
        super().__init__()
        self._process = process

    def _failed(self, why: Exception, kind: str, sender: NodeId) -> None:
        super()._failed(why, kind, sender)
        known = (_core.CoreError, Dropped, LinkDown, StorageFailed)
        if self._process.alive and not isinstance(why, known):
            at = traceback.extract_tb(why.__traceback__)[-1]
            self._process.world.violate(
                "works", f"{self._process.name} at {kind} of {sender}: {why!r} in {at.name}, line {at.lineno}"
            )


class Process(ABC):
    """One process of a host, from start to end."""

    def __init__(self, world: "World", name: NodeId, disk: core.Disk, module: _core.Module) -> None:
        self.world = world
        self.name = name
        self.disk = disk
        self.rng: Random = world.rng
        self.alive = True
        self.crash_armed = False
        self.port = Port(self)
        self.hsm = Inline(self, module)
        self.dispatch = Watched(self)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._inbox: dict[NodeId, list[tuple[str, bytes]]] = {}

    @property
    def module(self) -> _core.Module:
        return self.hsm.module

    @property
    def fleet(self) -> Fleet:
        return cast(Fleet, self.port)

    def says(self, kind: str, fields: list[Any]) -> list[Any]:
        """What it sends in place of this; a liar says something else."""
        return fields

    def begin(self) -> None:
        """It is up, and joins the network."""
        self.spawn(self.dispatch.run_queue())
        self.world.network.join(self)

    def end(self) -> None:
        """Nothing runs any more. Of what it had not written, its disk decides."""
        self.alive = False
        for task in list(self._tasks):
            task.cancel()
        self.module.close()

    def run(self, command: Callable[..., T], *arguments: object) -> T:
        """One command of the module that may write; whatever it left on the medium is looked at."""
        if not self.alive:
            raise asyncio.CancelledError
        try:
            return command(*arguments)
        except _core.CoreError as why:
            if self.module.failed and self.crash_armed:
                self.world.crash(self.name, "at a write")
                raise asyncio.CancelledError from None
            self.world.note(f"{self.name} refuses: {why.code}, {', '.join(why.culprits)}")
            raise
        finally:
            if self.alive:
                self.world.reference.look(self)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if not self.alive:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled() or (why := task.exception()) is None or not self.alive:
            return
        if not isinstance(why, (QuorateError, _core.CoreError)):
            self.world.violate("works", f"background work of {self.name} failed: {why!r}")

    def receive(self, sender: NodeId, kind: str, body: bytes) -> None:
        """Messages of one sender one after another, as a link does."""
        inbox = self._inbox.get(sender)
        if inbox is not None:
            inbox.append((kind, body))
            return
        waiting = self.dispatch.take(sender, kind, body)
        if waiting is not None:
            self._inbox[sender] = []
            self.spawn(self._take_rest(sender, waiting))

    async def _take_rest(self, sender: NodeId, waiting: Any) -> None:
        await waiting
        for kind, body in self._inbox.pop(sender):
            self.receive(sender, kind, body)

    @abstractmethod
    def greeted(self, peer: NodeId) -> None: ...

    @abstractmethod
    def lost(self, peer: NodeId) -> None: ...


class Hub(Process):
    """As `hub.service.Hub`."""

    def __init__(
        self, world: "World", disk: core.Disk, module: _core.Module, database: storage.Database
    ) -> None:
        super().__init__(world, HUB, disk, module)
        self.database = database
        self.ready = False
        self.taps: list[Callable[[NodeId, str, Fields], None]] = []
        hsm, journal = (
            cast(Hsm, self.hsm),
            cast(HubJournal, storage.HubJournal(world.rng, world.reference.noted)),
        )
        rows = cast(real.Database, database)
        self.nodes = Nodes(world.loop.time, self._on_node, self._ask_again)
        self.epochs = HubEpochs(hsm, self.fleet, journal, rows, self.nodes, self._on_commit)
        self.changes = Changes(self.epochs, rows, self.nodes)
        self.nodes.register(self.dispatch)
        self.epochs.register(self.dispatch)
        self.dispatch.on(
            "link/mark", 1, lambda sender, fields: self._note_mark(sender, fields[0]), hub_only=False
        )
        self.nodes.use_roster(module.entries())

    def begin(self) -> None:
        super().begin()
        self.spawn(self._run())

    def end(self) -> None:
        super().end()
        for turn in self.changes._turns.values():
            if turn.task is not None:
                turn.task.cancel()

    async def _run(self) -> None:
        await self.epochs.load()
        await self.changes.load()
        self.ready = True
        while not self.module.failed and not self.database.failed.done():
            self.nodes.tick()
            self.changes.tick()
            with contextlib.suppress(_core.CoreError):  # its failure ends the loop
                await self.hsm.slow(self.module.keep_marks)
            await asyncio.sleep(TICK_SECONDS)
        self.world.stop(HUB, "its vault or its database failed")

    def receive(self, sender: NodeId, kind: str, body: bytes) -> None:
        for tap in self.taps:
            tap(sender, kind, _core.decode(body))
        super().receive(sender, kind, body)

    def greeted(self, peer: NodeId) -> None:
        node = self.world.processes[peer]
        if node.alive and not node.module.failed:
            self._note_mark(peer, node.module.mark())
        self.nodes.greeted(peer)

    def _note_mark(self, sender: NodeId, mark: bytes) -> None:
        """What `host.fleet.Fleet` does with a hello, and between hellos."""
        if not self.alive or self.module.failed:
            return
        try:
            self.module.note_mark(sender.value, mark)
        except _core.CoreError as why:
            later, node = self.module.mark_of(sender.value), self.world.processes[sender]
            if why.code != "rolled_back" or later is None:
                raise
            if isinstance(node, Node) and node.alive and not node.module.failed:
                node.show(later)

    def lost(self, peer: NodeId) -> None:
        self.nodes.lost(peer)

    def _on_node(self, node: NodeId, domains: Domains) -> None:
        self.epochs.node_changed(node, domains)

    def _ask_again(self, node: NodeId) -> None:
        with contextlib.suppress(LinkDown):
            self.port.post(node, "node/again")

    def _on_commit(self, domain: Domain) -> None:
        self.world.reference.serves(domain.epoch)
        for node in sorted(self.nodes.live):
            self._on_node(node, {domain.domain})


class Node(Process):
    """As `node.service.Node`."""

    def __init__(self, world: "World", name: NodeId, disk: core.Disk, module: _core.Module) -> None:
        super().__init__(world, name, disk, module)
        self._linked = False
        self._told = 0
        journal = cast(NodeJournal, storage.NodeJournal())
        self.epochs = NodeEpochs(cast(Hsm, self.hsm), self.fleet, journal, self._changed, self._soon)
        self.epochs.register(self.dispatch)
        self.dispatch.on("node/again", 0, lambda _sender, _fields: self.epochs.tell_all())

    def begin(self) -> None:
        super().begin()
        self._run()

    def _run(self) -> None:
        if not self.alive:
            return
        if self.module.failed:
            self.world.stop(self.name, "its vault failed")
            return
        self._beat()
        self.world.loop.call_later(BEAT_SECONDS, self._run)

    def greeted(self, peer: NodeId) -> None:
        self._linked = True
        self.epochs.tell_all()
        self.epochs.show()
        self._soon()

    def show(self, later: bytes) -> None:
        """It runs on an older copy of its vault, as its own later mark proves."""
        if self.run(self.module.take_evidence, later):
            self.world.note(f"{self.name} runs on an older copy")
            self.epochs.refresh()

    def lost(self, peer: NodeId) -> None:
        self._linked = False

    def _changed(self, _domain: DomainId) -> None:
        self._soon()
        if self.rng.random() < 0.1:  # while some are in one epoch, and some in the next
            self.world.loop.call_later(self.rng.uniform(0.003, 0.01), self.world.session)

    def _soon(self) -> None:
        self.world.loop.call_soon(self._beat)

    def claims(self) -> tuple[int, int, list[list[Any]]]:
        """What its heartbeat says of epochs."""
        return self.epochs.news()

    def _beat(self) -> None:
        if not self._linked or not self.alive or self.module.failed:
            return
        clock_ms = max(0, int(1000 * self.world.wall()))
        with contextlib.suppress(LinkDown):
            self.port.post(
                HUB, "node/heartbeat", "ready", True, clock_ms, 0, 0, self.module.generation, *self.claims()
            )
            if self._told != self.module.generation:
                self._told = self.module.generation
                self.port.post(HUB, "link/mark", self.module.mark())


def domain() -> DomainId:
    return DomainId("default")
