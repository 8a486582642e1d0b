"""The daemon's market time: what a step of the machine's clock and a venue out of reach do to the schedule."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support_clock import World
from support_daemon import wait_for

from qlib_crypto.cli.running import steady_clock
from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, WallClock, iso, parse_utc
from qlib_crypto.collect.market_time import MarketTime
from qlib_crypto.daemon.run import Daemon
from qlib_crypto.errors import ConfigError, VenueError
from qlib_crypto.feeds import rest_client
from qlib_crypto.settings import OkxSettings, Settings
from qlib_crypto.symbols import Venue


class Steady:
    """Market time of a machine of the test, as a clock."""

    def __init__(self, market):
        self._market = market

    def now_ms(self):
        return self._market.now_ms


class Life:
    """A daemon's schedule on that machine: `to` lets time pass, and does what is due at once."""

    def __init__(self, monkeypatch, folder, start):
        self.world = World(monkeypatch, start_ms=parse_utc(start))
        self.market = MarketTime(self.world, self.world.venue_ms, print)
        self.daemon = Daemon(lambda: Steady(self.market), Settings(lake_dir=folder), [Venue.OKX], lambda _: False)
        self.ran = []
        self.daemon._submit_due()

    def to(self, text, *, wrong_h=0, down=False):
        self.world.offset_ms, self.world.down = wrong_h * HOUR_MS, down
        self.world.live(self.market, (parse_utc(text) - self.world.true_ms) / SECOND_MS, 5.0)
        self.daemon._submit_due()
        while job := self.daemon._table.claim(["rank", "convert"], 1):
            self.ran.append((job.kind, iso(job.period_ms)[5:16], text[5:]))
            self.daemon._table.complete(job.id, {})


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("wrong_h", [3, -3])
def test_a_clock_that_is_hours_wrong_for_a_while_runs_nothing_early_and_loses_nothing(
    monkeypatch, tmp_path, wrong_h, down
):
    life = Life(monkeypatch, tmp_path, "2026-06-01 04:00")
    life.to("2026-06-01 04:01")
    life.to("2026-06-01 05:20", wrong_h=wrong_h, down=down)
    for at in ("06-01 08:06", "06-01 16:06", "06-01 21:20"):
        life.to(f"2026-{at}")
    life.to("2026-06-01 21:30", wrong_h=wrong_h, down=down)
    for at in ("06-02 00:06", "06-02 00:11"):
        life.to(f"2026-{at}")
    assert life.ran == [
        ("rank", "06-01 00:05", "06-01 04:01"),
        ("rank", "06-01 08:05", "06-01 08:06"),
        ("rank", "06-01 16:05", "06-01 16:06"),
        ("rank", "06-02 00:05", "06-02 00:06"),
        ("convert", "06-02 00:10", "06-02 00:11"),
    ]


def test_while_the_venue_is_away_for_a_day_everything_is_due_at_its_time(monkeypatch, tmp_path):
    life = Life(monkeypatch, tmp_path, "2026-06-01 04:00")
    life.to("2026-06-01 04:01")
    for at in ("06-01 08:06", "06-01 16:06", "06-02 00:06", "06-02 00:11"):
        life.to(f"2026-{at}", down=True)
    assert life.ran[1:] == [
        ("rank", "06-01 08:05", "06-01 08:06"),
        ("rank", "06-01 16:05", "06-01 16:06"),
        ("rank", "06-02 00:05", "06-02 00:06"),
        ("convert", "06-02 00:10", "06-02 00:11"),
    ]


def test_a_missed_period_of_each_expression_of_a_workflow_is_caught_up(tmp_path):
    class Set:
        ms = parse_utc("2026-05-30")

        def now_ms(self):
            return self.ms

    crons = [{"workflow": "w.yaml", "cron": "0 6 1 * *"}, {"workflow": "w.yaml", "cron": "0 12 * * mon"}]
    settings = Settings(lake_dir=tmp_path, schedule={"workflows": crons})

    def started():
        daemon = Daemon(Set, settings, [Venue.OKX], lambda _: False)
        daemon._submit_due()
        return [iso(job.period_ms) for job in daemon._table.list(kind="run")]

    assert started() == []
    Set.ms = parse_utc("2026-06-01 13:00")  # Monday the first: it was off at 06:00 and at 12:00
    assert started() == ["2026-06-01 06:00:00", "2026-06-01 12:00:00"]
    Set.ms += DAY_MS
    assert len(started()) == 2


# ------------------------------------------------------------------------------------------------ at the command line


class _TimeOnly(BaseHTTPRequestHandler):
    offset_ms = 0

    def do_GET(self):
        text = json.dumps({"code": "0", "data": [{"ts": str(WallClock().now_ms() + self.offset_ms)}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@contextmanager
def venue(offset_ms, port=0):
    """OKX as far as its time goes; yields its port."""
    handler = type("_Handler", (_TimeOnly,), {"offset_ms": offset_ms})
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def okx(port):
    client = rest_client(Venue.OKX, OkxSettings(timer_scale=0.001).at(f"http://127.0.0.1:{port}"))
    try:
        yield client
    finally:
        client.close()


@contextmanager
def running(kind, client, say):
    clock = steady_clock(kind, client, say)
    try:
        yield clock
    finally:
        clock.stop()


def test_the_wall_does_for_a_start_without_the_venue_whose_time_counts_once_it_answers():
    with venue(0) as port:
        pass
    told = []
    with okx(port) as client:
        with running("wall", client, told.append) as clock:
            assert abs(clock.now_ms() - WallClock().now_ms()) < MINUTE_MS
            wait_for(lambda: told)
            with venue(HOUR_MS, port):
                wait_for(lambda: abs(clock.now_ms() - WallClock().now_ms() - HOUR_MS) < MINUTE_MS)
        with pytest.raises(VenueError):
            steady_clock("venue", client, told.append)
    assert ["steady clock" in told[0], "the venue's time counts" in told[1]] == [True, True]


def test_a_venue_of_another_time_is_refused_for_the_wall_and_followed_when_asked_for():
    with venue(HOUR_MS) as port, okx(port) as client:
        with pytest.raises(ConfigError, match="--clock venue"):
            steady_clock("wall", client, print)
        with running("venue", client, print) as clock:
            assert abs(clock.now_ms() - WallClock().now_ms() - HOUR_MS) < MINUTE_MS
