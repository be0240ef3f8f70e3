"""Disputes at the hub with real modules: who is convicted, what is on record, and how changes go on without them."""

import asyncio
import re
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.hub.members import Members, held, with_domain

from quorate import _core
from quorate.host.dispatch import Dropped
from quorate.hub.changes import NotEnoughHolders
from quorate.hub.disputes import Disputes
from quorate.hub.epochs import EpochAborted
from quorate.ids import DomainId, NodeId, Quorum
from quorate.protocol import dispute

Run = Callable[[Any], None]
PAYROLL = DomainId("payroll")
FOUR = ("a", "b", "c", "d")
A, B, C, D = (NodeId(name) for name in FOUR)


class WithLiar(Members):
    """The liar has two keys made for each plan: the dealers seal to one, and it opens with the other, so that its
    complaints are well signed and false.
    """

    def __init__(self, hub: Any, liar: str) -> None:
        super().__init__(hub, hub.epochs)
        self.liar = liar

    def _carry_out(self, to: NodeId, kind: str, fields: tuple[Any, ...]) -> None:
        if to.value == self.liar and kind == "epoch/plan":
            module = self.hub.modules[self.liar]
            twin_path = self.hub.directory / f"twin-{module.generation}"
            shutil.copytree(self.hub.directory / self.liar, twin_path)
            twin = _core.Module.open(twin_path)
            keys = twin.accept_plan(*fields)
            twin.close()
            module.accept_plan(*fields)
            self.epochs._on_keys(to, [_core.view(fields[0])["hash"], keys])
            return
        super()._carry_out(to, kind, fields)


async def with_liar(hub: Any, quorum: Quorum, liar: str = "d") -> WithLiar:
    await with_domain(hub, FOUR, quorum)
    return WithLiar(hub, liar)


async def refused(members: Members, change: Any) -> EpochAborted:
    with pytest.raises(EpochAborted) as caught:
        await members.make(change)
    await members.settle()
    members.heartbeats()
    return caught.value


def lines(hub: Any, event: str) -> list[str]:
    log = (hub.directory / "audit.log").read_text().splitlines()
    return [line for line in log if f'"event":{{"event":"{event}"' in line]


def test_n95_who_complains_falsely_is_convicted_and_the_next_change_goes_on_without_it(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_liar(hub, Quorum(2, 4))
        why = await refused(members, hub.changes.refresh(PAYROLL))
        assert why.culprits == ("d",)
        assert "d complained falsely of a; d complained falsely of b" in str(why)
        assert hub.epochs.disputes.convicted == {D: "false_complaint"}
        assert hub.epochs.domains[PAYROLL].epoch == 1
        assert [held(hub, name) for name in "abd"] == [[(1, "current", [i])] for i in (1, 2, 4)]
        assert held(hub, "c")[-1] == (2, "pending", [3]), "a and b have left the attempt before they opened"

        domain = await members.make(hub.changes.refresh(PAYROLL))
        assert domain.epoch == 3
        assert [held(hub, name)[-1] for name in "abc"] == [(3, "current", [i]) for i in (1, 2, 3)]
        assert held(hub, "d")[-1] == (3, "current", [])
        row = next(row for row in await hub.database.attempts() if row.epoch == 2)
        assert (row.phase, row.sealed, row.reason) == ("aborted", None, "d complains of what a dealt to it")

    with_hub(work)


def test_n95_verdict_is_on_record_with_its_evidence(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_liar(hub, Quorum(2, 4))
        await refused(members, hub.changes.refresh(PAYROLL))
        first, second = lines(hub, "verdict")
        for line, dealer in ((first, "a"), (second, "b")):
            for part in (
                f'"convicted":"d","reason":"false_complaint","proven":true,"accuser":"d","index":4,"dealer":"{dealer}"'
            ).split(","):
                assert part in line
            for evidence in ("configuration", "dealing", "complaint", "opening"):
                assert re.search(f'"{evidence}":"[0-9a-f]{{64}}"', line)
        order = [event for event in hub.audited() if event in ("epoch", "verdict")]
        assert order[-3:] == ["epoch", "verdict", "verdict"], "the abort is durable first"

    with_hub(work)


def test_n95_convicted_member_is_not_repaired_and_is_no_dealer_until_it_is_pardoned(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_liar(hub, Quorum(2, 4), liar="a")
        await refused(members, hub.changes.refresh(PAYROLL))
        await members.make(hub.changes.refresh(PAYROLL))
        known = hub.epochs.domains[PAYROLL]
        assert A in hub.epochs.settlings.lagging(PAYROLL)
        turn = _turn()
        assert hub.changes._due(known, turn) is None
        assert turn.lagging_since is None
        order = hub.changes._order("refresh", _source(hub), known.threshold, known.shards)
        assert A not in {node for node, _ in order.dealers}

        assert await hub.epochs.disputes.pardon(A)
        assert not await hub.epochs.disputes.pardon(A)
        assert len(lines(hub, "pardon")) == 1
        members.liar = ""
        domain = await members.make(hub.changes._repair(hub.epochs.domains[PAYROLL]))
        assert held(hub, "a")[-1] == (domain.epoch, "current", [1])

    with_hub(work)


def _turn() -> Any:
    from quorate.hub.changes import _Turn

    return _Turn()


def _source(hub: Any) -> Any:
    from quorate.hub.changes import _current

    return _current(hub.epochs.domains[PAYROLL])


def test_n95_dealer_that_is_silent_is_only_put_last(with_hub: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(hub: Any) -> None:
        members = await with_liar(hub, Quorum(2, 4))
        members.lost.add("epoch/dispute")
        why = await refused(members, hub.changes.refresh(PAYROLL))
        assert (why.culprits, hub.epochs.disputes.convicted) == ((), {})
        assert "a did not open what it dealt to d" in str(why)
        assert all('"reason":"silent","proven":false' in line for line in lines(hub, "verdict"))
        known = hub.epochs.domains[PAYROLL]
        order = hub.changes._order("refresh", _source(hub), 2, known.shards)
        assert [node for node, _ in order.dealers] == [C, D]
        # Where there is nobody else they deal all the same: who complains makes no change impossible.
        for name in ("c", "d"):
            members.leave(name)
        order = hub.changes._order("refresh", _source(hub), 2, ((1, A), (2, B)))
        assert [node for node, _ in order.dealers] == [A, B]

    monkeypatch.setattr("quorate.protocol.epoch_change.DISPUTE_SECONDS", 0.05)
    with_hub(work)


def test_n95_complaint_that_its_index_did_not_sign_is_dropped(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_liar(hub, Quorum(2, 4))
        members.lost |= {"epoch/dispute"}
        making = asyncio.ensure_future(hub.changes.refresh(PAYROLL))
        await members.run_until(asyncio.ensure_future(hub.fleet.until("epoch/dispute", 2)))
        running = hub.epochs._running[PAYROLL]
        assert running.attempt.phase.value == "disputed"
        case = next(iter(running.attempt.disputes.cases.values()))
        dealt = running.attempt.dealt
        with pytest.raises(Dropped):
            hub.epochs.disputes.complaint(C, case.complaint, dealt)
        altered = case.complaint[:-1] + bytes([case.complaint[-1] ^ 1])
        with pytest.raises(_core.CoreError):
            hub.epochs.disputes.complaint(D, altered, dealt)
        with pytest.raises(Dropped):
            hub.epochs.disputes.plan_of(dealt.configuration)
        assert running.attempt.waits_for == (A, B)
        making.cancel()

    with_hub(work)


def test_n95_opening_of_another_complaint_is_no_answer(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_liar(hub, Quorum(2, 4))
        members.lost |= {"epoch/dispute"}
        making = asyncio.ensure_future(hub.changes.refresh(PAYROLL))
        await members.run_until(asyncio.ensure_future(hub.fleet.until("epoch/dispute", 2)))
        (_, of_a), (_, of_b) = hub.fleet.of_kind("epoch/dispute")
        opening = hub.modules["b"].answer_complaint(*of_b)
        case = hub.epochs._running[PAYROLL].attempt.disputes.cases[_core.view(of_a[1])["hash"]]
        assert await hub.epochs.disputes.judge(of_a[0], case, opening) is None
        making.cancel()

    with_hub(work)


def test_n95_convicted_dealer_deals_no_more_and_too_few_are_told_apart(
    with_hub: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an opening proves is shown with the core; here, what a conviction of the dealer leads to."""

    async def cheated(
        _disputes: Disputes, _configuration: bytes, case: dispute.Case, opening: bytes
    ) -> dispute.Judged:
        verdict = dispute.Verdict(case.dealer, "wrong_sub_share", proven=True)
        return dispute.Judged(case.hash, verdict, opening)

    async def work(hub: Any) -> None:
        members = await with_liar(hub, Quorum(2, 4))
        monkeypatch.setattr(Disputes, "judge", cheated)
        why = await refused(members, hub.changes.refresh(PAYROLL))
        assert why.culprits == ("a", "b")
        known = hub.epochs.domains[PAYROLL]
        order = hub.changes._order("refresh", _source(hub), 2, known.shards)
        assert [node for node, _ in order.dealers] == [C, D]
        with pytest.raises(
            NotEnoughHolders, match="waits for 3 members, and 2 are live, without the convicted a, b"
        ):
            hub.changes._order("reshare", _source(hub), 3, known.shards)
        charter = _core.view_approved(hub.epochs.charter(PAYROLL))
        with pytest.raises(NotEnoughHolders, match="2 of 4 holders are live, without the convicted a, b"):
            hub.changes._committee(charter, Quorum(2, 3), None, known.shards)
        assert await hub.epochs.disputes.pardon(B)
        committee = hub.changes._committee(charter, Quorum(2, 3), None, known.shards)
        assert [node for _, node in committee] == [B, C, D]
        hub.epochs.disputes.convicted[B] = "wrong_sub_share"
        hub.epochs.disputes.convicted[C] = "wrong_sub_share"
        with pytest.raises(NotEnoughHolders, match="without the convicted a, b, c"):
            hub.changes._order("refresh", _source(hub), 2, known.shards)

    with_hub(work)
