"""Fleets to begin schedules with: founded and enrolled once, copied for each schedule.

Here: a directory with the vaults of a hub and seven nodes, and the charters that the operator signed.
Not here: what happens to a copy (`world`).
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quorate import _core

from .core import clock as new_clock
from .core import create_module

NODES = 7
DOMAIN = "default"
WALL = 1_790_000_000
"""Unix seconds when a schedule begins."""


@dataclass(frozen=True, slots=True)
class Founded:
    """`charters`: by the floor of the threshold."""

    path: Path
    charters: dict[int, bytes]
    info: bytes


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory, where there is such a place."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="quorate-simulation-", dir=memory if memory.is_dir() else None))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def names() -> list[str]:
    return [f"node-{n}" for n in range(1, NODES + 1)]


def found(path: Path) -> Founded:
    """A hub and its nodes, enrolled; the charters are known to nobody yet."""
    clock = new_clock()
    operator = _core.Operator.create(path / "operator", region="r", account="000000000000", not_before=WALL)
    template = path / "template"
    template.mkdir()
    hub = create_module(template / "hub", "hub", clock, 1)
    hub.pin(operator.fleet_info, operator.public_key)
    entry, _ = operator.approve_entry(
        hub.enrol_request_hub(zone="z0", address="127.0.0.1:1"), not_before=WALL
    )
    hub.found_fleet(entry)
    modules: list[_core.Module] = []
    for n, name in enumerate(names(), start=1):
        module = create_module(template / name, name, clock, 1 + n)
        token, invitation = operator.invite(
            name=name, role="holder", zone=f"z{n % 3}", enrol_address="127.0.0.1:2", expires=WALL + 3600
        )
        request = module.enrol_request(invitation, address="127.0.0.1:3")
        hub.check_enrolment(request, token, now=WALL)
        entry, _ = operator.approve_entry(request, not_before=WALL)
        hub.admit(entry)
        modules.append(module)
    roster = hub.roster()
    assert roster is not None
    for name, module in zip(names(), modules, strict=True):
        module.install_roster(roster)
        module.accept_rekey(hub.rekey_for(name))
    charters = {floor: _charter(operator, floor) for floor in (2, 3, 4)}
    for module in (hub, *modules):
        module.close()
    return Founded(template, charters, operator.fleet_info)


def _charter(operator: _core.Operator, floor: int) -> bytes:
    return operator.charter(
        domain=DOMAIN,
        allowed=[(name, "holder") for name in names()],
        threshold_floor=floor,
        mode="reconstruct",
        dealer="hub",
        uses_per_epoch=1_000_000,
        rate_per_second=100_000,
        burst=100_000,
        lease_seconds=30,
        lease_uses=10,
    )
