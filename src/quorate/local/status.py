"""The state of a fleet as this machine can see it: the hub's word, and the processes here.

Here: the JSON of `quorate status`, with the hub or without it.
Not here: printing. Without a hub, a domain's shape is what the hub last said (DATA/domains.json), and who is
live is read off the processes of this machine.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quorate import _core
from quorate.client import AdminClient
from quorate.errors import BadInput, HubUnreachable
from quorate.host import formats
from quorate.host.certificates import Certificates, rfc3339
from quorate.local.layout import Layout, in_order, read_json, write_json
from quorate.local.processes import Run, running

Status = dict[str, Any]

DOMAINS_FORMAT = 1
"""The version of `domains.json`."""


async def status(layout: Layout) -> Status:
    """The status object of `quorate status --json`. Raises `BadInput` when nothing of a fleet lies here."""
    names = layout.node_names()
    if not is_data_directory(layout):
        raise BadInput(
            f"{layout.data} holds neither a hub nor a node",
            remedy="run `quorate up` first, or point --data at the fleet's directory",
        )
    hub_run = running(layout.hub)
    runs = {name: running(layout.node(name)) for name in names}
    said = await _hub_says(layout) if hub_run else None
    if said is not None:
        write_json(layout.domains, {"format": DOMAINS_FORMAT, "domains": said["domains"]})
    return compose(layout, hub_run, runs, said)


def is_data_directory(layout: Layout) -> bool:
    """Whether something of a fleet lies here: what `down --purge` may remove."""
    return layout.shape.exists() or layout.hub.exists() or bool(layout.node_names())


async def _hub_says(layout: Layout) -> Status | None:
    try:
        return await AdminClient(layout.admin_socket).status()
    except HubUnreachable:
        return None


def compose(
    layout: Layout, hub_run: Run | None, runs: Mapping[str, Run | None], said: Mapping[str, Any] | None
) -> Status:
    """Pure: `runs` has every node of this machine, None for one that does not run."""
    last = read_json(layout.domains) or {"format": DOMAINS_FORMAT}
    formats.check(layout.domains, last.get("format"), DOMAINS_FORMAT)
    fleet = said["fleet"] if said else _fleet(layout)
    nodes = _nodes(layout, runs, said)
    domains = said["domains"] if said else _domains(last.get("domains", []), nodes, runs)
    hub_state = hub_run["state"] if hub_run else "down"
    if hub_run and said is None:
        hub_state = "starting" if hub_state == "starting" else "silent"
    return {
        "fleet": fleet,
        "hub": {
            "pid": hub_run["pid"] if hub_run else None,
            "state": hub_state,
            "certificate_expires": certificate_expires(layout.hub),
            "memory_locked": (hub_run or {}).get("memory_locked"),
            "messages": said["hub"].get("messages") if said else None,
        },
        "nodes": nodes,
        "domains": domains,
        "operator_key": {"here": layout.operator.exists(), "path": str(layout.operator)},
    }


def certificate_expires(directory: Path) -> str | None:
    """Until when the TLS certificate of a hub or node here holds (RFC 3339), None where there is none yet.

    From the file, so also of a process that does not run. A running one shows the file's to new connections.
    """
    try:
        return rfc3339(Certificates.of(directory).validity().ends)
    except BadInput:
        return None


def _fleet(layout: Layout) -> dict[str, Any]:
    """What the operator signed of the fleet, as the hub or a node here keeps it; nulls before enrolment."""
    for directory in (layout.hub, *map(layout.node, layout.node_names())):
        try:
            seen = _core.view_approved((directory / "fleet-info").read_bytes())
        except FileNotFoundError:
            continue
        return {"id": seen["fleet"].hex(), "region": seen["region"], "account": seen["account"]}
    return {"id": None, "region": None, "account": None}


def _nodes(
    layout: Layout, runs: Mapping[str, Run | None], said: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    listed = {node["name"]: node for node in said["nodes"]} if said else {}
    found: list[dict[str, Any]] = []
    for name in sorted({*runs, *listed}, key=in_order):
        run, known = runs.get(name), listed.get(name, {})
        if known.get("role") == "hub":
            continue
        settings = {} if known else read_json(layout.node(name) / "settings.json") or {}
        if name in runs:  # here: the process is the truth
            state = run["state"] if run else "down"
            if run and known.get("state") in ("lagging", "quarantined", "locked"):
                state = known["state"]
        else:
            state = known["state"]
        found.append(
            {
                "name": name,
                "pid": run["pid"] if run else None,
                "role": known.get("role") or (run or {}).get("role") or "holder",
                "state": state,
                "reason": known.get("reason"),
                "zone": known.get("zone") or (run or {}).get("zone") or settings.get("zone"),
                "kms": run["kms"] if run else None,
                "convicted": known.get("convicted"),
                "message_version": known.get("message_version"),
                "here": name in runs,
                "certificate_expires": certificate_expires(layout.node(name)) if name in runs else None,
                "memory_locked": (run or {}).get("memory_locked"),
                "leases": {
                    domain["name"]: domain["lease_seconds"] for domain in (run or {}).get("domains", [])
                },
            }
        )
    return found


def _domains(
    last: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]], runs: Mapping[str, Run | None]
) -> list[dict[str, Any]]:
    """Without a hub: the last known shapes, with the members of this machine that run now counted live."""
    up = {node["name"] for node in nodes if node["state"] in ("ready", "locked")}
    epochs: dict[str, tuple[int, int]] = {}
    for run in runs.values():
        for domain in (run or {}).get("domains", []):
            said = (domain.get("key_version", 1), domain["epoch"])
            epochs[domain["name"]] = max(epochs.get(domain["name"], (1, 0)), said)
    found = []
    for known in last:
        live = sum(member["node"] in up for member in known.get("members", []))
        margin = live - known["threshold"]
        last_said = (known.get("key_version", 1), known["epoch"])
        version, epoch = max(last_said, epochs.get(known["name"], (1, 0)))
        state = "unavailable" if margin < 0 else "ready" if live == known["shards"] else "degraded"
        found.append(
            {**known, "key_version": version, "epoch": epoch, "live": live, "margin": margin, "state": state}
        )
    return found
