"""Ports of this machine.

Here: whether one is free, a free one, whether somebody accepts.
Not here: listening; each process does that for itself.
"""

import asyncio
import errno
import socket
import time

from quorate.errors import BadInput, PortInUse

HOST = "127.0.0.1"


def probe(port: int, *, host: str = HOST) -> int:
    """Checks that nobody listens on `port`, and returns it; 0 finds a free one. Raises `PortInUse`, `BadInput`.

    Without SO_REUSEPORT: with it, a listener of another program that also sets it would not be seen.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probed:
        probed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probed.bind((host, port))
            probed.listen(1)
        except OSError as why:
            if why.errno == errno.EADDRINUSE:
                raise PortInUse(host, port) from why
            raise BadInput(
                f"{host}:{port} cannot be listened on: {why.strerror}", remedy="choose another port"
            ) from why
        return int(probed.getsockname()[1])


async def until_accepting(port: int, *, deadline: float, host: str = HOST) -> bool:
    """True once somebody accepts on the port, False when nobody does until `deadline` (monotonic clock)."""
    while time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return True
    return False
