"""What a venue charges for a trade: maker and taker rates, and since when.

Sources: Binance "USDⓈ-M Futures Trading Fee Rate" (VIP 0 to 9, without the discount for fees paid in BNB), OKX "Trading
fees", regular users of perpetuals, both as of 2025. Rates of an earlier time are the user's to give.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any, NamedTuple

from qlib_crypto.clock import parse_utc
from qlib_crypto.errors import ConfigError

#: A rate above this was meant in per cent.
LARGEST = 0.02


class FeeRates(NamedTuple):
    """Fractions of a trade's notional; a negative maker rate is a rebate."""

    maker: float
    taker: float


@dataclass(frozen=True, slots=True)
class FeeSchedule:
    """Rates from each time (Unix milliseconds) on; those of the first hold before it, too."""

    changes: tuple[tuple[int, FeeRates], ...]

    def at(self, time_ms: int) -> FeeRates:
        """The rates of a trade at a time."""
        return self.changes[max(bisect_right([since for since, _ in self.changes], time_ms) - 1, 0)][1]


def _binance() -> dict[str, FeeRates]:
    basis_points = (
        (2.0, 5.0), (1.6, 4.0), (1.4, 3.5), (1.2, 3.2), (1.0, 3.0),
        (0.8, 2.7), (0.6, 2.5), (0.4, 2.2), (0.2, 2.0), (0.0, 1.7),
    )  # fmt: skip
    return {
        f"binance_vip{tier}": FeeRates(round(maker / 1e4, 9), round(taker / 1e4, 9))
        for tier, (maker, taker) in enumerate(basis_points)
    }


#: What `simple` loses to the market on each trade, as a fraction of its price.
SIMPLE_SLIPPAGE = 0.0005
#: Rates by name; `simple` is a round 0.1 % for everything.
PRESETS: Mapping[str, FeeRates] = {
    "simple": FeeRates(0.001, 0.001),
    "okx_vip0": FeeRates(0.0002, 0.0005),
    **_binance(),
}


def fee_schedule(given: str | Sequence[Mapping[str, Any]], where: str = "fees") -> FeeSchedule:
    """The schedule of a preset's name, or of a list of `{since, maker, taker}` as YAML has it, oldest first.

    Raises
    ------
    ConfigError
        When the name is unknown, a rate is no fraction of notional, takers would earn, or the times do not ascend.

    """
    if isinstance(given, str):
        if given not in PRESETS:
            raise ConfigError(f"{where} {given!r} is unknown; choose one of: {', '.join(PRESETS)}, or give rates")
        return FeeSchedule(((0, PRESETS[given]),))
    if not isinstance(given, Sequence):
        raise ConfigError(f"{where} {given!r} must be a preset such as okx_vip0, or a list of since, maker and taker")
    if not given:
        raise ConfigError(f"{where} is empty; write a preset such as okx_vip0, or rates")
    changes = []
    for at, row in enumerate(given):
        if not isinstance(row, Mapping) or set(row) != {"since", "maker", "taker"}:
            raise ConfigError(f"{where}[{at}] {row!r} must have since, maker and taker, and nothing else")
        maker, taker = (
            fee_rate(f"{where}[{at}].{side}", row[side], rebate=side == "maker") for side in FeeRates._fields
        )
        try:
            since = parse_utc(str(row["since"]))
        except ConfigError as error:
            raise ConfigError(f"{where}[{at}].since: {error}") from None
        changes.append((since, FeeRates(maker, taker)))
    for (one, _), (other, _) in pairwise(changes):
        if other <= one:
            raise ConfigError(f"{where}: the times must ascend; put the oldest first")
    return FeeSchedule(tuple(changes))


def fee_rate(where: str, value: Any, *, rebate: bool) -> float:
    """What was given as a fraction of notional; only with `rebate` it may be negative.

    Raises
    ------
    ConfigError
        It is none.

    """
    rate = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not abs(rate) <= LARGEST:
        raise ConfigError(f"{where} {value!r} is no fraction of notional up to 2 %; write 0.0005 for 0.05 %")
    if rate < 0 and not rebate:
        raise ConfigError(f"{where} {value!r} is negative, but only makers earn rebates; write what takers pay, 0.0005")
    return rate
