"""The wheel: what is in it, and a fleet run from it where there is no compiler and no source tree.

It is built here in cargo's `dev` profile, whose artifacts `make setup` shares. To test another, say the one that
`make wheel` has built: QUORATE_WHEEL=dist/quorate-….whl.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from tests.e2e.fleet import Cli, Fleet

ROOT = Path(__file__).resolve().parents[2]
TESTING = os.environ.get("QUORATE_TESTING_PATH")
BUILD_TOOLS = ("cargo", "rustc", "maturin", "cc", "gcc", "clang")
TESTING_ONLY = (b"corrupt_answers", b"use_stand_in", b"QUORATE_TESTING_NEEDLES", b"QUORATE_TESTING_NO_WIPING")
"""Names that only a core with the feature `testing` has in it: a method, a function, variables of the environment."""


def for_tests_only(core: bytes) -> list[bytes]:
    """Those of them that are in a compiled core."""
    return [name for name in TESTING_ONLY if name in core]


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment that was empty before the wheel was installed."""

    path: Path
    elsewhere: Path
    """The working directory: no source tree in sight."""

    @property
    def commands(self) -> str:
        """A PATH with the environment's own commands and nothing else."""
        return str(self.path / "bin")

    @property
    def variables(self) -> dict[str, str]:
        """All that a process there gets: of this test's own environment, nothing."""
        return {"PATH": self.commands, "HOME": str(self.elsewhere), "LANG": "C.UTF-8"}

    def run(self, command: str, *words: str, **variables: str) -> str:
        return subprocess.run(
            [self.path / "bin" / command, *words],
            env=self.variables | variables,
            cwd=self.elsewhere,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        ).stdout

    def python(self, code: str) -> Any:
        """What `code` prints, read as JSON."""
        return json.loads(self.run("python", "-c", code))


class InstalledCli(Cli):
    """The command `quorate` of the environment, in place of this interpreter's."""

    def __init__(self, data: Path, installed: Environment) -> None:
        super().__init__(data)
        self._installed = installed
        self.env = installed.variables

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self._installed.path / "bin/quorate", *words, "--data", str(self.data)],
            env=self.env,
            cwd=self._installed.elsewhere,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get("QUORATE_WHEEL"):
        return Path(given).resolve()
    directory = tmp_path_factory.mktemp("wheel")
    build = {"WHEEL_PROFILE": "dev", "WHEEL_DIR": str(directory)}
    made = subprocess.run(
        [ROOT / "scripts/wheel.sh"], env=os.environ | build, check=True, text=True, stdout=subprocess.PIPE
    ).stdout
    (built,) = directory.iterdir()
    assert made == f"{built} {built.stat().st_size} bytes\n"
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    where = tmp_path_factory.mktemp("machine")
    made = Environment(where / "quorate", where / "home")
    made.elsewhere.mkdir()
    subprocess.run([sys.executable, "-m", "venv", made.path], check=True)
    # What tells pip where its index and its cache are is this machine's own; everything else is left behind.
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    cache = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], check=True, text=True, stdout=subprocess.PIPE
    ).stdout.strip()
    pinned = ["--only-binary", ":all:", "--constraint", str(ROOT / "constraints.txt")]
    made.run("pip", "install", "--quiet", *pinned, str(wheel), **pip, PIP_CACHE_DIR=cache)
    return made


def test_the_wheel_serves_every_python_from_3_11(wheel: Path) -> None:
    name = re.fullmatch(
        r"quorate-([0-9.]+)-cp311-abi3-((?:many)?linux[_0-9]*_(?:x86_64|aarch64))\.whl", wheel.name
    )
    assert name, wheel.name
    with ZipFile(wheel) as content:
        told = content.read(f"quorate-{name[1]}.dist-info/WHEEL").decode()
    assert f"Tag: cp311-abi3-{name[2]}\n" in told


def test_the_wheel_holds_the_package_and_one_compiled_file(wheel: Path) -> None:
    """The migrations are in it; tests, bytecode and what a developer's build left are not."""
    sources = ROOT / "src"
    package = {
        path.relative_to(sources).as_posix()
        for path in (sources / "quorate").rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }
    assert "quorate/store/migrations/versions/v0001_first.py" in package
    with ZipFile(wheel) as content:
        names = set(content.namelist())
    about = {name for name in names if re.match(r"quorate-[0-9.]+\.dist-info/", name)}
    assert names - about == package | {"quorate/_core.abi3.so"}


def test_the_core_of_the_wheel_has_nothing_that_only_tests_need(installed: Environment) -> None:
    code = """
import json
from quorate import _core
print(json.dumps([_core.__file__, _core.build_info()["testing"], hasattr(_core.Module, "corrupt_answers")]))
"""
    file, testing, corrupts = installed.python(code)
    assert (testing, corrupts) == (False, False)
    assert for_tests_only(Path(file).read_bytes()) == []


@pytest.mark.skipif(not TESTING, reason="needs the core's `testing` build, which `make test` makes")
def test_a_testing_core_would_be_noticed() -> None:
    assert TESTING is not None
    core = (Path(TESTING) / "quorate/_core.abi3.so").read_bytes()
    assert for_tests_only(core) == list(TESTING_ONLY)


def test_nothing_of_it_was_built_or_taken_from_the_source_tree(installed: Environment) -> None:
    for tool in BUILD_TOOLS:
        assert shutil.which(tool, path=installed.commands) is None
    file, path = installed.python(
        "import json, sys, quorate; print(json.dumps([quorate.__file__, sys.path]))"
    )
    assert Path(file).is_relative_to(installed.path)
    assert not any(Path(entry).is_relative_to(ROOT) for entry in path if entry)


def test_every_dependency_is_installed_as_pinned(installed: Environment) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.lower().replace("_", "-") for line in lines if "==" in line}
    listed = json.loads(installed.run("pip", "list", "--format", "json"))
    got = {f"{one['name']}=={one['version']}".lower().replace("_", "-"): one["name"] for one in listed}
    loose = {name for line, name in got.items() if line not in pinned}
    assert loose - {"pip", "setuptools"} == {"quorate"}
    assert "uvloop" in got.values()


@pytest.fixture
def fleet(installed: Environment) -> Iterator[Fleet]:
    # Not pytest's directory: a Unix socket's path is at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="quorate-") as where:
        fleet = Fleet(Path(where) / "data")
        fleet.cli = InstalledCli(fleet.data, installed)
        try:
            yield fleet
        finally:
            fleet.down()


def test_a_fleet_runs_from_the_wheel_alone(fleet: Fleet, installed: Environment) -> None:
    fleet.up("--nodes", "5")
    assert [node["state"] for node in fleet.status()["nodes"]] == ["ready"] * 5
    for pid in (fleet.run_of("hub")["pid"], *(node["pid"] for node in fleet.status()["nodes"])):
        command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        assert command[0].startswith(installed.commands), command
    kms = fleet.client()
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"without a compiler")["CiphertextBlob"]
    fleet.lock()
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"without a compiler"
    fleet.cli("down", "--purge", "--yes")
    assert not fleet.data.exists()
