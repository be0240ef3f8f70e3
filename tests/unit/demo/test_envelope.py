"""The tour's envelope: what comes back, and what is noticed."""

from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag

from quorate.demo.envelope import decrypt_file, encrypt_file
from quorate.errors import BadInput

KEY = bytes(range(32))
WRAPPED = b"wrapped"
HEADER = 6 + 2 + len(WRAPPED) + 7
CHUNK = (1 << 20) + 16


def sealed(path: Path, size: int) -> tuple[Path, bytes]:
    plain = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    (path / "plain").write_bytes(plain)
    encrypt_file(path / "plain", path / "sealed", KEY, WRAPPED)
    return path / "sealed", plain


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 19])
def test_a_file_comes_back_byte_for_byte(size: int, tmp_path: Path) -> None:
    source, plain = sealed(tmp_path, size)
    decrypt_file(source, tmp_path / "opened", {WRAPPED: KEY}.__getitem__)
    assert (tmp_path / "opened").read_bytes() == plain


@pytest.mark.parametrize(
    "alter",
    [
        lambda body: body[:-CHUNK],
        lambda body: body[CHUNK : 2 * CHUNK] + body[:CHUNK] + body[2 * CHUNK :],
        lambda body: body[CHUNK:],
        lambda body: bytes([body[0] ^ 1]) + body[1:],
    ],
    ids=["cut off", "swapped", "left out", "altered"],
)
def test_an_altered_file_is_noticed(alter: object, tmp_path: Path) -> None:
    source, _ = sealed(tmp_path, 3 << 20)
    content = source.read_bytes()
    assert callable(alter)
    source.write_bytes(content[:HEADER] + alter(content[HEADER:]))
    with pytest.raises(InvalidTag):
        decrypt_file(source, tmp_path / "opened", lambda _: KEY)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"something else")
    with pytest.raises(BadInput):
        decrypt_file(tmp_path / "plain", tmp_path / "opened", lambda _: KEY)
