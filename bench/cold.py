"""Cold sessions: one at a time beside the sum of its parts, many at once, and with a holder killed.

The domain is locked and a Decrypt is asked for: it needs a fresh quorum session. A session's time is the hub's own:
from the request's arrival to the arrival of the requester's `closed`.

Its parts are measured in the same run, in this process: each cryptographic operation that a session makes, with
its messages sealed and opened, one after the other on one core; and the round trips of bare links between two
processes (mutual TLS 1.3, the size of an answer, echoed). The audit log's two syncs are shown, and not counted.
"""

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import load
import uvloop
from report import PERCENTILES, percentile, show

from quorate import _core
from quorate.client import AdminClient
from quorate.ids import NodeId
from quorate.local.layout import Layout
from quorate.node.directory import Directory
from quorate.wire.links import Address, Links

ANSWER_BYTES = 2048
DOMAINS = 16
NEEDS = 100


def p50(seconds: list[float]) -> float:
    """Milliseconds."""
    return 1000 * statistics.median(seconds)


def timed(count: int, run: Callable[[], Any]) -> float:
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        run()
        took.append(time.perf_counter() - begun)
    return p50(took)


# The parts.


class Modules:
    """An operator, a hub's module and three nodes' modules in this process, with a domain of 2 of 3."""

    def __init__(self, where: Path) -> None:
        now = int(time.time())
        operator = _core.Operator.create(
            where / "operator", region="us-east-1", account="000000000000", not_before=now - 60
        )
        self.hub = _core.Module.create(where / "hub", "hub")
        self.hub.pin(operator.fleet_info, operator.public_key)
        asked = self.hub.enrol_request_hub(zone="z", address="127.0.0.1:1")
        roster = self.hub.found_fleet(operator.approve_entry(asked, not_before=now - 60)[0])
        self.nodes = {name: _core.Module.create(where / name, name) for name in ("a", "b", "c")}
        for name, module in self.nodes.items():
            token, invitation = operator.invite(
                name=name, role="holder", zone=name, enrol_address="127.0.0.1:1", expires=now + 600
            )
            request = module.enrol_request(invitation, address="127.0.0.1:1")
            self.hub.check_enrolment(request, token, now=now)
            roster = self.hub.admit(operator.approve_entry(request, not_before=now - 60)[0])
        for name, module in self.nodes.items():
            module.install_roster(roster)
            module.accept_rekey(self.hub.rekey_for(name))
        everybody = {"hub": self.hub, **self.nodes}
        for sender, module in everybody.items():
            for receiver, other in everybody.items():
                if sender != receiver:
                    other.open_message(module.hellos(receiver)[0])
        charter = operator.charter(
            domain="bench",
            allowed=[(name, "holder") for name in self.nodes],
            threshold_floor=2,
            mode="reconstruct",
            dealer="hub",
            uses_per_epoch=10**9,
            rate_per_second=10**6,
            burst=10**6,
            lease_seconds=30,
            lease_uses=10_000,
        )
        plan = self.hub.plan(
            charter=charter,
            purpose="create",
            from_epoch=0,
            to_epoch=1,
            threshold=2,
            dealers=[("hub", None)],
            committee=[(index + 1, name, "holder") for index, name in enumerate(self.nodes)],
        )
        keys = [key for module in self.nodes.values() for key in module.accept_plan(plan, charter)]
        ((dealing, sealed),) = self.hub.deal(plan, charter, keys)
        configuration = self.hub.configure(plan, [dealing], [sealed])
        receipts = [
            receipt
            for index, module in enumerate(self.nodes.values())
            for receipt in module.prepare(configuration, [dealing], [(index + 1, 0, sealed[index])])
        ]
        for module in self.nodes.values():
            module.activate(configuration, receipts, [dealing])
        self.fence = 0


def operations(count: int) -> dict[str, float]:
    """Each operation's time in milliseconds (p50)."""
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as where:
        modules = Modules(Path(where))
        hub, a, b = modules.hub, modules.nodes["a"], modules.nodes["b"]
        body = _core.encode([bytes(1500)])
        messages = [a.seal("b", "session/answer", body) for _ in range(count)]
        waiting = iter(messages)
        took: dict[str, list[float]] = {"open": [], "grant": [], "answer": [], "receive": [], "closed": []}

        def step(what: str, run: Callable[[], Any]) -> Any:
            begun = time.perf_counter()
            result = run()
            took[what].append(time.perf_counter() - begun)
            return result

        for _ in range(count):
            modules.fence += 1
            called = [(1, "a", (1, modules.fence)), (2, "b", (1, modules.fence))]
            _session, request = step("open", lambda: a.open_session("bench"))
            hub.verify(request)
            grant = step("grant", lambda request=request, called=called: hub.grant(request, called))
            answers = [
                step("answer", lambda module=module, grant=grant: module.answer(grant))["given"][0][1]
                for module in (a, b)
            ]
            progress: dict[str, Any] = {}
            for answer in answers:
                progress = step("receive", lambda answer=answer: a.receive(answer))
            for module in (a, b):
                step("closed", lambda module=module, closed=progress["closed"]: module.close_session(closed))
            a.lock("bench")
        times = {name: p50(seconds) for name, seconds in took.items()}
        times["verify"] = timed(count, lambda: hub.verify(request))
        times["seal"] = timed(count, lambda: a.seal("b", "session/answer", body))
        times["unseal"] = timed(count, lambda: b.open_message(next(waiting)))
        return times


PER_SESSION = {
    "open": (1, "requester makes its request, with a fresh X-Wing key"),
    "verify": (2, "hub verifies request and closed"),
    "grant": (1, "hub verifies the request again and signs the grant"),
    "answer": (3, "holders verify, count, seal to the session key, sign"),
    "receive": (3, "requester verifies, opens, combines"),
    "closed": (3, "holders verify the last word"),
    "seal": (1 + 3 + 2 + 3, "messages: request, grants, answers, closed"),
    "unseal": (1 + 3 + 2 + 3, "the same messages, opened"),
}


async def echo(data: Path, name: str, peer: str, port: int) -> None:
    """The far end of a bare link: sends back what comes."""
    links = Links(
        NodeId(name),
        Directory.of(data, name).tls,
        on_message=lambda sender, message: links.post(sender, message),
    )
    print(await links.start("127.0.0.1", port), flush=True)
    links.set_peers({NodeId(peer): None})
    await asyncio.Event().wait()


async def round_trip(data: Path, count: int) -> float:
    """Milliseconds (p50) of one message there and back between two processes."""
    command = [sys.executable, __file__, str(data)]
    child = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        port = int(await asyncio.to_thread(child.stdout.readline))
        back: asyncio.Queue[bytes] = asyncio.Queue()
        up = asyncio.Event()
        links = Links(
            NodeId("node-1"),
            Directory.of(data, "node-1").tls,
            on_message=lambda _sender, message: back.put_nowait(message),
            on_up=lambda _peer: up.set(),
        )
        links.set_peers({NodeId("node-2"): Address("127.0.0.1", port)})
        await asyncio.wait_for(up.wait(), 10)
        took = []
        for _ in range(count):
            begun = time.perf_counter()
            links.post(NodeId("node-2"), bytes(ANSWER_BYTES))
            await back.get()
            took.append(time.perf_counter() - begun)
        await links.close()
        return p50(took)
    finally:
        child.kill()
        child.wait()


def sync_time(where: Path, count: int) -> float:
    path = where / "sync"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def append() -> None:
        os.write(fd, b"x" * 400)
        os.fdatasync(fd)

    try:
        return timed(count, append)
    finally:
        os.close(fd)
        path.unlink()


# The whole.


async def one_at_a_time(
    layout: Layout, endpoint: load.Endpoint, count: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of `count` cold sessions at the hub, and of the Decrypts that needed them at the client."""
    hub = AdminClient(layout.admin_socket)
    _, decrypt, _ = await asyncio.to_thread(load.three, endpoint)
    connection = await load.connect(endpoint)
    client = []
    for _ in range(count):
        await hub.lock("default")
        (seconds,) = await load.at_once([(connection, decrypt)])
        client.append(1000 * seconds)
    connection.close()
    seen = await hub.sessions(limit=count)
    assert all(one["outcome"] == "combined" for one in seen)
    return [one["ms"] for one in seen], client


async def domains_at_once(layout: Layout, endpoint: load.Endpoint, rounds: int) -> dict[str, float]:
    """All of `DOMAINS` domains are cold, and each is needed once, at the same instant. Milliseconds."""
    hub = AdminClient(layout.admin_socket)
    names = ["default"]
    for number in range(2, DOMAINS + 1):
        names.append(f"bench-{number}")
        await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "quorate", "domain", "create", names[-1], "--data", str(layout.data)],
            check=True,
            capture_output=True,
        )
    decrypts = [(await asyncio.to_thread(load.three, endpoint, name))[1] for name in names]
    connections = [await load.connect(endpoint) for _ in names]
    slowest, each = [], []
    for _ in range(rounds):
        for name in names:
            await hub.lock(name)
        took = await load.at_once(list(zip(connections, decrypts, strict=True)))
        slowest.append(1000 * max(took))
        each += [one["ms"] for one in await hub.sessions(limit=DOMAINS)]
    for connection in connections:
        connection.close()
    return {"p50": statistics.median(each), "max": max(each), "all_p50": statistics.median(slowest)}


async def needs_at_once(layout: Layout, endpoint: load.Endpoint, rounds: int) -> dict[str, float]:
    """`NEEDS` clients need one cold domain at the same instant. Milliseconds at the clients."""
    hub = AdminClient(layout.admin_socket)
    _, decrypt, _ = await asyncio.to_thread(load.three, endpoint)
    connections = [await load.connect(endpoint) for _ in range(NEEDS)]
    took = []
    for _ in range(rounds):
        await hub.lock("default")
        took += await load.at_once([(connection, decrypt) for connection in connections])
    for connection in connections:
        connection.close()
    return {"p50": 1000 * statistics.median(took), "max": 1000 * max(took)}


async def holder_hangs(layout: Layout, endpoint: load.Endpoint, how: signal.Signals) -> dict[str, float]:
    """A holder dies or hangs while the domain is cold: the next Decrypts, in milliseconds at the client."""
    hub = AdminClient(layout.admin_socket)
    _, decrypt, _ = await asyncio.to_thread(load.three, endpoint)
    connection = await load.connect(endpoint)

    async def cold() -> float:
        await hub.lock("default")
        (seconds,) = await load.at_once([(connection, decrypt)])
        return 1000 * seconds

    usual = statistics.median([await cold() for _ in range(20)])
    (last,) = await hub.sessions(limit=1)
    victim = next(one["node"] for one in last["called"] if one["node"] != last["requester"])
    pid = json.loads((layout.node(victim) / "run.json").read_text())["pid"]
    os.kill(pid, how)
    try:
        after = [await cold() for _ in range(5)]
    finally:
        os.kill(pid, signal.SIGCONT) if how == signal.SIGSTOP else None
    connection.close()
    return {"usual": usual, "first": after[0], "later": statistics.median(after[1:])}


async def measure(layout: Layout, endpoint: load.Endpoint, count: int) -> dict[str, Any]:
    """Milliseconds throughout. Leaves a node of the fleet dead."""
    show(f"{count} cold sessions, one at a time …")
    await one_at_a_time(layout, endpoint, count // 4)  # warm: code paths, connections
    hub_ms, client_ms = await one_at_a_time(layout, endpoint, count)
    show("their parts …")
    trip = await round_trip(layout.data, count)
    synced = sync_time(layout.data, count)
    parts = await asyncio.to_thread(operations, count)
    crypto = sum(times * parts[name] for name, (times, _) in PER_SESSION.items())
    total = crypto + 2 * trip
    show(f"{DOMAINS} domains, {NEEDS} needs, a holder that hangs, one that dies …")
    return {
        "sessions": count,
        "session": {part: percentile(hub_ms, value) for part, value in PERCENTILES.items()},
        "client_decrypt": {part: percentile(client_ms, value) for part, value in PERCENTILES.items()},
        "operations": parts,
        "cryptography": crypto,
        "round_trip": trip,
        "sync": synced,
        "sum_of_parts": total,
        "ratio": percentile(hub_ms, 0.5) / total,
        "domains_at_once": await domains_at_once(layout, endpoint, 20),
        "needs_at_once": await needs_at_once(layout, endpoint, 20),
        "holder_hangs": await holder_hangs(layout, endpoint, signal.SIGSTOP),
        "holder_killed": await holder_hangs(layout, endpoint, signal.SIGKILL),
    }


if __name__ == "__main__":  # the far end of `round_trip`
    uvloop.run(echo(Path(sys.argv[1]), "node-2", "node-1", 0))
