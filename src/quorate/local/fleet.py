"""A whole fleet on this machine, from nothing or from its data directory: what `quorate up` and `down` do.

Here: the order of the steps, what runs side by side, resuming after an interruption at any point.
Not here: the steps themselves, which are those of several machines: `hub init|serve`, `node
init|invite|enroll|approve|serve`, `domain create`, `access create`.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from quorate import _core
from quorate.client import AdminClient
from quorate.errors import HubUnreachable
from quorate.host.files import replace_file
from quorate.hub import setup as hub_setup
from quorate.local import credentials, operator, ports, processes
from quorate.local.layout import Layout, read_json
from quorate.local.processes import Run, Started, running
from quorate.local.shape import Shape, write_shape
from quorate.node import setup as node_setup
from quorate.node.directory import Directory

S = TypeVar("S")
T = TypeVar("T")

DOMAIN = "default"
INVITATION_HOURS = 24.0 * 30
"""Long, since an interrupted `up` may be gone on with much later."""


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step of a start: what, with what result, and how long it took (seconds)."""

    name: str
    detail: str
    seconds: float


Progress = Callable[[Step], None]


@dataclass(slots=True)
class Fleet:
    """A started fleet: its shape, and the processes that this one started."""

    layout: Layout
    shape: Shape
    started: list[Started]

    async def until_one_ends(self) -> Started:
        """Waits until one of the started processes ends, forgets it and returns it."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Started] = loop.create_future()

        def on_end(one: Started) -> None:
            if not ended.done():
                ended.set_result(one)

        handles = {os.pidfd_open(one.process.pid): one for one in self.started if one.process.poll() is None}
        try:
            for handle, one in handles.items():
                loop.add_reader(handle, on_end, one)
            one = await ended
            one.process.wait()
            self.started.remove(one)
            return one
        finally:
            for handle in handles:
                loop.remove_reader(handle)
                os.close(handle)


def is_up(layout: Layout, shape: Shape) -> bool:
    """Whether the hub and every node run and are ready."""
    directories = [layout.hub, *(layout.node(name) for name in shape.node_names)]
    return all((run := running(directory)) and run["state"] == "ready" for directory in directories)


def what_purge_takes(layout: Layout) -> list[str]:
    """What is lost with the data directory, a line each."""
    nodes = layout.node_names()
    seen = [read_json(layout.domains) or {}, *(running(layout.node(name)) or {} for name in nodes)]
    domains = sorted({each["name"] for found in seen for each in found.get("domains", [])})
    told = []
    if domains:
        told.append(f"  the domains {', '.join(domains)}: their keys, and every KMS key in them")
    if layout.hub.exists():
        told.append("  the hub: roster, domains, access keys, the fleet key in its module")
    if nodes:
        told.append(f"  {len(nodes)} nodes ({', '.join(nodes)}): their modules with the shards")
    if layout.operator.exists():
        told.append("  the operator key: unless a copy is elsewhere, nobody can sign for this fleet again")
    told.append("  logs and audit logs")
    return told


async def start(layout: Layout, shape: Shape, progress: Progress) -> Fleet:
    """Brings the fleet up, from wherever the last attempt ended; returns when it serves.

    On failure whatever this call started is stopped again. Raises `PortInUse`, `StartFailed`, and what the
    steps raise.
    """
    layout.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with processes.only_one(layout):
        start_up = _StartUp(layout, shape, progress)
        try:
            await start_up.run()
        except BaseException:
            await asyncio.to_thread(processes.stop_all, layout, [one.name for one in start_up.started])
            for one in start_up.started:
                with contextlib.suppress(ProcessLookupError):
                    one.process.kill()
                one.process.wait()
            raise
        return Fleet(layout, start_up.shape, start_up.started)


async def add_node(layout: Layout, shape: Shape, progress: Progress) -> str:
    """Makes, enrols and starts one more node of a fleet that is up; returns its name, which none had before."""
    used = {node["name"] for node in (await AdminClient(layout.admin_socket).status())["nodes"]}
    used |= {*shape.node_names, *layout.node_names()}
    name = next(name for number in range(1, 1 << 16) if (name := f"node-{number}") not in used)
    with processes.only_one(layout):
        start_up = _StartUp(layout, shape.with_nodes([*shape.node_names, name]), progress)
        await start_up.add(name)
    return name


def retire_here(layout: Layout, shape: Shape, name: str) -> Path | None:
    """Stops a retired node of this machine; returns where its directory is now, None if it has none here."""
    if name not in layout.node_names():
        return None
    processes.stop([layout.node(name)])
    write_shape(layout, shape.with_nodes(each for each in shape.node_names if each != name))
    to = layout.data / "retired" / name
    to.parent.mkdir(mode=0o700, exist_ok=True)
    layout.node(name).rename(to)
    return to


class _StartUp:
    """One run of `start`: the steps share these."""

    def __init__(self, layout: Layout, shape: Shape, progress: Progress) -> None:
        self.layout = layout
        self.shape = shape
        self.started: list[Started] = []
        self._progress = progress
        self._hub = AdminClient(layout.admin_socket)
        self._deadline = time.monotonic() + processes.READY_SECONDS

    async def run(self) -> None:
        self._take_port()
        key = await self._operator()
        hub, modules = await _both(self._start_hub(key), self._make_modules())
        if modules:
            async with self._step("nodes enrolled") as done:
                address = hub["enrol_address"]
                await _all(self._enroll(key, name, prints, address) for name, prints in modules.items())
                done(f"{len(modules)}, each entry signed by the operator key")
        await _all(self._start_node(name) for name in self.shape.node_names)
        await self._until_heard(self.shape.node_names)
        await self._domain(key)
        await self._access(key)
        async with self._step("KMS endpoint serves") as done:
            await _all(self._until_serving(name) for name in self.shape.node_names)
            if not await ports.until_accepting(self.shape.port, deadline=self._deadline):
                raise processes.StartFailed("the KMS port", "does not accept", self.layout.log("node-1"))
            await self._until_live()
            done(f"https://localhost:{self.shape.port}, {self.shape.nodes} nodes behind it")

    async def add(self, name: str) -> None:
        """The steps of one more node."""
        key = operator.open_key(self.layout.operator)
        run = running(self.layout.hub)
        if run is None:
            raise HubUnreachable("adding a node")
        modules = await self._make_modules()
        async with self._step(f"{name} enrolled") as done:
            await self._enroll(key, name, modules[name], f"{ports.HOST}:{run['enrol_port']}")
            done("its entry signed by the operator key")
        write_shape(self.layout, self.shape)
        await self._start_node(name)
        await self._until_heard([name])

    def _take_port(self) -> None:
        """Before anything is made; our own nodes, of a fleet that is partly up, may listen already."""
        ours = [running(self.layout.node(name)) for name in self.shape.node_names]
        if not any(run and run["kms"] for run in ours):
            port = ports.probe(self.shape.port)
            self.shape = replace(self.shape, port=port)
        write_shape(self.layout, self.shape)

    async def _operator(self) -> _core.Operator:
        if self.layout.operator.exists():
            return operator.open_key(self.layout.operator)
        async with self._step("operator key made") as done:
            key = operator.create_key(
                self.layout.operator, region=self.shape.region, account=self.shape.account
            )
            done(f"{self.layout.operator}, fleet {key.fleet.hex()}")
        return key

    async def _start_hub(self, key: _core.Operator) -> Run:
        if not hub_setup.is_set_up(self.layout.data):
            async with self._step("hub's module made") as done:
                await hub_setup.init(
                    self.layout.data,
                    operator=key,
                    fleet_listen=f"{ports.HOST}:0",
                    enrol_listen=f"{ports.HOST}:0",
                    zone="hub",
                )
                done("fleet key made in it, roster 1 signed")
        run = running(self.layout.hub)
        if run is None:
            async with self._step("hub serves") as done:
                hub = processes.start_hub(self.layout)
                self.started.append(hub)
                run = await processes.until_ready(
                    hub, lambda run: run["state"] == "ready", deadline=self._deadline
                )
                done(f"pid {run['pid']}, links on port {run['fleet_port']}")
        return {**run, "enrol_address": f"{ports.HOST}:{run['enrol_port']}"}

    async def _make_modules(self) -> dict[str, bytes]:
        """Fingerprints by name, of the nodes that are not enrolled yet."""
        fresh = [name for name in self.shape.node_names if not self._is_enrolled(name)]
        if not fresh:
            return {}
        async with self._step("nodes' modules made") as done:
            prints = [await asyncio.to_thread(node_setup.init, self.layout.data, name) for name in fresh]
            done(f"{len(fresh)}, each with an identity and a sealed vault of its own")
        return dict(zip(fresh, prints, strict=True))

    def _is_enrolled(self, name: str) -> bool:
        return Directory.of(self.layout.data, name).is_enrolled

    async def _enroll(self, key: _core.Operator, name: str, fingerprint: bytes, hub_address: str) -> None:
        """Invites, asks and approves; the invitation holds for this module alone.

        It is kept until the node is enrolled: after an interruption the node must come with the same one, for
        the hub may have approved it already.
        """
        kept = self.layout.node(name) / "invitation"
        if not kept.exists():
            replace_file(kept, (await self._invite(key, name, fingerprint, hub_address)).encode(), mode=0o600)
        invitation = kept.read_text()
        asked = asyncio.Event()
        enrolling = asyncio.create_task(
            node_setup.enroll(
                self.layout.data,
                name,
                invitation=invitation,
                fleet_listen=f"{ports.HOST}:0",
                kms_listen=f"{ports.HOST}:{self.shape.port}",
                kms_names=("localhost", ports.HOST),
                progress=lambda line: asked.set() if line.startswith("waiting") else None,
            )
        )
        waiting = asyncio.create_task(asked.wait())
        try:
            await asyncio.wait({enrolling, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not enrolling.done():
                await operator.approve(key, self._hub, name, fingerprint=fingerprint.hex())
            await enrolling
        finally:
            waiting.cancel()
            enrolling.cancel()
        kept.unlink()

    async def _invite(self, key: _core.Operator, name: str, fingerprint: bytes, hub_address: str) -> str:
        return await operator.invite(
            key,
            self._hub,
            name=name,
            zone=name.replace("node-", "zone-"),
            role="holder",
            enrol_address=hub_address,
            hours=INVITATION_HOURS,
            fingerprint=fingerprint,
        )

    async def _start_node(self, name: str) -> None:
        if running(self.layout.node(name)) is not None:
            return
        async with self._step(f"{name} serves") as done:
            node = processes.start_node(self.layout, name)
            self.started.append(node)
            run = await processes.until_ready(node, processes.is_linked, deadline=self._deadline)
            done(f"pid {run['pid']}, {run['zone']}, linked to the hub by mutual TLS")

    async def _domain(self, key: _core.Operator) -> None:
        if any(known["name"] == DOMAIN for known in (await self._hub.status())["domains"]):
            return
        async with self._step(f"domain {DOMAIN} created") as done:
            made = await operator.create_domain(
                key, self._hub, DOMAIN, threshold=self.shape.threshold, shards=self.shape.nodes
            )
            steps = ", ".join(f"{step['step']} {step['ms']:.0f} ms" for step in made.get("steps", []))
            done(f"{self.shape.threshold} of {self.shape.nodes}: {steps}")

    async def _access(self, key: _core.Operator) -> None:
        if not self.layout.ca_bundle.exists():
            credentials.write_ca_bundle(self.layout, key.tls_root)
        pair = credentials.read_credentials(self.layout)
        if pair is not None and operator.enabled(await self._hub.access(), pair[0]):
            return
        async with self._step("admin access key made") as done:
            made = await operator.create_access(key, self._hub, user="admin", role="admin")
            credentials.write_credentials(self.layout, made)
            done(f"{made.access_key_id}, kept in {self.layout.credentials}")

    async def _until_serving(self, name: str) -> None:
        for node in self.started:
            if node.name == name:
                await processes.until_ready(node, lambda run: bool(run["kms"]), deadline=self._deadline)

    async def _until_heard(self, names: list[str]) -> None:
        """Until the hub counts these nodes live: a node knows of its link before the hub has heard of the node.

        Then the hub has also taken up what its database lacked and they have shown it.
        """
        while True:
            live = {node["name"] for node in (await self._hub.status())["nodes"] if node["live"]}
            silent = [name for name in names if name not in live]
            if not silent:
                return
            if time.monotonic() > self._deadline:
                told = f"has not heard of {', '.join(silent)}"
                raise processes.StartFailed("hub", told, self.layout.log("hub"))
            await asyncio.sleep(0.02)

    async def _until_live(self) -> None:
        """Until the hub counts every holder of the domain live: then any quorum can be asked."""
        while True:
            domains = (await self._hub.status())["domains"]
            domain = next(each for each in domains if each["name"] == DOMAIN)
            if domain["live"] >= domain["shards"]:
                return
            if time.monotonic() > self._deadline:
                told = f"counts {domain['live']} of {domain['shards']} shards of {DOMAIN} live"
                raise processes.StartFailed("hub", told, self.layout.log("hub"))
            await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def _step(self, name: str) -> AsyncIterator[Callable[[str], None]]:
        """Times a step; it is told only when it succeeded."""
        begun = time.monotonic()
        detail = ""

        def done(text: str) -> None:
            nonlocal detail
            detail = text

        yield done
        self._progress(Step(name, detail, time.monotonic() - begun))


async def _both(first: Coroutine[Any, Any, S], second: Coroutine[Any, Any, T]) -> tuple[S, T]:
    async with _first_failure(), asyncio.TaskGroup() as group:
        one, two = group.create_task(first), group.create_task(second)
    return one.result(), two.result()


async def _all(jobs: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Side by side; the first failure ends the others, and is raised as it is."""
    async with _first_failure(), asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(job)


@contextlib.asynccontextmanager
async def _first_failure() -> AsyncIterator[None]:
    try:
        yield
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
