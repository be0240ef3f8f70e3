"""Every operation of the API by an unmodified boto3 against real nodes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.e2e.fleet import Fleet, ask_hub, code_of

TEXT = b"a secret of at most 4096 bytes"


@pytest.fixture(scope="module")
def kms(fleet: Fleet) -> Any:
    return fleet.client()


@pytest.fixture
def key(kms: Any) -> str:
    return str(kms.create_key(Description="made by a test")["KeyMetadata"]["KeyId"])


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as failure:
        call()
    return code_of(failure)


def test_a_key_is_described_as_it_was_made(fleet: Fleet, kms: Any) -> None:
    made = kms.create_key(Description="d", Tags=[{"TagKey": "quorate:domain", "TagValue": "default"}])
    seen = kms.describe_key(KeyId=made["KeyMetadata"]["KeyId"])["KeyMetadata"]
    assert seen["Arn"] == made["KeyMetadata"]["Arn"]
    assert seen["Arn"].startswith("arn:aws:kms:us-east-1:000000000000:key/")
    assert (seen["KeySpec"], seen["KeyState"], seen["Description"]) == ("SYMMETRIC_DEFAULT", "Enabled", "d")


def test_an_unknown_domain_is_refused(kms: Any) -> None:
    tags = [{"TagKey": "quorate:domain", "TagValue": "nowhere"}]
    assert refused(lambda: kms.create_key(Tags=tags)) == "TagException"


def test_a_creation_that_is_refused_changes_no_charter(fleet: Fleet) -> None:
    def charter(name: str) -> object:
        return ask_hub(fleet.data / "hub/admin.sock", "GET", f"/v1/domains/{name}/charter")["charter"]

    before = charter("default")
    assert before
    exists = fleet.cli("domain", "create", "default", "--threshold", "2", fails=1)
    assert "exists" in exists.stderr
    assert charter("default") == before
    too_many = fleet.cli("domain", "create", "wide", "--shards", "6", fails=1)
    assert "6 shards need a live holder each, and 5 of 5" in too_many.stderr
    assert charter("wide") is None


def test_keys_are_listed_in_pages(kms: Any, key: str) -> None:
    pages = list(kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 1}))
    listed = [entry["KeyId"] for page in pages for entry in page["Keys"]]
    assert key in listed
    assert len(set(listed)) == len(listed) == len(pages)


def test_encrypt_and_decrypt_by_id_arn_and_alias(kms: Any, key: str) -> None:
    kms.create_alias(AliasName="alias/by-name", TargetKeyId=key)
    arn = kms.describe_key(KeyId=key)["KeyMetadata"]["Arn"]
    for name in (key, arn, "alias/by-name", arn.rpartition(":")[0] + ":alias/by-name"):
        made = kms.encrypt(KeyId=name, Plaintext=TEXT, EncryptionContext={"a": "b", "c": "d"})
        assert len(made["CiphertextBlob"]) - len(TEXT) < 200
        opened = kms.decrypt(
            CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"c": "d", "a": "b"}, KeyId=name
        )
        assert (opened["Plaintext"], opened["KeyId"]) == (TEXT, arn)
    kms.delete_alias(AliasName="alias/by-name")


def test_every_node_decrypts_what_any_node_encrypted(fleet: Fleet, kms: Any, key: str) -> None:
    """A client of its own is a connection of its own, and the kernel spreads them over the nodes."""
    blobs = [fleet.client().encrypt(KeyId=key, Plaintext=TEXT)["CiphertextBlob"] for _ in range(6)]
    assert len(set(blobs)) == 6
    for blob in blobs:
        assert fleet.client().decrypt(CiphertextBlob=blob)["Plaintext"] == TEXT


def test_reencrypt_moves_a_ciphertext_to_another_key_and_context(kms: Any, key: str) -> None:
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=TEXT, EncryptionContext={"a": "1"})["CiphertextBlob"]
    moved = kms.re_encrypt(
        CiphertextBlob=blob,
        SourceEncryptionContext={"a": "1"},
        DestinationKeyId=other,
        DestinationEncryptionContext={"b": "2"},
    )
    assert moved["KeyId"].endswith(other)
    assert moved["SourceKeyId"].endswith(key)
    opened = kms.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"b": "2"})
    assert opened["Plaintext"] == TEXT


def test_data_keys_come_with_and_without_their_plaintext(kms: Any, key: str) -> None:
    made = kms.generate_data_key(KeyId=key, KeySpec="AES_256")
    assert kms.decrypt(CiphertextBlob=made["CiphertextBlob"])["Plaintext"] == made["Plaintext"]
    assert len(kms.generate_data_key(KeyId=key, NumberOfBytes=64)["Plaintext"]) == 64
    alone = kms.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_128")
    assert "Plaintext" not in alone
    assert len(kms.decrypt(CiphertextBlob=alone["CiphertextBlob"])["Plaintext"]) == 16


def test_random_bytes_differ(kms: Any) -> None:
    first, second = (kms.generate_random(NumberOfBytes=32)["Plaintext"] for _ in range(2))
    assert len(first) == len(second) == 32
    assert first != second


def test_aliases_are_made_listed_and_deleted(kms: Any, key: str) -> None:
    kms.create_alias(AliasName="alias/one", TargetKeyId=key)
    assert (
        refused(lambda: kms.create_alias(AliasName="alias/one", TargetKeyId=key)) == "AlreadyExistsException"
    )
    assert [alias["AliasName"] for alias in kms.list_aliases(KeyId=key)["Aliases"]] == ["alias/one"]
    kms.delete_alias(AliasName="alias/one")
    assert kms.list_aliases(KeyId=key)["Aliases"] == []
    assert refused(lambda: kms.delete_alias(AliasName="alias/one")) == "NotFoundException"


def test_a_disabled_key_and_one_that_waits_for_deletion_do_nothing(kms: Any, key: str) -> None:
    blob = kms.encrypt(KeyId=key, Plaintext=TEXT)["CiphertextBlob"]
    kms.disable_key(KeyId=key)
    assert refused(lambda: kms.encrypt(KeyId=key, Plaintext=TEXT)) == "DisabledException"
    assert refused(lambda: kms.decrypt(CiphertextBlob=blob)) == "DisabledException"
    kms.enable_key(KeyId=key)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == TEXT
    kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    assert refused(lambda: kms.decrypt(CiphertextBlob=blob)) == "KMSInvalidStateException"
    kms.cancel_key_deletion(KeyId=key)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    kms.enable_key(KeyId=key)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == TEXT


def test_sts_names_the_caller_on_the_same_endpoint(fleet: Fleet) -> None:
    seen = fleet.client("sts").get_caller_identity()
    assert (seen["Account"], seen["Arn"]) == ("000000000000", "arn:aws:iam::000000000000:user/admin")


def test_what_cannot_be_opened_says_so_in_awss_words(kms: Any, key: str) -> None:
    blob = kms.encrypt(KeyId=key, Plaintext=TEXT, EncryptionContext={"a": "b"})["CiphertextBlob"]
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    context = {"a": "b"}
    cases = {
        "wrong context": (blob, {"a": "c"}, None, "InvalidCiphertextException"),
        "no context": (blob, {}, None, "InvalidCiphertextException"),
        "other case": (blob, {"A": "b"}, None, "InvalidCiphertextException"),
        "altered": (blob[:-1] + bytes([blob[-1] ^ 1]), context, None, "InvalidCiphertextException"),
        "truncated": (blob[:-1], context, None, "InvalidCiphertextException"),
        "cut short": (blob[:20], context, None, "InvalidCiphertextException"),
        "another key": (blob, context, other, "IncorrectKeyException"),
    }
    for what, (ciphertext, given, key_id, code) in cases.items():
        options = {"CiphertextBlob": ciphertext, "EncryptionContext": given}
        if key_id is not None:
            options["KeyId"] = key_id
        assert refused(partial(kms.decrypt, **options)) == code, what
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"] == TEXT


def test_n79_what_is_too_large_or_unknown_is_refused(kms: Any, key: str) -> None:
    assert kms.encrypt(KeyId=key, Plaintext=bytes(4096))["CiphertextBlob"]
    assert refused(lambda: kms.encrypt(KeyId=key, Plaintext=bytes(4097))) == "ValidationException"
    missing = "00000000-0000-4000-8000-000000000000"
    assert refused(lambda: kms.encrypt(KeyId=missing, Plaintext=b"x")) == "NotFoundException"
    assert refused(lambda: kms.describe_key(KeyId="alias/nobody")) == "NotFoundException"
