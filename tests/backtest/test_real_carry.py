"""A carry strategy on real Binance hours and settlements: its funding is the sum over the settlement file."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import qlib
from support_backtest import POSITION

from qlib_crypto.backtest.result import PerpRun
from qlib_crypto.backtest.run import run_backtest
from qlib_crypto.lake import Lake
from qlib_crypto.provider.convert import convert
from qlib_crypto.schemas import Bar, Settlement
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

HOUR = Interval.parse("1h")
START, END = pd.Timestamp("2026-01-12 16:00"), pd.Timestamp("2026-03-19 18:00")
SEEN_MS = 1_800_000_000_000
#: Annual funding: of the large contracts most pay 0 to 10 %.
LEVELS = {"short_enter": 0.06, "short_exit": 0.03, "long_enter": 0.01, "long_exit": 0.04}


def instrument(symbol: str) -> Instrument:
    return Instrument(symbol.removesuffix("USDT"), "USDT", Venue.BINANCE)


def ms(time: pd.Timestamp) -> int:
    return int(time.value // 1_000_000)


@pytest.fixture(scope="module")
def opens(real_data) -> pd.DataFrame:
    """The open of each hour, by Qlib's name."""
    found = {}
    for path in sorted((real_data / "candles" / "binance_um_1h").glob("*.parquet")):
        bars = pd.read_parquet(path).set_index("timestamp").tz_localize(None)["open"]
        found[instrument(path.stem).qlib] = bars.iloc[:-1]  # the last one was still open when it was downloaded
    return pd.DataFrame(found)


@pytest.fixture(scope="module")
def settled(real_data, opens) -> pd.DataFrame:
    """The settlements of these instruments at their minutes."""
    rows = pd.read_parquet(real_data / "funding" / "binance_um_funding_2026_all.parquet")
    rows["name"] = [instrument(symbol).qlib for symbol in rows["symbol"]]
    rows["time"] = rows["funding_time"].dt.tz_localize(None).dt.round("min")
    return rows.loc[rows["name"].isin(opens.columns), ["name", "time", "funding_rate"]].sort_values(["time", "name"])


@pytest.fixture(scope="module")
def provider(real_data, settled, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("carry")
    lake = Lake(root / "lake")
    for path in sorted((real_data / "candles" / "binance_um_1h").glob("*.parquet")):
        bars, of = pd.read_parquet(path).iloc[:-1], instrument(path.stem)
        lake.store(
            Bar(
                of,
                HOUR,
                ms(b.timestamp),
                b.open,
                b.high,
                b.low,
                b.close,
                b.volume,
                b.quote_volume,
                b.trades,
                "import",
                SEEN_MS,
            )
            for b in bars.itertuples()
        )
    lake.store(
        Settlement(Instrument.parse(row.name), ms(row.time), row.funding_rate, None, "import", SEEN_MS)
        for row in settled.itertuples(index=False)
    )
    convert(lake, root / "provider", ProviderSettings(intervals=("1h",)))
    lake.close()
    return root / "provider"


def carry(provider: Path, names: list[str], engine: str, missing_funding: str) -> PerpRun:
    qlib.init(
        provider_uri=str(provider), region="cn", trade_unit=None, limit_threshold=None, deal_price="open", kernels=1,
        logging_level=40, clear_mem_cache=True,
    )  # fmt: skip
    times = pd.date_range(START, END, freq="h")
    nothing = pd.MultiIndex.from_tuples([(times[0], names[0])], names=["datetime", "instrument"])
    strategy = {
        "class": "FundingCarry", "module_path": "qlib_crypto.strategy.carry",
        "kwargs": {"signal": pd.Series([0.0], nothing), "topk": 6, "rebalance_every": 8, **LEVELS},
    }  # fmt: skip
    exchange = {"codes": names, "missing_funding": missing_funding, "margin_mode": "none"}
    config = {
        "engine": engine, "strategy": strategy, "executor": {"kwargs": {"time_per_step": "60min"}},
        "backtest": {
            "start_time": START, "end_time": END, "pos_type": POSITION,
            "exchange_kwargs": {"exchange": {"kwargs": exchange}},
        },
    }  # fmt: skip
    return run_backtest(config, strategy)


def independent_sum(run: PerpRun, opens: pd.DataFrame, settled: pd.DataFrame) -> tuple[float, int]:
    """What the fills earned: the quantity before each settlement's instant x rate x that hour's trade open."""
    fills, amounts = {name: list(own.itertuples()) for name, own in run.fills.groupby("instrument")}, []
    for row in settled.itertuples(index=False):
        if not START <= row.time <= END + pd.Timedelta("59min"):
            continue
        held = 0.0
        for fill in fills.get(row.name, []):
            if fill.datetime < row.time:
                held += fill.quantity
        if abs(held) > 1e-12:
            amounts.append(-held * row.funding_rate * opens.loc[row.time, row.name])
    return math.fsum(amounts), sum(amount != 0 for amount in amounts)


def complete(settled: pd.DataFrame) -> list[str]:
    first = settled.groupby("name")["time"].min()
    return sorted(first.index[first <= START])


@pytest.mark.parametrize("engine", ["qlib", "array"])
def test_of_those_whose_funding_reaches_back(provider, opens, settled, engine):
    names = complete(settled)
    assert len(names) == 24
    run = carry(provider, names, engine, "error")
    truth, count = independent_sum(run, opens, settled)
    assert count > 500
    assert truth > 0
    assert run.metrics()["funding_net"] == pytest.approx(truth, rel=1e-9)
    assert len(run.funding.loc[run.funding["amount"] != 0]) == count
    assert set(run.funding["mark_source"]) == {"trade open"}
    assert run.assumptions["funding_price"].keys() == {"trade"}


@pytest.mark.parametrize("engine", ["qlib", "array"])
def test_of_all_where_what_is_unknown_is_not_traded(provider, opens, settled, engine):
    names = sorted(opens.columns)
    assert len(names) == 50
    run = carry(provider, names, engine, "untradable")
    truth, count = independent_sum(run, opens, settled)
    assert count > 1_000
    assert run.metrics()["funding_net"] == pytest.approx(truth, rel=1e-9)
    assert run.assumptions["funding_coverage"] < 0.9
