"""The arrows between the rooms (docs/design.md): who may import whom."""

import ast
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src/quorate"

MAY_IMPORT = {
    "ids": set(),
    "errors": {"ids"},
    "logs": {"errors"},
    "hsm": {"ids", "errors"},
    "protocol": {"ids", "errors"},
    "wire": {"ids", "errors"},
    "store": {"ids", "errors"},
    "audit": {"ids", "errors"},
    "host": {"ids", "errors", "logs", "hsm", "wire"},
    "kms": {"ids", "errors", "logs"},
    "node": {"ids", "errors", "logs", "hsm", "protocol", "wire", "audit", "host", "kms"},
    "hub": {"ids", "errors", "logs", "hsm", "protocol", "wire", "audit", "store", "host"},
    "client": {"ids", "errors", "wire"},
    "local": {"ids", "errors", "client", "hub", "node", "host", "wire"},
    "cli": {"ids", "errors", "logs", "client", "local", "hub", "node", "host", "audit"},
    "demo": {"ids", "errors", "client", "local", "cli"},
    "__main__": {"cli"},
}
"""Beside itself and the compiled core. A process is put together in `node` and `hub`; `kms` is a library of `node`."""


def room_of(path: Path) -> str:
    return path.relative_to(SOURCES).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms that a file imports from, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts = [name.split(".") for name in names]
        found |= {part[1] for part in parts if part[0] == "quorate" and len(part) > 1}
        assert not (isinstance(node, ast.ImportFrom) and node.level > 1), f"{path}: relative import"
    return found


FILES = [
    path for path in sorted(SOURCES.rglob("*.py")) if path.parent != SOURCES or path.name != "__init__.py"
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCES).as_posix())
def test_file_imports_along_the_arrows_alone(path: Path) -> None:
    room = room_of(path)
    assert imports(path) - {room, "_core"} <= MAY_IMPORT[room]


def test_the_core_is_opened_by_the_services_and_by_what_sets_them_up_alone() -> None:
    opened = {
        path.relative_to(SOURCES).as_posix()
        for path in FILES
        for text in [path.read_text()]
        if "Module.open(" in text or "Module.create(" in text
    }
    assert opened == {"hub/service.py", "hub/setup.py", "node/service.py", "node/setup.py"}
