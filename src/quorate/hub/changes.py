"""Which epochs are made: a domain's first, on request or on time; who deals and who holds.

Here: committees and dealers out of the nodes that are live, intervals, repairs of members that came back.
Not here: how an epoch is made (`epochs`), what a charter allows (every module checks it).
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any
from zlib import crc32

from quorate import _core
from quorate.errors import BadInput, QuorateError
from quorate.hub.epochs import Busy, Domain, Epochs, Order
from quorate.hub.nodes import Nodes
from quorate.ids import HUB, DomainId, NodeId, Quorum
from quorate.protocol.quorum import Shard, margin
from quorate.store.database import Database

_log = logging.getLogger(__name__)

REFRESH_EVERY = 24 * 3600
"""Seconds between two refreshes of a domain for which nothing else is set."""
AT_ONCE = 2
"""Changes in the background at a time, of which one is a refresh on time."""
REST = 12
"""After a refresh on time the next one begins when so many times its duration have passed: what a node's module does
for an epoch, its clients wait for, and few of them are to.
"""
SPREAD = 0.1
"""The part of its interval by which a refresh may come early, so that domains of one age come due one after another."""
LOOK = 100
"""Domains that are looked at in one tick."""
REPAIR_AFTER = 1.0
"""Seconds that a lagging member has been back until it is repaired, so that several are repaired together."""
REBUILD_AFTER = 10.0
"""Seconds that an epoch has had too few live holders until it is rebuilt from an earlier one that is not erased."""
BACKOFF = (5.0, 300.0)
"""Seconds until a change in the background is tried again: at first, and at most. It doubles each time."""
DISTRUST = 3
"""After that many attempts of which it was the fault, since the last commit, a holder is not counted on."""
FORGET = 10
"""After that many times the wait without a need, it begins from the first one again."""


class DomainExists(QuorateError):
    code = "domain_exists"

    def __init__(self, domain: DomainId) -> None:
        super().__init__(
            f"the domain {domain} exists, or is being created",
            kept="it is unchanged",
            remedy="choose another name, or use the domain that is there (`quorate domain show`)",
        )


class NotEnoughHolders(QuorateError):
    code = "not_enough_holders"

    def __init__(self, reason: str, remedy: str = "start or enrol more nodes (`quorate node list`)") -> None:
        super().__init__(reason, kept="nothing was changed", remedy=remedy)


class _Due(Enum):
    """Why a change is made without being asked for."""

    REPAIR = "repair"
    WORN = "refresh of worn shards"
    ON_TIME = "refresh"


@dataclass(slots=True)
class _Turn:
    """When a domain's next change in the background may begin, and how long to wait after a failure."""

    not_before: float = 0.0
    wait: float = BACKOFF[0]
    lagging_since: float | None = None
    lost_since: float | None = None
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    """An epoch whose shares may be dealt. `barred`: also those that came out of an older copy of a vault."""

    domain: DomainId
    epoch: int
    threshold: int
    shards: tuple[Shard, ...]
    barred: bool = False


def _current(known: Domain) -> _Source:
    return _Source(known.domain, known.epoch, known.threshold, known.shards)


class Changes:
    """`now` and intervals in seconds; a domain's epoch is as old as its commit by the wall clock."""

    def __init__(self, epochs: Epochs, database: Database, nodes: Nodes) -> None:
        self._epochs = epochs
        self._database = database
        self._nodes = nodes
        self._every: dict[DomainId, int] = {}
        self._turns: dict[DomainId, _Turn] = {}
        self._looked = 0
        """Where the next look begins."""
        self._rest_until = 0.0
        """No refresh on time begins before."""

    async def load(self) -> None:
        self._every = {
            DomainId(name): every for name, every in (await self._database.refresh_every()).items()
        }

    # On request.

    def check_creation(
        self, charter: bytes, quorum: Quorum, only: Sequence[str] | None
    ) -> tuple[DomainId, tuple[Shard, ...]]:
        """The domain, and who would hold its shards now. Raises `DomainExists`, `NotEnoughHolders`, `BadInput`."""
        seen = _core.view_approved(charter)
        domain = DomainId(seen["domain"])
        if self._epochs.versions(domain) or self._epochs.is_busy(domain):
            raise DomainExists(domain)
        return domain, self._committee(seen, quorum, only, ())

    async def create(
        self, charter: bytes, quorum: Quorum, *, only: Sequence[str] | None, refresh_every: int | None
    ) -> tuple[Domain, list[dict[str, Any]]]:
        """A domain's first epoch. `only`: the nodes to choose from. Raises also what `Epochs.make` does."""
        domain, shards = self.check_creation(charter, quorum, only)
        order = Order(domain, charter, "create", 0, quorum.threshold, ((HUB, None),), shards)
        made = await self._epochs.make(order)
        if refresh_every is not None:
            await self.set_refresh_every(domain, refresh_every)
        return made

    async def refresh(self, domain: DomainId) -> tuple[Domain, list[dict[str, Any]]]:
        """New shards of the same key for the same committee. Raises also what `Epochs.make` does."""
        known = self.domain(domain)
        return await self._epochs.make(self._order("refresh", _current(known), known.threshold, known.shards))

    async def _repair(self, known: Domain) -> tuple[Domain, list[dict[str, Any]]]:
        """The same for members that have no share; or, if too few have one, out of an earlier epoch."""
        source = self._source(known)
        return await self._epochs.make(self._order("repair", source, source.threshold, source.shards))

    async def reshare(
        self, domain: DomainId, quorum: Quorum, *, only: Sequence[str] | None
    ) -> tuple[Domain, list[dict[str, Any]]]:
        """The same key for another committee or threshold: those who stay keep their indices."""
        known = self.domain(domain)
        charter = _core.view_approved(self._charter(domain))
        shards = self._committee(charter, quorum, only, known.shards)
        return await self._epochs.make(self._order("reshare", self._source(known), quorum.threshold, shards))

    def domain(self, sharing: DomainId) -> Domain:
        """The current epoch of one key version. Raises `BadInput`."""
        known = self._epochs.domains.get(sharing)
        if known is None:
            raise BadInput(f"there is no domain {sharing}", remedy="see `quorate domain list`")
        return known

    def newest(self, domain: DomainId) -> Domain:
        """The current epoch of a domain's newest key version. Raises `BadInput`."""
        return self.domain(self._epochs.newest(domain) or domain)

    def changeable(self, domain: DomainId) -> list[DomainId]:
        """The key versions of a domain that are changed with it, the newest last. Raises `BadInput`."""
        self.newest(domain)
        return [name for name in self._epochs.versions(domain) if not self._epochs.is_retiring(name)]

    def _charter(self, domain: DomainId) -> bytes:
        charter = self._epochs.charter(domain)
        assert charter is not None  # the domain was made under it
        return charter

    def _source(self, known: Domain) -> "_Source":
        """The current epoch; or, if too few of its holders live and deal, it with the shards that older copies of
        vaults brought back, which serve nothing else; or the newest retired one that has enough.
        """
        current = _current(known)
        retired = (
            _Source(known.domain, each.epoch, each.threshold, each.shards)
            for each in self._epochs.settlings.earlier(known.domain)
        )
        sources = (current, replace(current, barred=True), *retired)
        return next((source for source in sources if self._can_deal(source)), current)

    def _can_deal(self, source: "_Source") -> bool:
        """Whether k of its holders are live and have not failed again and again: one that lies claims a share, too."""
        failures = self._epochs.failures.get(source.domain, Counter())
        sound = [node for node, _ in self._dealers(source) if failures[node] < DISTRUST]
        return len(sound) >= source.threshold

    def _order(self, purpose: str, source: "_Source", threshold: int, shards: tuple[Shard, ...]) -> Order:
        """Dealt by k indices of `source` whose nodes are live, have their share and are not convicted, first those that
        never failed.
        """
        failures = self._epochs.failures.get(source.domain, Counter())
        holders = sorted(self._dealers(source), key=lambda holder: failures[holder[0]])
        if len(holders) < source.threshold:
            raise NotEnoughHolders(
                f"the next epoch of {source.domain} is dealt from {source.threshold} shards, and the holders of "
                f"{len(holders)} are live{self._but_for(node for _, node in source.shards)}"
            )
        needed = threshold + margin(len(shards), threshold)
        there = sum(self._nodes.is_live(node) and not self._is_convicted(node) for _, node in shards)
        if there < needed:
            but_for = self._but_for(node for _, node in shards)
            raise NotEnoughHolders(
                f"a change of {source.domain} waits for {needed} members, and {there} are live{but_for}",
                remedy="start those that are down, or reshare to others (`quorate domain reshare --nodes …`)",
            )
        dealers = tuple(sorted(holders[: source.threshold], key=lambda holder: holder[1]))
        charter = self._charter(source.domain)
        return Order(source.domain, charter, purpose, source.epoch, threshold, dealers, shards)

    def _holders(self, source: "_Source") -> list[tuple[NodeId, int]]:
        return [(node, index) for index, node in source.shards if self._holds(source, node)]

    def _dealers(self, source: "_Source") -> list[tuple[NodeId, int]]:
        return [(node, index) for node, index in self._holders(source) if not self._is_convicted(node)]

    def _is_convicted(self, node: NodeId) -> bool:
        return node in self._epochs.disputes.convicted

    def _but_for(self, nodes: Iterable[NodeId]) -> str:
        """Who does not count although it may be live."""
        convicted = sorted({node.value for node in nodes if self._is_convicted(node)})
        return f", without the convicted {', '.join(convicted)}" if convicted else ""

    def _holds(self, source: "_Source", node: NodeId) -> bool:
        said = self._nodes.known.get(node)
        if said is None or not self._nodes.is_live(node):
            return False
        epoch, configuration = said.epochs.get(source.domain, (0, b""))
        if epoch == source.epoch and (configuration != b"" or not source.barred):
            return configuration != b""
        return source.epoch in said.retired.get(source.domain, frozenset())

    def _committee(
        self,
        charter: dict[str, Any],
        quorum: Quorum,
        only: Sequence[str] | None,
        before: tuple[Shard, ...],
    ) -> tuple[Shard, ...]:
        """n live holders, those of `before` first and with their indices, the others spread over zones."""
        allowed = [NodeId(entry["node"]) for entry in charter["allowed"] if entry["role"] == "holder"]
        if foreign := sorted(set(only or ()) - {node.value for node in allowed}):
            raise BadInput(
                f"the charter of {charter['domain']} does not allow {', '.join(foreign)}",
                remedy="choose holders that the charter allows (`quorate node list`)",
            )
        wanted = [node for node in allowed if only is None or node.value in only]
        live = [node for node in wanted if self._nodes.is_live(node) and not self._is_convicted(node)]
        if len(live) < quorum.holders:
            raise NotEnoughHolders(
                f"{quorum.holders} shards need a live holder each, and {len(live)} of {len(wanted)} holders are live"
                f"{self._but_for(wanted)}",
                remedy="start or enrol more nodes (`quorate node list`), or take fewer --shards",
            )
        staying = [(index, node) for index, node in before if node in live][: quorum.holders]
        fresh = [node for node in live if node not in {node for _, node in staying}]
        zones: dict[str, list[NodeId]] = {}
        for node in fresh:
            zones.setdefault(self._nodes.zone(node), []).append(node)
        spread: list[NodeId] = []
        while len(spread) < len(fresh):
            spread += [zones[zone].pop(0) for zone in sorted(zones) if zones[zone]]
        taken = {index for index, _ in staying}
        free = (index for index in range(1, 256) if index not in taken)
        joining = list(zip(free, spread[: quorum.holders - len(staying)], strict=False))
        return tuple(sorted([*staying, *joining]))

    # By itself.

    async def set_refresh_every(self, domain: DomainId, seconds: int) -> None:
        """0: never."""
        await self._database.put_refresh_every(domain.base.value, seconds)
        self._every[domain.base] = seconds

    def refresh_every(self, domain: DomainId) -> int:
        return self._every.get(domain.base, REFRESH_EVERY)

    def next_refresh(self, known: Domain) -> int | None:
        """Unix seconds; None where there is none."""
        every = self.refresh_every(known.domain)
        early = crc32(f"{known.domain}/{known.epoch}".encode()) / (1 << 32)
        return known.at + every - int(every * SPREAD * early) if every else None

    def tick(self) -> None:
        """Begins what is due. Called every second or so."""
        running = sum(turn.task is not None for turn in self._turns.values())
        for known in self._some():
            turn = self._turns.setdefault(known.domain, _Turn())
            if self._epochs.is_retiring(known.domain):
                continue
            purpose = self._due(known, turn)
            if purpose is None or turn.task is not None or running >= AT_ONCE:
                continue
            if purpose is _Due.ON_TIME and (running or time.monotonic() < self._rest_until):
                continue
            turn.task = asyncio.get_running_loop().create_task(self._in_background(known, turn, purpose))
            running += 1

    def _some(self) -> list[Domain]:
        """Those whose turn it is to be looked at."""
        known = list(self._epochs.domains.values())
        if self._looked >= len(known):
            self._looked = 0
        first, self._looked = self._looked, self._looked + LOOK
        return known[first : self._looked]

    def _due(self, known: Domain, turn: _Turn) -> "_Due | None":
        now = time.monotonic()
        lagging = any(
            self._nodes.is_live(node) and not self._is_convicted(node)
            for node in self._epochs.settlings.lagging(known.domain)
        )
        turn.lagging_since = _since(turn.lagging_since, lagging, now)
        lost = not self._can_deal(_current(known))
        turn.lost_since = _since(turn.lost_since, lost, now)
        if not lagging and not lost and now >= turn.not_before + FORGET * turn.wait:
            turn.wait = BACKOFF[0]
        if now < turn.not_before or self._epochs.is_busy(known.domain):
            return None
        if turn.lost_since is not None and self._source(known) != _current(known):
            return _Due.REPAIR if now - turn.lost_since >= REBUILD_AFTER else None
        if len(self._dealers(_current(known))) < known.threshold:
            return None
        if turn.lagging_since is not None and now - turn.lagging_since >= REPAIR_AFTER:
            return _Due.REPAIR
        if self._is_worn(known):
            return _Due.WORN
        due = self.next_refresh(known)
        if due is None or time.time() < due:
            return None
        # While enough of an earlier epoch is left to open the domain, another one before it protects nothing.
        return None if self._epochs.settlings.is_openable_before(known.domain) else _Due.ON_TIME

    def _is_worn(self, known: Domain) -> bool:
        """A member's shard has given most of the answers that it may give in this epoch."""
        said = (self._nodes.known.get(node) for _, node in known.shards)
        return any(
            node is not None and known.domain in node.worn and node.epochs[known.domain][0] == known.epoch
            for node in said
        )

    async def _in_background(self, known: Domain, turn: _Turn, purpose: "_Due") -> None:
        begun = time.monotonic()
        repairs = purpose is _Due.REPAIR
        try:
            made, _ = await (self._repair(known) if repairs else self.refresh(known.domain))
        except (QuorateError, _core.CoreError) as why:
            turn.not_before, turn.wait = time.monotonic() + turn.wait, min(2 * turn.wait, BACKOFF[1])
            if not isinstance(why, Busy):
                _log.warning("a %s of %s did not come about: %s", purpose.value, known.domain, why)
        else:
            # One that flaps is repaired again, but not at once.
            wait = turn.wait if repairs else 0.0
            turn.not_before = time.monotonic() + wait
            turn.wait = min(2 * turn.wait, BACKOFF[1]) if repairs else BACKOFF[0]
            _log.info("%s is in epoch %d (%s)", known.domain, made.epoch, purpose.value)
        finally:
            turn.task = None
            if purpose is _Due.ON_TIME:
                now = time.monotonic()
                self._rest_until = now + REST * (now - begun)

    async def close(self) -> None:
        tasks = [turn.task for turn in self._turns.values() if turn.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _since(before: float | None, holds: bool, now: float) -> float | None:
    """Since when something holds."""
    if not holds:
        return None
    return now if before is None else before
