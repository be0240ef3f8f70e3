"""Figures: what was measured, beside what was wanted; as one table, and as JSON.

Not here: measuring.
"""

import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True)
class Figure:
    """`target`: the most, or with `bound` "least" the least, that the figure may be; None where it only informs.
    `peer`: what it is compared with, and that one's figure; `ratio` of the two."""

    what: str
    value: float
    unit: str
    target: float | None = None
    bound: Literal["most", "least"] = "most"
    peer: str = ""
    ratio: float | None = None

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.bound == "most" else self.value >= self.target

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(figures: list[Figure]) -> str:
    """One line for each figure: what, figure, target, peer, ratio."""
    rows = [("what", "figure", "target", "", "peer", "ratio")]
    for figure in figures:
        sign = "≤" if figure.bound == "most" else "≥"
        rows.append(
            (
                figure.what,
                f"{_number(figure.value)} {figure.unit}",
                "" if figure.target is None else f"{sign} {_number(figure.target)} {figure.unit}",
                {None: "", True: "met", False: "MISSED"}[figure.met],
                figure.peer,
                "" if figure.ratio is None else f"{figure.ratio:.2f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    load = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"load {load:.1f} at the start"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
