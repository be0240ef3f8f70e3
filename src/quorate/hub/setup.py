"""From nothing to a fleet with a hub: its module, the fleet key in it, roster 1, certificates, database.

Here: `init`, safe to repeat after a crash at any point. Not here: the running process (`service`).
"""

import time
from pathlib import Path

from quorate import _core
from quorate.errors import DataDirectoryMismatch
from quorate.host.addresses import advertised, with_port
from quorate.host.certificates import check_authority
from quorate.host.files import replace_file
from quorate.hub.directory import Directory, Settings
from quorate.ids import HUB
from quorate.store.database import Database

_CLOCK_SLACK = 3600
"""Seconds that other machines' clocks may be behind ours."""


def is_set_up(data: Path) -> bool:
    return Directory.of(data).settings.exists()


async def init(
    data: Path,
    *,
    operator: _core.Operator,
    fleet_listen: str,
    enrol_listen: str,
    address: str | None = None,
    zone: str = "hub",
    passphrase_file: Path | None = None,
) -> None:
    """Makes the hub of `operator`'s fleet in DATA/hub. Addresses are `host:port`; port 0 takes a free one.

    Does nothing if it is set up already. Raises `BadInput`, `DataDirectoryMismatch` when another fleet's hub
    is there, `CoreError`.
    """
    directory = Directory.of(data)
    directory.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.module.exists():
        module = _core.Module.open(directory.module, passphrase_file=passphrase_file)
    else:
        module = _core.Module.create(directory.module, HUB.value, passphrase_file=passphrase_file)
    try:
        if module.fleet is None:
            module.pin(operator.fleet_info, operator.public_key)
        elif module.fleet != operator.fleet:
            raise DataDirectoryMismatch(
                directory.path, found=f"fleet {module.fleet.hex()}", wanted=f"fleet {operator.fleet.hex()}"
            )
        if is_set_up(data):
            return
        fleet, enrol = with_port(fleet_listen), with_port(enrol_listen)
        settings = Settings(zone, str(fleet), str(enrol), str(advertised(fleet, address)))
        request = module.enrol_request_hub(zone=zone, address=settings.address)
        entry, authority = operator.approve_entry(request, not_before=int(time.time()) - _CLOCK_SLACK)
        if module.roster() is None:
            module.found_fleet(entry)
        check_authority(authority, operator.tls_root, module)
        directory.certificates.write(module, settings.tls_names, authority, operator.tls_root, time.time())
        replace_file(directory.fleet_info, operator.fleet_info)
        await (await Database.open(directory.database, operator.fleet)).close()
        directory.write_settings(settings)
    finally:
        module.close()
