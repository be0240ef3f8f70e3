"""What the doctor says of a machine and of a data directory, with what it finds put in its hands."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.wire.certificates import node_files, root

from quorate.local import doctor
from quorate.local.doctor import Finding, Machine, examine, judge
from quorate.local.layout import Layout

GOOD = Machine(
    system="Linux", processor="x86_64", python=(3, 11, 0), core="0.1.0", testing_core=False,
    locked_memory=8 << 20, open_files=4096, core_dumps=0, ptrace_scope=1, random_ready=True, aes=True,
    now=1_800_000_000.0, clock_kept=True,
)  # fmt: skip


def told(findings: list[Finding]) -> dict[str, str]:
    """State by what, of all that is not well."""
    return {each.what: each.state for each in findings if each.state != "ok"}


def test_a_good_machine_lacks_nothing() -> None:
    assert told(judge(GOOD)) == {}
    assert all(each.found and each.wanted and not each.remedy for each in judge(GOOD))
    unlimited = replace(GOOD, locked_memory=None, open_files=None, clock_kept=None, aes=None)
    assert told(judge(unlimited)) == {}


@pytest.mark.parametrize(
    ("changed", "what", "state"),
    [
        ({"system": "Darwin"}, "system", "MISSING"),
        ({"processor": "riscv64"}, "system", "MISSING"),
        ({"python": (3, 10, 14)}, "python", "MISSING"),
        ({"testing_core": True}, "core", "MISSING"),
        ({"locked_memory": 64 << 10}, "locked memory", "MISSING"),
        ({"open_files": 256}, "open files", "MISSING"),
        ({"core_dumps": None}, "core dumps", "warning"),
        ({"core_dumps": 1 << 30}, "core dumps", "warning"),
        ({"ptrace_scope": 0}, "ptrace_scope", "warning"),
        ({"ptrace_scope": None}, "ptrace_scope", "warning"),
        ({"random_ready": False}, "randomness", "MISSING"),
        ({"aes": False}, "AES instructions", "warning"),
        ({"now": 0.0}, "clock", "MISSING"),
        ({"clock_kept": False}, "clock", "warning"),
    ],
)
def test_each_lack_is_one_finding_with_a_remedy(changed: dict[str, Any], what: str, state: str) -> None:
    findings = judge(replace(GOOD, **changed))
    assert told(findings) == {what: state}
    (bad,) = [each for each in findings if each.state != "ok"]
    assert bad.found and bad.wanted and bad.remedy


def test_this_machine_can_be_read() -> None:
    here = Machine.here()
    assert here.system == "Linux" and here.random_ready and here.now > GOOD.now - 10**8


def of(layout: Layout) -> dict[str, str]:
    return told(examine(layout, port=0, machine=GOOD))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A hub and a node, as `up` makes their directories."""
    made = Layout.at(tmp_path / "data")
    for directory in (made.hub, made.node("node-1"), made.operator, made.logs):
        directory.mkdir(mode=0o700, parents=True)
    (made.node("node-1") / "module").mkdir()
    made.credentials.touch(mode=0o600)
    return made


def test_a_tidy_directory_lacks_nothing(layout: Layout) -> None:
    assert of(layout) == {}


@pytest.mark.parametrize("which", ["operator", "hub", "logs", "credentials", "nodes/node-1"])
def test_what_others_can_open_is_named(which: str, layout: Layout) -> None:
    (layout.data / which).chmod(0o750)
    (bad,) = [each for each in examine(layout, port=0, machine=GOOD) if each.state != "ok"]
    assert (bad.what, bad.state) == ("permissions", "MISSING")
    assert bad.remedy == f"`chmod go= {layout.data / which}`"


def test_what_belongs_to_another_user_is_named(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: layout.hub.stat().st_uid + 1)
    assert of(layout) == {"permissions": "warning"}


def test_a_port_that_a_stranger_has_is_missing(layout: Layout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = {"format": 1, "fleet_listen": f"127.0.0.1:{port}", "enrol_listen": "127.0.0.1:0"}
        (layout.hub / "settings.json").write_text(json.dumps(settings))
        found = told(examine(layout, port=port, machine=GOOD))
    assert found["KMS port"] == found["fleet port of hub"] == "MISSING"
    assert "enrol port of hub" not in found


@pytest.mark.parametrize(("free", "state"), [(2 << 30, None), (512 << 20, "warning"), (1 << 20, "MISSING")])
def test_the_disk(free: int, state: str | None, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert of(layout) == ({} if state is None else {"disk space": state})


@pytest.mark.parametrize(
    ("share", "state"),
    [(0.5, None), (0.7, "warning"), (0.99, "warning"), (1.01, "MISSING"), (-0.01, "MISSING")],
)
def test_a_certificate_near_its_end_is_a_warning_and_an_expired_one_is_missing(
    share: float, state: str | None, layout: Layout
) -> None:
    """`share` of its time has gone."""
    made = node_files(layout.data / "made", root(), "node-1")
    tls = layout.node("node-1") / "tls"
    tls.mkdir()
    (tls / "leaf.pem").write_bytes(made.cert_chain.read_bytes())
    held = doctor.Certificates.of(layout.node("node-1")).validity()
    machine = replace(GOOD, now=held.begins + share * (held.ends - held.begins))
    found = told(examine(layout, port=0, machine=machine))
    assert found == ({} if state is None else {"certificate of node-1": state})


def test_a_certificate_that_cannot_be_read_is_missing(layout: Layout) -> None:
    (layout.hub / "settings.json").write_text('{"format": 1}')
    assert of(layout) == {"certificate of hub": "MISSING"}


def test_the_command_tells_each_line_and_fails_when_something_is_missing(
    quorate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("doctor", "--port", "0", "--data", str(tmp_path))
    monkeypatch.setattr(Machine, "here", staticmethod(lambda: replace(GOOD, ptrace_scope=0)))
    assert quorate(*words).code == 0  # a warning is no reason not to start
    monkeypatch.setattr(Machine, "here", staticmethod(lambda: replace(GOOD, locked_memory=65536)))
    got = quorate(*words)
    assert got.code == 1
    line = next(line for line in got.out.splitlines() if "locked memory" in line)
    for part in ("MISSING", "64 KiB", "2048 KiB", "ulimit -l"):
        assert part in line
    got = quorate(*words, "--json")
    assert got.code == 1
    found = {each["what"]: each for each in json.loads(got.out)}
    assert found["locked memory"].keys() == {"what", "state", "good", "found", "wanted", "remedy"}
    assert (found["locked memory"]["state"], found["locked memory"]["good"]) == ("missing", False)
    assert (found["clock"]["state"], found["clock"]["good"]) == ("ok", True)
