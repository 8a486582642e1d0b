"""Order rules and margin tiers: from the lake into `specs.json`, which the backtest reads, and its dated siblings."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provider_lakes import random_lake
from support_lake import BTC, ETH, T0, bar, spec

from qlib_crypto.backtest.orders import load_specs
from qlib_crypto.clock import DAY_MS
from qlib_crypto.lake import Lake
from qlib_crypto.market.margin import MarginTable, MarginTier, dated_tables
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.provider import convert, verify
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Venue

HOURS = ProviderSettings(intervals=("1h",))


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
    ((_, rule),) = rules[instruments[0].qlib]
    assert load_specs(provider / "rules.json") == rules
    assert (rule.lot_base, rule.min_base, rule.min_notional_quote, rule.tick_size) == (0.005, 0.02, 0.0, 0.1)
    assert rule.spec_source == "derived"


def test_dated_rules_begin_when_they_were_seen(made):
    _, provider, instruments = made
    last = json.loads((provider / "specs.json").read_text())[instruments[0].qlib]
    assert json.loads((provider / "rules.json").read_text()) == {instruments[0].qlib: [{"since_ms": 0, **last}]}


@pytest.mark.parametrize("name", ["specs.json", "rules.json", "margin_tiers.json"])
@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda p: p.unlink(), "missing"),
        (lambda p: p.write_text("{"), "no JSON"),
        (lambda p: p.write_text(json.dumps({"NOBODY_USDT.OKX": {}})), "order rules"),
    ],
)
def test_verify_names_a_damaged_file(made, name, damage, word):
    lake, provider, _ = made
    assert verify(lake, provider) == []
    damage(provider / name)
    assert any(word in problem and name in problem for problem in verify(lake, provider))


@pytest.mark.parametrize("name", ["rules.json", "margin_tiers.json"])
@pytest.mark.parametrize("states", [3, [], [{}], ["now"], "now", [{"since_ms": 2}, {"since_ms": 2}], None])
def test_verify_names_states_that_are_none_or_out_of_order(made, name, states):
    lake, provider, instruments = made
    (provider / name).write_text(json.dumps({instruments[0].qlib: states}))
    (problem,) = verify(lake, provider)
    assert name in problem


def test_a_lake_that_sees_other_tiers_or_rules_changes_these_files_alone(tmp_path):
    lake, provider = Lake(tmp_path / "lake"), tmp_path / "qlib_data"
    lake.store(bar(k) for k in range(120))
    lake.store_specs(Venue.OKX, [spec()])
    before = convert(lake, provider, ProviderSettings())
    table = MarginTable((MarginTier(0, 5, 0.01, 50), MarginTier(5, math.inf, 0.02, 25)), True, "venue")
    for at, tick in ((T0, 0.1), (T0 + DAY_MS, 0.5)):
        lake.store_tiers(Venue.OKX, {BTC: table, ETH: table}, at)
        lake.store_specs(Venue.OKX, [spec(seen_ms=at, tick_size=tick, max_leverage=20.0)])
        done = convert(lake, provider, ProviderSettings())
        assert (done.changed, done.rebuilt) == (True, False)
        assert not convert(lake, provider, ProviderSettings()).changed
    assert done.manifest.instruments == before.manifest.instruments
    assert dated_tables(provider / "margin_tiers.json") == {BTC.qlib: ((T0, table),)}, "ETH has no bars here"
    rules = json.loads((provider / "rules.json").read_text())[BTC.qlib]
    assert [(state["since_ms"], state["tick_size"]) for state in rules] == [(T0, 0.1), (T0 + DAY_MS, 0.5)]
    convert(lake, tmp_path / "whole", ProviderSettings())
    for name in ("specs.json", "rules.json", "margin_tiers.json", "lake_files.json"):
        assert (provider / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    lake.close()


def test_a_provider_from_before_these_files_gets_them(tmp_path):
    lake, provider = Lake(tmp_path / "lake"), tmp_path / "qlib_data"
    lake.store(bar(k) for k in range(120))
    convert(lake, provider, ProviderSettings())
    for name in ("rules.json", "margin_tiers.json"):
        (provider / name).unlink()
    assert convert(lake, provider, ProviderSettings()).rebuilt
    assert verify(lake, provider) == []
    lake.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([5.0, 6.0]), st.sampled_from([0.1, 0.5]), st.booleans()), max_size=5))
def test_states_are_in_order_without_repeats_and_the_same_however_the_lake_grew(tmp_path_factory, steps):
    """Each step a day: the cap of the only tier, the tick, and whether ETH has come with bars by then."""
    folder = tmp_path_factory.mktemp("grown")
    lake, grown, whole = Lake(folder / "lake"), folder / "grown", folder / "whole"
    lake.store(bar(k) for k in range(60))
    convert(lake, grown, HOURS, durable=False)
    for day, (cap, tick, comes) in enumerate(steps):
        at = T0 + day * DAY_MS
        table = MarginTable((MarginTier(0, cap, 0.01, 50),), by_quantity=True, source="venue")
        lake.store_tiers(Venue.OKX, {BTC: table, ETH: table}, at)
        lake.store_specs(Venue.OKX, [spec(seen_ms=at, tick_size=tick), spec(ETH, seen_ms=at, tick_size=tick)])
        lake.store(bar(k, of=ETH) for k in range(60) if comes)
        convert(lake, grown, HOURS, durable=False)
    convert(lake, whole, HOURS, durable=False)
    for name in ("specs.json", "rules.json", "margin_tiers.json"):
        assert (grown / name).read_bytes() == (whole / name).read_bytes()
    seen = [(T0 + day * DAY_MS, *step) for day, step in enumerate(steps)]
    names = [BTC.qlib, *([ETH.qlib] if any(comes for *_, comes in steps) else [])] if steps else []
    caps = [(at, cap) for n, (at, cap, _, _) in enumerate(seen) if not n or seen[n - 1][1] != cap]
    ticks = [(at, tick) for n, (at, _, tick, _) in enumerate(seen) if not n or seen[n - 1][2] != tick]
    tables = dated_tables(grown / "margin_tiers.json")
    rules = json.loads((grown / "rules.json").read_text())
    assert {name: [(at, table.most) for at, table in tables[name]] for name in tables} == dict.fromkeys(names, caps)
    assert {n: [(s["since_ms"], s["tick_size"]) for s in rules[n]] for n in rules} == dict.fromkeys(names, ticks)
    lake.close()
