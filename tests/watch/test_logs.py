"""Logs: one JSON object a line for machines, lines for people on a terminal, from structlog and logging alike."""

import io
import json
import logging

import pytest
import structlog

from qlib_crypto.errors import ConfigError
from qlib_crypto.watch.logs import configure_logs


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def restored():
    root, level = logging.getLogger(), logging.getLogger().level
    before = root.handlers[:]
    yield
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def say_something():
    structlog.get_logger("daemon").info("job done", job="rank", venue="okx", seconds=1.5)
    logging.getLogger("qlib_crypto.feeds").warning("okx GET %s: HTTP 503", "/api")
    logging.getLogger("apscheduler").warning("skipped")
    try:
        int("torn")
    except ValueError:
        structlog.get_logger("daemon").exception("unexpected")


def test_without_a_terminal_every_line_is_an_object():
    out = io.StringIO()
    assert configure_logs(out, form="") == "json"
    say_something()
    first, second, third = map(json.loads, out.getvalue().splitlines())
    assert {k: first[k] for k in ("event", "level", "job", "venue", "seconds")} == {
        "event": "job done", "level": "info", "job": "rank", "venue": "okx", "seconds": 1.5,
    }  # fmt: skip
    assert first["time"].endswith("Z")
    assert (second["event"], second["level"], second["logger"]) == (
        "okx GET /api: HTTP 503", "warning", "qlib_crypto.feeds",
    )  # fmt: skip
    assert "torn" in json.dumps(third["exception"])


def test_a_terminal_gets_colours_and_text_and_the_variable_wins(monkeypatch):
    out = Terminal()
    configure_logs(out, form="")
    say_something()
    assert "\x1b[" in out.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(out.getvalue().splitlines()[0])
    monkeypatch.setenv("LOG_FORMAT", "json")
    forced = Terminal()
    configure_logs(forced)
    say_something()
    assert [json.loads(line)["level"] for line in forced.getvalue().splitlines()] == ["info", "warning", "error"]


def test_text_without_a_terminal_has_no_colours():
    out = io.StringIO()
    configure_logs(out, form="text")
    say_something()
    assert "job done" in out.getvalue()
    assert "\x1b[" not in out.getvalue()


def test_configured_twice_every_line_comes_once():
    out = io.StringIO()
    configure_logs(io.StringIO(), form="json")
    configure_logs(out, form="json")
    say_something()
    assert len(out.getvalue().splitlines()) == 3


def test_an_unknown_format_is_refused(monkeypatch):
    monkeypatch.setenv("LOG_FORMAT", "xml")
    with pytest.raises(ConfigError, match="xml"):
        configure_logs(io.StringIO())
