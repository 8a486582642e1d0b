"""Exported bars are those of the provider, and what others need them for works."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from provider_lakes import T0, MemoryLake, make_bars, make_settlements

from qlib_crypto.cli.provider import export as command
from qlib_crypto.clock import DAY_MS, HOUR_MS, parse_utc
from qlib_crypto.collect import import_data
from qlib_crypto.errors import ConfigError, DataError, StorageError
from qlib_crypto.lake import Lake
from qlib_crypto.provider import convert
from qlib_crypto.provider.export import average_true_range, export
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

HOUR, DAY = Interval.parse("1h"), Interval.parse("1d")
BTC, ETH = Instrument("BTC", "USDT", Venue.OKX), Instrument("ETH", "USDT", Venue.BINANCE)
NAMES = ["open", "high", "low", "close", "volume"]


@pytest.fixture(scope="module")
def bars():
    rng = np.random.default_rng(2)
    return {ETH: make_bars(rng, HOUR, T0 + 30 * HOUR_MS, 60), BTC: make_bars(rng, HOUR, T0, 24 * 5, holes=0.05)}


@pytest.fixture(scope="module")
def provider(bars, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "qlib_data"
    rng = np.random.default_rng(3)
    settled = {BTC: make_settlements(rng, T0, [8] * 14, jitter_ms=0, marked=1)}
    lake = MemoryLake({i: {HOUR: frame} for i, frame in bars.items()}, settled)
    convert(lake, folder, ProviderSettings(intervals=("1h", "1d")), durable=False)
    return folder


def read(path):
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, parse_dates=["time"], dtype=dict.fromkeys([*NAMES, "High", "Low", "Close"], np.float32))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_bar_and_no_other(provider, bars, tmp_path, kind):
    paths = export(provider, tmp_path, HOUR, kind=kind)
    assert [path.name for path in paths] == [f"ETH_USDT.BINANCE_1h.{kind}", f"BTC_USDT.OKX_1h.{kind}"]
    for path, frame in zip(paths, bars.values(), strict=True):
        found = read(path)
        assert list(found.columns) == ["time", *NAMES]
        assert (found["time"] == pd.to_datetime(frame.index, unit="ms", utc=True)).all()
        np.testing.assert_array_equal(found[NAMES].to_numpy(), frame[NAMES].to_numpy(np.float32))


def test_columns_span_and_instruments_can_be_chosen(provider, bars, tmp_path):
    span = T0 + 10 * HOUR_MS, T0 + 20 * HOUR_MS
    (path,) = export(
        provider, tmp_path, HOUR, instruments=[BTC], columns=["funding", "close"], span_ms=span, kind="parquet"
    )
    found = pd.read_parquet(path)
    rows = bars[BTC][(bars[BTC].index >= span[0]) & (bars[BTC].index < span[1])]
    assert list(found.columns) == ["time", "funding", "close"]
    assert len(found) == len(rows)
    np.testing.assert_array_equal(found["close"], rows["close"].astype(np.float32))
    assert export(provider, tmp_path, DAY, instruments=[ETH]) == [tmp_path / "ETH_USDT.BINANCE_1d.csv"]


def test_unknown_is_an_empty_cell(provider, tmp_path):
    export(provider, tmp_path, HOUR, instruments=[ETH], columns=["close", "funding"])
    lines = (tmp_path / "ETH_USDT.BINANCE_1h.csv").read_text().splitlines()
    assert lines[0] == "time,close,funding"
    assert lines[1].startswith("2025-03-14T06:00:00Z,")
    assert all(line.endswith(",") for line in lines[1:])


def plain_atr(high, low, close, present, bars):
    """By the book, over the bars since the last missing one."""
    out, run = [], []
    for at, there in enumerate(present):
        if not there:
            run = []
        elif at and present[at - 1]:
            run.append(max(high[at] - low[at], abs(high[at] - close[at - 1]), abs(low[at] - close[at - 1])))
        average = np.nan
        if len(run) >= bars:
            average = sum(run[:bars]) / bars
            for one in run[bars:]:
                average = (average * (bars - 1) + one) / bars
        out.append(average if there else np.nan)
    return out


def test_the_master_layout(provider, bars, tmp_path):
    paths = export(provider, tmp_path, HOUR, layout="master")
    for path, frame in zip(paths, bars.values(), strict=True):
        found = read(path)
        assert list(found.columns) == ["time", "Open", "High", "Low", "Close", "Volume", "ATR"]
        full = frame.reindex(np.arange(frame.index[0], frame.index[-1] + 1, HOUR_MS)).astype(np.float32)
        present = full["close"].notna().to_numpy()
        columns = [full[name].to_numpy(float) for name in ("high", "low", "close")]
        right = np.array(plain_atr(*columns, present, 14))[present]
        np.testing.assert_allclose(found["ATR"], right, rtol=1e-6)
        assert np.isfinite(right).sum() > 5


@pytest.mark.parametrize("bars", [1, 2, 14])
def test_average_true_range_with_holes(bars):
    rng = np.random.default_rng(bars)
    close = 100 + rng.normal(0, 1, 300).cumsum()
    high, low = close + rng.uniform(0, 2, 300), close - rng.uniform(0, 2, 300)
    present = rng.random(300) > 0.02
    holed = [np.where(present, of, np.nan) for of in (high, low, close)]
    np.testing.assert_allclose(average_true_range(*holed, bars), plain_atr(*holed, present, bars), rtol=1e-12)


def test_an_export_can_be_imported(provider, bars, tmp_path):
    (path,) = export(provider, tmp_path, HOUR, instruments=[BTC])
    path = path.rename(tmp_path / "BTC_USDT.csv")
    lake = Lake(tmp_path / "lake")
    import_data(lake, [path], Venue.OKX, "kline", HOUR, columns={"timestamp": "time"})
    table = lake.bars(BTC, HOUR)
    np.testing.assert_array_equal(table["close"].to_numpy().astype(np.float32), bars[BTC]["close"].astype(np.float32))
    lake.close()


def test_wrong_use_is_said(provider, tmp_path):
    for words, kind, more in (
        ("no 5m bars; it has 1h 1d", ConfigError, {"interval": Interval.parse("5m")}),
        ("no field 'clse'; choose of: open", ConfigError, {"columns": ["clse"]}),
        ("its own columns; leave out close", ConfigError, {"columns": ["close"], "layout": "master"}),
        ("SOL_USDT.OKX is not in the provider", ConfigError, {"instruments": [Instrument("SOL", "USDT", Venue.OKX)]}),
    ):
        with pytest.raises(kind, match=words):
            export(provider, tmp_path / "none", **{"interval": HOUR, **more})
    with pytest.raises(ConfigError, match="nothing lies between start 2025-04-02 00:00:00 and end 2025-04-01"):
        export(provider, tmp_path / "none", HOUR, span_ms=(parse_utc("2025-04-02"), parse_utc("2025-04-01")))
    with pytest.raises(DataError, match="has no 1h bars of any instrument at these times"):
        export(provider, tmp_path / "none", HOUR, span_ms=(parse_utc("2099-04-02"), None))
    with pytest.raises(DataError, match="is no provider"):
        export(tmp_path, tmp_path, HOUR)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        export(provider, tmp_path / "file", HOUR)
    assert not (tmp_path / "none").exists()


def test_the_command(provider, tmp_path, capsys):
    command(tmp_path / "out", "1h", symbols="BTC_USDT.OKX", start="2025-03-14", provider=provider)
    assert "1 file in" in capsys.readouterr().err
    first = (tmp_path / "out" / "BTC_USDT.OKX_1h.csv").read_text().splitlines()[1]
    assert first.startswith("2025-03-14T0")
    assert T0 % DAY_MS == 0
