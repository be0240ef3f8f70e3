"""`settings.json` of a hub's or a node's directory: what was given when it was set up.

Here: reading and writing the file, its format's number, and which error says what is wrong with it.
Not here: which settings there are.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from quorate.errors import BadInput
from quorate.host import formats
from quorate.host.files import replace_file

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT = 1

T = TypeVar("T")


def read(path: Path, make: Callable[[Mapping[str, Any]], T], *, absent: BadInput, remedy: str) -> T:
    """What `make` makes of the file's members. `remedy`: what to do when the file is damaged.

    Raises `absent` when there is no file, `NewerFormat`, `DataDirectoryMismatch` for another format, else
    `BadInput`.
    """
    try:
        found = json.loads(path.read_bytes())
        version = found.pop("format")
    except FileNotFoundError as why:
        raise absent from why
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
        raise BadInput(f"{path} cannot be read: {why}", remedy=remedy) from why
    formats.check(path, version, FORMAT)
    try:
        return make(found)
    except (KeyError, TypeError, ValueError) as why:
        raise BadInput(f"{path} is not complete: {why}", remedy=remedy) from why


def write(path: Path, settings: "DataclassInstance") -> None:
    """Durably, in one step."""
    replace_file(path, json.dumps({"format": FORMAT, **asdict(settings)}, indent=2).encode() + b"\n")
