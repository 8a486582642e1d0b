"""Point-in-time reads against brute force: all that was ever stored, in order, and the stated rule."""

from __future__ import annotations

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_lake import BTC, ETH, H1, M1, PEPE, T0, bar, estimate, settlement

from qlib_crypto import schemas
from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.lake import Lake
from qlib_crypto.lake.sql import query
from qlib_crypto.lake.tables import BARS, ESTIMATES, LONG_SHORT_RATIO, OPEN_INTEREST, SETTLEMENTS
from qlib_crypto.schemas import PERIOD_MS, LongShortRatio, OpenInterest
from qlib_crypto.symbols import Instrument, Venue

SOL = Instrument("SOL", "USDT", Venue.OKX)
RANK = {source: rank for rank, source in enumerate(schemas.SOURCES)}


def interest(k, value, *, of=BTC, source="rest", received_ms=0):
    return OpenInterest(of, T0 + k * PERIOD_MS, value, None, source, received_ms)


ROWS = st.one_of(
    st.builds(
        lambda k, of, value, source: interest(k * 200, value, of=of, source=source),
        st.integers(0, 3), st.sampled_from([BTC, ETH, PEPE]), st.sampled_from([1.0, 2.0, 3.0]),
        st.sampled_from(["ws", "rest", "archive"]),
    ),
    st.builds(
        lambda k, of, close, source, interval: bar(k * 31, of=of, close=close, source=source, interval=interval),
        st.integers(0, 3), st.sampled_from([BTC, PEPE]), st.sampled_from([5.0, 6.0]),
        st.sampled_from(["ws", "rest", "import"]), st.sampled_from([M1, H1]),
    ),
    st.builds(
        lambda k, rate, late: settlement(T0 + k * HOUR_MS + late, rate=rate),
        st.integers(0, 2), st.sampled_from([0.1, 0.2]), st.sampled_from([0, 7]),
    ),
)  # fmt: skip
STEPS = st.lists(st.lists(ROWS, min_size=1, max_size=6) | st.sampled_from(["seal", "seal day"]), max_size=10)
FIRST = T0 + 400 * DAY_MS  # received long after: nothing is taken for open


def key_of(row):
    if isinstance(row, schemas.Bar):
        return ("bars", row.instrument, row.interval, row.open_ms)
    if isinstance(row, schemas.Settlement):
        return ("funding", row.instrument, None, round(row.time_ms / MINUTE_MS) * MINUTE_MS)
    return ("interest", row.instrument, None, row.time_ms)


def said(row):
    return tuple(row[1:-2]) if not isinstance(row, schemas.Bar) else tuple(row[2:-2])


def best(rows, known_ms):
    """What each key said then: of the rows received by then the best source, of equals the one that came last."""
    found = {}
    for row in rows:
        at = key_of(row)
        if row.received_ms <= known_ms and (at not in found or RANK[row.source] >= RANK[found[at].source]):
            found[at] = row
    return {at: said(row) for at, row in found.items()}


def answered(lake, known_ms):
    found = {}
    for venue in Venue:
        for table in (BARS, SETTLEMENTS, OPEN_INTEREST):
            for interval in (M1, H1) if table is BARS else (None,):
                asked = lake.read(table, venue, interval=interval, known_ms=known_ms).to_pylist()
                for r in asked:
                    at = round(r["timestamp"].timestamp() * 1000)
                    of = Instrument.parse(r["symbol"], venue)
                    assert known_ms is None or r["received_at"].timestamp() * 1000 <= known_ms
                    if table is BARS:
                        values = tuple(r[name] for name in schemas.KLINE.names[2:-2])
                        key = ("bars", of, interval, at)
                    elif table is SETTLEMENTS:
                        values, key = (
                            (r["funding_rate"], r["mark_price"]),
                            ("funding", of, None, round(at / MINUTE_MS) * MINUTE_MS),
                        )
                    else:
                        values, key = (r["open_interest"], r["open_interest_quote"]), ("interest", of, None, at)
                    assert key not in found
                    found[key] = (at, *values)
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("examples", [8, pytest.param(100, marks=pytest.mark.long)])
def test_a_read_as_of_any_time_is_what_was_known_then(tmp_path_factory, examples):
    given(STEPS)(settings(max_examples=examples, deadline=None)(lambda steps: check_known(tmp_path_factory, steps)))()


def check_known(tmp_path_factory, steps):
    lake, stored = Lake(tmp_path_factory.mktemp("lake")), []
    for k, step in enumerate(steps):
        if isinstance(step, list):
            rows = [row._replace(received_ms=FIRST + k) for row in step]
            lake.store(rows)
            stored += rows
        else:
            for venue in Venue:
                lake.seal(venue, before_ms=T0 + DAY_MS if step == "seal day" else None)
    for sealed in (False, True):
        for known_ms in (FIRST - 1, *(FIRST + k for k in range(len(steps)))):
            assert answered(lake, known_ms) == best(stored, known_ms), (sealed, known_ms - FIRST)
        assert answered(lake, None) == best(stored, FIRST + len(steps))
        for venue in Venue:
            lake.seal(venue)
            assert lake.seal(venue) == []
    lake.close()


@pytest.mark.parametrize("seal_every", [pytest.param(1, marks=pytest.mark.long), 5, 100])
def test_each_real_snapshot_comes_back_as_it_was_shown(lake, real_data, seal_every):
    """A read as known at a download is that download, exactly: 16 real ones of three OKX series.

    Only the taker volumes were restated between two of them; two numbers a time, they travel as open interest.
    """
    folder = real_data / "derivatives" / "okx_sol_usdt_swap"
    for name, of, columns in (
        ("open_interest_1h", SOL, ["oi", "oi_value"]),
        ("taker_volume_1h", ETH, ["sellVol", "buyVol"]),
        ("long_short_ratio_1h", SOL, ["ratio"]),
    ):
        table = OPEN_INTEREST if len(columns) > 1 else LONG_SHORT_RATIO
        seen = pl.from_arrow(pq.read_table(folder / f"{name}_snapshots.parquet")).sort("snapshot_time", "timestamp")
        seen = seen.with_columns(pl.col("timestamp", "snapshot_time").dt.epoch("ms"))
        downloads, known, restated = {}, {}, 0
        for (taken_ms,), frame in seen.group_by("snapshot_time", maintain_order=True):
            downloads[taken_ms] = {at: tuple(values) for at, *values in frame.select("timestamp", *columns).rows()}
            kind = OpenInterest if table is OPEN_INTEREST else LongShortRatio
            lake.store(kind(of, at, *values, "rest", taken_ms) for at, values in downloads[taken_ms].items())
            last = list(known.values())[-1] if known else {}
            restated += sum(last.get(at, values) != values for at, values in downloads[taken_ms].items())
            known[taken_ms] = last | downloads[taken_ms]  # what fell off the venue's window stays known
            if len(downloads) % seal_every == 0:
                lake.seal(of.venue)
        assert len(downloads) == 16
        assert (restated > 0) == (of is ETH)
        for taken_ms, download in downloads.items():
            read = lake.read(table, of.venue, of, known_ms=taken_ms)
            numbers = [read.column(name).to_pylist() for name in table.schema.names[2:-2]]
            times = read.column("timestamp").cast("int64").to_pylist()
            got = dict(zip(times, zip(*numbers, strict=True), strict=True))
            assert got == known[taken_ms]
            assert {at: got[at] for at in download} == download
        assert len(lake.read(table, of.venue, of, known_ms=min(downloads) - 1)) == 0
        lake.seal(of.venue)
        kept = query(lake, f"from restated_{table.folder}")
        assert (kept.symbol == of.symbol).sum() == restated


def test_a_better_source_that_says_the_same_restates_nothing_and_keeps_the_time_it_was_first_known(lake):
    for sealing in (False, True):
        k = int(sealing)
        lake.store([bar(k, source="ws", received_ms=FIRST)])
        if sealing:
            lake.seal(BTC.venue)
        assert lake.store([bar(k, source="rest", received_ms=FIRST + 9)]) == 1
        lake.seal(BTC.venue)
        row = lake.bars(BTC, M1).to_pylist()[k]
        assert (row["source"], row["received_at"].timestamp() * 1000) == ("rest", FIRST)
    assert len(lake.read(BARS, BTC.venue, BTC, interval=M1, known_ms=FIRST)) == 2
    assert not (lake.folder(BTC.venue) / "restated").exists()


@pytest.mark.parametrize("sealing", [(), (1,), (1, 2), (2, 3), (1, 2, 3)])
def test_a_value_that_was_outranked_is_not_known_before_a_better_source_confirms_it(lake, sealing):
    steps = [("archive", 12.0), ("ws", 11.0), ("archive", 11.0), ("import", 11.0)]
    lake.store([bar(0, close=12.0, source="archive", received_ms=FIRST)])
    lake.seal(BTC.venue)
    for k, (source, close) in enumerate(steps[1:], 1):
        lake.store([bar(0, close=close, source=source, received_ms=FIRST + k)])
        if k in sealing:
            lake.seal(BTC.venue)
    for _ in range(2):
        known = [lake.read(BARS, BTC.venue, BTC, interval=M1, known_ms=FIRST + k) for k in range(4)]
        assert [table.column("close").to_pylist() for table in known] == [[12.0], [12.0], [11.0], [11.0]]
        lake.seal(BTC.venue)


@pytest.mark.parametrize("sealed_first", [False, True])
def test_sources_that_say_the_same_one_after_another_restate_nothing(lake, sealed_first):
    """Also not while they wait in the hot store; what said something else before them does."""
    for k, source in enumerate(("ws", "rest", "archive")):
        lake.store([bar(0, source=source, received_ms=FIRST + k)])
        if sealed_first and source == "ws":
            lake.seal(BTC.venue)
        lake.store([bar(1, source=source, close=90.0 if source == "ws" else 100.0, received_ms=FIRST + k)])
    for _ in range(2):
        assert query(lake, "select close from restated_kline_1m")["close"].tolist() == [90.0]
        lake.seal(BTC.venue)
    received = [row["received_at"].timestamp() * 1000 - FIRST for row in lake.bars(BTC, M1).to_pylist()]
    assert received == [0, 1]


def test_samples_without_a_source_count_from_the_time_they_came(lake):
    lake.store([estimate(T0), estimate(T0 + MINUTE_MS)])
    for _ in range(2):
        assert len(lake.read(ESTIMATES, BTC.venue, known_ms=T0)) == 1
        assert len(lake.read(ESTIMATES, BTC.venue, known_ms=T0 - 1)) == 0
        lake.seal(BTC.venue)
