"""How `hub serve` and `node serve` run: options of their logs, the loop, and an end that the log tells too.

Here: what both share. Not here: what is served, how lines look (`logs`).
"""

import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from quorate import logs

LogFile = Annotated[Path | None, typer.Option("--log", metavar="FILE", help="Log there, rotated.")]
LogFormat = Annotated[
    logs.Format, typer.Option("--log-format", envvar="QUORATE_LOG_FORMAT", help="How a log line looks.")
]
LogLevel = Annotated[
    logs.Level, typer.Option("--log-level", envvar="QUORATE_LOG_LEVEL", help="The least that is logged.")
]

_log = logging.getLogger(__name__)


def run(service: Coroutine[Any, Any, int], log_format: logs.Format) -> typer.Exit:
    """The exit of a service that has ended. Raises what it raised; where lines are JSON, that is a line too."""
    import uvloop

    from quorate._core import CoreError
    from quorate.cli.output import explained
    from quorate.errors import QuorateError

    try:
        return typer.Exit(uvloop.run(service))
    except (QuorateError, CoreError, OSError) as why:
        if log_format is logs.Format.TEXT:
            raise
        error = explained(why)
        _log.critical("%s; kept: %s; remedy: %s", error["message"], error["kept"], error["remedy"])
        return typer.Exit(1)
