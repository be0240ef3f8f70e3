"""The admin API's own checks, asked in memory: what is refused before the hub's commands hear of it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from quorate.hub.admin import AdminServer
from quorate.ids import Quorum


class Commands:
    """Remembers the domains that it was told to create."""

    def __init__(self) -> None:
        self.created: list[tuple[bytes, Quorum, list[str] | None]] = []

    async def create_domain(self, charter: bytes, quorum: Quorum, nodes: list[str] | None) -> dict[str, Any]:
        self.created.append((charter, quorum, nodes))
        return {"name": "payroll"}


def post(commands: Any, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Status and JSON of one request."""
    sent = json.dumps(body).encode()
    came: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": sent, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        came.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"content-length", str(len(sent)).encode())],
    }  # fmt: skip
    app: Any = AdminServer(commands, Path("unused"))._app()
    asyncio.run(app(scope, receive, send))
    return came[0]["status"], json.loads(came[1]["body"])


@pytest.mark.parametrize(("threshold", "shards"), [(1, 3), (3, 3), (4, 3), (2, 256)])
def test_impossible_quorum_is_refused_before_the_charter_is_recorded(threshold: int, shards: int) -> None:
    commands = Commands()
    asked = {"charter": "Yw==", "threshold": threshold, "shards": shards}
    status, answer = post(commands, "/v1/domains", asked)
    assert (status, answer["error"]["code"]) == (400, "bad_input")
    assert f"got {threshold} of {shards}" in answer["error"]["message"]
    assert commands.created == []


def test_possible_quorum_reaches_the_hub() -> None:
    commands = Commands()
    asked = {"charter": "Yw==", "threshold": 2, "shards": 3, "nodes": ["a", "b", "c"]}
    assert post(commands, "/v1/domains", asked) == (200, {"name": "payroll"})
    assert commands.created == [(b"c", Quorum(2, 3), ["a", "b", "c"])]
