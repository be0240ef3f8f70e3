"""One point: a fleet put back, an operation, a kill at the point, a restart, and the verdict.

Here: the order of these, and what must be well after any operation.
Not here: what an operation does and promises (`operations`), the processes (`fleet`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.crashpoints import points
from tests.crashpoints.fleet import PATIENCE, Fleet, Lost, Stuck, until
from tests.crashpoints.operations import OPERATIONS, Operation, Promise
from tests.crashpoints.points import Point

from quorate._core import CoreError
from quorate.audit.verify import verify
from quorate.errors import QuorateError

_GIVEN_UP = 40.0
"""Seconds after which an operation must have ended, well or not, whatever was killed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`result`: well, lost, stuck, or unreached when the run never came to the point. `seconds`: from the killed
    process being up again until all was well.
    """

    point: Point
    result: str
    why: str = ""
    seconds: float = 0.0


async def count(fleet: Fleet, name: str, role: str) -> list[Point]:
    """The points of an operation that nobody disturbs."""
    operation, output = OPERATIONS[name], fleet.where / "trace"
    try:
        await _begin(fleet, operation)
        await _trace(fleet, role, points.counting(output))
        promise: Promise = {}
        await operation.run(fleet, promise)
        await until(fleet.is_settled, PATIENCE, f"the end of an undisturbed {name}")
        await asyncio.sleep(0.2)  # the last lines of the audit logs
        await fleet.detach()
        fleet.tracer = fleet.trace = None
        await operation.finish(fleet, promise)
        return points.read(output.read_text().splitlines(), name, role, fleet.directory(role))
    finally:
        fleet.kill_all()


async def attempt(fleet: Fleet, point: Point) -> Verdict:
    operation, output = OPERATIONS[point.operation], fleet.where / "trace"
    try:
        await _begin(fleet, operation)
        await _trace(fleet, point.role, points.killing(output, point, fleet.directory(point.role)))
        promise: Promise = {}
        doing = asyncio.create_task(operation.run(fleet, promise))
        if not await _killed(fleet, point.role, doing):
            return Verdict(point, "unreached")
        return Verdict(point, "well", seconds=await _recover(fleet, operation, point.role, doing, promise))
    except Stuck as why:
        return Verdict(point, "stuck", str(why))
    except Lost as why:
        return Verdict(point, "lost", str(why))
    except Exception as why:  # the other points are to be tried all the same
        return Verdict(point, "stuck", repr(why))
    finally:
        fleet.kill_all()


async def _begin(fleet: Fleet, operation: Operation) -> None:
    fleet.put_back(operation.base)
    await fleet.start_all(*operation.running)
    if operation.before is not None:
        await operation.before(fleet)


async def _trace(fleet: Fleet, role: str, strace: list[str]) -> None:
    if role in fleet.processes:
        await fleet.attach(role, strace)
    else:
        fleet.trace = (role, strace)  # the operation starts it


async def _killed(fleet: Fleet, role: str, doing: "asyncio.Task[None]") -> bool:
    """Waits for the kill; false when the operation has ended without one, and nothing more is to come."""
    deadline = time.monotonic() + _GIVEN_UP
    while time.monotonic() < deadline:
        if fleet.was_killed(role):
            return True
        if doing.done() and (doing.exception() is not None or await fleet.is_settled()):
            await asyncio.sleep(
                0.2
            )  # its end is noticed elsewhere first; and the last lines of the audit logs
            if not fleet.was_killed(role):
                doing.result()
                return False
        await asyncio.sleep(0.01)
    raise Stuck("the operation came to no end")


async def _recover(
    fleet: Fleet, operation: Operation, role: str, doing: "asyncio.Task[None]", promise: Promise
) -> float:
    """Starts what was killed; returns the seconds until all was well. Raises `Lost`, `Stuck`."""
    await fleet.detach()
    fleet.tracer = fleet.trace = None
    if role in operation.running or operation.starts:
        fleet.kill(role)
        await fleet.start(role)
    began = time.monotonic()
    try:
        await asyncio.wait_for(doing, PATIENCE)
    except TimeoutError:
        raise Stuck("the operation that was under way came to no end") from None
    except Lost:
        raise
    except Exception as why:  # it may fail in any way, and is finished below
        told = str(why)
    else:
        told = "done"
    await _by_and_by(lambda: operation.finish(fleet, promise), f"the end of the operation (it said: {told})")
    await until(fleet.is_settled, PATIENCE, "one epoch in all members, and nothing left to erase")
    seconds = time.monotonic() - began
    await _goes_on(fleet)
    return seconds


async def _goes_on(fleet: Fleet) -> None:
    """The fleet changes the epoch again, opens what was sealed before, and its logs are whole."""
    domain = await fleet.domain()
    assert domain is not None
    await _by_and_by(fleet.refresh, "another refresh")
    settled = await until(fleet.is_settled, PATIENCE, "another refresh in all members")
    if settled["epoch"] <= domain["epoch"]:
        raise Lost(f"epoch {settled['epoch']} came after {domain['epoch']}")
    await fleet.hub.lock("default")
    await asyncio.to_thread(fleet.opens, fleet.kept["blob"])
    for log in (fleet.layout.hub, *map(fleet.layout.node, fleet.layout.node_names())):
        if (log / "audit.log").exists() and (breach := verify(log / "audit.log").breach) is not None:
            raise Lost(f"{log.name}'s audit log: {breach.reason} in line {breach.line}")


async def _by_and_by(do: Callable[[], Awaitable[object]], what: str) -> None:
    """Does it, again for up to `PATIENCE` where it is refused: by then it must succeed."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await do()
            return
        except (QuorateError, CoreError, Stuck) as why:
            if time.monotonic() > deadline:
                raise Stuck(f"{what} did not succeed within {PATIENCE:.0f} s: {why}") from why
            await asyncio.sleep(0.1)
