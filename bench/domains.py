"""Many domains in one fleet: what their creation takes, what refreshing all of them costs clients, what the hub needs.

A fleet of five nodes makes `--domains` domains, 3 of 5. Warm Encrypts under a key of one of them are measured in turns:
quiet, and while the hub refreshes all that are due, which are all of them, one after another in the background. What
counts is the ratio of the two in one run: p99 at most doubled. Run: make bench-domains

Here: the measuring. Not here: how the hub paces itself (`quorate/hub/changes.py`).
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import load
import uvloop
from report import Figure, machine, show, table
from warm import processor_seconds

from quorate import _core
from quorate.client import AdminClient
from quorate.local import credentials, fleet, operator, processes, shape
from quorate.local.layout import Layout

AT_ONCE = 4
"""Domains that are created at a time."""
CONNECTIONS = 4
MIB = 1024


async def measure(count: int, seconds: float, turns: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as where:
        layout = Layout.at(Path(where) / "data")
        try:
            started = await fleet.start(
                layout, shape.settle(layout, shape.Wanted(port=0)), progress=lambda step: None
            )
            hub = AdminClient(layout.admin_socket)
            result: dict[str, Any] = {"machine": machine(), "build": _core.build_info(), "domains": count}
            show(f"creating {count} domains …")
            result["created_per_s"] = await create(layout, hub, count)
            pair = credentials.read_credentials(layout)
            assert pair is not None
            endpoint = load.Endpoint(f"https://localhost:{started.shape.port}", *pair, layout.ca_bundle)
            result |= await beside_refreshes(layout, hub, endpoint, count, seconds, turns)
            result["resident_kib"] = resident(layout)
            result["heartbeat_idle_cpu"] = await idle(layout)
            show("the hub starts again …")
            processes.stop([layout.hub])
            begun = time.monotonic()
            process = processes.start_hub(layout)
            await processes.until_ready(process, lambda run: run["state"] == "ready", deadline=begun + 120)
            result["hub_start_s"] = time.monotonic() - begun
            result["database_kib"] = (layout.hub / "hub.db").stat().st_size // 1024
        finally:
            await asyncio.to_thread(processes.stop_all, layout)
    return result


async def create(layout: Layout, hub: AdminClient, count: int) -> float:
    """Creates the domains, never to be refreshed yet; how many in a second."""
    key = _core.Operator.open(layout.operator)
    names = iter([f"many-{number}" for number in range(count)])

    async def some() -> None:
        for name in names:
            await operator.create_domain(key, hub, name, threshold=3, shards=5, refresh_every=0)

    begun = time.monotonic()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return count / (time.monotonic() - begun)


async def beside_refreshes(
    layout: Layout, hub: AdminClient, endpoint: load.Endpoint, count: int, seconds: float, turns: int
) -> dict[str, Any]:
    """`turns` of quiet and of busy seconds. A domain that is due each second is due whenever the hub comes to it."""
    encrypt = (await asyncio.to_thread(load.three, endpoint))[:1]
    await load.run(endpoint, encrypt, connections=CONNECTIONS, seconds=2)
    quiet, busy = load.Measured(), load.Measured()
    refreshed, used = 0, 0.0
    for turn in range(turns):
        show(f"warm Encrypts, quiet and beside refreshes, {seconds:g} s each: {turn + 1} of {turns} …")
        await run_into(quiet, endpoint, encrypt, seconds)
        before = await epochs(hub)
        for number in range(count):
            await hub.set_domain(f"many-{number}", refresh_every=1)
        spent = sum(processor_seconds(layout).values())
        await run_into(busy, endpoint, encrypt, seconds)
        used += sum(processor_seconds(layout).values()) - spent
        for number in range(count):
            await hub.set_domain(f"many-{number}", refresh_every=0)
        refreshed += await epochs(hub) - before
        await asyncio.sleep(2)
    for measured in (quiet, busy):
        assert not measured.wrong, measured.wrong[0]
    return {
        "quiet": {"p50": quiet.ms(0.5), "p99": quiet.ms(0.99), "rate": quiet.rate},
        "busy": {"p50": busy.ms(0.5), "p99": busy.ms(0.99), "rate": busy.rate},
        "refreshed": refreshed,
        "refreshed_per_s": refreshed / busy.took,
    }


async def run_into(
    into: load.Measured, endpoint: load.Endpoint, operations: list[load.Operation], seconds: float
) -> None:
    got = await load.run(endpoint, operations, connections=CONNECTIONS, seconds=seconds)
    into.seconds += got.seconds
    into.wrong += got.wrong
    into.took += got.took


async def epochs(hub: AdminClient) -> int:
    """The sum of all domains' epochs: it rises by one with each refresh."""
    return sum(domain["epoch"] for domain in (await hub.status())["domains"])


async def idle(layout: Layout, seconds: float = 5.0) -> dict[str, float]:
    """The share of a core that each process takes while nobody wants anything."""
    await asyncio.sleep(2)
    before = processor_seconds(layout)
    await asyncio.sleep(seconds)
    return {name: (now - before[name]) / seconds for name, now in processor_seconds(layout).items()}


def resident(layout: Layout) -> dict[str, int]:
    found = {}
    for run in layout.data.glob("**/run.json"):
        status = Path(f"/proc/{json.loads(run.read_text())['pid']}/status").read_text()
        found[run.parent.name] = int(status.partition("VmRSS:")[2].split()[0])
    return found


def figures(result: dict[str, Any]) -> list[Figure]:
    quiet, busy, memory, cpu = (
        result[name] for name in ("quiet", "busy", "resident_kib", "heartbeat_idle_cpu")
    )
    nodes = [name for name in memory if name != "hub"]
    return [
        Figure("domains", result["domains"], ""),
        Figure("created", result["created_per_s"], "/s"),
        Figure("warm Encrypt, quiet, p50", quiet["p50"], "ms"),
        Figure("  p99", quiet["p99"], "ms"),
        Figure("warm Encrypt beside refreshes, p50", busy["p50"], "ms"),
        Figure(
            "  p99", busy["p99"], "ms", 2 * quiet["p99"], peer="quiet p99", ratio=busy["p99"] / quiet["p99"]
        ),
        Figure("refreshed meanwhile", result["refreshed_per_s"], "/s"),
        Figure("resident memory, hub", memory["hub"] / MIB, "MiB"),
        Figure("resident memory, largest node", max(memory[name] for name in nodes) / MIB, "MiB"),
        Figure("idle: a core's part, hub", 100 * cpu["hub"], "%"),
        Figure("idle: a core's part, a node", 100 * max(cpu[name] for name in nodes), "%"),
        Figure("hub starts again", result["hub_start_s"], "s"),
        Figure("hub's database", result["database_kib"] / MIB, "MiB"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--domains", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--seconds", type=float, default=20, help="of each turn (20)")
    parser.add_argument("--turns", type=int, default=3, help="quiet and busy ones (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all figures go, as JSON")
    options = parser.parse_args()
    result = uvloop.run(measure(options.domains, options.seconds, options.turns))
    rows = figures(result)
    if options.json:
        result["figures"] = [row.as_json() for row in rows]
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(result["machine"])
    print(table(rows))
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
