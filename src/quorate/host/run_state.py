"""`run.json`: what other processes of this machine may know of a running one.

Here: writing it when it changes, removing it on a clean stop.
Not here: what a process says to its fleet.
"""

import json
from pathlib import Path
from typing import Any

FORMAT = 1
"""The version of the file; the first release wrote none."""


class RunState:
    """One file, replaced in one step. What a crash leaves names a process that is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: dict[str, Any] | None = None

    def write(self, state: dict[str, Any]) -> None:
        """Writes `state` if anything but leases has changed."""
        if self._written is not None and _same(self._written, state):
            self._written = state
            return
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.write_text(json.dumps({"format": FORMAT, **state}) + "\n")
        fresh.replace(self._path)
        self._written = state

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def _same(before: dict[str, Any], state: dict[str, Any]) -> bool:
    if before.get("domains") is state.get("domains"):  # a thousand need no second look
        return {**before, "domains": None} == {**state, "domains": None}
    return _steady(before) == _steady(state)


def _steady(state: dict[str, Any]) -> dict[str, Any]:
    """Without leases: they come and go with every session, and a rename may wait for the disk."""
    domains = [{**domain, "lease_seconds": None} for domain in state.get("domains", ())]
    return {**state, "domains": domains}
