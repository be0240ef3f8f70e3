"""Who is asked, and which shapes of a quorum exist at all."""

import pytest

from quorate.ids import NodeId, Quorum
from quorate.protocol.quorum import Holder, Shard, margin, rank

A, B, C, D, E = (NodeId(name) for name in "abcde")
SHARDS: tuple[Shard, ...] = ((1, A), (2, B), (3, C), (4, D), (5, E))
SAME = {node: Holder("z") for node in (A, B, C, D, E)}


def names(ranked: tuple[Shard, ...]) -> str:
    return "".join(node.value for _, node in ranked)


def test_requesters_own_shard_comes_first() -> None:
    assert names(rank(SHARDS, D, SAME)) == "dabce"
    assert names(rank(SHARDS, D, SAME, most=2)) == "da"


def test_requester_without_a_shard_asks_the_others() -> None:
    assert names(rank(SHARDS, NodeId("x"), SAME)) == "abcde"


def test_nodes_that_are_not_there_are_left_out() -> None:
    assert names(rank(SHARDS, A, {A: Holder("z"), C: Holder("z")})) == "ac"


def test_other_zones_come_first_than_the_requesters_and_than_each_other() -> None:
    zones = {A: Holder("1"), B: Holder("1"), C: Holder("2"), D: Holder("2"), E: Holder("3")}
    assert names(rank(SHARDS, A, zones)) == "acebd"


def test_zone_goes_before_open_sessions_and_these_before_latency() -> None:
    holders = {
        A: Holder("1"),
        B: Holder("1", open_sessions=0, latency=0.0),
        C: Holder("2", open_sessions=3, latency=0.001),
        D: Holder("2", open_sessions=2, latency=0.9),
        E: Holder("2", open_sessions=2, latency=0.1),
    }
    assert names(rank(SHARDS, A, holders)) == "aebdc"


def test_choice_does_not_depend_on_the_order_of_what_it_is_given() -> None:
    assert rank(reversed(SHARDS), B, dict(reversed(SAME.items()))) == rank(SHARDS, B, SAME)


@pytest.mark.parametrize(
    ("threshold", "holders"),
    [(0, 5), (1, 5), (-1, 5), (6, 5), (5, 5), (2, 2), (2, 256), (255, 255), (2, 0)],
)
def test_n06_a_quorum_that_protects_nothing_or_can_lose_nobody_is_refused(
    threshold: int, holders: int
) -> None:
    with pytest.raises(ValueError, match="2 ≤ threshold < holders ≤ 255"):
        Quorum(threshold, holders)


@pytest.mark.parametrize(("threshold", "holders"), [(2, 3), (3, 5), (254, 255), (2, 255)])
def test_n06_the_edges_of_what_is_allowed_are_accepted(threshold: int, holders: int) -> None:
    assert str(Quorum(threshold, holders)) == f"{threshold} of {holders}"


@pytest.mark.parametrize(
    ("indices", "z"), [(3, 0), (4, 0), (5, 1), (8, 1), (9, 2), (15, 2), (16, 3), (23, 3), (24, 4), (255, 4)]
)
def test_commit_margin_grows_with_the_committee(indices: int, z: int) -> None:
    assert margin(indices, 2) == z


def test_commit_margin_never_asks_for_more_receipts_than_there_are_indices() -> None:
    assert margin(24, 22) == 2
    assert margin(5, 4) == 1
    assert margin(30, 29) == 1
