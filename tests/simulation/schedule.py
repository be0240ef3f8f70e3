"""One schedule out of one seed: a shape, changes and faults in any order, then healing and what must be well after it.

Here: what is done when, and how much at once: liars and rolled-back disks together are at most k − 1 and n − k.
Not here: how it is done (`world`), what must hold meanwhile (`reference`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from quorate import _core
from quorate.errors import QuorateError
from quorate.hub.epochs import Domain
from quorate.ids import HUB, NodeId, Quorum
from quorate.protocol.quorum import margin

from . import core, evil, storage
from .founding import DOMAIN, Founded
from .processes import Hub, domain
from .world import World, virtual_time

SHAPES = ((2, 3), (3, 5), (3, 6), (4, 7))
OFTEN = 4
"""How much oftener than it would what is asked for happens."""
HEAL_SECONDS = 900.0
"""Within this time after the last fault a refresh has committed, and all is settled."""

Made = tuple[Domain, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Outcome:
    seed: int
    committed: int
    sessions: int
    violations: tuple[str, ...]
    lines: tuple[str, ...]
    trace: str
    seconds: float
    """Virtual ones."""


def run(seed: int, founded: Founded, also: frozenset[str] = frozenset()) -> Outcome:
    world = World(seed, founded)
    try:
        with virtual_time(world):
            world.loop.run_until_complete(Schedule(world, founded, also).run())
    finally:
        for process in world.processes.values():
            if process.alive:
                process.end()
        for _ in range(3):  # what is cancelled ends
            world.loop.run_until_complete(asyncio.sleep(0))
        world.loop.close()
    return Outcome(
        seed,
        world.reference.committed,
        world.sessions,
        tuple(world.violations),
        tuple(world.lines),
        world.trace,
        world.loop.time(),
    )


class Schedule:
    def __init__(self, world: World, founded: Founded, also: frozenset[str]) -> None:
        self._world = world
        self._rng = rng = world.rng
        self._quorum = Quorum(*rng.choice(SHAPES))
        world.names = world.names[: max(4, self._quorum.holders + rng.choice((0, 1, 4)))]
        floor = rng.randint(2, self._quorum.threshold)
        self._charter = founded.charters[floor]
        self._floor = floor
        chosen = {name: weight for name, weight in ACTIONS.items() if rng.random() < 0.6 or name in also}
        self._kinds = {
            name: OFTEN * weight if name in also else weight
            for name, weight in chosen.items()
            if name not in OPEN or name in also or "all" in also
        }
        self._kinds |= {"refresh": 7, "session": 2}
        self._faulty = 0
        self._went_back: NodeId | None = None
        """Whose disk went back to an older copy."""
        self._refreshed = False
        self._asking = False
        self._old_rows: storage.Store | None = None
        self._old_vault: tuple[NodeId, core.Medium] | None = None
        if "liars" in self._kinds or also & {"liars", *UNFAIR}:
            self._faulty = rng.randint(1, self._quorum.threshold - 1)
            world.liars = frozenset(rng.sample(world.names, self._faulty))
        self._may_roll_back = self._faulty < self._quorum.threshold - 1
        self._kinds.pop("liars", None)
        self._unfair = also & UNFAIR
        self._deaf = self._kinds.pop("deaf", 0) > 0
        self._lies = self._kinds.pop("evil", 0)

    async def run(self) -> None:
        world, rng = self._world, self._rng
        world.note(
            f"{self._quorum}, floor {self._floor}, liars {sorted(map(str, world.liars))}, {sorted(self._kinds)}"
        )
        for name in (HUB, *world.names):
            world.start(name)
        world.flaky = 0.1 if "disk" in self._kinds else 0.0
        await asyncio.sleep(1.5)
        self._create()
        await asyncio.sleep(rng.choice((0.02, 0.5, 3.0)))
        if self._lies:
            self._kinds["evil"] = self._lies
        for _ in range(rng.randint(8, 24)):
            action = rng.choices(list(self._kinds), list(self._kinds.values()))[0]
            getattr(self, f"_{action}")()
            if world.violations:
                return
            await asyncio.sleep(rng.choice((0.005, 0.02, 0.1, 0.5, 1.5, 4.0)) * rng.uniform(0.5, 1.0))
        await self._heal()

    # What an operator asks for.

    def _ask(self, what: str, ask: Callable[[Hub], Awaitable[Made]]) -> None:
        hub = self._world.hub
        if hub is not None:
            self._asking = True
            hub.spawn(self._answer(what, hub, ask))

    async def _answer(self, what: str, hub: Hub, ask: Callable[[Hub], Awaitable[Made]]) -> None:
        world = self._world
        try:
            made, _ = await ask(hub)
        except (QuorateError, _core.CoreError) as why:
            world.note(f"{what}: {type(why).__name__}, {why}")
        else:
            world.note(f"{what}: epoch {made.epoch}")
            self._refreshed = self._refreshed or (world.healed and what == "refresh")
        finally:
            self._asking = False

    def _create(self) -> None:
        every = self._rng.choice((0, 0, 20, 86400))

        async def ask(hub: Hub) -> Made:
            await hub.hsm.slow(hub.module.learn, [self._charter])
            return await hub.changes.create(self._charter, self._quorum, only=None, refresh_every=every)

        self._ask("create", ask)

    def _refresh(self) -> None:
        self._ask("refresh", lambda hub: hub.changes.refresh(domain()))

    def _reshare(self) -> None:
        """Grow, shrink, another threshold, another committee; as safe from those that may be faulty."""
        fits = [
            Quorum(k, n)
            for n in range(3, len(self._world.names) + 1)
            for k in range(max(2, self._floor), n)
            if min(k - 1, n - k) >= self._faulty
        ]
        quorum = self._rng.choice(fits)
        only = None
        if self._rng.random() < 0.5:
            only = [n.value for n in self._rng.sample(self._world.names, quorum.holders)]
        self._ask(f"reshare to {quorum}", lambda hub: hub.changes.reshare(domain(), quorum, only=only))

    def _cancel(self) -> None:
        hub = self._world.hub
        if hub is not None:
            hub.spawn(self._give_up(hub))

    async def _give_up(self, hub: Hub) -> None:
        if await hub.epochs.cancel(domain(), "the operator"):
            self._world.note("the operator gave it up")

    def _session(self) -> None:
        self._world.session()

    # What befalls them.

    def _any(self) -> NodeId | None:
        up = [name for name in self._world.names if self._world.up(name)]
        return self._rng.choice(up) if up else None

    def _crash(self) -> None:
        for _ in range(self._rng.choice((1, 1, 1, 2, 7))):
            if (name := self._any()) is not None:
                self._world.crash(name, "of itself")

    def _crash_hub(self) -> None:
        if self._world.up(HUB):
            self._world.crash(HUB, "of itself")

    def _away(self) -> None:
        if (name := self._any()) is not None:
            self._world.away(name)
            self._world.loop.call_later(self._rng.uniform(1.0, 40.0), self._world.back, name)

    def _disk(self) -> None:
        name = HUB if self._rng.random() < 0.15 else self._any()
        if name is not None and self._world.up(name):
            process = self._world.processes[name]
            process.crash_armed = self._world.arm(process.disk, name, 60)

    def _database(self) -> None:
        hub = self._world.hub
        if hub is not None:
            hub.database.fails_after = self._rng.randint(0, 6)

    def _partition(self) -> None:
        node = self._rng.choice(self._world.names)
        senders = self._rng.choice(({node}, {HUB}, {node, HUB}))
        self._world.network.block(node, senders)
        self._world.loop.call_later(self._rng.choice((0.2, 3.0, 20.0)), self._world.network.unblock, node)

    def _weather(self) -> None:
        network, rng = self._world.network, self._rng
        network.slow = rng.choice((0.004, 0.05, 0.8))
        network.loss = rng.choice((0.0, 0.01, 0.1))
        network.repeats = rng.choice((0.0, 0.1))
        network.reorders = rng.choice((0.0, 0.1, 0.3))
        self._world.note(
            f"the network: {network.slow} s, {network.loss} lost, {network.repeats} twice, {network.reorders} late"
        )

    def _clock(self) -> None:
        year = 365 * 86400.0
        self._world.wall_offset = self._rng.uniform(-20 * year, 20 * year)
        self._world.note(f"wall clocks jump by {self._world.wall_offset / year:.1f} years")

    def _old_database(self) -> None:
        """A copy that is made at one time and comes back at another."""
        if self._old_rows is None or self._rng.random() < 0.3:
            self._old_rows = self._world.store.copy()
        elif self._rng.random() < 0.5:
            self._world.restore_database(self._old_rows)
            self._old_rows = None

    def _old_disk(self) -> None:
        """The same of a disk, once."""
        if self._old_vault is None and self._may_roll_back:
            honest = [name for name in self._world.names if name not in self._world.liars]
            name = self._rng.choice(honest)
            self._old_vault = name, self._world.media[name].copy()
            self._faulty += 1
        elif self._old_vault is not None and self._may_roll_back and self._rng.random() < 0.5:
            self._may_roll_back = False
            self._went_back = self._old_vault[0]
            self._world.roll_back(*self._old_vault)

    def _evil(self) -> None:
        hub = self._world.hub
        if hub is not None and not hub.epochs.is_busy(domain()):
            hub.spawn(self._lie(hub))

    async def _lie(self, hub: Hub) -> None:
        try:
            await evil.lie(self._world, hub, self._charter)
        except _core.CoreError as why:
            self._world.note(f"the hub's lie: {why.code}")
        self._world.reference.hub_forgot()
        if hub.alive:
            self._world.stop(HUB, "it has lied")

    # What must be well in the end.

    async def _heal(self) -> None:
        world = self._world
        world.heal()
        world.deaf = self._deaf
        until = world.loop.time() + HEAL_SECONDS
        missing = "nothing was looked at"
        while world.loop.time() < until:
            await asyncio.sleep(1.0)
            if world.violations:
                return
            missing = self._missing()
            if not missing and world.session():
                self._check_key()
                return
        world.violate(
            "progress", f"{HEAL_SECONDS:.0f} s after the last fault: {missing or 'no session combines'}"
        )

    def _missing(self) -> str:
        """What is not well yet; what an operator would do about it is done."""
        world, hub = self._world, self._world.hub
        if hub is None or any(not hub.nodes.is_live(name) for name in world.names):
            return "somebody is not up"
        known = hub.epochs.domains.get(domain())
        if known is None:
            if not self._asking:
                self._create()
            return "the domain is not created"
        if hub.changes.refresh_every(domain()):
            hub.spawn(hub.changes.set_refresh_every(domain(), 0))
            return "it is refreshed on time"
        if hub.epochs.is_busy(domain()):
            return "an attempt is open"
        for node in hub.epochs.disputes.convicted.keys() - world.accusers - world.cheats:
            hub.spawn(self._pardon(hub, node))
            return f"{node} is convicted"
        if self._unfair:
            return self._against_the_unfair(known)
        if self._faulty and not self._refreshed:
            return self._ask_for_refresh()  # what one that lied has not, nobody knows of
        for index, node in known.shards:
            held = [e for e in world.processes[node].module.epochs() if e["state"] == "current"]
            if held and held[0]["epoch"] < hub.epochs.settlings.erased_below(domain(), node):
                # It lied, or its disk went back unseen. Nobody keeps what would lead it on: it is to be replaced.
                assert node in world.liars or self._went_back == node
                continue
            if not held or held[0]["configuration"] != known.configuration or index not in held[0]["indices"]:
                return f"{node} does not hold index {index} of epoch {known.epoch}"
        if debts := {epoch: debt for epoch, debt in hub.epochs.settlings.debts(domain()).items() if debt}:
            return f"erasure debts {debts}"
        if self._world.store.attempts.get((DOMAIN, known.epoch), {}).get("phase") != "closed":
            return f"epoch {known.epoch} is not closed"
        if not self._refreshed:  # all the above came about by itself
            return self._ask_for_refresh()
        return ""

    async def _pardon(self, hub: Hub, node: NodeId) -> None:
        await hub.epochs.disputes.pardon(node)

    def _against_the_unfair(self, known: Domain) -> str:
        """As many as a change can do without lie each time; it goes on all the same."""
        world, n = self._world, len(known.shards)
        if not self._refreshed:
            spare = n - known.threshold - margin(n, known.threshold)
            few = frozenset([node for _, node in known.shards if node in world.liars][:spare])
            world.accusers = few if "accusers" in self._unfair else frozenset()
            world.cheats = few if "cheats" in self._unfair else frozenset()
            return self._ask_for_refresh()
        self._unfair, self._refreshed = frozenset(), False
        world.accusers = world.cheats = frozenset()
        return "everybody is fair again"

    def _ask_for_refresh(self) -> str:
        if not self._asking:
            self._refresh()
        return "no refresh has committed"

    def _check_key(self) -> None:
        world = self._world
        newest = world.reference.newest
        assert newest is not None and world.hub is not None
        known = world.hub.epochs.domains[domain()]
        if known.epoch < newest[0]:
            world.violate("progress", f"epoch {newest[0]} was committed, and the hub is in {known.epoch}")
        try:
            core.durable_key([world.media[node] for _, node in known.shards], DOMAIN, known.epoch)
        except _core.CoreError as why:
            world.violate("enough", f"the shards do not combine: {why.code}")


OPEN = frozenset({"old_database"})
"""What is known to leave a member behind for good, which a schedule has when it is asked for only: a hub with an older
database lacks epochs in between, and the committee has changed so much that few of the member's own epoch are left.
"""

UNFAIR = frozenset({"accusers", "cheats"})
"""Liars that complain falsely, or deal garbage to one member, until a refresh has committed in spite of them: when they
are asked for, and beside the kinds that are drawn.
"""

ACTIONS = {
    "reshare": 4,
    "crash": 3,
    "crash_hub": 2,
    "away": 2,
    "disk": 4,
    "database": 1,
    "partition": 2,
    "weather": 2,
    "clock": 1,
    "cancel": 1,
    "old_disk": 2,
    "old_database": 2,
    "liars": 1,
    "deaf": 1,
    "evil": 1,
}
"""How often each kind happens in a schedule that has it."""
