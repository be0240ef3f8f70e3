"""A small fleet in a directory that can be put back: three nodes of which two are needed, and a fourth without shards.

Here: founding it, copies of its directory while nothing runs, its processes, with strace or without, what the hub
and the nodes say.
Not here: what is done with it (`operations`), whether that is as it should be (`attempt`).
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config

from quorate import _core
from quorate.client import AdminClient, HubRefused
from quorate.errors import HubUnreachable
from quorate.local import operator
from quorate.local.layout import Layout

T = TypeVar("T")

NODES = ("node-1", "node-2", "node-3")
"""The members of the domain `default`, 2 of 3; the first two deal."""
SPARE = "node-4"
CONTEXT = {"made": "before"}
PATIENCE = 10.0
"""Seconds within which everything must be well again."""
_START = 30.0


class Stuck(Exception):
    """Something did not come about in time."""


class Lost(Exception):
    """Something that was there, or was said to be there, is not."""


async def until(look: Callable[[], Awaitable[T | None]], seconds: float, what: str) -> T:
    """What `look` finds; raises `Stuck` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if found := await look():
            return found
        if time.monotonic() > deadline:
            raise Stuck(f"{what} did not come within {seconds:.0f} s")
        await asyncio.sleep(0.03)


@dataclass
class Process:
    """A process and what it was started with; with strace before it, the group has both."""

    popen: subprocess.Popen[bytes]
    traced: bool = False


@dataclass
class Fleet:
    """`where` holds the directory that runs (`run`) and its prepared copies. Ports are the same in all of them."""

    where: Path
    processes: dict[str, Process] = field(default_factory=dict)
    tracer: subprocess.Popen[bytes] | None = None
    trace: tuple[str, list[str]] | None = None
    """The role that strace is to start with its process, and the words before its command."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What the prepared copies hold: a ciphertext, and how to ask for its plaintext."""

    @property
    def layout(self) -> Layout:
        return Layout.at(self.where / "run")

    @property
    def hub(self) -> AdminClient:
        return AdminClient(self.layout.admin_socket)

    def directory(self, role: str) -> Path:
        return self.layout.hub if role == "hub" else self.layout.node(role)

    # Prepared copies.

    async def found(self) -> None:
        """Makes the fleet, and the copies that operations begin with."""
        self.cli("up", "--detach", "--port", "0", "--nodes", "3", "--threshold", "2")
        self.cli("node", "add")
        lines = self.cli("env").splitlines()
        env = dict(line.removeprefix("export ").split("=", 1) for line in lines)
        self.kept["env"] = {name: value.strip("'") for name, value in env.items()}
        kms = self.kms()
        self.kept["key"] = kms.create_key()["KeyMetadata"]["KeyId"]
        self.kept["blob"] = self.encrypt(self.kept["key"])
        self.cli("down")
        self.keep("settled")
        await self.start_all("hub", "node-1", "node-2")
        await self.refresh()
        await self.stop_all()
        self.keep("late")
        self.put_back("settled")
        self.cli("node", "init", "node-5")
        self.keep("invited")

    def keep(self, name: str) -> None:
        shutil.copytree(self.layout.data, self.where / name)

    def put_back(self, name: str) -> None:
        shutil.rmtree(self.layout.data, ignore_errors=True)
        shutil.copytree(self.where / name, self.layout.data)

    # Processes.

    def command(self, role: str, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "quorate", *words, "--data", str(self.layout.data)]

    def cli(self, *words: str) -> str:
        made = subprocess.run(self.command("", *words), capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise Stuck(f"quorate {' '.join(words)} failed: {made.stderr}")
        return made.stdout

    def spawn(self, role: str, *words: str) -> Process:
        """A process of a role, under strace if it is the one to be traced and nothing was traced yet."""
        traced = self.trace is not None and self.trace[0] == role and self.tracer is None
        before = self.trace[1] if traced and self.trace is not None else []
        self.layout.logs.mkdir(exist_ok=True)
        with self.layout.log(role).open("ab") as log:
            popen = subprocess.Popen(
                [*before, *self.command(role, *words)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if traced:
            self.tracer = popen
        self.processes[role] = Process(popen, traced)
        return self.processes[role]

    async def start(self, role: str) -> None:
        """Returns when it is ready; raises `Stuck` when it ends before, or does not come."""
        words = ("hub", "serve") if role == "hub" else ("node", "serve", role)
        before = self.run_of(role).get("pid")
        process = self.spawn(role, *words)

        async def ready() -> bool:
            run = self.run_of(role)
            if process.popen.poll() is not None:
                raise Stuck(f"{role} ended with {process.popen.returncode} before it was ready")
            mine = run.get("pid") not in (None, before) or run.get("pid") == process.popen.pid
            return mine and run["state"] == "ready" and (role == "hub" or bool(run["hub"]))

        await until(ready, _START, f"the start of {role}")

    async def start_all(self, *roles: str) -> None:
        await asyncio.gather(*map(self.start, roles))
        nodes = [role for role in roles if role != "hub"]

        async def heard() -> bool:
            status = await self.hub.status()
            return {node["name"] for node in status["nodes"] if node["live"]} >= {*nodes}

        await until(heard, _START, "the hub's word of its nodes")

    async def attach(self, role: str, strace: list[str]) -> None:
        """Puts strace on a process that runs; returns when it is there."""
        process = self.processes[role].popen
        self.tracer = subprocess.Popen(  # noqa: ASYNC220 (it returns at once)
            [*strace, "-p", str(process.pid)], stderr=subprocess.PIPE, start_new_session=True
        )
        assert self.tracer.stderr is not None
        line = await asyncio.to_thread(self.tracer.stderr.readline)
        if b"attached" not in line:
            raise Stuck(f"strace: {line.decode()}")

    def was_killed(self, role: str) -> bool:
        """By strace, whose own end is like that of what it started."""
        process = self.processes.get(role)
        code = None if process is None else process.popen.poll()
        return code in (-signal.SIGKILL, -signal.SIGUSR1)

    async def detach(self) -> None:
        """Ends strace; the process goes on."""
        if self.tracer is None:
            return
        if self.tracer.poll() is None:
            self.tracer.send_signal(signal.SIGTERM)
            await asyncio.to_thread(self.tracer.wait)
        if self.tracer.stderr is not None:
            self.tracer.stderr.close()

    def kill(self, role: str) -> None:
        process = self.processes.pop(role).popen
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    async def stop_all(self) -> None:
        """In order, so that a copy of the directory is one of a fleet at rest."""
        for roles in ([role for role in self.processes if role != "hub"], ["hub"]):
            for role in roles:
                self.processes[role].popen.send_signal(signal.SIGTERM)
            for role in roles:
                await asyncio.to_thread(self.processes.pop(role).popen.wait)

    def kill_all(self) -> None:
        for role in list(self.processes):
            self.kill(role)
        if self.tracer is not None:
            self.tracer.kill()
            self.tracer.wait()
            if self.tracer.stderr is not None:
                self.tracer.stderr.close()
        self.tracer = self.trace = None

    def run_of(self, role: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.directory(role) / "run.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found

    # What is asked of it.

    def kms(self) -> Any:
        env = self.kept["env"]
        if "kms" not in self.kept:
            self.kept["kms"] = boto3.Session(
                aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
                region_name=env["AWS_DEFAULT_REGION"],
            ).client(
                "kms",
                endpoint_url=env["AWS_ENDPOINT_URL_KMS"],
                verify=env["AWS_CA_BUNDLE"],
                config=Config(retries={"total_max_attempts": 8}, connect_timeout=2, read_timeout=5),
            )
        return self.kept["kms"]

    def create_key(self, domain: str) -> str:
        made = self.kms().create_key(Tags=[{"TagKey": "quorate:domain", "TagValue": domain}])
        return str(made["KeyMetadata"]["KeyId"])

    def encrypt(self, key: str) -> bytes:
        made = self.kms().encrypt(KeyId=key, Plaintext=b"kept", EncryptionContext=CONTEXT)
        blob: bytes = made["CiphertextBlob"]
        return blob

    def opens(self, blob: bytes) -> None:
        """Raises `Lost` where it does not decrypt."""
        try:
            found = self.kms().decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"]
        except Exception as why:
            raise Lost(f"a ciphertext does not open: {why}") from why
        if found != b"kept":
            raise Lost("a ciphertext opens to something else")

    @property
    def enrol_address(self) -> str:
        found = json.loads((self.layout.hub / "settings.json").read_text())
        return str(found["enrol_listen"])

    @property
    def kms_address(self) -> str:
        found = json.loads((self.layout.node("node-1") / "settings.json").read_text())
        return str(found["kms_listen"])

    def operator(self) -> _core.Operator:
        return operator.open_key(self.layout.operator)

    async def domain(self, name: str = "default") -> dict[str, Any] | None:
        try:
            status = await self.hub.status()
        except (HubUnreachable, HubRefused):
            return None
        return next((d for d in status["domains"] if d["name"] == name and d["state"] != "creating"), None)

    async def refresh(self, name: str = "default") -> int:
        return int((await self.hub.refresh(name))["epoch"])

    async def is_settled(self, name: str = "default") -> dict[str, Any] | None:
        """The domain, if every member holds the current epoch, nothing of an earlier one is left, and all say so."""
        domain = await self.domain(name)
        if domain is None or domain["change"] or domain["waits_for"] or domain["lagging"]:
            return None
        if domain["earlier"] or domain["erasure_debt"] or domain["live"] != domain["shards"]:
            return None
        for member in domain["members"]:
            said = self.run_of(member["node"]).get("domains", [])
            if {d["epoch"] for d in said if d["name"] == name} != {domain["epoch"]}:
                return None
        return domain
