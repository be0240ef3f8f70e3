"""Epoch changes: a refresh of one domain, from its plan until every member has taken it up, at 3 of 5 and at 10 of
19, all processes on this machine.

Here: the two fleets' refreshes. Not here: their start (`run`), changes under load (the tests count failed requests).
"""

import asyncio
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from report import show

from quorate.client import AdminClient
from quorate.local import fleet, processes, shape
from quorate.local.layout import Layout

REFRESHES = 20


async def measure(layout: Layout) -> dict[str, Any]:
    """`layout`: of a fleet that is up, whose default domain is 3 of 5."""
    show(f"{REFRESHES} refreshes of a domain, 3 of 5 and 10 of 19 …")
    return {"3 of 5": await _refreshes(layout), "10 of 19": await _large()}


async def _large() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as where:
        layout = Layout.at(Path(where) / "data")
        wanted = shape.Wanted(nodes=19, threshold=10, port=0)
        try:
            await fleet.start(layout, shape.settle(layout, wanted), progress=lambda step: None)
            return await _refreshes(layout)
        finally:
            await asyncio.to_thread(processes.stop_all, layout)


async def _refreshes(layout: Layout) -> dict[str, float]:
    """Milliseconds."""
    hub = AdminClient(layout.admin_socket)
    took = []
    for _ in range(REFRESHES):
        made = await hub.refresh(fleet.DOMAIN)
        took.append(
            made["steps"][-1]["ms"]
        )  # from the plan on: the hub lets half a second pass between two changes
        await _settled(hub)
    return {"p50": median(took), "max": max(took)}


async def _settled(hub: AdminClient) -> None:
    """The old shards are erased: not a part of the change, and not to be in the way of the next."""
    while True:
        if not (await hub.status())["domains"][0]["waits_for"]:
            return
        await asyncio.sleep(0.02)
