"""The member's side of an epoch change: one input, the whole step."""

from dataclasses import replace

import pytest

from quorate.ids import HUB, DomainId
from quorate.protocol import member
from quorate.protocol.member import Member, OpenPlan, Send, Step

DOMAIN, OTHER = DomainId("payroll"), DomainId("mail")
HASH = b"h" * 32
PLAN = member.PlanCame(DOMAIN, HASH, b"plan", b"charter")
WITH_PLAN = Member({DOMAIN: OpenPlan(HASH, (b"k1", b"k2"))})
KEYS = Send(HUB, "epoch/plan-keys", (HASH, [b"k1", b"k2"]))


def test_plan_is_given_to_the_module() -> None:
    assert Member().handle(PLAN) == Step(Member(), (member.AcceptPlan(DOMAIN, HASH, b"plan", b"charter"),))


def test_keys_that_were_made_go_to_the_hub() -> None:
    made = member.KeysMade(DOMAIN, HASH, (b"k1", b"k2"))
    assert Member().handle(made) == Step(WITH_PLAN, (KEYS,))


def test_repeated_plan_is_answered_with_the_same_keys() -> None:
    assert WITH_PLAN.handle(PLAN) == Step(WITH_PLAN, (KEYS,))


def test_another_plan_of_the_domain_is_given_to_the_module() -> None:
    later = replace(PLAN, plan_hash=b"i" * 32)
    assert WITH_PLAN.handle(later) == Step(
        WITH_PLAN, (member.AcceptPlan(DOMAIN, b"i" * 32, b"plan", b"charter"),)
    )


def test_later_plan_replaces_the_earlier_one_of_its_domain_only() -> None:
    both = Member({**WITH_PLAN.open, OTHER: OpenPlan(b"o" * 32, ())})
    step = both.handle(member.KeysMade(DOMAIN, b"i" * 32, (b"k3",)))
    assert step.state == Member({DOMAIN: OpenPlan(b"i" * 32, (b"k3",)), OTHER: OpenPlan(b"o" * 32, ())})


@pytest.mark.parametrize(
    ("event", "action"),
    [
        (
            member.PrepareCame(HASH, b"conf", (b"d",), ((1, 0, b"s"),)),
            member.Prepare(HASH, b"conf", (b"d",), ((1, 0, b"s"),)),
        ),
        (
            member.DealCame(HASH, b"plan", b"charter", (b"k1", b"k2")),
            member.Deal(HASH, b"plan", b"charter", (b"k1", b"k2")),
        ),
        (
            member.DealingsMade(HASH, ((b"d1", (b"s1", b"")), (b"d2", (b"s2", b"s3")))),
            Send(HUB, "epoch/dealings", (HASH, [[b"d1", [b"s1", b""]], [b"d2", [b"s2", b"s3"]]])),
        ),
        (
            member.CommitCame(HASH, b"conf", (b"r",), (b"d",)),
            member.Activate(HASH, b"conf", (b"r",), (b"d",)),
        ),
        (member.EraseCame((b"r1", b"r2")), member.Erase((b"r1", b"r2"))),
        (member.Prepared((b"r1", b"r2")), Send(HUB, "epoch/prepared", ([b"r1", b"r2"],))),
        (member.Activated(b"conf", (b"r1",)), Send(HUB, "epoch/activated", (b"conf", [b"r1"]))),
        (member.Activated(b"conf", ()), Send(HUB, "epoch/activated", (b"conf", []))),
        (member.Erased(b"erased"), Send(HUB, "epoch/erased", (b"erased",))),
        (
            member.ModuleRefused(HASH, "bad_share", "why"),
            Send(HUB, "epoch/refused", (HASH, "bad_share", "why", [])),
        ),
        (member.DisputeCame(HASH, b"conf", b"complaint"), member.Open(HASH, b"conf", b"complaint")),
        (
            member.Opened(b"opening"),
            Send(HUB, "epoch/opening", (b"opening",)),
        ),
    ],
)
def test_step_without_a_change_of_state(event: member.Event, action: member.Action) -> None:
    assert WITH_PLAN.handle(event) == Step(WITH_PLAN, (action,))


def test_abort_forgets_the_plan_here_and_in_the_module() -> None:
    assert WITH_PLAN.handle(member.AbortCame(HASH)) == Step(Member(), (member.Forget(HASH),))


def test_repeated_order_to_deal_is_the_modules_to_refuse() -> None:
    deal = member.DealCame(HASH, b"plan", b"charter", (b"k1",))
    once = WITH_PLAN.handle(deal)
    assert once.state.handle(deal) == once


def test_complaints_are_said_again_where_the_order_to_prepare_comes_again() -> None:
    told = Send(HUB, "epoch/complaint", ([b"c1", b"c2"],))
    once = WITH_PLAN.handle(member.Complained(HASH, (b"c1", b"c2")))
    assert once == Step(Member({DOMAIN: OpenPlan(HASH, (b"k1", b"k2"), (b"c1", b"c2"))}), (told,))
    prepare = member.PrepareCame(HASH, b"conf", (b"d",), ((1, 0, b"s"),))
    assert once.state.handle(prepare) == Step(once.state, (told,))
    of_another = replace(prepare, plan_hash=b"i" * 32)
    assert isinstance(once.state.handle(of_another).do[0], member.Prepare)
