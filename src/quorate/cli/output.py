"""How results, messages and errors look.

Here: stdout and stderr, tables, JSON, an error's three parts. Not here: what is said.
"""

import json
from collections.abc import Sequence
from typing import Any

import typer

from quorate._core import CoreError
from quorate.errors import QuorateError

_REMEDIES = {
    "vault_in_use": "the process that uses it is running: `quorate status` tells, `quorate down` stops it",
    "vault_missing": "point --data (or --operator) at the right directory",
    "vault_corrupt": "restore the directory from a copy; a node can also be made anew and enrolled again",
    "vault_version": "run the release that wrote it, or a newer one that can read it",
    "wrong_passphrase": "try again with the right passphrase",
    "memory_lock": "raise the limit of locked memory (`ulimit -l`), see `quorate doctor`",
    "already_exists": "use what is there, or choose another name or directory",
    "storage": "mend the disk (space, permissions, hardware), then try again",
}
_REMEDY = "see the code in docs/errors.md; nothing needs to be undone"


def result(value: Any, *, as_json: bool, text: str = "") -> None:
    """The result on stdout: `value` as JSON, or `text`."""
    if as_json:
        typer.echo(json.dumps(value, indent=2))
    elif text:
        typer.echo(text)


def say(message: str) -> None:
    """A message for the person, on stderr."""
    typer.echo(message, err=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under their columns, as text; plain when stdout is no terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*("-" if cell is None else str(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    with console.capture() as captured:
        console.print(drawn)
    return captured.get().rstrip("\n")


def failed(error: Exception, *, as_json: bool) -> int:
    """Says on stderr what happened, what was kept and what to do; returns the exit code."""
    told = explained(error)
    if as_json:
        typer.echo(json.dumps({"error": told}), err=True)
    else:
        typer.secho(f"quorate: {told['message']}", err=True, fg="red")
        typer.echo(f"  kept:   {told['kept']}", err=True)
        typer.echo(f"  remedy: {told['remedy']}", err=True)
    return 1


def explained(error: Exception) -> dict[str, str]:
    """An error's code, message, what was kept, and the remedy."""
    if isinstance(error, QuorateError):
        return {"code": error.code, "message": str(error), "kept": error.kept, "remedy": error.remedy}
    if isinstance(error, CoreError):
        return {
            "code": error.code,
            "message": error.message,
            "kept": "the module refused before it changed anything",
            "remedy": _REMEDIES.get(error.code, _REMEDY),
        }
    return {
        "code": "storage_failed",
        "message": str(error),
        "kept": "what was finished before is unchanged",
        "remedy": "check that the file or directory named is there, and yours to read and write",
    }
