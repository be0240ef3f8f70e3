"""The six steps of the tour, printed as they happen.

Here: what is done, what must come of it, and the figures shown.
Not here: the envelope's format (`envelope`). A step that does not hold raises `TourFailed`; the fleet and its
directory are removed in every case.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from filecmp import cmp
from pathlib import Path
from typing import Any

import boto3
import typer
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from quorate import _core
from quorate.client import AdminClient
from quorate.demo.envelope import decrypt_file, encrypt_file, find_file
from quorate.errors import BadInput, QuorateError
from quorate.local import credentials, fleet, processes
from quorate.local.layout import Layout
from quorate.local.shape import Wanted, settle

KILLED = ("node-4", "node-5")
"""The two of step 4; one comes back in step 6."""
FAILS_WITHIN = 2.0
RECOVERS_WITHIN = 15.0
_TRIES = 60


class TourFailed(QuorateError):
    code = "tour_failed"

    def __init__(self, step: str, what: str, logs: str = "") -> None:
        super().__init__(
            f"step {step} does not hold: {what}" + (f"\n{logs}" if logs else ""),
            kept="the tour's own fleet was stopped and its directory removed",
            remedy="this is a defect of quorate, or of this machine (`quorate doctor`): report it with this output",
        )


def must(holds: bool, step: str, what: str) -> None:
    if not holds:
        raise TourFailed(step, what)


def head(text: str) -> None:
    typer.secho(f"\n{text}", bold=True)


def show(text: str) -> None:
    typer.echo(f"   {text}")


def proves(text: str) -> None:
    typer.secho(f"   ⇒ {text}", fg="green")


def _testing_build() -> Path:
    path = Path(os.environ.get("QUORATE_TESTING_PATH", ""))
    if not (path / "quorate").is_dir():
        raise BadInput(
            "step 6 needs the `testing` build of the core, and QUORATE_TESTING_PATH does not lead to one",
            remedy="start the tour with `make demo`, which builds it",
        )
    return path


def _chosen(file: Path | None) -> Path:
    chosen = (file or find_file()).absolute()
    if not chosen.is_file():
        raise BadInput(f"{chosen} is no file", remedy="name a file that you may read: `make demo FILE=…`")
    return chosen


async def tour(file: Path | None) -> None:
    """All six steps. Raises `TourFailed`, `BadInput`, and what starting a fleet raises."""
    testing, chosen = _testing_build(), _chosen(file)
    begun = time.monotonic()
    async with _fleet() as layout:
        steps = _Tour(layout, chosen, testing)
        await steps.start()
        await steps.encrypt()
        await steps.two_killed()
        await steps.three_killed()
        await steps.corrupted()
    head(f"Every step held, in {time.monotonic() - begun:.1f} s. The tour's fleet is gone again.")


@contextlib.asynccontextmanager
async def _fleet() -> AsyncIterator[Layout]:
    """A data directory of its own; in the end nothing of it is left, neither process nor file."""
    layout = Layout.at(Path(tempfile.mkdtemp(prefix="quorate-demo-")))
    try:
        yield layout
    except TourFailed as failure:
        logs = [f"-- {log}\n{processes.log_tail(log)}" for log in sorted(layout.logs.glob("*.log"))]
        typer.echo("\n".join(logs), err=True)
        raise failure
    finally:
        processes.stop_all(layout, grace=5.0)
        shutil.rmtree(layout.data, ignore_errors=True)


class _Tour:
    def __init__(self, layout: Layout, file: Path, testing: Path) -> None:
        self._layout = layout
        self._file = file
        self._testing = testing
        self._hub = AdminClient(layout.admin_socket)
        self._sealed = layout.data / "file.sealed"
        self._wrapped = b""

    # --- 1 and 2

    async def start(self) -> None:
        head("1. A fleet starts on this machine: one hub, five nodes, each a process of its own")
        second = "2. The domain `default` is created under a charter that the operator signed: 3 of 5"

        def progress(step: fleet.Step) -> None:
            if step.name.startswith("domain"):
                proves(
                    "every link is mutual TLS 1.3; the hub cannot enrol: the operator key signed each entry"
                )
                head(second)
            show(f"{step.seconds:6.2f} s  {step.name}" + (f": {step.detail}" if step.detail else ""))

        shape = settle(self._layout, Wanted(nodes=5, threshold=3, port=0))
        begun = time.monotonic()
        await fleet.start(self._layout, shape, progress)
        took = time.monotonic() - begun
        charter = _core.view_approved(await self._hub.charter(fleet.DOMAIN) or b"")
        status = await self._hub.status()
        domain = next(each for each in status["domains"] if each["name"] == fleet.DOMAIN)
        must(domain["live"] == 5 and domain["margin"] == 2, "2", f"the domain is not whole: {domain}")
        limits = charter["limits"]
        show(
            f"the charter: at least {charter['threshold_floor']} shards, a lease of {limits['lease_seconds']} s "
            f"and {limits['lease_uses']} uses; only an operator's signature changes it"
        )
        holders = ", ".join(f"{each['index']} on {each['node']}" for each in domain["members"])
        show(f"shards: {holders}; epoch {domain['epoch']}")
        proves(
            "each node's module verified its shard, stored it durably and signed for it; the hub's module erased "
            f"the key as soon as it was dealt; all that in {took:.1f} s from nothing"
        )

    # --- 3

    async def encrypt(self) -> None:
        head(f"3. A real file is encrypted by envelope, through boto3: {self._file}")
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(credentials.client_environment(self._layout))
        kms = self._kms()
        begun = time.monotonic()
        key_id = (await asyncio.to_thread(kms.create_key, Description="the tour's key"))["KeyMetadata"][
            "KeyId"
        ]
        show(f"CreateKey: {key_id}, {_ms(begun)}")
        begun = time.monotonic()
        made = await asyncio.to_thread(kms.generate_data_key, KeyId=key_id, KeySpec="AES_256")
        show(f"GenerateDataKey: 32 bytes, and {len(made['CiphertextBlob'])} as wrapped, {_ms(begun)}")
        self._wrapped = made["CiphertextBlob"]
        begun = time.monotonic()
        await asyncio.to_thread(encrypt_file, self._file, self._sealed, made["Plaintext"], self._wrapped)
        size = self._file.stat().st_size
        show(f"{size:,} bytes under AES-256-GCM, {_ms(begun)}")
        proves("an unmodified AWS SDK works with nothing but the variables of `quorate env`")

    # --- 4

    async def two_killed(self) -> None:
        head("4. Two nodes are killed (SIGKILL), the domain is locked, and the file decrypts all the same")
        for name in KILLED:
            show(f"killed {name}, pid {processes.kill(self._layout.node(name))}")
        await self._lock()
        opened = self._layout.data / "file.opened"
        asked = time.time()
        begun = time.monotonic()
        await asyncio.to_thread(decrypt_file, self._sealed, opened, self._decrypt_as_usual)
        show(f"decrypted, {_ms(begun)}")
        must(cmp(self._file, opened, shallow=False), "4", "the decrypted file differs from the original")
        session = await self._session_since(asked, "4")
        self._show_session(session)
        proves("three of five shards opened it, byte for byte, in a fresh quorum session")

    # --- 5

    async def three_killed(self) -> None:
        head("5. A third node is killed and the domain locked: Decrypt fails, until it is back")
        show(f"killed node-3, pid {processes.kill(self._layout.node('node-3'))}")
        await self._lock()
        kms = self._kms_once()
        begun = time.monotonic()
        try:
            await asyncio.to_thread(kms.decrypt, CiphertextBlob=self._wrapped)
        except ClientError as refusal:
            took = time.monotonic() - begun
            error = refusal.response["Error"]
            must(error["Code"] == "KeyUnavailableException", "5", f"Decrypt failed otherwise: {refusal}")
            must(took < FAILS_WITHIN, "5", f"Decrypt took {took:.2f} s to fail")
            show(
                f"Decrypt: {error['Code']} after {took * 1000:.0f} ms (the SDK's retries off): {error['Message']}"
            )
        else:
            raise TourFailed("5", "Decrypt succeeded with two of five nodes")
        begun = time.monotonic()
        run = await processes.start_one(self._layout, "node-3")
        show(f"node-3 is back, pid {run['pid']}, {_ms(begun)}")
        await self._until_decrypts(begun)
        proves("two shards open nothing; with a third the service is back by itself, and nothing was lost")

    async def _until_decrypts(self, begun: float) -> None:
        while True:
            try:
                await asyncio.to_thread(self._kms_once().decrypt, CiphertextBlob=self._wrapped)
            except (ClientError, BotoCoreError) as why:
                if time.monotonic() - begun > RECOVERS_WITHIN:
                    raise TourFailed("5", f"Decrypt does not work again: {why}") from why
                await asyncio.sleep(0.05)
            else:
                show(f"Decrypt works again, {_ms(begun)} after the start of node-3")
                return

    # --- 6

    async def corrupted(self) -> None:
        head("6. A node answers with a corrupted shard (it runs on the core's `testing` build)")
        corrupt = await self._never_called()
        path = os.pathsep.join(filter(None, (str(self._testing), os.environ.get("PYTHONPATH"))))
        environment = {"PYTHONPATH": path, "QUORATE_TESTING_CORRUPT_ANSWERS": "1"}
        run = await processes.start_one(self._layout, corrupt, environment)
        await self._until_live(4)
        show(
            f"{corrupt} is back, pid {run['pid']}, on the testing build; with node-1, node-2 and node-3 live,"
        )
        show("   the hub has one substitute to call")
        found, tries = await self._locked_decrypt(), 1
        while not found["culprits"]:
            must(tries < _TRIES, "6", f"the hub called {corrupt} in none of {tries} sessions")
            found = await self._locked_decrypt()
            tries += 1
        if tries > 1:
            show(f"the hub first did without {corrupt}; session {tries} called it")
        self._show_session(found)
        named = {culprit["node"] for culprit in found["culprits"]}
        must(named == {corrupt}, "6", f"the culprits named are {sorted(named)}")
        show(f"culprit: {corrupt}")
        proves("a wrong shard is found out and its holder named; a substitute was asked; Decrypt succeeded")

    async def _never_called(self) -> str:
        """One of the two killed nodes that no session has called: the hub knows no latency of it yet, prefers
        it therefore, and so calls it in the next session.
        """
        sessions = await self._hub.sessions(limit=500)
        called = {each["node"] for session in sessions for each in session["called"]}
        return next((name for name in KILLED if name not in called), KILLED[0])

    async def _locked_decrypt(self) -> dict[str, Any]:
        """One Decrypt from a locked domain, which must succeed; its session."""
        await self._lock(quietly=True)
        asked = time.time()
        try:
            await asyncio.to_thread(self._kms_once().decrypt, CiphertextBlob=self._wrapped)
        except (ClientError, BotoCoreError) as why:
            raise TourFailed("6", f"Decrypt failed: {why}") from why
        return await self._session_since(asked, "6")

    async def _until_live(self, count: int) -> None:
        deadline = time.monotonic() + RECOVERS_WITHIN
        while True:
            domains = (await self._hub.status())["domains"]
            live = next(each["live"] for each in domains if each["name"] == fleet.DOMAIN)
            if live >= count:
                return
            must(time.monotonic() < deadline, "6", f"only {live} nodes are live for the hub")
            await asyncio.sleep(0.05)

    # --- what the steps share

    def _kms(self, **settings: Any) -> Any:
        """An ordinary client with connections of its own."""
        return boto3.session.Session().client("kms", **settings)

    def _decrypt_as_usual(self, wrapped: bytes) -> bytes:
        plaintext: bytes = self._kms().decrypt(CiphertextBlob=wrapped)["Plaintext"]
        return plaintext

    def _kms_once(self) -> Any:
        """Without the SDK's retries, and with a new connection: an old one may lead to a killed node."""
        return self._kms(config=Config(retries={"total_max_attempts": 1}))

    async def _lock(self, *, quietly: bool = False) -> None:
        locked = (await self._hub.lock(fleet.DOMAIN))["locked"]
        if not quietly:
            show(f"locked on {', '.join(locked)}: no module has the key any more")

    async def _session_since(self, asked: float, step: str) -> dict[str, Any]:
        """The newest session of the domain that combined; the requester's report of it may be on its way."""
        deadline = time.monotonic() + 2.0
        while True:
            found = [
                session
                for session in await self._hub.sessions(limit=20)
                if session["domain"] == fleet.DOMAIN
                and session["at"] >= asked - 0.05
                and session["outcome"] == "combined"
            ]
            late = time.monotonic() > deadline
            if found and (late or any(each["ms"] is not None for each in found[0]["called"])):
                return found[0]
            must(not late, step, "the hub knows of no session that combined")
            await asyncio.sleep(0.02)

    def _show_session(self, session: dict[str, Any]) -> None:
        refused = {each["index"]: each["reason"] for each in session["refused"]}
        culprits = {each["index"] for each in session["culprits"]}
        show(f"session {session['session'][:16]}…: {session['requester']} asked, and the hub chose")
        for each in session["called"]:
            index, node, ms = each["index"], each["node"], each["ms"]
            if index in refused:
                how = f"refused: {refused[index]}"
            elif ms is None:
                how = "was not waited for"
            else:
                how = f"answered after {ms:.1f} ms"
            if index in culprits:
                how = f"gave a wrong shard, {how}"
            own = ", its own" if node == session["requester"] else ""
            show(f"   shard {index} on {node}{own}: {how}")
        show(f"   combined and closed after {session['ms']:.1f} ms")


def _ms(begun: float) -> str:
    return f"{(time.monotonic() - begun) * 1000:.0f} ms"
