"""`quorate up`, `down`, `env`, `status`, `doctor`: the fleet of this machine."""

import asyncio
import shutil
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from quorate.cli.node import nodes_table
from quorate.cli.options import DEFAULT_DATA, Data, Json, command
from quorate.cli.output import result, say, table
from quorate.errors import BadInput
from quorate.local.layout import Layout


def register(app: typer.Typer) -> None:
    """Adds the commands that stand without a group's word."""
    command(app, "up", "quorate up --nodes 5 --threshold 3 --detach")(up)
    command(app, "down", "quorate down")(down)
    command(app, "env", 'eval "$(quorate env)"')(env)
    command(app, "status", "quorate status --json")(status)
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
    from quorate.local.shape import settle

    layout = Layout.at(data)
    if config is not None and not config.is_file():
        raise BadInput(f"there is no file {config}", remedy="point --config at a TOML file")
    file = config or (layout.settings if layout.settings.is_file() else None)
    flags = {"nodes": nodes, "threshold": threshold, "port": port, "region": region, "account": account}
    shape = settle(layout, read_settings(file, flags))
    from quorate.local import fleet  # loads the hub's and the nodes' rooms

    if fleet.is_up(layout, shape):
        say("the fleet is up already; `quorate down` stops it")
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
        say(
            f"{layout.data} holds the keys: without it, nothing that this fleet encrypted can be opened again."
        )
        if not typer.confirm("Remove it?", err=True):
            raise BadInput(
                "nothing was stopped or removed", remedy="run `quorate down` to stop the fleet only"
            )
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
    return "\n".join([head, f"hub {hub['state']}{pid}", "", nodes_table(found["nodes"]), "", domains])


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
    rows = [["ok" if each.good else "MISSING", each.what, each.found] for each in findings]
    result(
        [
            {"what": each.what, "good": each.good, "found": each.found, "remedy": each.remedy}
            for each in findings
        ],
        as_json=json,
        text=table(["", "what", "found"], rows),
    )
    bad = [each for each in findings if not each.good]
    for each in bad:
        say(f"{each.what}: {each.remedy}")
    if bad:
        raise typer.Exit(1)
