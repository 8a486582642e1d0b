"""Order rules: from the lake's last specs into `specs.json`, which the backtest's own reader takes."""

import json

import pytest
from provider_lakes import random_lake

from qlib_crypto.backtest.orders import load_specs
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.provider import convert, verify
from qlib_crypto.settings import ProviderSettings


@pytest.fixture
def made(tmp_path):
    lake = random_lake(3, symbols=3, days=2, mixed=False, holes=False)
    from_lake = sorted({i for v in ("okx", "binance") for i in lake.instruments(v)})
    lake.known_specs = {
        from_lake[0]: InstrumentSpec(from_lake[0], 0, "live", "crypto", "normal", 0.1, 0.01, 0.5, 2.0, None, 100.0,
                                     None, None, "derived"),
    }  # fmt: skip
    convert(lake, tmp_path / "qlib_data", ProviderSettings())
    return lake, tmp_path / "qlib_data", from_lake


def test_rules_are_in_base_coins_and_the_backtest_reads_them(made):
    _, provider, instruments = made
    rules = load_specs(provider / "specs.json")
    assert list(rules) == [instruments[0].qlib], "an instrument without a spec is left out, not invented"
    rule = rules[instruments[0].qlib]
    assert (rule.lot_base, rule.min_base, rule.min_notional_quote, rule.tick_size) == (0.005, 0.02, 0.0, 0.1)
    assert rule.spec_source == "derived"


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda p: p.unlink(), "missing"),
        (lambda p: p.write_text("{"), "no JSON"),
        (lambda p: p.write_text(json.dumps({"NOBODY_USDT.OKX": {}})), "order rules"),
    ],
)
def test_verify_names_a_damaged_file(made, damage, word):
    lake, provider, _ = made
    assert verify(lake, provider) == []
    damage(provider / "specs.json")
    assert any(word in problem for problem in verify(lake, provider))
