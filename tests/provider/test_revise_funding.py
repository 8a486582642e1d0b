"""Funding of an update from the settlements around what changed is that of all settlements."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qlib_crypto.clock import DAY_MS, HOUR_MS, parse_utc
from qlib_crypto.provider.funding import FUNDING_FIELDS, SERIES, Settled, funding_fields
from qlib_crypto.provider.news import Held, News
from qlib_crypto.provider.revise import Reviser, _Work
from qlib_crypto.symbols import Instrument, Interval, Venue

T0 = parse_utc("2025-03-03")  # a Monday
BTC = Instrument("BTC", "USDT", Venue.OKX)
TARGETS = [Interval.parse(name) for name in ("1h", "4h", "1d", "1w")]


def series(hours, rates):
    out = np.zeros(len(hours), SERIES)
    out["time_ms"] = T0 + np.array(hours, dtype=np.int64) * HOUR_MS
    out["rate"], out["price"] = [rates.get(hour, hour) / 1e4 for hour in hours], 50.0
    return out


class Files:
    """What the files of one instrument hold, by frequency; as they were of the old series before an update."""

    def __init__(self, old, held, now):
        self.first = {target: min(now[target][0], held.get(target, now[target])[0]) for target in now}
        self.values = {
            target: np.full((len(FUNDING_FIELDS), (last - self.first[target]) // target.ms + 1), 9e9, np.float32)
            for target, (_, last) in now.items()
        }
        for target, (first, last) in held.items():
            count = (last - first) // target.ms + 1
            at = (first - self.first[target]) // target.ms
            fields = funding_fields([Settled.of(old)], target, first, count)[:, 0]
            self.values[target][:, at : at + count] = fields

    def put(self, instrument, interval, fields, first_ms, at, values):
        assert (instrument, fields, first_ms) == (BTC, FUNDING_FIELDS, self.first[interval])
        self.values[interval][:, at : at + values.shape[1]] = values


def extents(days, hours):
    last = T0 + days * DAY_MS + hours * HOUR_MS
    whole = {target: (T0, target.floor(last) - target.ms) for target in TARGETS}
    return {target: (first, end) for target, (first, end) in whole.items() if end >= first}


HOURS = 20 * 24
#: Any hour, and often those around midnight, where bars begin.
HOUR = st.one_of(
    st.integers(-10, HOURS), st.builds(lambda day, hour: day * 24 + hour, st.integers(1, 19), st.integers(-2, 8))
)
LOST = st.lists(st.tuples(HOUR, st.integers(1, 8)), max_size=4)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([1, 2, 4, 8]),
    LOST,
    st.one_of(st.just([]), LOST),
    st.integers(10, HOURS),
    st.integers(0, 9),
    st.sampled_from([0, 1, 3, 8, 30]),
    st.dictionaries(st.integers(-10, HOURS), st.just(7), max_size=1),
)
def test_an_update_gives_what_everything_gives(step, lost, lost_then, end, behind, more, restated):
    if lost and behind:  # the provider ended soon after a hole began
        end = max(lost[-1][0] + lost[-1][1] + behind, 10)

    def without(holes, until):
        gone = {hour + k for hour, count in holes for k in range(count)}
        return [hour for hour in range(-16, until, step) if hour not in gone]

    old = series(without(lost, end), {})
    now = series(without(lost_then or lost, end + more), restated)
    held, then = (extents(*divmod(hours, 24)) for hours in (end, end + more))
    files = Files(old, held, then)
    work = _Work(News(BTC, Held(held, old), [], []), dict(then), now, [])
    Reviser(None, None, None, TARGETS, files, {}, None)._revise_funding([work])
    for target, (first, last) in then.items():
        right = funding_fields([Settled.of(now)], target, first, (last - first) // target.ms + 1)[:, 0]
        np.testing.assert_array_equal(files.values[target], right, err_msg=str(target))


def test_a_lost_midnight_shows_only_when_the_next_ones_come():
    """The day before the one that the first difference lies in is whole, and stays so."""
    day = 5 * 24
    gone = [hour for hour in range(-10, day + 4) if hour not in {day, day + 1, day + 2}]
    held, then = extents(5, 4), extents(5, 7)
    old, now = series(gone, {}), series([*gone, day + 4, day + 5, day + 6], {})
    files = Files(old, held, then)
    work = _Work(News(BTC, Held(held, old), [], []), dict(then), now, [])
    Reviser(None, None, None, TARGETS, files, {}, None)._revise_funding([work])
    daily = files.values[Interval.parse("1d")][0]
    assert not np.isnan(daily[:4]).any()
