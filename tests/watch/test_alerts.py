"""Alerts: told once, repeated, over; kept over restarts; sent where Apprise is told to, and nowhere in the log."""

import json
import logging
import platform
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qlib_crypto.errors import ConfigError
from qlib_crypto.settings import load_settings
from qlib_crypto.watch.alerts import Alerts, sender
from qlib_crypto.watch.beside import alerts
from qlib_crypto.watch.findings import Finding, Level

HOUR = 3_600.0
FULL = Finding("disk lake", Level.FAIL, "1.0 GB free", "free disk space")
LATE = Finding("okx lag", Level.WARN, "2 late")
GOOD = Finding("okx lag", Level.OK, "in time")


class Site:
    """Alerts whose clock and addressee the test holds."""

    def __init__(self, path, repeat_s=6 * HOUR):
        self.now, self.sent, self.reachable = 1_000_000.0, [], True
        self.path, self.repeat_s = path, repeat_s
        self.restart()

    def restart(self):
        self.alerts = Alerts(self.send, self.path, repeat_s=self.repeat_s, settle_s=300.0, wall=lambda: self.now)

    def send(self, title, body, kind):
        if self.reachable:
            self.sent.append((title, body.splitlines(), kind))
        return self.reachable

    def look(self, *findings, after=60.0):
        self.now += after
        return self.alerts.look(findings)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "alerts.json")


def test_is_told_once_and_again_after_the_repeat_time(site):
    assert site.look(FULL) == ["fail: disk lake: 1.0 GB free; free disk space"]
    for _ in range(100):
        assert site.look(FULL) == []
    assert site.look(FULL, after=6 * HOUR) == ["fail: disk lake: 1.0 GB free (for 8 h); free disk space"]
    assert len(site.sent) == 2


def test_a_restart_tells_nothing_twice(site):
    site.look(FULL)
    site.restart()
    assert site.look(FULL) == []


def test_what_is_over_is_told_once_it_stayed_over(site):
    site.look(LATE)
    assert site.look(GOOD) == []
    assert site.look(LATE) == [], "a moment's good is not the end, and no second alert"
    assert site.look(GOOD) == []
    assert site.look(GOOD, after=301) == ["resolved: okx lag, after 3 min (it was: 2 late)"]
    assert site.look(GOOD, after=301) == []
    assert site.look(LATE) == ["warn: okx lag: 2 late"], "a new one"


def test_worse_is_told_at_once_and_better_is_not(site):
    site.look(LATE)
    assert site.look(Finding("okx lag", Level.FAIL, "all late")) == ["fail: okx lag: all late (for 60 s)"]
    assert site.look(LATE) == []


def test_several_come_in_one_message_with_a_title_that_says_where_and_how_bad(site):
    site.look(FULL, LATE)
    site.look(LATE)
    site.look(LATE, after=400)
    site.look(Finding("daemon", Level.WARN, "slow"))
    host = platform.node()
    assert [(title, kind) for title, _, kind in site.sent] == [
        (f"qlib-crypto on {host}: 1 fail, 1 warn", "failure"),
        (f"qlib-crypto on {host}: 1 resolved", "success"),
        (f"qlib-crypto on {host}: 1 warn", "warning"),
    ]


def test_what_could_not_be_sent_is_sent_later(site):
    site.reachable = False
    assert site.look(FULL) == []
    site.reachable = True
    assert site.look(FULL) == ["fail: disk lake: 1.0 GB free; free disk space"]


def test_a_sender_that_raises_costs_nothing_and_its_text_is_not_logged(tmp_path, caplog):
    def send(_title, _body, _kind):
        raise OSError("https://token@example.invalid refused")

    told = Alerts(send, tmp_path / "alerts.json", repeat_s=HOUR)
    with caplog.at_level(logging.INFO):
        assert told.look([FULL]) == []
    assert "token" not in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"level": "bad"}}', "\x00"])
def test_a_damaged_file_is_begun_anew(site, text):
    site.path.write_text(text)
    site.restart()
    assert site.look(FULL) == ["fail: disk lake: 1.0 GB free; free disk space"]
    assert site.look(FULL) == []
    assert list(json.loads(site.path.read_text())) == ["disk lake"]


def test_without_a_place_to_write_it_is_still_told_once(tmp_path):
    site = Site(tmp_path / "absent" / "alerts.json")
    assert len(site.look(FULL)) == 1
    assert site.look(FULL) == []


@given(st.lists(st.tuples(st.booleans(), st.floats(1, 8 * HOUR)), max_size=30))
def test_never_the_same_within_the_repeat_time_and_every_end_has_a_beginning(tmp_path_factory, looks):
    site = Site(tmp_path_factory.mktemp("alerts") / "alerts.json")
    told, last = False, -1e12
    for bad, after in looks:
        lines = site.look(FULL if bad else Finding("disk lake", Level.OK, "room"), after=after)
        for line in lines:
            if line.startswith("resolved"):
                assert told
                told, last = False, -1e12
            else:
                assert site.now - last >= site.repeat_s
                told, last = True, site.now
        assert told or not bad, "what is bad was told"


@pytest.fixture
def mailbox(monkeypatch):
    """A loopback address that Apprise can post to, and what came."""
    came = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"json://user:secret@127.0.0.1:{server.server_port}", came
    server.shutdown()
    thread.join()
    server.server_close()


def test_apprise_takes_it_to_every_address_and_the_log_has_no_secret(mailbox, caplog):
    address, came = mailbox
    with caplog.at_level(logging.DEBUG):
        assert sender(f"{address} {address}")("qlib-crypto: 1 fail", "fail: disk lake: 1.0 GB free", "failure")
    assert [c["title"] for c in came] == ["qlib-crypto: 1 fail"] * 2
    assert [c["type"] for c in came] == ["failure"] * 2
    assert came[0]["message"] == "fail: disk lake: 1.0 GB free"
    assert "secret" not in caplog.text


def test_an_address_nobody_knows_is_named_by_its_place_only():
    with pytest.raises(ConfigError, match="address 2 of 2") as error:
        sender("json://127.0.0.1:9, nonsense://key:secret@x")
    assert "secret" not in str(error.value)


def test_the_settings_decide_where_to_and_how_often(tmp_path, mailbox, monkeypatch):
    address, came = mailbox
    monkeypatch.setenv("QLIB_CRYPTO_ALERT_URLS", address)
    monkeypatch.setenv("QLIB_CRYPTO_LAKE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        alerts(load_settings()).look([FULL])
    assert len(came) == 1
