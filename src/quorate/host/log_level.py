"""The level that a person gave a running process: the file `log-level` in its directory, looked at on every beat.

Here: taking it up. Not here: who writes the file (`local.log_level`), handlers and formats (`logs`).

A file and not a signal: a signal ends a process that has not got as far as handling it, and carries no level. The
process tells in `run.json` which level it has, so whoever asked sees it happen.
"""

import logging
from pathlib import Path

from quorate import logs

FILE = "log-level"

_log = logging.getLogger(__name__)


class LogLevel:
    """`configured` holds until the file says otherwise, and again once it is gone. No request outlives the process."""

    def __init__(self, directory: Path, configured: logs.Level) -> None:
        self.configured = configured
        self.current = configured
        self._file = directory / FILE
        self._file.unlink(missing_ok=True)

    def look(self) -> bool:
        """True when the level has changed."""
        try:
            wanted = logs.Level(self._file.read_text().strip())
        except FileNotFoundError:
            wanted = self.configured
        except (OSError, ValueError):
            return False
        if wanted is self.current:
            return False
        self.current = wanted
        logs.set_level(wanted)
        _log.info("the log level is %s", wanted)
        return True
