"""Everything that a schedule acts on: one virtual time, one network, the hub's and the nodes' disks and processes.

Here: starting, stopping and crashing them; sessions now and then; the trace. Nothing here is decided at random but by
the world's own generator, so that one seed is one trace.
Not here: what is done when (`schedule`), what must hold (`reference`).
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from random import Random
from typing import Any

from quorate import _core
from quorate.hub import changes, epochs, settling
from quorate.ids import HUB, NodeId

from . import core, storage
from .founding import DOMAIN, WALL, Founded, names
from .liars import Liar
from .loop import VirtualLoop
from .network import Network
from .processes import Hub, Node, Process
from .reference import Reference

SHOWN = 4000
"""Lines of the trace that a failure shows."""
_FENCES = 1000
"""More than what a restart counts as used."""
_KEY = bytes(16)


class World:
    def __init__(self, seed: int, founded: Founded) -> None:
        self.rng = Random(seed)
        self.clock = core.clock()
        self.loop = VirtualLoop(self.clock.advance)  # type: ignore[abstract]  # what is used is there
        self.names = [NodeId(name) for name in names()]
        self.liars: frozenset[NodeId] = frozenset()
        self.lying = True
        self.deaf = False
        """Liars do all but deal, even when all else has healed."""
        self.accusers: frozenset[NodeId] = frozenset()
        """These liars complain of what they are dealt, even when all else has healed."""
        self.cheats: frozenset[NodeId] = frozenset()
        """These deal garbage to one member."""
        self.wall_offset = 0.0
        self.flaky = 0.0
        """How often a disk fails soon after a start."""
        self.network = Network(self.loop, self.rng, self.note)
        self.reference = Reference(self)
        self.store = storage.Store()
        self.processes: dict[NodeId, Process] = {}
        self.violations: list[str] = []
        self.lines: deque[str] = deque(maxlen=SHOWN)
        self.healed = False
        self.media = {name: core.medium(founded.path / name.value) for name in (HUB, *self.names)}
        self._path = str(founded.path)
        self._away: set[NodeId] = set()
        self._trace = hashlib.sha256()
        self._fence = 0
        self._blob: bytes | None = None
        self._record = b""
        self.sessions = 0
        self.loop.set_exception_handler(self._failed)

    def _failed(self, _loop: object, context: dict[str, Any]) -> None:
        if "handle" in context:
            self.violate("works", f"a callback failed: {context.get('exception')!r}")

    # What is seen.

    def wall(self) -> float:
        return WALL + self.loop.time() + self.wall_offset

    def boot(self, name: NodeId) -> int:
        return self.processes[name].module.boot

    def note(self, what: str) -> None:
        line = f"{self.loop.time():9.4f}  {what}".replace(self._path, "")
        self._trace.update(line.encode())
        self.lines.append(line)

    @property
    def trace(self) -> str:
        """A hash of all that happened."""
        return self._trace.hexdigest()

    def violate(self, invariant: str, what: str) -> None:
        self.note(f"VIOLATED {invariant}: {what}")
        self.violations.append(f"{invariant}: {what}")

    @property
    def hub(self) -> Hub | None:
        hub = self.processes.get(HUB)
        return hub if isinstance(hub, Hub) and hub.alive and hub.ready else None

    @property
    def hub_lies(self) -> bool:
        hub = self.processes.get(HUB)
        return isinstance(hub, Hub) and bool(hub.taps)

    def up(self, name: NodeId) -> bool:
        process = self.processes.get(name)
        return process is not None and process.alive

    # Processes.

    def start(self, name: NodeId) -> None:
        """Opens what is on the disk, and resumes as the services do."""
        if self.up(name) or name in self._away:
            return
        try:
            process = self._open(name)
        except _core.CoreError as why:
            if why.code != "storage":
                self.violate("works", f"{name} does not start: {why.code}, {why.message}")
                return
            self.note(f"{name} does not start: its disk fails")
            self.loop.call_later(1.0, self.start, name)
            return
        self.note(f"{name} starts for the {process.module.boot}th time")
        self.processes[name] = process
        self.reference.look(process)
        process.begin()

    def _open(self, name: NodeId) -> Process:
        medium = self.media[name]
        disk, crashes = core.disk(medium), False
        if not self.healed and self.rng.random() < self.flaky:
            crashes = self.arm(disk, name, 30)
        module = core.open_module(medium, self.clock, disk, self.rng.getrandbits(63))
        process: Process
        if name == HUB:
            process = Hub(self, disk, module, storage.Database(self.store, self.rng, self.reference.wrote))
        elif name in self.liars:
            process = Liar(self, name, disk, module)
        else:
            process = Node(self, name, disk, module)
        process.crash_armed = crashes
        return process

    def arm(self, disk: core.Disk, name: NodeId, within: int) -> bool:
        """The machine stops, or the disk fails, in the midst of the next writes; whether it stops."""
        fault = self.rng.choice(("crash", "crash", "fail"))
        becomes, nth = self.rng.choice(("lost", "kept", "torn")), self.rng.randrange(within)
        self.note(f"the disk of {name} will {fault} at write {nth}; what is unsynced then is {becomes}")
        disk.arm(nth, fault, becomes, self.rng.getrandbits(32))
        return fault == "crash"

    def stop(self, name: NodeId, why: str) -> None:
        """The process ends; what it wrote stays with the machine."""
        process = self.processes[name]
        if not process.alive:
            return
        self.note(f"{name} stops: {why}")
        self._end(process, abrupt=False)

    def crash(self, name: NodeId, where: str) -> None:
        """Its machine stops; unsynced writes are lost, kept or torn."""
        process = self.processes[name]
        if not process.alive:
            return
        becomes = self.rng.choice(("lost", "kept", "torn"))
        self.note(f"{name} crashes {where}; unsynced writes are {becomes}")
        process.disk.crash(becomes, self.rng.getrandbits(32))
        self._end(process, abrupt=self.rng.random() < 0.5)

    def _end(self, process: Process, *, abrupt: bool) -> None:
        process.end()
        self.network.leave(process.name, abrupt=abrupt)
        if process.name != HUB:
            self.reference.look_at(process.name)
        back = self.rng.uniform(0.2, 2.0) if self.healed else self.rng.choice((0.3, 1.0, 4.0, 12.0))
        self.loop.call_later(back * self.rng.uniform(0.5, 1.0), self.start, process.name)

    def away(self, name: NodeId) -> None:
        """Stops, and stays so until `back`."""
        self._away.add(name)
        if self.up(name):
            self.stop(name, "it is switched off")

    def back(self, name: NodeId) -> None:
        self._away.discard(name)
        self.start(name)

    def restore_database(self, store: storage.Store) -> None:
        """The hub's database is an older copy from now on."""
        self.note("the hub's database is replaced with an older copy")
        if self.up(HUB):
            self.stop(HUB, "its database is restored")
        self.store = store.copy()
        self.reference.hub_forgot()

    def roll_back(self, name: NodeId, copy: core.Medium) -> None:
        """A node's disk is an older copy from now on."""
        if self.up(name):
            self.stop(name, "its disk is replaced")
        self.note(f"the disk of {name} is replaced with an older copy")
        self.media[name] = copy.copy()
        self.reference.rolled_back(name)
        self.reference.look_at(name)

    def heal(self) -> None:
        """No faults from now on; everybody is up and honest."""
        self.note("everything heals")
        self.healed, self.lying = True, False
        self.network.heal()
        for name in (HUB, *self.names):
            process = self.processes.get(name)
            if process is not None and process.alive:
                process.disk.arm(1 << 40, "fail", "kept", 0)
                if isinstance(process, Hub):
                    process.database.fails_after = None
            self.back(name)

    # Sessions.

    def session(self) -> bool:
        """One node asks for the key, and others answer in whatever epoch they are; whether the key came together."""
        self._fence += _FENCES
        try:
            return self._session()
        except _core.CoreError as why:
            self.note(f"no session: {why.code}")
        except asyncio.CancelledError:
            self.note("no session: a crash in it")
        return False

    def _session(self) -> bool:
        hub = self.processes[HUB]
        honest = [n for n in self.names if self.up(n) and n not in self.liars]
        if not honest or not hub.alive:
            return False
        asking = self.processes[self.rng.choice(honest)]
        assert isinstance(asking, Node)
        held = [e for e in asking.module.epochs() if e["state"] == "current" and e["indices"]]
        if not held:
            return False
        epoch, k = int(held[0]["epoch"]), int(held[0]["threshold"])
        committee = _core.view(_core.view(held[0]["statement"])["plan"])["committee"]
        seats = [(s["index"], NodeId(s["node"])) for s in committee if NodeId(s["node"]) in honest]
        if len(seats) < k:
            return False
        called = self.rng.sample(seats, k)
        session, request = asking.run(asking.module.open_session, DOMAIN)
        fenced = [(index, node.value, (1, self._fence)) for index, node in called]
        grant = hub.module.grant(request, fenced)
        progress: dict[str, Any] = {}
        used: set[int] = set()
        for _, node in called:
            holder = self.processes[node]
            for _, statement, refused in holder.run(holder.module.answer, grant)["given"]:
                if refused is None:
                    self.reference.answered(node, epoch)
                    progress = asking.run(asking.module.receive, statement)
                    used.add(_core.view(statement)["epoch"])
        combined = progress.get("state") == "combined"
        if combined and used != {epoch}:
            self.violate("one-epoch", f"a session in epoch {epoch} has used shares of {sorted(used)}")
        closed = progress["closed"] if combined else asking.run(asking.module.abandon, session, "expired")
        for _, node in called:
            holder = self.processes[node]
            holder.run(holder.module.close_session, closed)
        self.note(f"a session of {asking.name} in epoch {epoch}: {'combined' if combined else 'not enough'}")
        if combined:
            self.sessions += 1
            self._use(asking)
        return combined

    def _use(self, asking: Process) -> None:
        """What was encrypted at first is decrypted ever after."""
        module = asking.module
        if self._blob is None:
            self._record = asking.run(self._make_key, module)
            asking.run(module.learn, [self._record])
            self._blob = module.encrypt(_KEY, b"kept", [])
        else:
            asking.run(module.learn, [self._record])
            try:
                if module.decrypt(self._blob, []) != b"kept":
                    self.violate("same-key", f"{asking.name} decrypts to something else")
            except _core.CoreError as why:
                self.violate("same-key", f"{asking.name} cannot decrypt: {why.code}")
        module.lock(DOMAIN)

    @staticmethod
    def _make_key(module: _core.Module) -> bytes:
        return module.make_key(key_id=_KEY, domain=DOMAIN, description="", tags=[], created=1000 * WALL)


class _Time:
    """In place of the module `time`, for the classes under test."""

    def __init__(self, world: World) -> None:
        self.monotonic = world.loop.time
        self.time = world.wall


@contextmanager
def virtual_time(world: World) -> Iterator[None]:
    """The hub's classes read virtual clocks; and nobody reads one statement twice, for it says the same."""
    users: tuple[Any, ...] = (epochs, settling, changes)
    real, view = [user.time for user in users], _core.view
    remembered = lru_cache(4096)(view)
    try:
        for user in users:
            user.time = _Time(world)
        setattr(_core, "view", lambda it: remembered(it) if type(it) is bytes else view(it))  # noqa: B010
        yield
    finally:
        setattr(_core, "view", view)  # noqa: B010
        for user, was in zip(users, real, strict=True):
            user.time = was
