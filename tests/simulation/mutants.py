"""Mistakes on purpose, one at a time: a simulator that finds none of them would find nothing.

Here: what is changed, in the core (`core/src/module/inspect.rs`), on disks, in the hub's machines. Not here: the
schedules that must find it (`schedule`).
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from quorate.hub import disputes as hub_disputes
from quorate.hub import epochs as hub_epochs
from quorate.hub import settling as hub_settling
from quorate.protocol import dispute, epoch_change, epoch_settling

from . import core, storage
from .__main__ import SETTINGS
from .founding import found, scratch
from .schedule import OPEN, run

Mutant = Callable[[], Any]


@contextmanager
def _mistake(name: str) -> Iterator[None]:
    core.make_mistake(name)
    try:
        yield
    finally:
        core.make_mistake("")


@contextmanager
def _lying_disks() -> Iterator[None]:
    def lying(medium: core.Medium) -> core.Disk:
        disk = real(medium)
        disk.lie()
        return disk

    real = core.disk
    with mock.patch.object(core, "disk", lying):
        yield


def _in(of: object, name: str, instead: object) -> Mutant:
    return lambda: mock.patch.object(of, name, instead)


async def _nothing(*_arguments: object, **_names: object) -> None:
    pass


def _one_is_enough(attempt: epoch_change.Attempt) -> bool:
    return len(attempt.receipts) >= 1


@contextmanager
def _both(one: Any, other: Any) -> Iterator[None]:
    with one, other:
        yield


def _enough_less_one(attempt: epoch_change.Attempt) -> bool:
    return len(attempt.receipts) >= attempt.plan.needed - 1


def _certificate_of_one(settling: epoch_settling.Settling) -> tuple[bytes, ...]:
    return tuple(settling.receipts.values())


def _no_commit_for_one_back(
    settling: epoch_settling.Settling, event: epoch_settling.Event, now: float
) -> epoch_settling.Step:
    step = _handle(settling, event, now)
    if isinstance(event, epoch_settling.NodeUp):
        return epoch_settling.Step(step.state)
    return step


_handle = epoch_settling.Settling.handle


async def _make_with_burnt_number(epochs: hub_epochs.Epochs, order: hub_epochs.Order) -> object:
    before = epochs._burnt.get(order.domain.value, 0)
    try:
        return await _make(epochs, order)
    except hub_epochs.EpochAborted:
        epochs._burnt[order.domain.value] = before
        raise


_make = hub_epochs.Epochs.make


async def _commit_before_durable(
    epochs: hub_epochs.Epochs, running: Any, persist: epoch_change.Persist
) -> None:
    """The commit is told before it is written: a crash in between forgets it."""
    if persist.phase is epoch_change.Phase.COMMITTED:
        configuration, receipts = running.attempt.dealt.configuration, list(persist.receipts)
        for node in running.attempt.plan.members:
            epochs._post(node, "epoch/commit", configuration, receipts, list(running.attempt.dealt.dealings))
        await asyncio.sleep(1.0)
    await _persist(epochs, running, persist)


_persist = hub_epochs.Epochs._persist


async def _believe(
    _disputes: hub_disputes.Disputes, _configuration: bytes, case: dispute.Case, opening: bytes
) -> dispute.Judged:
    verdict = dispute.Verdict(case.dealer, "wrong_sub_share", proven=True)
    return dispute.Judged(case.hash, verdict, opening)


def _ask_at_once(attempt: epoch_change.Attempt, case: dispute.Case, now: float) -> epoch_change.Step:
    """What was dealt is opened while the attempt may yet be taken up again."""
    step = _complained(attempt, case, now)
    return epoch_change.Step(step.state, step.do[1:])


_complained = epoch_change.Attempt._complained

ALSO = {
    "a module erases on one receipt, the hub asks on one": frozenset({"liars"}),
    "a module erases the old share at the commit": frozenset({"liars"}),
    "a module burns numbers in memory only": frozenset({"evil"}),
    "the hub believes an unproven complaint": frozenset({"accusers"}),
    "the hub has sub-shares opened before it has aborted": frozenset({"accusers"}),
}
"""What must happen for a mistake to matter, and does not in every schedule."""

MUTANTS: dict[str, Mutant] = {
    "a module signs `prepared` before its share is stored": lambda: _mistake("receipt-unstored"),
    "a module believes a certificate of one receipt, the hub commits one short": lambda: _both(
        _mistake("few-receipts"),
        mock.patch.object(epoch_change.Attempt, "is_enough", property(_one_is_enough)),
    ),
    "a module erases on one receipt, the hub asks on one": lambda: _both(
        _mistake("erase-early"),
        mock.patch.object(epoch_settling.Settling, "certificate", property(_certificate_of_one)),
    ),
    "a module erases the old share at the commit": lambda: _mistake("erase-at-commit"),
    "a module burns numbers in memory only": lambda: _mistake("burn-in-memory"),
    "a module makes an epoch current in memory only": lambda: _mistake("current-in-memory"),
    "disks acknowledge before they have written": _lying_disks,
    "the hub commits on one receipt too few": _in(
        epoch_change.Attempt, "is_enough", property(_enough_less_one)
    ),
    "the hub asks for erasure on one receipt": _in(
        epoch_settling.Settling, "certificate", property(_certificate_of_one)
    ),
    "the hub tells of a commit before it is durable": _in(
        hub_epochs.Epochs, "_persist", _commit_before_durable
    ),
    "the hub uses a burnt number again": _in(hub_epochs.Epochs, "make", _make_with_burnt_number),
    "the hub does not repeat a commit to one that comes back": _in(
        epoch_settling.Settling, "handle", _no_commit_for_one_back
    ),
    "the hub leads no node on that missed epochs": lambda: _both(
        mock.patch.object(hub_settling.Settlings, "_lead_on", return_value=None),
        mock.patch.object(hub_settling.Settlings, "introduce", _nothing),
    ),
    "the hub believes an unproven complaint": _in(hub_disputes.Disputes, "judge", _believe),
    "the hub has sub-shares opened before it has aborted": _in(
        epoch_change.Attempt, "_complained", _ask_at_once
    ),
    "the hub forgets what was erased": _in(storage.Database, "put_erasure", _nothing),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants")
    parser.add_argument("--schedules", type=int, default=200, help="tried for each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="those whose names have this in them")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in SETTINGS.items()):
        command = [sys.executable, "-m", "tests.simulation.mutants", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | SETTINGS)
    mutants = {name: mutant for name, mutant in MUTANTS.items() if arguments.only in name}
    killed = 0
    with scratch() as path:
        founded = found(path)
        for name, mutant in mutants.items():
            why = "survives"
            for seed in range(arguments.seed, arguments.seed + arguments.schedules):
                also = ALSO.get(name, frozenset())
                with mutant():
                    outcome = run(seed, founded, also)
                found_by = [v for v in outcome.violations if not (also & OPEN and v.startswith("progress"))]
                if found_by:
                    killed += 1
                    why = f"seed {seed}: {found_by[0]}"
                    break
            print(f"{name} — {why}", flush=True)
    print(f"mutants: {len(mutants)}, killed: {killed}")
    return 0 if killed == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
