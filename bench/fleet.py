"""How long a cold session takes, beside the sum of its parts, in one run. Run: make bench

A fleet of one hub and five nodes is started on this machine (3 of 5). The domain is locked and one Decrypt is
asked for, again and again, one at a time: every Decrypt needs a fresh quorum session. A session's time is the
hub's own: from the request's arrival to the arrival of the requester's `closed`.

Its parts are measured in the same run, in this process: each cryptographic operation that a session makes, with
its messages sealed and opened, one after the other on one core; and the round trips of bare links between two
processes (mutual TLS 1.3, the size of an answer, echoed). The audit log's two syncs are shown, and not counted.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import uvloop
from botocore.config import Config

from quorate import _core
from quorate.client import AdminClient
from quorate.ids import NodeId
from quorate.local import credentials, fleet, processes, shape
from quorate.local.layout import Layout
from quorate.node.directory import Directory
from quorate.wire.links import Address, Links

ANSWER_BYTES = 2048
LIMIT_MS = 6.0
LIMIT_RATIO = 2.0


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
                    other.open_message(module.seal(receiver, "link/hello", _core.encode([])))
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
        dealing, sealed = self.hub.deal(plan, keys)
        configuration = self.hub.configure(plan, [dealing])
        receipts = [
            receipt
            for index, module in enumerate(self.nodes.values())
            for receipt in module.prepare(configuration, [dealing], [(index + 1, 0, sealed[index])])
        ]
        for module in self.nodes.values():
            module.activate(configuration, receipts)
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
    command = [sys.executable, __file__, "--echo", str(data)]
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


async def sessions(layout: Layout, port: int, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of `count` cold sessions at the hub, and of the Decrypts that needed them at the client."""
    hub = AdminClient(layout.admin_socket)
    pair = credentials.read_credentials(layout)
    assert pair is not None
    kms = boto3.client(
        "kms",
        endpoint_url=f"https://localhost:{port}",
        region_name="us-east-1",
        aws_access_key_id=pair[0],
        aws_secret_access_key=pair[1],
        verify=str(layout.ca_bundle),
        config=Config(retries={"total_max_attempts": 1}),
    )

    def make() -> bytes:
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        return bytes(kms.encrypt(KeyId=key, Plaintext=b"bench")["CiphertextBlob"])

    blob = await asyncio.to_thread(make)
    client = []
    for _ in range(count):
        await hub.lock("default")
        begun = time.perf_counter()
        await asyncio.to_thread(kms.decrypt, CiphertextBlob=blob)
        client.append(1000 * (time.perf_counter() - begun))
    seen = await hub.sessions(limit=count)
    assert all(one["outcome"] == "combined" for one in seen)
    return [one["ms"] for one in seen], client


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


async def measure(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as where:
        layout = Layout.at(Path(where) / "data")
        try:
            print("starting a fleet of five nodes …", file=sys.stderr)
            started = await fleet.start(
                layout, shape.settle(layout, shape.Wanted(port=0)), progress=lambda step: None
            )
            print(f"{count} cold sessions, one at a time …", file=sys.stderr)
            await sessions(layout, started.shape.port, count // 4)  # warm: code paths, connections
            hub_ms, client_ms = await sessions(layout, started.shape.port, count)
            print("their parts …", file=sys.stderr)
            trip = await round_trip(layout.data, count)
            synced = sync_time(layout.data, count)
        finally:
            await asyncio.to_thread(processes.stop_all, layout)
        parts = await asyncio.to_thread(operations, count)
    crypto = sum(times * parts[name] for name, (times, _) in PER_SESSION.items())
    total = crypto + 2 * trip
    return {
        "machine": machine(),
        "build": _core.build_info(),
        "sessions": count,
        "session_ms": {
            "p50": percentile(hub_ms, 0.5),
            "p90": percentile(hub_ms, 0.9),
            "p99": percentile(hub_ms, 0.99),
        },
        "client_decrypt_ms": {"p50": percentile(client_ms, 0.5), "p99": percentile(client_ms, 0.99)},
        "operations_ms": parts,
        "cryptography_ms": crypto,
        "round_trip_ms": trip,
        "sync_ms": synced,
        "sum_of_parts_ms": total,
        "ratio": percentile(hub_ms, 0.5) / total,
    }


def machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    load = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"load {load:.1f}"
    )


def show(result: dict[str, Any]) -> None:
    session = result["session_ms"]
    print(f"machine           {result['machine']}")
    print(f"cold session      3 of 5, {result['sessions']} one at a time, hub's clock")
    print(
        f"                  p50 {session['p50']:.2f} ms   p90 {session['p90']:.2f}   p99 {session['p99']:.2f}"
    )
    print(f"client's Decrypt  p50 {result['client_decrypt_ms']['p50']:.2f} ms (boto3, session included)")
    print("parts             one at a time on one core, p50")
    for name, (times, what) in PER_SESSION.items():
        each = result["operations_ms"][name]
        print(f"  {name:10s} {times:2d} × {each:6.3f} ms = {times * each:6.3f}   {what}")
    print(
        f"  links       2 × {result['round_trip_ms']:6.3f} ms = {2 * result['round_trip_ms']:6.3f}   round trips"
    )
    print(f"  (sync       2 × {result['sync_ms']:6.3f} ms, audit lines of hub and holder; not counted)")
    print(f"sum of parts      {result['sum_of_parts_ms']:.2f} ms")
    print(f"ratio             {result['ratio']:.2f} (limit {LIMIT_RATIO:g})")
    print(f"p50               {session['p50']:.2f} ms (limit {LIMIT_MS:g} ms)")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=400, help="how many to measure (400)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--echo", metavar="DATA", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        uvloop.run(echo(Path(options.echo), "node-2", "node-1", 0))
        return 0
    result = uvloop.run(measure(options.sessions))
    print(json.dumps(result, indent=2)) if options.json else show(result)
    held = result["session_ms"]["p50"] <= LIMIT_MS and result["ratio"] <= LIMIT_RATIO
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
