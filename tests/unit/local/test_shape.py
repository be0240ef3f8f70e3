"""The shape of a fleet: what is asked for against what is there."""

import json
from pathlib import Path

import pytest

from quorate.errors import BadInput, DataDirectoryMismatch, NewerFormat
from quorate.local.layout import Layout, in_order
from quorate.local.shape import DEFAULT, FORMAT, ShapeChanged, Wanted, read_shape, settle, write_shape


def test_nothing_asked_is_the_default_and_then_what_is_there(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    assert settle(layout, Wanted()) == DEFAULT
    first = settle(layout, Wanted(nodes=7, region="eu-west-1"))
    assert (first.nodes, first.threshold) == (7, 4)
    write_shape(layout, first)
    assert settle(layout, Wanted()) == first
    assert settle(layout, Wanted(nodes=7, port=0)) == first


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Wanted(nodes=6), "nodes is 5 there, not 6"),
        (Wanted(threshold=2), "threshold is 3 there, not 2"),
        (Wanted(port=4600), "port is 4500 there, not 4600"),
        (Wanted(region="eu-west-1", account="111111111111"), "region .* account"),
    ],
)
def test_another_shape_is_refused_and_named(wanted: Wanted, told: str, tmp_path: Path) -> None:
    write_shape(Layout.at(tmp_path), DEFAULT)
    with pytest.raises(ShapeChanged, match=told):
        settle(Layout.at(tmp_path), wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(nodes=2),
        Wanted(nodes=256),
        Wanted(threshold=1),
        Wanted(threshold=5),
        Wanted(port=-1),
        Wanted(port=65536),
        Wanted(account="12345"),
        Wanted(region="Frankfurt"),
    ],
)
def test_an_impossible_shape_is_refused(wanted: Wanted, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        settle(Layout.at(tmp_path), wanted)


def test_the_logs_settings_may_change_and_last(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    write_shape(layout, DEFAULT)
    changed = settle(layout, Wanted(log_format="json", log_level="debug"))
    assert (changed.log_format, changed.log_level) == ("json", "debug")
    write_shape(layout, changed)
    assert settle(layout, Wanted(nodes=5)) == changed


def test_a_file_of_before_the_logs_settings_is_read(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    write_shape(layout, DEFAULT)
    kept = json.loads(layout.shape.read_text())
    layout.shape.write_text(json.dumps({name: kept[name] for name in kept if not name.startswith("log_")}))
    assert read_shape(layout) == DEFAULT


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match="not empty"):
        settle(Layout.at(tmp_path), Wanted())


def test_fleet_of_the_first_format_has_the_nodes_that_it_began_with(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    write_shape(layout, DEFAULT)
    found = json.loads(layout.shape.read_text())
    found.pop("names")
    layout.shape.write_text(json.dumps(found | {"format": 1}))
    assert read_shape(layout) == DEFAULT
    assert DEFAULT.node_names[0] == "node-1"


def test_nodes_that_were_added_or_replaced_are_kept_by_name(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    names = ["node-1", "node-3", "node-4", "node-9"]
    write_shape(layout, DEFAULT.with_nodes(names))
    found = read_shape(layout)
    assert found is not None
    assert (found.node_names, found.nodes) == (names, 4)


def test_another_format_is_refused(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    write_shape(layout, DEFAULT)
    layout.shape.write_text(json.dumps(json.loads(layout.shape.read_text()) | {"format": FORMAT + 1}))
    with pytest.raises(NewerFormat, match="written by a newer Quorate"):
        read_shape(layout)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', "{"])
def test_a_damaged_file_is_refused(text: str, tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    layout.shape.write_text(text)
    with pytest.raises((BadInput, DataDirectoryMismatch)):
        read_shape(layout)


def test_numbers_in_names_count_as_numbers() -> None:
    assert sorted(["node-10", "node-2", "far"], key=in_order) == ["far", "node-2", "node-10"]
