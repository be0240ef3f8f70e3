"""Mistakes on purpose, one at a time: a simulator that finds none of them would find nothing.

Here: what is changed, in the core (`core/src/module/inspect.rs`), on disks, in the hub's machines. Not here: the
schedules that must find it (`schedule`).
"""

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from quorate import _core
from quorate.hub import changes as hub_changes
from quorate.hub import disputes as hub_disputes
from quorate.hub import epochs as hub_epochs
from quorate.hub import settling as hub_settling
from quorate.ids import NodeId
from quorate.protocol import dispute, epoch_change, epoch_settling
from quorate.protocol.quorum import erase_quorum
from quorate.store.database import highest_epochs

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


def _as_any_change(statement: bytes, charter: bytes) -> epoch_change.Plan:
    plan = _plan(statement, charter)
    return replace(plan, needed=hub_epochs._needed(_core.view(statement)))


_plan = hub_epochs._plan


def _certificate_of_one(settling: epoch_settling.Settling) -> tuple[bytes, ...]:
    return tuple(settling.receipts.values())


def _certificate_less_one(settling: epoch_settling.Settling) -> tuple[bytes, ...]:
    enough = erase_quorum(len(settling.seats), settling.threshold) - 1
    return tuple(settling.receipts.values()) if len(settling.receipts) >= enough else ()


def _waits_for_no_erasure(settling: epoch_settling.Settling) -> tuple[NodeId, ...]:
    return settling.late


def _no_repair(changes: hub_changes.Changes, known: Any, turn: Any) -> str | None:
    purpose = _due(changes, known, turn)
    return None if purpose == "repair" else purpose


_due = hub_changes.Changes._due


async def _commits_are_lost(database: storage.Database, domain: str, epoch: int, **columns: Any) -> None:
    """As a database that does not sync: a commit, and what is written after it, is gone when the hub stops."""
    if columns["phase"] == "committed":
        database.store = database.store.copy()
    await _put_attempt(database, domain, epoch, **columns)


_put_attempt = storage.Database.put_attempt


def _committed_only(rows: Any) -> dict[str, int]:
    return _highest([row for row in rows if row.phase in ("committed", "closed")])


_highest = highest_epochs


def _only_the_older(settlings: hub_settling.Settlings, of: Any, node: NodeId) -> None:
    if settlings._nodes.known[node].epochs.get(of.committed.domain) is not None:
        _lead_on(settlings, of, node)


_lead_on = hub_settling.Settlings._lead_on


def _only_the_last(settlings: hub_settling.Settlings, of: Any, node: NodeId) -> list[Any]:
    return [of.committed]


def _no_commit_for_one_back(
    settling: epoch_settling.Settling, event: epoch_settling.Event, now: float
) -> epoch_settling.Step:
    step = _handle(settling, event, now)
    if isinstance(event, epoch_change.NodeUp):
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
    "a module burns numbers in memory only": {"evil"},
    "a module takes receipts of another configuration": {"evil"},
    "a module deals twice": {"weather"},
    "a module goes back to an epoch that it has replaced": {"evil", "away"},
    "a module believes any constant term": {"liars"},
    "a module believes any sub-share": {"liars"},
    "a module erases on one receipt, the hub asks on one": {"liars"},
    "a module erases on one receipt too few, the hub asks on one too few": {"liars"},
    "a module erases the old share when it has prepared": {"cancel", "disk"},
    "a module erases the old share at the commit": {"liars"},
    "the hub makes a first epoch on k + z receipts": {"liars"},
    "the hub commits on one receipt too few": {"away", "crash"},
    "the hub's commits are not synced": {"crash_hub"},
    "the hub forgets burnt numbers when it restarts": {"cancel", "crash_hub"},
    "the hub asks dealers that keep failing": {"deaf", "liars"},
    "the hub shows nothing to one whose disk went back to nothing": {"old_disk"},
    "the hub takes up what k members show, whatever a certificate says": {"evil", "old_database"},
    "the hub sends only the last of the commits that a member has missed": {"crash", "liars", "old_disk"},
    "the hub counts on holders that never deal": {"deaf", "liars", "old_disk"},
    "the hub believes an unproven complaint": {"accusers"},
    "the hub has sub-shares opened before it has aborted": {"accusers"},
}
"""What must happen for a mistake to matter, and does not in every schedule."""

MUTANTS: dict[str, Mutant] = {
    "a module signs `prepared` before its share is stored": lambda: _mistake("receipt-unstored"),
    "a module makes an epoch current in memory only": lambda: _mistake("current-in-memory"),
    "a module burns numbers in memory only": lambda: _mistake("burn-in-memory"),
    "a module believes a certificate of one receipt, the hub commits on one": lambda: _both(
        _mistake("few-receipts"),
        mock.patch.object(epoch_change.Attempt, "is_enough", property(_one_is_enough)),
    ),
    "a module takes receipts of another configuration": lambda: _mistake("any-receipts"),
    "a module deals twice": lambda: _mistake("deals-twice"),
    "a module has sub-shares sealed to its long-term key": lambda: _mistake("long-term-keys"),
    "a module believes any constant term": lambda: _mistake("any-constant"),
    "a module believes any sub-share": lambda: _mistake("any-sub-share"),
    "a module goes back to an epoch that it has replaced": lambda: _mistake("back-to-retired"),
    "a module answers in the epoch that it is asked for": lambda: _mistake("serve-old"),
    "a module erases the old share when it has prepared": lambda: _mistake("erase-at-prepare"),
    "a module erases the old share at the commit": lambda: _mistake("erase-at-commit"),
    "a module erases on one receipt, the hub asks on one": lambda: _both(
        _mistake("erase-early"),
        mock.patch.object(epoch_settling.Settling, "certificate", property(_certificate_of_one)),
    ),
    "a module erases on one receipt too few, the hub asks on one too few": lambda: _both(
        _mistake("erase-short"),
        mock.patch.object(epoch_settling.Settling, "certificate", property(_certificate_less_one)),
    ),
    "disks acknowledge before they have written": _lying_disks,
    "the hub commits on one receipt too few": _in(
        epoch_change.Attempt, "is_enough", property(_enough_less_one)
    ),
    "the hub makes a first epoch on k + z receipts": _in(hub_epochs, "_plan", _as_any_change),
    "the hub tells of a commit before it is durable": _in(
        hub_epochs.Epochs, "_persist", _commit_before_durable
    ),
    "the hub's commits are not synced": _in(storage.Database, "put_attempt", _commits_are_lost),
    "the hub asks for erasure on one receipt": _in(
        epoch_settling.Settling, "certificate", property(_certificate_of_one)
    ),
    "the hub calls an epoch gone that is not erased everywhere": _in(
        epoch_settling.Settling, "waits_for", property(_waits_for_no_erasure)
    ),
    "the hub forgets what was erased": _in(storage.Database, "put_erasure", _nothing),
    "the hub uses a burnt number again": _in(hub_epochs.Epochs, "make", _make_with_burnt_number),
    "the hub forgets burnt numbers when it restarts": _in(hub_epochs, "highest_epochs", _committed_only),
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
    "the hub repairs no member that came back": _in(hub_changes.Changes, "_due", _no_repair),
    "the hub shows nothing to one whose disk went back to nothing": _in(
        hub_settling.Settlings, "_lead_on", _only_the_older
    ),
    "the hub sends only the last of the commits that a member has missed": _in(
        hub_settling.Settlings, "_missed", _only_the_last
    ),
    "the hub takes up what k members show, whatever a certificate says": _in(
        hub_epochs.Epochs, "_is_certificate", lambda *_arguments: False
    ),
    "the hub counts on holders that never deal": _in(hub_changes, "DISTRUST", 1 << 30),
    "the hub asks dealers that keep failing": _in(hub_epochs, "_failed", lambda attempt, event: []),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants")
    parser.add_argument("--schedules", type=int, default=10_000, help="tried for each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="those whose names have this in them")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in SETTINGS.items()):
        command = [sys.executable, "-m", "tests.simulation.mutants", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | SETTINGS)
    mutants = {name: mutant for name, mutant in MUTANTS.items() if arguments.only in name}
    core.use_stand_in()
    killed: Counter[str] = Counter()
    with scratch() as path:
        founded = found(path)
        for name, mutant in mutants.items():
            began, also = time.monotonic(), frozenset(ALSO.get(name, ()))
            why = f"survives {arguments.schedules} schedules"
            for tried in range(1, arguments.schedules + 1):
                with mutant():
                    outcome = run(arguments.seed + tried - 1, founded, also)
                found_by = [v for v in outcome.violations if not (also & OPEN and v.startswith("progress"))]
                if found_by:
                    invariant, _, what = found_by[0].partition(": ")
                    killed[invariant] += 1
                    why = f"killed by *{invariant}* in schedule {tried}: {what}"
                    break
            print(f"{name} — {why} ({time.monotonic() - began:.0f} s)", flush=True)
    print(", ".join(f"{invariant} {times}" for invariant, times in killed.most_common()))
    print(f"mutants: {len(mutants)}, killed: {killed.total()}")
    return 0 if killed.total() == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
