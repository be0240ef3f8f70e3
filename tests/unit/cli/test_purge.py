"""`quorate down --purge` in a process of its own: what it says, and that it asks."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from quorate.local.layout import Layout, write_json
from quorate.local.shape import DEFAULT, write_shape


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A fleet that does not run."""
    made = Layout.at(tmp_path / "data")
    for directory in (
        made.hub,
        made.operator,
        made.node("node-1") / "module",
        made.node("node-2") / "module",
    ):
        directory.mkdir(parents=True)
    write_shape(made, DEFAULT)
    write_json(made.domains, {"format": 1, "domains": [{"name": "default"}, {"name": "payroll"}]})
    return made


def purge(layout: Layout, stdin: int, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "quorate", "down", "--purge", *options, "--data", str(layout.data)]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("answer", "purged"), [(b"y\n", True), (b"n\n", False), (b"\n", False), (b"\x04", False)]
)
def test_on_a_terminal_it_says_what_is_lost_and_asks(answer: bytes, purged: bool, layout: Layout) -> None:
    ours, theirs = pty.openpty()
    try:
        process = purge(layout, theirs)
        os.write(ours, answer)
        _, err = process.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Remove it?" in err
    for part in ("default, payroll", "2 nodes (node-1, node-2)", "the hub", "operator key", "audit logs"):
        assert part in err
    assert (process.returncode == 0) is purged
    assert layout.data.exists() is not purged
    assert layout.operator.exists() is not purged


def test_without_a_terminal_it_needs_yes_even_if_yes_is_piped_in(layout: Layout) -> None:
    process = purge(layout, subprocess.PIPE)
    _, err = process.communicate("y\n", timeout=60)
    assert process.returncode == 1
    assert "nothing was stopped or removed" in err and "--yes" in err
    assert layout.operator.exists()
    process = purge(layout, subprocess.DEVNULL, "--yes")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not layout.data.exists()
