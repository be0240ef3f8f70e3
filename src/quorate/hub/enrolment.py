"""Enrolment at the hub: what the door answers, and what an operator's approval sets off.

Here: one request for each token, `pending` until it is approved, the same answer to the same request. What
comes without a token of this fleet is counted, not audited: strangers reach the door, and must not fill the disk.
Not here: the checks of keys, names and secrets (the hub's module), the operator's decision.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from quorate import _core
from quorate.errors import BadInput, QuorateError
from quorate.hsm import Hsm
from quorate.hub.journal import Journal
from quorate.store.database import Conflict, Database, Enrolment, TokenUsed

_log = logging.getLogger(__name__)


class NotAsked(QuorateError):
    code = "not_asked"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no pending request for the place {name} has the keys of this entry",
            kept="the roster is unchanged",
            remedy="have the node ask again (`quorate node enroll`), then approve what it asks",
        )


class TokenRefused(QuorateError):
    code = "token_refused"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the token is refused: {reason}",
            kept="nothing was changed",
            remedy="make a new invitation with the fleet's operator key",
        )


class Enrolments:
    """`on_roster` is called when the roster has a new version, `on_stranger(code, reason)` when somebody without
    a token was turned away. `fleet_info`: the file that holds the fleet's statement.
    """

    def __init__(
        self,
        hsm: Hsm,
        journal: Journal,
        database: Database,
        fleet_info: Path,
        *,
        on_roster: Callable[[], None],
        on_stranger: Callable[[str, str], None],
    ) -> None:
        self._hsm = hsm
        self._journal = journal
        self._database = database
        self._fleet_info = fleet_info
        self._on_roster = on_roster
        self._on_stranger = on_stranger

    async def add_token(self, token: bytes) -> bytes:
        """Keeps an operator-signed token; returns its id. Raises `CoreError`, `TokenRefused`."""
        seen = self._hsm.module.verify(token)
        if seen["label"] != "quorate/v1/enrol/token":
            raise TokenRefused("this is another statement")
        await self._journal.note("token", node=seen["name"], token=seen["id"].hex())
        try:
            await self._database.add_token(seen["id"], seen["name"], token)
        except Conflict:
            raise TokenRefused("its id is used by another token") from None
        return bytes(seen["id"])

    async def answer(self, message: bytes) -> bytes:
        """The door's answer to one message."""
        try:
            request, token_id, token = await self._read(message)
        except _Refused as why:
            self._on_stranger(why.code, str(why))
            return _core.encode(["refused", why.code, str(why)])
        try:
            return _core.encode(await self._enrol(request, token_id, token))
        except _Refused as why:
            code, reason = why.code, str(why)
        except _core.CoreError as why:
            code, reason = why.code, why.message
        await self._journal.note("enrolment_refused", token=token_id.hex(), code=code, reason=reason[:512])
        return _core.encode(["refused", code, reason])

    async def _read(self, message: bytes) -> tuple[bytes, bytes, bytes]:
        """(request, token's id, token) of a message that names a token of this fleet. Raises `_Refused`."""
        try:
            match _core.decode(message):
                case ["enrol", bytes(request)]:
                    seen = _core.view(request)
                case _:
                    raise _Refused("bad_encoding", "this is no request for a place")
        except _core.CoreError as why:
            raise _Refused(why.code, why.message) from why
        if seen["label"] != "quorate/v1/enrol/request":
            raise _Refused("wrong_kind", "this is no request for a place")
        token_id = bytes(seen["token_id"])
        token = await self._database.token(token_id)
        if token is None:
            raise _Refused("not_authorized", "the token is unknown here")
        return request, token_id, token

    async def _enrol(self, request: bytes, token_id: bytes, token: bytes) -> list[object]:
        known = await self._database.enrolment(token_id)
        if known is None:
            checked = self._hsm.module.check_enrolment(request, token, now=int(time.time()))
            await self._journal.note(
                "enrolment", node=checked["name"], fingerprint=checked["fingerprint"].hex()
            )
            try:
                known = await self._database.ask(
                    token_id, checked["name"], request, checked["fingerprint"], int(time.time())
                )
            except TokenUsed:
                known = await self._database.enrolment(token_id)
        if known is None or known.request != request:
            raise _Refused("not_authorized", "the token was used by another request")
        if known.entry is None or known.authority is None:
            return ["pending", known.fingerprint]
        return self._place(known)

    def _place(self, granted: Enrolment) -> list[object]:
        module = self._hsm.module
        roster = module.roster()
        assert roster is not None
        rekey = module.rekey_for(granted.node)
        info = self._fleet_info.read_bytes()
        return ["enrolled", granted.entry, granted.authority, info, roster, rekey]

    async def approve(self, name: str, entry: bytes, authority: bytes) -> int:
        """Admits a module by its operator-signed entry; returns the roster's new version.

        `authority`: the operator's certificate (DER) of the module's TLS key. Raises `NotAsked`, `CoreError`.
        """
        module = self._hsm.module
        seen = _core.view_approved(entry)
        asked = [e for e in await self._database.pending(name) if _same_keys(_core.view(e.request), seen)]
        if not asked or seen["name"] != name:
            raise NotAsked(name)
        await self._journal.note("approved", node=name, fingerprint=asked[-1].fingerprint.hex())
        if all(known["statement"] != entry for known in module.entries()):
            await self._hsm.slow(module.admit, entry)
        await self._database.approve(asked[-1].token_id, entry, authority)
        self._on_roster()
        roster = module.roster()
        assert roster is not None
        return int(_core.view(roster)["version"])

    async def retire(self, name: str, entry: bytes) -> int:
        """Takes a module out of the fleet by its operator-signed entry; returns the roster's new version.

        Raises `BadInput`, `CoreError`.
        """
        seen = _core.view_approved(entry)
        if seen["name"] != name or seen["standing"] != "retired":
            raise BadInput(f"this entry does not retire {name}", remedy="sign one with `quorate node retire`")
        await self._journal.note("retired", node=name)
        await self._hsm.slow(self._hsm.module.admit, entry)
        self._on_roster()
        roster = self._hsm.module.roster()
        assert roster is not None
        return int(_core.view(roster)["version"])


class _Refused(Exception):
    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def _same_keys(request: dict[str, object], entry: dict[str, object]) -> bool:
    return all(request[name] == entry[name] for name in ("sign", "kem", "tls", "zone", "role", "address"))
