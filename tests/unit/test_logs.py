"""Log lines: their form, what an exception may show, rotation, and levels."""

import asyncio
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quorate import logs
from quorate.errors import BadInput
from quorate.kms.errors import KmsError

SECRET = "hunter2-5d1e"
_log = logging.getLogger("quorate.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The root logger as pytest has it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "node-3.log"


def lines(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_json_line_is_one_object_with_the_promised_members(file: Path) -> None:
    logs.set_up(file, process="node-3", form=logs.Format.JSON)
    before = datetime.now(UTC)
    _log.info("two\nlines of %s", "n\u00f6de")
    (line,) = lines(file)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert abs((datetime.fromisoformat(line.pop("time")) - before).total_seconds()) < 60
    assert line == {
        "level": "INFO", "logger": "quorate.test", "process": "node-3", "message": "two\nlines of n\u00f6de",
    }  # fmt: skip


def test_a_text_line_holds_the_same_and_a_strangers_newline_makes_no_line(file: Path) -> None:
    logs.set_up(file, process="node-3")
    _log.warning("from %s", "a\n2026-01-01T00:00:00.000Z CRITICAL forged")
    (line,) = file.read_text().splitlines()
    assert re.fullmatch(r"\S+Z WARNING  node-3 quorate\.test: from a\\n2026-01-01\S+ CRITICAL forged", line)


@pytest.mark.parametrize("form", logs.Format)
def test_the_requests_id_is_on_every_line_of_its_task_and_on_no_other(form: logs.Format, file: Path) -> None:
    logs.set_up(file, process="node-3", form=form)

    async def later() -> None:
        _log.info("of a task that it began")

    async def serve(name: str) -> None:
        logs.request_id.set(name)
        _log.info("at once")
        await asyncio.create_task(later())
        await asyncio.sleep(0)
        _log.info("later")

    async def main() -> None:
        await asyncio.gather(asyncio.create_task(serve("id-1")), asyncio.create_task(serve("id-2")))
        _log.info("nobody's")

    asyncio.run(main())
    written = file.read_text().splitlines()
    for name in ("id-1", "id-2"):
        found = [line for line in written if name in line]
        assert len(found) == 3
        member = '"request_id": "' + name + '"'
        assert all((member if form is logs.Format.JSON else f" request_id={name}") in line for line in found)
    assert "request_id" not in next(line for line in written if "nobody" in line)


def _raise(error: Exception, cause: Exception | None = None) -> None:
    raise error from cause


@pytest.mark.parametrize("form", logs.Format)
@pytest.mark.parametrize(
    "error",
    [ValueError(SECRET), KeyError(SECRET), KmsError("ValidationException", SECRET), OSError(SECRET),
     RuntimeError({"plaintext": SECRET}), ExceptionGroup(SECRET, [ValueError(SECRET)])],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_n85_no_line_shows_the_text_of_an_exception_that_may_quote_a_value(
    error: Exception, form: logs.Format, file: Path
) -> None:
    logs.set_up(file, process="node-3", form=form)
    for cause in (None, ValueError(SECRET)):
        try:
            _raise(error, cause)
        except Exception as why:
            why.add_note(SECRET)
            _log.exception("it failed: %s", why)
            _log.error(why)
            _log.error("bare", extra={"exception": logs.told(why)})
    text = file.read_text()
    assert SECRET not in text
    assert type(error).__name__ in text
    assert "_raise(error, cause)" in text


def test_an_exception_is_one_member_with_its_causes_and_our_own_texts(file: Path) -> None:
    logs.set_up(file, process="node-3", form=logs.Format.JSON)
    try:
        _raise(BadInput("the file is bad", remedy="mend it"), FileNotFoundError(2, "No such file", "/x"))
    except BadInput:
        _log.exception("it failed")
    (line,) = lines(file)
    assert line["exception"].endswith("BadInput: the file is bad")
    assert "FileNotFoundError: [Errno 2] No such file: '/x'\n\nwhich led to:" in line["exception"]


def test_n85_failures_that_nobody_caught_show_no_text_either(tmp_path: Path) -> None:
    """In a process of its own: of a task, a thread, a finalizer, a wrong log call, a warning, and the process."""
    file = tmp_path / "hub.log"
    program = f"""
import asyncio, gc, logging, threading, warnings
from pathlib import Path
from quorate import logs

class Bad:
    def __del__(self): raise ValueError("{SECRET}")

async def fails(): raise ValueError("{SECRET}")

async def main():
    logs.set_up(Path({str(file)!r}), process="hub", form=logs.Format.JSON)
    logs.take_failures(asyncio.get_running_loop())
    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    del task
    gc.collect()
    thread = threading.Thread(target=lambda: int("{SECRET}"))
    thread.start(); thread.join()
    bad = Bad(); del bad
    logging.error("%d", "{SECRET}")
    warnings.warn("a warning", stacklevel=1)

asyncio.run(main())
raise ValueError("{SECRET}")
"""
    with file.open("ab") as end:
        done = subprocess.run([sys.executable, "-c", program], stdout=end, stderr=end, timeout=60)
    assert done.returncode == 1
    written = lines(file)
    assert SECRET not in file.read_text()
    told = " ".join(line["message"] for line in written)
    for part in ("Task exception was never retrieved", "a thread failed", "a finalizer failed",
                 "a line of root was lost: TypeError", "a warning", "the process failed"):  # fmt: skip
        assert part in told


@pytest.mark.parametrize("form", logs.Format)
def test_no_line_is_lost_or_torn_when_the_file_is_rotated(
    form: logs.Format, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 44 << 10)
    logs.set_up(file, process="node-3", form=form)

    def write(writer: int) -> None:
        for number in range(250):
            _log.info("<%d:%d:%s>", writer, number, "x" * (number % 97))

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    files = sorted(file.parent.iterdir(), reverse=True)  # .4, .3, …, the current one: in the order of time
    assert 2 < len(files) <= 1 + logs.KEPT_FILES
    written = [line for each in files for line in each.read_text().splitlines()]
    if form is logs.Format.JSON:
        written = [json.loads(line)["message"] for line in written]
    seen = [re.search(r"<(\d):(\d+):x*>$", line) for line in written]
    assert all(seen)
    for writer in range(4):
        numbers = [int(found[2]) for found in seen if found and found[1] == str(writer)]
        assert numbers == list(range(250))


def test_number_and_size_of_files_are_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 4096)
    logs.set_up(file, process="node-3", form=logs.Format.JSON)
    for number in range(1000):
        _log.info("line %d", number)
    names = sorted(each.name for each in file.parent.iterdir())
    assert names == ["node-3.log", *(f"node-3.log.{number}" for number in range(1, logs.KEPT_FILES + 1))]
    assert all(each.stat().st_size <= 4096 for each in file.parent.iterdir())
    assert lines(file)[-1]["message"] == "line 999"


def test_a_rotation_that_fails_costs_no_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 4096)
    logs.set_up(file, process="node-3", form=logs.Format.JSON)
    file.with_name("node-3.log.3").touch()
    file.with_name("node-3.log.4").mkdir()  # where that file is to go
    for number in range(100):
        _log.info("line %d", number)
    told = [line["message"] for line in lines(file)]
    assert [one for one in told if one.startswith("line ")] == [f"line {number}" for number in range(100)]
    assert sum("cannot be rotated" in one for one in told) == 1


def test_stderr_goes_along_to_the_new_file(tmp_path: Path) -> None:
    """As in `up --detach`, where both are one file."""
    file = tmp_path / "hub.log"
    program = f"""
import logging, os
from pathlib import Path
from quorate import logs
logs.MAX_BYTES = 4096
logs.set_up(Path({str(file)!r}), process="hub")
for number in range(100): logging.info("line %d", number)
os.write(2, b"a panic\\n")
"""
    with file.open("ab") as end:
        subprocess.run([sys.executable, "-c", program], stderr=end, timeout=60, check=True)
    assert file.with_name("hub.log.1").exists()
    assert file.read_text().endswith("a panic\n")


def test_a_line_past_the_locks_is_written_while_somebody_holds_them(file: Path) -> None:
    logs.set_up(file, process="hub", form=logs.Format.JSON)
    (handler,) = logging.getLogger().handlers
    handler.acquire()
    try:
        writer = threading.Thread(target=logs.write_past_locks, args=("w", "it stalls", "stack"), daemon=True)
        writer.start()
        writer.join(10)
        assert not writer.is_alive()
    finally:
        handler.release()
    (line,) = lines(file)
    assert (line["level"], line["message"], line["exception"]) == ("CRITICAL", "it stalls", "stack")


def test_levels(file: Path) -> None:
    logs.set_up(file, process="hub", level=logs.Level.WARNING)
    _log.info("one")
    logs.set_level(logs.Level.DEBUG)
    _log.debug("two")
    logging.getLogger("uvicorn.error").debug("a connection")
    logs.set_level(logs.Level.WARNING)
    _log.debug("three")
    assert [line.split(": ")[1] for line in file.read_text().splitlines()] == ["two"]
