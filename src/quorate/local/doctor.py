"""What this machine lacks for a fleet, each with a remedy.

Here: limits, interpreter, ports, permissions, disk, clock. Not here: the fleet's own health (`status`).
"""

import os
import platform
import resource
import shutil
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from quorate import _core
from quorate.errors import QuorateError
from quorate.local import ports
from quorate.local.layout import Layout
from quorate.local.processes import running
from quorate.local.shape import read_shape

_LOCKED_BYTES = 2 << 20
"""A module's arena is 1 MiB; twice that leaves room for what a library locks."""
_FREE_BYTES = 256 << 20
_YEAR_2025 = 1_735_689_600


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    good: bool
    found: str
    remedy: str


def examine(layout: Layout, *, port: int | None) -> list[Finding]:
    return [
        _system(),
        _python(),
        _core_build(),
        _locked_memory(),
        _open_files(),
        _port(layout, port),
        *_permissions(layout),
        _disk(layout),
        _clock(),
    ]


def _system() -> Finding:
    machine, system = platform.machine(), platform.system()
    good = system == "Linux" and machine in ("x86_64", "aarch64")
    return Finding("system", good, f"{system} {machine}", "run servers on Linux, x86-64 or aarch64")


def _python() -> Finding:
    found = platform.python_version()
    return Finding("python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer")


def _core_build() -> Finding:
    info = _core.build_info()
    good = not info["testing"]
    found = f"core {info['version']}" + ("" if good else ", a testing build")
    return Finding("core", good, found, "install the shipped wheel: a testing build can be made to misbehave")


def _locked_memory() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    good = soft == resource.RLIM_INFINITY or soft >= _LOCKED_BYTES
    found = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft >> 10} KiB"
    return Finding(
        "locked memory",
        good,
        found,
        f"raise it: `ulimit -l {_LOCKED_BYTES >> 10}`, LimitMEMLOCK= in a systemd unit, --ulimit memlock=… in Docker",
    )


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Finding("open files", soft >= 1024, str(soft), "raise it: `ulimit -n 4096`")


def _port(layout: Layout, port: int | None) -> Finding:
    shape = read_shape(layout)
    wanted = port if port is not None else shape.port if shape else 4500
    ours = any((run := running(layout.node(name))) and run["kms"] for name in layout.node_names())
    if ours and shape and wanted == shape.port:
        return Finding("KMS port", True, f"{wanted}, this fleet listens on it", "")
    try:
        ports.probe(wanted)
    except QuorateError as why:
        return Finding("KMS port", False, str(why), f"{why.remedy}: `quorate up --port …`")
    return Finding("KMS port", True, f"{wanted} is free", "")


def _permissions(layout: Layout) -> list[Finding]:
    place = layout.data
    while not place.exists():
        place = place.parent
    writable = os.access(place, os.W_OK | os.X_OK)
    found = [Finding("data directory", writable, str(place), "make it yours, or point --data elsewhere")]
    for path in (layout.operator, layout.credentials, layout.hub, *map(layout.node, layout.node_names())):
        if path.exists() and (extra := stat.S_IMODE(path.stat().st_mode) & 0o077):
            remedy = f"`chmod go= {path}`"
            found.append(Finding("permissions", False, f"{path} is open to others ({extra:03o})", remedy))
    return found


def _disk(layout: Layout) -> Finding:
    place: Path = layout.data
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return Finding("disk space", free >= _FREE_BYTES, f"{free >> 20} MiB free", f"free some at {place}")


def _clock() -> Finding:
    now = time.time()
    told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    remedy = "set it (NTP): AWS clients' signatures hold for five minutes only"
    return Finding("clock", now > _YEAR_2025, told, remedy)
