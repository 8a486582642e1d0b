"""data.binance.vision over a tape: daily and monthly zips of klines of each price, funding and metrics, with checksums.

As there: funding by month only and metrics by day only; a header from May 2022 on; the monthly klines of April and May
2022 lack a day that its daily file has; metrics rows are labelled with the end of their 5 minutes before 2026-06-25 and
with their start from then on; a delisted contract keeps its files, and one file may hold two contracts of one ticker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, iso, next_month, parse_utc, utc
from qlib_crypto.errors import ConfigError
from qlib_crypto.sandbox.binance_rows import BARS
from qlib_crypto.sandbox.bulk import zipped
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.series import Grid, chain, empty_bars, take
from qlib_crypto.sandbox.tape import BarSeries, HasFlow, Price
from qlib_crypto.sandbox.text import plain, texts
from qlib_crypto.schemas import PERIOD_MS

ROOT = "/data/futures/um/"
RELABELLED_MS = parse_utc("2026-06-25")
HEADERS_FROM_MS = parse_utc("2022-05-01")
#: Monthly files that lack a day: the month, and which day of it.
_LACKING = {"2022-04": 15, "2022-05": 10}
_DAILY_AFTER_MS = DAY_MS + 8 * HOUR_MS + 30 * MINUTE_MS
_NAME = re.compile(
    r"(daily|monthly)/(?:(klines|markPriceKlines|indexPriceKlines)/([^/]+)/([0-9a-z]+)|(fundingRate|metrics)/([^/]+))"
    r"/([^/]+)-([^/-]+)-(\d{4}-\d\d(?:-\d\d)?)\.zip"
)
_KLINES = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
_PRICES = {"klines": Price.TRADED, "markPriceKlines": Price.MARK, "indexPriceKlines": Price.INDEX}
_FUNDING = "calc_time,funding_interval_hours,last_funding_rate"
_METRICS = (
    "create_time,symbol,sum_open_interest,sum_open_interest_value,count_toptrader_long_short_ratio,"
    "sum_toptrader_long_short_ratio,count_long_short_ratio,sum_taker_long_short_vol_ratio"
)


def make(market: Market, path: str, now: int) -> bytes | None:
    """The file of a path below `ROOT`; None when it has no rows or is not published yet."""
    match = _NAME.fullmatch(path.removeprefix(ROOT))
    if match is None:
        return None
    size, bars, symbol, spelling, other, owner, *named, label = match.groups()
    kind, symbol = bars or other, symbol or owner
    daily = len(label) > len("2022-05")
    odd = daily != (size == "daily") or (kind == "metrics" and not daily) or (kind == "fundingRate" and daily)
    span = None if odd or named != [symbol, spelling or kind] else _span(label)
    if span is None or now < _published(span, daily=daily):
        return None
    if bars is not None:
        rows, header = _kline_rows(market, symbol, spelling, span, label, _PRICES[bars]), _KLINES
    elif kind == "fundingRate":
        rows, header = _funding_rows(market, symbol, span), _FUNDING
    else:
        rows, header = _metric_rows(market, symbol, span), _METRICS
    known = list(rows)
    return zipped(path.rsplit("/", 1)[-1], header if span[0] >= HEADERS_FROM_MS else None, known) if known else None


def _span(label: str) -> tuple[int, int] | None:
    try:
        start = parse_utc(label if label.count("-") > 1 else f"{label}-01")
    except ConfigError:  # a day that no calendar has
        return None
    return start, start + DAY_MS if label.count("-") > 1 else next_month(start)


def _published(span: tuple[int, int], *, daily: bool) -> int:
    """08:30 the next day, or noon of the first Monday after the month."""
    if daily:
        return span[0] + _DAILY_AFTER_MS
    monday = -utc(span[1]).weekday() % 7
    return span[1] + monday * DAY_MS + 12 * HOUR_MS


def _kline_rows(
    market: Market, symbol: str, spelling: str, span: tuple[int, int], label: str, price: Price
) -> Iterable[str]:
    grid = BARS.get(spelling)
    if grid is None:
        return []
    bars, traded = _bars(market, symbol, grid, span, price), price is Price.TRADED
    if label in _LACKING:
        day = np.array([utc(at).day for at in bars.open_ms.tolist()])
        bars = take(bars, day != _LACKING[label]) if len(day) else bars
    prices = map(texts, (bars.open, bars.high, bars.low, bars.close))
    volumes = map(texts, (bars.volume_base, bars.volume_quote)) if traded else (["0"] * len(bars.open_ms),) * 2
    counts = ["0" if not traded else "" if n < 0 else str(n) for n in bars.trades.tolist()]
    return [
        f"{t},{o},{h},{l},{c},{v},{t + grid.ms - 1},{q},{n},{',' if traded else '0,0'},0"
        for t, o, h, l, c, v, q, n in zip(bars.open_ms.tolist(), *prices, *volumes, counts, strict=True)
    ]


def _bars(market: Market, symbol: str, grid: Grid, span: tuple[int, int], price: Price) -> BarSeries:
    """The bars of every contract that used the symbol."""
    found = empty_bars()
    for spec in market.all_of(symbol):
        series = market.series(spec.instrument, grid, price)
        found = chain(found, take(series, slice(*np.searchsorted(series.open_ms, span).tolist())))
    return found


def _funding_rows(market: Market, symbol: str, span: tuple[int, int]) -> Iterable[str]:
    for spec in market.all_of(symbol):
        settled = market.tape.settlements(spec.instrument)
        for i in range(*np.searchsorted(settled.time_ms, span).tolist()):
            at = int(settled.time_ms[i])
            estimate = market.funding(spec.instrument, at - HOUR_MS)
            hours = "" if estimate is None else plain(estimate.interval_ms / HOUR_MS)
            yield f"{at},{hours},{plain(float(settled.rate[i]))}"


def _metric_rows(market: Market, symbol: str, span: tuple[int, int]) -> Iterable[str]:
    """A row for each 5 minutes that end in (start, end] of the day."""
    tape = market.tape
    later = span[0] >= RELABELLED_MS
    for spec in market.all_of(symbol):
        known = market.open_interest_series(spec.instrument)
        ratios = tape.ratio_series(spec.instrument) if isinstance(tape, HasFlow) else None
        if known is None:
            continue
        for i in range(*np.searchsorted(known.time_ms, span, side="right").tolist()):
            at = int(known.time_ms[i])
            j = int(np.searchsorted(ratios.time_ms, at)) if ratios else 0
            there = ratios is not None and j < len(ratios.time_ms) and ratios.time_ms[j] == at
            ratio = plain(float(ratios.ratio[j])) if ratios is not None and there else ""
            label = iso(at - PERIOD_MS if later else at)
            coins, value = plain(float(known.base[i])), plain(float(known.quote[i]))
            yield f"{label},{symbol},{coins},{value},,,{ratio},"
