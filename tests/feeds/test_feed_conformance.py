"""Both venues' clients against the sandbox: what comes out is what its tape holds, whatever happens on the way."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_feeds import START_MS, ArrayTape, plain_row, rows_of, settings_at, streaming

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.errors import VenueError
from qlib_crypto.feeds import rest_client
from qlib_crypto.sandbox.serve import running
from qlib_crypto.sandbox.tape_files import FileTape
from qlib_crypto.symbols import Instrument, Interval, Venue

M1, H1 = Interval.parse("1m"), Interval.parse("1h")
FAST = 1_000_000.0


@pytest.fixture(scope="module", params=list(Venue))
def venue(request):
    return request.param


@pytest.fixture(scope="module")
def tape(venue):
    return ArrayTape(venue, M1, 3_000)


@pytest.fixture(scope="module")
def standing(venue, tape):
    """A client of a sandbox whose clock stands half a minute into a bar."""
    now = START_MS + 2_500 * MINUTE_MS + 30_000
    with running([tape], at=now, speed=0, rate_scale=FAST) as box:
        client = rest_client(venue, settings_at(venue, box.url, rate_scale=FAST))
        yield client, now, box
        client.close()


def test_time_specs_tickers_and_estimates(venue, tape, standing):
    client, now, _ = standing
    assert client.server_time_ms() == now
    specs = {spec.instrument: spec for spec in client.specs()}
    assert set(tape.specs) <= set(specs)
    for instrument, want in tape.specs.items():
        got = specs[instrument]
        assert (got.seen_ms, got.state, got.category, got.rule_type) == (now, "live", "crypto", "normal")
        assert (got.tick_size, got.lot_base, got.min_base) == (want.tick_size, want.lot_base, want.min_base)
        assert (got.listed_ms, got.delisted_ms, got.min_notional_quote) == (
            want.listed_ms,
            None,
            want.min_notional_quote,
        )
    universe = {i for i, s in specs.items() if (s.state, s.category, s.rule_type) == ("live", "crypto", "normal")}
    assert universe == set(tape.specs), "of the awkward instruments none gets through"
    tickers = {ticker.instrument: ticker for ticker in client.tickers()}
    estimates = {estimate.instrument: estimate for estimate in client.estimates()}
    for instrument in tape.specs:
        day = rows_of(tape, instrument, M1, now - DAY_MS, now - MINUTE_MS)
        assert tickers[instrument].turnover_quote == pytest.approx(sum(row[8] for row in day), rel=0.05)
        rate, settles, interval_ms = tape.funding_now(instrument, now)
        got = estimates[instrument]
        assert (got.rate, got.settles_ms, got.interval_hours) == (rate, settles, interval_ms / HOUR_MS)
        assert got.time_ms == now


@settings(max_examples=25, deadline=None)
@given(start=st.integers(-5, 2_600), length=st.integers(0, 1_000), which=st.integers(0, 1))
def test_bars_of_any_window_are_the_tapes(venue, tape, standing, start, length, which):
    client, now, _ = standing
    instrument = sorted(tape.specs)[which]
    span = (START_MS + start * MINUTE_MS, START_MS + (start + length) * MINUTE_MS)
    got = [plain_row(bar) for page in client.bars(instrument, M1, *span) for bar in page]
    closed = min(span[1], now - MINUTE_MS + 1)
    assert sorted(got) == rows_of(tape, instrument, M1, span[0], closed)


@settings(max_examples=15, deadline=None)
@given(start=st.integers(-2_400, 60), length=st.integers(0, 3_000), which=st.integers(0, 1))
def test_settlements_of_any_window_are_the_tapes(venue, tape, standing, start, length, which):
    client, now, _ = standing
    instrument = sorted(tape.specs)[which]
    span = (START_MS + start * HOUR_MS, START_MS + (start + length) * HOUR_MS)
    got = sorted(row[1:4] for page in client.settlements(instrument, *span) for row in page)
    series = tape.settlements(instrument)
    reach = now - 90 * DAY_MS if venue is Venue.OKX else 0
    want = [
        (t, rate, mark if venue is Venue.BINANCE else None)
        for t, rate, mark in zip(
            *(column.tolist() for column in (series.time_ms, series.rate, series.mark_price)), strict=True
        )
        if span[0] <= t < span[1] and reach <= t <= now
    ]
    assert got == want


@pytest.mark.parametrize(("kind", "more"), [("error", {}), ("rate_limit", {"retry_after": 1})])
def test_faults_on_the_way_lose_nothing(venue, tape, standing, kind, more):
    client, _, box = standing
    instrument = min(tape.specs)
    box.fault(kind, count=1, **more)
    span = (START_MS, START_MS + 900 * MINUTE_MS)
    got = [plain_row(bar) for page in client.bars(instrument, M1, *span) for bar in page]
    assert sorted(got) == rows_of(tape, instrument, M1, *span)


def test_an_unknown_instrument_is_refused_in_one_line(venue, standing):
    client, _, _ = standing
    with pytest.raises(VenueError, match=r"NOPE.*(51001|-1121)") as caught:
        list(client.bars(Instrument("NOPE", "USDT", venue), M1, START_MS, START_MS + HOUR_MS))
    assert not caught.value.retryable
    assert "\n" not in str(caught.value)


def test_at_the_true_limits_no_request_is_refused(venue, tape):
    """More than the limit of OKX's slowest endpoint, and of Binance's weight, in one go."""
    with running([tape], at=START_MS + 2_500 * MINUTE_MS, speed=0) as box:
        client = rest_client(venue, settings_at(venue, box.url))
        for _ in range(25):
            client.server_time_ms()
        list(client.bars(min(tape.specs), M1, START_MS, START_MS + 2_500 * MINUTE_MS))
        client.close()
        status = box.status()
    assert status["requests"] > 30
    assert status["refused"] == 0


# the stream


def replay(tape, venue, *, interval=M1, start=START_MS, bars=400, instruments=None, then=None, **other):
    """What a stream collects of a replay at maximum speed."""
    names = instruments or sorted(tape.specs)
    until = start + bars * interval.ms
    with contextlib.ExitStack() as stack:
        hold = {"hold_streams": 2 * len(names), "speed": "max"}
        box = stack.enter_context(running([tape], at=start, until=until, rate_scale=FAST, **hold))
        got = stack.enter_context(streaming(venue, box.url, names, interval, **other))
        if then:
            then(box, got)
        got.wait(lambda: box.status()["finished"], 60)
        got.wait(quiet(got), 10)
    want = [row for name in names for row in rows_of(tape, name, interval, start, until)]
    return got, sorted(want)


def quiet(got):
    """Whether nothing came for a while."""
    seen = [-1, 0]

    def check():
        seen[1] = seen[1] + 1 if len(got.bars) == seen[0] else 0
        seen[0] = len(got.bars)
        return seen[1] > 20

    return check


def assert_close_by(venue, got, want):
    """Every bar is the tape's, at most once."""
    assert not set(got) - set(want)
    assert max(Counter(row[:3] for row in got).values()) == 1


def test_a_replay_is_the_tape_with_no_open_bar_and_no_duplicate(venue, tape):
    got, want = replay(tape, venue)
    assert sorted(map(plain_row, got.bars)) == want
    assert {bar.source for bar in got.bars} == {"ws"}
    assert got.problems == []


def test_estimates_come_once_a_minute_and_when_the_settlement_moves_on(venue, tape):
    got, _ = replay(tape, venue, bars=300)
    for instrument in tape.specs:
        mine = [e for e in got.estimates if e.instrument == instrument]
        for estimate in mine:
            rate, settles, interval_ms = tape.funding_now(instrument, estimate.time_ms)
            assert (estimate.rate, estimate.settles_ms) == (rate, settles)
            assert estimate.interval_hours == (interval_ms / HOUR_MS if venue is Venue.OKX else None)
        keys = [(e.time_ms // MINUTE_MS, e.settles_ms) for e in mine]
        assert len(set(keys)) == len(keys)
        settled = {
            t for t in tape.settlements(instrument).time_ms.tolist() if START_MS < t < START_MS + 300 * MINUTE_MS
        }
        assert len({e.settles_ms for e in mine}) >= len(settled)


@pytest.mark.parametrize("fault", ["drop", "abort"])
def test_a_lost_connection_is_made_again_and_the_rest_arrives(venue, tape, fault):
    """What was in flight may be lost (REST fills it); nothing comes twice, nothing wrong, and the end is there."""

    def then(box, got):
        got.wait(lambda: len(got.bars) > 100)
        box.fault(fault)

    got, want = replay(tape, venue, bars=1_500, then=then)
    rows = [plain_row(bar) for bar in got.bars]
    assert_close_by(venue, rows, want)
    assert {row[0] for row in want[-1:]} <= {row[0] for row in rows}
    last = START_MS + 1_499 * MINUTE_MS
    assert {row[0] for row in rows if row[2] == last} == set(tape.specs)
    assert any("reconnects in" in problem for problem in got.problems)
    if fault == "drop":
        assert sorted(rows) == want


def test_a_callback_that_raises_loses_nothing_else(venue, tape):
    taken = []

    def fussy(bar):
        if bar.open_ms // MINUTE_MS % 7 == 0:
            raise ValueError("I do not\nlike this one")
        taken.append(plain_row(bar))

    got, want = replay(tape, venue, on_bar=fussy)
    assert sorted(taken) == [row for row in want if row[2] // MINUTE_MS % 7]
    told = [problem for problem in got.problems if "was not taken (ValueError: I do not like this one)" in problem]
    assert len(told) == len(got.problems) == len(want) - len(taken)


def test_replacing_the_list_leaves_the_streams_that_stay(venue):
    """Drop one, add one, while the market runs; the connections are the same ones."""
    tape = ArrayTape(venue, M1, 3_000, bases=("AAA", "BBB", "CCC"))
    a, b, c = sorted(tape.specs)
    with (
        running([tape], at=START_MS, speed=600, hold_streams=4, rate_scale=FAST) as box,
        streaming(venue, box.url, [a, b], M1) as got,
    ):
        got.wait(lambda: {bar.instrument for bar in got.bars} == {a, b})
        got.stream.replace([b, c])
        got.wait(lambda: any(bar.instrument == c for bar in got.bars))
        mark = len(got.bars)
        got.wait(lambda: len(got.bars) > mark + 40)
        assert a not in {bar.instrument for bar in got.bars[mark:]}
        assert box.status()["streams"] == 4
        # the new list survives a reconnect, on Binance too, where it is in the address
        box.fault("drop")
        mark = len(got.bars)
        got.wait(lambda: {bar.instrument for bar in got.bars[mark:]} == {b, c})
        got.stream.replace([])
        got.wait(lambda: box.status()["connections"] == 0)
        got.stream.replace([a])
        mark = len(got.bars)
        got.wait(lambda: a in {bar.instrument for bar in got.bars[mark:]})
    stayed = sorted(bar.open_ms for bar in got.bars if bar.instrument == b)
    assert len(set(stayed)) == len(stayed)
    assert [problem for problem in got.problems if "reconnects" not in problem] == []


@pytest.mark.parametrize("name", ["5m", "4h", "12h", "1d"])
def test_other_intervals_stream_too(venue, name):
    interval = Interval.parse(name)
    tape = ArrayTape(venue, interval, 60)
    got, want = replay(tape, venue, interval=interval, bars=60)
    assert sorted(map(plain_row, got.bars)) == want


def test_a_contract_that_the_venue_does_not_know_is_told_or_silent_and_costs_nothing(venue, tape):
    """OKX names it in an error; Binance accepts and is silent."""
    unknown = Instrument("NOPE", "USDT", venue)
    known = sorted(tape.specs)
    with (
        running([tape], at=START_MS, until=START_MS + HOUR_MS, speed="max", hold_streams=4, rate_scale=FAST) as box,
        streaming(venue, box.url, [unknown, *known], M1) as got,
    ):
        got.wait(lambda: len(got.bars) == 60 * len(known))
    assert [("60018" in problem, "NOPE" in problem) for problem in got.problems] == [(True, True)] * (
        2 if venue is Venue.OKX else 0
    )


def test_a_slice_of_the_real_market_streams_exactly(venue, real_data):
    """Every symbol of the real 1m data, two hours of it; the whole is in benchmarks."""
    tape = FileTape(real_data, venue)
    names = [i for i in tape.specs if M1 in tape.intervals(i)]
    start = max(int(tape.bars(i, M1).open_ms[0]) for i in names) + HOUR_MS
    got, want = replay(tape, venue, start=start, bars=120, instruments=names)
    assert len(want) == 120 * len(names)
    assert sorted(map(plain_row, got.bars)) == want


def test_a_slice_of_the_real_history_comes_over_rest_exactly(venue, real_data):
    tape = FileTape(real_data, venue)
    name = Instrument("BTC", "USDT", venue)
    with running([tape], speed=0, at=tape.span_ms[1], rate_scale=FAST) as box:
        client = rest_client(venue, settings_at(venue, box.url, rate_scale=FAST))
        for interval in tape.intervals(name):
            last = int(tape.bars(name, interval).open_ms[-1])
            span = (last - 1_700 * interval.ms, last + interval.ms)
            got = [plain_row(bar) for page in client.bars(name, interval, *span) for bar in page]
            assert sorted(got) == rows_of(tape, name, interval, *span)
            assert len(got) == 1_701
        client.close()
