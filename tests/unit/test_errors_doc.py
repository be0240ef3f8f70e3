"""`docs/errors.md` lists every code there is: the core's, the process errors', and those that applications see."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from quorate import _core
from quorate.kms import errors as kms_errors

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src"


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table under `## heading`: the other cells, by the code in the first."""
    text = (ROOT / "docs/errors.md").read_text()
    section = re.split(r"^## ", text.split(f"## {heading}\n", 1)[1], flags=re.M)[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    codes = [row[0].strip("`") for row in rows]
    assert len(set(codes)) == len(codes), "a code stands twice"
    return dict(zip(codes, [row[1:] for row in rows], strict=True))


def room_of(path: Path) -> str:
    """`quorate.NAME`, of the package or the module right below `quorate`."""
    return ".".join(path.relative_to(SOURCES).with_suffix("").parts[:2])


def process_errors() -> dict[str, str]:
    """The code of `QuorateError` and of every class below it, with the room that declares it.

    Read from the sources, not imported: what a module needs to run does not matter here.
    """
    classes = [
        (room_of(path), node)
        for path in sorted((SOURCES / "quorate").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    kinds, size = {"QuorateError"}, 0
    while len(kinds) > size:
        size = len(kinds)
        kinds |= {
            node.name
            for _, node in classes
            if any(isinstance(base, ast.Name) and base.id in kinds for base in node.bases)
        }
    found: dict[str, str] = {}
    for room, node in classes:
        for line in node.body if node.name in kinds else ():
            if not isinstance(line, ast.Assign | ast.AnnAssign):
                continue
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            if isinstance(targets[0], ast.Name) and targets[0].id == "code":
                assert isinstance(line.value, ast.Constant)
                assert found.setdefault(str(line.value.value), room) == room, "two errors have one code"
    return found


PROCESS = table("Process errors")
DECLARED = process_errors()


def test_core_codes() -> None:
    assert sorted(table("Core codes")) == sorted(_core.CODES)


def test_the_errors_of_every_room_are_found() -> None:
    assert DECLARED["failed"] == "quorate.errors"
    assert DECLARED["link_down"] == "quorate.wire"
    assert len(DECLARED) >= 9


@pytest.mark.parametrize("code", sorted(DECLARED))
def test_every_process_error_is_explained(code: str) -> None:
    assert PROCESS[code][0] == f"`{DECLARED[code]}`"


@pytest.mark.parametrize("code", sorted(PROCESS))
def test_every_explained_process_error_exists(code: str) -> None:
    assert DECLARED[code] == PROCESS[code][0].strip("`")


def test_kms_codes_and_their_statuses() -> None:
    made: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(inspect.getsource(kms_errors))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "KmsError":
            code, *rest = [a.value if isinstance(a, ast.Constant) else None for a in node.args]
            assert isinstance(code, str)
            status = rest[1] if len(rest) > 1 else 400
            made.setdefault(code, set()).add(str(status))
    assert len(made) > 25
    explained = {code: set(row[0].split(", ")) for code, row in table("KMS codes").items()}
    assert explained == made


def test_every_row_says_what_to_do() -> None:
    for heading, cells in (("Core codes", 3), ("Process errors", 4), ("KMS codes", 3)):
        for code, row in table(heading).items():
            assert len(row) == cells, code
            assert all(row), code
