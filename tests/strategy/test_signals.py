"""What a backtest takes as strategy and signal, and what is known before its span begins."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support_backtest import random_market, run

from qlib_crypto.backtest.entries import average_true_range
from qlib_crypto.backtest.known import Targets
from qlib_crypto.backtest.market import CLOSE, VOLUME
from qlib_crypto.backtest.qlib_exchange import PerpExchange
from qlib_crypto.backtest.qlib_targets import TargetStrategy
from qlib_crypto.errors import ConfigError, DataError

MODULES = {"FundingCarry": "carry", "VolatilityTargeted": "volatility", "LongShortTopk": "long_short"}


def named(kind, **kwargs):
    return {"class": kind, "module_path": f"qlib_crypto.strategy.{MODULES[kind]}", "kwargs": kwargs}


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    made = random_market(freq="60min", bars=240, names=5, seed=11, settle_hours=4, wicks=0.01)
    made.open(tmp_path_factory.mktemp("signals"))
    return made


class Bought:
    """A tenth of each instrument at the first bars."""

    uses_signal = False

    def targets(self, known):
        return Targets(np.full(known.close.shape, 0.1), np.arange(known.bars) < 30, {})


@pytest.mark.parametrize("engine", ["qlib", "array"])
def test_the_market_of_a_fill_is_known_when_the_span_begins(market, engine):
    late, long = (
        run(market, Bought(), engine=engine, start=market.times[at], end=market.times[t], missing_funding="zero").fills
        for at, t in ((30, 35), (12, 40))
    )
    both = late.merge(long, on=["datetime", "instrument"], suffixes=("", "_long"))
    assert len(late) == len(both) > 10
    for name in ("market_volatility", "market_volume"):
        assert late[name].notna().all()
        np.testing.assert_allclose(both[name], both[f"{name}_long"], rtol=1e-9)


class Always:
    """The same weight of everything at each tenth bar."""

    uses_signal = False

    def targets(self, known):
        return Targets(np.full(known.close.shape, 0.1), np.arange(known.bars) % 10 == 0, {})


@pytest.mark.parametrize("engine", ["qlib", "array"])
def test_what_looks_at_no_signal_needs_none(market, engine):
    carry = named("FundingCarry", topk=2, settlements=2, min_names=1, rebalance_every=8)
    targeted = named("VolatilityTargeted", base=carry, target_volatility=0.3)
    for strategy in (carry, targeted, Always()):
        assert len(run(market, strategy, engine=engine, missing_funding="zero").fills)


def test_what_looks_at_one_says_how_it_is_given(market):
    with pytest.raises(ConfigError, match="signal is missing; write <PRED>"):
        run(market, named("LongShortTopk", topk=2), missing_funding="zero")

    class Needs(Always):
        uses_signal = True

    with pytest.raises(ConfigError, match=r"Needs needs a signal: give TargetStrategy\(strategy=…, signal=…\)"):
        run(market, Needs(), missing_funding="zero")
    with pytest.raises(ConfigError, match=r"strategy Always is a class; give an object of it, Always\(…\)"):
        run(market, Always, missing_funding="zero")
    with pytest.raises(ConfigError, match=r"TargetStrategy: strategy <class .*Always'> has no targets"):
        TargetStrategy(strategy=Always)
    with pytest.raises(ConfigError, match="strategy: Always got an unexpected keyword argument 'topk'"):
        run(market, {"class": Always, "kwargs": {"topk": 2}}, missing_funding="zero")
    with pytest.raises(ConfigError, match=r"strategy\.ordres is unknown; write orders"):
        run(market, named("LongShortTopk", topk=2, signal=1, ordres={}), missing_funding="zero")


def test_a_frame_with_a_column_each_instrument_is_refused(market):
    wide = pd.DataFrame(1.0, index=market.times, columns=list(market.bars))
    with pytest.raises(DataError, match=r"levels \[None\], not datetime and instrument; .* signal\.stack\(\)"):
        run(market, named("LongShortTopk", topk=2, signal=wide), engine="array", missing_funding="zero")
    tall = wide.stack().rename_axis(["datetime", "instrument"])  # noqa: PD013 - as the message says
    assert len(run(market, named("LongShortTopk", topk=2, signal=tall), engine="array", missing_funding="zero").fills)


def test_scores_that_are_no_numbers_are_refused(market):
    index = pd.MultiIndex.from_product([market.times, sorted(market.bars)], names=["datetime", "instrument"])
    scores = pd.Series(1.0, index)
    for given, message in (
        (scores.replace(1.0, np.inf), "1,200 scores of the signal are infinite, such as that of"),
        (scores.astype(str), "the signal's scores are .*, such as '1.0'; give numbers"),
        (scores.rename(lambda name: name.split(".")[0], level=1), "none of 1200 scores .* from 2025-01-01 00:00:00 to"),
    ):
        with pytest.raises(DataError, match=message):
            run(market, named("LongShortTopk", topk=2, signal=given), engine="array", missing_funding="zero")


@pytest.mark.parametrize("engine", ["qlib", "array"])
def test_a_true_range_is_known_when_the_span_begins(market, engine):
    """A span that begins later sets the stops that a longer one sets there."""
    orders = {"stop_loss": {"atr": 3.0}, "trailing_stop": {"atr": 4.0}}
    at, last = market.times[200], market.times[-2]
    cut = run(
        market, TargetStrategy(strategy=Always(), orders=orders), engine=engine, start=at, end=last,
        missing_funding="zero",
    )  # fmt: skip
    assert cut.fills["datetime"].min() == at
    assert "average true range unknown: no position in some name" not in cut.assumptions["notes"]
    exchange = PerpExchange("60min", at, last, missing_funding="zero")
    strategy = TargetStrategy(strategy=Always(), orders=orders)
    strategy.targets(exchange, 0)
    whole = PerpExchange("60min", market.times[0], last, missing_funding="zero").loaded
    prices = whole.market.prices[:4]
    wide = average_true_range(prices, 14)[200:] / prices[3, 199:-1]
    known = np.isfinite(wide)
    assert known.any()
    np.testing.assert_allclose(strategy.plan[2][known], 3.0 * wide[known], rtol=1e-3)


def test_an_impact_is_known_when_the_span_begins(market):
    at, last = market.times[200], market.times[-2]
    given = {"slippage": {"impact": 1.0}, "missing_funding": "zero"}
    late, whole = PerpExchange("60min", at, last, **given), PerpExchange("60min", market.times[0], last, **given)
    np.testing.assert_allclose(late.loaded.market.slips, whole.loaded.market.slips[200:], rtol=1e-6)
    assert (late.loaded.market.slips[0, 1] > 0).any()
    rows = late.loaded.before.shape[1]
    np.testing.assert_array_equal(late.loaded.before[0], whole.loaded.market.prices[CLOSE, 200 - rows : 200])
    between = PerpExchange("60min", at - pd.Timedelta("30min"), last, **given)
    np.testing.assert_array_equal(between.loaded.before, late.loaded.before)
    earlier = late.source.before(int(late.loaded.opens_ms[0]), rows)
    np.testing.assert_array_equal(earlier[[CLOSE, VOLUME]], late.loaded.before)
    assert np.isnan(whole.loaded.before).all()
    assert np.isnan(whole.source.before(int(whole.loaded.opens_ms[0]), 3)).all()
