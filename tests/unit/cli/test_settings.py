"""Where the options of `up` come from: file, environment, flags, in rising order."""

from pathlib import Path

import pytest

from quorate.cli.settings import read_settings
from quorate.errors import BadInput
from quorate.local.shape import Wanted


def test_flags_beat_the_environment_which_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "quorate.toml"
    file.write_text('nodes = 4\nthreshold = 2\nregion = "eu-west-1"\n')
    monkeypatch.setenv("QUORATE_NODES", "6")
    monkeypatch.setenv("QUORATE_THRESHOLD", "4")
    got = read_settings(file, {"nodes": 7, "threshold": None, "port": None})
    assert got == Wanted(nodes=7, threshold=4, region="eu-west-1")


def test_the_logs_settings_come_the_same_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "quorate.toml"
    file.write_text('log_format = "json"\nlog_level = "debug"\n')
    assert read_settings(file, {}) == Wanted(log_format="json", log_level="debug")
    monkeypatch.setenv("QUORATE_LOG_FORMAT", "text")
    assert read_settings(file, {"log_level": "error"}) == Wanted(log_format="text", log_level="error")
    monkeypatch.setenv("QUORATE_LOG_FORMAT", "xml")
    with pytest.raises(BadInput, match="log_format"):
        read_settings(file, {})


def test_an_unknown_setting_is_named(tmp_path: Path) -> None:
    file = tmp_path / "quorate.toml"
    file.write_text("treshold = 3\n")
    with pytest.raises(BadInput, match="treshold"):
        read_settings(file, {})


@pytest.mark.parametrize("text", ["nodes = 'five'", "nodes ="])
def test_a_wrong_file_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "quorate.toml"
    file.write_text(text)
    with pytest.raises(BadInput):
        read_settings(file, {})
