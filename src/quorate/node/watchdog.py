"""A thread that starts the process anew when its event loop has stalled.

Here: noticing, telling where each thread stands, and exec. Not here: what may stall a loop.
"""

import faulthandler
import os
import sys
import threading
from pathlib import Path

CHECKS = 10
"""Checks, one a second, without a sign of the loop. Checks and not seconds: a process that was suspended as a
whole makes none.
"""


class Watchdog:
    """`tick` is called by the loop, several times a second. `log`: where the stacks go, else stderr."""

    def __init__(self, log: Path | None) -> None:
        self._log = log
        self._ticked = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._ticked.set()
        self._thread.start()

    def tick(self) -> None:
        self._ticked.set()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        missed = 0
        while not self._stopped.wait(1.0):
            if self._ticked.is_set():
                self._ticked.clear()
                missed = 0
                continue
            missed += 1
            if missed >= CHECKS:
                self._restart()

    def _restart(self) -> None:
        # Not through `logging`: whoever stalls may hold its locks.
        where = sys.stderr.fileno() if self._log is None else os.open(self._log, os.O_WRONLY | os.O_APPEND)
        os.write(where, b"the event loop has not run for %d s; the process starts anew\n" % CHECKS)
        faulthandler.dump_traceback(file=where, all_threads=True)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
