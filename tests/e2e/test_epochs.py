"""Epochs that change under a running fleet: nobody notices, nothing is lost, nothing old is left."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load
import pytest
from tests.e2e.fleet import Fleet, until

from quorate.client import AdminClient

CONTEXT = {"tenant": "17"}


@pytest.fixture(scope="module")
def seven() -> Iterator[Fleet]:
    """Seven nodes; the domain `default` is 3 of 7."""
    with tempfile.TemporaryDirectory(prefix="quorate-") as where:
        fleet = Fleet(Path(where) / "data")
        try:
            yield fleet.up("--nodes", "7", "--threshold", "3")
        finally:
            fleet.down()


def create(fleet: Fleet, name: str, *options: str) -> dict[str, Any]:
    made: dict[str, Any] = fleet.cli.json("domain", "create", name, *options)
    return made


def domain(fleet: Fleet, name: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet.cli.json("domain", "show", name)
    return found


def until_settled(fleet: Fleet, name: str) -> dict[str, Any]:
    """Every member holds the current epoch, and nothing earlier is left."""

    def settled() -> bool:
        shown = domain(fleet, name)
        return not shown["waits_for"] and shown["earlier"] == []

    until(settled, what=f"{name} settled")
    return domain(fleet, name)


def sealed(fleet: Fleet, name: str, plaintext: bytes) -> bytes:
    kms = fleet.client()
    key = kms.create_key(Tags=[{"TagKey": "quorate:domain", "TagValue": name}])["KeyMetadata"]["KeyId"]
    blob: bytes = kms.encrypt(KeyId=key, Plaintext=plaintext, EncryptionContext=CONTEXT)["CiphertextBlob"]
    return blob


def opened(fleet: Fleet, blob: bytes) -> bytes:
    found: bytes = fleet.client().decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"]
    return found


def members(shown: dict[str, Any]) -> dict[int, str]:
    return {member["index"]: member["node"] for member in shown["members"]}


def test_clients_do_not_notice_twenty_refreshes(seven: Fleet) -> None:
    """Leases are short, so that sessions go on all the time."""
    create(seven, "busy", "--threshold", "3", "--shards", "5", "--lease-uses", "40")
    env = seven.env
    endpoint = load.Endpoint(
        env["AWS_ENDPOINT_URL_KMS"],
        env["AWS_ACCESS_KEY_ID"],
        env["AWS_SECRET_ACCESS_KEY"],
        Path(env["AWS_CA_BUNDLE"]),
    )
    operations = load.three(endpoint, "busy")

    hub, refreshed = AdminClient(seven.data / "hub/admin.sock"), 0
    seconds: list[float] = []
    wrong: list[str] = []

    async def refresh() -> None:
        nonlocal refreshed
        while True:
            await hub.refresh("busy")
            refreshed += 1

    async def run() -> None:
        refreshing = asyncio.create_task(refresh())
        while len(seconds) < 10_000 or refreshed < 20:
            measured = await load.run(endpoint, operations, connections=8, seconds=2)
            seconds.extend(measured.seconds)
            wrong.extend(measured.wrong)
            assert not refreshing.done(), refreshing.exception()
        refreshing.cancel()

    asyncio.run(run())
    assert wrong == []
    assert until_settled(seven, "busy")["epoch"] >= 20


def test_a_node_that_missed_five_epochs_is_repaired_when_it_returns(seven: Fleet) -> None:
    create(seven, "late", "--threshold", "3", "--shards", "5")
    blob = sealed(seven, "late", b"kept")
    absent = members(domain(seven, "late"))[5]
    seven.kill(absent)
    for _ in range(5):
        seven.cli("domain", "refresh", "late")
    shown = domain(seven, "late")
    assert (shown["epoch"], shown["live"], shown["waits_for"]) == (6, 4, [absent])
    assert all(each["not_erased"] == 5 for each in shown["earlier"]), "nobody erases what one may still need"
    seven.start(absent)
    shown = until_settled(seven, "late")
    assert (shown["epoch"], shown["live"], shown["lagging"]) == (7, 5, [])
    seven.lock("late")
    assert opened(seven, blob) == b"kept"


def test_with_two_nodes_down_a_refresh_waits_and_service_goes_on(seven: Fleet) -> None:
    create(seven, "thin", "--threshold", "3", "--shards", "5")
    blob = sealed(seven, "thin", b"kept")
    down = [members(domain(seven, "thin"))[index] for index in (4, 5)]
    for node in down:
        seven.kill(node)
    refused = seven.cli("domain", "refresh", "thin", fails=1).stderr
    assert "waits for 4 members, and 3 are live" in refused
    seven.lock("thin")
    assert opened(seven, blob) == b"kept"
    for node in down:
        seven.start(node)
    seven.until_live(5, "thin")
    seven.cli("domain", "refresh", "thin")
    assert until_settled(seven, "thin")["epoch"] == 2


def test_a_domain_grows_and_shrinks_within_its_charter(seven: Fleet) -> None:
    create(seven, "wide", "--threshold", "3", "--shards", "5", "--floor", "2")
    blob = sealed(seven, "wide", b"kept")
    seven.cli("domain", "reshare", "wide", "--threshold", "4", "--shards", "7")
    shown = until_settled(seven, "wide")
    assert (shown["epoch"], shown["threshold"], shown["shards"], shown["live"]) == (2, 4, 7, 7)
    seven.lock("wide")
    assert opened(seven, blob) == b"kept"
    seven.cli("domain", "reshare", "wide", "--threshold", "2", "--nodes", "node-2,node-4,node-7")
    shown = until_settled(seven, "wide")
    assert (shown["threshold"], sorted(members(shown).values())) == (2, ["node-2", "node-4", "node-7"])
    seven.lock("wide")
    assert opened(seven, blob) == b"kept"


def test_n66_modules_refuse_a_threshold_below_the_charters_floor(seven: Fleet) -> None:
    create(seven, "firm", "--threshold", "3", "--shards", "5")
    refused = seven.cli("domain", "reshare", "firm", "--threshold", "2", "--shards", "3", fails=1).stderr
    assert "does not allow so low a threshold" in refused
    assert domain(seven, "firm")["epoch"] == 1


def test_a_killed_node_is_replaced_by_another(seven: Fleet) -> None:
    create(seven, "moved", "--threshold", "3", "--shards", "5")
    blob = sealed(seven, "moved", b"kept")
    lost = members(domain(seven, "moved"))[2]
    seven.kill(lost)
    stay = [f"node-{n}" for n in range(1, 8) if f"node-{n}" != lost][:5]
    seven.cli("domain", "reshare", "moved", "--nodes", ",".join(stay))
    shown = domain(seven, "moved")
    assert sorted(members(shown).values()) == stay
    until(lambda: domain(seven, "moved")["erasure_debt"] == 1, what="all but the lost node have erased")
    assert domain(seven, "moved")["earlier"] == [{"epoch": 1, "not_erased": 1, "retired": True}]
    seven.start(lost)
    until_settled(seven, "moved")
    seven.lock("moved")
    assert opened(seven, blob) == b"kept"


def test_domains_are_refreshed_on_time(seven: Fleet) -> None:
    create(seven, "brisk", "--threshold", "2", "--shards", "3", "--refresh-every", "1s")
    until(lambda: domain(seven, "brisk")["epoch"] >= 3, what="two refreshes")
    seven.cli("domain", "set", "brisk", "--refresh-every", "0")
    shown = until_settled(seven, "brisk")
    assert (shown["next_refresh"], shown["refresh_every"]) == (None, 0)


def test_an_epoch_that_loses_nodes_right_after_its_commit_is_rebuilt_from_the_retired_one(
    seven: Fleet,
) -> None:
    """One member is away, so that nothing is erased yet; then two that have the new epoch are lost for good."""
    create(seven, "frail", "--threshold", "3", "--shards", "5")
    blob = sealed(seven, "frail", b"kept")
    held = members(domain(seven, "frail"))
    seven.kill(held[5])
    seven.cli("domain", "refresh", "frail")
    for index in (1, 2):
        seven.kill(held[index])
    seven.start(held[5])
    # Epoch 2 is with two nodes, epoch 1 with three: what takes three is dealt from epoch 1.
    spare = [f"node-{n}" for n in range(1, 8) if f"node-{n}" not in (held[1], held[2])]
    until(lambda: domain(seven, "frail")["lagging"] == [held[5]], what="the third one is back")
    seven.cli("domain", "reshare", "frail", "--nodes", ",".join(spare))
    shown = domain(seven, "frail")
    assert (shown["epoch"], sorted(members(shown).values())) == (3, spare)
    seven.lock("frail")
    assert opened(seven, blob) == b"kept"
    for index in (1, 2):
        seven.start(held[index])
    until_settled(seven, "frail")


def test_a_lost_node_is_replaced_by_a_new_one_with_one_command(own_fleet: Fleet) -> None:
    blob = sealed(own_fleet, "default", b"kept")
    refused = own_fleet.cli("node", "retire", "node-2", fails=1).stderr
    assert "node-2 holds shards of default" in refused
    own_fleet.kill("node-2")
    done = own_fleet.cli.json("node", "replace", "node-2")
    assert (done["name"], done["by"]) == ("node-2", "node-6")
    shown = domain(own_fleet, "default")
    assert sorted(members(shown).values()) == ["node-1", "node-3", "node-4", "node-5", "node-6"]
    states = {node["name"]: node["state"] for node in own_fleet.status()["nodes"]}
    assert (states["node-6"], states["node-2"]) == ("ready", "retired")
    own_fleet.lock()
    assert opened(own_fleet, blob) == b"kept"
    # The fleet starts again as it is now, and a name never comes back.
    own_fleet.cli("down")
    own_fleet.up()
    own_fleet.until_live(5)
    assert own_fleet.cli.json("node", "add")["name"] == "node-7"
    assert opened(own_fleet, blob) == b"kept"
    own_fleet.cli("node", "retire", "node-7")
