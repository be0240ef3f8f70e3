"""A thread that starts the process anew when its event loop has stalled.

Here: noticing, telling where each thread stands, and exec. Not here: what may stall a loop.

A stall that holds the interpreter's lock stops this thread too, and so does SIGSTOP: only a service manager sees
those.
"""

import faulthandler
import os
import sys
import tempfile
import threading

from quorate import logs

CHECKS = 10
"""Checks, one a second, without a sign of the loop. Checks and not seconds: a process that was suspended as a
whole makes none.
"""


class Watchdog:
    """`tick` is called by the loop, several times a second."""

    def __init__(self) -> None:
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
        if self._thread.ident is not None:
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
        try:
            with tempfile.TemporaryFile() as stacks:
                faulthandler.dump_traceback(file=stacks, all_threads=True)
                stacks.seek(0)
                told = stacks.read().decode(errors="replace").rstrip()
            message = f"the event loop has not run for {CHECKS} s; the process starts anew"
            logs.write_past_locks(__name__, message, told)
        finally:  # a full disk may stall a loop, and takes no line
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
