"""The level of running processes of this machine, set and set back.

Here: writing what a process looks at (`host.log_level`), and waiting until it says that it has it.
Not here: what levels mean (`logs`).
"""

import time
from collections.abc import Sequence

from quorate.errors import BadInput, QuorateError
from quorate.host.files import remove_file, replace_file
from quorate.host.log_level import FILE
from quorate.local.layout import Layout
from quorate.local.processes import Run, running

TAKEN_SECONDS = 5.0
_LOOK_AGAIN = 0.02


class LevelNotTaken(QuorateError):
    code = "level_not_taken"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} did not take the log level up within {TAKEN_SECONDS:g} s",
            kept="the wish is kept: it takes it up once its event loop runs, unless it starts anew",
            remedy=f"see `quorate status`, and the end of {name}'s log",
        )


def set_level(layout: Layout, names: Sequence[str], level: str | None) -> dict[str, str]:
    """Gives the processes `names` a level, None: the one they were started with; returns the level of each.

    A process that is started again begins with its own. Raises `BadInput`, then nothing was changed; `LevelNotTaken`.
    """
    directories = {name: layout.process(name) for name in names}
    for name, directory in directories.items():
        if running(directory) is None:
            raise BadInput(f"{name} does not run here", remedy="see `quorate status`")
    for directory in directories.values():
        if level is None:
            remove_file(directory / FILE)
        else:
            replace_file(directory / FILE, level.encode())
    deadline = time.monotonic() + TAKEN_SECONDS
    taken: dict[str, str] = {}
    for name, directory in directories.items():
        while not _has_taken(run := running(directory), level):
            if time.monotonic() > deadline:
                raise LevelNotTaken(name)
            time.sleep(_LOOK_AGAIN)
        assert run is not None
        taken[name] = str(run["log_level"])
    return taken


def _has_taken(run: Run | None, level: str | None) -> bool:
    if run is None:
        return False
    return bool(run.get("log_level") == (level or run.get("log_level_configured")))
