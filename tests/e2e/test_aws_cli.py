"""The unmodified aws CLI (version 1, from PyPI), told nothing but the variables of `quorate env`."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.fleet import Fleet

AWS = Path(sys.executable).parent / "aws"


@pytest.fixture(scope="module")
def aws(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("home")
    env = {"PATH": os.environ["PATH"], "HOME": str(home), **fleet.env}

    def run(*words: str, fails: int = 0) -> Any:
        command = [sys.executable, str(AWS), *words, "--output", "json"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == fails, done.stderr
        return done.stderr if fails else json.loads(done.stdout or "null")

    return run


def test_encrypt_and_decrypt_a_file(aws: Any, tmp_path: Path) -> None:
    key = aws("kms", "create-key", "--description", "by the CLI")["KeyMetadata"]["KeyId"]
    secret, blob = tmp_path / "secret", tmp_path / "blob"
    secret.write_bytes(b"told to nobody")
    context = ["--encryption-context", "purpose=test"]
    made = aws("kms", "encrypt", "--key-id", key, "--plaintext", f"fileb://{secret}", *context)
    blob.write_bytes(base64.b64decode(made["CiphertextBlob"]))
    opened = aws("kms", "decrypt", "--ciphertext-blob", f"fileb://{blob}", *context)
    assert base64.b64decode(opened["Plaintext"]) == b"told to nobody"
    refused = aws("kms", "decrypt", "--ciphertext-blob", f"fileb://{blob}", fails=255)
    assert "InvalidCiphertextException" in refused


def test_keys_aliases_and_the_caller(aws: Any) -> None:
    key = aws("kms", "create-key")["KeyMetadata"]["KeyId"]
    aws("kms", "create-alias", "--alias-name", "alias/cli", "--target-key-id", key)
    made = aws("kms", "generate-data-key", "--key-id", "alias/cli", "--key-spec", "AES_256")
    assert len(base64.b64decode(made["Plaintext"])) == 32
    assert key in [entry["KeyId"] for entry in aws("kms", "list-keys")["Keys"]]
    assert "alias/cli" in [entry["AliasName"] for entry in aws("kms", "list-aliases")["Aliases"]]
    aws("kms", "delete-alias", "--alias-name", "alias/cli")
    assert aws("sts", "get-caller-identity")["Arn"].endswith(":user/admin")


def test_a_profile_serves_as_well_as_the_environment(fleet: Fleet, tmp_path: Path) -> None:
    files = {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }
    (tmp_path / "config").write_text("[profile other]\nregion = eu-west-1\n")
    type(fleet.cli)(fleet.data, files)("env", "--profile", "quorate")
    assert "[profile other]\nregion = eu-west-1" in (tmp_path / "config").read_text()
    command = [sys.executable, str(AWS), "--profile", "quorate", "kms", "list-keys"]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **files}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
