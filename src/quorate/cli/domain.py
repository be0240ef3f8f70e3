"""`quorate domain`: sets of nodes that share one domain key."""

import asyncio
from typing import Annotated, Any

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
from quorate.errors import BadInput
from quorate.local.layout import Layout

app = group("Domains: who shares a key, and with what threshold.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The domain.")]


@command(app, "create", "quorate domain create payroll --threshold 3 --shards 5")
def create(
    name: Name,
    threshold: Annotated[
        int | None, typer.Option(help="How many shards open it.", show_default="half + 1")
    ] = None,
    shards: Annotated[int | None, typer.Option(help="How many there are.", show_default="one a node")] = None,
    lease_seconds: Annotated[
        int, typer.Option(min=1, max=3600, help="How long a node may use the key after a session.")
    ] = 30,
    lease_uses: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="How often a node may use the key after a session.")
    ] = 10_000,
    mode: Annotated[str, typer.Option(help="reconstruct")] = "reconstruct",
    dealer: Annotated[str, typer.Option(help="hub")] = "hub",
    operator: OperatorDir = None,
    operator_passphrase: OperatorPassphrase = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Charter a domain, and have the hub deal its key to the nodes."""
    from quorate.client import AdminClient
    from quorate.ids import DomainId
    from quorate.local import operator as acts

    for option, value, here, later in (
        ("--mode", mode, "reconstruct", "threshold"),
        ("--dealer", dealer, "hub", "members"),
    ):
        if value == later:
            raise BadInput(f"{option} {value} is not in this version", remedy=f"use {option} {here}")
        if value != here:
            raise typer.BadParameter(f"{value!r} is not {here}", param_hint=option)
    try:
        DomainId(name)
    except ValueError as why:
        raise typer.BadParameter(str(why), param_hint="NAME") from why
    key = acts.open_key(operator_directory(data, operator), operator_passphrase)
    hub = AdminClient(Layout.at(data).admin_socket)
    lease = acts.Lease(lease_seconds, lease_uses)
    made = asyncio.run(acts.create_domain(key, hub, name, threshold=threshold, shards=shards, lease=lease))
    for step in made.get("steps", []):
        say(f"  {step['step']:<12} {step['ms']:8.1f} ms")
    result(made, as_json=json, text=f"{name}: {made['threshold']} of {made['shards']}, epoch {made['epoch']}")


@command(app, "list", "quorate domain list")
def list_(data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """List the domains."""
    domains = _domains(data)
    rows = [
        [
            each["name"],
            each["mode"],
            f"{each['threshold']} of {each['shards']}",
            each["epoch"],
            each["live"],
            each["margin"],
            each["state"],
        ]
        for each in domains
    ]
    columns = ["domain", "mode", "quorum", "epoch", "live", "margin", "state"]
    result(domains, as_json=json, text=table(columns, rows))


@command(app, "show", "quorate domain show default")
def show(name: Name, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Show one domain, and who holds its shards."""
    for each in _domains(data):
        if each["name"] == name:
            break
    else:
        raise BadInput(f"there is no domain {name}", remedy="see `quorate domain list`")
    members = ", ".join(f"{member['index']}: {member['node']}" for member in each.get("members", []))
    rows = [[field, value] for field, value in each.items() if field != "members"]
    result(each, as_json=json, text=table(["field", "value"], [*rows, ["members", members]]))


@command(app, "lock", "quorate domain lock default")
def lock(name: Name, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Drop every lease of the domain now: the next use needs a fresh quorum."""
    from quorate.client import AdminClient

    done = asyncio.run(AdminClient(Layout.at(data).admin_socket).lock(name))
    locked = ", ".join(done["locked"]) or "no node"
    result(done, as_json=json, text=f"{name} is locked on {locked}")
    if done["unreached"]:
        say(f"not reached, their leases end by themselves: {', '.join(done['unreached'])}")


def _domains(data: Any) -> list[dict[str, Any]]:
    from quorate.local.status import status

    return list(asyncio.run(status(Layout.at(data)))["domains"])
