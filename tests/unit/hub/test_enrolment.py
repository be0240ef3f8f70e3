"""Who gets a place: one request for each token, the operator's decision, the same answer to the same request."""

from collections.abc import Callable
from typing import Any

import pytest

from quorate import _core
from quorate.hub.enrolment import NotAsked, TokenRefused

Run = Callable[[Any], None]


def test_request_waits_for_the_operator_and_is_answered_alike_ever_after(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        module = hub.module("a")
        request = module.enrol_request(await hub.invite("a"), address="127.0.0.1:7001")
        assert await hub.ask(request) == ["pending", module.fingerprint]
        assert await hub.ask(request) == ["pending", module.fingerprint]
        entry, authority = hub.operator.approve_entry(request, not_before=1)
        assert await hub.enrolments.approve("a", entry, authority) == 2
        first, again = await hub.ask(request), await hub.ask(request)
        assert first[:5] == again[:5] == ["enrolled", entry, authority, hub.operator.fleet_info, first[4]]
        module.install_roster(first[4])
        assert module.accept_rekey(first[5]) == module.accept_rekey(again[5]) == 1
        assert hub.rosters == 1
        assert hub.audited() == ["token", "enrolment", "approved"]

    with_hub(work)


def test_n64_token_is_refused_to_another_module_before_and_after_approval(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        invitation = await hub.invite("a")
        module, thief = hub.module("a"), hub.module("a", "thief")
        request = module.enrol_request(invitation, address="127.0.0.1:7001")
        stolen = thief.enrol_request(invitation, address="127.0.0.1:7001")
        assert (await hub.ask(request))[0] == "pending"
        refused = ["refused", "not_authorized", "the token was used by another request"]
        assert await hub.ask(stolen) == refused
        entry, authority = hub.operator.approve_entry(request, not_before=1)
        await hub.enrolments.approve("a", entry, authority)
        assert await hub.ask(stolen) == refused
        assert (await hub.ask(request))[0] == "enrolled"
        keys = [entry["sign"] for entry in hub.hub.entries()]
        assert _core.view(stolen)["sign"] not in keys
        assert hub.audited().count("enrolment_refused") == 2

    with_hub(work)


def test_n64_even_the_same_module_cannot_ask_for_something_else_with_a_used_token(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        invitation, module = await hub.invite("a"), hub.module("a")
        await hub.ask(module.enrol_request(invitation, address="127.0.0.1:7001"))
        moved = await hub.ask(module.enrol_request(invitation, address="127.0.0.1:7002"))
        assert moved[:2] == ["refused", "not_authorized"]

    with_hub(work)


def test_n64_keys_that_are_enrolled_get_no_second_place(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        module = await hub.enrol("a")
        answer = await hub.ask(module.enrol_request(await hub.invite("a"), address="127.0.0.1:7001"))
        assert answer[0] == "refused"
        assert len(hub.hub.entries()) == 2

    with_hub(work)


def test_token_out_of_date_or_bound_to_other_keys_is_refused(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        old = hub.module("a").enrol_request(await hub.invite("a", expires=1), address="127.0.0.1:7001")
        bound = await hub.invite("b", fingerprint=b"\x01" * 32)
        foreign = hub.module("b").enrol_request(bound, address="127.0.0.1:7001")
        for request in (old, foreign):
            assert (await hub.ask(request))[:2] == ["refused", "not_authorized"]
        assert await hub.database.enrolments() == []

    with_hub(work)


def test_n62_strangers_are_counted_and_write_nothing(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        module = hub.module("a")
        _, unknown = hub.operator.invite(
            name="a", role="holder", zone="z", enrol_address="127.0.0.1:7001", expires=2**40
        )
        request = module.enrol_request(unknown, address="127.0.0.1:7001")
        before = (hub.directory / "audit.log").stat().st_size
        for message in (
            b"\xff",
            _core.encode(["enrol", b"\xff"]),
            _core.encode(["enrol"]),
            _core.encode(7),
            _core.encode(["enrol", hub.hub.roster()]),
            _core.encode(["enrol", request]),
        ):
            assert _core.decode(await hub.enrolments.answer(message))[0] == "refused"
        assert len(hub.strangers) == 6
        assert (hub.directory / "audit.log").stat().st_size == before

    with_hub(work)


def test_entry_that_nobody_asked_for_is_refused(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        invitation, module, other = await hub.invite("a"), hub.module("a"), hub.module("a", "other")
        await hub.ask(module.enrol_request(invitation, address="127.0.0.1:7001"))
        swapped = other.enrol_request(invitation, address="127.0.0.1:7001")
        entry, authority = hub.operator.approve_entry(swapped, not_before=1)
        with pytest.raises(NotAsked):
            await hub.enrolments.approve("a", entry, authority)
        assert len(hub.hub.entries()) == 1

    with_hub(work)


def test_n92_entry_or_token_of_another_operator_is_refused(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        rogue = _core.Operator.create(
            hub.directory / "rogue", region="us-east-1", account="000000000000", not_before=1
        )
        token, _ = rogue.invite(
            name="b", role="holder", zone="z", enrol_address="127.0.0.1:7001", expires=2**40
        )
        with pytest.raises(_core.CoreError):
            await hub.enrolments.add_token(token)
        request = hub.module("a").enrol_request(await hub.invite("a"), address="127.0.0.1:7001")
        await hub.ask(request)
        _, invitation = rogue.invite(
            name="a", role="holder", zone="zone-a", enrol_address="127.0.0.1:7001", expires=2**40
        )
        own = hub.module("a", "rogue-a").enrol_request(invitation, address="127.0.0.1:7001")
        entry, authority = rogue.approve_entry(own, not_before=1)
        with pytest.raises(NotAsked):
            await hub.enrolments.approve("a", entry, authority)
        with pytest.raises(_core.CoreError):
            hub.hub.admit(entry)
        assert len(hub.hub.entries()) == 1
        assert (await hub.ask(request))[0] == "pending"

    with_hub(work)


def test_statement_that_is_no_token_is_refused(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        with pytest.raises(TokenRefused, match="another statement"):
            await hub.enrolments.add_token(hub.operator.fleet_info)

    with_hub(work)
