from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.errors import VenueError
from qlib_crypto.feeds.limits import Limiter, Window

WINDOW_S = 2.0
request = st.tuples(
    st.floats(0, 1.5),  # until the venue counts it
    st.floats(0, 1.5),  # until the answer is complete
    st.floats(0, 3),  # until the next one is wanted
    st.integers(1, 4),  # cost
)


@given(st.lists(request, min_size=1, max_size=40), st.integers(4, 9))
def test_the_venue_never_counts_more_than_its_limit_in_any_stretch_of_its_window(requests, capacity):
    """The venue counts a request at any moment between its start and its end, by a window that begins anywhere."""
    window, now, counted = Window(WINDOW_S), 0.0, []
    for until_counted, until_answered, pause, cost in requests:
        while (wait := window.wait_s(now, cost, capacity)) > 0:
            now += wait
        window.start(cost)
        counted.append((now + until_counted, cost))
        now += until_counted + until_answered
        window.end(now, cost)
        now += pause
    for start, _ in counted:
        assert sum(cost for at, cost in counted if start <= at < start + WINDOW_S) <= capacity


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30), st.integers(1, 5))
def test_concurrent_requests_count_from_their_start(answers, capacity):
    """Requests are started as soon as they fit, and answered in any order; the count is the same promise."""
    window, now, started, running = Window(WINDOW_S), 0.0, [], []
    for delay in answers:
        while (wait := window.wait_s(now, 1, capacity)) > 0:
            ends = [end for end in running if end <= now + wait]
            now = min(ends, default=now + wait)
            if ends:
                running.remove(now)
                window.end(now, 1)
        window.start(1)
        started.append(now)
        running.append(now + delay)
    for start in started:
        assert sum(start <= at < start + WINDOW_S for at in started) <= capacity


def test_a_request_beyond_the_whole_limit_goes_alone():
    window = Window(WINDOW_S)
    assert window.wait_s(0.0, 50, 10) == 0.0
    window.start(50)
    window.end(1.0, 50)
    assert window.wait_s(1.5, 1, 10) == pytest.approx(1.5)
    assert window.wait_s(3.0, 50, 10) == 0.0


def test_threads_share_one_limit():
    limiter, entered = Limiter(1.0, max_pause_s=10), []

    def work():
        for _ in range(4):
            with limiter.slot(("path", ""), limit=4, seconds=0.2, cost=1):
                entered.append(time.monotonic())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) == 16
    entered.sort()
    assert all(later - first >= 0.2 - 1e-3 for first, later in zip(entered, entered[4:], strict=False))


def test_scale_multiplies_the_limit():
    limiter = Limiter(1_000.0, max_pause_s=10)
    for _ in range(500):
        with limiter.slot(("path", ""), limit=1, seconds=3_600.0, cost=1):
            pass


def test_a_short_pause_is_waited_for_and_a_long_one_is_an_error():
    limiter = Limiter(1.0, max_pause_s=0.5)
    limiter.pause(0.2)
    before = time.monotonic()
    with limiter.slot(("path", ""), limit=1, seconds=1.0, cost=1):
        assert time.monotonic() - before >= 0.2
    limiter.pause(60)
    with pytest.raises(VenueError, match="pause") as caught, limiter.slot(("other", ""), limit=1, seconds=1.0, cost=1):
        pass
    assert caught.value.retryable
    assert 59 < caught.value.retry_after_s <= 60


def test_closing_wakes_who_waits():
    limiter, errors, waiting = Limiter(1.0, max_pause_s=10), [], threading.Event()

    def work():
        try:
            waiting.set()
            with limiter.slot(("path", ""), limit=1, seconds=3_600.0, cost=1):
                pass
        except VenueError as error:
            errors.append(str(error))

    with limiter.slot(("path", ""), limit=1, seconds=3_600.0, cost=1):
        thread = threading.Thread(target=work)
        thread.start()
        waiting.wait(5)
        limiter.close()
        thread.join(5)
    assert not thread.is_alive()
    assert errors
    assert "closed" in errors[0]
