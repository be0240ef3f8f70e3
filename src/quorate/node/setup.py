"""From nothing to an enrolled node: its module is made, and a place in a fleet is asked for.

Here: `init` and `enroll`, each safe to repeat after a crash at any point.
Not here: the running process (`service`), the operator's decision, text for people (`cli`).
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quorate import _core
from quorate.errors import BadInput, HubUnreachable, QuorateError
from quorate.host.addresses import advertised, with_port
from quorate.host.certificates import check_authority
from quorate.host.files import remove_file, replace_file
from quorate.node.directory import Directory, Settings
from quorate.wire.enrol import ask
from quorate.wire.links import Address

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
"""How long the hub may be silent before enrolment gives up."""


class EnrolmentRefused(QuorateError):
    code = "enrolment_refused"

    def __init__(self, name: str, code: str, reason: str) -> None:
        super().__init__(
            f"the hub refuses to enrol {name}: {reason} ({code})",
            kept="the node's module and its request are kept",
            remedy=f"make a new invitation with `quorate node invite {name}`, then enrol again",
        )
        self.refusal = code


def init(data: Path, name: str, *, passphrase_file: Path | None = None) -> bytes:
    """Makes the module of node `name`, or opens the one that is there; returns its fingerprint (32 bytes).

    Raises `BadInput` for a bad name, `CoreError` when the vault cannot be made or opened.
    """
    directory = Directory.of(data, name)
    directory.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory.path / "tls").mkdir(mode=0o700, exist_ok=True)
    if directory.module.exists():
        module = _core.Module.open(directory.module, passphrase_file=passphrase_file)
    else:
        module = _core.Module.create(directory.module, name, passphrase_file=passphrase_file)
    try:
        return module.fingerprint
    finally:
        module.close()


async def enroll(
    data: Path,
    name: str,
    *,
    invitation: str,
    fleet_listen: str,
    kms_listen: str,
    address: str | None = None,
    kms_names: Sequence[str] = (),
    passphrase_file: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Asks the fleet of `invitation` for a place, and waits until the operator has approved.

    `fleet_listen`, `kms_listen`, `address` (advertised; without it `fleet_listen`): `host:port`; port 0 takes
    a free one, which is kept. `progress(line)` tells what is being waited for. Does nothing if the node is
    enrolled already. Raises `BadInput`, `EnrolmentRefused`, `PeerRefused`, `HubUnreachable` (after a minute
    of silence), `CoreError`.
    """
    directory = Directory.of(data, name)
    if not directory.module.exists():
        raise BadInput(f"{directory.path} holds no module", remedy=f"run `quorate node init {name}` first")
    if directory.is_enrolled:
        progress(f"{name} is enrolled already")
        return
    try:
        seen = _core.view_invitation(invitation)
    except (ValueError, _core.CoreError) as why:
        raise BadInput(
            f"this is no invitation: {why}",
            remedy="pass the text that `quorate node invite` printed, unchanged",
        ) from why
    module = _core.Module.open(directory.module, passphrase_file=passphrase_file)
    try:
        request = _kept_request(directory, seen)
        if request is None:
            settings = _settle(name, seen, fleet_listen, kms_listen, address, kms_names)
            request = module.enrol_request(invitation, address=settings.address)
            directory.write_settings(settings)
            replace_file(directory.enrolment, request)
        hub = Address.parse(seen["token"]["enrol_address"])
        answer = await _ask_until_decided(name, hub, seen["tls_root"], request, progress)
        _take_place(directory, module, seen["tls_root"], answer)
    finally:
        module.close()
    progress(f"{name} is enrolled")


def _kept_request(directory: Directory, invitation: dict[str, Any]) -> bytes | None:
    """The request that an earlier run made for the same invitation."""
    try:
        request = directory.enrolment.read_bytes()
        same = _core.view(request)["token_id"] == invitation["token"]["id"]
    except (FileNotFoundError, _core.CoreError):
        return None
    return request if same else None


def _settle(
    name: str,
    invitation: dict[str, Any],
    fleet_listen: str,
    kms_listen: str,
    address: str | None,
    kms_names: Sequence[str],
) -> Settings:
    fleet, kms = with_port(fleet_listen), with_port(kms_listen)
    return Settings(
        name=name,
        zone=invitation["token"]["zone"],
        fleet_listen=str(fleet),
        kms_listen=str(kms),
        address=str(advertised(fleet, address)),
        kms_names=tuple(kms_names),
    )


async def _ask_until_decided(
    name: str, hub: Address, tls_root: bytes, request: bytes, progress: Callable[[str], None]
) -> list[Any]:
    """The hub's `enrolled` answer, after as many `pending` ones as the operator takes to decide."""
    body = _core.encode(["enrol", request])
    pinned = hashlib.sha256(tls_root).digest()
    heard, told = time.monotonic(), ""

    def tell(line: str) -> None:
        nonlocal told
        if line != told:
            progress(line)
            told = line

    while True:
        try:
            reply, _ = await ask(hub, pinned, body)
        except HubUnreachable:
            if time.monotonic() - heard > PATIENCE_SECONDS:
                raise
            tell(f"the hub at {hub} does not answer; trying again")
            await asyncio.sleep(POLL_SECONDS)
            continue
        heard = time.monotonic()
        match _core.decode(reply):
            case ["pending", bytes(fingerprint)]:
                tell(f"waiting for the operator to approve {name}, fingerprint {fingerprint.hex()}")
            case ["refused", str(code), str(reason)]:
                raise EnrolmentRefused(name, code, reason)
            case ["enrolled", *answer] if len(answer) >= 5:
                return answer
            case _:
                raise BadInput(
                    f"the hub at {hub} gives an answer of another version",
                    remedy="run the same release of quorate on hub and nodes",
                )
        await asyncio.sleep(POLL_SECONDS)


def _take_place(directory: Directory, module: _core.Module, tls_root: bytes, answer: list[Any]) -> None:
    """Verifies what the hub sent, and stores it; the request is removed last."""
    _entry, authority, fleet_info, roster, rekey = answer[:5]
    module.verify(fleet_info)
    module.install_roster(roster)
    if all(entry["name"] != module.name for entry in module.entries()):
        raise BadInput(
            f"the hub's roster does not list {module.name}", remedy="approve the node again at the hub"
        )
    module.accept_rekey(rekey)
    check_authority(authority, tls_root, module)
    names = directory.read_settings().tls_names
    directory.certificates.write(module, names, authority, tls_root, time.time())
    replace_file(directory.fleet_info, fleet_info)
    remove_file(directory.enrolment)
