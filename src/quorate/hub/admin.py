"""The hub's admin API: HTTP and JSON on a Unix socket of mode 0600. Bytes are base64.

Here: routes, JSON, which error is which status. Not here: decisions. Whoever may open the socket may ask; what
needs the operator must come signed by the operator key.
"""

import logging
import os
import socket
import uuid
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from quorate import _core, logs
from quorate.errors import BadInput, QuorateError, StorageFailed
from quorate.host.http_server import HttpServer
from quorate.hub.changes import DomainExists, NotEnoughHolders
from quorate.hub.epochs import Busy, EpochAborted
from quorate.hub.records import RecordRefused
from quorate.hub.rotation import RotationRunning
from quorate.ids import Quorum

_log = logging.getLogger(__name__)

_STATUS: dict[type[QuorateError], int] = {
    DomainExists: 409,
    Busy: 409,
    EpochAborted: 409,
    RotationRunning: 409,
    NotEnoughHolders: 503,
    StorageFailed: 503,
    BadInput: 400,
}
MAX_BODY = 1 << 20
MAX_INTERVAL = 366 * 24 * 3600
"""Seconds."""


class HubCommands(Protocol):
    """What the API can ask of the hub."""

    def status(self) -> dict[str, Any]: ...
    def fleet(self) -> dict[str, Any]: ...
    async def rotate_key(self, window: int) -> dict[str, Any]: ...
    async def add_token(self, token: bytes) -> dict[str, Any]: ...
    async def enrolments(self) -> list[dict[str, Any]]: ...
    async def approve(self, name: str, entry: bytes, authority: bytes) -> dict[str, Any]: ...
    async def retire(self, name: str, entry: bytes) -> dict[str, Any]: ...
    async def pardon(self, name: str) -> dict[str, Any]: ...
    async def create_domain(
        self, charter: bytes, quorum: Quorum, nodes: list[str] | None, refresh_every: int | None
    ) -> dict[str, Any]: ...
    async def refresh(self, domain: str) -> dict[str, Any]: ...
    async def rotate(self, domain: str) -> dict[str, Any]: ...
    async def reshare(
        self, domain: str, charter: bytes | None, quorum: Quorum, nodes: list[str] | None
    ) -> dict[str, Any]: ...
    async def abort(self, domain: str, reason: str) -> dict[str, Any]: ...
    async def set_domain(
        self, domain: str, refresh_every: int | None, rotate_every: int | None
    ) -> dict[str, Any]: ...
    def charter(self, domain: str) -> dict[str, Any]: ...
    async def lock(self, domain: str) -> dict[str, Any]: ...
    async def access(self) -> list[dict[str, Any]]: ...
    async def reseal(self, access_key_id: str, sealed: bytes) -> dict[str, Any]: ...
    async def put_access(self, statement: bytes) -> dict[str, Any]: ...
    def sessions(self, limit: int) -> list[dict[str, Any]]: ...


class AdminServer:
    def __init__(self, hub: HubCommands, path: Path) -> None:
        self._hub = hub
        self._path = path
        self._server = HttpServer(self._app(), grace=1)

    async def start(self) -> None:
        """Raises `BadInput` when the socket cannot be made."""
        await self._server.start(_listen(self._path))

    async def stop(self) -> None:
        if self._server.listening:
            await self._server.stop()
            self._path.unlink(missing_ok=True)

    def _app(self) -> Starlette:
        hub = self._hub

        async def create_domain(request: Request) -> Any:
            body = await _body(request)
            quorum = Quorum(int(body["threshold"]), int(body["shards"]))
            return await hub.create_domain(
                _bytes(body, "charter"),
                quorum,
                _names(body.get("nodes")),
                _interval(body, "refresh_every"),
            )

        async def refresh(request: Request) -> Any:
            return await hub.refresh(request.path_params["name"])

        async def rotate(request: Request) -> Any:
            return await hub.rotate(request.path_params["name"])

        async def reshare(request: Request) -> Any:
            body = await _body(request)
            quorum = Quorum(int(body["threshold"]), int(body["shards"]))
            charter = None if body.get("charter") is None else _bytes(body, "charter")
            return await hub.reshare(request.path_params["name"], charter, quorum, _names(body.get("nodes")))

        async def abort(request: Request) -> Any:
            return await hub.abort(request.path_params["name"], str((await _body(request))["reason"]))

        async def settings(request: Request) -> Any:
            body = await _body(request)
            refresh, rotation = _interval(body, "refresh_every"), _interval(body, "rotate_every")
            if refresh is None and rotation is None:
                raise ValueError("there is nothing to set")
            return await hub.set_domain(request.path_params["name"], refresh, rotation)

        async def rotate_key(request: Request) -> Any:
            return await hub.rotate_key(_seconds((await _body(request))["window"]))

        async def approve(request: Request) -> Any:
            body = await _body(request)
            return await hub.approve(request.path_params["name"], _bytes(body, "entry"), _bytes(body, "ca"))

        async def retire(request: Request) -> Any:
            return await hub.retire(request.path_params["name"], _bytes(await _body(request), "entry"))

        async def pardon(request: Request) -> Any:
            return await hub.pardon(request.path_params["name"])

        async def reseal(request: Request) -> Any:
            body = await _body(request)
            return await hub.reseal(str(body["access_key_id"]), _bytes(body, "sealed"))

        async def add_token(request: Request) -> Any:
            return await hub.add_token(_bytes(await _body(request), "token"))

        async def put_access(request: Request) -> Any:
            return await hub.put_access(_bytes(await _body(request), "access_key"))

        async def lock(request: Request) -> Any:
            return await hub.lock(request.path_params["name"])

        async def status(_request: Request) -> Any:
            return hub.status()

        async def fleet(_request: Request) -> Any:
            return hub.fleet()

        async def enrolments(_request: Request) -> Any:
            return await hub.enrolments()

        async def charter(request: Request) -> Any:
            return hub.charter(request.path_params["name"])

        async def access(_request: Request) -> Any:
            return await hub.access()

        async def sessions(request: Request) -> Any:
            return hub.sessions(int(request.query_params.get("limit", "20")))

        def route(path: str, method: str, serve: Callable[[Request], Awaitable[Any]]) -> Route:
            return Route(path, _answering(serve), methods=[method])

        return Starlette(
            routes=[
                route("/v1/status", "GET", status),
                route("/v1/fleet", "GET", fleet),
                route("/v1/fleet/rotate-key", "POST", rotate_key),
                route("/v1/tokens", "POST", add_token),
                route("/v1/enrolments", "GET", enrolments),
                route("/v1/enrolments/{name}", "POST", approve),
                route("/v1/nodes/{name}/retire", "POST", retire),
                route("/v1/nodes/{name}/pardon", "POST", pardon),
                route("/v1/domains", "POST", create_domain),
                route("/v1/domains/{name}/charter", "GET", charter),
                route("/v1/domains/{name}/lock", "POST", lock),
                route("/v1/domains/{name}/refresh", "POST", refresh),
                route("/v1/domains/{name}/rotate", "POST", rotate),
                route("/v1/domains/{name}/reshare", "POST", reshare),
                route("/v1/domains/{name}/abort", "POST", abort),
                route("/v1/domains/{name}/settings", "POST", settings),
                route("/v1/access", "GET", access),
                route("/v1/access", "POST", put_access),
                route("/v1/access/reseal", "POST", reseal),
                route("/v1/sessions", "GET", sessions),
            ]
        )


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # of a process that was killed: the module's vault is locked by us by now
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as why:
        listener.close()
        raise BadInput(
            f"the admin socket {path} cannot be made: {why}",
            remedy="use a data directory with a shorter path (a socket's is at most 107 bytes)",
        ) from why
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def _answering(serve: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[JSONResponse]]:
    """Makes JSON of what `serve` returns, and an error object of what it raises; the header `x-request-id` names the
    request as the hub's log does.
    """

    async def answer(request: Request) -> JSONResponse:
        request_id = str(uuid.uuid4())
        logs.request_id.set(request_id)
        response = await attempt(request, request_id)
        response.headers["x-request-id"] = request_id
        level = logging.DEBUG if response.status_code == 200 else logging.INFO
        _log.log(level, "%s %s: %d", request.method, request.url.path, response.status_code)
        return response

    async def attempt(request: Request, request_id: str) -> JSONResponse:
        try:
            return JSONResponse(_json(await serve(request)))
        except QuorateError as why:
            kind = next((status for cls, status in _STATUS.items() if isinstance(why, cls)), 409)
            return _error(kind, why.code, str(why), why.kept, why.remedy)
        except _core.CoreError as why:
            return _error(
                409, why.code, why.message, "nothing was changed", "see docs/errors.md for the code"
            )
        except RecordRefused as why:
            return _error(
                409, why.code, str(why), "nothing was changed", "read the current version, and try again"
            )
        except LookupError as why:
            return _error(400, "bad_input", f"{why} is missing", "nothing was changed", "send all fields")
        except (ValueError, TypeError) as why:
            return _error(400, "bad_input", str(why), "nothing was changed", "mend the request")
        except Exception:
            _log.exception("%s %s failed", request.method, request.url.path)
            remedy = f"look for {request_id} in the hub's log, and report what it says"
            return _error(
                500, "failed", "the hub failed", "what was acknowledged before is unchanged", remedy
            )

    return answer


def _error(status: int, code: str, message: str, kept: str, remedy: str) -> JSONResponse:
    error = {"code": code, "message": message, "kept": kept, "remedy": remedy}
    return JSONResponse({"error": error}, status_code=status)


async def _body(request: Request) -> dict[str, Any]:
    if int(request.headers.get("content-length", MAX_BODY + 1)) > MAX_BODY:
        raise ValueError(f"a body is at most {MAX_BODY} bytes, and tells its length")
    body = await request.json()
    if not isinstance(body, dict):
        raise TypeError("the body is a JSON object")
    return body


def _bytes(body: dict[str, Any], name: str) -> bytes:
    return b64decode(str(body[name]), validate=True)


def _seconds(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INTERVAL:
        raise ValueError(f"an interval is 0 (never) to {MAX_INTERVAL} seconds")
    return value


def _interval(body: dict[str, Any], name: str) -> int | None:
    return None if body.get(name) is None else _seconds(body[name])


def _names(value: object) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("nodes is a list of names, or null for all")
    return value


def _json(value: Any) -> Any:
    match value:
        case bytes():
            return b64encode(value).decode("ascii")
        case dict():
            return {key: _json(item) for key, item in value.items()}
        case list():
            return [_json(item) for item in value]
    return value
