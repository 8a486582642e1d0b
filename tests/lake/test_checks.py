"""Faults of every kind of row: named one by one, and the judgement by columns equal to that by rows."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_lake import BTC, ETH, H1, M1, RECEIVED, T0, bar, estimate, settlement

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.errors import DataError, UnconfirmedBarError
from qlib_crypto.lake.checks import fault, faulty, first_fault, refuse_faults, row_at, sift
from qlib_crypto.lake.rules import KINDS
from qlib_crypto.schemas import (
    SOURCES,
    Bar,
    Book,
    Estimate,
    IndexBar,
    Liquidation,
    LongShortRatio,
    MarkBar,
    OpenInterest,
    Settlement,
    Trade,
)  # fmt: skip

MARK = MarkBar(BTC, M1, T0, 1.0, 1.0, 1.0, 1.0, "rest", RECEIVED)
INDEX = IndexBar(*MARK)
INTEREST = OpenInterest(BTC, T0, 1.0, None, "rest", RECEIVED)
RATIO = LongShortRatio(BTC, T0, 1.2, "rest", RECEIVED)
LIQUIDATION = Liquidation(BTC, T0 + 7, "sell", 100.0, 2.0, RECEIVED)
TRADE = Trade(BTC, T0 + 7, 5, "buy", 100.0, 2.0, RECEIVED)
BOOK = Book(BTC, T0 + 7, (99.0, 98.0), (1.0, 2.0), (100.0,), (3.0,), RECEIVED)
GOOD = [bar(0), settlement(), estimate(), MARK, INDEX, INTEREST, RATIO, LIQUIDATION, TRADE, BOOK]
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (bar(0, high=98.0, low=99.0), None),  # doubtful, not impossible
        (bar(0, close=200.0), None),
        (bar(0)._replace(close=NAN), "close nan: prices must be finite and above 0"),
        (bar(0, low=-1.0), "low -1.0: prices"),
        (bar(0)._replace(close=None), "close None: prices"),
        (bar(0, open_ms=1_743_465_600_000_000), "before 2200"),  # microseconds
        (bar(0, open_ms=T0 + 1), "grid"),
        (bar(0, interval=H1, open_ms=T0 + MINUTE_MS), "1h grid"),
        (settlement(rate=NAN), "funding rate nan"),
        (settlement(mark=0.0), "mark price"),
        (settlement(RECEIVED + HOUR_MS), "an estimate is no settlement"),
        (estimate(rate=INF), "funding rate inf"),
        (MARK._replace(high=0.0), "high 0.0: prices"),
        (MARK._replace(open_ms=T0 + 5), "grid"),
        (MARK._replace(source="x"), "source 'x': is unknown"),
        (INDEX._replace(low=math.nan), "index bar BTC_USDT.OKX 1m 2025-04-01 00:00:00 refused: low nan: prices"),
        (INDEX._replace(open_ms=T0 + 5), "grid"),
        (INTEREST._replace(open_interest_base=-1.0), "open interest -1.0"),
        (INTEREST._replace(open_interest_quote=NAN), "open interest quote nan"),
        (INTEREST._replace(time_ms=T0 + MINUTE_MS), "5m grid"),
        (INTEREST._replace(received_ms=T0 - 60_000), "before its time"),
        (RATIO._replace(ratio=NAN), "ratio nan"),
        (RATIO._replace(ratio=None), "ratio None"),
        (LIQUIDATION._replace(side="long"), "side 'long': is unknown; use one of buy sell"),
        (LIQUIDATION._replace(price=0.0), "price 0.0"),
        (TRADE._replace(trade_id=-1), "trade id -1"),
        (TRADE._replace(quantity_base=-2.0), "quantity -2.0"),
        (BOOK._replace(bid_prices=(99.0,)), "differ in length"),
        (BOOK._replace(ask_prices=(NAN,)), "ask prices"),
        (BOOK._replace(bid_quantities=(1.0, -2.0)), "bid quantities"),
        (BOOK._replace(bid_prices=(), bid_quantities=(), ask_prices=(), ask_quantities=()), "no level"),
        (BOOK._replace(bid_prices=(), bid_quantities=()), None),  # one side may be empty
    ],
)
def test_what_is_refused_and_why(row, words):
    error = fault(row)
    if words is None:
        assert error is None
        assert sift([row]) == ([row], [])
        refuse_faults([row])
    else:
        assert isinstance(error, DataError)
        assert words in str(error)
        assert "\n" not in str(error)
        assert str(row.instrument) in str(error)
        with pytest.raises(DataError):
            refuse_faults([*GOOD, row])


def test_every_good_row_is_good():
    assert first_fault(GOOD) is None
    assert sift(GOOD) == (GOOD, [])
    assert first_fault([]) is None


@pytest.mark.parametrize(
    "row",
    [bar(0, received_ms=T0 + 20_000), MARK._replace(received_ms=T0 + 20_000), INDEX._replace(received_ms=T0 + 20_000)],
)
def test_an_open_bar_is_told_as_such(row):
    assert isinstance(fault(row), UnconfirmedBarError)
    assert isinstance(first_fault([bar(k) for k in range(1, 9)] + [row]), UnconfirmedBarError)


ODD = st.sampled_from([NAN, INF, -INF, 0.0, -0.0, -1.0, 1e-300, 1.0, 250.5])
TIMES = st.sampled_from(
    [T0, T0 + 1, T0 + 300_000, T0 + MINUTE_MS, 0, -60_000, 10**16, RECEIVED - 60_000, RECEIVED + 60_000]
)
SOURCE = st.sampled_from([*SOURCES, "guess"])
SIDE = st.sampled_from(["buy", "sell", "long"])
MAYBE = st.none() | ODD
RECEIVED_AT = st.sampled_from([RECEIVED, T0 + 10_000, T0 - 120_000, T0 + 59_000])
LEVELS = st.lists(ODD, max_size=2).map(tuple)
OF, STEP = st.sampled_from([BTC, ETH]), st.sampled_from([M1, H1])
STRATEGIES = {
    Bar: st.builds(
        Bar, OF, STEP, TIMES, ODD, ODD, ODD, ODD, ODD, MAYBE, st.none() | st.integers(-1, 2), SOURCE, RECEIVED_AT
    ),
    Settlement: st.builds(Settlement, OF, TIMES, ODD, MAYBE, SOURCE, RECEIVED_AT),
    Estimate: st.builds(Estimate, OF, TIMES, ODD, TIMES, MAYBE, MAYBE, RECEIVED_AT),
    MarkBar: st.builds(MarkBar, OF, STEP, TIMES, ODD, ODD, ODD, ODD, SOURCE, RECEIVED_AT),
    IndexBar: st.builds(IndexBar, OF, STEP, TIMES, ODD, ODD, ODD, ODD, SOURCE, RECEIVED_AT),
    OpenInterest: st.builds(OpenInterest, OF, TIMES, ODD, MAYBE, SOURCE, RECEIVED_AT),
    LongShortRatio: st.builds(LongShortRatio, OF, TIMES, ODD, SOURCE, RECEIVED_AT),
    Liquidation: st.builds(Liquidation, OF, TIMES, SIDE, ODD, ODD, RECEIVED_AT),
    Trade: st.builds(Trade, OF, TIMES, st.integers(-1, 3), SIDE, ODD, ODD, RECEIVED_AT),
    Book: st.builds(Book, OF, TIMES, LEVELS, LEVELS, LEVELS, LEVELS, RECEIVED_AT),
}
GOOD_OR_ODD = st.sampled_from(GOOD) | st.one_of(*STRATEGIES.values())


@given(st.lists(GOOD_OR_ODD, max_size=40))
def test_the_judgement_by_columns_is_the_one_by_rows(rows):
    faults = [fault(row) for row in rows]
    good, told = sift(rows)
    assert good == [row for row, error in zip(rows, faults, strict=True) if error is None] or any(
        math.isnan(value) for row in rows for value in row if isinstance(value, float)
    )
    assert len(good) == faults.count(None)
    assert told == [str(error) for error in faults if error is not None]
    first = first_fault(rows)
    assert str(first) == (told[0] if told else "None")


@pytest.mark.parametrize("kind", STRATEGIES, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_rows_of_a_file_are_judged_as_rows(kind, data):
    interval = data.draw(STEP) if KINDS[kind].has_interval else None
    strategy = (
        STRATEGIES[kind] if interval is None else STRATEGIES[kind].map(lambda row: row._replace(interval=interval))
    )
    rows = data.draw(st.lists(strategy, max_size=20))
    schema = KINDS[kind].schema
    values = list(zip(*(row[2 if interval else 1 :] for row in rows), strict=True)) or [()] * (len(schema) - 1)
    columns = [[row.instrument.symbol for row in rows], *map(list, values)]
    table = pa.table([pa.array(c, type=f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    assert faulty(table, kind, interval).tolist() == [fault(row) is not None for row in rows]
    for at, row in enumerate(rows):
        assert str(row_at(table, kind, row.instrument, at, interval)) == str(row)


def by_hand(b):
    """The rules of a bar, written out."""
    return (
        all(math.isfinite(p) and p > 0 for p in (b.open, b.high, b.low, b.close))
        and math.isfinite(b.volume_base) and b.volume_base >= 0
        and (b.volume_quote is None or (math.isfinite(b.volume_quote) and b.volume_quote >= 0))
        and (b.trades is None or b.trades >= 0)
        and b.source in SOURCES
        and 0 < b.open_ms < 7_258_118_400_000 and b.open_ms % b.interval.ms == 0
        and not min(30_000, b.interval.ms // 4) < b.open_ms + b.interval.ms - b.received_ms <= b.interval.ms
    )  # fmt: skip


@given(st.lists(STRATEGIES[Bar] | st.just(bar(0)), max_size=20))
def test_bars_are_good_by_the_rules_written_out(bars):
    assert [fault(b) is None for b in bars] == [by_hand(b) for b in bars]


def test_a_column_of_none_where_a_number_belongs_is_a_fault_of_every_row():
    rows = [bar(k)._replace(volume_base=None) for k in range(8)]
    assert len(sift(rows)[1]) == 8
    assert np.count_nonzero([fault(row) is None for row in rows]) == 0
