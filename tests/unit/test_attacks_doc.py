"""`docs/attacks.md` lists every attack that has a test, and where; none of those that are due is without one."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(ROOT / "scripts/attacks.py"))
DUE = {
    *range(1, 12), 16, 35, 36, *range(39, 53), *range(55, 60), 62, 64, 66, 67, 69, *range(70, 83),
    *range(84, 91), 92, 93, 94, 95, 96, 97, 99,
}  # fmt: skip
"""What this version reaches."""


def listed() -> set[str]:
    return set(re.findall(r"^\| (N[0-9]+) \|", (ROOT / "docs/attacks.md").read_text(), re.M))


def test_every_attack_that_is_due_has_a_test() -> None:
    assert {f"N{number}" for number in DUE} - set(TOOL["files_by_row"]()) == set()


def test_document_lists_every_row_that_has_a_test_and_no_other() -> None:
    assert listed() == set(TOOL["files_by_row"]())


def test_document_names_the_files_that_the_tree_has() -> None:
    text = (ROOT / "docs/attacks.md").read_text()
    assert TOOL["with_files"](text) == text, "run `make attacks`"
