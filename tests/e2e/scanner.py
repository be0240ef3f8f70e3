"""Searches the memory of processes for secrets: raw, hexadecimal and base64, every run of 16 bytes.

Here: reading `/proc/PID/mem` (root only), the locked arena's place in it, the search, and the needles that a
`testing` build of the core wrote (core/src/needles.rs). Not here: which secrets may be where.

How 16 bytes are found at any place: wherever they begin, one aligned word of 8 bytes lies inside them. So each
aligned word of memory is looked up among all words of all needles, and what is found is compared around it.
"""

import base64
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

WORD = 8
RUN = 16
"""Bytes of a secret that must not be found."""
_CHUNK = 1 << 22
SLOT = 64
"""Bytes of a slot of the arena (core/src/memory.rs)."""


@dataclass(frozen=True, slots=True)
class Region:
    """A readable mapping; `is_arena`: locked, left out of dumps, wiped in forks."""

    start: int
    end: int
    name: str
    is_arena: bool


@dataclass(frozen=True, slots=True)
class Found:
    """`length` bytes of `form` of a needle at `address`."""

    needle: bytes
    form: str
    address: int
    length: int
    region: Region

    def __str__(self) -> str:
        where = "the arena" if self.region.is_arena else self.region.name or "anonymous memory"
        return f"{self.length} bytes, {self.form}, at {self.address:#x} in {where}"


def regions(pid: int) -> Iterator[Region]:
    """Mappings that can hold what the process wrote."""
    head: list[str] = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0] and not fields[0].endswith(":"):
            head = fields
        elif fields[0] == "VmFlags:" and {"rd", "wr"} <= set(fields):
            start, end = (int(part, 16) for part in head[0].split("-"))
            arena = {"lo", "dd", "wf"} <= set(fields)
            yield Region(start, end, head[5] if len(head) > 5 else "", arena)


def arena(pid: int) -> set[bytes]:
    """The slots of the locked arena that hold something."""
    slots: set[bytes] = set()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for region in regions(pid):
            if region.is_arena:
                memory.seek(region.start)
                held = memory.read(region.end - region.start)
                slots |= {held[at : at + SLOT] for at in range(0, len(held), SLOT)}
    return {slot for slot in slots if any(slot)}


def kept(directory: Path, pid: int) -> set[bytes]:
    """The secrets that a process on a `testing` build let go."""
    needles = set()
    data = (directory / f"{pid}.needles").read_bytes()
    at = 0
    while at < len(data):
        needles.add(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return needles


def _forms(needle: bytes) -> Iterator[tuple[str, bytes, int]]:
    """(form, its bytes, the length that counts as found)."""
    yield "raw", needle, RUN
    yield "hexadecimal", needle.hex().encode(), 2 * RUN
    yield "hexadecimal", needle.hex().upper().encode(), 2 * RUN
    for shift in range(3):
        # Without the characters at both ends that depend on the neighbours.
        text = base64.b64encode(bytes(shift) + needle).rstrip(b"=")[(0, 2, 3)[shift] : -1]
        yield "base64", text, 4 * RUN // 3


class Search:
    """Built once for many needles, used on many processes."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        self._words: dict[int, list[tuple[bytes, str, bytes, int, int]]] = defaultdict(list)
        for needle in needles:
            for form, text, least in _forms(needle):
                for at in range(len(text) - WORD + 1):
                    word = text[at : at + WORD]
                    if len(set(word)) > 2:  # neither zeroes nor filling
                        key = int.from_bytes(word, "little")
                        self._words[key].append((needle, form, text, at, least))

    def process(self, pid: int) -> list[Found]:
        found: list[Found] = []
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for region in regions(pid):
                for start in range(region.start, region.end, _CHUNK):
                    memory.seek(start)
                    try:
                        chunk = memory.read(min(_CHUNK, region.end - start))
                    except OSError:  # the mapping went away
                        break
                    found += self._chunk(chunk, start, region)
        return found

    def _chunk(self, chunk: bytes, start: int, region: Region) -> Iterator[Found]:
        words = memoryview(chunk[: len(chunk) // WORD * WORD]).cast("Q")
        for word in self._words.keys() & set(words):
            text_word = word.to_bytes(WORD, "little")
            at = chunk.find(text_word)
            while at >= 0:
                for needle, form, text, offset, least in self._words[word]:
                    before = _common(chunk[max(0, at - offset) : at][::-1], text[:offset][::-1])
                    after = _common(chunk[at : at + len(text) - offset], text[offset:])
                    if before + after >= least:
                        yield Found(needle, form, start + at - before, before + after, region)
                at = chunk.find(text_word, at + 1)


def _common(one: bytes, other: bytes) -> int:
    """How many bytes they begin with alike."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
