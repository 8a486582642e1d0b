"""What a backtest leaves behind: one row a step, fill, funding payment and held position, as frames.

Quote coin, base coins, naive UTC times as in Qlib.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qlib_crypto.backtest.account import Floats, Ints
from qlib_crypto.backtest.engine import CURVE, Engine
from qlib_crypto.backtest.layout import FILL, PAYMENT
from qlib_crypto.backtest.load import usual_bars
from qlib_crypto.backtest.market import CLOSE, SETTLED_COLUMN
from qlib_crypto.backtest.notes import KINDS, WORDS
from qlib_crypto.backtest.slippage import scales
from qlib_crypto.provider.funding import PRICE_SOURCES

#: Whose price a settlement was paid at, in the order of `PRICE_SOURCES`, and where it had none.
MARK_SOURCES = ("venue's mark", "trade open", "last known price")


def steps_table(engine: Engine) -> pd.DataFrame:
    """Equity and exposure at each step's close with the step's own changes; index `datetime`, float64."""
    done = np.isfinite(engine.curve[:, 0])
    return pd.DataFrame(engine.curve[done], columns=CURVE, index=_times(engine, np.flatnonzero(done), "datetime"))


def fills_table(engine: Engine) -> pd.DataFrame:
    """One row a fill: signed base quantity, price, the market's price then (`reference`), fee (> 0 paid by us).

    `realised` is the profit of the part that closed a position, before the fee; `position` what was held then; `order`
    one of `notes.KINDS`. `market_volatility` (of a bar's return) and `market_volume` (quote coins a bar) are means of a
    day's bars as known at the open, those before the span too; NaN while half of a day is not known.
    """
    of = _columns(engine.fills, FILL)
    volatility, volume = _market_of(engine, of["bar"].astype(np.int64), of["column"].astype(np.int64))
    return pd.DataFrame(
        {
            "datetime": _times(engine, of["bar"].astype(np.int64)),
            "instrument": _names(engine, of["column"]),
            "quantity": of["quantity"],
            "price": of["price"],
            "reference": of["reference"],
            "fee": of["fee"],
            "realised": of["realised"],
            "position": of["after"],
            "order": _words(KINDS, of["order"]),
            "note": _words(WORDS, of["note"]),
            "market_volatility": volatility,
            "market_volume": volume,
        }
    )


def _market_of(engine: Engine, bars: Ints, columns: Ints) -> tuple[Floats, Floats]:
    """What impact depends on, at each fill."""
    window = usual_bars(engine.loaded.interval)
    out = np.full((2, len(bars)), np.nan)
    for i in np.unique(columns).tolist():
        own = columns == i
        for row, known in enumerate(scales(engine.loaded, window, np.array([i]))[:2]):
            out[row, own] = known[bars[own], 0]
    return out[0], out[1]


def funding_table(engine: Engine) -> pd.DataFrame:
    """One row a funding payment at the minute of its settlement; `amount` < 0 is paid by us."""
    of = _columns(engine.payments, PAYMENT)
    rows = of["settlement"].astype(np.int64)
    series = engine.loaded.series[rows]
    source = np.where(of["guessed"] > 0, PRICE_SOURCES.index("unknown"), series["price_source"])
    return pd.DataFrame(
        {
            "time": pd.DatetimeIndex(series["time_ms"].astype("datetime64[ms]").astype("datetime64[ns]")),
            "instrument": _names(engine, engine.loaded.market.settled[rows, SETTLED_COLUMN]),
            "quantity": of["quantity"],
            "mark": of["price"],
            "rate": series["rate"].astype(np.float64),
            "amount": of["amount"],
            "mark_source": _words(MARK_SOURCES, source),
        }
    )


def positions_table(engine: Engine) -> pd.DataFrame:
    """One row a held instrument at each step's close: signed base quantity and mark, by time and name."""
    market, done = engine.loaded.market, np.flatnonzero(np.isfinite(engine.curve[:, 0]))
    closes = market.prices[market.marks + CLOSE]
    bar, column = engine.fills[:, FILL.index("bar")], engine.fills[:, FILL.index("column")]
    parts: list[tuple[Ints, Ints, Floats, Floats]] = []
    for i in np.unique(column).astype(np.int64).tolist():
        own = column == i
        bars, after = bar[own].astype(np.int64), engine.fills[own, FILL.index("after")]
        last = np.append(bars[1:] != bars[:-1], True)
        bars, after = bars[last], after[last]
        rows = np.arange(bars[0], done[-1] + 1)
        quantity = np.repeat(after, np.diff(bars, append=done[-1] + 1))
        price = closes[bars[0] : done[-1] + 1, i]
        known = np.maximum.accumulate(np.where(price > 0, np.arange(len(price)), 0))
        held = quantity != 0.0
        parts.append((rows[held], np.full(int(held.sum()), i), quantity[held], price[known][held]))
    if not parts:
        parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0))]
    rows, columns, quantity, mark = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((columns, rows))
    return pd.DataFrame(
        {
            "datetime": _times(engine, rows[order]),
            "instrument": _names(engine, columns[order]),
            "quantity": quantity[order],
            "mark": mark[order],
        }
    )


def _columns(rows: Floats, names: tuple[str, ...]) -> dict[str, Floats]:
    return {name: rows[:, at].copy() for at, name in enumerate(names)}


def _times(engine: Engine, rows: Ints, name: str | None = None) -> pd.DatetimeIndex:
    opens = engine.loaded.opens_ms[rows]
    return pd.DatetimeIndex(opens.astype("datetime64[ms]").astype("datetime64[ns]"), name=name)


def _names(engine: Engine, columns: NDArray[np.generic]) -> NDArray[np.object_]:
    return _words(engine.loaded.names, columns)


def _words(words: tuple[str, ...], places: NDArray[np.generic]) -> NDArray[np.object_]:
    return np.array(words, dtype=object)[places.astype(np.int64)]
