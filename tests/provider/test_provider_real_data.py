"""Real OKX bars and funding through the lake: our resampled bars are the venue's own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from qlib_crypto.clock import parse_utc
from qlib_crypto.lake import Lake
from qlib_crypto.provider import convert, read_manifest, verify
from qlib_crypto.schemas import Bar, Settlement
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

#: What is taken: all of it would take a minute.
START, END = parse_utc("2025-03-20T05:30"), parse_utc("2025-03-25")
SYMBOLS = ("BTC", "ETH", "SOL")
FOLDERS = {"1m": "okx_swap_1m", "5m": "okx_swap_5m", "1h": "okx_swap_1h"}
#: Only BTC has its venue's 5m bars in the lake as well; the others must be made from their minutes.
STORED = {"BTC": ("1m", "5m", "1h"), "ETH": ("1m", "1h"), "SOL": ("1m",)}


def candles(real_data, base, name):
    frame = pd.read_parquet(real_data / "candles" / FOLDERS[name] / f"{base}-USDT-SWAP.parquet")
    frame.index = frame.pop("timestamp").astype("datetime64[ms, UTC]").astype(np.int64)
    return frame[(frame.index >= START) & (frame.index < END)]


@pytest.fixture(scope="module")
def converted(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    lake = Lake(folder)
    for base, names in STORED.items():
        instrument = Instrument(base, "USDT", Venue.OKX)
        for name in names:
            interval = Interval.parse(name)
            lake.store(
                Bar(instrument, interval, int(t), o, h, l, c, v, None, None, "rest", int(t) + interval.ms + 1)
                for t, o, h, l, c, v in candles(real_data, base, name)[
                    ["open", "high", "low", "close", "volume"]
                ].itertuples()
            )
    funding = pd.read_parquet(real_data / "funding" / "okx_swap_funding.parquet")
    funding = funding[funding["symbol"].isin([f"{base}-USDT-SWAP" for base in SYMBOLS])]
    lake.store(
        Settlement(Instrument.from_venue_id(Venue.OKX, symbol), int(time.timestamp() * 1000), rate, None, "rest", END)
        for symbol, time, rate in funding[["symbol", "funding_time", "funding_rate"]].itertuples(index=False)
        if time.timestamp() * 1000 < END
    )
    lake.seal(Venue.OKX)
    convert(lake, folder / "qlib_data", ProviderSettings())
    yield lake, folder / "qlib_data"
    lake.close()


def stored(provider, base, field, freq):
    """A field by open in ms."""
    manifest = read_manifest(provider)
    start, length = manifest.instruments[f"{base}_USDT.OKX"][freq]
    data = np.fromfile(provider / "features" / f"{base.lower()}_usdt.okx" / f"{field}.{freq}.bin", dtype="<f4")
    assert (int(data[0]), len(data) - 1) == (start, length)
    return pd.Series(data[1:], index=manifest.grid(freq).opens()[start : start + length])


@pytest.mark.parametrize(("base", "name"), [("BTC", "5m"), ("ETH", "5m"), ("SOL", "5m"), ("SOL", "1h"), ("BTC", "1h")])
def test_bars_made_of_minutes_are_the_venues_own(converted, real_data, base, name):
    _, provider = converted
    own = candles(real_data, base, name)
    made = {field: stored(provider, base, field, Interval.parse(name).qlib) for field in own.columns[:5]}
    both = own.index.intersection(made["close"].index)
    assert len(both) > (END - START) / Interval.parse(name).ms - 2
    for field in ("open", "high", "low", "close"):
        np.testing.assert_array_equal(made[field][both], own[field][both].astype(np.float32), err_msg=field)
    np.testing.assert_allclose(made["volume"][both], own["volume"][both], rtol=1e-6)


def test_every_cell_equals_the_independent_computation(converted):
    lake, provider = converted
    assert verify(lake, provider, cells="all") == []
    assert verify(lake, provider) == []


def test_funding_is_what_okx_paid_at_its_trade_price(converted, real_data):
    lake, provider = converted
    rates = lake.settlements(Venue.OKX, Instrument("BTC", "USDT", Venue.OKX), START, END).to_pandas()
    paid, cash = stored(provider, "BTC", "funding", "60min"), stored(provider, "BTC", "funding_cash", "60min")
    minutes = candles(real_data, "BTC", "1m")
    for time, rate in rates[["timestamp", "funding_rate"]].itertuples(index=False):
        at = int(time.timestamp() * 1000)
        assert paid[at] == np.float32(rate)
        assert cash[at] == pytest.approx(rate * minutes["open"][at], rel=1e-6)
    assert len(rates) == 14
    hours = pd.to_datetime(paid.index, unit="ms").hour
    assert (paid[hours % 8 != 0] == 0).all()
    counts = read_manifest(provider).settlement_prices["BTC_USDT.OKX"]
    assert counts["mark"] == 0
    assert counts["trade"] >= len(rates)


def test_an_hour_and_a_day_that_nothing_covers_completely_are_missing(converted):
    """Everything begins at 05:30 here: no source has the whole hour, or the whole day."""
    _, provider = converted
    first = {base: stored(provider, base, "close", "60min").index[0] for base in SYMBOLS}
    assert first == dict.fromkeys(SYMBOLS, parse_utc("2025-03-20T06:00"))
    assert stored(provider, "BTC", "close", "1min").index[0] == START
    assert stored(provider, "BTC", "close", "day").index[0] == parse_utc("2025-03-21")
