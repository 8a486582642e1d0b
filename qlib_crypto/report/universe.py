"""How the market of a run was chosen, and what that means for believing its past."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qlib_crypto.clock import iso
from qlib_crypto.provider.instruments import MEMBERS
from qlib_crypto.workflow.data import market_spans

__all__ = ["chosen", "rule", "survivorship"]

_ABSENT = (
    "Contracts delisted before collecting began are absent, and a list of today's survivors makes the past look better "
    "than it was."
)


def chosen(provider: Path, market: str) -> dict[str, Any]:
    """What the provider's market files say of a market; empty for one that has no file.

    ================ ===============================================================================================
    key              value
    ================ ===============================================================================================
    market           its name
    listed           instruments in it at any time
    ranked           how many of them were members of a ranking at any time
    first_ranking    when the first ranking of one of them was made, UTC, None without one
    point_in_time    whether an instrument is in the market only while it was a member
    ================ ===============================================================================================
    """
    folder = provider / "instruments"
    path, members = folder / f"{market}.txt", folder / f"{MEMBERS}.txt"
    if not path.is_file():
        return {}
    names = market_spans(path)
    ranked = {name: span for name, span in market_spans(members).items() if name in names} if members.is_file() else {}
    return {
        "market": market,
        "listed": len(names),
        "ranked": len(ranked),
        "first_ranking": iso(min(first for first, _ in ranked.values())) if ranked else None,
        "point_in_time": market.startswith(MEMBERS),
    }


def rule(universe: Mapping[str, Any]) -> str:
    """In words who is in the market and when that was decided."""
    if not universe:
        return "a list of instruments"
    first = str(universe["first_ranking"])[:16]
    if universe["point_in_time"]:
        return f"members of the ranking by absolute funding rate, each while it was one; first ranked {first} UTC"
    stored = "every instrument with stored bars, from its first bar to its last"
    if not universe["ranked"]:
        return f"{stored}; none of them was ever ranked"
    return f"{stored}; {_ranked(universe)} are members of the ranking by absolute funding rate, first made {first} UTC"


def survivorship(universe: Mapping[str, Any], test_start: str) -> str:
    """The warning that is true of this market; `test_start` is ISO 8601 UTC."""
    if universe and universe["point_in_time"]:
        return (
            "Members are those of each time, so none was picked with hindsight. Contracts whose data were not "
            "collected are absent all the same."
        )
    if universe and universe["ranked"] and str(universe["first_ranking"]) > test_start:
        return (
            f"Chosen with hindsight: {_ranked(universe)} are from a ranking first made "
            f"{str(universe['first_ranking'])[:16]} UTC, after the test began. {_ABSENT}"
        )
    return f"The universe holds only instruments whose data were collected. {_ABSENT}"


def _ranked(universe: Mapping[str, Any]) -> str:
    return "all" if universe["ranked"] == universe["listed"] else f"{universe['ranked']} of {universe['listed']}"
