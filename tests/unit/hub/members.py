"""Would-be members of a domain: real modules, and their answers to the hub's messages.

Here: enrolment, creation and a lease, for tests that begin where a domain exists. Not here: what is tested.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from quorate import _core
from quorate.host.dispatch import Dropped
from quorate.hub.epochs import Epochs
from quorate.ids import NodeId, Quorum

NAMES = ("a", "b", "c")
TWO_OF_THREE = Quorum(2, 3)


class Members:
    """Does what nodes do with the messages of an epoch change; not those in `away`, to whom nothing comes.

    Messages of the kinds `lost` come to nobody.
    """

    def __init__(self, hub: Any, epochs: Epochs | None = None) -> None:
        self.hub = hub
        self.epochs: Any = epochs or hub.epochs
        self.taken = len(hub.fleet.posted) if epochs else 0
        self.away: set[str] = set()
        self.lost: set[str] = set()

    def answer_all(self, *kinds: str) -> int:
        """Answers what was posted since; returns how many messages were of these kinds, or of any."""
        fresh, self.taken = self.hub.fleet.posted[self.taken :], len(self.hub.fleet.posted)
        wanted = [message for message in fresh if not kinds or message[1] in kinds]
        for to, kind, fields in wanted:
            if to.value not in self.away and kind not in self.lost:
                with contextlib.suppress(Dropped):
                    self._answer(to, kind, fields)
        return len(wanted)

    def _answer(self, to: NodeId, kind: str, fields: tuple[Any, ...]) -> None:
        try:
            self._carry_out(to, kind, fields)
        except _core.CoreError as why:
            if why.complaints:
                self.epochs._on_complaint(to, [why.complaints])
                return
            seen = _core.view(fields[0]) if kind != "epoch/erase" else {}
            if kind in ("epoch/prepare", "epoch/commit"):
                seen = _core.view(seen["plan"])
            if seen:
                self.epochs._on_refused(to, [seen["hash"], why.code, why.message, list(why.culprits)])

    def _carry_out(self, to: NodeId, kind: str, fields: tuple[Any, ...]) -> None:
        module, settlings = self.hub.modules[to.value], self.epochs.settlings
        match kind:
            case "epoch/plan":
                keys = module.accept_plan(*fields)
                self.epochs._on_keys(to, [_core.view(fields[0])["hash"], keys])
            case "epoch/deal":
                made = [[dealing, sealed] for dealing, sealed in module.deal(*fields)]
                self.epochs._on_dealings(to, [_core.view(fields[0])["hash"], made])
            case "epoch/prepare":
                configuration, dealings, sealed = fields
                parts = [(index, position, part) for index, position, part in sealed]
                self.epochs._on_prepared(to, [module.prepare(configuration, dealings, parts)])
            case "epoch/dispute":
                self.epochs._on_opening(to, [module.answer_complaint(*fields)])
            case "epoch/commit":
                receipts = module.activate(*fields)
                settlings._on_activated(to, [fields[0], receipts])
            case "epoch/abort":
                module.abort_plan(fields[0])
            case "epoch/erase":
                self.hub.fleet.spawn(settlings._on_erased(to, [module.erase(fields[0])]))

    async def run_until(self, finished: Any) -> None:
        """Answers everything until the future is done."""
        while not finished.done():
            self.hub.fleet.news.clear()
            if not self.answer_all():
                news = asyncio.ensure_future(self.hub.fleet.news.wait())
                await asyncio.wait([news, finished], return_when=asyncio.FIRST_COMPLETED)
                news.cancel()

    async def settle(self) -> None:
        """Answers everything until nobody has anything more to say, and the hub nothing more to do."""
        await self.hub.fleet.settle()
        while self.answer_all():
            await self.hub.fleet.settle()

    async def make(self, change: Any) -> Any:
        """Carries a change through to its end; returns the domain's new epoch."""
        making = asyncio.ensure_future(change)
        await self.run_until(making)
        await self.settle()
        domain, _ = await making
        self.heartbeats()
        return domain

    def leave(self, name: str) -> None:
        """Nothing comes to the node any more, and nothing from it."""
        self.away.add(name)
        self.hub.nodes.lost(NodeId(name))

    async def come_back(self, name: str) -> None:
        self.away.discard(name)
        self.hub.heartbeat(name)
        await self.settle()
        self.heartbeats()

    def heartbeats(self) -> None:
        """All that are there say which epochs they are in."""
        for name in self.hub.modules:
            if name not in self.away:
                self.hub.heartbeat(name)


def held(hub: Any, name: str) -> list[tuple[int, str, list[int]]]:
    """Number and state of every epoch that a module knows, and its indices in it."""
    return [(each["epoch"], each["state"], list(each["indices"])) for each in hub.modules[name].epochs()]


async def enrol_all(hub: Any, names: Sequence[str] = NAMES) -> None:
    for name in names:
        await hub.enrol(name)
    for name in names:
        hub.modules[name].install_roster(hub.hub.roster())
        hub.heartbeat(name)


def create(hub: Any, charter: bytes, **more: Any) -> asyncio.Future[Any]:
    quorum = more.get("quorum", TWO_OF_THREE)
    return asyncio.ensure_future(
        hub.changes.create(charter, quorum, only=more.get("only"), refresh_every=more.get("refresh_every"))
    )


async def with_domain(
    hub: Any, names: Sequence[str] = NAMES, quorum: Quorum = TWO_OF_THREE, *, spare: Sequence[str] = ()
) -> Members:
    """The domain payroll is held by `names`; its charter, which is on record everywhere, allows `spare` too."""
    await enrol_all(hub, [*names, *spare])
    members, charter = Members(hub), hub.charter("payroll", *names, *spare)
    for name in (*names, *spare):
        hub.modules[name].learn([charter])
    await members.make(create(hub, charter, quorum=quorum, only=list(names)))
    return members


async def create_and_lease(hub: Any, domain: str) -> None:
    """The domain exists, and node a holds a lease of it."""
    await enrol_all(hub)
    for name in NAMES:
        hub.heartbeat(name, sequence=1 << 30)  # no result waits for them to have its record
    creating = create(hub, hub.charter(domain, *NAMES))
    await Members(hub).run_until(creating)
    await creating
    a, b = hub.modules["a"], hub.modules["b"]
    _, request = a.open_session(domain)
    grant = hub.hub.grant(request, [(1, "a", (1, 1)), (2, "b", (1, 1))])
    for holder in (a, b):
        for _, answer, _ in holder.answer(grant)["given"]:
            a.receive(answer)
    assert a.lease(domain) is not None
