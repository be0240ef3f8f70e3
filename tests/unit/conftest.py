"""Runs a command as a person would: words in, exit code and both streams out."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from quorate.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Quorate = Callable[..., Outcome]


@pytest.fixture
def quorate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Quorate:
    for name in (
        "QUORATE_DATA",
        "QUORATE_NODES",
        "QUORATE_PORT",
        "QUORATE_THRESHOLD",
        "QUORATE_LOG_FORMAT",
        "QUORATE_LOG_LEVEL",
    ):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["quorate", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        got = capsys.readouterr()
        return Outcome(code if isinstance(code, int) else 0, got.out, got.err)

    return run
