"""The collector against a scripted stream and a venue in memory: every row arrives, whatever the stream misses."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import threading
import time

import pytest
from support_collect import FAST, Scripted, all_sealed, market, minutes, moves, run, wait_for, ws
from support_lake import BTC, ETH, M1, T0, bar, estimate, settlement, spec

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.collect import collect, read_status
from qlib_crypto.collect.tasks import ATTEMPTS
from qlib_crypto.collect.worker import Again, Worker
from qlib_crypto.errors import DataError, StorageError, VenueError
from qlib_crypto.lake import Lake
from qlib_crypto.settings import OkxSettings
from qlib_crypto.symbols import Instrument, Venue


def test_a_whole_stream_is_stored_and_sealed(lake):
    client = market()
    summary, stream = run(lake, client, [*(ws(k) for k in range(60)), moves(client, 60)], until_ms=T0 + HOUR_MS)
    assert minutes(lake) == list(range(60))
    assert set(lake.bars(BTC, M1).column("source").to_pylist()) == {"ws"}
    assert (summary.stream_bars, summary.rest_bars, summary.refused) == (60, 0, 0)
    assert all_sealed(lake)
    assert stream.stopped
    assert lake.specs(Venue.OKX) == client.listing


@pytest.mark.parametrize(
    "lost",
    [range(20, 21), range(20, 40), range(50, 60), range(60)],
    ids=["one", "many", "the end", "everything"],
)
def test_what_the_stream_lost_comes_by_rest(lake, lost):
    client = market()
    steps = [ws(k) for k in range(60) if k not in lost]
    summary, _ = run(lake, client, [*steps, moves(client, 60)], until_ms=T0 + HOUR_MS, since_ms=T0)
    assert minutes(lake) == list(range(60))
    assert lake.bars(BTC, M1).column("close").to_pylist() == [100.0 + k for k in range(60)]
    assert (summary.stream_bars, summary.rest_bars) == (60 - len(lost), len(lost))


def test_duplicates_and_disorder_change_nothing(lake):
    client = market()
    order = [3, 0, 1, 1, 2, 3, 7, 5, 6, 4, 7, *range(8, 60), 59]
    run(lake, client, [*(ws(k) for k in order), moves(client, 60)], until_ms=T0 + HOUR_MS, since_ms=T0)
    assert minutes(lake) == list(range(60))
    assert lake.bars(BTC, M1).column("close").to_pylist() == [100.0 + k for k in range(60)]


def test_it_catches_up_from_the_last_bar_at_the_start(lake):
    client = market(now=30)
    lake.store([ws(k) for k in range(10)])
    lake.seal(Venue.OKX)
    summary, _ = run(lake, client, [*(ws(k) for k in range(30, 60)), moves(client, 60)], until_ms=T0 + HOUR_MS)
    assert minutes(lake) == list(range(60))
    assert summary.rest_bars == 20


@pytest.mark.parametrize("end", ["stopped", "refused for good", "crashed"])
def test_what_one_run_left_open_the_next_one_fetches(lake, end):
    client = market(now=30)
    client.add_settlements(settlement(T0 + 20 * MINUTE_MS))
    lake.store([ws(k) for k in range(10)])
    streamed, stop, told = threading.Event(), threading.Event(), []

    def fails():
        streamed.wait(20)
        wait_for(lambda: minutes(lake)[-1:] == [39])
        stop.set()
        if end == "crashed":
            raise RuntimeError(end)
        raise VenueError("okx does not answer", retryable=end == "stopped", final=end == "refused for good")

    client.before_page = fails
    first = [*(ws(k) for k in range(30, 40)), streamed.set]
    with pytest.raises(RuntimeError) if end == "crashed" else contextlib.nullcontext():
        run(lake, client, first, stop=stop, told=told)
    assert minutes(lake) == [*range(10), *range(30, 40)]
    assert end == "crashed" or any("1 instrument not complete yet" in line for line in told)

    client.before_page, client.now_ms = (lambda: None), T0 + 40 * MINUTE_MS
    run(lake, client, [*(ws(k) for k in range(40, 60)), moves(client, 60)], until_ms=T0 + HOUR_MS)
    assert minutes(lake) == list(range(60))
    assert len(lake.settlements(Venue.OKX)) == 1
    assert lake.mark(BTC, M1) == T0 + HOUR_MS


def test_without_history_it_begins_with_the_stream_unless_told_since(lake, tmp_path):
    client = market(now=30)
    steps = [*(ws(k) for k in range(30, 60)), moves(client, 60)]
    run(lake, client, steps, until_ms=T0 + HOUR_MS)
    assert minutes(lake) == list(range(30, 60))
    client.now_ms = T0 + 30 * MINUTE_MS
    other = Lake(tmp_path / "since")
    run(other, client, steps, until_ms=T0 + HOUR_MS, since_ms=T0 + 5 * MINUTE_MS)
    assert minutes(other) == list(range(5, 60))
    other.close()


def test_a_hole_that_the_venue_has_too_is_told_and_ends(lake):
    client = market()
    for k in (20, 21):
        del client.bar_rows[BTC, M1][T0 + k * MINUTE_MS]
    told = []
    steps = [*(ws(k) for k in range(60) if k not in {20, 21}), moves(client, 60)]
    run(lake, client, steps, until_ms=T0 + HOUR_MS, told=told)
    assert len(minutes(lake)) == 58
    assert "okx lacks 2 kline_1m rows of 1 instrument (BTC_USDT) in 2025-04-01 00:20:00 → 2025-04-01 00:22:00" in told
    (hole,) = lake.holes(Venue.OKX)
    assert hole[:5] == (BTC, "kline_1m", T0 + 20 * MINUTE_MS, T0 + 22 * MINUTE_MS, "venue_down")  # it has no other
    assert lake.mark(BTC, M1) == T0 + HOUR_MS
    assert 2 <= sum(entry[0] == "bars" for entry in client.log) <= 6


def test_what_many_instruments_lack_is_one_line(lake):
    four = [Instrument.parse(f"{name}_USDT.OKX") for name in ("AVAX", "BCH", "EOS", "FIL")]
    client = market(of=four)
    for instrument in four:
        for k in range(58, 60):
            del client.bar_rows[instrument, M1][T0 + k * MINUTE_MS]
    told = []
    steps = [*(ws(k, of=i) for k in range(58) for i in four), moves(client, 60)]
    once = dataclasses.replace(FAST, status_s=60.0)
    run(lake, client, steps, instruments=four, until_ms=T0 + HOUR_MS, told=told, pace=once)
    (line,) = [line for line in told if "lacks" in line]
    assert line == (
        "okx lacks 8 kline_1m rows of 4 instruments (AVAX_USDT, BCH_USDT, EOS_USDT, …) "
        "in 2025-04-01 00:58:00 → 2025-04-01 01:00:00"
    )


def test_a_bar_that_rest_serves_late_is_asked_again(lake):
    client = market()
    late = client.bar_rows[BTC, M1].pop(T0 + 59 * MINUTE_MS)
    timer = threading.Timer(0.4, lambda: client.add_bars(late))
    timer.start()
    run(lake, client, [*(ws(k) for k in range(59)), moves(client, 60)], until_ms=T0 + HOUR_MS)
    timer.join()
    assert minutes(lake) == list(range(60))


def test_a_venue_that_fails_for_a_while_is_asked_until_it_answers(lake):
    client = market()
    left, told = [6], []

    def flaky():
        left[0] -= 1
        if left[0] >= 0:
            raise VenueError("okx does not answer", retryable=True)

    client.before_page = flaky
    steps = [*(ws(k) for k in range(60) if k != 30), moves(client, 60)]
    run(lake, client, steps, until_ms=T0 + HOUR_MS, told=told)
    assert minutes(lake) == list(range(60))
    assert any("okx does not answer" in line for line in told)


def test_settlements_come_by_rest_when_the_estimate_moves_on(lake):
    client = market(now=7 * 60, bars=0)
    times = [T0 - 8 * HOUR_MS, T0, T0 + 8 * HOUR_MS, T0 + 12 * HOUR_MS]
    client.add_settlements(*(settlement(t + 5, rate=k * 1e-4) for k, t in enumerate(times)))

    def quote(hour, settles):
        return estimate(T0 + hour * HOUR_MS, settles_ms=T0 + settles * HOUR_MS)

    steps = [
        quote(7, 8), moves(client, 8 * 60 + 1), quote(8, 8), quote(8.5, 12), moves(client, 12 * 60 + 1),
        quote(12.5, 16),
    ]  # fmt: skip
    stop = threading.Event()
    told = []
    timer = threading.Timer(0.6, stop.set)
    timer.start()
    summary, _ = run(lake, client, steps, stop=stop, told=told)
    timer.join()
    rows = lake.settlements(Venue.OKX)
    assert rows.column("funding_rate").to_pylist() == [k * 1e-4 for k in range(4)]
    assert summary.settlements == 4
    assert rows.column("timestamp").cast("int64").to_pylist() == [t + 5 for t in times]
    assert len(lake.estimates(Venue.OKX)) == summary.estimates == 4
    assert [
        line for line in told if "not complete" not in line and "lacks" not in line
    ] == []  # there are no bars at all


@pytest.mark.parametrize("hours", [8, None], ids=["interval known", "interval unknown"])
def test_settlements_of_an_outage_longer_than_a_day_are_all_fetched(lake, hours):
    client = market(now=7 * 60, bars=0)
    times = [T0 + 8 * k * HOUR_MS for k in range(8)]
    client.add_settlements(*(settlement(t) for t in times))

    def quote(hour, settles):
        row = estimate(T0 + int(hour * HOUR_MS), settles_ms=T0 + settles * HOUR_MS)
        return row._replace(interval_hours=hours)

    stop = threading.Event()

    def ends():
        wait_for(lambda: len(lake.settlements(Venue.OKX)) == 7)
        stop.set()

    threading.Thread(target=ends).start()
    steps = [quote(7, 8), moves(client, 55 * 60), quote(55, 56)]
    run(lake, client, steps, stop=stop)
    assert lake.settlements(Venue.OKX).column("timestamp").cast("int64").to_pylist() == times[:7]


def test_what_the_venue_does_not_answer_clearly_is_asked_for_as_long_as_the_collector_lives(lake):
    client, stop = market(bars=400, now=60), threading.Event()
    lake.store([ws(k) for k in range(20)])
    lake.store_marks({BTC: T0 + 20 * MINUTE_MS}, M1)
    answers, asked = client.bars, []

    def empty(*what):
        asked.append(what)
        return iter(())

    def moves_on():
        for k in range(60, 360):
            stream.on_row(ws(k))
            client.now_ms = T0 + (k + 1) * MINUTE_MS
            if not k % 12:
                before = len(asked)
                wait_for(lambda before=before: client.bars is answers or len(asked) > before)
            if len(asked) > ATTEMPTS + 3:
                client.bars = answers
                client.now_ms += 20 * MINUTE_MS
                return

    client.bars, stream = empty, Scripted([])
    stream.steps = [moves_on, lambda: wait_for(lambda: set(range(60)) <= set(minutes(lake))), stop.set]
    run(lake, client, stream, stop=stop)
    assert lake.holes(Venue.OKX) == []
    assert minutes(lake) == list(range(minutes(lake)[-1] + 1))


def test_a_settlement_that_fell_into_silence_keeps_the_mark_back(lake):
    client = market(bars=0, now=7 * 60 + 50)
    client.add_bars(*(bar(k) for k in range(7 * 60 + 50, 8 * 60 + 5)))
    eight = T0 + 8 * HOUR_MS
    stop, told = threading.Event(), []

    def ends():
        wait_for(lambda: len(minutes(lake)) == 15)
        wait_for(lambda: (told := read_status(lake, Venue.OKX)) and told.market_ms >= eight + 5 * MINUTE_MS)
        stop.set()

    threading.Thread(target=ends).start()
    first = estimate(T0 + 7 * HOUR_MS + 51 * MINUTE_MS, settles_ms=eight)
    steps = [first, *(bar(k) for k in range(7 * 60 + 50, 8 * 60 + 5)), moves(client, 8 * 60 + 5)]
    run(lake, client, steps, stop=stop, told=told)
    assert lake.mark(BTC, M1) == eight
    assert any("1 instrument not complete yet" in line for line in told)
    client.add_settlements(settlement(eight))
    client.now_ms = T0 + 60 * HOUR_MS
    stop.clear()
    threading.Timer(0.5, stop.set).start()
    run(lake, client, [], stop=stop)
    assert len(lake.settlements(Venue.OKX)) == 1


def test_a_settlement_that_rest_serves_late_is_asked_again(lake):
    client = market(now=7 * 60, bars=0)
    late = threading.Timer(0.4, lambda: client.add_settlements(settlement(T0 + 8 * HOUR_MS)))
    late.start()
    steps = [
        estimate(T0 + 7 * HOUR_MS),
        moves(client, 481),
        estimate(T0 + 481 * MINUTE_MS, settles_ms=T0 + 16 * HOUR_MS),
    ]
    stop = threading.Event()
    timer = threading.Timer(1.2, stop.set)
    timer.start()
    run(lake, client, steps, stop=stop)
    assert len(lake.settlements(Venue.OKX)) == 1


def test_days_are_sealed_as_they_end(lake):
    client = market(bars=2 * 1440 + 60)
    told = []
    steps = []
    for k in range(2 * 1440 + 60):
        steps += [ws(k)] if k % 240 else [ws(k), moves(client, k + 1), lambda: time.sleep(0.04)]
    run(lake, client, [*steps, moves(client, 2 * 1440 + 60)], until_ms=T0 + 2 * DAY_MS + HOUR_MS, told=told)
    sealed = [line for line in told if line.startswith("sealed")]
    assert sealed == [
        "sealed 1 file of days before 2025-04-02 00:00:00",
        "sealed 1 file of days before 2025-04-03 00:00:00",
    ]
    assert len(minutes(lake)) == 2 * 1440 + 60
    assert all_sealed(lake)


def test_a_changed_universe_is_followed(lake, tmp_path):
    path = tmp_path / "top50_symbols.json"
    path.write_text('["BTC_USDT"]')
    client = market(of=(BTC, ETH), now=60)
    lake.store([ws(k, ETH) for k in range(5)])

    stop, told = threading.Event(), []

    def change(text, seen):
        def write():
            other = path.with_suffix(".new")
            other.write_text(text)
            other.replace(path)
            wait_for(seen)

        return write

    stream = Scripted([])
    stream.steps = [
        change("[broken", lambda: any("universe unchanged" in line for line in told)),
        change(json.dumps(["ETH_USDT", "BTC_USDT"]), lambda: len(stream.replaced) == 1),
        change('["ETH_USDT"]', lambda: len(stream.replaced) == 2),
        lambda: wait_for(lambda: len(minutes(lake, ETH)) == 60),
        stop.set,
    ]
    run(lake, client, stream, membership=path, stop=stop, told=told)
    assert stream.instruments == [BTC]
    assert stream.replaced == [[ETH, BTC], [ETH]]
    assert minutes(lake, ETH) == list(range(60))  # what it missed while it was no member


def test_a_bad_row_is_told_and_does_not_take_the_others_with_it(lake):
    client = market()
    told = []
    steps = [ws(k) if k != 7 else ws(7)._replace(close=float("nan")) for k in range(60)]
    steps += [estimate(rate=float("inf")), ws(8)._replace(received_ms=T0 + 8 * MINUTE_MS), moves(client, 60)]
    summary, _ = run(lake, client, steps, until_ms=T0 + HOUR_MS, told=told)
    assert summary.refused == 3
    assert sum("refused" in line for line in told) == 3
    assert minutes(lake) == list(range(60))  # REST gave the good one
    assert summary.rest_bars == 1


def test_an_error_of_the_stream_is_raised_after_everything_is_sealed(lake):
    client = market()

    def fail():
        raise RuntimeError("a bug in the stream")

    with pytest.raises(RuntimeError, match="a bug in the stream"):
        run(lake, client, [ws(0), ws(1), fail], until_ms=T0 + HOUR_MS)
    assert minutes(lake) == [0, 1]
    assert all_sealed(lake)


def test_an_error_of_the_worker_is_raised_too(lake):
    client = market()

    def fail():
        raise ValueError("a bug in a request")

    client.before_page = fail
    with pytest.raises(ValueError, match="a bug in a request"):
        run(lake, client, [moves(client, 3), ws(0), ws(2)], until_ms=T0 + HOUR_MS)
    assert minutes(lake) == [0, 2]


class Full:
    """A disk that refuses while it is `full`."""

    def __init__(self, lake, monkeypatch):
        self.full = False
        for name in ("admit", "store_marks"):
            monkeypatch.setattr(lake, name, self._guard(getattr(lake, name)))

    def _guard(self, call):
        def guarded(*args):
            if self.full:
                raise StorageError("hot store: cannot write (database or disk is full)")
            return call(*args)

        return guarded

    def turns(self, full):
        return lambda: setattr(self, "full", full)


def test_a_full_disk_is_waited_for_and_nothing_is_lost(lake, monkeypatch):
    client, disk, told = market(), Full(lake, monkeypatch), []
    pause = lambda: time.sleep(0.3)  # noqa: E731 - a step of the script
    first = [*(ws(k) for k in range(30)), pause, disk.turns(full=True)]
    steps = [*first, *(ws(k) for k in range(30, 50)), pause, disk.turns(full=False), *(ws(k) for k in range(50, 60))]
    summary, _ = run(lake, client, [*steps, moves(client, 60)], until_ms=T0 + HOUR_MS, told=told)
    assert minutes(lake) == list(range(60))
    assert summary.stream_bars == 60
    assert sum("full" in line for line in told) == 1
    assert "rows are stored again" in told


def test_what_is_let_go_while_the_disk_is_full_comes_by_rest(lake, monkeypatch):
    monkeypatch.setattr("qlib_crypto.collect.intake._MOST", 5)
    client, disk, told = market(), Full(lake, monkeypatch), []
    pause = lambda: time.sleep(0.3)  # noqa: E731 - a step of the script
    steps = [ws(0), ws(1), pause, disk.turns(full=True), ws(2), pause, *(ws(k) for k in range(3, 50)), pause]
    steps += [disk.turns(full=False), lambda: time.sleep(1.5), *(ws(k) for k in range(50, 53)), moves(client, 60)]
    summary, _ = run(lake, client, steps, until_ms=T0 + HOUR_MS, told=told)
    assert minutes(lake) == list(range(60))
    assert summary.stream_bars < 60
    assert any("let go" in line for line in told)
    assert lake.repairs(Venue.OKX)


def test_a_disk_that_is_still_full_at_the_stop_is_an_error(lake, monkeypatch):
    client, disk, stop = market(), Full(lake, monkeypatch), threading.Event()
    steps = [ws(0), lambda: time.sleep(0.3), disk.turns(full=True), ws(1), lambda: time.sleep(0.3), stop.set]
    with pytest.raises(StorageError, match="full"):
        run(lake, client, steps, stop=stop)
    assert minutes(lake) == [0]


def test_sigterm_stops_it_cleanly(lake):
    client = market()
    before = signal.getsignal(signal.SIGTERM)
    steps = [*(ws(k) for k in range(40)), lambda: os.kill(os.getpid(), signal.SIGTERM)]
    summary, stream = run(lake, client, steps)
    assert summary.stream_bars == 40
    assert minutes(lake) == list(range(40))
    assert all_sealed(lake)
    assert stream.stopped
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_status_line_says_where_it_is(lake):
    client = market()
    lines = []
    run(lake, client, [*(ws(k) for k in range(60)), moves(client, 60)], until_ms=T0 + HOUR_MS, status=lines.append)
    assert lines[-1] == (
        "okx at 2025-04-01 01:00:00: 1 instrument, newest bar 2025-04-01 00:59:00, "
        "60 bars by stream and 0 by REST, 0 settlements, 0 REST requests queued"
    )


def test_a_delisted_instrument_is_not_waited_for(lake):
    client = market(bars=30)
    client.list(spec(BTC, delisted_ms=T0 + 30 * MINUTE_MS))
    told = []
    run(lake, client, [*(ws(k) for k in range(30)), moves(client, 60)], until_ms=T0 + HOUR_MS, told=told)
    assert minutes(lake) == list(range(30))
    assert [line for line in told if "no " in line or "lacks" in line] == []


def test_a_clock_that_fails_for_a_while_ends_nothing(lake):
    client = market()
    calls, told = [0], []

    class Clock:
        def now_ms(self):
            calls[0] += 1
            if 2 <= calls[0] < 5:
                raise VenueError("okx does not answer", retryable=True)
            return client.now_ms

    stream = Scripted([*(ws(k) for k in range(60)), moves(client, 60)])
    collect(
        lake, client, OkxSettings(), [BTC], M1, clock=Clock(), until_ms=T0 + HOUR_MS, say=told.append, pace=FAST,
        stream=stream,
    )  # fmt: skip
    assert sum("market time goes on" in line for line in told) == 1
    assert len(minutes(lake)) == 60


class TestWorker:
    def collect(self, kinds, asks, **options):
        told = []
        worker = Worker(kinds, told.append, lambda: T0, **{"first_wait_s": 0.01} | options)
        for ask in asks:
            worker.ask(*ask)
        worker.start()
        deadline = time.monotonic() + 10
        while worker.pending and time.monotonic() < deadline:
            worker.check()
            time.sleep(0.005)
        assert worker.stop(5)
        return told

    def test_jobs_of_one_key_are_joined_and_earlier_kinds_go_first(self):
        done = []

        def work(kind):
            return lambda job, _last: done.append((kind, *job[1:4]))

        asks = [("b", BTC, 5, 6), ("b", BTC, 1, 2), ("b", ETH, 0, 1), ("a", None, 0, 0)]
        assert self.collect({"a": work("a"), "b": work("b")}, asks, first_wait_s=10.0) == []
        assert done == [("a", None, 0, 0), ("b", BTC, 1, 6), ("b", ETH, 0, 1)]

    def test_no_kind_waits_for_ever_however_much_is_asked_of_another(self):
        worker = Worker(
            {"a": lambda job, _last: worker.ask("a", BTC, job.end_ms, job.end_ms + 1), "b": lambda *_: done.set()},
            print, lambda: T0, first_wait_s=0.01,
        )  # fmt: skip
        done = threading.Event()
        worker.ask("a", BTC, 0, 1)
        worker.ask("b", BTC, 0, 1)
        worker.start()
        assert done.wait(10)
        assert worker.stop(5)

    def test_again_is_counted_and_what_cannot_be_there_yet_is_not(self):
        calls = []

        def never(job, last):
            calls.append((last, job.attempt))
            return None if len(calls) == 5 else Again(job.start_ms + 1, job.end_ms)

        self.collect({"a": never}, [("a", BTC, 0, 9)], attempts=3)
        assert calls == [(False, 0), (False, 1), (True, 2), (True, 2), (True, 2)]  # until it ends itself
        calls.clear()

        def early(job, last):
            calls.append(last)
            return None if len(calls) == 7 else Again(job.start_ms, job.end_ms, counted=False)

        self.collect({"a": early}, [("a", BTC, 0, 9)], attempts=3)
        assert calls == [False] * 7

    def test_what_is_hopeless_is_told_once(self):
        for error in (VenueError("no such instrument", final=True), DataError("torn file")):
            calls = []

            def fail(job, last, error=error, calls=calls):
                calls.append(1)
                raise error

            told = self.collect({"a": fail}, [("a", BTC, 0, 9)])
            assert len(calls) == 1
            assert str(error) in told[0]

    def test_what_may_get_well_again_is_asked_until_it_does_and_told_once(self):
        left = [5, 3]

        def refused(job, last):
            at = int(job.instrument == ETH)
            left[at] -= 1
            if left[at] >= 0:
                raise VenueError(f"okx GET instId={job.instrument}: connection refused")  # not even retryable

        told = self.collect({"a": refused}, [("a", BTC, 0, 9), ("a", ETH, 0, 9)])
        assert left == [-1, -1]
        assert len(told) == 1

    def test_a_hanging_request_does_not_hang_the_stop(self):
        hang = threading.Event()
        worker = Worker({"a": lambda *_: hang.wait(20) and None}, print, lambda: T0)
        worker.ask("a", BTC, 0, 1)
        worker.start()
        time.sleep(0.05)
        assert not worker.stop(0.05)
        hang.set()
        assert worker.stop(5)
