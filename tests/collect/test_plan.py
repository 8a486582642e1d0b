"""The plan of a back-fill: what it costs and which source has what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support_lake import BTC, ETH, T0, FakeVenue

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.collect.plan import _files, plan
from qlib_crypto.collect.spans import length, union

NOW = T0 + 400 * DAY_MS


class Files:
    def __init__(self, until=NOW - 2 * DAY_MS):
        self._until = until

    def serves(self, dataset):
        return dataset in {"kline_1m", "funding"}

    def published_until_ms(self, _now_ms, _dataset):
        return self._until


def venue(**reach):
    client = FakeVenue(now_ms=NOW)
    client.reach = reach
    return client


def of(found, source, instrument=BTC):
    return found.spans[source].get(instrument, [])


def test_little_goes_by_rest_and_much_from_the_archive():
    client, week = venue(), (NOW - 10 * DAY_MS, NOW - 3 * DAY_MS)
    small = plan(client, Files(), "kline_1m", {BTC: [week]}, MINUTE_MS, NOW)
    assert (small.source, small.requests, small.files) == ("rest", 34, 0)
    year = plan(client, Files(), "kline_1m", {BTC: [(NOW - 365 * DAY_MS, NOW)]}, MINUTE_MS, NOW)
    assert year.source == "rest and archive"
    assert of(year, "archive")[-1][1] == NOW - 2 * DAY_MS
    assert of(year, "rest") == [(NOW - 2 * DAY_MS, NOW)]
    assert year.minutes < plan(client, None, "kline_1m", {BTC: [(NOW - 365 * DAY_MS, NOW)]}, MINUTE_MS, NOW).minutes
    assert "archive files" in str(year)


def test_what_rest_does_not_reach_is_said_at_once():
    client, todo = venue(funding=90 * DAY_MS), {BTC: [(NOW - 300 * DAY_MS, NOW)]}
    alone = plan(client, None, "funding", todo, 8 * HOUR_MS, NOW)
    assert alone.source == "rest"
    assert 600 < alone.unreachable < 640
    assert "where REST ends, and no archive has them" in str(alone)
    filed = plan(client, Files(), "funding", todo, 8 * HOUR_MS, NOW)
    assert (filed.source, filed.unreachable) == ("rest and archive", 0)
    only = plan(client, Files(), "funding", todo, 8 * HOUR_MS, NOW, "rest")
    assert only.source == "rest"
    assert of(only, "archive") == []


def test_nothing_missing_is_nothing_to_ask():
    assert str(plan(venue(), Files(), "kline_1m", {BTC: []}, MINUTE_MS, NOW)) == "kline_1m: nothing to ask"


@given(
    st.lists(st.tuples(st.integers(0, 390), st.integers(1, 60)), max_size=4),
    st.sampled_from([None, 5, 90]), st.booleans(), st.sampled_from(["auto", "rest", "archive"]),
    st.integers(0, 5),
)  # fmt: skip
def test_every_missing_instant_has_one_source_or_is_unreachable(days, reach, archived, choice, lag):
    spans = union((T0 + a * DAY_MS, min(NOW, T0 + (a + n) * DAY_MS)) for a, n in days)
    client = venue() if reach is None else venue(kline_1m=reach * DAY_MS)
    archive = Files(NOW - lag * DAY_MS) if archived else None
    found = plan(client, archive, "kline_1m", {BTC: spans, ETH: []}, MINUTE_MS, NOW, choice)
    rest, filed = of(found, "rest"), of(found, "archive")
    assert length(union([*rest, *filed])) == length(rest) + length(filed)  # nothing twice
    assert set(found.spans["rest"]) | set(found.spans["archive"]) <= {BTC}
    got = length(rest) + length(filed)
    assert got + found.unreachable * MINUTE_MS == length(spans)
    assert all(start >= found.reached_ms for start, _ in rest)
    assert choice != "rest" or not filed
    assert choice != "archive" or not rest


@given(st.integers(0, 700), st.integers(1, 400))
def test_files_are_whole_months_and_days_beside_them(first, days):
    start, end = T0 + first * DAY_MS, T0 + (first + days) * DAY_MS
    count = _files([[(start, end)]])
    assert -(-days // 31) <= count <= days
    assert _files([[(start, start + DAY_MS)]]) == 1
