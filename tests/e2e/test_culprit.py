"""A holder that gives wrong shards (a build with the core's `testing` feature) is named, and does no harm."""

import os

import pytest
from tests.e2e.fleet import Fleet, until

TESTING = os.environ.get("QUORATE_TESTING_PATH", "")


@pytest.mark.skipif(not TESTING, reason="needs the core's `testing` build, which `make test` makes")
def test_n07_a_wrong_shard_names_its_holder_and_a_substitute_answers(own_fleet: Fleet) -> None:
    kms = own_fleet.client()
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"canary")["CiphertextBlob"]
    own_fleet.kill("node-5")
    own_fleet.kill("node-4")
    own_fleet.start("node-4", PYTHONPATH=TESTING, QUORATE_TESTING_CORRUPT_ANSWERS="1")
    own_fleet.until_live(4)

    def culprit() -> dict[str, object] | None:
        """One cold Decrypt more; the session, if node-4 was called and found out."""
        own_fleet.lock()
        assert own_fleet.client().decrypt(CiphertextBlob=blob)["Plaintext"] == b"canary"
        return next((session for session in own_fleet.sessions(5) if session["culprits"]), None)

    session = until(culprit, 60, what="a session that calls node-4")
    assert session["culprits"] == [{"index": 4, "node": "node-4"}]
    assert session["outcome"] == "combined"
    assert len(session["called"]) == 4  # type: ignore[arg-type]
    log = (own_fleet.data / "nodes" / str(session["requester"]) / "audit.log").read_text()
    assert '"culprits":["4:node-4"]' in log


@pytest.mark.skipif(not TESTING, reason="needs the core's `testing` build, which `make test` makes")
def test_the_plain_build_refuses_to_give_wrong_shards(own_fleet: Fleet) -> None:
    own_fleet.cli("node", "stop", "node-3")
    corrupting = own_fleet.cli.env | {"QUORATE_TESTING_CORRUPT_ANSWERS": "1"}
    corrupting.pop("PYTHONPATH", None)
    plain = type(own_fleet.cli)(own_fleet.data, corrupting)
    refused = plain("node", "serve", "node-3", fails=1)
    assert "cannot corrupt its answers" in refused.stderr
