"""What the demo decides before it runs: spans, intervals, segments, and the answer to compare with."""

import pytest

from qlib_crypto.cli.demo import plan_demo, planted_ic, workflow_variables
from qlib_crypto.cli.running import open_tape
from qlib_crypto.clock import DAY_MS, iso, parse_utc
from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds import rest_client
from qlib_crypto.sandbox.serve import running
from qlib_crypto.settings import OkxSettings
from qlib_crypto.symbols import Interval, Venue

HOUR = Interval.parse("1h")


def test_the_generated_market_streams_its_last_two_days_of_minutes(tmp_path):
    plan = plan_demo("", Venue.OKX, HOUR)
    assert (plan.history.name, plan.stream.name) == ("1h", "1m")
    assert plan.end_ms - plan.stream_ms == 2 * DAY_MS
    assert plan.stream_ms - plan.start_ms == 120 * DAY_MS
    variables = workflow_variables(plan, tmp_path)
    edges = [parse_utc(variables[f"{s}_{e}"]) for s in ("TRAIN", "VALID", "TEST") for e in ("START", "END")]
    assert edges == sorted(edges)
    assert edges[2] - edges[1] == edges[4] - edges[3] == DAY_MS
    assert edges[-1] < plan.end_ms
    expected = planted_ic("", plan, variables)
    assert expected == pytest.approx(0.094, abs=0.002)


def test_the_delisted_contract_is_fetched_while_the_venue_still_has_it(tmp_path):
    """The universe is not chosen at the end: the clock stops at the start and before the delisting, too."""
    plan = plan_demo("", Venue.OKX, HOUR)
    assert plan.stops == (plan.start_ms, parse_utc("2025-05-20T11:59"), plan.stream_ms)
    assert "LUNIX_USDT until 2025-05-20 12:00:00" in plan.universe
    with running([open_tape("", Venue.OKX)], speed=0, at=plan.stops[1]) as sandbox:
        client = rest_client(Venue.OKX, OkxSettings(rate_scale=100.0).at(sandbox.url))
        listed = []
        for stop in plan.stops[1:]:
            sandbox.set_clock(at=stop)
            listed.append({spec.instrument.symbol for spec in client.specs()})
        client.close()
    assert "LUNIX_USDT" in listed[0] - listed[1]


def test_real_okx_hours_stop_where_its_minutes_do_and_only_symbols_with_minutes_are_streamed(real_data):
    plan = plan_demo(str(real_data), Venue.OKX, HOUR)
    assert plan.stream.name == "1m"
    assert iso(plan.end_ms) == "2025-04-17 16:00:00"
    assert len(plan.streamed) == 9
    assert planted_ic(str(real_data), plan, {}) is None
    assert plan.stops == (plan.stream_ms,)
    assert "hindsight" in plan.universe


def test_real_binance_hours_have_no_minutes_so_hours_are_streamed(real_data):
    plan = plan_demo(str(real_data), Venue.BINANCE, HOUR)
    assert plan.stream == plan.history == HOUR
    assert len(plan.streamed) == 50


def test_an_interval_that_the_tape_lacks_is_refused(real_data):
    with pytest.raises(ConfigError, match="1m"):
        plan_demo(str(real_data / "derivatives"), Venue.OKX, Interval.parse("1m"))
