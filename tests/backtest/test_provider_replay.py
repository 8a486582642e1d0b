"""The whole way on real data: lake, converter, provider, backtest; replayed from the raw files."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import qlib
from support_backtest import assert_replayed, run, topk
from test_replay import random_signal, real_market

from qlib_crypto.lake import Lake
from qlib_crypto.provider.convert import convert
from qlib_crypto.schemas import Bar, Settlement
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval

HOUR = Interval.parse("1h")


@pytest.fixture(scope="module")
def hours(real_data):
    return real_market(real_data, ["BTC", "ETH", "SOL", "XRP", "DOGE"], "2025-02-01", "2025-02-20 23:00")


@pytest.fixture(scope="module")
def folder(hours, tmp_path_factory):
    root = tmp_path_factory.mktemp("real")
    lake = Lake(root / "lake")
    for name, bars in hours.bars.items():
        instrument = Instrument.parse(name)
        lake.store(
            Bar(instrument, HOUR, _ms(t), b.open, max(b.open, b.close), min(b.open, b.close), b.close, 1.0, None, None,
                "import", 1_800_000_000_000)
            for t, b in zip(bars.index, bars.itertuples(), strict=True)
        )  # fmt: skip
        lake.store(
            Settlement(instrument, _ms(t), rate, None, "import", 1_800_000_000_000)
            for t, rate, _ in hours.settlements[name]
        )
    convert(lake, root / "provider", ProviderSettings(intervals=("1h", "1d")))
    specs = {name: {"tick_size": spec["tick_size"]} for name, spec in hours.specs.items()}
    (root / "specs.json").write_text(json.dumps(specs))
    return root


def _ms(time: pd.Timestamp) -> int:
    return int(time.value // 1_000_000)


@pytest.mark.parametrize("freq", ["60min", "day"])
def test_a_real_portfolio_on_a_converted_provider_is_replayed_from_the_raw_files(hours, folder, freq):
    qlib.init(
        provider_uri=str(folder / "provider"), region="cn", trade_unit=None, limit_threshold=None, deal_price="open",
        kernels=1, logging_level=40,
    )  # fmt: skip
    market = hours
    if freq == "day":
        days = {
            name: bars.resample("1D").agg({"open": "first", "close": "last"}) for name, bars in hours.bars.items()
        }  # fmt: skip
        market = type(hours)("day", days, hours.settlements)
    strategy = topk(random_signal(market, persistence=0.7), topk=2, rebalance_every=2)
    result = run(market, strategy, codes=f"okx_{freq}", specs=str(folder / "specs.json"))
    assert len(result.fills) > 20
    assert len(result.funding) > 20
    settled = sum(len(times) for times in hours.settlements.values())
    assert result.assumptions["funding_price"] == {"trade": settled}
    assert result.assumptions["funding_coverage"] == 1.0
    assert result.steps["bench_btc"].notna().all()
    assert_replayed(market, result)
