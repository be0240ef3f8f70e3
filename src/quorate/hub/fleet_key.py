"""Rotation of the fleet key, carried out: `protocol/fleet_key` decides (docs/protocols/fleet-key.md).

Here: the new key and the orders on their way to nodes, their receipts, what is wrapped anew, which phase is durable.
Not here: when an old key may go: every module checks that itself.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

from quorate import _core
from quorate.errors import BadInput, QuorateError
from quorate.host.dispatch import Dispatch, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.hub.journal import Journal
from quorate.hub.nodes import Nodes
from quorate.hub.records import RecordRefused, Records
from quorate.ids import HUB, NodeId
from quorate.protocol import fleet_key as protocol
from quorate.protocol.fleet_key import Phase, Rotation
from quorate.store.database import Database, FleetRotationRow
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)

MAX_WINDOW = 7 * 24 * 3600
"""Seconds; the modules accept no longer one."""
MIN_WINDOW = 5
"""Seconds: less, and messages of nodes would be refused before they can have the new key."""
_BATCH = 100
"""Keys that one holder is asked to wrap anew at a time."""
_RENEW_SECONDS = 5.0
"""How long a holder may take for them."""


class FleetKeyBusy(QuorateError):
    code = "fleet_key_busy"

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason, kept="the fleet key is as it was", remedy=remedy)


class FleetKeys:
    """`now`: the wall clock, in seconds since 1970."""

    def __init__(
        self,
        hsm: Hsm,
        fleet: Fleet,
        journal: Journal,
        database: Database,
        nodes: Nodes,
        records: Records,
        now: Callable[[], float],
    ) -> None:
        self._hsm = hsm
        self._fleet = fleet
        self._journal = journal
        self._database = database
        self._nodes = nodes
        self._records = records
        self._now = now
        self._turn = asyncio.Lock()
        self._looking = False
        self._rotation: Rotation | None = None
        self._receipts: dict[NodeId, bytes] = {}
        """`FleetKeyKept` of the new fleet epoch, the hub's own among them."""
        self._renewed: asyncio.Future[list[bytes]] | None = None
        self._renewer: NodeId | None = None

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("fleet/key-kept", 1, self._on_kept, hub_only=False, queued=True)
        dispatch.on("fleet/renewed", 1, self._on_renewed, hub_only=False)
        dispatch.on("fleet/key-retired", 1, self._on_retired, hub_only=False, queued=True)

    async def load(self) -> None:
        """Goes on with what was under way. The module knows its keys; the database is perhaps an older copy."""
        row, state = await self._database.fleet_rotation(), self._hsm.module.fleet_key()
        known = max(state["epoch"], row.fleet_epoch if row else 0)
        if row is None or row.fleet_epoch < known:
            if known <= 1:
                return
            row = await self._begin(known, 0)  # every step of it may be done again
        self._rotation = Rotation(row.fleet_epoch, Phase(row.phase), row.ends)
        for node, kind, statement in await self._database.fleet_receipts(row.fleet_epoch):
            self._take(NodeId(node), kind, statement)
        if state["epoch"] < row.fleet_epoch and not self._rotation.kept:  # the crash came before the key
            await self._make(row.ends)
        self._receipts[HUB] = self._hsm.module.fleet_key_kept()

    async def rotate(self, window: int) -> dict[str, Any]:
        """Makes the key of the next fleet epoch; the rest follows in the background.

        `window`: seconds in which messages under the present key are still opened, `MIN_WINDOW` at least. Raises
        `FleetKeyBusy`, `BadInput`.
        """
        if not 0 <= window <= MAX_WINDOW:
            raise BadInput(f"a window is 0 to {MAX_WINDOW} seconds", remedy="choose one of at most a week")
        async with self._turn:
            state = self._hsm.module.fleet_key()
            if self._rotation is not None and self._rotation.phase is not Phase.DONE:
                raise FleetKeyBusy(*self._busy(self._rotation))
            epoch, ends = state["epoch"] + 1, int(self._now()) + max(window, MIN_WINDOW)
            await self._journal.note("fleet_key", fleet_epoch=epoch, phase=Phase.DISTRIBUTING.value)
            await self._begin(epoch, ends)
            self._rotation = Rotation(epoch, Phase.DISTRIBUTING, ends)
            self._receipts = {}
            await self._make(ends)
            self._receipts[HUB] = self._hsm.module.fleet_key_kept()
        self._fleet.greet_all()
        await self._look()
        return self.status()

    def _busy(self, rotation: Rotation) -> tuple[str, str]:
        missing = ", ".join(sorted(node.value for node in rotation.waits_for(self._active())))
        what = f"a rotation of the fleet key is {rotation.phase}"
        return (
            what + f"; it waits for {missing}" * bool(missing),
            "wait for its end (`quorate status`); start a node that it waits for, or retire it (`quorate node retire`)",
        )

    async def _begin(self, epoch: int, ends: int) -> FleetRotationRow:
        return await self._database.put_fleet_rotation(epoch, Phase.DISTRIBUTING, ends)

    async def _make(self, ends: int) -> None:
        await self._hsm.slow(lambda: self._hsm.module.rotate_fleet_key(window=self._left(ends)))

    def _left(self, ends: int) -> int:
        return max(0, int(ends - self._now()))

    def check_enrolment(self) -> None:
        """A node that joins gets the new key alone, and so what is renewed. Raises `FleetKeyBusy`."""
        rotation = self._rotation
        if rotation is not None and rotation.phase in (Phase.DISTRIBUTING, Phase.RENEWING):
            reason, _ = self._busy(rotation)
            raise FleetKeyBusy(
                reason, "approve the node again in a moment (`quorate status` shows the phase)"
            )

    def status(self) -> dict[str, Any]:
        state, rotation = self._hsm.module.fleet_key(), self._rotation
        total = state["keys"]
        under_way = rotation is not None and rotation.phase is not Phase.DONE
        return {
            "epoch": state["epoch"],
            "phase": rotation.phase.value if rotation is not None else Phase.DONE.value,
            "window_ends": rotation.ends if rotation is not None and under_way else None,
            "waits_for": sorted(n.value for n in rotation.waits_for(self._active())) if rotation else [],
            "away": sorted(n.value for n in rotation.waits_for(self._active()) - self._nodes.live)
            if rotation
            else [],
            "keys": total,
            "renewed": total - len(state["keys_left"]),
            "access_left": len(state["access_left"]),
            "uncommitted": state["uncommitted"],
        }

    # The clockwork.

    def tick(self) -> None:
        if self._rotation is not None and self._rotation.phase is not Phase.DONE and not self._looking:
            self._fleet.spawn(self._look())

    def _active(self) -> frozenset[NodeId]:
        entries = self._hsm.module.entries()
        return frozenset(NodeId(e["name"]) for e in entries if e["standing"] == "active") - {HUB}

    async def _look(self) -> None:
        """One look at a time; what takes long must not be begun twice."""
        if self._looking or self._rotation is None:
            return
        self._looking = True
        try:
            state = self._hsm.module.fleet_key()
            left = len(state["keys_left"]) + len(state["access_left"])
            seen = protocol.Seen(
                self._active(), self._nodes.live & self._fleet.up, left, held=state["previous"] is not None
            )
            step = self._rotation.look(seen, self._now(), time.monotonic())
            if step.persist:
                phase = step.state.phase
                await self._journal.note("fleet_key", fleet_epoch=step.state.epoch, phase=phase.value)
                await self._database.put_fleet_rotation(step.state.epoch, phase, step.state.ends)
                _log.info("fleet epoch %d: %s", step.state.epoch, phase)
                self._rotation = replace(self._rotation, phase=phase)
                return
            self._rotation = replace(self._rotation, asked=step.state.asked)
            for ask in step.asks:
                await self._carry_out(ask, state)
        finally:
            self._looking = False

    async def _carry_out(self, ask: protocol.Ask, state: dict[str, Any]) -> None:
        module = self._hsm.module
        try:
            match ask:
                case protocol.Give(node):
                    assert self._rotation is not None
                    window = self._left(self._rotation.ends)
                    self._fleet.post(node, "fleet/rekey", module.rekey_for(node.value), window)
                case protocol.Retire(node):
                    self._fleet.post(node, "fleet/retire", self._certificate())
                case protocol.RetireOwn():
                    await self._hsm.slow(module.retire_fleet_key, self._certificate())
                    await self._journal.note("fleet_key_erased", node=HUB.value, below=state["epoch"])
                case protocol.Renew():
                    await self._renew(state)
        except (LinkDown, _core.CoreError, RecordRefused) as why:
            _log.info("fleet key: %s: %s", ask, why)

    def _certificate(self) -> list[bytes]:
        """The receipts of modules that are in the fleet still."""
        active = self._active() | {HUB}
        return [receipt for node, receipt in sorted(self._receipts.items()) if node in active]

    async def _renew(self, state: dict[str, Any]) -> None:
        for access_key_id in state["access_left"][:_BATCH]:
            await self._add(await self._hsm.slow(self._hsm.module.renew_access, access_key_id))
        if not (keys := state["keys_left"][:_BATCH]):
            return
        renewer = self._next_renewer()
        if renewer is None:
            return
        expired = [key for key in keys if await self._records.is_past_deletion(str(UUID(bytes=key)))]
        self._renewed = asyncio.get_running_loop().create_future()
        self._renewer = renewer
        try:
            self._fleet.post(renewer, "fleet/renew", [key for key in keys if key not in expired], expired)
            async with asyncio.timeout(_RENEW_SECONDS):
                statements = await self._renewed
        except TimeoutError:
            _log.info("%s has not renewed keys in time; another holder is asked", renewer)
            return
        finally:
            self._renewed = None
        await asyncio.gather(*(self._add(statement) for statement in statements))

    def _next_renewer(self) -> NodeId | None:
        """The live holders in turn."""
        roles = {NodeId(e["name"]): e["role"] for e in self._hsm.module.entries()}
        rotation = self._rotation
        assert rotation is not None
        able = sorted(n for n in self._nodes.live & rotation.kept if roles.get(n) == "holder")
        later = [node for node in able if self._renewer is not None and node > self._renewer]
        return next(iter(later or able), None)

    async def _add(self, statement: bytes) -> None:
        """Puts a renewal in order; a change that came first is renewed the next time."""
        try:
            await self._records.add(statement, by=HUB.value)
        except RecordRefused as why:
            if why.code != "stale_version":
                _log.warning("a renewal was refused: %s", why)

    # What nodes say.

    def _take(self, node: NodeId, kind: str, statement: bytes) -> None:
        assert self._rotation is not None
        seen = _core.view(statement)
        if kind == "kept":
            self._rotation = self._rotation.on_kept(node, seen["fleet_epoch"])
            self._receipts[node] = statement
        else:
            self._rotation = self._rotation.on_retired(node, seen["below"])

    async def _on_kept(self, sender: NodeId, fields: Fields) -> None:
        await self._on_receipt(sender, "kept", "quorate/v1/fleet/key-kept", bytes(fields[0]))

    async def _on_retired(self, sender: NodeId, fields: Fields) -> None:
        await self._on_receipt(sender, "retired", "quorate/v1/fleet/key-retired", bytes(fields[0]))

    async def _on_receipt(self, sender: NodeId, kind: str, label: str, statement: bytes) -> None:
        seen = self._hsm.module.verify(statement)
        rotation = self._rotation
        if seen["label"] != label or seen["signer"] != sender.value:
            raise ValueError("this is another statement")
        epoch = seen["fleet_epoch" if kind == "kept" else "below"]
        if rotation is None or epoch != rotation.epoch:
            return
        if sender in (rotation.kept if kind == "kept" else rotation.retired):
            return
        if kind == "retired":
            await self._journal.note("fleet_key_erased", node=sender.value, below=epoch)
        await self._database.put_fleet_receipt(epoch, sender.value, kind, statement)
        self._take(sender, kind, statement)
        self.tick()

    def _on_renewed(self, sender: NodeId, fields: Fields) -> None:
        if self._renewed is not None and sender == self._renewer and not self._renewed.done():
            self._renewed.set_result([bytes(statement) for statement in fields[0]])
