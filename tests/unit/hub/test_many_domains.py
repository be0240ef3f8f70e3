"""Many domains in one fleet, with real modules: all are refreshed, and what is said four times a second stays short."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.hub.conftest import FakeFleet
from tests.unit.hub.members import NAMES, create, with_domain
from tests.unit.hub.test_changes import Clock, phases, tick

from quorate import _core
from quorate.hsm import Hsm
from quorate.hub.changes import REFRESH_EVERY, REST
from quorate.ids import DomainId
from quorate.node.epochs import Epochs

MANY = 20


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_all_domains_are_refreshed_and_a_heartbeat_says_only_what_is_new(
    with_hub: Callable[[Any], None], clock: Clock
) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        for number in range(MANY - 1):
            await members.make(create(hub, hub.charter(f"many-{number}", *NAMES)))
        fleet: Any = FakeFleet()
        a = Epochs(Hsm(hub.modules["a"]), fleet, fleet, lambda _: None, lambda: None)
        whole = len(_core.encode(list(a.news())))
        assert len(_core.encode(list(a.news()))) < 20 < whole / MANY
        clock.wall += REFRESH_EVERY
        begun = len(hub.fleet.of_kind("epoch/plan"))
        for _ in range(MANY):
            assert await tick(hub, members)
            clock.monotonic += REST
        assert not await tick(hub, members)
        assert len(hub.fleet.of_kind("epoch/plan")) == begun + MANY * len(NAMES)
        assert {domain.epoch for domain in hub.epochs.domains.values()} == {2}
        assert await phases(hub) == [(2, "closed")] * MANY, "the database does not grow with each refresh"
        a.refresh(DomainId("many-3"))
        assert len(_core.encode(list(a.news()))) < 1.5 * whole / MANY

    with_hub(work)
