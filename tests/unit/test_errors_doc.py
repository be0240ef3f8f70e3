"""`docs/errors.md` lists every code there is: the core's, the process errors', and those that applications see."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import quorate
from quorate import _core
from quorate.errors import QuorateError
from quorate.kms import errors as kms_errors

ROOT = Path(__file__).resolve().parents[2]


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


def process_errors() -> set[type[QuorateError]]:
    """The base class and every class below it, in every module of the package."""
    for module in pkgutil.walk_packages(quorate.__path__, "quorate."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, todo = set(), [QuorateError]
    while todo:
        kind = todo.pop()
        todo.extend(kind.__subclasses__())
        if kind.__module__.startswith("quorate."):
            found.add(kind)
    return found


PROCESS = table("Process errors")


def test_core_codes() -> None:
    assert sorted(table("Core codes")) == sorted(_core.CODES)


def test_every_process_error_is_explained_where_it_is_raised() -> None:
    kinds = process_errors()
    assert len(kinds) >= 9
    for kind in kinds:
        assert kind.code in PROCESS, f"{kind.__module__}.{kind.__name__} has no row"
        assert PROCESS[kind.code][0] == f"`{kind.__module__}`", kind.code


@pytest.mark.parametrize("code", sorted(PROCESS))
def test_every_explained_process_error_exists(code: str) -> None:
    name = PROCESS[code][0].strip("`")
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"{name} is not part of this tree")
    kinds = vars(importlib.import_module(name)).values()
    assert code in {kind.code for kind in kinds if inspect.isclass(kind) and issubclass(kind, QuorateError)}


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
