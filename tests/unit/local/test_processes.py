"""What is believed of a process, and what a failed start tells."""

import json
import os
from pathlib import Path

import pytest

from quorate.errors import NewerFormat, QuorateError
from quorate.local.processes import StartFailed, kill, log_tail, only_one, running, stop


def write(directory: Path, text: str) -> Path:
    (directory / "run.json").write_text(text)
    return directory


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": "7"}', json.dumps({"pid": 2**22 + 1})])
def test_what_names_no_living_process_is_down(text: str, tmp_path: Path) -> None:
    assert running(write(tmp_path, text)) is None


def test_a_run_file_of_a_newer_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(NewerFormat, match="newer Quorate"):
        running(write(tmp_path, json.dumps({"format": 2, "pid": 1})))


def test_a_strangers_process_is_never_signalled(tmp_path: Path) -> None:
    # This process is alive, but is no `quorate … serve`: a signal would end the test run.
    directory = write(tmp_path, json.dumps({"pid": os.getpid()}))
    assert stop([directory], grace=0.1) == []
    with pytest.raises(QuorateError, match="does not run"):
        kill(directory)


def test_a_failed_start_shows_the_end_of_the_right_log(tmp_path: Path) -> None:
    log = tmp_path / "node-3.log"
    log.write_text("\n".join(f"line {number}" for number in range(100)))
    failure = StartFailed("node-3", "ended with status 1 before it was ready", log)
    assert str(failure) == "node-3 ended with status 1 before it was ready"
    assert "line 99" in failure.remedy
    assert "line 10\n" not in failure.remedy
    assert str(log) in failure.remedy
    assert log_tail(tmp_path / "none.log") == ""


def test_two_at_once_are_kept_apart(tmp_path: Path) -> None:
    from quorate.local.layout import Layout

    layout = Layout.at(tmp_path)
    with only_one(layout), pytest.raises(QuorateError, match="another"), only_one(layout):
        pass
    with only_one(layout):
        pass
