"""The core's bindings for the simulator (`core/src/python_testing.rs`), typed.

Here: names and types. Not here: anything that does something; a build without the `testing` feature has none of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from quorate import _core


class Clock(Protocol):
    def advance(self, seconds: float) -> None: ...


class Medium(Protocol):
    """A machine's disk: what its vault held at first, and all that was written since."""

    def copy(self) -> "Medium": ...


class Disk(Protocol):
    """`arm`: at the nth write, resize or sync from now on; `crash`: now. `becomes`: lost, kept or torn (by `seed`).
    `lie`: syncs write nothing from now on.
    """

    def lie(self) -> None: ...
    def arm(self, nth: int, fault: str, becomes: str, seed: int) -> None: ...
    def crash(self, becomes: str, seed: int) -> None: ...


class Thief(Protocol):
    """Signs as a module whose vault was stolen."""

    def prepared(self, configuration: bytes, index: int) -> bytes: ...
    def activated(self, configuration: bytes, index: int) -> bytes: ...
    def erased(self, configuration: bytes) -> bytes: ...
    def complaint(self, configuration: bytes, dealing: bytes, index: int) -> bytes: ...
    def opening(self, complaint: bytes) -> bytes: ...
    def dealing(
        self,
        dealing: bytes,
        sealed: Sequence[bytes],
        commitments_of: bytes | None = None,
    ) -> bytes: ...
    def deal_afresh(
        self, dealing: bytes, plan: bytes, plan_keys: Sequence[bytes], seed: int
    ) -> tuple[bytes, list[bytes]]: ...


_testing: Any = _core


def clock() -> Clock:
    made: Clock = _testing.VirtualClock()
    return made


def medium(path: Path) -> Medium:
    """That of the vault in `path`, which stays as it is."""
    made: Medium = _testing.Medium(path)
    return made


def disk(medium: Medium) -> Disk:
    made: Disk = _testing.FaultyDisk(medium)
    return made


def thief(medium: Medium) -> Thief:
    made: Thief = _testing.Thief(medium)
    return made


def use_stand_in() -> None:
    """Has this process compute without curves, once and for all: before the first module."""
    _testing.use_stand_in()


def create_module(path: Path, name: str, time: Clock, seed: int) -> _core.Module:
    made: _core.Module = _testing.create_module(path, name, time, seed)
    return made


def open_module(medium: Medium, time: Clock, on: Disk, seed: int) -> _core.Module:
    made: _core.Module = _testing.open_module(medium, time, on, seed)
    return made


def durable_shards(medium: Medium) -> list[dict[str, Any]]:
    """What a crash that loses every unsynced write would leave: `domain`, `epoch`, `state`, `index`, `threshold`,
    `configuration` (hash), `constant` (commitment to the key), `valid` against the epoch's commitments.
    """
    found: list[dict[str, Any]] = _testing.durable_shards(medium)
    return found


def settled_shards(module: _core.Module, disk: Disk) -> list[dict[str, Any]] | None:
    """The same of a module that is open; None while something that it wrote may yet be lost."""
    found: list[dict[str, Any]] | None = _testing.settled_shards(module, disk)
    return found


def make_mistake(name: str) -> None:
    """Lets every module of this process make a mistake; "" for none."""
    _testing.make_mistake(name)


def durable_key(media: Sequence[Medium], domain: str, epoch: int) -> bytes:
    """A hash of the key that the durable shards of an epoch combine to."""
    made: bytes = _testing.durable_key(list(media), domain, epoch)
    return made
