from __future__ import annotations

import logging
import sys
import threading
import time

import pytest

from qlib_crypto.workflow.quiet import Log, Stages


def test_prints_and_logs_go_to_the_file_and_warnings_once_to_the_user(capfd):
    log = Log()
    with log.captured():
        sys.stdout.write("a table of Qlib")
        sys.stderr.write("a progress bar")
        logging.getLogger("qlib.some_timer").info("took long")
        logging.getLogger("qlib.some_workflow").warning("No valid experiment found. Create a new one")
        for _ in range(2):
            logging.getLogger("qlib.some_backtest").warning("an order\nwas refused")
        logging.getLogger("qlib_crypto.features").warning("dropped a feature")
    assert capfd.readouterr() == ("", "")
    for text in ("a table of Qlib", "a progress bar", "took long", "No valid experiment", "dropped a feature"):
        assert text in log.text
    assert log.take_warnings() == ["an order was refused", "dropped a feature"]
    assert log.take_warnings() == []


def test_everything_is_put_back_after_an_error():
    logger = logging.getLogger("qlib")
    before = logger.handlers, logger.propagate, logger.level, sys.excepthook, sys.stdout, sys.stderr
    log = Log()

    def fail():
        with log.captured():
            sys.excepthook = print
            raise ValueError("what went wrong")

    with pytest.raises(ValueError, match="what went wrong"):
        fail()
    assert (logger.handlers, logger.propagate, logger.level, sys.excepthook, sys.stdout, sys.stderr) == before


def test_a_stage_is_timed_also_when_it_fails_and_its_warnings_come_first():
    told: list[str] = []
    stages = Stages(told.append)
    with stages("features") as said:
        logging.getLogger("qlib_crypto").warning("dropped")
        said.append("10 rows")
    assert told[0].strip() == "dropped"
    assert told[1].startswith("features")
    assert told[1].endswith(" s  10 rows")

    def fail():
        with stages("model"):
            logging.getLogger("qlib").warning("too little")
            raise ValueError("empty")

    with pytest.raises(ValueError, match="empty"):
        fail()
    assert list(stages.seconds) == ["features", "model"]
    assert told[-1].strip() == "too little"


def test_a_stage_that_goes_on_says_so_on_the_users_streams(capfd):
    stages = Stages(print, beat_s=0.01)
    with stages("model", lambda: "round 2"):
        sys.stdout.write("LightGBM's chatter")
        deadline, seen = time.monotonic() + 10, ""
        while not seen and time.monotonic() < deadline:
            seen = capfd.readouterr().out
        assert seen.split()[:2] == ["model", "…"]
        assert "s, round 2" in seen
    assert "LightGBM" not in capfd.readouterr().out
    assert "LightGBM's chatter" in stages.log.text
    assert "round 2" not in stages.log.text


def test_a_beat_ends_with_its_stage_also_when_that_fails():
    told: list[str] = []
    before = threading.active_count()

    def fail():
        with Stages(told.append, beat_s=60)("model"):
            raise ValueError("empty")

    with pytest.raises(ValueError, match="empty"):
        fail()
    assert threading.active_count() == before
    assert told == []
