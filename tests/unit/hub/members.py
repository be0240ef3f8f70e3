"""Would-be members of a domain: three real modules, and their answers to the hub's messages.

Here: enrolment, creation and a lease, for tests that begin where a domain exists. Not here: what is tested.
"""

import asyncio
from typing import Any

from quorate import _core
from quorate.hub.epochs import Epochs
from quorate.ids import NodeId, Quorum

NAMES = ("a", "b", "c")
TWO_OF_THREE = Quorum(2, 3)


class Members:
    """Does what nodes do with the messages of an epoch change."""

    def __init__(self, hub: Any, epochs: Epochs | None = None) -> None:
        self.hub = hub
        self.epochs: Any = epochs or hub.epochs
        self.taken = 0

    def answer_all(self, *kinds: str) -> int:
        """Answers what was posted since; returns how many messages were of these kinds."""
        fresh, self.taken = self.hub.fleet.posted[self.taken :], len(self.hub.fleet.posted)
        wanted = [message for message in fresh if message[1] in kinds]
        for to, kind, fields in wanted:
            self._answer(to, kind, fields)
        return len(wanted)

    def _answer(self, to: NodeId, kind: str, fields: tuple[Any, ...]) -> None:
        module = self.hub.modules[to.value]
        match kind:
            case "epoch/plan":
                keys = module.accept_plan(*fields)
                self.epochs._on_keys(to, [_core.view(fields[0])["hash"], keys])
            case "epoch/prepare":
                configuration, dealings, sealed = fields
                parts = [(index, position, part) for index, position, part in sealed]
                self.epochs._on_prepared(to, [module.prepare(configuration, dealings, parts)])
            case "epoch/commit":
                self.epochs._on_activated(to, [module.activate(*fields)])

    async def run_until(self, finished: Any) -> None:
        """Answers everything until the future is done."""
        while not finished.done():
            self.hub.fleet.news.clear()
            if not self.answer_all("epoch/plan", "epoch/prepare", "epoch/commit"):
                news = asyncio.ensure_future(self.hub.fleet.news.wait())
                await asyncio.wait([news, finished], return_when=asyncio.FIRST_COMPLETED)
                news.cancel()


async def enrol_all(hub: Any) -> None:
    for name in NAMES:
        await hub.enrol(name)
    for name in NAMES:
        hub.modules[name].install_roster(hub.hub.roster())
        hub.heartbeat(name)


def create(hub: Any, charter: bytes, **more: Any) -> asyncio.Future[Any]:
    return asyncio.ensure_future(hub.epochs.create(charter, TWO_OF_THREE, only=more.get("only")))


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
