"""A fleet of real processes, as its users meet it: the CLI, boto3, and signals.

Here: running commands, waiting for what comes (with a deadline, by looking again), killing and starting nodes.
Not here: anything that reaches into a process.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

T = TypeVar("T")

ONCE = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5)
"""No retries: what the service answers is what the test sees."""


def until(look: Callable[[], T | None], seconds: float = 15.0, *, what: str = "the condition") -> T:
    """What `look` finds as soon as it is truthy; looks again every 20 ms, fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come within {seconds} s")
        select.select([], [], [], 0.02)


def code_of(failure: pytest.ExceptionInfo[ClientError]) -> str:
    return str(failure.value.response["Error"]["Code"])


class Cli:
    """`quorate … --data DIR` in a process of its own."""

    def __init__(self, data: Path, env: dict[str, str] | None = None) -> None:
        self.data = data
        self.env = os.environ | (env or {})

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "quorate", *words, "--data", str(self.data)]
        return subprocess.Popen(
            command, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def __call__(self, *words: str, fails: int = 0) -> subprocess.CompletedProcess[str]:
        """Runs to its end, which must have the exit code `fails`."""
        process = self.start(*words)
        out, err = process.communicate(timeout=60)
        assert process.returncode == fails, f"quorate {' '.join(words)}: {process.returncode}\n{out}{err}"
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def works(self, *words: str) -> bool:
        """Runs to its end; whether it succeeded."""
        process = self.start(*words)
        process.communicate(timeout=60)
        return process.returncode == 0

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json").stdout)


class Fleet:
    """What `quorate up` made in a directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.cli = Cli(data)

    def up(self, *options: str) -> "Fleet":
        self.cli("up", "--detach", "--port", "0", *options)
        return self

    def down(self) -> None:
        """Stops everything, however the test ended."""
        self.cli.start("down", "--purge", "--yes").communicate(timeout=60)
        for run in self.data.glob("**/run.json"):
            try:
                os.kill(json.loads(run.read_text())["pid"], signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                continue

    @cached_property
    def env(self) -> dict[str, str]:
        """Exactly the variables of `quorate env`."""
        lines = self.cli("env").stdout.splitlines()
        pairs = [line.removeprefix("export ").split("=", 1) for line in lines]
        return {name: value.strip("'") for name, value in pairs}

    def client(self, service: str = "kms", **options: Any) -> Any:
        """An unmodified boto3 client, told nothing but those variables."""
        env = self.env
        return boto3.Session(
            aws_access_key_id=options.pop("key", env["AWS_ACCESS_KEY_ID"]),
            aws_secret_access_key=options.pop("secret", env["AWS_SECRET_ACCESS_KEY"]),
            region_name=env["AWS_DEFAULT_REGION"],
        ).client(
            service,
            endpoint_url=options.pop("url", env[f"AWS_ENDPOINT_URL_{service.upper()}"]),
            verify=env["AWS_CA_BUNDLE"],
            config=options.pop("config", ONCE),
            **options,
        )

    # Processes.

    def run_of(self, name: str) -> dict[str, Any]:
        where = self.data / "hub" if name == "hub" else self.data / "nodes" / name
        found: dict[str, Any] = json.loads((where / "run.json").read_text())
        return found

    def kill(self, name: str) -> None:
        """SIGKILL; returns when the process is gone."""
        pid = self.run_of(name)["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: not _runs(pid), what=f"the end of {name}")

    def pause(self, name: str) -> None:
        os.kill(self.run_of(name)["pid"], signal.SIGSTOP)

    def start(self, name: str, **environment: str) -> None:
        """`environment` is added to the node's."""
        Cli(self.data, environment)("node", "start", name)

    # The hub's view.

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cli.json("status")
        return found

    def until_live(self, count: int, domain: str = "default") -> None:
        def look() -> bool:
            return any(d["name"] == domain and d["live"] == count for d in self.status()["domains"])

        until(look, what=f"{count} live holders")

    def lock(self, domain: str = "default") -> dict[str, Any]:
        found: dict[str, Any] = self.cli.json("domain", "lock", domain)
        return found

    def sessions(self, limit: int = 20) -> list[dict[str, Any]]:
        command = ["GET", f"/v1/sessions?limit={limit}"]
        found: list[dict[str, Any]] = ask_hub(self.data / "hub/admin.sock", *command)
        return found


def ask_hub(path: Path, method: str, target: str) -> Any:
    """One request of the admin API, by hand."""
    import http.client
    import socket

    connection = http.client.HTTPConnection("hub")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(path))
    try:
        connection.request(method, target)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def _runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
