"""Options that many commands take, and how a command group is made.

Here: `--data`, `--json`, `--operator`, passphrases, the example below each help text. Not here: what they mean.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from quorate.local.layout import Layout

EPILOG_WIDTH = 110
PLAIN_HELP = None
"""Help as plain text: what draws frames around it takes longer to load than all else of `--help`."""

F = TypeVar("F", bound=Callable[..., Any])

Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", envvar="QUORATE_DATA", help="The data directory.")
]
DEFAULT_DATA = Path("quorate-data")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

OperatorDir = Annotated[
    Path | None,
    typer.Option(
        "--operator", metavar="DIR", help="The operator key's directory.", show_default="DATA/operator"
    ),
]

OperatorPassphrase = Annotated[
    Path | None,
    typer.Option(
        "--operator-passphrase",
        metavar="FILE",
        help="A file with the operator key's passphrase, where it has one.",
    ),
]
Passphrase = Annotated[
    Path | None,
    typer.Option(
        "--passphrase",
        metavar="FILE",
        help="A file with the vault's passphrase, in place of its key file.",
    ),
]


def group(text: str) -> typer.Typer:
    """A group of commands with the help text `text`."""
    return typer.Typer(
        help=text, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=PLAIN_HELP
    )


def example(text: str) -> str:
    """The epilog of a command: how it is used."""
    return f"Example: {text}"


def operator_directory(data: Path, given: Path | None) -> Path:
    return given.absolute() if given is not None else Layout.at(data).operator


def command(app: typer.Typer, name: str, usage: str) -> Callable[[F], F]:
    """Adds a command with its example."""
    return app.command(name, epilog=example(usage))
