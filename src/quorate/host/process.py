"""What every process that hosts a module does first.

Here: memory, core dumps, garbage collection. Not here: signals, how logs look.
"""

import gc
import logging

from quorate import _core

_log = logging.getLogger(__name__)


def prepare() -> bool:
    """Whether secrets lie in locked memory. Raises `CoreError` (`memory_lock`) when they do not, and nobody allowed it."""
    gc.freeze()  # what was imported is never garbage; a full collection of it took 60 to 120 ms, with all at a stop
    locked = _core.harden_process()
    if not locked:
        _log.warning(
            "secrets can be swapped to disk: memory cannot be locked, and QUORATE_ALLOW_UNLOCKED_MEMORY=1"
        )
    return locked
