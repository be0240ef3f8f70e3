"""What this machine lacks for a fleet, each with a remedy.

Here: what is read off the machine (`Machine`), what is read off the data directory, and what is wanted of each.
Not here: the fleet's own health (`status`).
"""

import ctypes
import os
import platform
import resource
import shutil
import stat
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from quorate import _core
from quorate.errors import BadInput, QuorateError
from quorate.host.certificates import Certificates, rfc3339
from quorate.local import ports
from quorate.local.layout import Layout, read_json
from quorate.local.processes import running
from quorate.local.shape import read_shape

_LOCKED_BYTES = 2 << 20
"""A module's arena is 1 MiB; twice that leaves room for what a library locks."""
_FREE_BYTES = 256 << 20
_PLENTY_BYTES = 1 << 30
_OPEN_FILES = 1024
_YEAR_2025 = 1_735_689_600
_TIME_ERROR = 5
"""What adjtimex(2) returns while nothing keeps the clock."""

State = Literal["ok", "warning", "MISSING"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`remedy` is empty where all is well. A warning is no reason not to start; what is missing is one."""

    what: str
    state: State
    found: str
    wanted: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"state": self.state.lower(), "good": self.state != "MISSING"}


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found. Limits in bytes or numbers, None: unlimited; elsewhere None: it cannot be seen."""

    system: str
    processor: str
    python: tuple[int, int, int]
    core: str
    testing_core: bool
    locked_memory: int | None
    open_files: int | None
    core_dumps: int | None
    ptrace_scope: int | None
    random_ready: bool
    aes: bool | None
    now: float
    clock_kept: bool | None

    @staticmethod
    def here() -> "Machine":
        info = _core.build_info()
        return Machine(
            system=platform.system(),
            processor=platform.machine(),
            python=sys.version_info[:3],
            core=info["version"],
            testing_core=info["testing"],
            locked_memory=_limit(resource.RLIMIT_MEMLOCK),
            open_files=_limit(resource.RLIMIT_NOFILE),
            core_dumps=_limit(resource.RLIMIT_CORE),
            ptrace_scope=_number(Path("/proc/sys/kernel/yama/ptrace_scope")),
            random_ready=_random_ready(),
            aes=_aes(),
            now=time.time(),
            clock_kept=_clock_kept(),
        )


def examine(layout: Layout, *, port: int | None, machine: Machine | None = None) -> list[Finding]:
    """`port`: the KMS port, None for the fleet's. `machine`: what is judged, None for this one."""
    machine = machine or Machine.here()
    return [
        *judge(machine),
        _kms_port(layout, port),
        *_other_ports(layout),
        *_permissions(layout),
        _disk(layout),
        *_certificates(layout, machine.now),
    ]


def judge(machine: Machine) -> list[Finding]:
    """Pure: what is to be said of the machine itself."""
    return [
        _finding(
            "system",
            machine.system == "Linux" and machine.processor in ("x86_64", "aarch64"),
            f"{machine.system} {machine.processor}",
            "Linux x86_64 or aarch64",
            "run servers on Linux, x86-64 or aarch64",
        ),
        _finding(
            "python",
            machine.python >= (3, 11),
            ".".join(map(str, machine.python)),
            "3.11 or newer",
            "install Python 3.11 or newer",
        ),
        _finding(
            "core",
            not machine.testing_core,
            machine.core + (", a testing build" if machine.testing_core else ""),
            "a shipped build",
            "install the shipped wheel: a testing build can be made to misbehave",
        ),
        _finding(
            "locked memory",
            _reaches(machine.locked_memory, _LOCKED_BYTES),
            "unlimited" if machine.locked_memory is None else f"{machine.locked_memory >> 10} KiB",
            f"{_LOCKED_BYTES >> 10} KiB for each process",
            f"raise it: `ulimit -l {_LOCKED_BYTES >> 10}`, LimitMEMLOCK= in a systemd unit, Docker's --ulimit memlock=",
        ),
        _finding(
            "open files",
            _reaches(machine.open_files, _OPEN_FILES),
            "unlimited" if machine.open_files is None else str(machine.open_files),
            f"{_OPEN_FILES} or more",
            "raise it: `ulimit -n 4096`, LimitNOFILE= in a systemd unit",
        ),
        _finding(
            "core dumps",
            machine.core_dumps == 0,
            {None: "on", 0: "off"}.get(machine.core_dumps, f"up to {machine.core_dumps} bytes"),
            "off",
            "hub and nodes forbid their own; for the CLI, which opens the operator key: `ulimit -c 0`",
            otherwise="warning",
        ),
        _finding(
            "ptrace_scope",
            (machine.ptrace_scope or 0) >= 1,
            "no Yama" if machine.ptrace_scope is None else str(machine.ptrace_scope),
            "1 or more",
            "hub and nodes shut debuggers out; for other processes of this user: `sysctl kernel.yama.ptrace_scope=1`",
            otherwise="warning",
        ),
        _finding(
            "randomness",
            machine.random_ready,
            "ready" if machine.random_ready else "the kernel's generator is not seeded yet",
            "seeded",
            "wait, or give the machine a source (virtio-rng, rng-tools)",
        ),
        _finding(
            "AES instructions",
            machine.aes is not False,
            {True: "there", False: "none", None: "cannot be seen"}[machine.aes],
            "there",
            "encryption works, slowly: use a processor with AES instructions",
            otherwise="warning",
        ),
        *_clock(machine),
    ]


def _finding(
    what: str, good: bool, found: str, wanted: str, remedy: str, *, otherwise: State = "MISSING"
) -> Finding:
    return Finding(what, "ok" if good else otherwise, found, wanted, "" if good else remedy)


def _reaches(limit: int | None, wanted: int) -> bool:
    return limit is None or limit >= wanted


def _clock(machine: Machine) -> list[Finding]:
    told = rfc3339(machine.now)
    why = "AWS clients' signatures hold for five minutes only"
    if machine.now < _YEAR_2025:
        return [Finding("clock", "MISSING", told, "the time of day", f"set it (NTP): {why}")]
    kept = {True: "kept by NTP", False: "nothing keeps it", None: "who keeps it cannot be seen"}
    return [
        _finding(
            "clock",
            machine.clock_kept is not False,
            f"{told}, {kept[machine.clock_kept]}",
            "kept by NTP",
            f"run chrony or systemd-timesyncd: {why}",
            otherwise="warning",
        )
    ]


# --- the data directory


def _kms_port(layout: Layout, port: int | None) -> Finding:
    shape = read_shape(layout)
    wanted = port if port is not None else shape.port if shape else 4500
    ours = any((run := running(layout.node(name))) and run["kms"] for name in layout.node_names())
    if ours and shape and wanted == shape.port:
        return Finding("KMS port", "ok", f"{wanted}, this fleet listens on it", "free, or ours")
    return _port("KMS port", ports.HOST, wanted, "`quorate up --port …`")


def _other_ports(layout: Layout) -> Iterable[Finding]:
    """Of processes that do not run: where each must be able to listen again."""
    for name in ("hub", *layout.node_names()):
        directory = layout.process(name)
        if running(directory) is not None:
            continue
        settings = read_json(directory / "settings.json") or {}
        for purpose in ("fleet", "enrol"):
            host, _, port = str(settings.get(f"{purpose}_listen", "")).rpartition(":")
            if port.isdigit():
                host = host.removeprefix("[").removesuffix("]")
                yield _port(
                    f"{purpose} port of {name}", host, int(port), f"see {directory / 'settings.json'}"
                )


def _port(what: str, host: str, port: int, where: str) -> Finding:
    try:
        ports.probe(port, host=host)
    except QuorateError as why:
        return Finding(what, "MISSING", str(why), "free, or ours", f"{why.remedy}: {where}")
    return Finding(what, "ok", f"{port} is free", "free, or ours")


def _permissions(layout: Layout) -> Iterable[Finding]:
    place = _nearest(layout.data)
    yield _finding(
        "data directory",
        os.access(place, os.W_OK | os.X_OK),
        str(place),
        "writable",
        "make it yours, or point --data elsewhere",
    )
    kept = (
        layout.operator, layout.credentials, layout.logs, layout.hub, *map(layout.node, layout.node_names()),
    )  # fmt: skip
    for path in kept:
        if not path.exists():
            continue
        found = path.stat()
        if extra := stat.S_IMODE(found.st_mode) & 0o077:
            told = f"{path} is open to others ({extra:03o})"
            yield Finding("permissions", "MISSING", told, "for its owner alone", f"`chmod go= {path}`")
        if found.st_uid != os.geteuid():
            told = f"{path} belongs to user {found.st_uid}"
            remedy = f"run quorate as that user, or `chown -R {os.geteuid()} {path}`"
            yield Finding("permissions", "warning", told, f"owned by user {os.geteuid()}", remedy)


def _disk(layout: Layout) -> Finding:
    place = _nearest(layout.data)
    free = shutil.disk_usage(place).free
    return _finding(
        "disk space",
        free >= _PLENTY_BYTES,
        f"{free >> 20} MiB free",
        f"{_PLENTY_BYTES >> 20} MiB; {_FREE_BYTES >> 20} MiB at least",
        f"free some at {place}: a process whose audit log cannot be written stops",
        otherwise="warning" if free >= _FREE_BYTES else "MISSING",
    )


def _nearest(place: Path) -> Path:
    while not place.exists():
        place = place.parent
    return place


def _certificates(layout: Layout, now: float) -> Iterable[Finding]:
    for name in ("hub", *layout.node_names()):
        directory = layout.process(name)
        what = f"certificate of {name}"
        try:
            held = Certificates.of(directory).validity()
        except BadInput as why:
            if (directory / "settings.json").exists() and not (directory / "enrolment").exists():
                yield Finding(what, "MISSING", str(why), "a readable one", why.remedy)
            continue
        runs = running(directory) is not None
        renews = (
            f"see why in its log, {layout.log(name)}" if runs else "start it: it renews its certificate then"
        )
        yield _finding(
            what,
            held.begins <= now < held.due,
            f"until {rfc3339(held.ends)}" + (", expired" if now >= held.ends else ""),
            f"renewed on {rfc3339(held.due)}",
            renews,
            otherwise="warning" if held.begins <= now < held.ends else "MISSING",
        )


# --- the machine


def _limit(which: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _random_ready() -> bool:
    try:
        os.getrandom(1, os.GRND_NONBLOCK)
    except BlockingIOError:
        return False
    return True


def _aes() -> bool | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    flags = [line for line in lines if line.lower().startswith(("flags", "features"))]
    return any("aes" in line.split() for line in flags) if flags else None


def _clock_kept() -> bool | None:
    """Whether the kernel's clock is being kept, from adjtimex(2) with nothing to adjust."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))  # larger than any struct timex
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR
