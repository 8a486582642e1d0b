from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from qlib.contrib.data.loader import Alpha158DL
from qlib.data import D
from support_provider import synthetic_bars

from qlib_crypto.features.expressions import alpha158, funding
from qlib_crypto.symbols import Interval

HOUR = Interval.parse("1h")


def load(fields: list[str], names: list[str], freq="60min") -> pd.DataFrame:
    table = D.features(D.instruments("okx"), fields, freq=freq)
    table.columns = names
    return table


def test_alpha158_is_qlibs_wherever_qlib_has_a_value(open_provider, bars):
    open_provider(bars)
    stock_fields, names = Alpha158DL.get_feature_config()
    ours = alpha158()
    assert ours.names == names
    changed = [n for n, a, b in zip(names, stock_fields, ours.fields, strict=True) if a != b]
    kinds = ("RSQR", "CORR", "CORD", "VMA", "VSTD")
    assert changed == [f"{kind}{n}" for kind in kinds for n in (5, 10, 20, 30, 60)]
    places = [names.index(n) for n in changed]
    stock = load([stock_fields[i] for i in places], changed)
    free = load([ours.fields[i] for i in places], changed)
    known = stock.notna()
    assert known.to_numpy().sum() > 20_000
    exact = [n for n in changed if not n.startswith("CORD")]
    np.testing.assert_array_equal(free[exact].to_numpy()[known[exact]], stock[exact].to_numpy()[known[exact]])
    np.testing.assert_allclose(free.to_numpy()[known], stock.to_numpy()[known], atol=2e-4)
    stock, free = (table.loc[:, table.columns.str.startswith(("RSQR", "CORR"))] for table in (stock, free))
    cheap = slice("PEPE_USDT.OKX", "PEPE_USDT.OKX")
    assert stock.loc[cheap].isna().to_numpy().mean() > 0.99
    assert free.loc[cheap].isna().to_numpy().mean() < 0.01


def test_r_square_and_corr_of_a_cheap_coin_by_numpy(open_provider, bars):
    frame = open_provider(bars)["PEPE_USDT.OKX"].astype("float64")
    ours = alpha158()
    fields = [ours.fields[ours.names.index(n)] for n in ("RSQR10", "CORR10")]
    got = load(fields, ["RSQR10", "CORR10"]).loc["PEPE_USDT.OKX"]
    close, volume = frame["close"].to_numpy(), np.log(frame["volume"].to_numpy() + 1)
    for t in (60, 200, 719):
        window = slice(t - 9, t + 1)
        assert got["RSQR10"].iloc[t] == pytest.approx(np.corrcoef(np.arange(10), close[window])[0, 1] ** 2, abs=1e-4)
        assert got["CORR10"].iloc[t] == pytest.approx(np.corrcoef(close[window], volume[window])[0, 1], abs=1e-4)


def test_real_cheap_coins_keep_their_features(open_provider, real_data):
    frames = {}
    for base in ("PEPE", "TURBO", "MEMEFI", "BTC"):
        bars = pd.read_parquet(real_data / "candles" / "okx_swap_1h" / f"{base}-USDT-SWAP.parquet").tail(2_000)
        bars.index = pd.DatetimeIndex(bars["timestamp"].dt.tz_localize(None).astype("datetime64[ns]"))
        frames[f"{base}_USDT.OKX"] = bars[["open", "high", "low", "close", "volume"]]
    open_provider(frames)
    names = ["RSQR5", "RSQR20", "CORR5", "CORR20"]
    stock_fields, stock_names = Alpha158DL.get_feature_config()
    ours = alpha158()
    stock = load([stock_fields[stock_names.index(n)] for n in names], names)
    free = load([ours.fields[ours.names.index(n)] for n in names], names)
    missing = (
        pd.DataFrame({"stock": stock.isna().mean(axis=1), "free": free.isna().mean(axis=1)})
        .groupby("instrument")
        .mean()
    )
    assert missing.loc["PEPE_USDT.OKX", "stock"] > 0.9
    assert (missing["free"] < 0.005).all(), missing


def test_a_constant_price_has_no_r_square(open_provider):
    frame = synthetic_bars(symbols=1, bars=50)["BTC_USDT.OKX"]
    frame.loc[frame.index[20:], "close"] = 90_000.0
    open_provider({"BTC_USDT.OKX": frame})
    ours = alpha158()
    got = load([ours.fields[ours.names.index("RSQR5")]], ["RSQR5"])["RSQR5"]
    assert got.iloc[10:20].notna().all()
    assert got.iloc[25:].isna().all()


def test_quiet_minutes_keep_their_correlation_of_changes(open_provider):
    """Moves of a millionth, and none for ten bars: Qlib has no value for the first, infinity for the second."""
    frame = synthetic_bars(symbols=1, bars=400)["BTC_USDT.OKX"]
    rng = np.random.default_rng(3)
    frame["close"] = 100 * np.exp(np.cumsum(rng.normal(0, 3e-6, 400)))
    flat = frame.index[np.arange(400) % 40 < 10]
    frame.loc[flat, "close"] = frame["close"].where(~frame.index.isin(flat)).bfill()[flat]
    frame.loc[frame.index[-10:], "volume"] = 0.0
    frame = open_provider({"BTC_USDT.OKX": frame})["BTC_USDT.OKX"].astype("float64")
    ours, (stock_fields, names) = alpha158(), Alpha158DL.get_feature_config()
    place = names.index("CORD5")
    got = load([stock_fields[place], ours.fields[place]], ["stock", "ours"]).loc["BTC_USDT.OKX"]
    change, volume = frame["close"].pct_change(), np.log(frame["volume"] / frame["volume"].shift() + 1)
    assert got["stock"].isna().mean() > 0.9
    assert not np.isinf(got["ours"]).any()
    moving = change.rolling(5).std() > 0
    for t in range(10, 385):
        window = slice(t - 4, t + 1)
        if not moving.iloc[t]:
            assert np.isnan(got["ours"].iloc[t])
        elif np.ptp(change.iloc[window]) > 2e-6:
            expected = np.corrcoef(change.iloc[window], volume.iloc[window])[0, 1]
            assert got["ours"].iloc[t] == pytest.approx(expected, abs=1e-4)


def test_relative_volume_is_unknown_where_nothing_traded(open_provider):
    frame = synthetic_bars(symbols=1, bars=120)["BTC_USDT.OKX"]
    frame.loc[frame.index[[70, 80, 81]], "volume"] = 0.0
    frame.loc[frame.index[90], "volume"] = 1e-4
    frame = open_provider({"BTC_USDT.OKX": frame})["BTC_USDT.OKX"].astype("float64")
    ours = alpha158()
    wanted = ["VMA5", "VMA60", "VSTD5", "VSTD60"]
    got = load([ours.fields[ours.names.index(n)] for n in wanted], wanted).loc["BTC_USDT.OKX"]
    traded = frame["volume"].where(frame["volume"] > 0)
    for name in wanted:
        window = frame["volume"].rolling(int(name[-2:].strip("AD")), min_periods=1)
        expected = (window.mean() if name.startswith("VMA") else window.std()) / traded
        np.testing.assert_allclose(got[name], expected, rtol=1e-6, err_msg=name)
    assert got["VMA60"].iloc[[70, 80, 81]].isna().all()
    assert np.isfinite(got["VMA60"].iloc[90])


def expected_funding(frame: pd.DataFrame, per_day: int) -> pd.DataFrame:
    """The same features by pandas: a window with an unknown value is unknown."""
    level = frame["funding_rate"] * 8 / frame["funding_interval"]
    out = {"FUND": frame["funding_rate"], "FUND8H": level, "FUNDINT": frame["funding_interval"]}
    if per_day >= 3:
        out["FUNDCHG8H"] = level - level.shift(per_day // 3)
    for days in (1, 3, 7):
        n = days * per_day
        told = frame["funding"].rolling(n, min_periods=n).sum()
        out[f"FUNDCUM{days}D"] = told.where(frame["funding_next"].notna())
        out[f"FUNDCHG{days}D"] = level - level.shift(n)
        if n > 1:
            window = level.rolling(n, min_periods=n)
            out[f"FUNDMA{days}D"] = window.mean()
            out[f"FUNDSTD{days}D"] = window.std()
            out[f"FUNDZ{days}D"] = (level - window.mean()) / (window.std() + 1e-7)
    out["FUNDNEXT"] = frame["funding_next"]
    return pd.DataFrame(out)


@pytest.mark.parametrize(("freq", "per_day", "days"), [("5min", 288, 9), ("60min", 24, 20), ("day", 1, 40)])
def test_funding_features_by_pandas(open_provider, freq, per_day, days):
    frames = synthetic_bars(symbols=2, bars=per_day * days, freq=freq)
    hole = frames["ETH_USDT.OKX"]
    at = hole.index[5 * len(hole) // 9 : 5 * len(hole) // 9 + max(1, per_day // 3)]
    hole.loc[at, ["funding", "funding_rate", "funding_interval"]] = np.nan
    hole.loc[hole.index[-per_day:], "funding_interval"] = 4.0
    hole.loc[hole.index[-1 - per_day // 8 :], "funding_next"] = np.nan
    frames = open_provider(frames, freq)
    wanted = funding(Interval.parse(freq))
    got = load(wanted.fields, wanted.names, freq)
    for name, frame in frames.items():
        expected = expected_funding(frame.astype("float64"), per_day)
        assert list(expected.columns) == wanted.names
        for column in wanted.names:
            np.testing.assert_array_equal(got.loc[name][column].isna(), expected[column].isna(), err_msg=column)
            np.testing.assert_allclose(got.loc[name][column], expected[column], rtol=2e-4, atol=2e-9, err_msg=column)


def test_a_constant_rate_has_a_z_score_of_zero(open_provider):
    frames = synthetic_bars(symbols=1, bars=24 * 9)
    frame = frames["BTC_USDT.OKX"]
    frame["funding_rate"] = 1e-4
    open_provider(frames)
    wanted = funding(HOUR)
    got = load(wanted.fields, wanted.names).loc["BTC_USDT.OKX"]
    assert got["FUNDZ7D"].iloc[24 * 7 :].abs().max() < 1e-6
    assert got["FUNDMA7D"].iloc[-1] == pytest.approx(1e-4, rel=1e-6)
