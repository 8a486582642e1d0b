import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto import clock
from qlib_crypto.clock import DAY_MS, VenueClock, iso, month_start, next_month, parse_utc, utc
from qlib_crypto.errors import ConfigError

instants = st.integers(0, 4_102_444_800_000)


@given(instants)
def test_iso_text_parses_back_to_the_second(ms):
    assert parse_utc(iso(ms)) == ms - ms % 1000


@given(instants)
def test_month_edges_agree_with_the_calendar(ms):
    at = utc(ms)
    first = datetime(at.year, at.month, 1, tzinfo=UTC)
    assert utc(month_start(ms)) == first
    assert utc(next_month(ms)) == (first + timedelta(days=32)).replace(day=1)
    assert month_start(ms) <= ms < next_month(ms)


def test_zones_are_converted_and_naive_means_utc():
    assert parse_utc("2025-04-17T16:50") == parse_utc("2025-04-17T18:50+02:00") == parse_utc("2025-04-17 16:50:00Z")
    assert parse_utc("2025-04-17") % DAY_MS == 0


def test_no_time_is_a_config_error():
    with pytest.raises(ConfigError, match="yesterday"):
        parse_utc("yesterday")


def test_venue_clock_follows_the_rate_and_never_goes_back(monkeypatch):
    wall = itertools.count(0.0, 0.5)
    monkeypatch.setattr(clock.time, "monotonic", lambda: next(wall))
    answers = itertools.chain([1_000_000, 9_000_000], itertools.count(9_000_001))  # it races, then all but stands
    venue = VenueClock(lambda: next(answers), refresh_s=2.0)
    seen = [venue.now_ms() for _ in range(12)]
    assert seen == sorted(seen)
    assert max(seen) > 5_000_000
