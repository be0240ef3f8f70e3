"""Where a process's log lines go: to stderr, or to a file that is rotated.

Here: handlers and the format.
Not here: what is logged; no line ever holds a secret, a plaintext or a context.
"""

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 16 << 20
KEPT_FILES = 4

_FORMAT = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"
_LIBRARIES = ("uvicorn", "asyncio", "picows", "aiosqlite", "sqlalchemy")


def set_up(file: Path | None = None, *, level: int = logging.INFO) -> None:
    """Sends every log line to `file`, rotated at `MAX_BYTES`, or to stderr without one."""
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = RotatingFileHandler(file, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for library in _LIBRARIES:  # they tell of every connection
        logging.getLogger(library).setLevel(logging.WARNING)
