import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlib_crypto.errors import ConfigError, DataError, VenueError
from qlib_crypto.lake import Lake
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import Estimate, Ticker
from qlib_crypto.settings import UniverseSettings
from qlib_crypto.symbols import Instrument, Venue
from qlib_crypto.universe import membership_spans, read_universe, universe_path, update_universe

HOUR = 3_600_000
NAMES = ("AAA", "BBB", "CCC", "DDD")


class FakeVenue:
    """A venue whose rates and time the test sets."""

    venue = Venue.OKX

    def __init__(self):
        self.now, self.rates, self.fails = 0, {}, False

    def server_time_ms(self):
        return self.now

    def specs(self):
        return [
            InstrumentSpec(Instrument(n, "USDT", Venue.OKX), self.now, "live", "crypto", "normal", 0.1, 1, 1, 1,
                           None, None, None, None, "venue") for n in NAMES
        ]  # fmt: skip

    def estimates(self):
        if self.fails:
            raise VenueError("gone")
        return [Estimate(Instrument(n, "USDT", Venue.OKX), self.now, r, 1, 8.0, None, 0) for n, r in self.rates.items()]

    def tickers(self):
        return [Ticker(Instrument(n, "USDT", Venue.OKX), 1.0, 5.0, self.now) for n in NAMES]


def rank_once(lake, venue, folder, size=2):
    return update_universe(lake, venue, UniverseSettings(size=size), folder)


def test_writes_a_plain_array_and_a_dated_record_with_inputs(tmp_path):
    lake, venue = Lake(tmp_path), FakeVenue()
    venue.now, venue.rates = 1_745_000_000_000, {"AAA": 0.0001, "BBB": -0.003, "CCC": 0.002}
    rank_once(lake, venue, tmp_path)
    assert json.loads((tmp_path / "top50_symbols.json").read_text()) == ["BBB_USDT", "CCC_USDT"]
    record = lake.memberships(Venue.OKX).to_pandas()
    assert list(record["symbol"]) == ["BBB_USDT", "CCC_USDT", "AAA_USDT"]
    assert list(record["member"]) == [True, True, False]
    assert list(record["funding_rate"]) == [-0.003, 0.002, 0.0001]
    assert list(record["turnover_quote"]) == [5.0, 5.0, 5.0]
    assert universe_path(tmp_path, Venue.BINANCE).name == "top50_symbols.binance.json"


@pytest.mark.parametrize("break_it", ["fails", "empty"])
def test_a_failed_ranking_leaves_list_and_record(tmp_path, break_it):
    lake, venue = Lake(tmp_path), FakeVenue()
    venue.now, venue.rates = HOUR, dict.fromkeys(NAMES, 0.0001)
    rank_once(lake, venue, tmp_path)
    before = universe_path(tmp_path, Venue.OKX).read_bytes()
    venue.now, venue.fails, venue.rates = 2 * HOUR, break_it == "fails", {}
    with pytest.raises((VenueError, DataError)):
        rank_once(lake, venue, tmp_path)
    assert universe_path(tmp_path, Venue.OKX).read_bytes() == before
    assert len(lake.memberships(Venue.OKX)) == len(NAMES)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@settings(max_examples=25, deadline=None)
@given(rankings=st.lists(st.sets(st.sampled_from(NAMES), min_size=1), min_size=1, max_size=6))
def test_spans_say_who_was_a_member_at_every_instant(tmp_path_factory, rankings):
    folder = tmp_path_factory.mktemp("universe")
    lake, venue = Lake(folder), FakeVenue()
    for i, members in enumerate(rankings):
        venue.now, venue.rates = i * HOUR, {n: 0.01 if n in members else 0.0 for n in NAMES}
        rank_once(lake, venue, folder, size=len(members))
    spans = membership_spans(lake, Venue.OKX)
    for i, members in enumerate(rankings):
        for at in (i * HOUR, i * HOUR + HOUR - 1):
            held = {
                s.removesuffix("_USDT")
                for s, parts in spans.items()
                if any(a <= at and (b is None or at < b) for a, b in parts)
            }
            assert held == members
    for parts in spans.values():
        edges = [edge for part in parts for edge in part]
        assert edges[:-1] == sorted(set(edges[:-1])), "disjoint, ascending, merged where they touch"


def test_no_ranking_means_no_spans(tmp_path):
    assert membership_spans(Lake(tmp_path), Venue.OKX) == {}


@pytest.mark.parametrize("text", ["{}", "[]", "[1]", "not json", '["BTCUSDT"]'])
def test_a_broken_list_says_what_to_write(tmp_path, text):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(ConfigError):
        read_universe(tmp_path / "list.json", Venue.OKX)
    with pytest.raises(ConfigError, match="rank"):
        read_universe(tmp_path / "missing.json", Venue.OKX)
