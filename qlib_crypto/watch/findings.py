"""What somebody looked at: good or not, what was seen, and what to do. Doctor, health and alerts speak in these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How good it is, best first."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"

    @property
    def rank(self) -> int:
        """0 for the best."""
        return tuple(Level).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    key
        What it is about, the same in every look: `disk`, `okx lag`. Alerts are told once a key.
    level
        Good or not.
    seen
        What was seen, with its numbers.
    do
        What to do about it; empty when nothing is to be done.

    """

    key: str
    level: Level
    seen: str
    do: str = ""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "level": str(self.level)}


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level among them; OK when there are none."""
    return max((f.level for f in findings), key=lambda level: level.rank, default=Level.OK)


def ago(seconds: float | None) -> str:
    """`40 s`, `12 min`, `3 h`, `2 days`; `ever` for None."""
    if seconds is None:
        return "ever"
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
