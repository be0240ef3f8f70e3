"""Python client of the hub's admin API: HTTP and JSON over the Unix socket DATA/hub/admin.sock.

Here: one method for each request, bytes ⇄ base64, the hub's errors as `QuorateError`.
Not here: signing; what the operator signs comes in finished.
"""

import asyncio
import http.client
import json
import socket
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from quorate.errors import HubUnreachable, QuorateError

_SECONDS = 60.0
"""How long an answer may take: a domain's creation is waited for."""
_BYTES = frozenset({"info", "operator", "entry", "roster", "statement", "request", "charter", "sealed"})
"""Fields of answers that are bytes."""


class HubRefused(QuorateError):
    """The hub refused a request; `refusal` is its code."""

    code: ClassVar[str] = "hub_refused"

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(
            str(error.get("message", "the hub refused")),
            kept=str(error.get("kept", "nothing was changed")),
            remedy=str(error.get("remedy", "see the hub's log")),
        )
        self.refusal = str(error.get("code", "failed"))


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("hub", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(str(self._path))


class AdminClient:
    """Asks the hub whose socket is `path`. Every method raises `HubUnreachable` or `HubRefused`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def status(self) -> dict[str, Any]:
        return dict(await self._ask("GET", "/v1/status"))

    async def fleet(self) -> dict[str, Any]:
        """info, operator, entry, roster: all bytes."""
        return dict(await self._ask("GET", "/v1/fleet"))

    async def rotate_key(self, *, window: int) -> dict[str, Any]:
        """Begins a rotation of the fleet key; returns `fleet.fleet_key` of the status. `window`: seconds."""
        return dict(await self._ask("POST", "/v1/fleet/rotate-key", {"window": window}))

    async def add_token(self, token: bytes) -> str:
        return str((await self._ask("POST", "/v1/tokens", {"token": token}))["id"])

    async def enrolments(self) -> list[dict[str, Any]]:
        return list(await self._ask("GET", "/v1/enrolments"))

    async def approve(self, name: str, entry: bytes, authority: bytes) -> int:
        """Returns the new roster's version."""
        answer = await self._ask("POST", f"/v1/enrolments/{quote(name)}", {"entry": entry, "ca": authority})
        return int(answer["roster_version"])

    async def retire(self, name: str, entry: bytes) -> int:
        """Returns the new roster's version."""
        answer = await self._ask("POST", f"/v1/nodes/{quote(name)}/retire", {"entry": entry})
        return int(answer["roster_version"])

    async def pardon(self, name: str) -> bool:
        """Takes a node that is convicted of a lie back into epoch changes; false when it is not convicted."""
        return bool((await self._ask("POST", f"/v1/nodes/{quote(name)}/pardon", {}))["pardoned"])

    async def create_domain(
        self,
        charter: bytes,
        *,
        threshold: int,
        shards: int,
        nodes: list[str] | None = None,
        refresh_every: int | None = None,
    ) -> dict[str, Any]:
        """The new domain's status, with the steps of its creation."""
        asked = {
            "charter": charter,
            "threshold": threshold,
            "shards": shards,
            "nodes": nodes,
            "refresh_every": refresh_every,
        }
        return dict(await self._ask("POST", "/v1/domains", asked))

    async def refresh(self, domain: str) -> dict[str, Any]:
        """The domain's status after its refresh, with the steps."""
        return dict(await self._ask("POST", f"/v1/domains/{quote(domain)}/refresh", {}))

    async def reshare(
        self, domain: str, *, charter: bytes | None, threshold: int, shards: int, nodes: list[str] | None
    ) -> dict[str, Any]:
        """The domain's status after it was dealt to another committee, with the steps."""
        asked = {"charter": charter, "threshold": threshold, "shards": shards, "nodes": nodes}
        return dict(await self._ask("POST", f"/v1/domains/{quote(domain)}/reshare", asked))

    async def abort(self, domain: str, reason: str) -> dict[str, Any]:
        """`aborted`: whether there was an epoch change that could be given up."""
        return dict(await self._ask("POST", f"/v1/domains/{quote(domain)}/abort", {"reason": reason}))

    async def rotate(self, domain: str) -> dict[str, Any]:
        """The domain's status once its new key is shared; it tells how far the rest is."""
        return dict(await self._ask("POST", f"/v1/domains/{quote(domain)}/rotate", {}))

    async def set_domain(
        self, domain: str, *, refresh_every: int | None = None, rotate_every: int | None = None
    ) -> dict[str, Any]:
        """None: as it was."""
        asked = {"refresh_every": refresh_every, "rotate_every": rotate_every}
        return dict(await self._ask("POST", f"/v1/domains/{quote(domain)}/settings", asked))

    async def charter(self, domain: str) -> bytes | None:
        answer = await self._ask("GET", f"/v1/domains/{quote(domain)}/charter")
        found: bytes | None = answer["charter"]
        return found

    async def lock(self, domain: str) -> dict[str, list[str]]:
        """`locked` and `unreached`: nodes."""
        return dict(await self._ask("POST", f"/v1/domains/{quote(domain)}/lock", {}))

    async def access(self) -> list[dict[str, Any]]:
        return list(await self._ask("GET", "/v1/access"))

    async def reseal(self, access_key_id: str, sealed: bytes) -> bytes:
        asked = {"access_key_id": access_key_id, "sealed": sealed}
        answer: bytes = (await self._ask("POST", "/v1/access/reseal", asked))["sealed"]
        return answer

    async def put_access(self, statement: bytes) -> dict[str, Any]:
        return dict(await self._ask("POST", "/v1/access", {"access_key": statement}))

    async def sessions(self, *, limit: int = 20) -> list[dict[str, Any]]:
        """The hub's last sessions, newest first."""
        return list(await self._ask("GET", f"/v1/sessions?limit={limit}"))

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return await asyncio.to_thread(self._ask_now, method, path, body)

    def _ask_now(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        sent = None if body is None else json.dumps({key: _out(value) for key, value in body.items()})
        connection = _Connection(self._path)
        try:
            connection.request(method, path, body=sent, headers={"content-type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as why:
            raise HubUnreachable(f"{method} {path}") from why
        finally:
            connection.close()
        if response.status >= 400:
            raise HubRefused(answer.get("error", {}))
        return _in(answer)


def _out(value: Any) -> Any:
    return b64encode(value).decode() if isinstance(value, bytes) else value


def _in(value: Any) -> Any:
    if isinstance(value, list):
        return [_in(item) for item in value]
    if isinstance(value, dict):
        return {
            key: b64decode(item) if key in _BYTES and isinstance(item, str) else _in(item)
            for key, item in value.items()
        }
    return value
