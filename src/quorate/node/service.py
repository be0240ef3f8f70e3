"""The node process: opens the module, puts the parts together, and runs until it is told to stop.

Here: the only place of the node that opens a module; start, stop, and what ends the process.
Not here: what the parts do.
"""

from pathlib import Path


async def serve(
    data: Path, name: str, *, log: Path | None = None, passphrase: bytes | None = None
) -> int:
    """Runs node `name` until SIGTERM or SIGINT; returns the process's exit code (1: module or audit log failed).

    Needs uvloop. `log`: a file to log to, rotated; else stderr. Raises `BadInput` and the like when it cannot
    start.
    """
    raise NotImplementedError
