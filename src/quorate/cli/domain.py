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

_POLL_SECONDS = 0.25

app = group("Domains: who shares a key, and with what threshold.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The domain.")]
RefreshEvery = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="30s, 15m, 12h, 7d, or 0 for never.", show_default="24h"),
]
RotateEvery = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="A new key each 12h, 30d, …, or 0 for never.", show_default="never"),
]


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
    floor: Annotated[
        int | None,
        typer.Option(help="The least threshold that it may ever have.", show_default="the threshold"),
    ] = None,
    refresh_every: RefreshEvery = None,
    rotate_every: RotateEvery = None,
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
        DomainId.named(name)
    except ValueError as why:
        raise typer.BadParameter(str(why), param_hint="NAME") from why
    key = acts.open_key(operator_directory(data, operator), operator_passphrase)
    hub = AdminClient(Layout.at(data).admin_socket)
    lease = acts.Lease(lease_seconds, lease_uses)
    every = None if rotate_every is None else seconds(rotate_every, "--rotate-every")
    made = asyncio.run(
        acts.create_domain(
            key,
            hub,
            name,
            threshold=threshold,
            shards=shards,
            floor=floor,
            refresh_every=None if refresh_every is None else seconds(refresh_every),
            lease=lease,
        )
    )
    if every is not None:
        asyncio.run(hub.set_domain(name, rotate_every=every))
        made["rotate_every"] = every
    _made(name, made, json)


@command(app, "refresh", "quorate domain refresh default")
def refresh(name: Name, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Deal new shards of the same key; what there was before is erased."""
    from quorate.client import AdminClient

    _made(name, asyncio.run(AdminClient(Layout.at(data).admin_socket).refresh(name)), json)


@command(app, "reshare", "quorate domain reshare default --threshold 4 --shards 7")
def reshare(
    name: Name,
    threshold: Annotated[
        int | None, typer.Option(help="How many shards open it.", show_default="as now")
    ] = None,
    shards: Annotated[int | None, typer.Option(help="How many there are.", show_default="as now")] = None,
    nodes: Annotated[
        str | None, typer.Option(help="Who may hold them, by comma.", show_default="any holder")
    ] = None,
    floor: Annotated[
        int | None, typer.Option(help="The least threshold that it may ever have.", show_default="as now")
    ] = None,
    operator: OperatorDir = None,
    operator_passphrase: OperatorPassphrase = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Deal the same key to other nodes, or with another threshold. Ciphertexts stay as they are."""
    from quorate.client import AdminClient
    from quorate.local import operator as acts

    made = asyncio.run(
        acts.reshare_domain(
            lambda: acts.open_key(operator_directory(data, operator), operator_passphrase),
            AdminClient(Layout.at(data).admin_socket),
            name,
            threshold=threshold,
            shards=shards,
            nodes=None if nodes is None else [node.strip() for node in nodes.split(",")],
            floor=floor,
        )
    )
    _made(name, made, json)


@command(app, "rotate-key", "quorate domain rotate-key default")
def rotate_key(
    name: Name,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Until the old key is erased everywhere.")
    ] = True,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Give the domain a new key, wrap its KMS keys under it, and erase the old one. Ciphertexts stay as they are."""
    from quorate.client import AdminClient

    hub = AdminClient(Layout.at(data).admin_socket)
    begun = asyncio.run(hub.rotate(name))
    to = begun["key_version"]
    say(f"key version {to} is shared")
    done = asyncio.run(_rotated(hub, name, to)) if wait else begun
    how = "in use; the one before is erased" if wait else "shared; `quorate domain show` tells how far it is"
    result(done, as_json=json, text=f"{name}: key version {to} is {how}")


async def _rotated(hub: Any, name: str, to: int) -> dict[str, Any]:
    """The domain once its rotation is over; what changes meanwhile is told."""
    from quorate.errors import HubUnreachable

    told = ""
    while True:
        try:
            domains = (await hub.status())["domains"]
        except HubUnreachable:
            domains = None  # it goes on with the rotation when it is back
        if domains is not None:
            domain: dict[str, Any] = next(each for each in domains if each["name"] == name)
            if (domain["rotation"] or {"to": 0})["to"] != to:
                return domain
            if (now := rotation(domain)) != told:
                say(f"  {now}")
                told = now
        await asyncio.sleep(_POLL_SECONDS)


@command(app, "abort", "quorate domain abort default --reason 'node-3 is being replaced'")
def abort(
    name: Name,
    reason: Annotated[str, typer.Option(help="For the audit log and the nodes.")],
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Give the epoch change that is under way up. Once it is committed, nothing can; nor a rotation after that."""
    from quorate.client import AdminClient

    done = asyncio.run(AdminClient(Layout.at(data).admin_socket).abort(name, reason))
    if not done["aborted"]:
        raise BadInput(f"no epoch change of {name} is under way", remedy="see `quorate domain show`")
    result(done, as_json=json, text=f"the epoch change of {name} is given up; its epoch stays as it was")


@command(app, "set", "quorate domain set default --refresh-every 12h")
def set_(
    name: Name,
    refresh_every: RefreshEvery = None,
    rotate_every: RotateEvery = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Change what the hub does for a domain by itself."""
    from quorate.client import AdminClient

    if refresh_every is None and rotate_every is None:
        raise typer.BadParameter("nothing to set", param_hint="--refresh-every, --rotate-every")
    refresh = None if refresh_every is None else seconds(refresh_every)
    every = None if rotate_every is None else seconds(rotate_every, "--rotate-every")
    hub = AdminClient(Layout.at(data).admin_socket)
    done = asyncio.run(hub.set_domain(name, refresh_every=refresh, rotate_every=every))
    refreshed, rotated = _how_often(done["refresh_every"]), _how_often(done["rotate_every"])
    result(done, as_json=json, text=f"{name} is refreshed {refreshed}, its key rotated {rotated}")


def _how_often(every: int) -> str:
    return f"every {every} s" if every else "on request only"


@command(app, "list", "quorate domain list")
def list_(data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """List the domains."""
    domains = _domains(data)
    rows = [
        [
            each["name"],
            each["mode"],
            f"{each['threshold']} of {each['shards']}",
            each.get("key_version", 1),
            each["epoch"],
            each["live"],
            each["margin"],
            each["state"],
        ]
        for each in domains
    ]
    columns = ["domain", "mode", "quorum", "key", "epoch", "live", "margin", "state"]
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
    special = {
        "members": members,
        "earlier": _earlier(each),
        "change": _change(each),
        "rotation": rotation(each),
    }
    rows = [[field, special.get(field, _plain(value))] for field, value in each.items()]
    result(each, as_json=json, text=table(["field", "value"], rows))


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _earlier(domain: dict[str, Any]) -> str:
    """What is left of earlier epochs."""
    return "; ".join(
        f"epoch {each['epoch']}: {each['not_erased']} shards not proven to be erased"
        + ("" if each["retired"] else ", enough to open it")
        for each in domain.get("earlier", [])
    )


def _change(domain: dict[str, Any]) -> str:
    """The epoch change that is under way."""
    change = domain.get("change")
    if not change:
        return ""
    waits = f", waits for {', '.join(change['waits_for'])}" if change["waits_for"] else ""
    return f"{change['purpose']} to epoch {change['epoch']}: {change['phase']} for {change['seconds']:.1f} s{waits}"


def rotation(domain: dict[str, Any]) -> str:
    """The rotation that is under way."""
    found = domain.get("rotation")
    if not found:
        return ""
    waits = f", waits for {', '.join(found['waits_for'])}" if found["waits_for"] else ""
    wrong = f", {found['wrong']} wrong" if found.get("wrong") else ""
    keys = f"{found['rewrapped']} of {found['keys']} keys under it{wrong}"
    return f"to key version {found['to']}: {found['phase']}, {keys}{waits}"


@command(app, "lock", "quorate domain lock default")
def lock(name: Name, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Drop every lease of the domain now: the next use needs a fresh quorum."""
    from quorate.client import AdminClient

    done = asyncio.run(AdminClient(Layout.at(data).admin_socket).lock(name))
    locked = ", ".join(done["locked"]) or "no node"
    result(done, as_json=json, text=f"{name} is locked on {locked}")
    if done["unreached"]:
        say(f"not reached, their leases end by themselves: {', '.join(done['unreached'])}")


def _made(name: str, made: dict[str, Any], json: bool) -> None:
    for step in made.get("steps", []):
        say(f"  {step['step']:<12} {step['ms']:8.1f} ms")
    result(made, as_json=json, text=f"{name}: {made['threshold']} of {made['shards']}, epoch {made['epoch']}")
    if made.get("without"):
        say(f"without a shard of it until they are back and repaired: {', '.join(made['without'])}")


def seconds(text: str, option: str = "--refresh-every") -> int:
    """A time as people write it. Raises `typer.BadParameter`."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], text[-1:]) if text[-1:] in units else (text, "s")
    if not number.isdecimal():
        raise typer.BadParameter(f"{text!r} is no time", param_hint=option)
    return int(number) * units[unit]


def _domains(data: Any) -> list[dict[str, Any]]:
    from quorate.local.status import status

    return list(asyncio.run(status(Layout.at(data)))["domains"])
