"""The processes of one data directory: which run, starting one, waiting until it is ready, stopping them.

Here: `run.json` and /proc, signals, deadlines, and the tail of a log when a start fails.
Not here: what a process does. A process is believed to be the one in `run.json` only when it runs `quorate …
serve` and is older than the file, so that a number used again by a stranger is never signalled.
"""

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quorate.errors import BadInput, QuorateError
from quorate.host import formats, run_state
from quorate.local.layout import Layout, read_json
from quorate.local.shape import read_shape

Run = dict[str, Any]
"""What `run.json` of a hub or a node holds."""

_TICKS = os.sysconf("SC_CLK_TCK")
READY_SECONDS = 60.0

_LOOK_AGAIN = 0.02
_TAIL_LINES = 12


class StartFailed(QuorateError):
    """A process ended, or was not ready in time."""

    code = "start_failed"

    def __init__(self, name: str, what: str, log: Path) -> None:
        tail = log_tail(log)
        super().__init__(
            f"{name} {what}",
            kept="the data directory is as the last finished step left it; `quorate up` goes on from there",
            remedy=f"mend what the end of {log} tells:\n{tail}"
            if tail
            else f"nothing is in {log}; try again",
        )
        self.name = name


def log_tail(log: Path) -> str:
    """The last lines of a log, indented; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join("    " + line for line in lines[-_TAIL_LINES:])


# --- which run


def running(directory: Path) -> Run | None:
    """`run.json` of a hub's or node's directory, if the process that wrote it is alive."""
    run = _read_run(directory)
    if run is None:
        return None
    try:
        written = (directory / "run.json").stat().st_mtime
    except FileNotFoundError:
        return None
    return run if _is_ours(run["pid"], written) else None


def _read_run(directory: Path) -> Run | None:
    """None also for a file that a power failure left empty: no process of before that is alive."""
    path = directory / "run.json"
    try:
        run = read_json(path)
    except BadInput:
        return None
    if run is None:
        return None
    formats.check(path, run.get("format", run_state.FORMAT), run_state.FORMAT)
    return run if isinstance(run.get("pid"), int) else None


def _is_ours(pid: int, written: float) -> bool:
    """Whether `pid` is a `quorate … serve` that was started before `written` (Unix seconds)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    fields = stat.rpartition(")")[2].split()
    state, ticks = fields[0], int(fields[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / _TICKS
    return state not in "ZX" and b"serve" in words and age > time.time() - written - 1.0


# --- starting


@dataclass(frozen=True, slots=True)
class Started:
    """A process that this one started."""

    name: str
    directory: Path
    log: Path
    process: subprocess.Popen[bytes]


def start_hub(layout: Layout) -> Started:
    return _start(layout, "hub", layout.hub, ["hub", "serve"], {})


def start_node(layout: Layout, name: str, *, environment: Mapping[str, str] | None = None) -> Started:
    """`environment` is added to this process's own."""
    return _start(layout, name, layout.node(name), ["node", "serve", name], environment or {})


def _start(
    layout: Layout, name: str, directory: Path, words: list[str], environment: Mapping[str, str]
) -> Started:
    layout.logs.mkdir(mode=0o700, exist_ok=True)
    log = layout.log(name)
    command = [sys.executable, "-P", "-m", "quorate", *words, "--data", str(layout.data), "--log", str(log)]
    if shape := read_shape(layout):
        command += ["--log-format", shape.log_format, "--log-level", shape.log_level]
    with log.open("ab") as end:
        process = subprocess.Popen(  # noqa: S603 (our own command)
            command,
            stdin=subprocess.DEVNULL,
            stdout=end,
            stderr=end,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C reaches `up` alone, which stops the rest in order
        )
    return Started(name, directory, log, process)


async def until_ready(started: Started, ready: Callable[[Run], bool], *, deadline: float) -> Run:
    """Waits until `run.json` says so; `deadline` on the monotonic clock. Raises `StartFailed`."""
    run: Run | None = None
    while True:
        ended = started.process.poll()
        if ended is not None:
            how = f"by signal {-ended}" if ended < 0 else f"with status {ended}"
            raise StartFailed(started.name, f"ended {how} before it was ready", started.log)
        run = _read_run(started.directory)
        if run is not None and run["pid"] == started.process.pid and ready(run):
            return run
        if time.monotonic() > deadline:
            state = run.get("state") if run else None
            raise StartFailed(
                started.name, f"was not ready in time (state: {state or 'none yet'})", started.log
            )
        await asyncio.sleep(_LOOK_AGAIN)


# --- stopping


def stop(directories: Sequence[Path], *, grace: float = 10.0) -> list[Path]:
    """SIGTERM to all, SIGKILL to those still there after `grace` seconds; returns the ones killed so.

    What does not run is left as it is. Returns when all are gone.
    """
    with contextlib.ExitStack() as opened:
        handles: dict[int, Path] = {}
        for directory in directories:
            run = running(directory)
            handle = _handle(run["pid"]) if run else None
            if handle is None:
                continue
            opened.callback(os.close, handle)
            if running(directory) is not None:  # looked at again: the handle now names that very process
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                handles[handle] = directory
        late = _gone(handles, grace)
        for handle in late:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        _gone(late, grace)
        return list(late.values())


def kill(directory: Path) -> int:
    """SIGKILL, without a chance to tidy up; returns when it is gone. Raises `QuorateError` when none runs."""
    run = running(directory)
    handle = _handle(run["pid"]) if run else None
    if run is None or handle is None:
        raise QuorateError(
            f"{directory.name} does not run", kept="nothing was done", remedy="see `quorate status`"
        )
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        _gone({handle: directory}, 10.0)
    finally:
        os.close(handle)
    return int(run["pid"])


def _handle(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _gone(handles: Mapping[int, Path], seconds: float) -> dict[int, Path]:
    """Waits until the processes ended; those that did not in time."""
    left = dict(handles)
    poller = select.poll()
    for handle in left:
        poller.register(handle, select.POLLIN)
    deadline = time.monotonic() + seconds
    while left and (remaining := deadline - time.monotonic()) > 0:
        for handle, _ in poller.poll(remaining * 1000):
            poller.unregister(handle)
            del left[handle]
    return left


# --- the whole directory


@contextlib.contextmanager
def only_one(layout: Layout) -> Iterator[None]:
    """Holds the data directory against a second `up` or `down` at the same time. Raises `BadInput`."""
    with (layout.data / "up.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as why:
            raise BadInput(
                f"another `quorate up` or `down` works on {layout.data}", remedy="wait until it is done"
            ) from why
        yield


def is_linked(run: Run) -> bool:
    """Whether a node's `run.json` says that its link to the hub is up."""
    return bool(run["hub"])


async def start_one(layout: Layout, name: str, environment: Mapping[str, str] | None = None) -> Run:
    """Starts a node that is down; returns when it is linked to the hub, or serves without one."""
    node = start_node(layout, name, environment=environment)
    hub_lives = running(layout.hub) is not None
    return await until_ready(
        node,
        lambda run: run["state"] != "starting" and (is_linked(run) or not hub_lives),
        deadline=time.monotonic() + READY_SECONDS,
    )


def stop_all(layout: Layout, names: list[str] | None = None, *, grace: float = 10.0) -> list[str]:
    """Stops these (all without `names`), nodes before the hub; returns the ones that had to be killed."""
    wanted = [*layout.node_names(), "hub"] if names is None else names
    killed = stop([layout.node(name) for name in wanted if name != "hub"], grace=grace)
    if "hub" in wanted:
        killed += stop([layout.hub], grace=grace)
    return [directory.name for directory in killed]
