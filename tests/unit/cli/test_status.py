"""`quorate status`: the contract's JSON, whether anything runs or not."""

import json
from pathlib import Path
from typing import Any

from cryptography import x509
from tests.unit.wire.certificates import node_files, root

from quorate.local.layout import Layout
from quorate.local.operator import create_key
from quorate.local.status import compose

DOMAIN = {
    "name": "default", "mode": "reconstruct", "threshold": 3, "shards": 5, "epoch": 1, "live": 5, "margin": 2,
    "erasure_debt": 0, "state": "ready",
    "members": [{"index": index, "node": f"node-{index}"} for index in range(1, 6)],
}  # fmt: skip
FLEET = {"id": "ab" * 16, "region": "us-east-1", "account": "000000000000"}


def run(name: str, state: str = "ready", epoch: int = 1) -> dict[str, Any]:
    return {
        "pid": 1000 + int(name[-1]), "name": name, "role": "holder", "zone": "zone-1", "state": state,
        "fleet_port": 1, "kms": "127.0.0.1:4500", "hub": False,
        "domains": [{"name": "default", "epoch": epoch, "lease_seconds": None}],
    }  # fmt: skip


def of_five(path: Path) -> Layout:
    layout = Layout.at(path)
    key = create_key(path / "elsewhere", region="us-east-1", account="000000000000")
    for number in range(1, 6):
        (layout.node(f"node-{number}") / "module").mkdir(parents=True)
    layout.hub.mkdir()
    (layout.hub / "fleet-info").write_bytes(key.fleet_info)
    layout.domains.write_text(json.dumps({"format": 1, "domains": [DOMAIN]}))
    return layout


def test_with_everything_down_the_shape_is_the_contracts(tmp_path: Path, quorate: Any) -> None:
    layout = of_five(tmp_path)
    (layout.node("node-1") / "run.json").write_text(json.dumps(run("node-1") | {"pid": 2**22 + 1}))
    got = quorate("status", "--json", "--data", str(tmp_path))
    assert got.code == 0
    found = json.loads(got.out)
    assert found["fleet"].keys() == FLEET.keys()
    assert len(bytes.fromhex(found["fleet"]["id"])) == 16
    assert (found["fleet"]["region"], found["fleet"]["account"]) == ("us-east-1", "000000000000")
    assert found["hub"] == {
        "pid": None,
        "state": "down",
        "certificate_expires": None,
        "memory_locked": None,
        "messages": None,
    }
    assert [node["name"] for node in found["nodes"]] == [f"node-{number}" for number in range(1, 6)]
    for node in found["nodes"]:
        assert node.keys() >= {"name", "pid", "role", "state", "zone"}
        assert (node["pid"], node["state"], node["role"]) == (None, "down", "holder")
    (domain,) = found["domains"]
    assert (domain["live"], domain["margin"], domain["state"]) == (0, -3, "unavailable")
    assert domain["threshold"] == 3
    assert domain["erasure_debt"] == 0


def test_certificates_are_read_from_their_files_when_nothing_runs(tmp_path: Path, quorate: Any) -> None:
    layout = of_five(tmp_path)
    made = node_files(tmp_path / "made", root(), "node-2")
    for directory in (layout.hub, layout.node("node-2")):
        (directory / "tls").mkdir()
        (directory / "tls" / "leaf.pem").write_bytes(made.cert_chain.read_bytes())
    leaf = x509.load_pem_x509_certificate(made.cert_chain.read_bytes())
    ends = leaf.not_valid_after_utc.isoformat().replace("+00:00", "Z")
    found = json.loads(quorate("status", "--json", "--data", str(tmp_path)).out)
    assert found["hub"]["certificate_expires"] == ends
    assert {node["name"]: node["certificate_expires"] for node in found["nodes"]} == {
        "node-1": None, "node-2": ends, "node-3": None, "node-4": None, "node-5": None,
    }  # fmt: skip
    assert quorate("status", "--data", str(tmp_path)).out.count(ends) == 2


def test_a_stranger_with_the_same_pid_is_not_our_node(tmp_path: Path, quorate: Any) -> None:
    import os

    layout = of_five(tmp_path)
    # This very process lives, but it is no `quorate … serve`.
    (layout.node("node-1") / "run.json").write_text(json.dumps(run("node-1") | {"pid": os.getpid()}))
    found = json.loads(quorate("status", "--json", "--data", str(tmp_path)).out)
    assert found["nodes"][0]["pid"] is None


def test_without_the_hub_living_members_count(tmp_path: Path) -> None:
    layout = of_five(tmp_path)
    runs = {f"node-{number}": None for number in range(1, 6)} | {
        "node-1": run("node-1"), "node-2": run("node-2", "lagging"), "node-3": run("node-3", epoch=2),
        "node-4": run("node-4"),
    }  # fmt: skip
    found = compose(layout, None, runs, None)
    (domain,) = found["domains"]
    assert (domain["live"], domain["margin"], domain["epoch"], domain["state"]) == (3, 0, 2, "degraded")


def test_the_hubs_word_is_taken_when_it_speaks(tmp_path: Path) -> None:
    layout = of_five(tmp_path)
    said = {
        "fleet": FLEET,
        "hub": {"pid": 7, "state": "ready", "term": 1},
        "nodes": [
            {"name": "node-1", "role": "holder", "zone": "a", "state": "lagging", "live": True},
            {"name": "far", "role": "backup", "zone": "b", "state": "ready", "live": True},
        ],
        "domains": [DOMAIN],
    }
    found = compose(layout, {"pid": 7, "state": "ready"}, {"node-1": run("node-1")}, said)
    assert found["hub"] == {
        "pid": 7,
        "state": "ready",
        "certificate_expires": None,
        "memory_locked": None,
        "messages": None,
    }
    states = {node["name"]: (node["state"], node["pid"], node["role"]) for node in found["nodes"]}
    assert states == {"node-1": ("lagging", 1001, "holder"), "far": ("ready", None, "backup")}
    assert found["domains"] == [DOMAIN]


def test_a_running_hub_that_says_nothing_is_silent(tmp_path: Path) -> None:
    found = compose(of_five(tmp_path), {"pid": 7, "state": "ready"}, {}, None)
    assert found["hub"] == {
        "pid": 7,
        "state": "silent",
        "certificate_expires": None,
        "memory_locked": None,
        "messages": None,
    }


def test_status_says_that_the_operator_key_is_here(tmp_path: Path, quorate: Any) -> None:
    of_five(tmp_path)
    assert "operator key" not in quorate("status", "--data", str(tmp_path)).err
    assert quorate("operator", "init", "--data", str(tmp_path)).code == 0
    assert "operator key lies on this machine" in quorate("status", "--data", str(tmp_path)).err
    assert json.loads(quorate("status", "--json", "--data", str(tmp_path)).out)["operator_key"]["here"]


def test_nothing_here_is_an_error(tmp_path: Path, quorate: Any) -> None:
    got = quorate("status", "--data", str(tmp_path))
    assert (got.code, got.out) == (1, "")
    assert "quorate up" in got.err
