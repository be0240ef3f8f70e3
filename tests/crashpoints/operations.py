"""The operations whose points are numbered: a table, to which an operation is added by adding a row.

Here: what each begins with, which processes write in it, what it does, and what must be there in the end.
Not here: the kill and the restart (`attempt`), what must be well after any operation (`attempt`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError
from tests.crashpoints.fleet import NODES, SPARE, Fleet, Lost, Stuck, until

from quorate.local import operator

NEW = "node-5"
_SECONDS = 30.0

Promise = dict[str, Any]
"""What the operation said that it did, as far as it came to say so: it must be true after any crash."""


async def _nothing(_fleet: Fleet, _promise: Promise) -> None:
    pass


async def _without_hub(fleet: Fleet) -> None:
    fleet.kill("hub")


async def _without_node(fleet: Fleet) -> None:
    fleet.kill("node-1")


@dataclass(frozen=True)
class Operation:
    """`roles` write in it, `running` run before it begins, from the copy `base` of the fleet; `before` is not traced.

    `run` does it, and notes what it was told in its promise. `finish` is called after a crash and a restart until
    it succeeds: it does what an operator would do about an operation that was cut short; then, and after an
    undisturbed run, it checks the promise.
    """

    roles: tuple[str, ...]
    running: tuple[str, ...]
    run: Callable[[Fleet, Promise], Awaitable[None]]
    finish: Callable[[Fleet, Promise], Awaitable[None]] = _nothing
    base: str = "settled"
    starts: bool = False
    """Whether it starts a process that is to run on, rather than one that ends by itself."""
    before: Callable[[Fleet], Awaitable[None]] | None = None


async def _refresh(fleet: Fleet, promise: Promise) -> None:
    promise["epoch"] = await fleet.refresh()


async def _has_epoch(fleet: Fleet, promise: Promise) -> None:
    domain = await fleet.domain()
    if domain is None or domain["epoch"] < promise.get("epoch", 1):
        raise Lost(f"epoch {promise['epoch']} was committed, and the hub shows {domain}")


async def _create(fleet: Fleet, promise: Promise) -> None:
    made = await operator.create_domain(fleet.operator(), fleet.hub, "second", threshold=2, shards=3)
    promise["epoch"] = made["epoch"]


async def _is_created(fleet: Fleet, promise: Promise) -> None:
    """What was not created is created now, by the same name; it has a key that works."""
    if await fleet.domain("second") is None:
        if promise:
            raise Lost("a domain was created, and is not there")
        await _create(fleet, promise)
    await until(lambda: fleet.is_settled("second"), _SECONDS, "the new domain in all its members")
    fleet.opens(fleet.encrypt(fleet.create_key("second")))


async def _reshare(fleet: Fleet, promise: Promise) -> None:
    """The first dealer leaves, and the spare node, which knows nothing of the domain, gets its place."""
    nodes = ["node-2", "node-3", SPARE]
    made = await operator.reshare_domain(
        fleet.operator, fleet.hub, "default", threshold=None, shards=None, nodes=nodes, floor=None
    )
    promise["epoch"] = made["epoch"]


async def _is_reshared(fleet: Fleet, promise: Promise) -> None:
    await _has_epoch(fleet, promise)
    domain = await fleet.domain()
    assert domain is not None
    if SPARE not in {member["node"] for member in domain["members"]}:
        if promise:
            raise Lost(f"the domain was dealt to {SPARE}, which is no member")
        await _reshare(fleet, promise)


async def _repair(fleet: Fleet, promise: Promise) -> None:
    """The third node missed an epoch: it comes back, gets a share, and what is left of two epochs is erased."""
    await fleet.start("node-3")
    await until(fleet.is_settled, _SECONDS, "the repair")


async def _key(fleet: Fleet, promise: Promise) -> None:
    """A KMS key: a record at the hub, which every node keeps."""
    key = await asyncio.to_thread(fleet.create_key, "default")
    promise["blob"] = await asyncio.to_thread(fleet.encrypt, key)


async def _has_key(fleet: Fleet, promise: Promise) -> None:
    if "blob" in promise:
        await asyncio.to_thread(fleet.opens, promise["blob"])
    try:
        await _key(fleet, {})
    except (
        ClientError
    ) as why:  # a node that has just met the hub again may not have heard of a key that another made
        raise Stuck(f"a new key: {why}") from why


async def _init(fleet: Fleet, promise: Promise) -> None:
    code = await asyncio.to_thread(fleet.spawn(NEW, "node", "init", NEW).popen.wait)
    if code != 0:
        raise Stuck(f"`node init` ended with {code}")


async def _enrol(fleet: Fleet, promise: Promise) -> None:
    """As `quorate node add` does it; the invitation is kept, as it keeps it."""
    text = fleet.directory(NEW) / "invitation"
    if not text.exists():
        made = await operator.invite(
            fleet.operator(), fleet.hub, name=NEW, zone="zone-5", role="holder",
            enrol_address=fleet.enrol_address, hours=1.0, fingerprint=None,
        )  # fmt: skip
        text.write_text(made)
    words = ("node", "enroll", NEW, "--invitation", f"@{text}", "--fleet-listen", "127.0.0.1:0")
    process = fleet.spawn(NEW, *words, "--kms-listen", fleet.kms_address).popen

    async def asked() -> bool:
        pending = await operator.pending_enrolment(fleet.hub, NEW)
        if pending is not None:
            await operator.approve(fleet.operator(), fleet.hub, NEW, fingerprint=pending["fingerprint"])
        return process.poll() is not None

    await until(asked, _SECONDS, "the end of `node enroll`")
    if process.returncode != 0:
        raise Stuck(f"`node enroll` ended with {process.returncode}")
    promise["enrolled"] = True


async def _is_enrolled(fleet: Fleet, promise: Promise) -> None:
    if NEW in fleet.processes:
        fleet.kill(NEW)  # it may wait for a hub that has forgotten nothing, with what was asked before
    if not promise:
        await _init(fleet, {})
        await _enrol(fleet, promise)
    await fleet.start_all(NEW)


async def _start_hub(fleet: Fleet, promise: Promise) -> None:
    await fleet.start("hub")
    await until(fleet.is_settled, _SECONDS, "the fleet with its hub")


async def _start_node(fleet: Fleet, promise: Promise) -> None:
    await fleet.start("node-1")
    await until(fleet.is_settled, _SECONDS, "the fleet with its node")


ALL = ("hub", *NODES)

OPERATIONS = {
    "init": Operation((NEW,), ALL, _init, _is_enrolled),
    "enrol": Operation((NEW, "hub", "node-1"), ALL, _enrol, _is_enrolled, base="invited"),
    "create": Operation(("hub", "node-1"), ALL, _create, _is_created),
    "refresh": Operation(("hub", "node-1", "node-3"), ALL, _refresh, _has_epoch),
    "reshare": Operation(("hub", "node-1", SPARE), (*ALL, SPARE), _reshare, _is_reshared),
    "repair": Operation(
        ("hub", "node-1", "node-3"), ("hub", "node-1", "node-2"), _repair, base="late", starts=True
    ),
    "key": Operation(("hub", "node-1"), ALL, _key, _has_key),
    "start-hub": Operation(("hub",), ALL, _start_hub, starts=True, before=_without_hub),
    "start-node": Operation(("node-1",), ALL, _start_node, starts=True, before=_without_node),
}
"""In `refresh`, `reshare` and `repair` node-1 deals and node-3 (`reshare`: node-4) does not; each ends with the erasure
of what was before. `start-…`: what a process writes when it comes up, which is also what mends the crash before.
"""
