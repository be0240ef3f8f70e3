"""What make.sh puts into the fleet that it made: a key with an alias, ciphertexts, an access key.

Here: calls of the AWS API and of the command line alone, as an application and an operator make them.
"""

import base64
import json
import subprocess
import sys
from pathlib import Path

import boto3

from quorate import _core

CONTEXT = {"tenant": "17", "purpose": "upgrade"}
PLAINTEXT = b"written before the upgrade"


def main(data: str, out: str) -> None:
    kms = boto3.client("kms")
    key = kms.create_key(
        Description="made before the upgrade", Tags=[{"TagKey": "made", "TagValue": "before"}]
    )
    key_id = key["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/before", TargetKeyId=key_id)
    disabled = kms.create_key(Description="disabled before the upgrade")["KeyMetadata"]["KeyId"]
    kms.disable_key(KeyId=disabled)
    blob = kms.encrypt(KeyId="alias/before", Plaintext=PLAINTEXT, EncryptionContext=CONTEXT)
    data_key = kms.generate_data_key(KeyId=key_id, KeySpec="AES_256")
    command = ["quorate", "access", "create", "--user", "before", "--role", "user", "--json", "--data", data]
    access = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    command = ["quorate", "status", "--json", "--data", data]
    status = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    expected = {
        "version": _core.build_info()["version"],
        "fleet": status["fleet"]["id"],
        "key": key_id,
        "alias": "alias/before",
        "disabled": disabled,
        "plaintext": base64.b64encode(PLAINTEXT).decode(),
        "context": CONTEXT,
        "blob": base64.b64encode(blob["CiphertextBlob"]).decode(),
        "data_key": base64.b64encode(data_key["Plaintext"]).decode(),
        "data_key_blob": base64.b64encode(data_key["CiphertextBlob"]).decode(),
        "access": access,
    }
    Path(out).write_text(json.dumps(expected, indent=1) + "\n")


main(*sys.argv[1:])
