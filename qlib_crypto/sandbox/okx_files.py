"""OKX's bulk files over a tape: what `market-data-history` lists, and the zips that it links to.

As there: a file's day and month are those of UTC+8; funding by day is one file for all swaps; files from before 2023
have Chinese in the header, and their funding has the estimate beside what was paid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson

from qlib_crypto.clock import DAY_MS, HOUR_MS, day_start, month_start, next_month, parse_utc, utc
from qlib_crypto.errors import ConfigError
from qlib_crypto.sandbox.bulk import zipped
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.okx_query import OkxError, Query, inst_type, needed, number, wrong
from qlib_crypto.sandbox.series import Grid, take
from qlib_crypto.sandbox.text import plain, texts

HOST = "https://static.okx.com"
ROOT = "/cdn/okex/traderecords/"
_UTC8_MS = 8 * HOUR_MS
#: Files come on the second day after the day or month that they are of.
_PUBLISHED_MS = 2 * DAY_MS
_FOLDERS = {"2": "candlesticks", "3": "swaprates"}
_WORDS = {"2": "candlesticks", "3": "fundingrates"}
_MOST_FAMILIES, _MOST_FILES = 10, 20
_CHINESE_UNTIL_MS = parse_utc("2023-01-01")
_LATEST_MS = parse_utc("2200-01-01")
_MINUTE = Grid(60_000)
_NAME = re.compile(
    r"(candlesticks|swaprates)/(daily|monthly)/(\d{6,8})/"
    r"([A-Za-z0-9_-]+?)-(candlesticks|fundingrates)-(\d{4}-\d\d(?:-\d\d)?)\.zip"
)
_BARS = "instrument_name,open,high,low,close,vol,vol_ccy,vol_quote,open_time,confirm"
_RATES = "instrument_name,funding_rate,funding_time"
_OLD_BARS = (
    "instrument_name/交易币对,open/开盘价,high/最高价,low/最低价,close/收盘价,vol/张数,vol_ccy/币,vol_quote/成交额,"
    "open_time/开始时间,confirm/状态"
)
_OLD_RATES = (
    "instrument_name/交易币对,contract_type/合约类型,funding_rate/预测资金费率,real_funding_rate/实际资金费率,"
    "funding_time/资金费时间"
)


def listing(market: Market, query: Query, now: int) -> bytes:
    """The answer of `market-data-history`; links are on `HOST`."""
    module, size = needed(query, "module"), needed(query, "dateAggrType")
    families = needed(query, "instFamilyList").split(",")
    if size not in ("daily", "monthly") or len(families) > _MOST_FAMILIES:
        raise wrong("dateAggrType" if len(families) <= _MOST_FAMILIES else "instFamilyList")
    begin, end = (number(query, name, -1) for name in ("begin", "end"))
    if not 0 <= begin <= end < _LATEST_MS:
        raise wrong("begin")
    labels = _labels(begin, end, size)
    if inst_type(query) != "SWAP" or module not in _FOLDERS:
        return b"[]"
    details = []
    for family in families:
        names = [f"{one}-SWAP" for one in _families(market, family)] if module == "2" else [f"{family}-SWAP"]
        if module == "3" and size == "daily":
            names = ["allswap"] if family == "ANY" else []
        files = [file for name in names for label in labels if (file := _file(market, module, size, name, label, now))]
        group = {"dateRangeStart": str(labels[0]), "dateRangeEnd": str(labels[-1]), "groupSizeMB": "0.1"}
        kind = {"instFamily": family, "instId": "", "instType": "SWAP"}
        details += [{**kind, **group, "groupDetails": files}] if files else []
    return orjson.dumps([{"dateAggrType": size, "details": details, "totalSizeMB": "0.1", "ts": str(now)}])


def make(market: Market, path: str, now: int) -> bytes | None:
    """The file of a path below `ROOT`; None when it has no rows or is not published yet."""
    match = _NAME.fullmatch(path.removeprefix(ROOT))
    if match is None:
        return None
    folder, size, stamp, name, word, label = match.groups()
    daily = label.count("-") > 1
    fits = stamp == label.replace("-", "") and daily == (size == "daily")
    if not fits or (folder == "candlesticks") != (word == "candlesticks"):
        return None
    try:
        first = parse_utc(label if daily else f"{label}-01")
    except ConfigError:  # a day that no calendar has
        return None
    end = first + DAY_MS if daily else next_month(first)
    if now < _published(first, size):
        return None
    span, old = (first - _UTC8_MS, end - _UTC8_MS), first < _CHINESE_UNTIL_MS
    ids = market.ids if name == "allswap" else [name]
    if folder == "candlesticks":
        rows, header = [row for inst_id in ids for row in _bar_rows(market, inst_id, span)], _OLD_BARS if old else _BARS
    else:
        rows = [row for inst_id in ids for row in _rate_rows(market, inst_id, span, old=old)]
        header = _OLD_RATES if old else _RATES
    return zipped(path.rsplit("/", 1)[-1], header, rows) if rows else None


def _labels(begin: int, end: int, size: str) -> list[int]:
    """The days or months, UTC midnights of their labels, that begin in [begin, end]."""
    months = size == "monthly"
    day = month_start(begin) if months else day_start(begin)
    if day < begin:
        day = next_month(day) if months else day + DAY_MS
    out: list[int] = []
    while day <= end:
        out.append(day)
        if len(out) > _MOST_FILES:
            raise OkxError(51000, f"The time range exceeds {_MOST_FILES} files", wrong("end").status)
        day = next_month(day) if months else day + DAY_MS
    return out or [day]


def _families(market: Market, family: str) -> list[str]:
    return [inst_id.removesuffix("-SWAP") for inst_id in market.ids] if family == "ANY" else [family]


def _published(first: int, size: str) -> int:
    last = first if size == "daily" else next_month(first) - DAY_MS
    return last + _PUBLISHED_MS


def _file(market: Market, module: str, size: str, name: str, label: int, now: int) -> dict[str, Any] | None:
    day = utc(label).strftime("%Y-%m-%d" if size == "daily" else "%Y-%m")
    filename = f"{name}-{_WORDS[module]}-{day}.zip"
    path = f"{ROOT}{_FOLDERS[module]}/{size}/{day.replace('-', '')}/{filename}"
    start, end = label - _UTC8_MS, (label + DAY_MS if size == "daily" else next_month(label)) - _UTC8_MS
    ids = market.ids if name == "allswap" else [name]
    if now < _published(label, size) or not any(_any(market, module, inst_id, (start, end)) for inst_id in ids):
        return None
    return {"dateTs": str(label), "filename": filename, "sizeMB": "0.1", "url": f"{HOST}{path}?v=999"}


def _any(market: Market, module: str, inst_id: str, span: tuple[int, int]) -> bool:
    for spec in market.all_of(inst_id):
        settled = market.tape.settlements(spec.instrument)
        times = settled.time_ms if module == "3" else market.series(spec.instrument, _MINUTE).open_ms
        if np.diff(np.searchsorted(times, span))[0]:
            return True
    return False


def _bar_rows(market: Market, inst_id: str, span: tuple[int, int]) -> Iterable[str]:
    for spec in market.all_of(inst_id):
        series = market.series(spec.instrument, _MINUTE)
        bars = take(series, slice(*np.searchsorted(series.open_ms, span).tolist()))
        contracts = np.round(bars.volume_base / market.contracts(spec.instrument, bars.open_ms), 8)
        values = (bars.open, bars.high, bars.low, bars.close, contracts, bars.volume_base, bars.volume_quote)
        for t, *fields in zip(bars.open_ms.tolist(), *map(texts, values), strict=True):
            yield f"{inst_id},{','.join(fields)},{t},1"


def _rate_rows(market: Market, inst_id: str, span: tuple[int, int], *, old: bool) -> Iterable[str]:
    for spec in market.all_of(inst_id):
        settled = market.tape.settlements(spec.instrument)
        for i in range(*np.searchsorted(settled.time_ms, span).tolist()):
            at, rate = int(settled.time_ms[i]), plain(float(settled.rate[i]))
            estimate = market.funding(spec.instrument, at - 1)
            guess = plain(estimate.rate) if estimate else rate
            yield f"{inst_id},SWAP,{guess},{rate},{at}" if old else f"{inst_id},{rate},{at}"
