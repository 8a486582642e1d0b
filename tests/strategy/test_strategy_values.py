"""Strategies from YAML: the examples of the documentation, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml
from support_strategy import market

from qlib_crypto.errors import ConfigError
from qlib_crypto.strategy.beta import BetaNeutral
from qlib_crypto.strategy.configured import check_strategy, strategy_of
from qlib_crypto.strategy.limits import Limits
from qlib_crypto.strategy.long_short import LongShortTopk
from qlib_crypto.strategy.rank import RankWeighted
from qlib_crypto.strategy.volatility import VolatilityTargeted

TOPK = {"class": "LongShortTopk", "module_path": "qlib_crypto.strategy.long_short"}


def examples(root):
    blocks = re.findall(r"```yaml\n(.*?)```", (root / "docs" / "strategies.md").read_text(), re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]


def test_every_example_of_the_documentation_is_a_strategy(root):
    found = [example["strategy"] for example in examples(root) if "strategy" in example]
    assert {example["class"] for example in found} == {
        "LongShortTopk", "RankWeighted", "VolatilityTargeted", "BetaNeutral", "FundingCarry", "MeanVariance",
    }  # fmt: skip
    for example in found:
        kwargs = example["kwargs"]
        if kwargs.get("market"):
            kwargs["market"] = market(60, 12).names[0]
        assert strategy_of("strategy", example).targets(market(60, 12)).weights.shape == (60, 12)
    limits = [example["limits"] for example in examples(root) if "limits" in example]
    assert limits
    for given in limits:
        Limits.of(given)


def test_strategies_come_inside_strategies():
    inside = {"class": "VolatilityTargeted", "module_path": "qlib_crypto.strategy.volatility", "kwargs": {"base": TOPK}}
    outside = strategy_of("s", {"class": "BetaNeutral", "module_path": "qlib_crypto.strategy.beta",
                                "kwargs": {"base": inside, "limits": {"max_weight": 0.1}}})  # fmt: skip
    assert isinstance(outside, BetaNeutral)
    assert isinstance(outside.base, VolatilityTargeted)
    assert isinstance(outside.base.base, LongShortTopk)
    assert outside.limits == Limits(max_weight=0.1)
    own = RankWeighted()
    assert strategy_of("s", own) is own


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (5, "s 5 is no strategy; write class, module_path and kwargs of one"),
        ({"class": "LongShortTopk"}, "s.module_path is missing; write the module of a strategy"),
        ({**TOPK, "kwarg": {}}, "s.kwarg is unknown; did you mean kwargs?"),
        ({**TOPK, "class": "Topk"}, "s.class 'Topk' is not in qlib_crypto.strategy.long_short; correct the name"),
        ({**TOPK, "module_path": "no.such"}, "s.module_path 'no.such' cannot be imported: No module named 'no'"),
        ({**TOPK, "kwargs": [1]}, "s.kwargs must be a mapping, not [1]"),
        ({**TOPK, "kwargs": {"topk": 0}}, "s.kwargs.topk 0 must be a whole number of at least 1"),
        ({**TOPK, "kwargs": {"n_drop": 0}}, "s.kwargs.n_drop 0 must be a whole number of at least 1"),
        ({**TOPK, "kwargs": {"topk": 2, "min_names": 3}}, "s.kwargs.min_names 3 is above topk 2; write 2 or less"),
        (
            {**TOPK, "kwargs": {"signal": "<PRED>"}},
            "s.kwargs.signal is unknown; known: drop_buffer",
        ),
        ({**TOPK, "class": "Counter"}, "s.class 'Counter' makes no weights: it has no targets(known)"),
    ],
)
def test_what_is_no_strategy_is_named(config, message):
    with pytest.raises(ConfigError) as error:
        strategy_of("s", config)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("kind", "module", "kwargs", "message"),
    [
        ("RankWeighted", "rank", {"power": 0}, "power 0 must be positive: 1.0 is linear in rank"),
        ("RankWeighted", "rank", {"gross_exposure": -1}, "gross_exposure -1 must be positive"),
        ("VolatilityTargeted", "volatility", {}, "base is missing; write class, module_path and kwargs of a strategy"),
        ("VolatilityTargeted", "volatility", {"base": {**TOPK, "kwargs": {"topk": 0}}}, "base.kwargs.topk 0 must be"),
        ("VolatilityTargeted", "volatility", {"base": TOPK, "max_gross": 0}, "max_gross 0 must be positive"),
        ("VolatilityTargeted", "volatility", {"base": TOPK, "min_returns": 0}, "min_returns 0 must be a whole number"),
        ("BetaNeutral", "beta", {"base": TOPK, "market": 5}, "market 5 must be an instrument such as BTC_USDT.OKX or"),
        ("BetaNeutral", "beta", {"base": RankWeighted}, "base <class"),
    ],
)
def test_the_first_wrong_keyword_is_named_before_anything_is_made(kind, module, kwargs, message):
    config = {"class": kind, "module_path": f"qlib_crypto.strategy.{module}", "kwargs": kwargs}
    with pytest.raises(ConfigError) as error:
        check_strategy("strategy", config)
    assert str(error.value).startswith(f"strategy.kwargs.{message}")


def test_neither_qlib_nor_pandas_nor_cvxpy_is_loaded_with_the_strategies():
    modules = ["long_short", "rank", "volatility", "beta", "carry", "mean_variance"]
    lines = [f"import qlib_crypto.strategy.{name}" for name in modules]
    lines += ["import sys", "print([m for m in ('qlib', 'pandas', 'cvxpy') if m in sys.modules])"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
