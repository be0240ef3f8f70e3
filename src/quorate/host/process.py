"""What every process that hosts a module does first.

Here: memory, core dumps, garbage collection. Not here: signals, logs.
"""

import gc

from quorate import _core


def prepare() -> None:
    """Raises `CoreError` (`memory_lock`) when secrets cannot be kept in locked memory."""
    gc.freeze()  # what was imported is never garbage; a full collection of it took 60 to 120 ms, with all at a stop
    _core.harden_process()
