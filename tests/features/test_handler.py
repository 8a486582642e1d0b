from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from qlib.contrib.data.handler import Alpha158
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandlerLP
from support_provider import synthetic_bars

from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.features.handler import PerpAlpha158

TRAIN = {"fit_start_time": "2025-01-01 00:00:00", "fit_end_time": "2025-01-20 23:00:00"}


def handler(freq="60min", **kwargs) -> PerpAlpha158:
    return PerpAlpha158(f"okx_{freq}", freq=freq, **{**TRAIN, **kwargs})


def raw(one: DataHandlerLP) -> pd.DataFrame:
    return one.fetch(col_set=DataHandlerLP.CS_RAW, data_key=DataHandlerLP.DK_R)


def test_the_table_is_alpha158_and_funding(open_provider, bars):
    open_provider(bars)
    ours = handler()
    stock = Alpha158("okx", freq="60min", learn_processors=[])
    table = raw(ours)
    features = table["feature"]
    assert features.shape[1] == 158 + 20 + 10
    assert table.index.is_monotonic_increasing
    assert table.index.names == ["datetime", "instrument"]
    assert set(table.dtypes) == {np.dtype("float32")}
    same = [c for c in stock.get_cols("feature") if not c.startswith(("RSQR", "CORR", "CORD"))]
    pd.testing.assert_frame_equal(features[same], stock.fetch(col_set="feature").loc[features.index, same])
    assert ours.dropped_features == []


def test_the_label_is_open_to_open_after_the_bar(open_provider, bars):
    frames = open_provider(bars)
    label = raw(handler())["label", "LABEL0"]
    for name, frame in frames.items():
        opens = frame["open"].astype("float64")
        expected = (opens.shift(-2) / opens.shift(-1) - 1).iloc[60:]
        got = label.xs(name, level="instrument")
        np.testing.assert_allclose(got, expected, atol=2e-7)
        assert got.iloc[:-2].notna().all()
        assert got.iloc[-2:].isna().all()


def test_rows_before_the_warm_up_and_without_a_bar_do_not_exist(open_provider):
    frames = synthetic_bars(symbols=3, bars=300)
    late, gappy = "ETH_USDT.OKX", "SOL_USDT.OKX"
    frames[late] = frames[late].iloc[50:]
    holes = [*range(150, 153), *range(200, 210)]
    frames[gappy].iloc[holes] = np.nan
    open_provider(frames)
    table = raw(handler())
    times = {name: list(table.xs(name, level="instrument").index) for name in frames}
    whole = frames["BTC_USDT.OKX"].index
    assert times["BTC_USDT.OKX"] == list(whole[60:])
    assert times[late] == list(whole[110:])
    held = frames[gappy]["close"].notna()
    enough = held.rolling(61, min_periods=1).sum() >= np.ceil(0.9 * 61)  # 55 of 61
    assert times[gappy] == list(whole[(np.arange(300) >= 60) & held & enough])
    assert whole[153] in times[gappy]  # three missing hours are bearable
    assert whole[230] not in times[gappy]  # ten are not, until enough bars have followed
    strict = raw(handler(min_coverage=1.0)).xs(gappy, level="instrument").index
    assert whole[160] not in strict


def test_features_across_instruments(open_provider, bars):
    open_provider(bars)
    table = raw(handler(cross_section=["ROC5", "FUND"]))["feature"]
    assert [c for c in table if c.endswith("_CS")] == ["ROC5_CS", "FUND_CS"]
    for name in ("ROC5", "FUND"):
        values = table[name].astype("float64")
        middle = values.groupby("datetime").transform("median")
        reach = 5 * 1.4826 * (values - middle).abs().groupby("datetime").transform("median")
        values = values.clip(middle - reach, middle + reach)
        by_time = values.groupby("datetime")
        expected = (values - by_time.transform("mean")) / by_time.transform("std")
        np.testing.assert_allclose(table[name + "_CS"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="'ROC6', which is no feature"):
        handler(cross_section=["ROC6"])


def test_one_instrument_that_did_not_trade_flattens_nobody(open_provider):
    frames = synthetic_bars(bars=24 * 5)
    quiet, thin = frames["PEPE_USDT.OKX"], frames["XRP_USDT.OKX"]
    quiet.loc[quiet.index[100], "volume"] = 0.0
    thin.loc[thin.index[110], "volume"] *= 1e-6
    open_provider(frames)
    table = raw(handler(cross_section=["VMA20"]))["feature"]
    scores = table.pivot_table("VMA20_CS", "datetime", "instrument")
    assert np.isnan(scores["PEPE_USDT.OKX"].iloc[40])
    assert scores.notna().to_numpy().sum() == scores.size - 1
    assert table["VMA20"].max() > 1e5
    others = scores.drop(columns="XRP_USDT.OKX").iloc[50]
    assert others.std() > 0.1
    assert scores["XRP_USDT.OKX"].iloc[50] > 1


def test_hours_to_the_next_settlement(open_provider, bars):
    open_provider(bars)
    got = raw(handler())["feature", "FUNDNEXT"].xs("BTC_USDT.OKX", level="instrument")
    # the bar of 06:00 closes at 07:00, one hour before; at 08:00 sharp that settlement has passed
    assert {t.hour: v for t, v in got.items()} == {h: 8 - (h + 1) % 8 for h in range(24)}


@pytest.mark.parametrize("freq", ["5min", "60min", "day"])
def test_features_are_those_of_a_provider_that_ends_there(open_provider, freq):
    bars = {"5min": 288 * 8, "60min": 24 * 12, "day": 120}[freq]
    frames = synthetic_bars(symbols=3, bars=bars, freq=freq)
    frames["ETH_USDT.OKX"].iloc[bars // 2 : bars // 2 + 4] = np.nan
    open_provider(frames, freq)
    whole = raw(handler(freq, infer_processors=[], learn_processors=[]))["feature"]
    index = frames["BTC_USDT.OKX"].index
    for cut in (index[bars - 2], index[2 * bars // 3], index[bars // 2 + 1]):
        open_provider({name: frame.loc[:cut] for name, frame in frames.items()}, freq)
        known = raw(handler(freq, infer_processors=[], learn_processors=[]))["feature"]
        assert known.index.get_level_values("datetime").max() == cut
        pd.testing.assert_frame_equal(known, whole.loc[:cut], check_exact=True)


def test_the_processor_chain_in_a_dataset(open_provider, bars, caplog):
    frames = {name: frame.assign(vwap=np.nan) for name, frame in bars.items()}
    open_provider(frames)
    one = handler()
    segments = {
        "train": (TRAIN["fit_start_time"], TRAIN["fit_end_time"]),
        "test": ("2025-01-22 00:00:00", "2025-01-30 23:00:00"),
    }
    dataset = DatasetH(one, segments)
    assert one.dropped_features == ["VWAP0"]
    assert "VWAP0" in caplog.text
    train = dataset.prepare("train", col_set=["feature", "label"], data_key=DataHandlerLP.DK_L)
    assert ("feature", "VWAP0") not in train.columns
    assert train["label"].notna().all().all()
    assert train["label", "LABEL0"].groupby("datetime").std().sub(1).abs().max() < 1e-5
    test = dataset.prepare("test", col_set=["feature", "label"], data_key=DataHandlerLP.DK_I)
    untouched = dataset.prepare("test", col_set=["label"], data_key=DataHandlerLP.DK_R)
    pd.testing.assert_frame_equal(test[["label"]], untouched, check_exact=True)
    assert len(test) == len(untouched) == 9 * 24 * 5
    assert test.index.get_level_values("datetime").max() == pd.Timestamp("2025-01-30 23:00:00")  # also without a label


def test_a_handler_keeps_what_it_learned_when_pickled(open_provider, bars):
    open_provider({name: frame.assign(vwap=np.nan) for name, frame in bars.items()})
    one = handler()
    again = pickle.loads(pickle.dumps(one))  # noqa: S301 - our own bytes
    assert again.dropped_features == ["VWAP0"]
    again.config(start_time="2025-01-25 00:00:00", end_time="2025-01-26 23:00:00")
    again.setup_data(init_type=DataHandlerLP.IT_LS)
    got = again.fetch(col_set="feature", data_key=DataHandlerLP.DK_I)
    pd.testing.assert_frame_equal(
        got, one.fetch(slice("2025-01-25 00:00:00", "2025-01-26 23:00:00"), col_set="feature"), rtol=1e-4, atol=1e-5
    )


def test_without_funding(open_provider, bars):
    open_provider(bars)
    assert raw(handler(with_funding=False))["feature"].shape[1] == 158 + 8


def test_an_instrument_without_funding_files_has_unknown_funding(open_provider, bars):
    frames = dict(bars)
    frames["XRP_USDT.OKX"] = frames["XRP_USDT.OKX"].drop(columns=[c for c in bars["XRP_USDT.OKX"] if "funding" in c])
    open_provider(frames)
    table = raw(handler())["feature"]
    funding = [c for c in table if c.startswith("FUND")]
    assert len(funding) == 20 + 2
    assert table.xs("XRP_USDT.OKX", level="instrument")[funding].isna().all().all()
    assert table.xs("BTC_USDT.OKX", level="instrument")["FUND8H"].notna().all()


def test_wrong_words_are_refused_in_one_line(open_provider, bars):
    open_provider(bars)
    with pytest.raises(ConfigError, match="write 60min"):
        PerpAlpha158("okx", freq="1h")
    with pytest.raises(ConfigError, match="min_coverage 0"):
        PerpAlpha158("okx", freq="60min", min_coverage=0)
    with pytest.raises(DataError, match="61 bars of history"):
        handler(start_time="2025-01-01 00:00:00", end_time="2025-01-02 00:00:00")
