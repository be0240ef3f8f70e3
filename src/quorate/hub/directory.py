"""The hub's directory: which files there are, and what was given when it was set up.

Here: paths, `settings.json`. Not here: the vault, the database and the audit log, which look after themselves.
"""

from dataclasses import dataclass
from pathlib import Path

from quorate.errors import BadInput
from quorate.host import settings
from quorate.host.addresses import ANY_HOST
from quorate.host.certificates import Certificates
from quorate.wire.links import Address


@dataclass(frozen=True, slots=True)
class Settings:
    """`fleet_listen`, `enrol_listen`: where the process listens; `address`: where nodes reach its fleet port. All
    are `host:port` with real ports.
    """

    zone: str
    fleet_listen: str
    enrol_listen: str
    address: str

    @property
    def fleet(self) -> Address:
        return Address.parse(self.fleet_listen)

    @property
    def enrol(self) -> Address:
        return Address.parse(self.enrol_listen)

    @property
    def tls_names(self) -> list[str]:
        """DNS names and IP addresses of the leaf certificate."""
        hosts = {Address.parse(self.address).host, self.fleet.host, self.enrol.host}
        return sorted((hosts | {"localhost", "127.0.0.1", "::1"}) - ANY_HOST)


@dataclass(frozen=True, slots=True)
class Directory:
    """DATA/hub."""

    path: Path

    @classmethod
    def of(cls, data: Path) -> "Directory":
        return cls(data / "hub")

    @property
    def module(self) -> Path:
        return self.path / "module"

    @property
    def database(self) -> Path:
        return self.path / "hub.db"

    @property
    def audit_log(self) -> Path:
        return self.path / "audit.log"

    @property
    def run_state(self) -> Path:
        return self.path / "run.json"

    @property
    def admin_socket(self) -> Path:
        return self.path / "admin.sock"

    @property
    def fleet_info(self) -> Path:
        return self.path / "fleet-info"

    @property
    def certificates(self) -> Certificates:
        return Certificates.of(self.path)

    @property
    def settings(self) -> Path:
        """Written last: with it the hub is set up."""
        return self.path / "settings.json"

    def read_settings(self) -> Settings:
        """Raises `BadInput` when there are none, `DataDirectoryMismatch` for another format."""
        return settings.read(
            self.settings,
            lambda found: Settings(**found),
            absent=BadInput(
                f"there is no hub in {self.path}", remedy="run `quorate hub init` first, or check --data"
            ),
            remedy="restore it from a backup",
        )

    def write_settings(self, given: Settings) -> None:
        settings.write(self.settings, given)
