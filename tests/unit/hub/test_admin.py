"""The admin API's own checks, asked in memory: what is refused before the hub's commands hear of it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from quorate.hub.admin import MAX_INTERVAL, AdminServer
from quorate.hub.changes import NotEnoughHolders
from quorate.hub.epochs import Busy
from quorate.ids import DomainId, Quorum


class Commands:
    """Remembers what it was told to do with domains."""

    def __init__(self, *, fails: Exception | None = None) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.fails = fails

    async def create_domain(
        self, charter: bytes, quorum: Quorum, nodes: list[str] | None, refresh_every: int | None
    ) -> dict[str, Any]:
        return self._told("create", charter, quorum, nodes, refresh_every)

    async def refresh(self, domain: str) -> dict[str, Any]:
        return self._told("refresh", domain)

    async def reshare(
        self, domain: str, charter: bytes | None, quorum: Quorum, nodes: list[str] | None
    ) -> dict[str, Any]:
        return self._told("reshare", domain, charter, quorum, nodes)

    async def abort(self, domain: str, reason: str) -> dict[str, Any]:
        return self._told("abort", domain, reason)

    async def set_domain(
        self, domain: str, refresh_every: int | None, rotate_every: int | None
    ) -> dict[str, Any]:
        return self._told("set", domain, refresh_every, rotate_every)

    async def rotate(self, domain: str) -> dict[str, Any]:
        return self._told("rotate", domain)

    async def pardon(self, name: str) -> dict[str, Any]:
        return self._told("pardon", name)

    def _told(self, *what: Any) -> dict[str, Any]:
        self.told.append(what)
        if self.fails is not None:
            raise self.fails
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
    assert commands.told == []


def test_possible_quorum_reaches_the_hub() -> None:
    commands = Commands()
    asked = {"charter": "Yw==", "threshold": 2, "shards": 3, "nodes": ["a", "b", "c"]}
    assert post(commands, "/v1/domains", asked) == (200, {"name": "payroll"})
    assert commands.told == [("create", b"c", Quorum(2, 3), ["a", "b", "c"], None)]


QUORUM = {"threshold": 2, "shards": 3}


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        (
            "/v1/domains",
            {"charter": "Yw==", **QUORUM, "refresh_every": 0},
            ("create", b"c", Quorum(2, 3), None, 0),
        ),
        ("/v1/domains/payroll/refresh", {}, ("refresh", "payroll")),
        ("/v1/domains/payroll/reshare", QUORUM, ("reshare", "payroll", None, Quorum(2, 3), None)),
        (
            "/v1/domains/payroll/reshare",
            {"charter": "Yw==", **QUORUM, "nodes": ["a", "b", "d"]},
            ("reshare", "payroll", b"c", Quorum(2, 3), ["a", "b", "d"]),
        ),
        ("/v1/domains/payroll/abort", {"reason": "why"}, ("abort", "payroll", "why")),
        ("/v1/nodes/node-2/pardon", {}, ("pardon", "node-2")),
        ("/v1/domains/payroll/settings", {"refresh_every": 3600}, ("set", "payroll", 3600, None)),
        ("/v1/domains/payroll/settings", {"rotate_every": 3600}, ("set", "payroll", None, 3600)),
        ("/v1/domains/payroll/rotate", {}, ("rotate", "payroll")),
        (
            "/v1/domains/payroll/settings",
            {"refresh_every": MAX_INTERVAL},
            ("set", "payroll", MAX_INTERVAL, None),
        ),
    ],
)
def test_order_reaches_the_hub(path: str, body: dict[str, Any], told: tuple[Any, ...]) -> None:
    commands = Commands()
    assert post(commands, path, body) == (200, {"name": "payroll"})
    assert commands.told == [told]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/domains/payroll/settings", {}, "there is nothing to set"),
        ("/v1/domains/payroll/settings", {"refresh_every": -1}, "an interval is 0 (never) to"),
        ("/v1/domains/payroll/settings", {"refresh_every": MAX_INTERVAL + 1}, "an interval is 0 (never) to"),
        ("/v1/domains/payroll/settings", {"refresh_every": "12h"}, "an interval is 0 (never) to"),
        ("/v1/domains/payroll/settings", {"rotate_every": 1.5}, "an interval is 0 (never) to"),
        ("/v1/domains", {"charter": "Yw==", **QUORUM, "refresh_every": -1}, "an interval is 0 (never) to"),
        ("/v1/domains/payroll/abort", {}, "'reason' is missing"),
        ("/v1/domains/payroll/reshare", {"threshold": 2}, "'shards' is missing"),
        ("/v1/domains/payroll/reshare", {"threshold": 3, "shards": 3}, "got 3 of 3"),
        ("/v1/domains/payroll/reshare", {**QUORUM, "nodes": "a,b,c"}, "nodes is a list of names"),
        ("/v1/domains/payroll/reshare", {**QUORUM, "charter": "?"}, ""),
    ],
)
def test_impossible_order_does_not_reach_the_hub(path: str, body: dict[str, Any], message: str) -> None:
    commands = Commands()
    status, answer = post(commands, path, body)
    assert (status, answer["error"]["code"]) == (400, "bad_input")
    assert message in answer["error"]["message"]
    assert commands.told == []


def test_n49_change_while_another_is_under_way_is_a_conflict() -> None:
    status, answer = post(Commands(fails=Busy(DomainId("payroll"))), "/v1/domains/payroll/refresh", {})
    assert (status, answer["error"]["code"]) == (409, "epoch_busy")
    assert "quorate domain abort" in answer["error"]["remedy"]


def test_change_that_too_few_nodes_are_there_for_is_unavailable() -> None:
    status, answer = post(Commands(fails=NotEnoughHolders("2 of 3")), "/v1/domains/payroll/refresh", {})
    assert (status, answer["error"]["code"], answer["error"]["message"]) == (
        503, "not_enough_holders", "2 of 3",
    )  # fmt: skip
