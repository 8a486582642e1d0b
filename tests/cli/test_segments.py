import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.cli.segments import segments
from qlib_crypto.clock import DAY_MS, parse_utc
from qlib_crypto.errors import DataError
from qlib_crypto.symbols import Interval

START = parse_utc("2025-01-01")


@given(st.integers(60, 2000), st.sampled_from(["5m", "1h", "4h", "1d"]))
def test_segments_are_apart_in_order_and_inside(days, name):
    interval = Interval.parse(name)
    end = START + days * DAY_MS
    edges = [parse_utc(text) for text in segments(START, end, interval).values()]
    assert edges == sorted(edges)
    assert edges[0] == START
    assert edges[-1] + 2 * interval.ms == end
    for ended, begins in ((edges[1], edges[2]), (edges[3], edges[4])):
        assert begins - ended >= max(DAY_MS, 3 * interval.ms), "the label looks two bars ahead"
    assert all((edge - START) % interval.ms == 0 for edge in edges)


def test_too_few_bars_are_refused():
    with pytest.raises(DataError, match="too few"):
        segments(START, START + 3 * DAY_MS, Interval.parse("1d"))
