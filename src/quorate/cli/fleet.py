"""`quorate up`, `down`, `env`, `status`, `doctor`: the fleet of this machine."""

import asyncio
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from quorate.cli.domain import rotation
from quorate.cli.node import nodes_table
from quorate.cli.options import DEFAULT_DATA, Data, Json, command
from quorate.cli.output import result, say, table
from quorate.errors import BadInput
from quorate.local.layout import Layout
from quorate.logs import Format, Level


def register(app: typer.Typer) -> None:
    """Adds the commands that stand without a group's word."""
    command(app, "up", "quorate up --nodes 5 --threshold 3 --detach")(up)
    command(app, "down", "quorate down")(down)
    command(app, "env", 'eval "$(quorate env)"')(env)
    command(app, "status", "quorate status --json")(status)
    command(app, "log-level", "quorate log-level debug node-3")(log_level_)
    command(app, "doctor", "quorate doctor")(doctor)


def up(
    nodes: Annotated[int | None, typer.Option(help="How many nodes.", show_default="5")] = None,
    threshold: Annotated[
        int | None,
        typer.Option(help="How many of them make a quorum.", show_default="3; half + 1 of --nodes"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="The KMS port, one for all nodes; 0: a free one.", show_default="4500")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the fleet is ready.")] = False,
    region: Annotated[str | None, typer.Option(help="AWS region name.", show_default="us-east-1")] = None,
    account: Annotated[
        str | None, typer.Option(help="12-digit account id.", show_default="000000000000")
    ] = None,
    log_format: Annotated[
        Format | None, typer.Option("--log-format", help="How a log line looks.", show_default="text")
    ] = None,
    log_level: Annotated[
        Level | None, typer.Option("--log-level", help="The least that is logged.", show_default="info")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings.", show_default="DATA/quorate.toml")
    ] = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Start a whole fleet on this machine, or start it again; Ctrl-C stops it.

    Options may also stand in a TOML file (nodes = 5) or in the environment (QUORATE_NODES=5).
    """
    from quorate._core import harden_process
    from quorate.cli.settings import read_settings
    from quorate.local.shape import read_shape, settle, write_shape

    layout = Layout.at(data)
    if config is not None and not config.is_file():
        raise BadInput(f"there is no file {config}", remedy="point --config at a TOML file")
    file = config or (layout.settings if layout.settings.is_file() else None)
    flags = {
        "nodes": nodes, "threshold": threshold, "port": port, "region": region, "account": account,
        "log_format": log_format, "log_level": log_level,
    }  # fmt: skip
    shape = settle(layout, read_settings(file, flags))
    from quorate.local import fleet  # loads the hub's and the nodes' rooms

    if fleet.is_up(layout, shape):
        say("the fleet is up already; `quorate down` stops it")
        if shape != read_shape(layout):
            write_shape(layout, shape)
            say(f"logs: {shape.log_format} from {shape.log_level} on, for each process when it starts again")
        result(_up_result(layout, shape.port), as_json=json)
        return
    harden_process()
    asyncio.run(_up(layout, shape, detach=detach, as_json=json))


async def _up(layout: Layout, shape: Any, *, detach: bool, as_json: bool) -> None:
    from quorate.local import fleet, processes
    from quorate.local.credentials import shell_hint

    def progress(step: fleet.Step) -> None:
        say(f"  {step.seconds:6.2f} s  {step.name}" + (f": {step.detail}" if step.detail else ""))

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    starting = asyncio.ensure_future(fleet.start(layout, shape, progress))

    def stop() -> None:
        stopping.set()
        starting.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        running = await starting
    except asyncio.CancelledError:
        raise typer.Exit(130) from None
    say(f"the fleet is ready: {shape.threshold} of {shape.nodes}; clients: {shell_hint(layout)}")
    result(_up_result(layout, running.shape.port), as_json=as_json)
    if detach:
        return
    say("Ctrl-C stops it")
    stop_asked = asyncio.ensure_future(stopping.wait())
    while running.started and not stopping.is_set():
        ended = asyncio.ensure_future(running.until_one_ends())
        await asyncio.wait({ended, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            one = ended.result()
            say(f"{one.name} ended (status {one.process.returncode}); see {one.log}")
        else:
            ended.cancel()
    stop_asked.cancel()
    say("stopping")
    await asyncio.to_thread(processes.stop_all, layout)


def _up_result(layout: Layout, port: int) -> dict[str, Any]:
    return {"data": str(layout.data), "endpoint": f"https://localhost:{port}", "state": "ready"}


def down(
    purge: Annotated[bool, typer.Option("--purge", help="Remove the data directory, keys and all.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Purge without asking.")] = False,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Stop every process of this data directory."""
    from quorate.local import processes
    from quorate.local.status import is_data_directory

    layout = Layout.at(data)
    if not is_data_directory(layout):
        raise BadInput(
            f"{layout.data} holds nothing of a fleet", remedy="point --data at the fleet's directory"
        )
    if purge and not yes:
        _confirm_purge(layout)
    with processes.only_one(layout):
        killed = processes.stop_all(layout)
        for name in killed:
            say(f"{name} did not stop in time and was killed")
        if purge:
            shutil.rmtree(layout.data)
    result(
        {"data": str(layout.data), "killed": killed, "purged": purge},
        as_json=json,
        text=f"stopped and removed {layout.data}" if purge else f"stopped; the fleet stays in {layout.data}",
    )


def _confirm_purge(layout: Layout) -> None:
    """Says what will be lost, and asks; where nobody can be asked, `--yes` is needed."""
    from quorate.local.fleet import what_purge_takes

    say("\n".join([f"{layout.data} holds, and `--purge` removes:", *what_purge_takes(layout)]))
    say("Without it, nothing that this fleet encrypted can be opened again.")
    stop_only = "run `quorate down` to stop the fleet only"
    if not sys.stdin.isatty():
        raise BadInput("nothing was stopped or removed", remedy=f"pass --yes to remove it, or {stop_only}")
    if not typer.confirm("Remove it?", err=True):
        raise BadInput("nothing was stopped or removed", remedy=stop_only)


def env(
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="Write an AWS profile instead of printing.")
    ] = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Print the environment of an AWS client, for a shell's `eval`."""
    from quorate.local import credentials

    environment = credentials.client_environment(Layout.at(data))
    if profile is None:
        result(environment, as_json=json, text="\n".join(credentials.export_lines(environment)))
        return
    files = [str(file) for file in credentials.write_profile(environment, profile)]
    result(
        {"profile": profile, "files": files}, as_json=json, text=f"profile {profile} in {' and '.join(files)}"
    )


def status(data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Show the hub, the nodes and the domains, whether the hub runs or not."""
    from quorate.local.status import status as ask

    layout = Layout.at(data)
    found = asyncio.run(ask(layout))
    result(found, as_json=json, text=_status_text(found))
    if found["operator_key"]["here"]:
        say(
            f"The operator key lies on this machine ({found['operator_key']['path']}): whoever owns the machine "
            "can sign as the operator. For production keep it elsewhere."
        )


def _status_text(found: dict[str, Any]) -> str:
    fleet, hub = found["fleet"], found["hub"]
    head = f"fleet {fleet['id']}  {fleet['region']}  {fleet['account']}" if fleet["id"] else "no fleet yet"
    pid = f"  pid {hub['pid']}" if hub["pid"] else ""
    until = f"  certificate until {hub['certificate_expires']}" if hub["certificate_expires"] else ""
    rows = [
        [
            each["name"],
            f"{each['threshold']} of {each['shards']}",
            each["epoch"],
            each["live"],
            each["margin"],
            each["erasure_debt"],
            each["state"],
        ]
        for each in found["domains"]
    ]
    domains = table(["domain", "quorum", "epoch", "live", "margin", "erasure debt", "state"], rows)
    lines = [
        head,
        *_fleet_key(fleet.get("fleet_key")),
        f"hub {hub['state']}{pid}{until}",
        "",
        nodes_table(found["nodes"]),
        "",
        domains,
    ]
    lines += [f"{each['name']}: {told}" for each in found["domains"] if (told := rotation(each))]
    reasons = [
        f"{node['name']} is {node['state']}: {node['reason']}" for node in found["nodes"] if node["reason"]
    ]
    lines += ["", *reasons] if reasons else []
    unlocked = ["hub"] if hub["memory_locked"] is False else []
    unlocked += [node["name"] for node in found["nodes"] if node["memory_locked"] is False]
    if unlocked:
        lines += [
            "",
            f"secrets of {', '.join(unlocked)} can be swapped to disk: QUORATE_ALLOW_UNLOCKED_MEMORY=1",
        ]
    return "\n".join(lines)


def _fleet_key(known: dict[str, Any] | None) -> list[str]:
    """A rotation of the fleet key under way."""
    if known is None or known["phase"] == "done":
        return []
    from datetime import UTC, datetime

    ends = datetime.fromtimestamp(known["window_ends"], UTC).isoformat(timespec="seconds")
    line = f"fleet key: epoch {known['epoch']}, {known['phase']}, {known['renewed']} of {known['keys']} keys renewed"
    line += f", the old one until {ends}"
    return [line + (f", waits for {', '.join(known['waits_for'])}" if known["waits_for"] else "")]


def doctor(
    port: Annotated[
        int | None, typer.Option(help="The KMS port.", show_default="the fleet's, or 4500")
    ] = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Look for what is missing on this machine, with a remedy for each."""
    from quorate.local.doctor import examine

    findings = examine(Layout.at(data), port=port)
    rows = [[each.state, each.what, each.found, each.wanted, each.remedy] for each in findings]
    result(
        [each.as_json() for each in findings],
        as_json=json,
        text=table(["", "what", "found", "wanted", "remedy"], rows),
    )
    if any(each.state == "MISSING" for each in findings):
        raise typer.Exit(1)


def log_level_(
    level: Annotated[
        str, typer.Argument(metavar="LEVEL", help="debug, info, warning, error; or `configured`.")
    ],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[hub|NODE]", help="Without any: all that run here.")
    ] = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Change what running processes of this machine log, until they end or are told `configured`."""
    from quorate.local.log_level import set_level
    from quorate.local.processes import running

    if level not in (*Level, "configured"):
        raise typer.BadParameter(
            f"{level!r} is not one of {', '.join(Level)}, configured", param_hint="LEVEL"
        )
    layout = Layout.at(data)
    here = ["hub", *layout.node_names()]
    for name in names or ():
        if name not in here:
            raise BadInput(f"{layout.data} holds no {name}", remedy="see `quorate status`")
    wanted = names or [name for name in here if running(layout.process(name))]
    taken = set_level(layout, wanted, None if level == "configured" else level)
    result(taken, as_json=json, text="\n".join(f"{name} logs from {is_} on" for name, is_ in taken.items()))
