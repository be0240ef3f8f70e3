"""The node's part in a rotation of the fleet key (docs/protocols/fleet-key.md).

Here: the hub's orders to take a key, to wrap keys anew, to erase the old one; the answers.
Not here: whether any of that is allowed: the module checks it.
"""

import logging
from collections.abc import Awaitable, Callable

from quorate import _core
from quorate.host.dispatch import Dispatch, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.ids import HUB, NodeId
from quorate.node.journal import Journal

_log = logging.getLogger(__name__)


class FleetKeys:
    """`on_key` is called when the module has another fleet key: it may be the one that a refused record needs."""

    def __init__(
        self, hsm: Hsm, fleet: Fleet, journal: Journal, on_key: Callable[[], Awaitable[None]]
    ) -> None:
        self._hsm = hsm
        self._fleet = fleet
        self._journal = journal
        self._on_key = on_key

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("fleet/rekey", 2, self._on_rekey, queued=True)
        dispatch.on("fleet/renew", 2, self._on_renew, queued=True)
        dispatch.on("fleet/retire", 1, self._on_retire, queued=True)

    async def _on_rekey(self, _sender: NodeId, fields: Fields) -> None:
        rekey, window, module = bytes(fields[0]), int(fields[1]), self._hsm.module
        before = module.fleet_key()["epoch"]
        epoch = await self._hsm.slow(lambda: module.accept_rekey(rekey, window=window))
        if epoch > before:
            _log.info("the fleet key of fleet epoch %d is here", epoch)
            self._fleet.greet_all()
            await self._on_key()
        self._fleet.post(HUB, "fleet/key-kept", module.fleet_key_kept())

    async def _on_renew(self, _sender: NodeId, fields: Fields) -> None:
        keys, expired = [bytes(key) for key in fields[0]], [bytes(key) for key in fields[1]]
        renewed = await self._hsm.slow(self._renew, keys, expired)
        self._fleet.post(HUB, "fleet/renewed", renewed)

    def _renew(self, keys: list[bytes], expired: list[bytes]) -> list[bytes]:
        """What can be; the hub asks again for the rest. A key whose deletion date has come is deleted for good."""
        module, renewed = self._hsm.module, []
        makers: list[Callable[[], bytes]] = [lambda key=key: module.renew_outer(key) for key in keys]  # type: ignore[misc]
        makers += [
            lambda key=key: module.revise_key(key, state="deleted", deletion=None)  # type: ignore[misc]
            for key in expired
        ]
        for make in makers:
            try:
                renewed.append(make())
            except _core.CoreError as why:
                _log.info("a key was not renewed: %s", why)
        return renewed

    async def _on_retire(self, _sender: NodeId, fields: Fields) -> None:
        module, held = self._hsm.module, self._hsm.module.fleet_key()
        receipt = await self._hsm.slow(module.retire_fleet_key, [bytes(each) for each in fields[0]])
        if held["previous"] is not None:
            self._journal.fleet_key_erased(held["epoch"])
        self._fleet.post(HUB, "fleet/key-retired", receipt)
