"""Who is asked: the hub's choice of a quorum (DetermineQuorum).

Here: the order in which a domain's shards are called for one requester.
Not here: which shards are free and which nodes are live (`session`); whether a holder agrees (its module).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quorate.ids import NodeId

Shard = tuple[int, NodeId]
"""An index of a committee, and the node that holds it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """What the hub knows of a live node. `latency`: seconds until its recent answers came, smoothed."""

    zone: str
    open_sessions: int = 0
    latency: float = 0.0


def rank(
    shards: Iterable[Shard], requester: NodeId, holders: Mapping[NodeId, Holder], most: int | None = None
) -> tuple[Shard, ...]:
    """The `shards` of nodes in `holders`, the best first; the best `most` of them, or all.

    The requester's own shard costs no message, so it comes first. Then, again and again, the shard whose zone
    has been called least so far, whose node has the fewest open sessions and the best latency; the index
    breaks ties, so that the choice is reproducible.
    """
    left = sorted(shard for shard in shards if shard[1] in holders)
    zones: dict[str, int] = {}
    if (own := holders.get(requester)) is not None:
        zones[own.zone] = 1
    ranked: list[Shard] = []

    def cost(shard: Shard) -> tuple[bool, int, int, float, int]:
        index, node = shard
        holder = holders[node]
        return node != requester, zones.get(holder.zone, 0), holder.open_sessions, holder.latency, index

    while left and (most is None or len(ranked) < most):
        best = min(left, key=cost)
        left.remove(best)
        ranked.append(best)
        if best[1] != requester:
            zone = holders[best[1]].zone
            zones[zone] = zones.get(zone, 0) + 1
    return tuple(ranked)


def margin(indices: int, threshold: int) -> int:
    """z: how many receipts beyond the threshold a commit needs, by the number of indices; never above n - k."""
    steps = ((4, 0), (8, 1), (15, 2), (23, 3))
    wanted = next((z for most, z in steps if indices <= most), 4)
    return min(wanted, indices - threshold)


def erase_quorum(indices: int, threshold: int) -> int:
    """How many indices must hold a new epoch before an old one is erased: of 2k - 1, k do although k - 1 lie."""
    return min(indices, 2 * threshold - 1)
