"""What docs/install.md and packaging/systemd tell an operator to run is what the command line takes."""

import configparser
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.main import get_command

from quorate.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
INSTALL = ROOT / "docs/install.md"
UNITS = sorted((ROOT / "packaging/systemd").iterdir())
QUORATE = "/opt/quorate/bin/quorate"
ANALYZE = shutil.which("systemd-analyze")
MODULE_LOCKS = 1 << 20
"""What `core/src/memory.rs` locks, in bytes."""


def parse(words: Sequence[str]) -> str:
    """The words of the command that `words` call, parsed as the command line does, without running it."""
    command, path = get_command(app), ""
    while hasattr(command, "commands"):
        name, *words = words
        command, path = command.commands[name], f"{path} {name}"
    command.make_context(path, list(words))
    return path.strip()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hub serve --date /var", "No such option: --date"),
        ("node enroll node-1 --invitation TEXT", "Missing parameter: fleet_listen"),
        ("node serve", "Missing parameter: name"),
        ("node serve Node_1", "node name"),
    ],
)
def test_the_parser_of_these_tests_refuses_what_the_command_line_does(line: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        parse(line.split())


def documented() -> Iterator[list[str]]:
    """The arguments of each `quorate …` line in the document's shell blocks."""
    for block in re.findall(r"^```sh\n(.*?)^```", INSTALL.read_text(), re.M | re.S):
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("runuser -u quorate -- "), comments=True)
            if words[:1] in (["quorate"], [QUORATE]):
                yield words[1:]


@pytest.mark.parametrize("words", list(documented()), ids=" ".join)
def test_every_command_of_the_document_exists_with_its_options(words: list[str]) -> None:
    parse(words)


def test_the_document_goes_all_the_way_to_an_access_key() -> None:
    told = [parse(words) for words in documented()]
    way = ["operator init", "hub init", "hub serve", "node init", "node invite", "node enroll", "node approve",
           "node serve", "status", "domain create", "access create"]  # fmt: skip
    assert told == ["doctor", *way]


def read(unit: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None, strict=True)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(unit)
    return parsed


def test_there_is_a_unit_for_each_process() -> None:
    told = {}
    for unit in UNITS:
        program, *words = shlex.split(read(unit)["Service"]["ExecStart"].replace("%i", "node-1"))
        assert program == QUORATE
        assert words[-2:] == ["--data", "/var/lib/quorate"]
        told[unit.name] = parse(words)
    assert told == {"quorate-hub.service": "hub serve", "quorate-node@.service": "node serve"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_confine_the_process_and_let_it_lock_its_memory(unit: Path) -> None:
    service = read(unit)["Service"]
    wanted = {
        "Type": "exec",
        "User": "quorate",
        "StateDirectory": "quorate",
        "StateDirectoryMode": "0700",
        "UMask": "0077",
        "Restart": "on-failure",
        "RestartPreventExitStatus": "2",
        "LimitCORE": "0",
        "MemorySwapMax": "0",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
    }
    assert {name: service.get(name) for name in wanted} == wanted
    assert int(service["LimitMEMLOCK"].removesuffix("M")) << 20 >= 2 * MODULE_LOCKS
    assert (
        f"const SLOTS: usize = 1 << {(MODULE_LOCKS // 64).bit_length() - 1};"
        in (ROOT / "core/src/memory.rs").read_text()
    )


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze; the other tests here read the units too")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    assert ANALYZE is not None
    program = tmp_path / "quorate"
    program.touch(mode=0o755)
    copies = [tmp_path / unit.name for unit in UNITS]
    for unit, copy in zip(UNITS, copies, strict=True):
        copy.write_text(unit.read_text().replace(QUORATE, str(program)))
    found = subprocess.run([ANALYZE, "verify", "--man=no", *copies], capture_output=True, text=True)
    # It warns of other units too, those of this machine, which these are ordered after.
    assert [line for line in found.stderr.splitlines() if "quorate" in line] == []
    assert found.returncode == 0, found.stderr
