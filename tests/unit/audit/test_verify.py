"""Every change to a log is found, and named where it is; the samples are built here, not by `append`."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quorate.audit.verify import verify
from quorate.errors import BadInput


def line(seq: int, prev: str, /, *, hash_value: str | None = None, **changes: Any) -> tuple[bytes, str]:
    """One line as the format's description has it, with its hash."""
    members = {"seq": seq, "time": f"2026-01-01T00:00:0{seq}.000000Z", "prev": prev, "event": {"number": seq}}
    body = json.dumps(members | changes, separators=(",", ":"))
    digest = hash_value or hashlib.sha256(body.encode()).hexdigest()
    return f'{body[:-1]},"hash":"{digest}"}}\n'.encode(), digest


def sample() -> list[bytes]:
    lines, prev = [], "0" * 64
    for seq in (1, 2, 3):
        text, prev = line(seq, prev)
        lines.append(text)
    return lines


def breach_of(path: Path, lines: list[bytes]) -> tuple[int, int, str] | None:
    path.write_bytes(b"".join(lines))
    breach = verify(path).breach
    return None if breach is None else (breach.line, breach.offset, breach.reason)


def test_a_line_of_a_newer_format_is_named(tmp_path: Path) -> None:
    newer = b'{"format":2,"seq":4}\n'
    breach = breach_of(tmp_path / "audit.log", [*sample(), newer])
    assert breach is not None and breach[0] == 4
    assert "newer Quorate, in format 2" in breach[2]


def test_good_log_is_reported_whole(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    lines = sample()
    path.write_bytes(b"".join(lines))
    report = verify(path)
    assert report.breach is None
    assert report.lines == 3
    assert report.first_time == "2026-01-01T00:00:01.000000Z"
    assert report.last_time == "2026-01-01T00:00:03.000000Z"
    assert report.last_hash == json.loads(lines[-1])["hash"]


def test_empty_log_is_good(tmp_path: Path) -> None:
    assert breach_of(tmp_path / "audit.log", []) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seq":2', b'"seq":4'),
        (b'"time":"2026', b'"time":"2025'),
        (b'"prev":"', b'"prev":"0'),
        (b'"number":2', b'"number":9'),
        (b'"event":{', b'"event":{"more":1,'),
        (b'"hash":"', b'"hash":"0'),
        (b'{"seq"', b'{ "seq"'),
        (b'"}\n', b'" }\n'),
        (b'"}\n', b'","x":1}\n'),
        (b'"}\n', b'"}\r\n'),
    ],
)
def test_n83_change_of_any_member_is_found_at_its_line(tmp_path: Path, old: bytes, new: bytes) -> None:
    lines = sample()
    assert old in lines[1]
    lines[1] = lines[1].replace(old, new, 1)
    breach = breach_of(tmp_path / "audit.log", lines)
    assert breach is not None
    assert breach[:2] == (2, len(lines[0]))


def test_n83_every_changed_byte_is_found(tmp_path: Path) -> None:
    lines = sample()
    for at in range(len(lines[1])):
        changed = bytearray(lines[1])
        changed[at] ^= 1
        assert breach_of(tmp_path / "audit.log", [lines[0], bytes(changed), lines[2]]) is not None


def test_n83_line_rewritten_with_a_right_hash_breaks_the_chain_after_it(tmp_path: Path) -> None:
    lines = sample()
    lines[1] = line(2, json.loads(lines[0])["hash"], event={"number": 99})[0]
    breach = breach_of(tmp_path / "audit.log", lines)
    assert breach == (3, len(lines[0]) + len(lines[1]), "it does not follow the line before")


Edit = Callable[[list[bytes]], list[bytes]]


@pytest.mark.parametrize(
    ("edit", "at"),
    [
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], lines[0], *lines[1:]], 2),
        (lambda lines: [lines[0], lines[2], lines[1]], 2),
        (lambda lines: [*lines, lines[0]], 4),
        (lambda lines: [*lines[:2], lines[2][:-1]], 3),
        (lambda lines: [*lines[:2], lines[2][:40]], 3),
        (lambda lines: [*lines, b"\n"], 4),
        (lambda lines: [*lines, b"[1]\n"], 4),
        (lambda lines: [*lines, b"[" * 60_000 + b"\n"], 4),
        (lambda lines: [*lines, b"x" * 70_000 + b"\n"], 4),
        (lambda lines: [*lines, "ü\n".encode()], 4),
    ],
    ids=[
        "removed", "first-removed", "repeated", "swapped", "replayed", "newline-lost", "torn", "empty-line",
        "no-object", "deep", "too-long", "not-ascii",
    ],
)  # fmt: skip
def test_n83_moved_missing_and_foreign_lines_are_found(tmp_path: Path, edit: Edit, at: int) -> None:
    breach = breach_of(tmp_path / "audit.log", edit(sample()))
    assert breach is not None
    assert breach[0] == at


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 1.0},
        {"seq": True},
        {"seq": "1"},
        {"seq": 0},
        {"event": "text"},
        {"event": [1]},
        {"time": "yesterday"},
        {"time": 7},
        {"time": "2026-01-01T00:00:00+02:00"},
        {"prev": "1" * 64},
        {"hash_value": "0" * 64},
    ],
)
def test_line_with_a_right_hash_and_a_wrong_member_is_found(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert breach_of(tmp_path / "audit.log", [line(1, "0" * 64, **changes)[0]]) is not None


def test_member_that_stands_twice_is_found(tmp_path: Path) -> None:
    body = '{"seq":1,"time":"2026-01-01T00:00:00.000000Z","prev":"' + "0" * 64 + '","event":{"a":1,"a":2}'
    digest = hashlib.sha256((body + "}").encode()).hexdigest()
    assert breach_of(tmp_path / "audit.log", [f'{body},"hash":"{digest}"}}\n'.encode()]) is not None


def test_report_counts_what_is_good_before_the_breach(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    lines = sample()
    path.write_bytes(lines[0] + lines[1] + b"x\n")
    report = verify(path)
    assert (report.lines, report.last_time) == (2, "2026-01-01T00:00:02.000000Z")
    assert report.last_hash == json.loads(lines[1])["hash"]


def test_missing_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        verify(tmp_path / "audit.log")
