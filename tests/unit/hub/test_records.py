"""The fleet's one order of records: who may add what, compare-and-set on versions, who gets what when."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.hub.members import create_and_lease

from quorate import _core
from quorate.hub.records import RecordRefused, Records
from quorate.ids import NodeId

Run = Callable[[Any], None]
KEY = b"k" * 16
_COMMITTED = hashlib.sha256(
    _core.encode(["quorate/v1/access/commitment", _core.encode(["QKIAAAAAAAAAAAAAAAAA", b"x"])])
).digest()
"""What an operator's core wants of a secret that is sealed: that of the access key with the secret `x`."""


async def refused(adding: Any) -> RecordRefused:
    with pytest.raises(RecordRefused) as caught:
        await adding
    return caught.value


def test_record_is_ordered_learnt_and_sent_to_everybody(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        node = await hub.enrol("a")
        hub.heartbeat("a", sequence=0)
        statement = node.revise_alias("alias/x", target=KEY, now=1)
        adding = asyncio.ensure_future(hub.records.add(statement, by="a"))
        await hub.fleet.until("record/sync", 1)
        assert not adding.done()  # until the node has it
        hub.heartbeat("a", sequence=1)
        assert await adding == 1
        assert hub.fleet.of_kind("record/sync") == [(NodeId("a"), (1, 1, [statement]))]
        assert hub.hub.records("alias") == [statement]
        assert hub.audited()[-1] == "record"

    with_hub(work)


def test_of_two_changes_of_one_version_the_second_is_refused_and_shown_the_first(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        a, b = await hub.enrol("a"), await hub.enrol("b")
        b.install_roster(hub.hub.roster())
        first = a.revise_alias("alias/x", target=KEY, now=1)
        second = b.revise_alias("alias/x", target=b"l" * 16, now=2)
        outcomes = await asyncio.gather(
            hub.records.add(first, by="a"), hub.records.add(second, by="b"), return_exceptions=True
        )
        assert outcomes[0] == 1
        assert isinstance(outcomes[1], RecordRefused)
        assert (outcomes[1].code, outcomes[1].current) == ("stale_version", first)
        assert [r.statement for r in await hub.database.records(0, 10)] == [first]

    with_hub(work)


def test_version_cannot_be_skipped(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        node = await hub.enrol("a")
        versions = []
        for now in range(1, 5):  # a node that runs ahead of the fleet
            versions.append(node.revise_alias("alias/x", target=KEY, now=now))
            assert node.learn(versions[-1:]) == ["new"]
        early = await refused(hub.records.add(versions[1], by="a"))
        assert (early.code, early.current) == ("stale_version", None)
        await hub.records.add(versions[0], by="a")
        skipping = await refused(hub.records.add(versions[3], by="a"))
        assert (skipping.code, skipping.current) == ("stale_version", versions[0])
        assert hub.hub.records("alias") == [versions[0]]

    with_hub(work)


def test_next_version_with_another_parent_is_refused(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        a, b = await hub.enrol("a"), await hub.enrol("b")
        await hub.records.add(a.revise_alias("alias/x", target=KEY, now=1), by="a")
        b.learn([b.revise_alias("alias/x", target=KEY, now=9)])  # a first version of its own
        grafted = b.revise_alias("alias/x", target=KEY, now=10)
        assert (await refused(hub.records.add(grafted, by="b"))).code == "stale_version"
        assert await hub.database.last_sequence() == 1

    with_hub(work)


def test_nothing_brings_a_key_back_once_its_deletion_date_has_come(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await create_and_lease(hub, "payroll")
        node = hub.modules["a"]
        made = node.make_key(key_id=KEY, domain="payroll", description="", tags=[], created=1)
        await hub.records.add(made, by="a")
        node.learn([made])
        scheduled = node.revise_key(KEY, state="pending-deletion", deletion=2_000_000)
        await hub.records.add(scheduled, by="a")
        node.learn([scheduled])
        for change in (
            node.revise_key(KEY, state="disabled", deletion=None),
            node.revise_key(KEY, state="enabled", deletion=None),
            node.revise_key(KEY, state="pending-deletion", deletion=9_000_000),
        ):
            hub.wall = 2000.0
            assert (await refused(hub.records.add(change, token="signature", by="a"))).code == "bad_state"
        assert hub.hub.records("key") == [scheduled]
        assert not await hub.database.is_spent("signature")
        assert await hub.records.add(scheduled, by="a") == 2  # a repeat is no change
        hub.wall = 1999.9
        await hub.records.add(node.revise_key(KEY, state="disabled", deletion=None), by="a")

    with_hub(work)


def test_key_may_be_marked_deleted_once_its_deletion_date_has_come(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await create_and_lease(hub, "payroll")
        node = hub.modules["a"]
        made = node.make_key(key_id=KEY, domain="payroll", description="", tags=[], created=1)
        node.learn([made])
        scheduled = node.revise_key(KEY, state="pending-deletion", deletion=2_000_000)
        node.learn([scheduled])
        hub.wall = 2000.0
        for statement in (made, scheduled, node.revise_key(KEY, state="deleted", deletion=None)):
            await hub.records.add(statement, by="a")
        assert [_core.view(record)["state"] for record in hub.hub.records("key")] == ["deleted"]

    with_hub(work)


def test_repeat_of_a_record_keeps_its_number(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        node = await hub.enrol("a")
        statement = node.revise_alias("alias/x", target=KEY, now=1)
        assert await hub.records.add(statement, by="a") == await hub.records.add(statement, by="a") == 1

    with_hub(work)


def test_n75_request_is_carried_out_once_in_the_whole_fleet(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        a, b = await hub.enrol("a"), await hub.enrol("b")
        await hub.records.add(a.revise_alias("alias/x", target=KEY, now=1), token="signature", by="a")
        replayed = hub.records.add(b.revise_alias("alias/y", target=KEY, now=1), token="signature", by="b")
        assert (await refused(replayed)).code == "replayed"
        assert await hub.database.last_sequence() == 1

    with_hub(work)


def test_refused_record_spends_no_signature(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        node = await hub.enrol("a")
        node.learn([node.revise_alias("alias/x", target=KEY, now=1)])
        await refused(
            hub.records.add(node.revise_alias("alias/x", target=KEY, now=2), token="signature", by="a")
        )
        assert not await hub.database.is_spent("signature")

    with_hub(work)


def test_statement_that_is_no_record_is_refused(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        for statement in (hub.hub.roster(), hub.operator.fleet_info, b"\xff"):
            assert (await refused(hub.records.add(statement, by="a"))).code == "wrong_kind"

    with_hub(work)


def test_n92_record_of_a_module_outside_the_roster_or_of_another_operator_is_refused(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        outsider = hub.module("b")
        outsider.enrol_request(await hub.invite("b"), address="127.0.0.1:7001")  # pins the fleet only
        alias = outsider.revise_alias("alias/x", target=KEY, now=1)
        await refused(hub.records.add(alias, by="b"))
        rogue = _core.Operator.create(
            hub.directory / "rogue", region="us-east-1", account="000000000000", not_before=1
        )
        admin = rogue.access_key(
            access_key_id="QKIAAAAAAAAAAAAAAAAA",
            user="eve",
            role="admin",
            enabled=True,
            created=1,
            sealed=_core.encode([1, b"s", _COMMITTED]),
            secret="x",
        )
        await refused(hub.records.add(admin, by="b"))
        assert await hub.database.last_sequence() == 0
        assert hub.hub.records("access") == []

    with_hub(work)


def test_proposal_is_answered_with_its_outcome(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        node = await hub.enrol("a")
        first = node.revise_alias("alias/x", target=KEY, now=1)
        rival = node.revise_alias("alias/x", target=KEY, now=2)
        for request, statement in ((b"1" * 16, first), (b"2" * 16, rival), (b"3" * 16, b"\xff")):
            hub.records._on_propose(NodeId("a"), [request, "", statement])
            await hub.fleet.settle()
        results = [fields for _, fields in hub.fleet.of_kind("record/result")]
        assert [(r[0], r[1], r[3]) for r in results] == [
            (b"1" * 16, "ok", []),
            (b"2" * 16, "stale_version", [first]),
            (b"3" * 16, "wrong_kind", []),
        ]

    with_hub(work)


def test_node_that_lacks_records_gets_them_in_order_once(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        node = await hub.enrol("a")
        statements = []
        for now in range(1, 4):
            statements.append(node.revise_alias("alias/x", target=KEY, now=now))
            node.learn(statements[-1:])
            await hub.records.add(statements[-1], by="a")
        await hub.fleet.settle()
        hub.nodes.lost(NodeId("a"))
        hub.fleet.posted.clear()
        hub.heartbeat("a", sequence=1)
        hub.heartbeat("a", sequence=1)
        await hub.fleet.settle()
        assert hub.fleet.of_kind("record/sync") == [(NodeId("a"), (2, 3, statements[1:]))]

    with_hub(work)


def test_record_that_a_crash_kept_out_of_the_order_gets_its_place_at_the_next_start(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        node = await hub.enrol("a")
        statement = node.revise_alias("alias/x", target=KEY, now=1)
        assert hub.hub.learn([statement]) == ["new"]  # and here the process was killed
        again = Records(
            hub.hsm, hub.fleet, hub.enrolments._journal, hub.database, hub.nodes, lambda: hub.wall
        )
        await again.load()
        assert again.last == 1
        assert [r.statement for r in await hub.database.records(0, 10)] == [statement]

    with_hub(work)


def test_n84_record_without_its_audit_line_is_refused(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        node = await hub.enrol("a")
        hub.audit.close()
        hub.records._on_propose(NodeId("a"), [b"1" * 16, "", node.revise_alias("alias/x", target=KEY, now=1)])
        await hub.fleet.settle()
        ((_, result),) = hub.fleet.of_kind("record/result")
        assert result[1] == "storage_failed"
        assert hub.hub.records("alias") == []
        assert await hub.database.last_sequence() == 0

    with_hub(work)
