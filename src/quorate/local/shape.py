"""The shape of a fleet on one machine: what `up` was given, fixed by the first one.

Here: `fleet.json`, defaults, and whether what somebody asks for is what is there.
Not here: where options come from (`cli.settings`), starting anything.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from quorate.errors import BadInput, QuorateError
from quorate.host import formats
from quorate.local.layout import Layout, read_json, write_json

FORMAT = 2
"""The version of `fleet.json`. Format 1 had no `names`: its nodes were never added or replaced."""
_CHANGEABLE = ("log_format", "log_level")
"""Fields that a later `up` may change, and that a file of before they existed lacks."""


class ShapeChanged(QuorateError):
    code = "shape_changed"

    def __init__(self, directory: Path, changes: Mapping[str, tuple[Any, Any]]) -> None:
        told = ", ".join(f"{field} is {old} there, not {new}" for field, (old, new) in changes.items())
        super().__init__(
            f"{directory} holds a fleet of another shape: {told}",
            kept="the fleet was left as it is",
            remedy="leave the option away, or use another --data for another fleet",
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """What `up` was given; fixed by the first one, but for the logs' settings, which each may change."""

    nodes: int
    threshold: int
    port: int
    region: str
    account: str
    log_format: str = "text"
    log_level: str = "info"
    names: tuple[str, ...] = ()
    """The nodes, once some were added or replaced."""

    def __post_init__(self) -> None:
        if not 3 <= self.nodes <= 255 or not 2 <= self.threshold < self.nodes:
            raise BadInput(
                f"{self.threshold} of {self.nodes} nodes is no quorum that this fleet can have",
                remedy="take 2 ≤ threshold < nodes ≤ 255, for example --nodes 5 --threshold 3",
            )
        if not 0 <= self.port <= 65535:
            raise BadInput(
                f"{self.port} is not a port", remedy="take one from 1 to 65535, or 0 for a free one"
            )
        if not re.fullmatch(r"[0-9]{12}", self.account, re.ASCII):
            raise BadInput(f"account id {self.account!r} is not 12 digits", remedy="give --account 12 digits")
        if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-[0-9]", self.region, re.ASCII):
            raise BadInput(
                f"{self.region!r} does not look like a region", remedy="give one like us-east-1 to --region"
            )

    @property
    def node_names(self) -> list[str]:
        return list(self.names) or [f"node-{number}" for number in range(1, self.nodes + 1)]

    def with_nodes(self, names: Iterable[str]) -> "Shape":
        listed = tuple(names)
        return replace(self, nodes=len(listed), names=listed)


def read_shape(layout: Layout) -> Shape | None:
    """The shape in `fleet.json`, None without one. Raises `NewerFormat`, `DataDirectoryMismatch`, `BadInput`."""
    found = read_json(layout.shape)
    if found is None:
        return None
    if found.get("format") != 1:
        formats.check(layout.shape, found.get("format"), FORMAT)
    later = (*_CHANGEABLE, "names")
    try:
        told = {field: found[field] for field in Shape.__dataclass_fields__ if field not in later}
        changed = {field: found[field] for field in _CHANGEABLE if field in found}
        return Shape(**told, **changed, names=tuple(found.get("names", ())))
    except (KeyError, TypeError) as why:
        raise BadInput(
            f"{layout.shape} lacks {why}",
            remedy="restore the file from a copy, or start a new data directory",
        ) from why


def write_shape(layout: Layout, shape: Shape) -> None:
    write_json(layout.shape, {"format": FORMAT, **asdict(shape)})


DEFAULT = Shape(nodes=5, threshold=3, port=4500, region="us-east-1", account="000000000000")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asked for; None is "as it was", and at first the default."""

    nodes: int | None = None
    threshold: int | None = None
    port: int | None = None
    region: str | None = None
    account: str | None = None
    log_format: str | None = None
    log_level: str | None = None


def settle(layout: Layout, wanted: Wanted) -> Shape:
    """The shape that `up` is to have. Raises `ShapeChanged`, `BadInput`, `DataDirectoryMismatch`."""
    asked = {field.name: getattr(wanted, field.name) for field in fields(Wanted)}
    asked = {name: value for name, value in asked.items() if value is not None}
    there = read_shape(layout)
    if there is None:
        if layout.data.exists() and any(layout.data.iterdir()) and not _is_fresh(layout):
            raise BadInput(
                f"{layout.data} is not empty, and no fleet that `up` made",
                remedy="use another --data, or start its parts with `quorate hub serve` and `quorate node serve`",
            )
        if "nodes" in asked and "threshold" not in asked:
            asked["threshold"] = asked["nodes"] // 2 + 1
        return replace(DEFAULT, **asked)
    changes = {
        name: (getattr(there, name), value)
        for name, value in asked.items()
        if name not in _CHANGEABLE and value != getattr(there, name) and not (name == "port" and value == 0)
    }
    if changes:
        raise ShapeChanged(layout.data, changes)
    return replace(there, **{name: value for name, value in asked.items() if name in _CHANGEABLE})


def _is_fresh(layout: Layout) -> bool:
    ours = {layout.settings.name, layout.logs.name, "up.lock"}
    return {entry.name for entry in layout.data.iterdir()} <= ours
