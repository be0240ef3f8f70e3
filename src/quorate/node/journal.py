"""The node's audit lines, by what happened.

Here: which event has which members.
Not here: the chain and the disk (`audit/append`), KMS decisions (`kms/app`).
"""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from quorate.audit.append import AuditLog, Value
from quorate.errors import StorageFailed
from quorate.ids import DomainId, NodeId, SessionId
from quorate.kms.backend import AuditRecord

_log = logging.getLogger(__name__)


class Journal:
    def __init__(self, log: AuditLog, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._log = log
        self._spawn = spawn

    async def released(
        self, session: SessionId, domain: DomainId, epoch: int, index: int, requester: NodeId
    ) -> None:
        """One shard is about to leave. Returns once the line is durable; raises `StorageFailed`."""
        await self._log.append(
            {
                "event": "released",
                "session": str(session),
                "domain": domain.value,
                "epoch": epoch,
                "index": index,
                "node": requester.value,
            }
        )

    async def kms(self, record: AuditRecord) -> None:
        """One line of the KMS API; what is empty is left out."""
        line: dict[str, Value] = {
            "event": "kms",
            "phase": record.phase.value,
            "operation": record.operation,
            "request_id": record.request_id,
            "outcome": record.outcome,
            "access_key_id": record.access_key_id,
            "name": record.name,
            "role": record.role,
            "key_id": record.key_id,
            "source_key_id": record.source_key_id,
            "domain": record.domain,
            "session_id": record.session_id,
            "peer": record.peer,
            "suppressed": record.suppressed,
        }
        await self._log.append({name: value for name, value in line.items() if value})

    def refused(
        self, session: SessionId, domain: DomainId, index: int, requester: NodeId, reason: str
    ) -> None:
        """A grant was not answered."""
        self._note(
            event="refused",
            session=str(session),
            domain=domain.value,
            index=index,
            node=requester.value,
            reason=reason,
        )

    def session(
        self, session: SessionId, domain: DomainId, outcome: str, culprits: list[str], reason: str = ""
    ) -> None:
        """A session of this node ended."""
        line: dict[str, Value] = {
            "event": "session",
            "session": str(session),
            "domain": domain.value,
            "outcome": outcome,
        }
        if culprits:
            line["culprits"] = culprits
        if reason:
            line["reason"] = reason[:512]
        self._note(**line)

    def locked(self, domain: DomainId, had_lease: bool) -> None:
        self._note(event="locked", domain=domain.value, had_lease=had_lease)

    def epoch(self, domain: DomainId, epoch: int, step: str, reason: str = "") -> None:
        line: dict[str, Value] = {"event": "epoch", "domain": domain.value, "epoch": epoch, "step": step}
        if reason:
            line["reason"] = reason[:512]
        self._note(**line)

    def key_version(
        self, domain: DomainId, version: int, step: str, key: str = "", culprits: list[str] | None = None
    ) -> None:
        line: dict[str, Value] = {
            "event": "key-version",
            "domain": domain.value,
            "version": version,
            "step": step,
        }
        if key:
            line["key"] = key
        if culprits:
            line["culprits"] = culprits
        self._note(**line)

    def fleet_key_erased(self, below: int) -> None:
        self._note(event="fleet_key_erased", below=below)

    def rolled_back(self, boot: int, generation: int) -> None:
        """This node's vault is an older copy: it had come so far before."""
        self._note(event="rolled_back", boot=boot, generation=generation)

    def started(self, version: str, boot: int, generation: int) -> None:
        self._note(event="started", version=version, boot=boot, generation=generation)

    def _note(self, **line: Value) -> None:
        self._spawn(self._append(line))

    async def _append(self, line: dict[str, Value]) -> None:
        try:
            await self._log.append(line)
        except StorageFailed as why:
            _log.critical("%s", why)  # the log's `failed` ends the process
