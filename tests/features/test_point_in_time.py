"""No field and no feature of a bar changes when everything after the bar's close is taken away from the lake."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import qlib
from qlib.data.dataset.handler import DataHandlerLP

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.features.handler import PerpAlpha158
from qlib_crypto.market.funding import snap_to_minute
from qlib_crypto.provider import convert, read_manifest
from qlib_crypto.sandbox.generator import GeneratorTape
from qlib_crypto.sandbox.generator_config import Events, GeneratorConfig
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "provider"))

from provider_lakes import MemoryLake

pytestmark = pytest.mark.long

FREQUENCIES = {"1h": 60 * MINUTE_MS, "5m": 5 * MINUTE_MS, "1d": DAY_MS}
#: Whether nothing settled since an overdue settlement shows when the next one comes; what was known stays.
AMOUNTS = ("funding", "funding_cash", "funding_open", "funding_open_cash")
DAYS = 10
CONFIG = GeneratorConfig(
    venue=Venue.BINANCE, start_ms=DAY_MS * 20_000, end_ms=DAY_MS * (20_000 + DAYS), minute_days=2, event_days=DAYS
)
START, EVENTS = CONFIG.start_ms, Events.of(CONFIG)
#: From here on one contract settles every 8 hours instead of 4: the settlement at 20:00 stays away.
GROWTH = START + 6 * DAY_MS + 16 * HOUR_MS
CUTS = {
    "interval grew": GROWTH + 7 * HOUR_MS,
    "interval shrank": START + EVENTS.interval_change * HOUR_MS,
    "after a listing": START + (EVENTS.listings[1] + 63) * HOUR_MS,
    "between minutes": START + (DAYS - 1) * DAY_MS + 13 * HOUR_MS + 35 * MINUTE_MS,
}


def settlements(tape: GeneratorTape, instrument: Instrument, *, grows: bool) -> pd.DataFrame:
    """Of the tape; every 8 hours after `GROWTH` where that is asked for."""
    own = tape.settlements(instrument)
    frame = pd.DataFrame({"rate": own.rate, "mark": own.mark_price}, index=own.time_ms)
    at = snap_to_minute(own.time_ms)
    return frame[(at <= GROWTH) | (at % (8 * HOUR_MS) == 0)] if grows else frame


@pytest.fixture(scope="module")
def lake() -> MemoryLake:
    """Contracts of every interval: majors, one whose interval grows, changing, listed later, delisted."""
    tape = GeneratorTape(CONFIG)
    by_interval = {}
    for instrument in tape.specs:
        at = snap_to_minute(tape.settlements(instrument).time_ms)
        by_interval.setdefault(tuple(np.unique(np.diff(at))), []).append(instrument)
    grows = by_interval[(4 * HOUR_MS,)][0]
    chosen = {*list(tape.specs)[-4:], *(i for same in by_interval.values() for i in same[:2])}
    frames, funding = {}, {}
    for instrument in sorted(chosen):
        funding[instrument] = settlements(tape, instrument, grows=instrument == grows)
        for interval in tape.intervals(instrument):
            bars = tape.bars(instrument, interval)
            frames.setdefault(instrument, {})[interval] = pd.DataFrame(
                {
                    "open": bars.open, "high": bars.high, "low": bars.low, "close": bars.close,
                    "volume": bars.volume_base, "quote_volume": bars.volume_quote,
                },
                index=bars.open_ms,
            )  # fmt: skip
    return MemoryLake(frames, funding)


def until(lake: MemoryLake, cut: int) -> MemoryLake:
    """The lake as it was at `cut`: bars that had closed, settlements before it."""
    frames = {
        instrument: {i: frame[frame.index + i.ms <= cut] for i, frame in own.items()}
        for instrument, own in lake.frames.items()
    }
    kept = {i: {n: f for n, f in own.items() if len(f)} for i, own in frames.items()}
    funding = {i: frame[snap_to_minute(frame.index.to_numpy()) < cut] for i, frame in lake.funding.items()}
    return MemoryLake({i: own for i, own in kept.items() if own}, funding)


def fields(provider: Path) -> dict[tuple[str, str, str], pd.Series]:
    """Every field by instrument, frequency and name, on its opens in ms."""
    manifest, out = read_manifest(provider), {}
    for name, spans in manifest.instruments.items():
        for freq, (start, length) in spans.items():
            opens = manifest.grid(freq).opens()[start : start + length]
            for field in manifest.fields:
                data = np.fromfile(provider / "features" / name.lower() / f"{field}.{freq}.bin", dtype="<f4")[1:]
                out[name, freq, field] = pd.Series(data, opens)
    return out


def features(provider: Path, freq: str) -> pd.DataFrame:
    qlib.init(provider_uri=str(provider), region="us", kernels=1, logging_level=40)
    handler = PerpAlpha158("all", freq=freq, warmup_bars=5, infer_processors=[], learn_processors=[])
    return handler.fetch(col_set=DataHandlerLP.CS_RAW, data_key=DataHandlerLP.DK_R)["feature"]


@pytest.fixture(scope="module")
def whole(lake, tmp_path_factory):
    provider = tmp_path_factory.mktemp("whole") / "qlib_data"
    convert(lake, provider, ProviderSettings(intervals=tuple(FREQUENCIES)))
    tables = {Interval.parse(name).qlib: features(provider, Interval.parse(name).qlib) for name in FREQUENCIES}
    return fields(provider), tables


@pytest.fixture(params=CUTS)
def cut(request, lake, tmp_path):
    convert(until(lake, CUTS[request.param]), tmp_path / "qlib_data", ProviderSettings(intervals=tuple(FREQUENCIES)))
    return CUTS[request.param], tmp_path / "qlib_data"


def test_the_past_stays_as_it_was(whole, cut):
    all_fields, tables = whole
    end, provider = cut
    known = fields(provider)
    later = set()
    for key, full in all_fields.items():
        _, freq, field = key
        past = full[full.index + Interval.parse(freq).ms <= end]
        if past.empty:
            assert key not in known
            continue
        then = known[key]
        np.testing.assert_array_equal(then.index, past.index[: len(then)], err_msg=f"{key}")
        past = past[: len(then)]
        if field in AMOUNTS:
            later |= set(past.index[then.isna() & past.notna()])
            past = past.where(then.notna())
        np.testing.assert_array_equal(then, past, err_msg=f"{key}")
    if end == CUTS["interval grew"]:
        assert {GROWTH + 4 * HOUR_MS, GROWTH + 6 * HOUR_MS} <= later, "overdue is unknown until the next settlement"
    for freq, table in tables.items():
        bar = pd.Timedelta(Interval.parse(freq).ms, "ms")
        past = table[table.index.get_level_values("datetime") + bar <= pd.Timestamp(end, unit="ms")]
        if past.empty:
            continue
        pd.testing.assert_frame_equal(features(provider, freq), past, check_exact=True)


def test_the_market_has_what_could_go_wrong(lake, whole):
    all_fields, tables = whole
    hours = {
        name: s for (name, freq, field), s in all_fields.items() if freq == "60min" and field == "funding_interval"
    }
    assert len({s.dropna().index[0] for s in hours.values()}) > 2, "listings"
    changes = np.concatenate([s.dropna().diff().to_numpy() for s in hours.values()])
    assert (changes > 0).any(), "an interval that grows"
    assert (changes < 0).any(), "one that shrinks"
    overdue = [
        all_fields[name, "60min", "funding_next"].reindex([GROWTH + n * HOUR_MS for n in range(4, 8)]).isna().all()
        for name, s in hours.items()
        if s.get(GROWTH + 4 * HOUR_MS) == 4
    ]
    assert sum(overdue) == 1
    assert len(overdue) > 1
    assert (tables["60min"].notna().mean() > 0.1).drop("FUNDCUM7D").all()
    assert len(tables["5min"]) > 1_000
    assert {i for own in lake.frames.values() for i in own} == {Interval.parse("1m"), Interval.parse("1h")}
