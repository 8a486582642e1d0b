"""OKX v5 rows: instruments, candles, funding, tickers, as the venue writes them: strings, `""` for unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.market import Day, Market, announced, made_up
from qlib_crypto.sandbox.series import Grid
from qlib_crypto.sandbox.tape import BarSeries, Price
from qlib_crypto.sandbox.text import frame, plain, texts
from qlib_crypto.symbols import Instrument

_UTC8_MS = 8 * HOUR_MS
#: After a settlement OKX says `processing` for a moment before it says `settled`.
PROCESSING_MS = 10 * SECOND_MS
_CONTRACT_DECIMALS = 8

#: Every `bar` that is served; `6H` and longer open at UTC+8 unless they end in `utc`.
BARS: dict[str, Grid] = {
    **{f"{n}m": Grid(n * MINUTE_MS) for n in (1, 3, 5, 15, 30)},
    **{f"{n}H": Grid(n * HOUR_MS) for n in (1, 2, 4)},
    **{f"{n}H": Grid.utc8(n * HOUR_MS) for n in (6, 12)},
    **{f"{n}Hutc": Grid(n * HOUR_MS) for n in (6, 12)},
    "1D": Grid.utc8(DAY_MS),
    "1Dutc": Grid(DAY_MS),
}

_EMPTY_INSTRUMENT = dict.fromkeys(
    (
        *("alias", "auctionEndTime", "baseCcy", "category", "contTdSwTime", "ctMult", "ctType", "ctVal", "ctValCcy"),
        *("expTime", "groupId", "instCategory", "instFamily", "instId", "instType", "lever", "listTime", "lotSz"),
        *("maxIcebergSz", "maxLmtAmt", "maxLmtSz", "maxMktAmt", "maxMktSz", "maxPlatOILmt", "maxStopSz"),
        *("maxTriggerSz", "maxTwapSz", "minSz", "openType", "optType", "posLmtAmt", "posLmtPct", "preMktSwTime"),
        *("quoteCcy", "ruleType", "settleCcy", "state", "stk", "tickSz", "uly"),
    ),
    "",
)


def instrument_row(**known: str) -> dict[str, Any]:
    """An instrument row with every field of today's answer, `""` where nothing is known."""
    code = crc32(known["instId"].encode()) % 1_000_000
    return {
        **_EMPTY_INSTRUMENT,
        "instType": "SWAP",
        "futureSettlement": False,
        "instIdCode": code,
        "tradeQuoteCcyList": [],
        "upcChg": [],
        **known,
    }


def spec_row(spec: InstrumentSpec, at_ms: int) -> dict[str, Any]:
    """The row of a listed contract; `expTime` is the delisting time once that is announced."""
    instrument = spec.instrument
    family = instrument.index_id
    leaves = announced(spec, at_ms)
    return instrument_row(
        instId=instrument.venue_id,
        instFamily=family,
        uly=family,
        category="1",
        settleCcy=instrument.quote,
        ctVal=plain(spec.contract_value_base),
        ctMult="1",
        ctValCcy=instrument.base,
        ctType="linear",
        tickSz=plain(spec.tick_size),
        lotSz=plain(spec.lot_contracts),
        minSz=plain(spec.min_contracts),
        lever="" if spec.max_leverage is None else plain(spec.max_leverage),
        state=spec.state,
        ruleType=spec.rule_type,
        listTime="" if spec.listed_ms is None else str(spec.listed_ms),
        expTime="" if leaves is None else str(leaves),
        instCategory="1" if spec.category == "crypto" else "3",
        **made_up(spec),
    )


def preopen_row(spec: InstrumentSpec) -> dict[str, Any]:
    """The row of a contract that is about to list: hardly a field is filled."""
    return instrument_row(instId=spec.instrument.venue_id, state="preopen")


class OkxCandles:
    """Candle rows of one instrument: `[ts, o, h, l, c, vol, volCcy, volCcyQuote, confirm]`.

    `vol` is in the contracts of the bar's time and `volCcyQuote` is `""` where the tape has no quote volume.
    """

    several = True
    price = Price.TRADED

    def __init__(self, channel: str, market: Market, instrument: Instrument) -> None:
        inst_id = self.named(instrument)
        self._market, self._instrument = market, instrument
        self._head = f'{{"arg":{{"channel":"{channel}","instId":"{inst_id}"}},"data":['

    @staticmethod
    def named(instrument: Instrument) -> str:
        """The `instId` of requests and pushes."""
        return instrument.venue_id

    @staticmethod
    def contract(inst_id: str) -> str:
        """The venue's id of a contract with such an `instId`."""
        return inst_id

    def rows(self, series: BarSeries, *, closed: bool) -> list[str]:
        sizes = self._market.contracts(self._instrument, series.open_ms)
        contracts = np.round(series.volume_base / sizes, _CONTRACT_DECIMALS)
        prices = (series.open, series.high, series.low, series.close)
        floats = (*prices, contracts, series.volume_base, series.volume_quote)
        flag = "1" if closed else "0"
        return [
            f'["{t}","{o}","{h}","{l}","{c}","{n}","{v}","{q}","{flag}"]'
            for t, o, h, l, c, n, v, q in zip(series.open_ms.tolist(), *map(texts, floats), strict=True)
        ]

    def push(self, rows: Sequence[str], at_ms: int) -> bytes:  # noqa: ARG002 - OKX candles carry no event time
        return frame(f"{self._head}{','.join(rows)}]}}")


class OkxMarkCandles(OkxCandles):
    """Mark-price candle rows: `[ts, o, h, l, c, confirm]`."""

    price = Price.MARK

    def rows(self, series: BarSeries, *, closed: bool) -> list[str]:
        floats = (series.open, series.high, series.low, series.close)
        flag = "1" if closed else "0"
        return [
            f'["{t}","{o}","{h}","{l}","{c}","{flag}"]'
            for t, o, h, l, c in zip(series.open_ms.tolist(), *map(texts, floats), strict=True)
        ]


class OkxIndexCandles(OkxMarkCandles):
    """Index candle rows, as those of the mark price; `instId` is the index."""

    price = Price.INDEX

    @staticmethod
    def named(instrument: Instrument) -> str:
        return instrument.index_id

    @staticmethod
    def contract(inst_id: str) -> str:
        return f"{inst_id}-SWAP"


#: By what stands before `candle1m` in the name of a channel.
CANDLES = {"": OkxCandles, "mark-price-": OkxMarkCandles, "index-": OkxIndexCandles}


def funding_row(market: Market, spec: InstrumentSpec, at_ms: int) -> dict[str, Any] | None:
    """The running funding estimate; None while there is none.

    `nextFundingRate` is `""`, and absent for every third instrument: both occur. What a tape does not know (premium,
    caps, interest) is `""`.
    """
    now = market.funding(spec.instrument, at_ms)
    if now is None:
        return None
    last_ms, last_rate = market.last_settled(spec.instrument, at_ms) or (None, np.nan)
    processing = last_ms is not None and at_ms - last_ms < PROCESSING_MS
    row = {
        "formulaType": "withRate",
        "fundingRate": plain(now.rate),
        "fundingTime": str(now.settles_ms),
        "impactValue": "",
        "instId": spec.instrument.venue_id,
        "instType": "SWAP",
        "interestRate": "",
        "maxFundingRate": "",
        "method": "current_period",
        "minFundingRate": "",
        "nextFundingRate": "",
        "nextFundingTime": str(now.settles_ms + now.interval_ms),
        "premium": "",
        "prevFundingTime": "" if last_ms is None else str(last_ms),
        "settFundingRate": plain(last_rate),
        "settState": "processing" if processing else "settled",
        "ts": str(at_ms),
    }
    if crc32(spec.instrument.venue_id.encode()) % 3 == 0:
        del row["nextFundingRate"]
    return row


def ticker_row(market: Market, spec: InstrumentSpec, at_ms: int) -> dict[str, str] | None:
    """Last price and 24 h figures from the tape's bars; book fields are `""`, a tape has no book."""
    day = market.day(spec.instrument, at_ms)
    if day is None:
        return None
    return _ticker(market, spec, day, at_ms)


def _ticker(market: Market, spec: InstrumentSpec, day: Day, at_ms: int) -> dict[str, str]:
    utc0 = at_ms - at_ms % DAY_MS
    utc8 = at_ms - (at_ms + _UTC8_MS) % DAY_MS
    starts = [market.last(spec.instrument, start) for start in (utc0, utc8)]
    sod0, sod8 = (plain(day.open if start is None else start[0]) for start in starts)
    return {
        "instType": "SWAP",
        "instId": spec.instrument.venue_id,
        "last": plain(day.last),
        "lastSz": "",
        "askPx": "",
        "askSz": "",
        "bidPx": "",
        "bidSz": "",
        "open24h": plain(day.open),
        "high24h": plain(day.high),
        "low24h": plain(day.low),
        "volCcy24h": plain(day.volume_base),
        "vol24h": plain(round(day.volume_base / spec.contract_value_base, _CONTRACT_DECIMALS)),
        "sodUtc0": sod0,
        "sodUtc8": sod8,
        "ts": str(day.last_ms),
    }


def mark_row(market: Market, spec: InstrumentSpec, at_ms: int) -> dict[str, str] | None:
    """The mark price; the last traded price where the tape has none."""
    last = market.last(spec.instrument, at_ms, Price.MARK)
    if last is None:
        return None
    return {"instType": "SWAP", "instId": spec.instrument.venue_id, "markPx": plain(last[0]), "ts": str(at_ms)}


def open_interest_row(market: Market, spec: InstrumentSpec, at_ms: int) -> dict[str, str]:
    """Open interest in contracts, coins and USD, each `""` where the tape has none."""
    coins = market.open_interest(spec.instrument, at_ms)
    last = market.last(spec.instrument, at_ms)
    oi, usd = np.nan, np.nan
    if coins is not None:
        oi = round(coins / spec.contract_value_base, _CONTRACT_DECIMALS)
        usd = coins * last[0] if last else np.nan
    return {
        "instType": "SWAP",
        "instId": spec.instrument.venue_id,
        "oi": plain(oi),
        "oiCcy": "" if coins is None else plain(coins),
        "oiUsd": plain(usd),
        "ts": str(at_ms),
    }
