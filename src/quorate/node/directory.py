"""A node's directory: which files there are, and what was given when it was set up.

Here: paths, `settings.json`, files written in one step.
Not here: the vault and the audit log, which look after themselves.
"""

from dataclasses import dataclass
from pathlib import Path

from quorate.errors import BadInput, DataDirectoryMismatch
from quorate.host import settings
from quorate.host.addresses import ANY_HOST
from quorate.host.certificates import Certificates
from quorate.ids import NodeId
from quorate.wire.links import Address, TlsFiles


@dataclass(frozen=True, slots=True)
class Settings:
    """`fleet_listen`, `kms_listen`: where the process listens; `address`: where other hosts reach its fleet
    port. All are `host:port` with real ports. `kms_names`: further names in its certificate.
    """

    name: str
    zone: str
    fleet_listen: str
    kms_listen: str
    address: str
    kms_names: tuple[str, ...] = ()

    @property
    def fleet(self) -> Address:
        return Address.parse(self.fleet_listen)

    @property
    def kms(self) -> Address:
        return Address.parse(self.kms_listen)

    @property
    def tls_names(self) -> list[str]:
        """DNS names and IP addresses of the leaf certificate."""
        own = (Address.parse(self.address).host, self.kms.host, "localhost", "127.0.0.1", "::1")
        return sorted({*own, *self.kms_names} - ANY_HOST)


@dataclass(frozen=True, slots=True)
class Directory:
    """DATA/nodes/NAME."""

    path: Path

    @classmethod
    def of(cls, data: Path, name: str) -> "Directory":
        """Raises `BadInput` for a name that no node can have."""
        try:
            return cls(data / "nodes" / NodeId(name).value)
        except ValueError as why:
            raise BadInput(str(why), remedy="choose another name") from why

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def module(self) -> Path:
        return self.path / "module"

    @property
    def audit_log(self) -> Path:
        return self.path / "audit.log"

    @property
    def run_state(self) -> Path:
        return self.path / "run.json"

    @property
    def enrolment(self) -> Path:
        """The request for a place, while it has not been granted; the same bytes are sent again."""
        return self.path / "enrolment"

    @property
    def fleet_info(self) -> Path:
        return self.path / "fleet-info"

    @property
    def certificates(self) -> Certificates:
        return Certificates.of(self.path)

    @property
    def tls(self) -> TlsFiles:
        return self.certificates.files

    @property
    def is_enrolled(self) -> bool:
        """The last file of an enrolment is in place."""
        return self.fleet_info.exists() and not self.enrolment.exists()

    def read_settings(self) -> Settings:
        """Raises `BadInput` when there are none, `DataDirectoryMismatch` for another format or node."""
        found = settings.read(
            self.path / "settings.json",
            lambda found: Settings(**{**found, "kms_names": tuple(found["kms_names"])}),
            absent=BadInput(
                f"{self.name} was not enrolled in {self.path}",
                remedy=f"run `quorate node init {self.name}` and `quorate node enroll {self.name}` first",
            ),
            remedy="restore it, or enrol the node again",
        )
        if found.name != self.name:
            raise DataDirectoryMismatch(self.path, found=f"node {found.name}", wanted=f"node {self.name}")
        return found

    def write_settings(self, given: Settings) -> None:
        settings.write(self.path / "settings.json", given)
