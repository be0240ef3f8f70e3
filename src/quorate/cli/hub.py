"""`quorate hub`: the HSM Management Hub's own machine."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from quorate.cli import serving
from quorate.cli.options import (
    DEFAULT_DATA,
    Data,
    Json,
    OperatorDir,
    OperatorPassphrase,
    Passphrase,
    command,
    group,
    operator_directory,
)
from quorate.cli.output import result
from quorate.cli.serving import LogFile, LogFormat, LogLevel
from quorate.logs import Format, Level

app = group("The hub: roster, domains, quorum selection.")


@command(app, "init", "quorate hub init --fleet-listen 10.0.0.1:4600 --enrol-listen 10.0.0.1:4601")
def init(
    fleet_listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where nodes link to.")],
    enrol_listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where new nodes ask.")],
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The fleet address that nodes are told.")
    ] = None,
    zone: Annotated[str, typer.Option(help="Its failure zone.")] = "hub",
    operator: OperatorDir = None,
    operator_passphrase: OperatorPassphrase = None,
    passphrase: Passphrase = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Make the hub: its module, the fleet key, the first roster, its certificates and database."""
    from quorate.hub.setup import init as set_up
    from quorate.local.operator import open_key

    key = open_key(operator_directory(data, operator), operator_passphrase)
    asyncio.run(
        set_up(
            data.absolute(),
            operator=key,
            fleet_listen=fleet_listen,
            enrol_listen=enrol_listen,
            address=address,
            zone=zone,
            passphrase_file=passphrase,
        )
    )
    result({"fleet": key.fleet.hex()}, as_json=json, text=f"hub of fleet {key.fleet.hex()} in {data / 'hub'}")


@command(app, "backup", "quorate hub backup /var/backups/quorate/2026-01-31.backup")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; there must be no such file.")],
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Back up the hub's database into one file, while the hub serves or not."""
    from quorate.hub.backup import backup as write

    made = write(data.absolute(), file.absolute(), now=datetime.now(UTC))
    size = file.stat().st_size
    told = {
        "file": str(file),
        "bytes": size,
        "fleet": made.fleet.hex(),
        "time": made.time,
        "schema": made.schema,
    }
    result(
        told,
        as_json=json,
        text=f"{file}: {size} bytes, the hub of fleet {made.fleet.hex()} as of {made.time}\n"
        "It does not hold the module's vault: keep a copy of that too (docs/operations.md).",
    )


@command(app, "restore", "quorate hub restore /var/backups/quorate/2026-01-31.backup")
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `quorate hub backup` made.")],
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Put the database of a backup in place of the hub's, which must be stopped; the earlier one is kept."""
    from quorate.hub.backup import restore as put_back

    done = put_back(data.absolute(), file.absolute(), now=datetime.now(UTC))
    told = {
        "fleet": done.header.fleet.hex(),
        "time": done.header.time,
        "kept": None if done.kept is None else str(done.kept),
        "added": list(done.added),
    }
    lines = [f"the hub's database is that of {done.header.time}"]
    if done.kept is not None:
        lines.append(f"the earlier one is kept in {done.kept}; remove it once the fleet serves")
    if done.added:
        lines.append(f"put back, since missing: {', '.join(done.added)}")
    lines.append("now start the hub (`quorate up`, or `quorate hub serve`)")
    result(told, as_json=json, text="\n".join(lines))


@command(app, "serve", "quorate hub serve --data /var/lib/quorate")
def serve(
    log: LogFile = None,
    log_format: LogFormat = Format.TEXT,
    log_level: LogLevel = Level.INFO,
    passphrase: Passphrase = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Run the hub until SIGTERM or Ctrl-C."""
    from quorate.hub.service import serve as run

    service = run(
        data.absolute(), log=log, log_format=log_format, log_level=log_level, passphrase_file=passphrase
    )
    raise serving.run(service, log_format)
