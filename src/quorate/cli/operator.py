"""`quorate operator`: the key that signs what a hub must not decide alone."""

from pathlib import Path
from typing import Annotated

import typer

from quorate.cli.options import (
    DEFAULT_DATA,
    Data,
    Json,
    OperatorDir,
    OperatorPassphrase,
    command,
    group,
    operator_directory,
)
from quorate.cli.output import result

app = group("The operator key.")


@command(app, "init", "quorate operator init --region eu-central-1 --operator /media/usb/operator")
def init(
    region: Annotated[str, typer.Option(help="The fleet's AWS region name.")] = "us-east-1",
    account: Annotated[str, typer.Option(help="The fleet's 12-digit account id.")] = "000000000000",
    operator: OperatorDir = None,
    operator_passphrase: OperatorPassphrase = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Make the operator key, and a fleet's id with it."""
    from quorate.local.operator import create_key

    directory: Path = operator_directory(data, operator)
    key = create_key(directory, region=region, account=account, passphrase_file=operator_passphrase)
    made = {"fleet": key.fleet.hex(), "operator": key.public_key.hex(), "directory": str(directory)}
    result(made, as_json=json, text=f"fleet {made['fleet']}\noperator key {made['operator']} in {directory}")
