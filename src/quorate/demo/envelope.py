"""A file under a data key: envelope encryption as any client of a KMS does it.

Here: AES-256-GCM over chunks, and the file's format. Not here: where the data key comes from.

The format: `QENV1\\n`, length of the wrapped data key (2 bytes, big-endian), the wrapped key, 7 bytes of nonce
prefix, then chunks of 1 MiB of plaintext, each followed by its tag. A chunk's nonce is prefix ‖ its number (4
bytes) ‖ 1 if it is the last, else 0 (the STREAM construction: Hoang, Reyhanitabar, Rogaway, Vizár 2015), so
that a chunk that is moved, left out or cut off is noticed.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quorate.errors import BadInput

_MAGIC = b"QENV1\n"
_CHUNK = 1 << 20
_TAG = 16
_PREFIX = 7


def encrypt_file(source: Path, target: Path, data_key: bytes, wrapped: bytes) -> None:
    """`data_key`: 32 bytes; `wrapped`: the same, as the KMS encrypted it, at most 65,535 bytes."""
    prefix = os.urandom(_PREFIX)
    cipher = AESGCM(data_key)
    with source.open("rb") as read, target.open("wb") as write:
        write.write(_MAGIC + len(wrapped).to_bytes(2, "big") + wrapped + prefix)
        for number, (chunk, last) in enumerate(_chunks(read, _CHUNK)):
            write.write(cipher.encrypt(_nonce(prefix, number, last), chunk, None))


def decrypt_file(source: Path, target: Path, unwrap: Callable[[bytes], bytes]) -> None:
    """`unwrap` has the KMS decrypt the data key. Raises `BadInput` for another format.

    Raises `cryptography.exceptions.InvalidTag` when anything was altered.
    """
    with source.open("rb") as read:
        if read.read(len(_MAGIC)) != _MAGIC:
            raise BadInput(f"{source} is no envelope of this tour", remedy="use the file that step 3 wrote")
        wrapped = read.read(int.from_bytes(read.read(2), "big"))
        prefix = read.read(_PREFIX)
        cipher = AESGCM(unwrap(wrapped))
        with target.open("wb") as write:
            for number, (chunk, last) in enumerate(_chunks(read, _CHUNK + _TAG)):
                write.write(cipher.decrypt(_nonce(prefix, number, last), chunk, None))


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes([last])


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bool]]:
    """(chunk, whether it is the last); an empty file is one empty chunk."""
    chunk = file.read(size)
    while True:
        following = file.read(size)
        yield chunk, not following
        if not following:
            return
        chunk = following


def find_file(least: int = 10_000_000) -> Path:
    """A regular file of this machine of at least `least` bytes, in the places where such files are usual."""
    places = [
        Path(os.__file__).parent,
        Path("/usr/lib"),
        Path("/usr/local/lib"),
        Path("/usr/bin"),
        Path("/opt"),
    ]
    for place in places:
        for directory, _, names in os.walk(place):
            for name in sorted(names):
                path = Path(directory, name)
                if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                    continue
                if path.stat().st_size >= least:
                    return path
    raise BadInput("no file of 10 MB was found on this machine", remedy="name one: `make demo FILE=…`")
