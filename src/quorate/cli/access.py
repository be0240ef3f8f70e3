"""`quorate access`: the access keys that clients sign their requests with."""

import asyncio
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
from quorate.cli.output import result, say, table
from quorate.local.layout import Layout

app = group("Access keys of clients.")


@command(app, "create", "quorate access create --user backup --role user")
def create(
    user: Annotated[str, typer.Option(help="Whose key it is.")],
    role: Annotated[str, typer.Option(help="admin: may manage keys too; user: may use them.")] = "user",
    operator: OperatorDir = None,
    operator_passphrase: OperatorPassphrase = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Make an access key; its secret is printed once and kept nowhere."""
    from quorate.client import AdminClient
    from quorate.local import operator as acts

    if role not in ("admin", "user"):
        raise typer.BadParameter(f"{role!r} is neither admin nor user", param_hint="--role")
    key = acts.open_key(operator_directory(data, operator), operator_passphrase)
    pair = asyncio.run(
        acts.create_access(key, AdminClient(Layout.at(data).admin_socket), user=user, role=role)
    )
    made = {
        "access_key_id": pair.access_key_id,
        "secret_access_key": pair.secret_access_key,
        "user": user,
        "role": role,
    }
    say("Keep the secret now: it is not shown again.")
    result(
        made,
        as_json=json,
        text=f"AWS_ACCESS_KEY_ID={pair.access_key_id}\nAWS_SECRET_ACCESS_KEY={pair.secret_access_key}",
    )


@command(app, "list", "quorate access list")
def list_(data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """List the access keys, without their secrets."""
    from datetime import UTC, datetime

    from quorate.client import AdminClient

    known = asyncio.run(AdminClient(Layout.at(data).admin_socket).access())
    shown = [{name: value for name, value in key.items() if name != "statement"} for key in known]
    rows = [
        [
            key["access_key_id"],
            key["user"],
            key["role"],
            "enabled" if key["enabled"] else "disabled",
            datetime.fromtimestamp(key["created"], UTC).isoformat(timespec="seconds"),
        ]
        for key in shown
    ]
    result(shown, as_json=json, text=table(["access key", "user", "role", "state", "created"], rows))


@command(app, "disable", "quorate access disable AKIA1234567890EXAMPLE")
def disable(
    access_key_id: Annotated[str, typer.Argument(metavar="ID")],
    operator: OperatorDir = None,
    operator_passphrase: OperatorPassphrase = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Disable an access key, for good."""
    from quorate.client import AdminClient
    from quorate.local import operator as acts

    key = acts.open_key(operator_directory(data, operator), operator_passphrase)
    changed = asyncio.run(acts.disable_access(key, AdminClient(Layout.at(data).admin_socket), access_key_id))
    result(
        {"access_key_id": access_key_id, "enabled": False, "changed": changed},
        as_json=json,
        text=f"{access_key_id} is disabled" if changed else f"{access_key_id} was disabled already",
    )
