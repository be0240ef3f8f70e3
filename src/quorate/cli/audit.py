"""`quorate audit`: the audit logs of this machine's processes."""

from pathlib import Path
from typing import Annotated

import typer

from quorate.cli.options import DEFAULT_DATA, Data, Json, command, group
from quorate.cli.output import result, table

app = group("Audit logs.")


@command(app, "verify", "quorate audit verify")
def verify(
    logs: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Logs; without any, all of --data.")
    ] = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Check that every line is whole and follows the one before; exit 1 if one does not."""
    from quorate.audit.verify import verify as check

    paths = logs or sorted(data.glob("**/audit.log"))
    found = [(path, check(path)) for path in paths]
    shown = [
        {
            "log": str(path),
            "lines": report.lines,
            "last_time": report.last_time,
            "last_hash": report.last_hash,
            "breach": None if report.breach is None else f"line {report.breach.line}: {report.breach.reason}",
        }
        for path, report in found
    ]
    rows = [[one["log"], one["lines"], one["last_time"], one["breach"] or "whole"] for one in shown]
    result(shown, as_json=json, text=table(["log", "lines", "last line", "state"], rows))
    if not found or any(report.breach is not None for _, report in found):
        raise typer.Exit(1)
