"""Every command's help, and what a wrong or impossible command says."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from quorate.cli.app import app
from quorate.local.layout import Layout
from quorate.local.shape import Shape, write_shape

SHAPE = Shape(nodes=5, threshold=3, port=4500, region="us-east-1", account="000000000000")


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, each in getattr(command, "commands", {}).items():
        if hasattr(each, "commands"):
            yield from leaves(each, (*words, name))
        else:
            yield (*words, name), each


COMMANDS = dict(leaves(get_command(app)))


def test_the_commands_of_the_contract_are_there() -> None:
    contract = {
        ("up",), ("down",), ("env",), ("status",), ("doctor",), ("operator", "init"), ("hub", "init"),
        ("hub", "serve"), ("node", "init"), ("node", "invite"), ("node", "enroll"), ("node", "approve"),
        ("node", "serve"), ("node", "list"), ("node", "stop"), ("node", "start"), ("domain", "create"),
        ("domain", "list"), ("domain", "show"), ("domain", "lock"), ("access", "create"), ("access", "list"),
        ("access", "disable"), ("log-level",),
    }  # fmt: skip
    assert contract <= COMMANDS.keys()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_help_has_an_example_and_takes_a_data_directory(words: tuple[str, ...], quorate: Any) -> None:
    got = quorate(*words, "--help")
    assert got.code == 0
    assert "Example:" in got.out
    assert f"quorate {' '.join(words)}" in " ".join(got.out.split())
    assert "--data" in got.out
    assert "--json" in got.out or words[-1] == "serve"


def test_wrong_usage_is_2_and_on_stderr(quorate: Any) -> None:
    got = quorate("up", "--nodes", "many")
    assert (got.code, got.out) == (2, "")
    assert "--nodes" in got.err


@pytest.mark.parametrize(
    ("option", "value", "use"), [("--mode", "threshold", "reconstruct"), ("--dealer", "members", "hub")]
)
def test_what_is_not_in_this_version_is_refused_clearly(
    option: str, value: str, use: str, quorate: Any, tmp_path: Path
) -> None:
    got = quorate("domain", "create", "payroll", option, value, "--data", str(tmp_path))
    assert got.code == 1
    assert f"{option} {value} is not in this version" in got.err
    assert f"use {option} {use}" in got.err


def test_a_changed_shape_says_which(quorate: Any, tmp_path: Path) -> None:
    write_shape(Layout.at(tmp_path), SHAPE)
    before = (tmp_path / "fleet.json").read_bytes()
    got = quorate("up", "--nodes", "7", "--port", "4500", "--data", str(tmp_path))
    assert got.code == 1
    assert "nodes is 5 there, not 7" in got.err
    assert "port" not in got.err.split("remedy")[0].replace(str(tmp_path), "")
    assert "kept:" in got.err
    assert "remedy:" in got.err
    assert (tmp_path / "fleet.json").read_bytes() == before


def test_a_port_in_use_is_found_before_anything_is_made(quorate: Any, tmp_path: Path) -> None:
    with socket.socket() as other:
        # As a stranger with the same option that nodes use: only a probe without it sees that one.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        got = quorate("up", "--port", str(port), "--data", str(tmp_path / "new"))
    assert got.code == 1
    assert f"another process listens on 127.0.0.1:{port}" in got.err
    assert not (tmp_path / "new" / "operator").exists()
    assert not (tmp_path / "new" / "fleet.json").exists()


def test_errors_are_json_on_stderr_when_asked(quorate: Any, tmp_path: Path) -> None:
    got = quorate("env", "--json", "--data", str(tmp_path))
    assert (got.code, got.out) == (1, "")
    error = json.loads(got.err)["error"]
    assert error.keys() == {"code", "message", "kept", "remedy"}
    assert error["code"] == "bad_input"


def test_a_core_error_is_told_in_the_same_three_parts(quorate: Any, tmp_path: Path) -> None:
    assert quorate("operator", "init", "--data", str(tmp_path)).code == 0
    got = quorate("operator", "init", "--data", str(tmp_path))
    assert got.code == 1
    assert "kept:" in got.err
    assert "remedy:" in got.err


def test_down_leaves_a_strange_directory_alone(quorate: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    got = quorate("down", "--purge", "--yes", "--data", str(tmp_path))
    assert got.code == 1
    assert (tmp_path / "thesis.txt").exists()


def test_a_log_level_is_checked_before_anything_is_written(quorate: Any, tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    (layout.node("node-1") / "module").mkdir(parents=True)
    assert quorate("log-level", "loud", "--data", str(tmp_path)).code == 2
    for name, told in (("node-7", "holds no node-7"), ("node-1", "node-1 does not run")):
        got = quorate("log-level", "debug", name, "--data", str(tmp_path))
        assert got.code == 1
        assert told in got.err
    assert not (layout.node("node-1") / "log-level").exists()


def test_the_failure_of_a_service_is_a_line_where_lines_are_json(tmp_path: Path) -> None:
    """In a process of its own, whose stderr is the same file, as `up` starts it."""
    log = tmp_path / "hub.log"
    words = ["hub", "serve", "--data", str(tmp_path), "--log", str(log)]
    for form in ("text", "json"):
        log.unlink(missing_ok=True)
        with log.open("ab") as end:
            command = [sys.executable, "-m", "quorate", *words, "--log-format", form]
            assert subprocess.run(command, stderr=end, timeout=60).returncode == 1
        if form == "text":
            assert "kept:" in log.read_text()
    line = json.loads(log.read_text())
    assert (line["level"], line["process"]) == ("CRITICAL", "hub")
    assert "there is no hub" in line["message"] and "remedy: run `quorate hub init`" in line["message"]
