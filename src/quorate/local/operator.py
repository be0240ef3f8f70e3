"""What the operator decides and signs, and hands to a hub: invitations, entries, charters, access keys.

Here: each of these acts, from the operator key's vault to the hub's answer.
Not here: the hub's own checks, text for people. The key is opened for one act and let go after it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quorate import _core
from quorate.client import AdminClient
from quorate.errors import BadInput

CLOCK_SLACK = 3600
"""Seconds: how far a machine's clock may be behind before it refuses a fresh certificate."""

USES_PER_EPOCH = 1_000_000_000
RATE_PER_SECOND = 1000
BURST = 2000


@dataclass(frozen=True, slots=True)
class Lease:
    """How long, and how often, a node may use a domain's key after a session."""

    seconds: int = 30
    uses: int = 10_000


@dataclass(frozen=True, slots=True)
class AccessPair:
    """A new access key. The secret is in here alone: nothing else keeps it in the clear."""

    access_key_id: str
    secret_access_key: str
    user: str
    role: str

    def __repr__(self) -> str:
        return f"<access key {self.access_key_id} of {self.user}>"


def create_key(
    directory: Path, *, region: str, account: str, passphrase_file: Path | None = None
) -> _core.Operator:
    """Makes the operator key, and a fleet's id with it. Raises `CoreError` if one is there."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    return _core.Operator.create(
        directory,
        region=region,
        account=account,
        not_before=int(time.time()) - CLOCK_SLACK,
        passphrase_file=passphrase_file,
    )


def open_key(directory: Path, passphrase_file: Path | None = None) -> _core.Operator:
    """Raises `BadInput` when there is none, `CoreError` when it cannot be opened."""
    if not directory.exists():
        raise BadInput(
            f"there is no operator key in {directory}",
            remedy="point --operator at the directory that `quorate operator init` made",
        )
    return _core.Operator.open(directory, passphrase_file=passphrase_file)


async def invite(
    key: _core.Operator,
    hub: AdminClient,
    *,
    name: str,
    zone: str,
    role: str,
    enrol_address: str,
    hours: float,
    fingerprint: bytes | None,
) -> str:
    """Gives the hub a one-time token for node `name`; returns the invitation for the node."""
    token, invitation = key.invite(
        name=name,
        role=role,
        zone=zone,
        enrol_address=enrol_address,
        expires=int(time.time() + hours * 3600),
        fingerprint=fingerprint,
    )
    await hub.add_token(token)
    return invitation


async def pending_enrolment(hub: AdminClient, name: str) -> dict[str, Any] | None:
    """What node `name` asks for: its fingerprint (hex), zone, role, request; None when it does not ask."""
    for enrolment in await hub.enrolments():
        if enrolment["name"] == name and enrolment["state"] == "pending":
            return dict(enrolment)
    return None


async def approve(key: _core.Operator, hub: AdminClient, name: str, *, fingerprint: str) -> int:
    """Signs the entry of a node that asks with this fingerprint (hex); returns the new roster's version."""
    asked = await pending_enrolment(hub, name)
    if asked is None:
        raise BadInput(
            f"no node {name} asks to be enrolled",
            remedy=f"run `quorate node enroll {name} …` on its machine first",
        )
    if asked["fingerprint"].lower() != fingerprint.lower():
        raise BadInput(
            f"who asks as {name} has the fingerprint {asked['fingerprint']}, not {fingerprint}",
            remedy="compare with what `quorate node init` printed on the node; approve only what is the same",
        )
    entry, authority = key.approve_entry(asked["request"], not_before=int(time.time()) - CLOCK_SLACK)
    return await hub.approve(name, entry, authority)


async def create_domain(
    key: _core.Operator,
    hub: AdminClient,
    name: str,
    *,
    threshold: int | None,
    shards: int | None,
    floor: int | None = None,
    refresh_every: int | None = None,
    lease: Lease = Lease(),
) -> dict[str, Any]:
    """Charters a domain over all holders of the fleet and has the hub create it.

    Without `threshold`: ⌊n/2⌋+1; without `shards`: one for each holder; without `floor`, the least threshold that it
    may ever have: this one. `refresh_every`: seconds. Returns the hub's answer.
    """
    holders = _holders(await hub.status())
    indices = shards if shards is not None else len(holders)
    wanted = threshold if threshold is not None else indices // 2 + 1
    if not 2 <= wanted < indices <= 255:
        raise BadInput(
            f"a domain of {wanted} of {indices} shards is not possible ({len(holders)} holders in this fleet)",
            remedy="take 2 ≤ threshold < shards ≤ 255, or enrol more nodes",
        )
    charter = key.charter(
        domain=name,
        allowed=[(holder, "holder") for holder in holders],
        threshold_floor=wanted if floor is None else floor,
        mode="reconstruct",
        dealer="hub",
        uses_per_epoch=USES_PER_EPOCH,
        rate_per_second=RATE_PER_SECOND,
        burst=BURST,
        lease_seconds=lease.seconds,
        lease_uses=lease.uses,
        parent=await hub.charter(name),
    )
    return await hub.create_domain(charter, threshold=wanted, shards=indices, refresh_every=refresh_every)


async def reshare_domain(
    open_key: Callable[[], _core.Operator],
    hub: AdminClient,
    name: str,
    *,
    threshold: int | None,
    shards: int | None,
    nodes: list[str] | None,
    floor: int | None,
) -> dict[str, Any]:
    """Deals the same key to another committee; signs a new charter first where the present one does not allow it.

    What is not given stays as it is. Returns the hub's answer.
    """
    status = await hub.status()
    domain = next((each for each in status["domains"] if each["name"] == name), None)
    known = await hub.charter(name)
    if domain is None or known is None:
        raise BadInput(f"there is no domain {name}", remedy="see `quorate domain list`")
    holders, charter = _holders(status), _core.view_approved(known)
    if unknown := sorted(set(nodes or ()) - set(holders)):
        raise BadInput(
            f"no holder of this fleet is called {', '.join(unknown)}", remedy="see `quorate node list`"
        )
    indices = shards if shards is not None else len(nodes) if nodes is not None else domain["shards"]
    wanted = threshold if threshold is not None else domain["threshold"]
    if not 2 <= wanted < indices <= 255:
        raise BadInput(
            f"a domain of {wanted} of {indices} shards is not possible ({len(holders)} holders in this fleet)",
            remedy="take 2 ≤ threshold < shards ≤ 255, or enrol more nodes",
        )
    allowed = {entry["node"] for entry in charter["allowed"]}
    signed = None
    if not set(holders) <= allowed or floor not in (None, charter["threshold_floor"]):
        limits = charter["limits"]
        signed = open_key().charter(
            domain=name,
            allowed=[(holder, "holder") for holder in sorted(allowed | set(holders))],
            threshold_floor=charter["threshold_floor"] if floor is None else floor,
            mode=charter["mode"],
            dealer=charter["dealer"],
            uses_per_epoch=limits["uses_per_epoch"],
            rate_per_second=limits["rate_per_second"],
            burst=limits["burst"],
            lease_seconds=limits["lease_seconds"],
            lease_uses=limits["lease_uses"],
            parent=known,
        )
    return await hub.reshare(name, charter=signed, threshold=wanted, shards=indices, nodes=nodes)


def _holders(status: dict[str, Any]) -> list[str]:
    return [
        node["name"]
        for node in status["nodes"]
        if node["role"] == "holder" and node.get("standing", "active") == "active"
    ]


async def retire(open_key: Callable[[], _core.Operator], hub: AdminClient, name: str) -> int:
    """Signs a node out of the fleet, for good; returns the new roster's version.

    Raises `BadInput` for one that holds shards: they would be lost.
    """
    status = await hub.status()
    node = next((each for each in status["nodes"] if each["name"] == name), None)
    if node is None:
        raise BadInput(f"there is no node {name}", remedy="see `quorate node list`")
    if holds := [domain["name"] for domain in status["domains"] if name in _members(domain)]:
        raise BadInput(
            f"{name} holds shards of {', '.join(holds)}",
            remedy=f"give them to another node first (`quorate node replace {name}`)",
        )
    return await hub.retire(name, open_key().retire(node["entry"]))


async def replace(
    open_key: Callable[[], _core.Operator], hub: AdminClient, name: str, by: str
) -> list[dict[str, Any]]:
    """Deals every domain in which node `name` has shards to `by` in its place. Returns the hub's answers."""
    done = []
    for domain in (await hub.status())["domains"]:
        members = _members(domain)
        if name in members:
            nodes = sorted({by if node == name else node for node in members})
            done.append(
                await reshare_domain(
                    open_key, hub, domain["name"], threshold=None, shards=None, nodes=nodes, floor=None
                )
            )
    return done


def _members(domain: dict[str, Any]) -> list[str]:
    return [member["node"] for member in domain.get("members", [])]


async def create_access(key: _core.Operator, hub: AdminClient, *, user: str, role: str) -> AccessPair:
    """A new pair; its secret goes to the hub's module sealed, which seals it under the fleet key."""
    fleet = await hub.fleet()
    key_id, secret, sealed_to_hub = key.new_access_secret(fleet["entry"])
    statement = key.access_key(
        access_key_id=key_id,
        user=user,
        role=role,
        enabled=True,
        created=int(time.time()),
        sealed=await hub.reseal(key_id, sealed_to_hub),
        secret=secret,
    )
    await hub.put_access(statement)
    return AccessPair(key_id, secret, user, role)


async def disable_access(key: _core.Operator, hub: AdminClient, access_key_id: str) -> bool:
    """A new version of the key that is disabled; False when it was disabled already."""
    for known in await hub.access():
        if known["access_key_id"] == access_key_id:
            break
    else:
        raise BadInput(f"there is no access key {access_key_id}", remedy="see `quorate access list`")
    if not known["enabled"]:
        return False
    current: bytes = known["statement"]
    seen = _core.view_approved(current)
    statement = key.access_key(
        access_key_id=access_key_id,
        user=seen["user"],
        role=seen["role"],
        enabled=False,
        created=seen["created"],
        sealed=seen["sealed"],
        parent=current,
    )
    await hub.put_access(statement)
    return True


def enabled(access: Sequence[dict[str, Any]], access_key_id: str) -> bool:
    """Whether the hub knows this access key, enabled."""
    return any(key["access_key_id"] == access_key_id and key["enabled"] for key in access)
