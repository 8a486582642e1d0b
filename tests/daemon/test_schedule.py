import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, iso, parse_utc
from qlib_crypto.daemon.schedule import Period, convert_period, rank_period
from qlib_crypto.settings import ScheduleSettings

instants = st.integers(0, 4_102_444_800_000)


@given(instants, st.integers(1, 7 * DAY_MS), st.integers(0, 7 * DAY_MS))
def test_last_is_the_latest_instant_of_the_grid_not_after_now(now, every, offset):
    last = Period(every, offset).last(now)
    assert last <= now < last + every
    assert (last - offset) % every == 0


@pytest.mark.parametrize(
    ("now", "rank", "convert"),
    [
        ("2025-04-17 00:04:59", "2025-04-16 16:05:00", "2025-04-16 00:10:00"),
        ("2025-04-17 00:10:00", "2025-04-17 00:05:00", "2025-04-17 00:10:00"),
        ("2025-04-17 23:59:59", "2025-04-17 16:05:00", "2025-04-17 00:10:00"),
    ],
)
def test_defaults_rank_after_each_settlement_and_convert_after_midnight(now, rank, convert):
    schedule = ScheduleSettings()
    assert iso(rank_period(schedule).last(parse_utc(now))) == rank
    assert iso(convert_period(schedule).last(parse_utc(now))) == convert


def test_a_year_of_ticks_finds_each_period_once():
    period = Period(8 * HOUR_MS, 5 * MINUTE_MS)
    begin = parse_utc("2025-01-01")
    seen = {period.last(begin + i * 7 * MINUTE_MS) for i in range(365 * DAY_MS // (7 * MINUTE_MS))}
    assert len([s for s in seen if s >= begin]) == 365 * 3
