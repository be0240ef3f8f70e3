"""The list of nodes, as text."""

from typing import Any

from quorate.cli.node import nodes_table


def node(name: str, convicted: str | None) -> dict[str, Any]:
    fields = dict.fromkeys(("pid", "role", "state", "zone", "kms", "certificate_expires"))
    return {**fields, "name": name, "convicted": convicted}


def test_n95_node_that_is_convicted_is_named_with_what_to_do() -> None:
    text = nodes_table([node("node-1", None), node("node-2", "false_complaint")])
    assert "node-2 is convicted (false_complaint)" in text
    assert "quorate node pardon" in text
    assert "convicted" not in nodes_table([node("node-1", None)])
