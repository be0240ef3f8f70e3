"""`quorate hub`: the HSM Management Hub's own machine."""

import asyncio
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
