"""Writes the last column of docs/attacks.md: which files hold each row's tests. Run: make attacks

Rust: `fn n07_…` in core/; Python: `def test_n07_…` in tests/.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_TEST = re.compile(r"^\s*(?:async )?(?:fn|def test_|def) ?((?:_?n[0-9]{2}(?=_))+)", re.M)


def files_by_row() -> dict[str, list[str]]:
    """Paths, from the repository's root, of the files with a test of each row (`N7`)."""
    found: dict[str, set[str]] = defaultdict(set)
    sources = [*(ROOT / "core/src").rglob("*.rs"), *(ROOT / "core/tests").rglob("*.rs")]
    for path in [*sources, *(ROOT / "tests").rglob("test_*.py")]:
        for match in _TEST.finditer(path.read_text()):
            for number in re.findall(r"n([0-9]{2})", match[1]):
                found[f"N{int(number)}"].add(path.relative_to(ROOT).as_posix())
    return {row: sorted(paths) for row, paths in found.items()}


def with_files(text: str) -> str:
    """The document with its last column filled in."""
    found = files_by_row()

    def fill(match: re.Match[str]) -> str:
        listed = ", ".join(f"`{path}`" for path in found.get(match[1], [])) or "not yet"
        return f"| {match[1]} | {match[2]} | {listed} |"

    return re.sub(r"^\| (N[0-9]+) \| (.*) \| [^|]* \|$", fill, text, flags=re.M)


def main() -> int:
    document = ROOT / "docs/attacks.md"
    document.write_text(with_files(document.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
