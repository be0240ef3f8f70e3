"""A fleet under mixed load while its nodes are killed: nothing wrong, nothing failed, nothing growing. Run: make soak

A fleet of one hub and five nodes is started on this machine (3 of 5). For some minutes, clients with the SDK's standard
retries call it, each answer is checked (`workload`), nodes but node-1 are killed with SIGKILL and started again, never
more than n−k at once, and the domain is locked now and then, so that sessions are cold. Memory, open files and threads
of all processes are sampled every second (`vitals`). At the end the audit logs are verified.

Exit 0: no wrong result, no error after the SDK's retries, memory of hub and nodes grew by less than 5 %, no more open
files or threads, no process ended by itself, and all audit logs are whole. Else 1, and the data directory is kept.

Here: what happens to the fleet. Not here: operations and their checks, reading /proc, the verdict (`verdict`).
"""

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import boto3
import uvloop
from botocore.config import Config
from verdict import Seen, audited, logged, show
from vitals import Incarnation, read
from workload import Client, Keys

from quorate.client import AdminClient
from quorate.errors import QuorateError
from quorate.local import credentials, fleet, processes, shape
from quorate.local.layout import Layout
from quorate.local.processes import READY_SECONDS, running

ALWAYS_UP = "node-1"
"""Is never killed, so that its memory too is measured over the whole run."""
KILL_SECONDS = (20.0, 40.0)
LOCK_SECONDS = (3.0, 20.0)
DOWN_SECONDS = ((0.0, 2.0), (5.0, 30.0))
"""How long a killed node stays down: within one of the two."""
TELL_SECONDS = 10.0
SDK = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=5, read_timeout=5)


class Soak:
    """One run. `pause`: seconds between two operations of a client, on average."""

    def __init__(self, layout: Layout, shape: shape.Shape, seen: Seen, pause: float) -> None:
        self._layout = layout
        self._shape = shape
        self._seen = seen
        self._pause = pause
        self._hub = AdminClient(layout.admin_socket)
        self._stop = threading.Event()
        self._ended = asyncio.Event()
        self._current: dict[str, Incarnation] = {}
        self._down: set[str] = set()
        """Nodes that this run has killed, and that do not serve again yet."""

    async def run(self) -> None:
        """Until the time is over, a process ends by itself, or somebody interrupts."""
        seen, loop = self._seen, asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._fail, "interrupted")
        keys = Keys()
        names = [f"client-{number}" for number in range(1, seen.clients + 1)]
        clients = [Client(name, seen.seed, self._connect(), keys, seen.tally) for name in names]
        threads = [threading.Thread(target=client.run, args=(self._stop, self._pause)) for client in clients]
        parts = (self._sample(), self._kill(), self._lock(), self._tell())
        seen.begun = time.monotonic()
        for thread in threads:
            thread.start()
        background = [loop.create_task(self._watched(part)) for part in parts]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seen.seconds):
                await self._ended.wait()
        seen.took = time.monotonic() - seen.begun
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        self._stop.set()
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])

    def _fail(self, why: str) -> None:
        """Ends the run: what was seen so far is told."""
        self._seen.failures.append(why)
        self._ended.set()

    async def _watched(self, part: Coroutine[Any, Any, None]) -> None:
        try:
            await part
        except QuorateError as why:
            self._fail(f"{why} ({why.remedy})")
        except Exception as why:
            self._fail(f"the soak itself failed: {type(why).__name__}: {why}")

    def _connect(self) -> Any:
        pair = credentials.read_credentials(self._layout)
        assert pair is not None
        session = boto3.Session(pair[0], pair[1], region_name=self._shape.region)
        url, bundle = f"https://localhost:{self._shape.port}", str(self._layout.ca_bundle)
        return session.client("kms", endpoint_url=url, verify=bundle, config=SDK)

    def _choices(self, what: str) -> random.Random:
        return random.Random(f"{self._seen.seed}/{what}")

    # What happens to the fleet.

    async def _kill(self) -> None:
        choices = self._choices("kill")
        async with asyncio.TaskGroup() as returning:
            while True:
                await asyncio.sleep(choices.uniform(*KILL_SECONDS))
                if len(self._down) >= self._shape.nodes - self._shape.threshold:
                    continue
                up = sorted(set(self._shape.node_names) - {ALWAYS_UP} - self._down)
                name, stays = choices.choice(up), choices.uniform(*choices.choice(DOWN_SECONDS))
                self._down.add(name)
                await asyncio.to_thread(processes.kill, self._layout.node(name))
                self._seen.kills[name] += 1
                returning.create_task(self._watched(self._bring_back(name, stays)))

    async def _bring_back(self, name: str, after: float) -> None:
        """The node counts as down until the hub asks it for shards again and it serves clients."""
        await asyncio.sleep(after)
        await processes.start_one(self._layout, name)
        deadline = time.monotonic() + READY_SECONDS
        while not any(node["name"] == name and node["kms"] for node in (await self._hub.status())["nodes"]):
            if time.monotonic() > deadline:
                return self._fail(f"{name} did not serve again within {READY_SECONDS:g} s")
            await asyncio.sleep(0.1)
        return self._down.discard(name)

    async def _lock(self) -> None:
        choices = self._choices("lock")
        while True:
            await asyncio.sleep(choices.uniform(*LOCK_SECONDS))
            unreached = (await self._hub.lock(fleet.DOMAIN))["unreached"]
            self._seen.locks += 1
            self._seen.unlocked += len(set(unreached) - self._down)

    # What is seen.

    async def _sample(self) -> None:
        due = time.monotonic()
        while True:
            self._sample_now()
            due += 1.0
            await asyncio.sleep(due - time.monotonic())

    def _sample_now(self) -> None:
        now = time.monotonic()
        processor: dict[int, float] = {}
        for name in ("hub", *self._shape.node_names):
            run = running(self._layout.hub if name == "hub" else self._layout.node(name))
            if run is None:
                self._current.pop(name, None)
                if name not in self._down:
                    tail = processes.log_tail(self._layout.log(name))
                    self._fail(f"{name} ended by itself; the end of its log:\n{tail}")
                continue
            one = self._current.get(name)
            if one is None or one.pid != run["pid"]:
                one = self._current[name] = Incarnation(name, run["pid"], now)
                self._seen.incarnations.append(one)
            sample = read(one.pid, now)
            if sample is not None:
                one.samples.append(sample)
                processor[one.pid] = sample.processor
        self._seen.processor.tick(processor)

    async def _tell(self) -> None:
        seen = self._seen
        while True:
            await asyncio.sleep(TELL_SECONDS)
            calls, total = seen.tally.since(), seen.tally.total
            shares = seen.processor.around(time.monotonic(), TELL_SECONDS)
            memory = (
                f"{name} {one.samples[-1].rss / 1024:.1f} MiB"
                for name in ("hub", ALWAYS_UP)
                if (one := self._current.get(name)) and one.samples
            )
            say(
                f"{time.monotonic() - seen.begun:5.0f} s  {calls.count / TELL_SECONDS:4.0f} calls/s  "
                f"p50 {calls.ms(0.5) or 0:.0f} ms  p99 {calls.ms(0.99) or 0:.0f} ms  "
                f"errors {total.errors}  wrong {total.wrong}  retries {total.retries}  "
                f"kills {seen.kills.total()}  locks {seen.locks}  {'  '.join(memory)}  "
                f"processor {shares['fleet'] + shares['client']:.0f} % ours, {shares['others']:.0f} % others'"
                + (f"  down: {', '.join(sorted(self._down))}" if self._down else "")
            )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def soak(layout: Layout, options: argparse.Namespace) -> dict[str, Any]:
    wanted = shape.settle(layout, shape.Wanted(nodes=5, threshold=3, port=0))
    say("starting a fleet of five nodes …")
    started = await fleet.start(layout, wanted, progress=lambda step: None)
    kind = f"{wanted.threshold} of {wanted.nodes}"
    seen = Seen(options.seed, kind, options.clients, 60 * options.minutes, ALWAYS_UP)
    try:
        say(f"{options.clients} clients for {options.minutes:g} minutes, seed {options.seed}")
        await Soak(layout, started.shape, seen, options.pause / 1000).run()
    finally:
        late = await asyncio.to_thread(processes.stop_all, layout)
        for child in started.started:
            child.process.wait()
    if late:
        seen.failures.append(f"{', '.join(late)} did not stop within 10 s, and had to be killed")
    say("verifying the audit logs …")
    return seen.result(await asyncio.to_thread(audited, layout), logged(layout))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20, help="how long (20)")
    parser.add_argument("--clients", type=int, default=8, help="each in a thread of its own (8)")
    parser.add_argument("--pause", type=float, default=20, help="milliseconds between a client's calls (20)")
    parser.add_argument("--seed", type=int, help="of all choices (one is chosen, and told)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    parser.add_argument("--keep", action="store_true", help="keep the data directory in any case")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**9)
    where = Path(tempfile.mkdtemp(prefix="quorate-soak-"))
    passed = False
    try:
        result = uvloop.run(soak(Layout.at(where / "data"), options))
        passed = result["passed"]
        show(result)
        if options.json is not None:
            options.json.write_text(json.dumps(result, indent=2) + "\n")
    finally:
        if passed and not options.keep:
            shutil.rmtree(where)
        else:
            say(f"the fleet's directory is kept for a look: {where / 'data'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
