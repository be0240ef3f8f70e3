"""The audit log under load, faults and crashes; `verify` is the judge of what is on disk."""

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from quorate.audit.append import MAX_ITEMS, MAX_NAMES, MAX_TEXT, AuditLog, Disk, Storage
from quorate.audit.verify import verify
from quorate.errors import BadInput, NewerFormat, StorageFailed


def now() -> datetime:
    return datetime(2026, 1, 31, 23, 59, 59, 250, tzinfo=UTC)


class Counting(Disk):
    """A disk that counts what it does."""

    def __init__(self) -> None:
        self.syncs = 0

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self.syncs += 1


class Faulty(Disk):
    """A disk with one fault, at the `at`-th write or sync (counted from 1)."""

    def __init__(self, call: str, code: int, *, at: int = 1, taken: int | None = None) -> None:
        self.call, self.code, self.left, self.taken = call, code, at, taken
        self.calls_after_fault = 0

    def _step(self, call: str) -> bool:
        if self.left == 0:
            self.calls_after_fault += 1
        elif call == self.call:
            self.left -= 1
            return self.left == 0
        return False

    def write(self, fd: int, data: bytes) -> int:
        if self._step("write"):
            if self.taken is not None:
                super().write(fd, data[: self.taken])
            raise OSError(self.code, os.strerror(self.code))
        return super().write(fd, data)

    def fdatasync(self, fd: int) -> None:
        if self._step("fdatasync"):
            raise OSError(self.code, os.strerror(self.code))
        super().fdatasync(fd)


class Watched(Disk):
    """A disk that runs `look` before each sync."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look

    def fdatasync(self, fd: int) -> None:
        self.look()
        super().fdatasync(fd)


class Sipping(Disk):
    """A disk that takes seven bytes at a time."""

    def write(self, fd: int, data: bytes) -> int:
        return super().write(fd, data[:7])


def with_log(
    path: Path, use: Callable[[AuditLog], Coroutine[Any, Any, None]], storage: Storage | None = None
) -> None:
    async def main() -> None:
        log = AuditLog(path, now=now, storage=storage)
        try:
            await use(log)
        finally:
            log.close()

    asyncio.run(main())


def write_lines(path: Path, count: int, start: int = 0) -> None:
    async def use(log: AuditLog) -> None:
        for number in range(start, start + count):
            await log.append({"kind": "session", "number": number})

    with_log(path, use)


def test_every_plain_type_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"

    async def use(log: AuditLog) -> None:
        await log.append(
            {
                "text": 'zwölf\n"quoted"',
                "int": -5,
                "float": 0.25,
                "yes": True,
                "none": None,
                "list": ["a", "b"],
            }
        )

    with_log(path, use)
    assert verify(path).lines == 1
    event = r'{"text":"zw\u00f6lf\n\"quoted\"","int":-5,"float":0.25,"yes":true,"none":null,"list":["a","b"]}'
    head = '{"seq":1,"time":"2026-01-31T23:59:59.000250Z","prev":"' + "0" * 64
    assert path.read_text("ascii").startswith(f'{head}","event":{event},"hash":"')


def test_times_are_written_in_utc(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"

    async def main() -> None:
        log = AuditLog(path, now=lambda: datetime(2026, 7, 1, 1, tzinfo=timezone(timedelta(hours=2))))
        await log.append({"kind": "x"})
        log.close()

    asyncio.run(main())
    assert verify(path).first_time == "2026-06-30T23:00:00.000000Z"


def test_log_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    write_lines(tmp_path / "audit.log", 1)
    assert stat.S_IMODE((tmp_path / "audit.log").stat().st_mode) == 0o600


def test_chain_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write_lines(path, 3)
    write_lines(path, 2, start=3)
    report = verify(path)
    assert (report.lines, report.breach) == (5, None)


def test_append_returns_only_after_the_sync_that_covers_its_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    lines = []

    async def main() -> None:
        def look() -> None:
            assert not task.done()
            lines.append(verify(path).lines)  # written, and not yet synced

        log = AuditLog(path, now=now, storage=Watched(look))
        task = log.append({"kind": "session"})
        assert not path.read_bytes()
        await task
        log.close()

    asyncio.run(main())
    assert lines == [1]


def test_hundred_appends_at_once_share_one_sync(tmp_path: Path) -> None:
    disk = Counting()

    async def use(log: AuditLog) -> None:
        await asyncio.gather(*(log.append({"number": number}) for number in range(100)))

    with_log(tmp_path / "audit.log", use, disk)
    assert verify(tmp_path / "audit.log").lines == 100
    assert disk.syncs == 1


def test_short_writes_are_continued(tmp_path: Path) -> None:
    async def use(log: AuditLog) -> None:
        await log.append({"text": "x" * 100})

    with_log(tmp_path / "audit.log", use, Sipping())
    assert verify(tmp_path / "audit.log").lines == 1


def test_line_of_a_cancelled_caller_is_written_and_harms_nobody(tmp_path: Path) -> None:
    async def use(log: AuditLog) -> None:
        gone = log.append({"number": 1})
        stays = log.append({"number": 2})
        gone.cancel()
        await stays

    with_log(tmp_path / "audit.log", use)
    assert verify(tmp_path / "audit.log").lines == 2


def test_close_writes_what_waits(tmp_path: Path) -> None:
    async def use(log: AuditLog) -> None:
        log.append({"number": 1})

    with_log(tmp_path / "audit.log", use)
    assert verify(tmp_path / "audit.log").lines == 1


@pytest.mark.parametrize(
    "disk",
    [
        Faulty("write", errno.ENOSPC),
        Faulty("write", errno.ENOSPC, taken=40),
        Faulty("write", errno.EIO),
        Faulty("fdatasync", errno.EIO),
        Faulty("fdatasync", errno.ENOSPC),
    ],
    ids=["full", "full-after-a-part", "write-error", "sync-error", "full-at-sync"],
)
def test_n84_failing_disk_refuses_all_who_wait_and_all_who_come(tmp_path: Path, disk: Faulty) -> None:
    async def main() -> None:
        log = AuditLog(tmp_path / "audit.log", now=now, storage=disk)
        outcomes = await asyncio.gather(
            *(log.append({"number": number}) for number in range(10)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [StorageFailed] * 10
        with pytest.raises(StorageFailed, match=os.strerror(disk.code)):
            await log.append({"number": 10})
        assert (await log.failed).path == tmp_path / "audit.log"
        log.close()

    asyncio.run(main())


def test_n47_failed_sync_is_never_tried_again(tmp_path: Path) -> None:
    disk = Faulty("fdatasync", errno.EIO)

    async def use(log: AuditLog) -> None:
        for number in range(3):
            with pytest.raises(StorageFailed):
                await log.append({"number": number})

    with_log(tmp_path / "audit.log", use, disk)
    assert disk.calls_after_fault == 0


def test_n84_what_was_acknowledged_before_a_fault_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"

    async def use(log: AuditLog) -> None:
        await log.append({"number": 0})
        await log.append({"number": 1})
        with pytest.raises(StorageFailed):
            await log.append({"number": 2})

    with_log(path, use, Faulty("write", errno.ENOSPC, at=3, taken=25))
    assert verify(path).lines == 2
    write_lines(path, 1, start=3)
    report = verify(path)
    assert (report.lines, report.breach) == (3, None)


@pytest.mark.parametrize("left", [1, 30, -2])
def test_unfinished_line_is_moved_aside_and_reported(tmp_path: Path, left: int) -> None:
    """A crash between write and sync may leave any prefix of what was written."""
    path = tmp_path / "audit.log"
    write_lines(path, 2)
    whole = path.read_bytes()
    write_lines(path, 1, start=2)
    torn = path.read_bytes()[len(whole) :][:left]
    path.write_bytes(whole + torn)

    async def use(log: AuditLog) -> None:
        assert log.torn is not None
        assert (log.torn.offset, log.torn.size) == (len(whole), len(torn))
        assert log.torn.kept_in.read_bytes() == torn
        assert log.torn.kept_in.parent == tmp_path
        assert path.read_bytes() == whole
        await log.append({"number": 3})

    with_log(path, use)
    report = verify(path)
    assert (report.lines, report.breach) == (3, None)


def test_unfinished_first_line_leaves_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(b'{"seq":1,"ti')
    write_lines(path, 1)
    assert verify(path).lines == 1


def test_whole_log_has_nothing_torn(tmp_path: Path) -> None:
    write_lines(tmp_path / "audit.log", 2)

    async def use(log: AuditLog) -> None:
        assert log.torn is None

    with_log(tmp_path / "audit.log", use)


@pytest.mark.parametrize(
    "end",
    [b"not a line\n", b"\n", b"x" * 70_000, b"x" * 300_000, b"y" * 300_000 + b"\n"],
    ids=["foreign", "empty", "long-unfinished", "very-long-unfinished", "very-long"],
)
def test_log_with_a_corrupt_end_is_not_continued(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "audit.log"
    write_lines(path, 2)
    before = path.read_bytes() + end
    path.write_bytes(before)
    with pytest.raises(BadInput, match=r"audit.log cannot be continued"):
        write_lines(path, 1)
    assert path.read_bytes() == before


def test_log_whose_last_line_was_changed_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write_lines(path, 2)
    path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":7'))
    with pytest.raises(BadInput, match="hash of its last line"):
        write_lines(path, 1)


def test_second_writer_is_refused(tmp_path: Path) -> None:
    async def use(log: AuditLog) -> None:
        with pytest.raises(BadInput, match="another process"):
            AuditLog(tmp_path / "audit.log", now=now)
        await log.append({"number": 1})

    with_log(tmp_path / "audit.log", use)


def test_missing_directory_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="No such file"):
        write_lines(tmp_path / "absent" / "audit.log", 1)


def test_closed_log_refuses(tmp_path: Path) -> None:
    async def main() -> None:
        log = AuditLog(tmp_path / "audit.log", now=now)
        log.close()
        with pytest.raises(StorageFailed, match="closed"):
            await log.append({"number": 1})

    asyncio.run(main())


class Kind(StrEnum):
    SESSION = "session"


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"key": b"0123456789abcdef"},
        {"key": bytearray(16)},
        {"key": memoryview(b"x")},
        {"keys": [b"x"]},
        {"keys": ["x", 1]},
        {"keys": ("x",)},
        {"inner": {"key": "x"}},
        {"kind": Kind.SESSION},
        {"object": object()},
        {"number": float("nan")},
        {"number": float("-inf")},
        {"number": 2**63},
        {"text": "x" * (MAX_TEXT + 1)},
        {"items": ["x"] * (MAX_ITEMS + 1)},
        {"items": ["x" * 4000] * 20},
        {"Name": "x"},
        {"a-b": "x"},
        {"": "x"},
        {1: "x"},
        {f"n{number}": 1 for number in range(MAX_NAMES + 1)},
    ],
)
def test_n85_record_with_anything_but_plain_short_values_is_refused(
    tmp_path: Path, record: dict[Any, Any]
) -> None:
    async def use(log: AuditLog) -> None:
        with pytest.raises(BadInput) as refused:
            await log.append(record)
        assert "0123456789abcdef" not in str(refused.value)
        await log.append({"number": 1})

    with_log(tmp_path / "audit.log", use)
    assert verify(tmp_path / "audit.log").lines == 1


def test_a_log_of_a_newer_format_is_not_continued_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    content = b'{"format":2,"seq":1}\n{"format":2,"seq":2'  # and an unfinished line
    path.write_bytes(content)

    async def main() -> None:
        AuditLog(path, now=now)

    with pytest.raises(NewerFormat, match="newer Quorate: it has format 2"):
        asyncio.run(main())
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
