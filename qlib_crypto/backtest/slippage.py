"""How much worse than the market an order fills: a fixed part, half the spread, and the square root of its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from qlib_crypto.backtest.account import Floats, Ints
from qlib_crypto.backtest.load import FEWEST_BARS, Loaded, usual_bars
from qlib_crypto.backtest.market import CLOSE, VOLUME
from qlib_crypto.backtest.values import no_others, number, whole_number
from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.market.fees import LARGEST
from qlib_crypto.stats.impact import fit_impact
from qlib_crypto.symbols import Interval

FITTED, _DEFAULT = "fitted", "default"
_LARGEST_IMPACT = 10.0


@dataclass(frozen=True, slots=True)
class Slippage:
    """A market order of q base coins fills at reference x (1 ± s), on the next worse tick, with

        s = fixed + spread / 2 + impact x v x sqrt(|q| x reference / V)

    where v is the volatility of a bar's return and V the quote coins traded in a bar, both means of the last `bars`
    bars as known at the open (v the root mean square), for an order at least half of the window known, bars before the
    span included. Source of the last part: the square-root law, see `qlib_crypto.stats.capacity`. Limits and targets
    fill at their price.

    Attributes
    ----------
    fixed, spread
        Fractions of the price; `spread` also by instrument's name, with `default` for those that it does not name.
    impact
        The coefficient, about 1 by the literature; `fitted` takes that of `stats.impact.fit_impact` on the loaded bars,
        which knows the whole span.
    bars
        The window; a day, at least 20, when None.

    Raises
    ------
    ConfigError
        When a value makes no sense.

    """

    fixed: float = 0.0
    spread: float | Mapping[str, float] = 0.0
    impact: float | str = 0.0
    bars: int | None = None

    def __post_init__(self) -> None:
        self.check_values("slippage", asdict(self))

    @classmethod
    def of(cls, given: Slippage | float | Mapping[str, Any]) -> Slippage:
        """Of a keyword `slippage`: a fraction, or a mapping in YAML."""
        if isinstance(given, Slippage):
            return given
        cls.check_values("slippage", given)
        return cls(**given) if isinstance(given, Mapping) else cls(float(given))

    @staticmethod
    def check_values(where: str, given: Any) -> None:
        """Refuses what is no value of a keyword `slippage`."""
        if isinstance(given, Slippage):
            return
        if not isinstance(given, Mapping):
            _fraction(where, given)
            return
        no_others(where, given, [field.name for field in fields(Slippage)])
        if "fixed" in given:
            _fraction(f"{where}.fixed", given["fixed"])
        spread = given.get("spread", 0.0)
        for name, value in spread.items() if isinstance(spread, Mapping) else [("", spread)]:
            _fraction(f"{where}.spread" + f".{name}" * bool(name), value)
        if "impact" in given and given["impact"] != FITTED:
            what = f"must be a coefficient from 0 to {_LARGEST_IMPACT:g}, about 1 by the literature, or {FITTED}"
            number(f"{where}.impact", given["impact"], lambda v: 0 <= v <= _LARGEST_IMPACT, what)
        if given.get("bars") is not None:
            whole_number(f"{where}.bars", given["bars"], FEWEST_BARS)
            if not given.get("impact"):
                raise ConfigError(f"{where}.bars is the window of impact, which is none; add impact or take bars out")

    def resolved(self, loaded: Loaded) -> Slippage:
        """The same with the coefficient fitted, where it is to be.

        Raises
        ------
        DataError
            When the bars tell no coefficient.

        """
        if self.impact != FITTED:
            return self
        volatility, volume, returns, traded = scales(loaded, self.window(loaded.interval))
        fit = fit_impact(returns, traded, volatility, volume)
        if not np.isfinite(fit.coefficient):
            raise DataError(
                f"slippage.impact cannot be fitted to {fit.bars:,} bars: volume explains none of their moves; write a "
                "coefficient such as 1.0"
            )
        return replace(self, impact=fit.coefficient)

    @property
    def of_all(self) -> float | None:
        """The fraction that every order pays, None where they differ."""
        return None if self.impact or isinstance(self.spread, Mapping) else self.fixed + self.spread / 2

    def window(self, interval: Interval) -> int:
        """The bars that volatility and volume are means of."""
        return usual_bars(interval) if self.bars is None else self.bars

    def rows(self, loaded: Loaded) -> tuple[Floats, int]:
        """`Market.slips`, shape (bars, 1 or 0, 2, n), and in how many bars of an instrument it lacks the impact.

        Raises
        ------
        ConfigError
            When the spread of an instrument is not given.

        """
        names = loaded.names
        if self.of_all is not None:
            return np.empty((0, 2, len(names))), 0
        by_name = self.spread if isinstance(self.spread, Mapping) else {_DEFAULT: self.spread}
        lacks = [name for name in names if name not in by_name and _DEFAULT not in by_name]
        if lacks:
            raise ConfigError(
                f"slippage.spread says nothing of {len(lacks)} of {len(names)} instruments ({lacks[0]} …), only of "
                f"{', '.join(sorted(by_name)[:3])}; add them, or {_DEFAULT}"
            )
        constant = self.fixed + np.array([by_name.get(name, by_name.get(_DEFAULT)) for name in names]) / 2
        if not self.impact:
            return np.stack([constant, np.zeros(len(names))])[None], 0
        volatility, volume, _, _ = scales(loaded, self.window(loaded.interval))
        with np.errstate(divide="ignore", invalid="ignore"):
            root = float(self.impact) * volatility / np.sqrt(volume)
        unknown = ~np.isfinite(root)
        root[unknown] = 0.0
        there = loaded.has_bar
        return np.ascontiguousarray(np.stack([np.broadcast_to(constant, root.shape), root], axis=1)), int(
            (unknown & there).sum()
        )

    def told(self) -> float | str:
        """For the assumptions of a run."""
        if not self.spread and not self.impact:
            return self.fixed or "none"
        spread = (
            "half the spread of each instrument"
            if isinstance(self.spread, Mapping)
            else f"half a spread of {self.spread:.4%}"
        )
        parts = [f"{self.fixed:.4%}" if self.fixed else "", spread if self.spread else ""]
        law = f"{self.impact:.3g} x volatility x sqrt(order / volume) of a bar" if self.impact else ""
        law += f", means of {self.bars} bars" * bool(self.bars)
        return " and ".join(part for part in (*parts, law) if part)


def scales(loaded: Loaded, window: int, columns: Ints | slice = slice(None)) -> tuple[Floats, Floats, Floats, Floats]:
    """Volatility and volume as known at each open, then each bar's own return and volume in quote coins.

    All of shape (bars, columns); the bars before the first one count.
    """
    prices, known = loaded.market.prices, loaded.before.shape[1]
    close, volume = (
        np.vstack([before[:, columns], prices[row][:, columns]])
        for before, row in zip(loaded.before, (CLOSE, VOLUME), strict=True)
    )
    returns = np.full(close.shape, np.nan)
    returns[1:] = close[1:] / close[:-1] - 1
    traded = close * volume
    means = np.sqrt(_mean_before(returns**2, window)), _mean_before(traded, window)
    volatility, usual, own, quote = (values[known:] for values in (*means, returns, traded))
    return volatility, usual, own, quote


def slipping(loaded: Loaded, slippage: Slippage) -> tuple[Loaded, int]:
    """What was loaded with its `Market.slips`, and in how many bars of an instrument the impact is unknown."""
    rows, unknown = slippage.rows(loaded)
    return replace(loaded, market=loaded.market._replace(slips=rows)), unknown


def _mean_before(values: Floats, window: int) -> Floats:
    """The mean of the known ones of the `window` values before each; NaN where fewer than half are known."""
    seen = np.isfinite(values)
    sums = np.vstack([np.zeros((1, values.shape[1])), np.cumsum(np.where(seen, values, 0.0), axis=0)])
    counts = np.vstack([np.zeros((1, values.shape[1]), np.int64), np.cumsum(seen, axis=0)])
    rows = np.arange(len(values))
    first = np.maximum(rows - window, 0)
    count = counts[rows] - counts[first]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(2 * count >= window, np.maximum(sums[rows] - sums[first], 0.0) / count, np.nan)


def _fraction(where: str, value: Any) -> None:
    number(where, value, lambda v: 0 <= v <= LARGEST, "is no fraction of the price up to 2 %; write 0.0005 for 0.05 %")
