from __future__ import annotations

import json
from datetime import date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_provider import synthetic_bars, write_provider

from qlib_crypto.clock import iso, parse_utc
from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.symbols import Interval
from qlib_crypto.workflow.check import _check_segments, check_workflow, label_bars
from qlib_crypto.workflow.data import check_data, check_unchanged, open_manifest
from qlib_crypto.workflow.template import render


def put(config, path: str, value) -> None:
    """Set the value at `a.b.0.c`, or delete it when the value is `DELETE`."""
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        config = config[part]
    if value is DELETE:
        del config[last]
    else:
        config[last] = value


DELETE = object()
MODEL = "task.model.kwargs"
HANDLER = "task.dataset.kwargs.handler.kwargs"
SEGMENTS = "task.dataset.kwargs.segments"
BACKTEST = "task.record.3.kwargs.config.backtest"
EXCHANGE = f"{BACKTEST}.exchange_kwargs.exchange.kwargs"
STRATEGY = "task.record.3.kwargs.config.strategy"
EXECUTOR = "task.record.3.kwargs.config.executor"


@pytest.mark.parametrize("name", ["lightgbm_60min", "lightgbm_5min", "lightgbm_day"])
def test_our_workflows_are_right(root, name):
    path = root / "workflows" / f"{name}.yaml"
    workflow = check_workflow(path, render(path, {}))
    freq = name.removeprefix("lightgbm_")
    assert workflow.name == name
    assert workflow.interval == Interval.parse(freq)
    assert workflow.intervals == (workflow.interval,)
    assert workflow.markets == (f"okx_{freq}",)
    assert workflow.seed == 7


def test_the_segments_of_the_hourly_workflow(root):
    path = root / "workflows" / "lightgbm_60min.yaml"
    segments = check_workflow(path, render(path, {})).segments
    assert segments == {
        "train": (parse_utc("2022-01-01"), parse_utc("2024-09-30T23:00")),
        "valid": (parse_utc("2024-10-02"), parse_utc("2025-01-31T23:00")),
        "test": (parse_utc("2025-02-11"), parse_utc("2025-05-10T15:00")),
    }


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("taks", {}, "top level: key taks is unknown; did you mean task?"),
        ("task.modell", {}, "task: key modell is unknown; did you mean model?"),
        ("task.record", DELETE, "task: key record is missing"),
        ("qlib_init.kernel", 1, "key kernel is unknown; did you mean kernels?"),
        ("qlib_init.trade_unit", DELETE, "qlib_init.trade_unit is what the region sets"),
        ("qlib_init.limit_threshold", 0.095, "write limit_threshold: null"),
        ("qlib_init.deal_price", "close", "write deal_price: open"),
        ("qlib_init.kernels", 4, "write kernels: 1"),
        ("qlib_init.exp_manager.kwargs.uri", "file:mlruns", "write sqlite:///mlruns.db"),
        ("qlib_init.exp_manager.kwargs.url", "x", "kwargs.url is unknown to MLflowExpManager; did you mean uri?"),
        (f"{MODEL}.learning_rat", 0.1, "learning_rat is unknown to LGBModel; did you mean learning_rate?"),
        (f"{MODEL}.num_leaf", 5, None),  # an alias that LightGBM knows
        ("task.model.class", "LGBModell", "is not in qlib.contrib.model.gbdt; did you mean LGBModel?"),
        ("task.model.module_path", "qlib.contrib.model.gbt", "cannot be imported"),
        ("task.model.kwarg", {}, "task.model.kwarg is unknown; did you mean kwargs?"),
        (f"{HANDLER}.instrument", "okx", "instrument is unknown to PerpAlpha158; did you mean instruments?"),
        (f"{HANDLER}.freq", "1h", "write 60min"),
        (f"{HANDLER}.freq", "60minute", "interval '60minute' is unknown"),
        (f"{HANDLER}.fit_end_time", "2025-02-10 00:00:00", "must lie in the training segment"),
        (f"{HANDLER}.fit_start_time", DELETE, "fit_start_time is missing"),
        (f"{HANDLER}.end_time", "2025-02-20 00:00:00", "must not be before the test segment's end"),
        (f"{HANDLER}.start_time", "2025-01-02 00:00:00", "must not be after the training segment's start"),
        (f"{HANDLER}.label", "Ref($open, -2", "is no expression of Qlib"),
        (f"{HANDLER}.label", "$close", "looks 0 bars ahead, so it is known already"),
        (f"{HANDLER}.label", "Ref($open, 2)/$open - 1", "looks 0 bars ahead, so it is known already"),
        (f"{MODEL}.seed", "x", "task.model.kwargs.seed 'x' must be a whole number of at least 0"),
        (f"{MODEL}.seed", 99_999_999_999, "must be at most 2147483647"),
        (f"{MODEL}.num_threads", -5, "num_threads -5 must be a whole number of at least 0"),
        (f"{HANDLER}.label", "Ref($open, -40)/Ref($open, -1) - 1", "a label looks 40 bars ahead"),
        (f"{SEGMENTS}.tests", [], "key tests is unknown; did you mean test?"),
        (f"{SEGMENTS}.valid", DELETE, "key valid is missing"),
        (f"{SEGMENTS}.valid", ["2025-02-06 02:00:00", "2025-02-13 23:00:00"], None),
        (f"{SEGMENTS}.valid", ["2025-02-06 01:00:00", "2025-02-13 23:00:00"], "start it at 2025-02-06 02:00:00"),
        (f"{SEGMENTS}.valid", ["2025-02-05 23:00:00", "2025-02-13 23:00:00"], "0 bars after train ends"),
        (f"{SEGMENTS}.valid", ["2025-02-07", "2025-02-13 23:00:00"], "write a full UTC time"),
        (f"{SEGMENTS}.valid", [date(2025, 2, 7), "2025-02-13 23:00:00"], "write a full UTC time"),
        (f"{SEGMENTS}.valid", [datetime(2025, 2, 7), "2025-02-13 23:00:00"], None),  # noqa: DTZ001 - as YAML gives it
        (f"{SEGMENTS}.valid", ["2025-02-07 02:00:00+02:00", "2025-02-13 23:00:00"], "write 2025-02-07 00:00:00, which"),
        (f"{BACKTEST}.start_time", "2025-02-15T00:00:00Z", "backtest.start_time 2025-02-15T00:00:00Z: Qlib compares"),
        (f"{SEGMENTS}.valid", ["2025-02-07 00:30:00", "2025-02-13 23:00:00"], "write 2025-02-07 00:00:00"),
        (f"{SEGMENTS}.valid", ["2025-02-13 23:00:00", "2025-02-07 00:00:00"], "before its start"),
        (f"{SEGMENTS}.valid", "2025-02-07 00:00:00", "write [first bar, last bar]"),
        (f"{SEGMENTS}.valid", ["2025-02-31 00:00:00", "2025-03-13 23:00:00"], "is not an ISO date or time"),
        (f"{BACKTEST}.benchmark", None, "key benchmark is unknown"),
        (f"{BACKTEST}.start_time", "2025-02-10 00:00:00", "outside the test segment"),
        (f"{EXCHANGE}.end_time", "2025-03-10 00:00:00", "outside the test segment"),
        (f"{EXCHANGE}.open_cost", 0.1, "open_cost is unknown to PerpExchange"),
        (f"{EXCHANGE}.freq", "1h", "write 60min"),
        ("task.record.3.kwargs.config.executor.kwargs.time_per_step", "1h", "write 60min"),
        ("task.record.3.kwargs.config.executor.kwargs.verbos", True, "did you mean verbose?"),
        ("task.record.3.kwargs.config.strategy.kwargs.top_k", 3, "did you mean topk?"),
        ("task.record.3.kwargs.config.stratgy", {}, "did you mean strategy?"),
        ("task.record.1.kwargs.ann_scaler", 252, "60min bars have 8760 a year"),
        ("task.record.0.class", "SignalRecords", "did you mean SignalRecord?"),
        ("task.record.0.module_path", DELETE, None),  # qrun looks in qlib.workflow.record_temp
        ("task.record", {}, "must be a list"),
        ("task.dataset.kwargs.handler.kwargs.instruments", "", "write a market"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(hourly, where, value, message, tmp_path):
    put(hourly, where, value)
    if message is None:
        check_workflow(tmp_path / "w.yaml", hourly)
        return
    with pytest.raises(ConfigError) as error:
        check_workflow(tmp_path / "w.yaml", hourly)
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "w.yaml"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (f"{STRATEGY}.kwargs.topk", "abc", "strategy.kwargs.topk 'abc' must be a whole number of at least 1"),
        (f"{STRATEGY}.kwargs.topk", 0, "topk 0 must be"),
        (f"{STRATEGY}.kwargs.topk", -3, "topk -3 must be"),
        (f"{STRATEGY}.kwargs.topk", 2.5, "topk 2.5 must be"),
        (f"{STRATEGY}.kwargs.topk", True, "topk True must be"),
        (f"{STRATEGY}.kwargs.rebalance_every", 0, "rebalance_every 0 must be a whole number of at least 1"),
        (f"{STRATEGY}.kwargs.drop_buffer", -1, "drop_buffer -1 must be a whole number of at least 0"),
        (f"{STRATEGY}.kwargs.min_names", 3, "min_names 3 is above topk 2; write 2 or less"),
        (f"{STRATEGY}.kwargs.min_names", "1", "min_names '1' must be"),
        (f"{STRATEGY}.kwargs.gross_exposure", "1", "gross_exposure '1' must be positive"),
        (f"{STRATEGY}.kwargs.gross_exposure", float("nan"), "gross_exposure nan must be positive"),
        (f"{STRATEGY}.kwargs.gross_exposure", 4, "gross_exposure 4 is above the exchange's max_gross_leverage 3.0"),
        (f"{STRATEGY}.kwargs.risk_degree", 0.5, "risk_degree is unknown to LongShortTopk"),
        (f"{STRATEGY}.kwargs.signal", DELETE, "strategy.kwargs.signal is missing; write <PRED>"),
        (STRATEGY, None, "config.strategy must be a mapping with class, module_path and kwargs"),
        (f"{EXECUTOR}.kwargs.time_per_step", DELETE, "executor.kwargs needs time_per_step"),
        (f"{EXECUTOR}.kwargs.trade_type", "both", "trade_type 'both' is unknown; choose one of: serial, parallel"),
        (f"{EXECUTOR}.kwargs.settle_type", "cash", "executor.kwargs.settle_type 'cash' does not exist"),
        (f"{EXECUTOR}.kwargs.time_per_step", "day", "exchange.kwargs.freq 60min is not the executor's day"),
        (f"{BACKTEST}.account", 0, "backtest.account 0 must be a number above 0"),
        (f"{BACKTEST}.account", "1e5 USDT", "backtest.account '1e5 USDT' must be a number above 0"),
        (f"{BACKTEST}.account", float("inf"), "backtest.account inf must be"),
        (f"{BACKTEST}.pos_type", "Position", "pos_type 'Position' is no PerpPosition"),
        (f"{BACKTEST}.pos_type", "qlib.backtest.position.Position", "is no PerpPosition; write qlib_crypto."),
        (f"{BACKTEST}.end_time", "2025-02-14 23:00:00", "outside the test segment"),
        (f"{EXCHANGE}.end_time", "2025-02-27 23:00:00", "do not cover the backtest's 2025-02-15 00:00:00"),
        (f"{BACKTEST}.exchange_kwargs.exchange", "PerpExchange", "exchange must be a mapping, not 'PerpExchange'"),
        (f"{EXCHANGE}.taker_fee", -0.0005, "exchange.kwargs.taker_fee -0.0005 is negative, but only makers"),
        (f"{EXCHANGE}.maker_fee", -0.0001, None),
        (f"{EXCHANGE}.taker_fee", 0.05, "taker_fee 0.05 is no fraction of notional up to 2 %; write 0.0005 for 0.05 %"),
        (f"{EXCHANGE}.taker_fee", "0.05%", "taker_fee '0.05%' is no fraction"),
        (f"{EXCHANGE}.max_gross_leverage", -1, "max_gross_leverage -1 must be a positive multiple of equity"),
        (f"{EXCHANGE}.max_gross_leverage", "3x", "max_gross_leverage '3x' must be"),
        (f"{EXCHANGE}.max_gross_leverage", None, None),
        (f"{EXCHANGE}.missing_funding", "ignore", "missing_funding 'ignore' is unknown; choose one of: error, unt"),
        (f"{EXCHANGE}.liquidity", "best", "liquidity 'best' is unknown; choose one of: taker, maker"),
        (f"{EXCHANGE}.deal_price", "close", "exchange.kwargs.deal_price is 'close'"),
        (f"{EXCHANGE}.codes", 5, "codes 5 must be a market"),
        (f"{EXCHANGE}.specs", "nowhere.json", "specs 'nowhere.json' does not exist"),
    ],
)  # fmt: skip
def test_a_portfolio_that_cannot_be_right_is_refused_before_training(hourly, where, value, message, tmp_path):
    test_what_is_wrong_is_named(hourly, where, value, message, tmp_path)


@pytest.mark.parametrize(
    ("label", "bars"),
    [
        ("Ref($open, -2)/Ref($open, -1) - 1", 2),
        ("Ref($close,-24)/$close-1", 24),
        ("Ref(Ref($close, -3), -4)/$close", 7),
        ("Mean(Ref($close, -5), 3)", 5),
        ("$close/Ref($close, 1)", 0),
    ],
)
def test_how_far_a_label_looks(label, bars):
    assert label_bars(label) == bars


@settings(max_examples=200, deadline=None)
@given(
    ahead=st.integers(0, 30),
    gap=st.integers(-40, 80),
    freq=st.sampled_from(["5min", "60min", "day"]),
    length=st.integers(0, 50),
)
def test_no_label_of_a_segment_reaches_the_next(ahead, gap, freq, length):
    interval = Interval.parse(freq)
    origin = parse_utc("2025-01-01")

    def bar(number):
        return iso(origin + number * interval.ms)

    train, valid = (0, 100), (100 + gap, 100 + gap + length)
    test = (valid[1] + 1000, valid[1] + 1001)
    segments = {
        name: [bar(first), bar(last)] for name, (first, last) in {"train": train, "valid": valid, "test": test}.items()
    }
    used_by_train = {t + k for t in range(101) for k in range(ahead + 1)}
    if used_by_train & set(range(valid[0], valid[1] + 1)) or gap <= 0:
        with pytest.raises(ConfigError):
            _check_segments(segments, interval, ahead)
    else:
        spans = _check_segments(segments, interval, ahead)
        assert spans["valid"] == tuple(origin + n * interval.ms for n in valid)


# the provider


def checked(config, tmp_path):
    return check_workflow(tmp_path / "w.yaml", config)


def test_a_whole_provider_passes(hourly, tmp_path):
    manifest = check_data(checked(hourly, tmp_path))
    assert manifest.generation == 1
    check_unchanged(checked(hourly, tmp_path), manifest)


@pytest.mark.parametrize(
    ("where", "value", "kind", "message"),
    [
        (f"{HANDLER}.instruments", "okx_60mn", ConfigError, "did you mean okx_60min?"),
        (f"{EXCHANGE}.codes", "binance", ConfigError, "market 'binance' is not in"),
        (f"{SEGMENTS}.train", ["2024-12-01 00:00:00", "2025-02-05 23:00:00"], ConfigError, "from 2025-01-01 00:00"),
        ("qlib_init.provider_uri", "nowhere", DataError, "qlib-crypto convert"),
    ],
)  # fmt: skip
def test_what_the_provider_lacks_is_named(hourly, tmp_path, where, value, kind, message):
    put(hourly, where, value)
    if where.startswith(SEGMENTS):
        put(hourly, f"{HANDLER}.start_time", value[0])
    with pytest.raises(kind) as error:
        check_data(checked(hourly, tmp_path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "codes", "message"),
    [
        (
            {"topk": 4},
            "okx_60min",
            r"kwargs\.topk 4 needs 8 instruments, but okx_60min has 6 to trade .*write 3 or less",
        ),
        ({"topk": 9, "min_names": 4}, "okx_60min", r"kwargs\.min_names 4 needs 8 instruments"),
        ({"topk": 2}, ["BTC_USDT.OKX", "ETH_USDT.OKX", "NOPE_USDT.OKX"], r"topk 2 needs 4 .* has 2 to .*write 1 or"),
        ({"topk": 3}, "okx_60min", None),
        ({"topk": 9, "min_names": 3}, "okx_60min", None),
    ],
)
def test_legs_longer_than_the_market_are_refused_before_training(hourly, tmp_path, kwargs, codes, message):
    put(hourly, f"{STRATEGY}.kwargs", {"signal": "<PRED>", **kwargs})
    put(hourly, f"{EXCHANGE}.codes", codes)
    if message is None:
        check_data(checked(hourly, tmp_path))
        return
    with pytest.raises(ConfigError, match=message):
        check_data(checked(hourly, tmp_path))


def test_legs_count_who_is_listed_in_the_test_segment(own_provider, hourly, tmp_path):
    market = own_provider / "instruments" / "okx_60min.txt"
    lines = market.read_text().splitlines()
    gone = [f"{line.split(chr(9))[0]}\t2025-01-01 00:00:00\t2025-02-14 23:00:00" for line in lines[:3]]
    market.write_text("\n".join([*gone, *lines[3:]]) + "\n")
    with pytest.raises(ConfigError, match=r"topk 2 needs 4 instruments, but okx_60min has 3 .*write 1 or less"):
        check_data(checked(hourly, tmp_path))


def test_a_frequency_that_is_not_stored(root, hourly_provider):
    path = root / "workflows" / "lightgbm_day.yaml"
    config = render(path, {"PROVIDER_URI": str(hourly_provider)})
    with pytest.raises(ConfigError, match=r"day bars are not stored .*stored: 60min.*add 1d to provider.intervals"):
        check_data(check_workflow(path, config))


@pytest.fixture
def own_provider(hourly, tmp_path):
    """A provider of its own to break, and the configuration on it."""
    directory = write_provider(tmp_path / "own", synthetic_bars(symbols=6), "60min")
    put(hourly, "qlib_init.provider_uri", str(directory))
    return directory


def test_a_torn_or_missing_file_is_found(own_provider, hourly, tmp_path):
    file = own_provider / "features" / "eth_usdt.okx" / "close.60min.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-2])
    with pytest.raises(DataError, match=r"close.60min.bin has 5762 bytes, not 5764; .*convert --full"):
        check_data(checked(hourly, tmp_path))
    file.unlink()
    with pytest.raises(DataError, match=r"close.60min.bin is missing"):
        check_data(checked(hourly, tmp_path))
    file.write_bytes(whole)
    check_data(checked(hourly, tmp_path))


def test_a_market_without_an_instrument_in_a_segment(own_provider, hourly, tmp_path):
    market = own_provider / "instruments" / "okx_60min.txt"
    market.write_text("BTC_USDT.OKX\t2025-02-20 00:00:00\t2025-02-28 23:00:00\n")
    with pytest.raises(DataError, match="no instrument in segment train"):
        check_data(checked(hourly, tmp_path))
    market.write_text("")
    with pytest.raises(DataError, match="is empty"):
        check_data(checked(hourly, tmp_path))
    market.write_text("BTC_USDT.OKX,2025-02-20\n")
    with pytest.raises(DataError, match=r"okx_60min.txt:1 is no line"):
        check_data(checked(hourly, tmp_path))


def test_a_provider_without_a_finished_conversion(own_provider, hourly, tmp_path):
    (own_provider / "manifest.json").unlink()
    with pytest.raises(DataError, match="no finished conversion"):
        check_data(checked(hourly, tmp_path))


def test_a_conversion_in_between_is_noticed(own_provider, hourly, tmp_path):
    workflow = checked(hourly, tmp_path)
    before = check_data(workflow)
    path = own_provider / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "generation": 2}))
    assert open_manifest(own_provider).generation == 2
    with pytest.raises(DataError, match=r"generation 1, now 2"):
        check_unchanged(workflow, before)
