"""A process's log lines, as text or JSON: to stderr, or to a file that is rotated.

Here: formats, levels, handlers, which request a line belongs to, and what an exception may show.
Not here: what is logged. No line ever holds a secret, a plaintext or a context, whatever an exception says: its own
text is written only where that text is ours (`QuorateError`, `CoreError`) or the system's (`OSError`); of every other
one, the type and the places alone.
"""

import asyncio
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from quorate._core import CoreError
from quorate.errors import QuorateError

MAX_BYTES = 16 << 20
KEPT_FILES = 4
"""Besides the one that is written."""

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The request that the current task works for, as the client sees it in x-amzn-RequestId."""

_LIBRARIES = ("uvicorn", "asyncio", "picows", "aiosqlite", "sqlalchemy")
_CHAIN = 8
"""Exceptions of one chain that are written."""

_log = logging.getLogger(__name__)


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


class Level(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def set_up(
    file: Path | None = None,
    *,
    process: str,
    form: Format = Format.TEXT,
    level: Level = Level.INFO,
) -> None:
    """Sends every log line to `file`, rotated at `MAX_BYTES`, or to stderr without one. `process`: hub, node-3 …"""
    handler: logging.Handler
    if file is None:
        handler = _ToStderr(sys.stderr)
    else:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = _ToFile(file)
    handler.setFormatter(_Lines(process, form))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(level)
    for library in _LIBRARIES:  # they tell of every connection
        logging.getLogger(library).setLevel(logging.WARNING)


def set_level(level: Level) -> None:
    logging.getLogger().setLevel(level.name)


def take_failures(loop: asyncio.AbstractEventLoop) -> None:
    """Failures that nobody caught are log lines too, without values: the interpreter would print their text."""
    loop.set_exception_handler(_in_loop)
    sys.excepthook = lambda _kind, error, _trace: _uncaught("the process", error)
    threading.excepthook = lambda args: _uncaught("a thread", args.exc_value)
    sys.unraisablehook = lambda args: _uncaught("a finalizer", args.exc_value)
    logging.captureWarnings(True)


def told(error: BaseException) -> str:
    """Type and places of an exception and its causes; the text only where it cannot quote a value."""
    return "".join(_told(error)).rstrip("\n")


def write_past_locks(logger: str, message: str, stacks: str) -> None:
    """One critical line, without the handler's lock: for a process in which somebody may hold it for ever."""
    handler = logging.getLogger().handlers[0]
    record = logging.LogRecord(logger, logging.CRITICAL, "", 0, message, (), None)
    record.__dict__["exception"] = stacks
    line = handler.format(record).encode() + b"\n"
    if isinstance(handler, _ToFile):
        fd = os.open(handler.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    else:
        fd = 2
    os.write(fd, line)


class _Lines(logging.Formatter):
    """One line for each record: UTC times as in RFC 3339; in text an exception follows, indented."""

    def __init__(self, process: str, form: Format) -> None:
        super().__init__()
        self._process = process
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname,
            "logger": record.name,
            "process": self._process,
            "message": _message(record),
        }
        if request := request_id.get():
            line["request_id"] = request
        if exception := _exception(record):
            line["exception"] = exception
        return json.dumps(line) if self._form is Format.JSON else _text(line)


def _text(line: dict[str, str]) -> str:
    message = line["message"].replace("\r", "\\r").replace("\n", "\\n")  # what a stranger sent makes no line
    text = f"{line['time']} {line['level']:<8} {line['process']} {line['logger']}: {message}"
    if request := line.get("request_id"):
        text += f" request_id={request}"
    if exception := line.get("exception"):
        text += "\n    " + exception.replace("\n", "\n    ")
    return text


def _message(record: logging.LogRecord) -> str:
    args = record.args
    if isinstance(args, tuple):
        args = tuple(_short(arg) if isinstance(arg, BaseException) else arg for arg in args)
    message = _short(record.msg) if isinstance(record.msg, BaseException) else str(record.msg)
    return message % args if args else message


def _exception(record: logging.LogRecord) -> str:
    given: str = getattr(record, "exception", "")
    if given or not record.exc_info or record.exc_info[1] is None:
        return given
    return told(record.exc_info[1])


def _short(error: BaseException) -> str:
    match error:
        case CoreError():
            return error.message
        case QuorateError():
            return str(error)
        case OSError(errno=int()):
            return str(error)
    return type(error).__name__


def _told(error: BaseException, depth: int = 0) -> Iterator[str]:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and depth < _CHAIN:
        yield from _told(cause, depth + 1)
        yield "\nwhich led to:\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    name, short = type(error).__name__, _short(error)
    yield f"{name}\n" if short == name else f"{name}: {short}\n"
    if isinstance(error, BaseExceptionGroup) and depth < _CHAIN:
        for number, part in enumerate(error.exceptions[:_CHAIN], 1):
            yield f"\npart {number} of {len(error.exceptions)}:\n\n"
            yield from _told(part, depth + 1)


def _in_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's own text would name the task's result or exception."""
    why = context.get("exception")
    error = why if isinstance(why, BaseException) else None  # aiofastnet 1.2 gives a class in its place
    # Anybody can leave before a handshake is done, as often as he likes.
    level = logging.DEBUG if context["message"].startswith("SSL handshake failed") else logging.ERROR
    _log.log(level, "in the event loop: %s", context["message"].partition(":")[0], exc_info=error)


def _uncaught(where: str, error: BaseException | None) -> None:
    _log.critical("%s failed", where, exc_info=error)


class _Quiet(logging.Handler):
    """What cannot be written is told without the record: the library's way would print its arguments."""

    def handleError(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            os.write(2, _ours(self, f"a line of {record.name} was lost: {type(sys.exception()).__name__}"))


def _ours(handler: logging.Handler, message: str) -> bytes:
    record = logging.LogRecord(__name__, logging.ERROR, "", 0, message, (), None)
    return handler.format(record).encode() + b"\n"


class _ToStderr(_Quiet, logging.StreamHandler[Any]):
    pass


class _ToFile(_Quiet, RotatingFileHandler):
    """NAME.log, then NAME.log.1 (newer) to NAME.log.4 (older).

    Where stderr was the same file, it goes along to the new one: what the interpreter or the core prints is not
    written into a file that is about to be removed.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(file, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8")
        self._with_stderr = _same_file(self._fd, 2)
        self._stuck = False

    @property
    def _fd(self) -> int:
        if self.stream is None:  # after a rotation that failed half-way
            self.stream = self._open()
        return self.stream.fileno()

    def doRollover(self) -> None:
        try:
            super().doRollover()
        except OSError as why:  # a line is worth more than its file's bound
            if not self._stuck:
                self._stuck = True
                os.write(self._fd, _ours(self, f"the log cannot be rotated: {why.strerror}"))
        if self._with_stderr:
            os.dup2(self._fd, 2)


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False
