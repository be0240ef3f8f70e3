"""What every process that hosts a module does first.

Here: memory, core dumps, the interpreter's thread switching and garbage collection. Not here: signals, logs.
"""

import gc
import sys

from quorate import _core

_SWITCH_SECONDS = 0.0002
"""How soon a waiting thread gets the interpreter: the audit log's writer is on the path of every session, and
Python's default of 5 ms is as long as a whole session."""


def prepare() -> None:
    """Raises `CoreError` (`memory_lock`) when secrets cannot be kept in locked memory."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.freeze()  # what was imported is never garbage; a full collection of it took 60 to 120 ms, with all at a stop
    _core.harden_process()
