"""Every figure that the project promises, measured on this machine in one run. Run: make bench

A fleet of one hub and five nodes (3 of 5) is started; its start, its memory, warm and cold calls are measured, and
printed as one table, with what was wanted; `--json FILE` keeps all details. Exit 1 when a target is missed.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cold
import epochs
import load
import uvloop
import warm
from report import Figure, machine, show, table

from quorate import _core
from quorate.local import credentials, fleet, processes, shape
from quorate.local.layout import Layout

MIB = 1024


async def measure(peer: Path | None, sessions: int, seconds: float) -> dict[str, Any]:
    result: dict[str, Any] = {"machine": machine(), "build": _core.build_info(), "help_s": help_time()}
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as where:
        layout = Layout.at(Path(where) / "data")
        try:
            show("starting a fleet of five nodes, from nothing and again …")
            begun = time.monotonic()
            await fleet.start(layout, shape.settle(layout, shape.Wanted(port=0)), progress=lambda step: None)
            result["first_start_s"] = time.monotonic() - begun
            await asyncio.to_thread(processes.stop_all, layout)
            begun = time.monotonic()
            started = await fleet.start(
                layout, shape.settle(layout, shape.Wanted()), progress=lambda step: None
            )
            result["start_s"] = time.monotonic() - begun
            pair = credentials.read_credentials(layout)
            assert pair is not None
            endpoint = load.Endpoint(f"https://localhost:{started.shape.port}", *pair, layout.ca_bundle)
            result["warm"] = await warm.measure(layout, endpoint, peer, seconds)
            result["resident_kib"] = resident(layout)
            result["cold_ms"] = await cold.measure(layout, endpoint, sessions)
            result["epochs_ms"] = await epochs.measure(layout)
        finally:
            await asyncio.to_thread(processes.stop_all, layout)
    return result


def help_time() -> float:
    """Seconds of `quorate --help`: the best of five, after one that warms the disk's cache."""
    command = [Path(sys.executable).with_name("quorate"), "--help"]
    took = []
    for _ in range(6):
        begun = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took.append(time.monotonic() - begun)
    return min(took[1:])


def resident(layout: Layout) -> dict[str, int]:
    """KiB of each process of the fleet, after the warm calls."""
    found = {}
    for run in layout.data.glob("**/run.json"):
        status = Path(f"/proc/{json.loads(run.read_text())['pid']}/status").read_text()
        found[run.parent.name] = int(status.partition("VmRSS:")[2].split()[0])
    return found


def figures(result: dict[str, Any]) -> list[Figure]:
    many, one, peer = (result["warm"][which] for which in ("many", "one", "peer"))
    cold_ms, memory = result["cold_ms"], result["resident_kib"]
    nodes = max(kib for name, kib in memory.items() if name != "hub")
    count = result["warm"]["connections"]
    of_parts = f"sum of its parts: {cold_ms['sum_of_parts']:.2f} ms"
    rows = [
        Figure("fleet of five ready, from nothing", result["first_start_s"], "s", 10),
        Figure("fleet of five ready, again", result["start_s"], "s", 10),
        Figure("quorate --help", result["help_s"], "s", 0.3),
        Figure("resident memory, hub", memory["hub"] / MIB, "MiB", 90),
        Figure("resident memory, largest node", nodes / MIB, "MiB", 90),
        Figure(f"warm calls, {count} connections", many["rate"], "/s", 5000, "least"),
        Figure("  their p50", many["p50"], "ms"),
        Figure(
            "  their p99", many["p99"], "ms", 4 * many["p50"], peer="p50", ratio=many["p99"] / many["p50"]
        ),
        Figure("  processor time of the fleet", many["server_us"], "µs"),
        Figure("warm call, one connection, p50", one["p50"], "ms", 1.0),
        Figure("  durable write (fdatasync), p50", cold_ms["sync"], "ms"),
        Figure("cold session, p50", cold_ms["session"]["p50"], "ms", peer=of_parts),
        Figure("  beside its parts", cold_ms["ratio"], "×", 1.6),
        Figure(
            f"{cold.DOMAINS} cold domains at once, a session's p50", cold_ms["domains_at_once"]["p50"], "ms"
        ),
        Figure("  until all are served, p50", cold_ms["domains_at_once"]["all_p50"], "ms"),
        Figure(f"{cold.NEEDS} needs of a cold domain at once, p50", cold_ms["needs_at_once"]["p50"], "ms"),
        Figure("  the slowest", cold_ms["needs_at_once"]["max"], "ms"),
    ]
    for what, key in (("holder hangs", "holder_hangs"), ("holder killed", "holder_killed")):
        took = cold_ms[key]
        rows.append(
            Figure(f"{what}: what it costs, once", max(0.0, took["first"] - took["usual"]), "ms", 250)
        )
        rows.append(Figure("  the Decrypts after it, p50", took["later"], "ms"))
    for size, most in (("3 of 5", 150), ("10 of 19", 1500)):
        took = result["epochs_ms"][size]
        rows.append(Figure(f"epoch change, {size}, p50", took["p50"], "ms", most))
        rows.append(Figure("  the slowest", took["max"], "ms"))
    if peer is not None:
        ratio = many["rate"] / peer["rate"]
        rows.insert(
            6, Figure("  beside moto_server", ratio, "×", 10, "least", f"{peer['rate']:.0f} /s", ratio)
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=400, help="cold sessions, one at a time (400)")
    parser.add_argument("--seconds", type=float, default=5, help="of each run of warm calls (5)")
    parser.add_argument("--peer", type=Path, help="the program moto_server; without it nothing is compared")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all figures go, as JSON")
    options = parser.parse_args()
    result = uvloop.run(measure(options.peer, options.sessions, options.seconds))
    rows = figures(result)
    if options.json:
        result["figures"] = [row.as_json() for row in rows]
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(result["machine"])
    print(table(rows))
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
