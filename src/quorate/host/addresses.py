"""The addresses that a host is set up with: where it listens, and what others are told.

Here: reading them, and free ports found once, so that a roster's address stays true.
Not here: listening.
"""

import socket

from quorate.errors import BadInput
from quorate.wire.links import Address

ANY_HOST = frozenset({"0.0.0.0", "::"})  # noqa: S104
"""Hosts that mean every address of this machine: to be listened on, never to be told."""


def advertised(listen: Address, told: str | None) -> Address:
    """What other hosts are told: `told`, its port 0 meaning that of `listen`; or else `listen` itself."""
    host, port = (listen.host, listen.port) if told is None else _split(told)
    address = Address(host, port or listen.port)
    if address.host in ANY_HOST:
        raise BadInput(
            f"other hosts cannot reach {address}", remedy="pass --address with this machine's own address"
        )
    return address


def _split(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise BadInput(f"{text[:200]!r} is no address", remedy="write it as HOST:PORT, as in 127.0.0.1:4500")
    return host.removeprefix("[").removesuffix("]"), int(port)


def with_port(text: str) -> Address:
    """The address with a real port: for 0, one that is free now."""
    host, port = _split(text)
    if port:
        return Address(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            return Address(host, int(probe.getsockname()[1]))
    except OSError as why:
        raise BadInput(f"cannot listen on {host}: {why}", remedy="choose an address of this machine") from why
