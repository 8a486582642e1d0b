"""Fields beside bars and funding: worked out by hand, the same however the rows came, known at the time they name."""

from __future__ import annotations

import numpy as np
import pytest
from test_convert import content

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, parse_utc
from qlib_crypto.errors import DataError
from qlib_crypto.lake import Lake
from qlib_crypto.lake.quality import Flag
from qlib_crypto.provider import convert, read_manifest, verify
from qlib_crypto.provider.write import feature_file
from qlib_crypto.schemas import (
    PERIOD_MS,
    Bar,
    Estimate,
    IndexBar,
    Liquidation,
    LongShortRatio,
    MarkBar,
    OpenInterest,
    Settlement,
)  # fmt: skip
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

T0 = parse_utc("2025-04-01")
M1, M5, H1 = (Interval.parse(name) for name in ("1m", "5m", "1h"))
BTC, ETH, SOL = (
    Instrument("BTC", "USDT", Venue.OKX), Instrument("ETH", "USDT", Venue.OKX), Instrument("SOL", "USDT", Venue.BINANCE)
)  # fmt: skip
FINE = ProviderSettings(intervals=("1m", "5m", "1h"), future_days=3)
AT_OPEN = ("funding_rate", "funding_interval", "funding_open", "funding_open_cash", "funding_estimate")
#: Whether nothing settled may be unknown for a while; an amount that was known stays.
UNKNOWN_FIRST = ("funding", "funding_cash", "funding_open", "funding_open_cash")


def bars(of, first, count, *, kind=Bar, base=100.0, interval=M1):
    """Bars that close one higher each."""
    for k in range(first, first + count):
        price = base + k
        prices = price - 0.5, price + 1, price - 1, price
        at = T0 + k * interval.ms
        if kind is Bar:
            yield Bar(of, interval, at, *prices, 2.0, 2.0 * price, 3, "rest", at + interval.ms)
        else:
            yield kind(of, interval, at, *prices, "rest", at + interval.ms)


def random_rows(rng, days=1):
    """Everything that a lake may have, with holes; liquidations with hours of silence."""
    rows = []
    minutes = days * 1440
    for of in (BTC, ETH, SOL):
        keep = rng.random(minutes) > rng.choice([0, 0.01])
        rows += [row for row, there in zip(bars(of, 0, minutes), keep, strict=True) if there]
        for kind in (MarkBar, IndexBar):
            base, keep = rng.uniform(90, 110), rng.random(minutes) > 0.01
            if rng.random() < 0.8:
                rows += [b for b, there in zip(bars(of, 0, minutes, kind=kind, base=base), keep, strict=True) if there]
        for kind in (OpenInterest, LongShortRatio):
            times = T0 + np.flatnonzero(rng.random(minutes // 5) > 0.1) * PERIOD_MS
            more = [None] if kind is OpenInterest else []
            rows += [kind(of, int(t), float(rng.uniform(1, 9)), *more, "rest", int(t) + PERIOD_MS) for t in times]
        times = np.unique(T0 + rng.integers(0, minutes * MINUTE_MS, rng.integers(0, minutes // 10)))
        times = times[(times - T0) // (4 * HOUR_MS) % 3 > 0]  # nobody heard anything for four hours
        rows += [
            Liquidation(of, int(t), str(rng.choice(["buy", "sell"])), 100.0, float(rng.uniform(1, 9)), int(t))
            for t in times
        ]
        for k in np.flatnonzero(rng.random(minutes) > 0.2).tolist():
            at = T0 + k * MINUTE_MS + int(rng.integers(0, MINUTE_MS))
            due = (at // (8 * HOUR_MS) + 1) * 8 * HOUR_MS
            rows.append(Estimate(of, at, float(rng.normal(0, 1e-4)), due, 8.0, None, at))
        rows += [
            Settlement(of, T0 + hours * HOUR_MS, float(rng.normal(0, 1e-4)), 100.0, "rest", T0 + hours * HOUR_MS)
            for hours in range(0, 24 * days, 8)
        ]
    return rows


def known_ms(row):
    """When a row was knowable: a candle at its close, a period a minute after its end, an event at once."""
    if isinstance(row, Bar | MarkBar | IndexBar):
        return row.open_ms + row.interval.ms
    if isinstance(row, OpenInterest | LongShortRatio):
        return row.time_ms + PERIOD_MS + MINUTE_MS
    return row.time_ms + 1


def value(provider, of, name, interval, open_ms):
    manifest = read_manifest(provider)
    first, last = manifest.span_ms(of.qlib, interval.qlib)
    assert first <= open_ms <= last
    return np.fromfile(feature_file(provider, of, name, interval), "<f4")[1 + (open_ms - first) // interval.ms]


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path / "lake")
    yield lake
    lake.close()


def test_worked_out_by_hand(lake, tmp_path):
    provider = tmp_path / "qlib_data"
    lake.store(bars(BTC, 0, 120))
    lake.store(bars(BTC, 0, 119, kind=MarkBar, base=200.0))
    lake.store(bars(BTC, 0, 120, kind=IndexBar, base=50.0))
    lake.store(OpenInterest(BTC, T0 + k * PERIOD_MS, 10.0 + k, None, "rest", T0 + DAY_MS) for k in range(4))
    lake.store([LongShortRatio(BTC, T0, 1.5, "rest", T0 + DAY_MS)])
    lake.store(
        [
            Liquidation(BTC, T0 + 30_000, "sell", 100.0, 4.0, T0 + DAY_MS),
            Liquidation(BTC, T0 + 40_000, "sell", 100.0, 0.5, T0 + DAY_MS),
            Liquidation(ETH, T0 + 60_000, "buy", 100.0, 7.0, T0 + DAY_MS),
            Liquidation(BTC, T0 + 18 * MINUTE_MS, "buy", 100.0, 2.0, T0 + DAY_MS),
        ]
    )
    lake.store(
        [
            Estimate(BTC, T0 + 61_000, 3e-4, T0 + 8 * HOUR_MS, 8.0, None, T0 + DAY_MS),
            Estimate(
                BTC, T0 + HOUR_MS - 1, 9e-4, T0 + HOUR_MS, 1.0, None, T0 + DAY_MS
            ),  # settles when the next bar opens
        ]
    )
    lake.flag(BTC, M1, {T0 + MINUTE_MS: int(Flag.OUTLIER), T0 + 2 * MINUTE_MS: int(Flag.GAP_BEFORE)})
    convert(lake, provider, FINE)

    def of(name, interval, k):
        return float(value(provider, BTC, name, interval, T0 + k * interval.ms))

    assert [of(f"mark{part}", M5, 1) for part in ("_open", "_high", "_low", "")] == [204.5, 210.0, 204.0, 209.0]
    assert np.isnan(of("mark", H1, 1))  # the last minute is missing
    assert of("mark", M1, 118) == 318.0
    assert of("index", M5, 0) == 54.0
    assert of("basis", M5, 0) == pytest.approx(104 / 54 - 1, rel=1e-6)
    # a period is used from six minutes after its label on, for fifteen minutes
    assert [np.isnan(of("open_interest", M1, k)) for k in (4, 5, 20 + 14, 20 + 15)] == [True, False, False, True]
    assert [of("open_interest", M1, k) for k in (5, 9, 10, 15, 20, 34)] == [10.0, 10.0, 11.0, 12.0, 13.0, 13.0]
    assert np.isnan(of("open_interest", M1, 35))
    assert of("open_interest", M5, 1) == 10.0  # closes at 00:10, six minutes after 00:04
    assert (of("long_short", M1, 5), of("long_short", M1, 19)) == (1.5, 1.5)
    assert np.isnan(of("long_short", M1, 20))
    # a sell closes a long; the venue was last heard in 00:01 and then silent until 00:18
    assert [of("liquidation_long", M1, k) for k in (0, 1, 16)] == [4.5, 0.0, 0.0]
    assert np.isnan(of("liquidation_long", M1, 17))
    assert (of("liquidation_short", M1, 18), of("liquidation_long", M1, 18)) == (2.0, 0.0)
    assert (of("liquidation_long", M5, 0), of("liquidation_short", M5, 0)) == (4.5, 0.0)
    assert np.isnan(of("liquidation_short", M5, 3))
    # known at the open, for five minutes, and only for a settlement that is still to come
    assert [np.isnan(of("funding_estimate", M1, k)) for k in (1, 2, 6, 7)] == [True, False, False, True]
    assert of("funding_estimate", M1, 2) == np.float32(3e-4)
    assert np.isnan(of("funding_estimate", M1, 60))
    assert [of("quality", M1, k) for k in (0, 1, 2)] == [0, 8, 2]
    assert (of("quality", M5, 0), of("quality", H1, 0), of("quality", H1, 1)) == (10, 10, 0)
    assert verify(lake, provider, cells="all") == []


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in range(1, 3))])
def test_the_same_bytes_however_the_rows_came(lake, tmp_path, seed):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, days=2)
    rows = [rows[at] for at in np.argsort([known_ms(row) + rng.exponential(6 * HOUR_MS) for row in rows])]
    provider, other = tmp_path / "qlib_data", tmp_path / "other"
    cuts = np.sort(rng.integers(len(rows) // 20, len(rows), 3)).tolist()
    for part, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(rows)], strict=True)):
        lake.store(rows[start:end])
        for of in (BTC, SOL):
            opens = lake.bar_times(of, M1)
            lake.flag(of, M1, {int(t): int(rng.integers(1, 16)) for t in rng.choice(opens, 3)})
        for venue in Venue:
            if rng.random() < 0.6:
                lake.seal(venue, before_ms=T0 + DAY_MS if rng.random() < 0.5 else None)
        convert(lake, provider, FINE, durable=False)
        convert(lake, other, FINE, durable=False, full=True)
        assert content(provider) == content(other), part
        assert read_manifest(provider).extra_fields == read_manifest(other).extra_fields
        assert not convert(lake, provider, FINE, durable=False).changed
    assert verify(lake, provider, cells="all") == []


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_value_is_what_was_known_at_its_time(tmp_path, seed):
    """Each of them from a lake of the rows that were knowable by then, and of all."""
    rng = np.random.default_rng(seed)
    rows = random_rows(rng)
    whole = Lake(tmp_path / "whole")
    whole.store(rows)
    convert(whole, tmp_path / "all", FINE, durable=False)
    whole.close()
    for number, (interval, k) in enumerate([(M1, 481), (M5, 200), (H1, 8), (H1, 17)]):
        open_ms = T0 + k * interval.ms
        close_ms = open_ms + interval.ms
        then = Lake(tmp_path / f"lake{number}")
        then.store(row for row in rows if known_ms(row) <= close_ms)
        convert(then, tmp_path / f"then{number}", FINE, durable=False)
        then.close()
        for of in (BTC, ETH, SOL):
            manifest = read_manifest(tmp_path / f"then{number}")
            if manifest.span_ms(of.qlib, interval.qlib)[1] < open_ms:
                continue  # the bar is missing
            for name in manifest.fields_of(of.qlib):
                final = value(tmp_path / "all", of, name, interval, open_ms)
                early = value(tmp_path / f"then{number}", of, name, interval, open_ms)
                if name in UNKNOWN_FIRST and np.isnan(early):
                    continue
                assert early == final or (np.isnan(early) and np.isnan(final)), (name, of, interval, k)
        opened = Lake(tmp_path / f"opened{number}")
        fast = (Estimate, Settlement)
        opened.store(row for row in rows if not isinstance(row, fast) or known_ms(row) <= open_ms + 1)
        convert(opened, tmp_path / f"open{number}", FINE, durable=False)
        opened.close()
        for of in (BTC, ETH, SOL):
            for name in AT_OPEN:
                final = value(tmp_path / "all", of, name, interval, open_ms)
                early = value(tmp_path / f"open{number}", of, name, interval, open_ms)
                if name in UNKNOWN_FIRST and np.isnan(early):
                    continue
                assert early == final or (np.isnan(early) and np.isnan(final)), (name, of, interval, k)


def test_an_instrument_has_only_the_fields_that_the_lake_has_rows_for(lake, tmp_path):
    provider = tmp_path / "qlib_data"
    for of in (BTC, ETH, SOL):
        lake.store(bars(of, 0, 120))
    lake.store(bars(BTC, 0, 120, kind=MarkBar))
    lake.store([OpenInterest(ETH, T0, 5.0, None, "rest", T0 + DAY_MS)])
    convert(lake, provider, FINE)
    marks = ("mark_open", "mark_high", "mark_low", "mark")
    assert read_manifest(provider).extra_fields == {
        "BTC_USDT.OKX": (*marks, "open_interest"), "ETH_USDT.OKX": ("open_interest",)
    }  # fmt: skip
    assert not feature_file(provider, SOL, "mark", M1).exists()
    lake.store(bars(ETH, 60, 30, kind=MarkBar, base=7.0))
    summary = convert(lake, provider, FINE)  # all of that instrument is made again, nothing else
    assert not summary.rebuilt
    assert value(provider, ETH, "mark", M1, T0 + 60 * MINUTE_MS) == 67.0
    assert np.isnan(value(provider, ETH, "mark", M1, T0))
    assert verify(lake, provider, cells="all") == []
    lake.seal(Venue.OKX)
    convert(lake, provider, FINE)
    for path in (lake.folder(Venue.OKX) / "mark_1m").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"mark_high mark_low mark of BTC_USDT\.OKX, the lake has no rows"):
        convert(lake, provider, FINE)
    assert convert(lake, provider, FINE, full=True).changed
    assert "ETH_USDT.OKX" in read_manifest(provider).extra_fields


def test_flags_that_a_check_finds_later_are_put_in_place(lake, tmp_path):
    provider = tmp_path / "qlib_data"
    lake.store(bars(BTC, 0, 2 * 1440))
    lake.seal(Venue.OKX)
    convert(lake, provider, FINE)
    lake.flag(BTC, M1, {T0 + 7 * MINUTE_MS: int(Flag.UNIT_MISMATCH)})
    assert "the lake changed since" in " ".join(verify(lake, provider, cells="all"))
    summary = convert(lake, provider, FINE)
    assert summary.changed
    assert not summary.rebuilt
    assert (value(provider, BTC, "quality", M5, T0 + PERIOD_MS), verify(lake, provider, cells="all")) == (4.0, [])
    lake.flag(BTC, M1, {}, instead_of={T0 + 7 * MINUTE_MS: int(Flag.UNIT_MISMATCH)})
    assert convert(lake, provider, FINE).changed
    assert value(provider, BTC, "quality", M5, T0 + PERIOD_MS) == 0.0


def test_a_missing_bar_has_none_of_them_wherever_blocks_of_days_end(lake, tmp_path):
    """The day of a missing bar has no bar: what a whole build and an update of each day have there is the same."""
    hours = ProviderSettings(intervals=("1h", "1d"), future_days=3)
    provider, other = tmp_path / "qlib_data", tmp_path / "other"
    missing = {20 * 24 + 3, 57 * 24 + 3, 63 * 24 + 3}
    kinds = [list(bars(BTC, 0, 66 * 24, kind=kind, interval=H1)) for kind in (Bar, MarkBar)]
    rows = [row for kind, of in enumerate(kinds) for k, row in enumerate(of) if kind or k not in missing]
    for first, last in ((0, 21), (21, 58), (58, 66)):
        days = range(T0 + first * DAY_MS, T0 + last * DAY_MS)
        lake.store(row for row in rows if row.open_ms in days)
        lake.seal(Venue.OKX)
        convert(lake, provider, hours, durable=False)
    convert(lake, other, hours, durable=False)
    assert content(provider) == content(other)
    day = Interval.parse("1d")
    assert [np.isnan(value(provider, BTC, "mark", day, T0 + k * DAY_MS)) for k in (20, 57, 63, 64)] == [1, 1, 1, 0]
    assert verify(lake, provider, cells="all") == []


def test_an_estimate_of_the_minute_that_begins_is_not_known_at_its_open(lake, tmp_path):
    """The lake keeps the last of each minute: one told exactly at an open may be replaced."""
    lake.store(bars(BTC, 0, 5))
    due = T0 + 8 * HOUR_MS
    lake.store(
        [Estimate(BTC, T0 + at, rate, due, 8.0, None, T0 + DAY_MS) for at, rate in ((30_000, 1.0), (60_000, 2.0))]
    )
    for later in ([], [Estimate(BTC, T0 + 90_000, 3.0, due, 8.0, None, T0 + DAY_MS)]):
        lake.store(later)
        convert(lake, tmp_path / "qlib_data", FINE, durable=False)
        assert value(tmp_path / "qlib_data", BTC, "funding_estimate", M1, T0 + MINUTE_MS) == 1.0
    assert value(tmp_path / "qlib_data", BTC, "funding_estimate", M1, T0 + 2 * MINUTE_MS) == 3.0


@pytest.mark.parametrize(
    "row",
    [
        OpenInterest(BTC, T0 + PERIOD_MS, 5.0, None, "rest", T0 + DAY_MS),
        Liquidation(BTC, T0 + PERIOD_MS, "sell", 100.0, 1.0, T0 + DAY_MS),
        Estimate(BTC, T0 + MINUTE_MS, 2e-4, T0 + 8 * HOUR_MS, 8.0, None, T0 + DAY_MS),
    ],
    ids=lambda row: type(row).__name__,
)
def test_a_row_that_comes_while_all_is_built_is_no_fault(lake, tmp_path, row):
    lake.store(bars(BTC, 0, 60))
    lake.store([row._replace(time_ms=T0)])
    convert(lake, tmp_path / "qlib_data", FINE, full=True, progress=lambda _: lake.store([row]))
    convert(lake, tmp_path / "qlib_data", FINE)
    assert verify(lake, tmp_path / "qlib_data", cells="all") == []
