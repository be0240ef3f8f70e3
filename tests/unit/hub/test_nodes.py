"""What heartbeats tell the hub: all once, then what has changed."""

from typing import Any

from quorate.hub.nodes import Domains, Nodes
from quorate.ids import DomainId, NodeId

A = NodeId("a")
MAIL, WEB = DomainId("mail"), DomainId("web")


class Hub:
    def __init__(self) -> None:
        self.now = 0.0
        self.changes: list[Domains] = []
        self.asked: list[NodeId] = []
        self.nodes = Nodes(
            lambda: self.now, lambda _, domains: self.changes.append(domains), self.asked.append
        )
        self.nodes.greeted(A)

    def beat(self, since: int, version: int, *rows: list[Any]) -> Domains:
        self.nodes._on_heartbeat(A, ["ready", True, 0, 0, 0, 1, since, version, list(rows)])
        return self.changes[-1]

    @property
    def epochs(self) -> dict[DomainId, tuple[int, bytes]]:
        return self.nodes.known[A].epochs


def row(domain: DomainId, epoch: int, *retired: int, worn: bool = False) -> list[Any]:
    return [domain.value, epoch, b"h%d" % epoch, list(retired), worn]


def test_heartbeat_names_what_it_says_anew_and_leaves_the_rest() -> None:
    hub = Hub()
    assert hub.beat(0, 3, row(MAIL, 1), row(WEB, 4, 2)) is None, "all of it is new"
    assert hub.beat(3, 3) == frozenset()
    assert hub.beat(3, 4, row(MAIL, 2, 1, worn=True)) == {MAIL}
    known = hub.nodes.known[A]
    assert (hub.epochs, known.worn) == ({MAIL: (2, b"h2"), WEB: (4, b"h4")}, {MAIL})
    assert known.retired == {MAIL: {1}, WEB: {2}}
    assert hub.beat(4, 5, row(MAIL, 3)) == {MAIL}
    assert (known.worn, known.retired[MAIL]) == (set(), frozenset())
    assert hub.asked == []


def test_change_of_something_that_is_not_known_is_not_taken_and_all_is_asked_for() -> None:
    hub = Hub()
    hub.beat(0, 3, row(MAIL, 1))
    assert hub.beat(4, 5, row(MAIL, 9)) == frozenset()
    assert (hub.epochs, hub.asked) == ({MAIL: (1, b"h1")}, [A])
    assert hub.beat(0, 6, row(WEB, 2)) is None
    assert (hub.epochs, hub.asked) == ({WEB: (2, b"h2")}, [A])


def test_after_its_link_was_lost_a_node_says_all_again() -> None:
    hub = Hub()
    hub.beat(0, 3, row(MAIL, 1))
    hub.nodes.lost(A)
    assert hub.changes[-1] is None
    hub.nodes.greeted(A)
    hub.beat(3, 4, row(MAIL, 2))
    assert (hub.epochs, hub.asked) == ({MAIL: (1, b"h1")}, [A])


def test_node_that_was_silent_is_looked_at_in_all_its_domains() -> None:
    hub = Hub()
    hub.beat(0, 1, row(MAIL, 1))
    hub.now = 5.0
    hub.nodes.tick()
    assert (hub.changes[-1], hub.nodes.is_live(A)) == (None, False)
    assert hub.beat(1, 1) is None
    assert hub.beat(1, 1) == frozenset()
