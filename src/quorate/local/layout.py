"""Where everything of one data directory lies.

Here: paths, JSON files.
Not here: what the files of a hub or a node hold; their rooms own them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quorate.errors import BadInput
from quorate.host.files import replace_file


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

    def process(self, name: str) -> Path:
        """The directory of the hub or a node."""
        return self.hub if name == "hub" else self.node(name)

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def node_names(self) -> list[str]:
        """The nodes that have a module here, node-2 before node-10."""
        found = (self.data / "nodes").glob("*/module")
        return sorted((module.parent.name for module in found), key=in_order)


def in_order(name: str) -> list[tuple[int, str]]:
    """A sort key for names: the numbers in them count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


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
    replace_file(path, (json.dumps(value, indent=1) + "\n").encode(), mode=0o644)
