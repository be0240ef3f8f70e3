"""`quorate fleet`: what concerns every module at once: the rotation of the fleet key."""

import asyncio
from typing import Annotated, Any

import typer

from quorate.cli.domain import seconds
from quorate.cli.options import DEFAULT_DATA, Data, Json, command, group
from quorate.cli.output import result, say
from quorate.local.layout import Layout

app = group("The fleet as a whole.")

_LOOK_SECONDS = 0.5
_PHASES = {
    "distributing": "every node that is up takes the new key",
    "renewing": "keys and access keys are wrapped anew",
    "window": "messages under the old key are still opened",
    "retiring": "the old key is erased",
    "done": "the old key is erased everywhere",
}


@command(app, "rotate-key", "quorate fleet rotate-key --window 10m")
def rotate_key(
    window: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old key still opens messages; at most 7d.")
    ] = "1h",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once the new key is made.")] = False,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Make a new fleet key, wrap everything anew under it, and erase the old one.

    Waits until every node that is up has erased the old key. Nodes that are down do so when they come back.
    """
    from quorate.client import AdminClient

    hub = AdminClient(Layout.at(data).admin_socket)
    found = asyncio.run(_rotate(hub, seconds(window, "--window"), wait=not no_wait))
    text = f"fleet epoch {found['epoch']}: {found['phase']}"
    if found["waits_for"]:
        text += f"; still to come: {', '.join(found['waits_for'])}"
    result(found, as_json=json, text=text)
    if found["uncommitted"]:
        say(
            f"Nodes that are enrolled from now on refuse these access keys, which an earlier release made: "
            f"{', '.join(found['uncommitted'])}. Make new ones for their users (`quorate access create`), then disable "
            "these (`quorate access disable`)."
        )


async def _rotate(hub: Any, window: int, *, wait: bool) -> dict[str, Any]:
    found: dict[str, Any] = await hub.rotate_key(window=window)
    shown = ""
    while True:
        if found["phase"] != shown:
            shown = found["phase"]
            say(f"fleet epoch {found['epoch']}: {shown}: {_PHASES[shown]}")
        over = shown == "retiring" and found["waits_for"] == found["away"]
        if shown == "done" or over or not wait:
            return found
        await asyncio.sleep(_LOOK_SECONDS)
        found = (await hub.status())["fleet"]["fleet_key"]
