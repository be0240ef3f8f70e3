"""Format numbers of the files that processes write (docs/formats.md).

Here: which error an unknown number is. Not here: what is in a file.
"""

from pathlib import Path

from quorate.errors import DataDirectoryMismatch, NewerFormat


def check(path: Path, found: object, reads: int) -> None:
    """`found`: the number that stands in the file at `path`; `reads`: the one format that this build reads.

    Raises `NewerFormat`; `DataDirectoryMismatch` for what no release has written.
    """
    if found == reads:
        return
    if isinstance(found, int) and found > reads:
        raise NewerFormat(path, found=found, reads=reads)
    raise DataDirectoryMismatch(path.parent, found=f"format {found} of {path.name}", wanted=f"format {reads}")
