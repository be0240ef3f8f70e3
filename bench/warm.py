"""Warm calls: Encrypt, Decrypt and GenerateDataKey in turn, under leases, over TLS with SigV4 and the durable audit
line, at 64 connections and at one; and the same calls against `moto_server`, which stands for what a team would
test with otherwise: Python, plain HTTP, no signature checked, nothing durable.

Here: the two runs. Not here: the load (`load`), the fleet's start (`run`).
"""

import asyncio
import contextlib
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load
from report import PERCENTILES, show

from quorate.local.layout import Layout

CONNECTIONS = 64


async def measure(
    layout: Layout, endpoint: load.Endpoint, peer: Path | None, seconds: float
) -> dict[str, Any]:
    """`peer`: the program `moto_server`, if it is there. Its runs and ours take turns; the best of each counts."""
    operations = await asyncio.to_thread(load.three, endpoint)
    show(
        f"warm calls at {CONNECTIONS} connections and at one, {seconds:g} s each, in turns with moto_server …"
    )
    await load.run(endpoint, operations, connections=CONNECTIONS, seconds=1)
    many, one, theirs = [], [], []
    with moto(peer) if peer is not None else contextlib.nullcontext() as other:
        for _ in range(3):
            before = processor_seconds(layout)
            got = await load.run(endpoint, operations, connections=CONNECTIONS, seconds=seconds)
            used = {name: now - before[name] for name, now in processor_seconds(layout).items()}
            many.append(_shown(got) | {"server_us": 1e6 * sum(used.values()) / len(got.seconds)})
            one.append(_shown(await load.run(endpoint, operations, connections=1, seconds=seconds)))
            if other is not None:
                calls = await asyncio.to_thread(load.three, other)
                got = await load.run(other, calls, connections=CONNECTIONS, seconds=seconds, keep=False)
                theirs.append(_shown(got))
    return {
        "connections": CONNECTIONS,
        "many": max(many, key=lambda run: run["rate"]),
        "one": min(one, key=lambda run: run["p50"]),
        "peer": max(theirs, key=lambda run: run["rate"]) if theirs else None,
        "all": {"many": many, "one": one, "peer": theirs},
    }


def _shown(got: load.Measured) -> dict[str, float]:
    assert not got.wrong, f"{len(got.wrong)} wrong answers, the first: {got.wrong[0]}"
    return (
        {"rate": got.rate, "client_us": 1e6 * got.cpu / len(got.seconds)}
        | {name: got.ms(part) for name, part in PERCENTILES.items()}
        | {"max": got.ms(1.0)}
    )


def processor_seconds(layout: Layout) -> dict[str, float]:
    """User and system time of each process of the fleet."""
    used = {}
    for run in layout.data.glob("**/run.json"):
        pid = json.loads(run.read_text())["pid"]
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used[run.parent.name] = (int(fields[11]) + int(fields[12])) / 100
    return used


@contextlib.contextmanager
def moto(program: Path) -> Iterator[load.Endpoint]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [program, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    endpoint = load.Endpoint(f"http://127.0.0.1:{port}", "AKIAEXAMPLE", "x" * 40, None)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"{endpoint.url}/moto-api/", timeout=1).read()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
        yield endpoint
    finally:
        process.kill()
        process.wait()
