"""`constraints.txt` pins whatever the wheel pulls in, on every Python and machine that servers run on."""

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PINNED = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
VERSIONS = {canonicalize_name(name): version for name, version in PINNED.items()}


def wanted_by(name: str, extras: set[str], environment: dict[str, str]) -> list[Requirement]:
    """What the installed package `name` requires in `environment`, with those of its extras."""
    requirements = [Requirement(text) for text in distribution(name).requires or ()]
    return [
        each
        for each in requirements
        if each.marker is None
        or any(each.marker.evaluate({**environment, "extra": extra}) for extra in {"", *extras})
    ]


def closure(name: str, environment: dict[str, str]) -> dict[str, set[str]]:
    """The packages that `name` pulls in, by their normalised names: who wants each."""
    found: dict[str, set[str]] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    due = [(name, frozenset[str]())]
    while due:
        package, extras = due.pop()
        if (package, extras) in seen:
            continue
        seen.add((package, extras))
        for each in wanted_by(package, set(extras), environment):
            wanted = canonicalize_name(each.name)
            found.setdefault(wanted, set()).add(package)
            if wanted in VERSIONS:
                due.append((wanted, frozenset(each.extras)))
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_package_that_the_wheel_pulls_in_is_pinned(python: str, machine: str) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    pulled = closure("quorate", environment)
    assert {name: by for name, by in pulled.items() if name not in VERSIONS} == {}
    assert {"uvloop", "greenlet", "pydantic-core"} <= pulled.keys(), "direct ones, by an extra, and of others"


def test_what_is_installed_here_is_what_is_pinned() -> None:
    """So the requirements above are those of the pinned versions."""
    pulled = closure("quorate", {})
    installed = {name: distribution(name).version for name in pulled}
    assert installed == {name: VERSIONS[name] for name in pulled}
