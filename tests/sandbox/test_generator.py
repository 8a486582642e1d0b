"""The generated market: structure, bars and specs are what the configuration promises."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_generator import DAY, HOUR, MINUTE, START, exact, tape, wide

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.sandbox.generator import GeneratorConfig, GeneratorTape
from qlib_crypto.sandbox.tape import Tape
from qlib_crypto.symbols import Instrument, Interval, Venue

VENUES = pytest.mark.parametrize("venue", list(Venue))
COLUMNS = ("open_ms", "open", "high", "low", "close", "volume_base", "volume_quote", "trades")


@pytest.fixture(scope="module")
def demo() -> dict[Venue, GeneratorTape]:
    return {venue: GeneratorTape(GeneratorConfig(venue)) for venue in Venue}


def bars_equal(a, b, upto: int | None = None) -> bool:
    return all(np.array_equal(getattr(a, name)[:upto], getattr(b, name)[:upto]) for name in COLUMNS)


def test_it_is_a_tape(demo):
    source: Tape = demo[Venue.OKX]
    assert source.venue is Venue.OKX
    assert source.span_ms == (START, START + 150 * DAY)


@VENUES
def test_default_market_is_the_promised_one(demo, venue):
    source = demo[venue]
    start, end = source.span_ms
    assert len(source.specs) == 32
    assert {i.quote for i in source.specs} == {"USDT"}
    assert len({i.base for i in source.specs}) == 32
    bases = [i.base for i in source.specs]
    assert bases[:2] == ["BTC", "ETH"]
    assert sum(base.startswith("1000") for base in bases) == (1 if venue is Venue.BINANCE else 0)
    listed_inside = [s for s in source.specs.values() if s.listed_ms > start]
    delisted = [s for s in source.specs.values() if s.delisted_ms is not None]
    assert len(listed_inside) == 3
    assert len(delisted) == 1
    assert all(start < s.listed_ms < end for s in listed_inside)
    assert start < delisted[0].delisted_ms < end


@VENUES
def test_bars_are_complete_from_listing_to_delisting(demo, venue):
    source = demo[venue]
    start, end = source.span_ms
    for instrument, spec in source.specs.items():
        first, last = max(start, spec.listed_ms), min(end, spec.delisted_ms or end)
        hours = source.bars(instrument, HOUR)
        assert np.array_equal(hours.open_ms, np.arange(first, last, HOUR_MS))
        minutes = source.bars(instrument, MINUTE)
        assert np.array_equal(minutes.open_ms, np.arange(max(first, end - 3 * DAY), last, MINUTE.ms))
        assert source.intervals(instrument) == ((MINUTE, HOUR) if len(minutes.open_ms) else (HOUR,))
        assert np.array_equal(hours.open[1:], hours.close[:-1])
        assert np.array_equal(minutes.open[1:], minutes.close[:-1])


def check_bars(source: GeneratorTape, instrument: Instrument, interval: Interval) -> None:
    """Order, ticks, lots and turnover of every bar, in exact decimals where floats could hide something."""
    bars, spec = source.bars(instrument, interval), source.specs[instrument]
    assert np.all(bars.low > 0)
    assert np.all(bars.low <= np.minimum(bars.open, bars.close))
    assert np.all(bars.high >= np.maximum(bars.open, bars.close))
    some = slice(None, None, max(1, len(bars.open) // 200))
    tick, lot = (
        Decimal(repr(spec.tick_size)),
        Decimal(repr(spec.lot_contracts)) * Decimal(repr(spec.contract_value_base)),
    )
    for column in (bars.open, bars.high, bars.low, bars.close):
        assert all(price % tick == 0 for price in exact(column[some]))
    volumes, quotes = exact(bars.volume_base[some]), exact(bars.volume_quote[some])
    assert all(volume % lot == 0 for volume in volumes)
    lows, highs = exact(bars.low[some]), exact(bars.high[some])
    assert all(low * v <= q <= high * v for low, high, v, q in zip(lows, highs, volumes, quotes, strict=True)), (
        instrument
    )
    out = np.zeros(len(bars.open), dtype=bool)
    for begin, end in source.outages:
        out |= (bars.open_ms >= begin) & (bars.open_ms < end)
    assert np.all(bars.volume_base[~out] > 0)
    assert np.all(bars.volume_base[out] == 0)
    assert np.all(bars.volume_quote[out] == 0)
    assert np.all(bars.high[out] == bars.low[out])
    if source.venue is Venue.BINANCE:
        assert np.all((bars.trades > 0) == ~out)
    else:
        assert np.all(bars.trades == -1)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    venue=st.sampled_from(list(Venue)),
    seed=st.integers(0, 2**32),
    n_symbols=st.integers(30, 120),
    hours=st.integers(24, 24 * 12),
    minute_days=st.integers(0, 1),
    signal_strength=st.floats(0, 1),
    hourly_volatility=st.sampled_from([0.0, 1e-5, 0.008, 0.03]),
    premium_volatility=st.floats(0, 0.01),
)
def test_any_market_has_sane_bars(venue, seed, n_symbols, hours, **given_settings):
    source = tape(venue, hours / 24, seed=seed, n_symbols=n_symbols, **given_settings)
    instruments = list(source.specs)
    assert len(set(instruments)) == n_symbols
    for instrument in (*instruments[:4], *instruments[-5:]):
        for interval in (MINUTE, HOUR):
            check_bars(source, instrument, interval)


@VENUES
def test_default_market_has_sane_bars(demo, venue):
    for instrument in demo[venue].specs:
        for interval in (MINUTE, HOUR):
            check_bars(demo[venue], instrument, interval)


@VENUES
@pytest.mark.parametrize("event_days", [None, 2.0])
def test_hours_are_exactly_the_sum_of_their_minutes(venue, event_days):
    source = tape(venue, 3, minute_days=3, event_days=event_days)  # with 2 days the outage has minutes
    for instrument in source.specs:
        hours, minutes = source.bars(instrument, HOUR), source.bars(instrument, MINUTE)
        block = {name: getattr(minutes, name).reshape(-1, 60) for name in COLUMNS}
        assert np.array_equal(hours.open_ms, block["open_ms"][:, 0])
        assert np.array_equal(hours.open, block["open"][:, 0])
        assert np.array_equal(hours.close, block["close"][:, -1])
        assert np.array_equal(hours.high, block["high"].max(axis=1))
        assert np.array_equal(hours.low, block["low"].min(axis=1))
        for name in ("volume_base", "volume_quote"):
            summed = [sum(exact(row)) for row in block[name]]
            assert summed == exact(getattr(hours, name))
        if venue is Venue.BINANCE:
            assert np.array_equal(hours.trades, block["trades"].sum(axis=1))


def test_outage_prints_flat_bars_of_every_listed_symbol():
    source = tape(days=6, minute_days=6)
    ((begin, end),) = source.outages
    assert end - begin == 2 * HOUR_MS
    for instrument, spec in source.specs.items():
        bars = source.bars(instrument, MINUTE)
        inside = (bars.open_ms >= begin) & (bars.open_ms < end)
        listed = spec.listed_ms < end
        assert inside.sum() == (120 if listed else 0)
        if listed:
            before = bars.close[bars.open_ms == begin - MINUTE.ms]
            for column in (bars.open, bars.high, bars.low, bars.close):
                assert np.all(column[inside] == before)


def test_events_beyond_the_span_do_not_happen():
    source = tape(days=5, event_days=100)
    assert source.outages == ()
    missing = [i for i in source.specs if not source.intervals(i)]
    assert len(missing) == 3
    for instrument in missing:
        assert source.funding_now(instrument, source.span_ms[1] - 1) is None
        assert len(source.bars(instrument, HOUR).open_ms) == len(source.settlements(instrument).time_ms) == 0
        assert source.specs[instrument].listed_ms > source.span_ms[1]


@VENUES
def test_returns_are_correlated_and_fat_tailed_and_volatility_clusters(demo, venue):
    returns = (wide(demo[venue], "close") / wide(demo[venue], "open") - 1).dropna(axis=1)
    correlation = returns.corr().to_numpy()
    off = correlation[~np.eye(len(correlation), dtype=bool)]
    assert 0.2 < off.mean() < 0.6
    assert off.min() > 0.05
    assert (returns.kurt() > 1.5).all()  # excess
    size = returns.abs().mean(axis=1)
    assert size.autocorr(24) > 0.1
    assert 0.004 < returns.std().median() < 0.012
    volume = wide(demo[venue], "volume_quote")[returns.columns]
    assert volume.corrwith(returns.abs()).min() > 0.3


@VENUES
def test_prices_span_the_levels_of_a_real_venue(demo, venue):
    first = wide(demo[venue], "open").bfill().iloc[0]
    assert first.max() == pytest.approx(1e5, rel=0.2)
    assert first.min() < (1e-4 if venue is Venue.OKX else 1e-2)
    assert ((first > 1e-5) & (first < 1e5)).all()


@VENUES
def test_specs_are_those_of_the_venue(demo, venue):
    for instrument, spec in demo[venue].specs.items():
        assert spec.instrument == instrument
        assert (spec.state, spec.category, spec.rule_type, spec.spec_source) == (
            "live",
            "crypto",
            "normal",
            "generated",
        )
        price = demo[venue].bars(instrument, HOUR).open[0]
        assert 1e-6 < spec.tick_size / price <= 1.01e-4
        assert spec.lot_base * price < 1500
        assert spec.listed_ms < (spec.delisted_ms or demo[venue].span_ms[1])
        if venue is Venue.OKX:
            assert spec.min_notional_quote is None
            if instrument.base not in {"BTC", "ETH"}:
                assert 10**0.5 <= spec.contract_value_base * price <= 10**1.5
        else:
            assert spec.contract_value_base == 1
            assert spec.lot_base <= 1
            assert spec.min_notional_quote >= 5


@VENUES
def test_same_seed_same_tape_other_seed_other_tape(venue):
    one, same, other = tape(venue, 4), tape(venue, 4), tape(venue, 4, seed=1)
    btc = Instrument("BTC", "USDT", venue)
    for instrument in one.specs:
        for interval in (MINUTE, HOUR):
            assert bars_equal(one.bars(instrument, interval), same.bars(instrument, interval))
        assert np.array_equal(one.settlements(instrument).rate, same.settlements(instrument).rate)
        assert np.array_equal(one.settlements(instrument).time_ms, same.settlements(instrument).time_ms)
    assert one.specs == same.specs
    assert not np.array_equal(one.bars(btc, HOUR).close, other.bars(btc, HOUR).close)


def test_the_venues_are_separate_markets():
    okx, binance = (tape(venue, 4).bars(Instrument("BTC", "USDT", venue), HOUR) for venue in Venue)
    assert not np.array_equal(okx.close[:24], binance.close[:24])


@VENUES
def test_a_later_end_only_appends(venue):
    """With the events fixed, nothing of the past depends on how far the tape goes."""
    short, long = (tape(venue, days, minute_days=0, event_days=20) for days in (15, 19))
    for instrument in short.specs:
        a, b = short.bars(instrument, HOUR), long.bars(instrument, HOUR)
        assert bars_equal(a, dataclasses.replace(b, **{n: getattr(b, n)[: len(a.open)] for n in COLUMNS}))
        s, l_ = short.settlements(instrument), long.settlements(instrument)
        for name in ("time_ms", "rate", "mark_price"):
            assert np.array_equal(getattr(s, name), getattr(l_, name)[: len(s.rate)])
    rows = short.config.hours
    assert np.array_equal(short.planted_signal(), long.planted_signal()[:rows], equal_nan=True)
    minutes = tape(venue, 15, minute_days=2, event_days=20), tape(venue, 16, minute_days=3, event_days=20)
    for instrument in short.specs:
        a, b = (m.bars(instrument, MINUTE) for m in minutes)
        assert bars_equal(a, b, len(a.open))


def test_what_is_handed_out_cannot_be_changed():
    source = tape(days=2)
    instrument = next(iter(source.specs))
    with pytest.raises(ValueError, match="read-only"):
        source.bars(instrument, HOUR).close[0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        source.settlements(instrument).rate[0] = 1.0


def test_other_intervals_have_no_bars_and_other_instruments_are_refused():
    source = tape(days=2)
    assert len(source.bars(next(iter(source.specs)), Interval.parse("5m")).open) == 0
    stranger = Instrument("BTC", "USDT", Venue.BINANCE)
    for ask in (source.intervals, source.settlements):
        with pytest.raises(ConfigError, match=r"BTC_USDT\.BINANCE is not on this generated tape"):
            ask(stranger)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"n_symbols": 29},
        {"n_symbols": 121},
        {"start_ms": START + HOUR_MS},
        {"end_ms": START + HOUR_MS},
        {"end_ms": START + 2 * DAY + 1},
        {"minute_days": -1},
        {"signal_strength": 1.5},
        {"signal_strength": float("nan")},
        {"hourly_volatility": -0.1},
        {"premium_volatility": 1.0},
        {"event_days": 0.0},
    ],
)
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=f"generator setting {next(iter(wrong))} is "):
        GeneratorConfig(Venue.OKX, **wrong)
