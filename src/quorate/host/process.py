"""What every process that hosts a module does first.

Here: memory, core dumps, garbage collection. Not here: signals, how logs look.
"""

import gc
import logging

from quorate import _core

_log = logging.getLogger(__name__)


def prepare() -> bool:
    """Whether secrets lie in locked memory.

    Raises `CoreError` (`memory_lock`) when they do not, and nobody allowed that.
    """
    gc.freeze()  # what was imported is never garbage; a full collection of it takes 60 to 120 ms, with all at a stop
    gc.collect()  # so that few objects count as long-lived, and full collections of the others come often
    locked = _core.harden_process()
    if not locked:
        _log.warning(
            "secrets can be swapped to disk: memory cannot be locked, and QUORATE_ALLOW_UNLOCKED_MEMORY=1"
        )
    return locked
