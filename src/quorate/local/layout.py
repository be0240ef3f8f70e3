"""Where everything of one data directory lies, and the shape that `up` gave it.

Here: paths, `fleet.json`, writing a file whole or not at all.
Not here: what the files of a hub or a node hold; their rooms own them.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quorate.errors import BadInput, DataDirectoryMismatch

FORMAT = 1
"""The version of `fleet.json`."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one data directory; always absolute."""

    data: Path

    @staticmethod
    def at(data: Path) -> "Layout":
        return Layout(data.absolute())

    @property
    def operator(self) -> Path:
        return self.data / "operator"

    @property
    def hub(self) -> Path:
        return self.data / "hub"

    @property
    def admin_socket(self) -> Path:
        return self.hub / "admin.sock"

    @property
    def credentials(self) -> Path:
        return self.data / "credentials"

    @property
    def ca_bundle(self) -> Path:
        return self.data / "ca-bundle.pem"

    @property
    def settings(self) -> Path:
        return self.data / "quorate.toml"

    @property
    def shape(self) -> Path:
        return self.data / "fleet.json"

    @property
    def domains(self) -> Path:
        """What the hub last said of its domains, for `status` without a hub."""
        return self.data / "domains.json"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    def node(self, name: str) -> Path:
        return self.data / "nodes" / name

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def node_names(self) -> list[str]:
        """The nodes that have a module here, node-2 before node-10."""
        found = (self.data / "nodes").glob("*/module")
        return sorted((module.parent.name for module in found), key=in_order)


def in_order(name: str) -> list[tuple[int, str]]:
    """A sort key for names: the numbers in them count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


@dataclass(frozen=True, slots=True)
class Shape:
    """What `up` was given; fixed by the first one."""

    nodes: int
    threshold: int
    port: int
    region: str
    account: str

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
        return [f"node-{number}" for number in range(1, self.nodes + 1)]


def read_shape(layout: Layout) -> Shape | None:
    """The shape in `fleet.json`, None without one. Raises `DataDirectoryMismatch`, `BadInput`."""
    found = read_json(layout.shape)
    if found is None:
        return None
    if found.get("format") != FORMAT:
        raise DataDirectoryMismatch(
            layout.data, found=f"a fleet of format {found.get('format')}", wanted=f"format {FORMAT}"
        )
    try:
        return Shape(**{field: found[field] for field in Shape.__dataclass_fields__})
    except (KeyError, TypeError) as why:
        raise BadInput(
            f"{layout.shape} lacks {why}",
            remedy="restore the file from a copy, or start a new data directory",
        ) from why


def write_shape(layout: Layout, shape: Shape) -> None:
    write_json(layout.shape, {"format": FORMAT, **asdict(shape)})


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None when there is no such file. Raises `BadInput`."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as why:
        raise BadInput(f"{path} cannot be read: {why}", remedy="restore the file from a copy") from why
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds no JSON object", remedy="restore the file from a copy")
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_whole(path, (json.dumps(value, indent=1) + "\n").encode())


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Writes a file so that a crash leaves the old one or the new one; durable when this returns."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    with _directory(path.parent) as parent:
        os.fsync(parent)


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)
