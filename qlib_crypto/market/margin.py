"""Margin tiers of linear perpetuals: how much a venue wants to see behind a position, by its size, and since when.

Sources: OKX `/api/v5/public/position-tiers` (sizes in contracts, one rate for the whole position), Binance
`/fapi/v1/leverageBracket` (notional, each rate for its own part, so that margin has no jumps), the latter as ccxt's
`fetch_leverage_tiers` writes it.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from qlib_crypto.errors import SchemaError
from qlib_crypto.symbols import QUOTES, Instrument, Venue

#: What is closer than this is the same bound, or the same deduction: venues round to whole coins.
_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class MarginTier:
    """What holds for positions of a size in (floor, cap]; sizes are in the unit of the table.

    Attributes
    ----------
    maintenance_rate
        Fraction of the notional at mark that must stay.
    max_leverage
        Notional over initial margin at most.
    deduction
        Quote coins less than rate x notional (Binance's `cum`); 0 where the rate holds for the whole position.

    """

    floor: float
    cap: float
    maintenance_rate: float
    max_leverage: float
    deduction: float = 0.0


@dataclass(frozen=True, slots=True)
class MarginTable:
    """The tiers of one instrument, smallest first, without holes.

    Attributes
    ----------
    by_quantity
        Sizes are base coins, otherwise quote coins of notional at mark.
    source
        `venue`, `file` or `assumed`.

    Raises
    ------
    SchemaError
        When tiers are missing, overlap, leave a hole, or have rates that cannot be.

    """

    tiers: tuple[MarginTier, ...]
    by_quantity: bool
    source: str

    def __post_init__(self) -> None:
        if not self.tiers:
            raise SchemaError("a margin table has no tier; give one at least")
        for tier in self.tiers:
            if not (tier.cap > tier.floor and 0 < tier.maintenance_rate < 1 and tier.max_leverage >= 1):
                raise SchemaError(
                    f"{tier}: a cap must be above its floor, a maintenance rate in (0, 1), a leverage 1 or more"
                )
        if self.tiers[0].floor != 0:
            raise SchemaError(f"the first margin tier begins at {self.tiers[0].floor}, not at 0")
        for one, other in pairwise(self.tiers):
            if abs(one.cap - other.floor) > _SAME * one.cap:
                raise SchemaError(f"margin tiers end at {one.cap} and go on at {other.floor}; correct one of them")
            if other.maintenance_rate < one.maintenance_rate or other.max_leverage > one.max_leverage:
                raise SchemaError(f"the margin tier from {other.floor} asks less than the one before; correct it")

    @property
    def most(self) -> float:
        """The largest position that the venue takes, in the unit of the table."""
        return self.tiers[-1].cap

    def tier(self, quantity: float, mark: float) -> MarginTier:
        """The tier of a position of `quantity` base coins (signed) at `mark`; the last one for what is too large."""
        size = abs(quantity) * (1.0 if self.by_quantity else mark)
        at = bisect_right([tier.cap for tier in self.tiers], size * (1 - 1e-12))
        return self.tiers[min(at, len(self.tiers) - 1)]

    def maintenance(self, quantity: float, mark: float) -> float:
        """Quote coins that must stay behind the position."""
        tier = self.tier(quantity, mark)
        return abs(quantity) * mark * tier.maintenance_rate - tier.deduction


def contract_tiers(rows: Iterable[tuple[float, float, float, float]], contract_value: float) -> tuple[MarginTier, ...]:
    """The tiers, in base coins, of OKX's rows in contracts: (least size, largest size, maintenance rate, leverage).

    `contract_value` is in base coins. A row begins up to one contract above the end of the one before; nothing lies
    between.

    Raises
    ------
    ValueError
        A row begins elsewhere.

    """
    value = Decimal(repr(contract_value))  # so that ten contracts of a tenth are one contract, to the last digit
    tiers: list[MarginTier] = []
    for least, largest, rate, leverage in sorted(rows):
        begins, cap = float(Decimal(repr(least)) * value), float(Decimal(repr(largest)) * value)
        floor = tiers[-1].cap if tiers else 0.0
        if abs(begins - floor) > contract_value + _SAME * floor:
            raise ValueError(f"a tier ends at {floor} base coins and the next begins at {begins}")
        tiers.append(MarginTier(floor, cap, rate, leverage))
    return tuple(tiers)


def _steps(*rows: tuple[float, float, float]) -> tuple[MarginTier, ...]:
    """Tiers of (cap, maintenance rate, leverage), each rate for the whole position."""
    floors = [0.0, *(cap for cap, _, _ in rows)]
    return tuple(MarginTier(floor, *row) for floor, row in zip(floors, rows, strict=False))


#: What is assumed of an instrument whose tiers are not known, by the quote coins that a day turned over (median of 30
#: days) at least: stricter than what either venue publishes for contracts of that turnover, with round steps.
ASSUMED: tuple[tuple[float, MarginTable], ...] = tuple(
    (least, MarginTable(tiers, by_quantity=False, source="assumed"))
    for least, tiers in (
        (5e9, _steps((1e6, 0.01, 50), (5e6, 0.02, 25), (2e7, 0.05, 10), (5e7, 0.1, 5), (1e8, 0.25, 2), (2e8, 0.5, 1))),
        (5e8, _steps((1e5, 0.02, 25), (1e6, 0.05, 10), (3e6, 0.1, 5), (1e7, 0.25, 2), (2e7, 0.5, 1))),
        (5e7, _steps((5e4, 0.025, 20), (2.5e5, 0.05, 10), (1e6, 0.125, 4), (3e6, 0.25, 2), (6e6, 0.5, 1))),
        (0.0, _steps((5e3, 0.05, 8), (1e5, 0.125, 4), (5e5, 0.25, 2), (1e6, 0.5, 1))),
    )
)


def assumed_table(turnover: float) -> MarginTable:
    """The table of `ASSUMED` for a turnover (quote coins a day); the strictest where it is NaN."""
    return next((table for least, table in ASSUMED if turnover >= least), ASSUMED[-1][1])


def ccxt_tables(
    path: Path, venue: Venue, contract_values: Mapping[Instrument, float] | None = None
) -> dict[Instrument, MarginTable]:
    """The tables of a file in the shape of ccxt's `fetch_leverage_tiers`, for linear contracts of one venue.

    Parameters
    ----------
    path
        JSON: `{"BTC/USDT:USDT": [{"minNotional", "maxNotional", "maintenanceMarginRate", "maxLeverage", "info"}, …]}`.
    venue
        Whose: a file does not say.
    contract_values
        Base coins in one contract, of OKX, where the file's sizes are contracts; instruments without one are left out.

    Raises
    ------
    SchemaError
        When the file is not of that shape, or its tiers cannot be.

    """
    try:
        markets = json.loads(path.read_text(encoding="utf-8"))
        rows = {name: list(tiers) for name, tiers in markets.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SchemaError(
            f"{path} is no file of leverage tiers as ccxt writes them ({error}); write its fetch_leverage_tiers as JSON"
        ) from None
    found = {}
    for name, tiers in rows.items():
        instrument = _linear(name, venue)
        if instrument is None:
            continue
        value = 1.0 if venue is not Venue.OKX else (contract_values or {}).get(instrument)
        if value is None:
            continue
        try:
            found[instrument] = MarginTable(_tiers(tiers, venue, value), venue is Venue.OKX, "file")
        except (KeyError, TypeError, ValueError, SchemaError) as error:
            raise SchemaError(f"{path}: tiers of {name}: {error!r}") from None
    return found


def _linear(name: str, venue: Venue) -> Instrument | None:
    """`BTC/USDT:USDT`; None for an inverse, a dated or another coin's contract, which no instrument here is."""
    pair, _, settled = name.partition(":")
    base, _, quote = pair.partition("/")
    if not base or settled != quote or quote not in QUOTES:
        return None
    return Instrument.parse(f"{base}_{quote}", venue)


def _tiers(rows: Sequence[Mapping[str, Any]], venue: Venue, contract_value: float) -> tuple[MarginTier, ...]:
    if venue is Venue.OKX:
        return contract_tiers([(float(row["minNotional"]), *_bounds(row)) for row in rows], contract_value)
    tiers: list[MarginTier] = []
    for row in sorted(rows, key=lambda row: float(row["minNotional"])):
        cap, rate, leverage = _bounds(row)
        if not tiers:
            tiers.append(MarginTier(0.0, cap, rate, leverage))
            continue
        floor, before = tiers[-1].cap, tiers[-1]
        if abs(float(row["minNotional"]) - floor) > 1.0 + _SAME * floor:
            raise ValueError(f"a tier ends at {floor} and the next begins at {row['minNotional']}")
        deduction = before.deduction + floor * (rate - before.maintenance_rate)  # each rate is for its own part
        told = (row.get("info") or {}).get("cum")
        if told is not None and abs(float(told) - deduction) > max(1.0, _SAME * floor):
            raise ValueError(f"a tier from {floor} deducts {told}, which leaves a jump; {deduction} would not")
        tiers.append(MarginTier(floor, cap, rate, leverage, deduction))
    return tuple(tiers)


def _bounds(row: Mapping[str, Any]) -> tuple[float, float, float]:
    """Cap, maintenance rate and leverage."""
    cap = math.inf if row["maxNotional"] is None else float(row["maxNotional"])
    return cap, float(row["maintenanceMarginRate"]), float(row["maxLeverage"])


def dated_tables(path: Path) -> dict[str, tuple[tuple[int, MarginTable], ...]]:
    """The states of a provider's `margin_tiers.json`: by Qlib name, since when (Unix milliseconds), oldest first.

    A state holds from its time on, until the next one's; nothing is known of the time before the first. A `cap` that
    is null is no cap.

    Raises
    ------
    SchemaError
        The file is not of that shape, states are not in order, or tiers cannot be.

    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        rows = {str(name): list(states) for name, states in plain.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SchemaError(f"{path} maps no instruments to dated margin tiers ({error}); convert again") from None
    found = {}
    for name, states in rows.items():
        try:
            found[name] = tuple(_state(state) for state in states)
        except (KeyError, TypeError, ValueError, SchemaError) as error:
            raise SchemaError(f"{path}: margin tiers of {name}: {error!r}; convert again") from None
        times = [since for since, _ in found[name]]
        if not times or any(one >= other for one, other in pairwise(times)):
            raise SchemaError(f"{path}: margin tiers of {name} are of the times {times}, not ascending; convert again")
    return found


def _state(plain: Mapping[str, Any]) -> tuple[int, MarginTable]:
    since, by_quantity, source = plain["since_ms"], plain["by_quantity"], plain["source"]
    if type(since) is not int or type(by_quantity) is not bool or not isinstance(source, str):
        raise ValueError(f"since_ms {since!r}, by_quantity {by_quantity!r}, source {source!r}")
    tiers = tuple(
        MarginTier(
            float(tier["floor"]), math.inf if tier["cap"] is None else float(tier["cap"]),
            float(tier["maintenance_rate"]), float(tier["max_leverage"]), float(tier["deduction"]),
        )
        for tier in plain["tiers"]
    )  # fmt: skip
    return since, MarginTable(tiers, by_quantity, source)
