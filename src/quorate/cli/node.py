"""`quorate node`: a node's own machine, and what the operator does about nodes."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

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
from quorate.cli.output import result, say, table
from quorate.cli.serving import LogFile, LogFormat, LogLevel
from quorate.errors import BadInput
from quorate.ids import NodeId
from quorate.local.layout import Layout, read_json
from quorate.logs import Format, Level

app = group("Nodes: one HSM module each.")


def _name(text: str) -> str:
    try:
        return NodeId(text).value
    except ValueError as why:
        raise typer.BadParameter(str(why)) from why


Name = Annotated[str, typer.Argument(metavar="NAME", callback=_name, help="The node.")]


@command(app, "init", "quorate node init node-6 --data /var/lib/quorate")
def init(name: Name, passphrase: Passphrase = None, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Make the node's module; prints the fingerprint that the operator compares."""
    from quorate.node.setup import init as set_up

    fingerprint = set_up(data.absolute(), name, passphrase_file=passphrase).hex()
    result({"name": name, "fingerprint": fingerprint}, as_json=json, text=fingerprint)


@command(app, "invite", "quorate node invite node-6 --zone rack-2 --fingerprint 5f0c…")
def invite(
    name: Name,
    zone: Annotated[str, typer.Option(help="Its failure zone.")] = "zone-1",
    role: Annotated[str, typer.Option(help="holder")] = "holder",
    fingerprint: Annotated[
        str | None, typer.Option(metavar="HEX", help="Only this module may use the invitation.")
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=24 * 30, help="How long it holds.")] = 24,
    enrol_address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the node asks.", show_default="as the hub listens"),
    ] = None,
    operator: OperatorDir = None,
    operator_passphrase: OperatorPassphrase = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Sign a one-time invitation for a node; `--data` is the hub's. Pass it on by a private way."""
    from quorate.client import AdminClient
    from quorate.local import operator as acts

    layout = Layout.at(data)
    key = acts.open_key(operator_directory(data, operator), operator_passphrase)
    invitation = asyncio.run(
        acts.invite(
            key,
            AdminClient(layout.admin_socket),
            name=name,
            zone=zone,
            role=role,
            enrol_address=enrol_address or _enrol_address(layout),
            hours=hours,
            fingerprint=_hex(fingerprint) if fingerprint else None,
        )
    )
    result({"name": name, "invitation": invitation}, as_json=json, text=invitation)


@command(
    app, "enroll", "quorate node enroll node-6 --invitation @invitation.txt --fleet-listen 10.0.0.6:4600"
)
def enroll(
    name: Name,
    invitation: Annotated[str, typer.Option(metavar="TEXT|@FILE", help="What `invite` printed.")],
    fleet_listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where other nodes link to.")],
    kms_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where clients ask.")
    ] = "127.0.0.1:4500",
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The fleet address that others are told.")
    ] = None,
    kms_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name or IP address of the KMS certificate.")
    ] = None,
    passphrase: Passphrase = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Ask the fleet for a place, and wait until the operator approves."""
    from quorate.node.setup import enroll as ask

    text = invitation
    if invitation.startswith("@"):
        text = Path(invitation[1:]).read_text().strip()
    asyncio.run(
        ask(
            data.absolute(),
            name,
            invitation=text,
            fleet_listen=fleet_listen,
            kms_listen=kms_listen,
            address=address,
            kms_names=tuple(kms_name or ("localhost", "127.0.0.1")),
            passphrase_file=passphrase,
            progress=say,
        )
    )
    result({"name": name, "enrolled": True}, as_json=json)


@command(app, "approve", "quorate node approve node-6 --fingerprint 5f0c…")
def approve(
    name: Name,
    fingerprint: Annotated[str | None, typer.Option(metavar="HEX", help="Approve only this module.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
    operator: OperatorDir = None,
    operator_passphrase: OperatorPassphrase = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Sign the entry of a node that asks to be enrolled; `--data` is the hub's."""
    from quorate.client import AdminClient
    from quorate.local import operator as acts

    hub = AdminClient(Layout.at(data).admin_socket)
    asked = asyncio.run(acts.pending_enrolment(hub, name))
    if asked is None:
        raise BadInput(
            f"no node {name} asks to be enrolled", remedy=f"run `quorate node enroll {name} …` there"
        )
    say(f"{name} asks as {asked['role']} of {asked['zone']}\nfingerprint {asked['fingerprint']}")
    if (
        fingerprint is None
        and not yes
        and not typer.confirm("Is this the fingerprint that the node shows?", err=True)
    ):
        raise BadInput(f"{name} was not approved", remedy="compare the fingerprints, then run this again")
    key = acts.open_key(operator_directory(data, operator), operator_passphrase)
    version = asyncio.run(acts.approve(key, hub, name, fingerprint=fingerprint or asked["fingerprint"]))
    result(
        {"name": name, "roster_version": version}, as_json=json, text=f"{name} is approved; roster {version}"
    )


@command(app, "serve", "quorate node serve node-6 --data /var/lib/quorate")
def serve(
    name: Name,
    log: LogFile = None,
    log_format: LogFormat = Format.TEXT,
    log_level: LogLevel = Level.INFO,
    passphrase: Passphrase = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Run the node until SIGTERM or Ctrl-C."""
    from quorate.node.service import serve as run

    service = run(
        data.absolute(), name, log=log, log_format=log_format, log_level=log_level, passphrase_file=passphrase
    )
    raise serving.run(service, log_format)


@command(app, "list", "quorate node list")
def list_(data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """List the nodes and their states."""
    from quorate.local.status import status

    nodes = asyncio.run(status(Layout.at(data)))["nodes"]
    result(nodes, as_json=json, text=nodes_table(nodes))


def nodes_table(nodes: list[dict[str, Any]]) -> str:
    fields = ("name", "pid", "role", "state", "zone", "kms", "certificate_expires")
    rows = [[node[field] for field in fields] for node in nodes]
    text = table(["node", "pid", "role", "state", "zone", "KMS", "certificate until"], rows)
    convicted = [
        f"\n{node['name']} is convicted ({node['convicted']}) and left out of epoch changes: replace it, or mend and "
        "pardon it (`quorate node pardon`)"
        for node in nodes
        if node["convicted"]
    ]
    return text + "".join(convicted)


@command(app, "add", "quorate node add")
def add(data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Make, enrol and start one more node of this machine's fleet. Then deal it shards (`quorate domain reshare`)."""
    name = _add(data)
    result({"name": name}, as_json=json, text=f"{name} is in the fleet, and holds no shard yet")


@command(app, "replace", "quorate node replace node-2")
def replace(
    name: Name,
    by: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="An enrolled node.", show_default="a new one of this machine"),
    ] = None,
    operator: OperatorDir = None,
    operator_passphrase: OperatorPassphrase = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Give a node's shards to another one, and retire it. It may be down, or lost."""
    from quorate.client import AdminClient
    from quorate.local import operator as acts

    hub = AdminClient(Layout.at(data).admin_socket)
    known = {node["name"] for node in asyncio.run(hub.status())["nodes"]}
    if name not in known:
        raise BadInput(f"there is no node {name}", remedy="see `quorate node list`")

    def key() -> Any:
        return acts.open_key(operator_directory(data, operator), operator_passphrase)

    other = by if by is not None else _add(data)
    for made in asyncio.run(acts.replace(key, hub, name, other)):
        say(f"  {made['name']}: epoch {made['epoch']}, {made['threshold']} of {made['shards']}")
    version, kept = _retire(data, key, name)
    text = f"{other} is in the place of {name}, which is retired; roster {version}"
    result({"name": name, "by": other, "roster_version": version}, as_json=json, text=text)
    _tell_kept(kept)


@command(app, "retire", "quorate node retire node-2")
def retire(
    name: Name,
    operator: OperatorDir = None,
    operator_passphrase: OperatorPassphrase = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Take a node that holds no shards out of the fleet, for good: neither its name nor its keys come back."""
    from quorate.local import operator as acts

    version, kept = _retire(
        data, lambda: acts.open_key(operator_directory(data, operator), operator_passphrase), name
    )
    text = f"{name} is retired; roster {version}"
    result({"name": name, "roster_version": version}, as_json=json, text=text)
    _tell_kept(kept)


@command(app, "pardon", "quorate node pardon node-2")
def pardon(name: Name, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Take a node back that was convicted of a lie in an epoch change, after it was mended."""
    from quorate.client import AdminClient

    if not asyncio.run(AdminClient(Layout.at(data).admin_socket).pardon(name)):
        raise BadInput(f"{name} is not convicted of anything", remedy="see `quorate node list`")
    result({"name": name, "pardoned": True}, as_json=json, text=f"{name} takes part in epoch changes again")


@command(app, "start", "quorate node start node-2")
def start(name: Name, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Start a node of this machine that is down; returns when it is ready."""
    from quorate.local.processes import running, start_one

    layout = _here(data, name)
    if run := running(layout.node(name)):
        result(run, as_json=json, text=f"{name} runs already, pid {run['pid']}")
        return
    begun = time.monotonic()
    run = asyncio.run(start_one(layout, name))
    say(f"ready after {time.monotonic() - begun:.2f} s")
    result(run, as_json=json, text=f"{name} runs, pid {run['pid']}, {run['state']}")


@command(app, "stop", "quorate node stop node-2")
def stop(
    name: Name,
    kill: Annotated[bool, typer.Option("--kill", help="SIGKILL, as a crash would.")] = False,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Stop a node of this machine."""
    from quorate.local import processes

    layout = _here(data, name)
    run = processes.running(layout.node(name))
    if run is None:
        result({"name": name, "stopped": False}, as_json=json, text=f"{name} does not run")
        return
    if kill:
        processes.kill(layout.node(name))
    elif processes.stop([layout.node(name)]):
        say(f"{name} did not stop in time and was killed")
    result({"name": name, "stopped": True}, as_json=json, text=f"{name} is stopped")


def _add(data: Path) -> str:
    from quorate.local import fleet, shape

    layout = Layout.at(data)
    known = shape.read_shape(layout)
    if known is None:
        raise BadInput(
            f"{layout.data} holds no fleet that `up` made",
            remedy="on a machine of its own a node is made with `quorate node init`, `invite`, `enroll`, `approve`",
        )
    return asyncio.run(
        fleet.add_node(
            layout, known, lambda step: say(f"  {step.seconds:6.2f} s  {step.name}: {step.detail}")
        )
    )


def _retire(data: Path, key: Callable[[], Any], name: str) -> tuple[int, Path | None]:
    """The new roster's version, and where the node's directory is now, if it is on this machine."""
    from quorate.client import AdminClient
    from quorate.local import fleet, shape
    from quorate.local import operator as acts

    layout = Layout.at(data)
    version = asyncio.run(acts.retire(key, AdminClient(layout.admin_socket), name))
    known = shape.read_shape(layout)
    return version, None if known is None else fleet.retire_here(layout, known, name)


def _tell_kept(kept: Path | None) -> None:
    if kept is not None:
        say(f"its directory is {kept}: old shards may lie in it; destroy it once you need nothing of it")


def _here(data: Path, name: str) -> Layout:
    layout = Layout.at(data)
    if name not in layout.node_names():
        raise BadInput(f"{layout.data} holds no node {name}", remedy="see `quorate node list`")
    return layout


def _enrol_address(layout: Layout) -> str:
    settings = read_json(layout.hub / "settings.json")
    if settings is None:
        raise BadInput(
            f"{layout.hub} holds no hub",
            remedy="point --data at the hub's directory, or give --enrol-address",
        )
    return str(settings["enrol_listen"])


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as why:
        raise typer.BadParameter(
            "a fingerprint is 64 hexadecimal digits", param_hint="--fingerprint"
        ) from why
