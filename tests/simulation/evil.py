"""A hub that lies: it plans twice for one number, commits with whatever receipts it has, repeats what is over, forgets
what it did.

Here: one such change, with the hub's own module and keys. Not here: the honest hub (`processes`).
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from quorate import _core
from quorate.host.dispatch import Fields
from quorate.hub import settling
from quorate.ids import NodeId
from quorate.wire.links import LinkDown

from .founding import DOMAIN
from .processes import Hub, domain
from .world import World

_STEP = 0.4
"""Seconds that it waits for answers."""


class Heard:
    """What members answered to it."""

    def __init__(self) -> None:
        self.keys: dict[bytes, list[bytes]] = {}
        self.dealings: dict[tuple[bytes, NodeId], list[Any]] = {}
        self.receipts: dict[tuple[str, bytes], dict[int, bytes]] = {}

    def tap(self, sender: NodeId, kind: str, fields: Fields) -> None:
        match kind:
            case "epoch/plan-keys":
                self.keys.setdefault(bytes(fields[0]), []).extend(fields[1])
            case "epoch/dealings":
                self.dealings[bytes(fields[0]), sender] = fields[1]
            case "epoch/prepared" | "epoch/activated":
                for receipt in fields[-1]:
                    seen = _core.view(receipt)
                    known = self.receipts.setdefault((kind, seen["configuration"]), {})
                    known[seen["index"]] = bytes(receipt)


async def lie(world: World, hub: Hub, charter: bytes) -> None:
    """Ends by itself; the hub is to be restarted then, for it does not know what it did."""
    known = hub.epochs.domains.get(domain())
    if known is None:
        return
    world.note("the hub lies")
    heard, rng = Heard(), world.rng
    hub.taps.append(heard.tap)
    try:
        plans = []
        number = hub.epochs._burnt[DOMAIN] + rng.choice((1, 1, 3))
        for _ in range(2):
            dealers = sorted(rng.sample(known.shards, known.threshold))
            committee = list(known.shards)
            plan = await hub.hsm.slow(
                lambda dealers=dealers, committee=committee: hub.module.plan(
                    charter=charter,
                    purpose="repair" if rng.random() < 0.5 else "refresh",
                    from_epoch=known.epoch,
                    to_epoch=number,
                    threshold=known.threshold,
                    dealers=[(node.value, index) for index, node in dealers],
                    committee=[(index, node.value, "holder") for index, node in committee],
                )
            )
            plans.append((plan, dealers))
        for node in world.names:
            for plan, _ in plans if rng.random() < 0.8 else reversed(plans):  # each takes what comes first
                _post(hub, node, "epoch/plan", plan, charter)
        await asyncio.sleep(_STEP)
        for plan, dealers in plans:
            for _, node in dealers:
                _post(hub, node, "epoch/deal", plan, charter, heard.keys.get(_core.view(plan)["hash"], []))
        await asyncio.sleep(_STEP)
        made = [await _configure(hub, heard, plan, dealers) for plan, dealers in plans]
        configurations = [each for each in made if each is not None]
        if not configurations:
            return
        seats = list(known.shards)
        for node in world.names:
            if rng.random() < 0.5:
                continue  # few are to hold what it commits
            for configuration, dealings, sealed in rng.sample(
                configurations, rng.randint(1, len(configurations))
            ):
                parts = [
                    [index, position, each[at]]
                    for at, (index, holder) in enumerate(seats)
                    if holder == node
                    for position, each in enumerate(sealed)
                ]
                for _ in range(rng.randint(1, 2)):
                    _post(hub, node, "epoch/prepare", configuration, dealings, parts)
        await asyncio.sleep(_STEP)
        rows = [settling.committed(row) for row in await hub.database.committed_after(DOMAIN, 0)]
        older = [list(each.receipts) for each in rows] or [[]]
        for configuration, dealings, _ in configurations:
            receipts = heard.receipts.get(("epoch/prepared", _core.view(configuration)["hash"]), {})
            for node in rng.sample(world.names, rng.randint(0, len(world.names))):
                shown = list(receipts.values()) if rng.random() < 0.6 else rng.choice(older)
                _post(hub, node, "epoch/commit", configuration, shown, dealings)
        await asyncio.sleep(_STEP)
        for configuration, _, _ in configurations:
            receipts = heard.receipts.get(("epoch/activated", _core.view(configuration)["hash"]), {})
            for node in world.names:
                _post(hub, node, "epoch/erase", list(receipts.values()))
        for each in rows:  # what was true once
            for node in rng.sample(world.names, rng.randint(0, len(world.names))):
                dealings = list(each.dealings)
                _post(hub, node, "epoch/commit", each.configuration, list(each.receipts), dealings)
        await asyncio.sleep(_STEP)
    finally:
        if heard.tap in hub.taps:
            hub.taps.remove(heard.tap)


async def _configure(
    hub: Hub, heard: Heard, plan: bytes, dealers: Sequence[tuple[int, NodeId]]
) -> tuple[bytes, list[bytes], list[list[bytes]]] | None:
    hash_ = _core.view(plan)["hash"]
    made = [heard.dealings.get((hash_, node)) for _, node in dealers]
    if any(each is None for each in made):
        return None
    dealings = [bytes(each[0][0]) for each in made if each]
    sealed = [[bytes(part) for part in each[0][1]] for each in made if each]
    with contextlib.suppress(_core.CoreError):
        return await hub.hsm.slow(hub.module.configure, plan, dealings, sealed), dealings, sealed
    return None


def _post(hub: Hub, to: NodeId, kind: str, *fields: object) -> None:
    with contextlib.suppress(LinkDown):
        hub.port.post(to, kind, *fields)
