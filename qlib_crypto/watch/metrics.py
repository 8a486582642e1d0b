"""Prometheus metrics of a lake and of who works on it, read anew at each scrape and served on loopback.

Names follow Prometheus: base units, `_total` for counters. Counters of a collector begin anew when it does. Labels are
bounded: venues, followed symbols, datasets, causes, kinds of jobs and the workflows of the schedule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qlib_crypto import __version__
from qlib_crypto.clock import SECOND_MS
from qlib_crypto.daemon.job import State
from qlib_crypto.errors import ConfigError, QlibCryptoError
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Venue
from qlib_crypto.watch.observe import VenueView, View, latest, name, observe

log = structlog.get_logger(__name__)

_LOOPBACK = "127.0.0.1"
#: A scrape within so many wall seconds of another gets the same view: reading a big lake's ledger is not free.
_FRESH_S = 5.0
_P = "qlib_crypto_"

#: Counters of the stream as metrics, by the collector's name for them.
_STREAM = {
    "frames": ("stream_frames", "Frames that arrived by websocket."),
    "rows": ("stream_rows", "Rows that the stream gave."),
    "malformed": ("stream_malformed", "Frames that could not be read."),
    "unknown": ("stream_unknown", "Frames of instruments or channels nobody subscribed."),
    "reconnects": ("stream_reconnects", "Connections that had to be opened anew."),
    "notices": ("stream_notices", "Notices of the venue that it will close a connection."),
    "subscribe_errors": ("stream_subscribe_errors", "Subscriptions that the venue refused."),
}


class Exporter(Collector):
    """The metrics of one lake, for a Prometheus registry.

    Parameters
    ----------
    look
        Gives the view of now; `watch.observe.observe` bound to settings and venues.
    settings
        Their limits are exported too, so that alert rules need no copy of them.

    """

    def __init__(self, look: Callable[[], View], settings: Settings) -> None:
        self._look = look
        self._settings = settings
        self._seen: tuple[float, View] | None = None

    def collect(self) -> Iterator[Metric]:
        """Every metric family; those of the lake are absent, and `scrape_success` is 0, when it cannot be read."""
        view = self._view()
        yield _gauge("scrape_success", "1 when the lake could be read for this scrape.", {(): float(view is not None)})
        info = GaugeMetricFamily(f"{_P}build_info", "Always 1; the version is a label.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        watch = self._settings.watch
        yield _gauge("bar_lag_limit_seconds", "watch.lag_minutes of the settings.", {(): watch.lag_minutes * 60})
        yield _gauge("disk_free_limit_bytes", "watch.disk_free_gb of the settings.", {(): watch.disk_free_gb * 1e9})
        if view is not None:
            yield from _venues(list(view.venues.values()))
            yield from _jobs(view)
            yield from _machine(view)

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are known only with a view, and registration must not read the lake."""
        return iter(())

    def _view(self) -> View | None:
        now = time.monotonic()
        if self._seen is None or now - self._seen[0] > _FRESH_S:
            try:
                self._seen = (now, self._look())
            except (QlibCryptoError, OSError) as error:
                log.warning("metrics cannot be read", why=str(error))
                self._seen = None
        return None if self._seen is None else self._seen[1]


@contextmanager
def serving(settings: Settings, venues: Sequence[Venue], *, port: int | None = None) -> Iterator[str]:
    """The address of the metrics while the block runs, empty when the port of the settings is 0.

    Always 127.0.0.1. With `port` given that one is taken, 0 then meaning any free one.

    Raises
    ------
    ConfigError
        The port is taken.

    """
    wanted = settings.watch.metrics_port if port is None else port
    if wanted == 0 and port is None:
        yield ""
        return
    registry = CollectorRegistry()
    registry.register(Exporter(lambda: observe(settings, venues), settings))
    ProcessCollector(namespace="qlib_crypto_daemon", registry=registry)
    try:
        server, thread = start_http_server(wanted, addr=_LOOPBACK, registry=registry)
    except OSError as error:
        raise ConfigError(
            f"metrics port {wanted} on {_LOOPBACK}: {error.strerror or error}; set watch.metrics_port to a free one, "
            "or to 0 for none"
        ) from None
    try:
        yield f"http://{_LOOPBACK}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _gauge(what: str, text: str, values: Mapping[Any, float | None], labels: Sequence[str] = ()) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{_P}{what}", text, labels=labels)
    for key, value in values.items():
        if value is not None:
            family.add_metric(key, value)
    return family


def _counter(what: str, text: str, values: Mapping[Any, float], labels: Sequence[str]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"{_P}{what}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _venues(views: Sequence[VenueView]) -> Iterator[Metric]:
    yield from _collectors(views)
    running = [(str(v.venue), v.status) for v in views if v.status is not None]
    counts: tuple[tuple[str, str, str, str], ...] = (
        ("rows", "rows", "source", "New or replaced rows that a collector stored."),
        ("dataset_rows", "datasets", "dataset", "New or replaced rows that a collector stored."),
        ("gap_rows", "gaps", "cause", "Rows that were found missing."),
        ("repaired_rows", "repaired", "cause", "Rows found missing that REST gave."),
        ("hole_rows", "holes", "cause", "Rows that the venue itself does not have."),
    )
    for what, field, label, text in counts:
        by_label = {(v, key): float(n) for v, status in running for key, n in getattr(status, field).items()}
        yield _counter(what, text, by_label, ["venue", label])
    for key, (what, text) in _STREAM.items():
        yield _counter(what, text, {(v,): float(s.stream.get(key, 0)) for v, s in running}, ["venue"])
    for field, text in (
        ("refused", "Rows that cannot be right and went to the quarantine."),
        ("dropped", "Rows let go because the disk was full."),
        ("revived", "Feeds opened anew because they were dead."),
    ):
        values = {(v,): float(getattr(s, field)) for v, s in running}
        yield _counter(f"collector_{field}", text, values, ["venue"])
    yield _gauge("holes", "Spans of the last month that the venue itself does not have.",
                 {(str(v.venue), *key): float(n) for v in views for key, n in v.holes.items()},
                 ["venue", "dataset", "cause"])  # fmt: skip
    yield _gauge("ledger_repaired_rows", "Rows of the last month in the ledger of repairs, by why they were missing.",
                 {(str(v.venue), key): float(n) for v in views for key, n in v.repairs.items()},
                 ["venue", "cause"])  # fmt: skip
    yield _gauge(
        "quarantine_rows", "Rows in quarantine.", {(str(v.venue),): v.quarantined[0] for v in views}, ["venue"]
    )


def _collectors(views: Sequence[VenueView]) -> Iterator[Metric]:
    venue = ["venue"]
    yield _gauge("collector_up", "1 when a collector runs and says so.", {(str(v.venue),): v.up for v in views}, venue)
    running = [(str(v.venue), v, v.status) for v in views if v.status is not None]
    gauges: tuple[tuple[str, str, Mapping[Any, float | None]], ...] = (
        ("collector_silent_seconds", "Since the collector wrote its status.",
         {(n,): v.silent_s for n, v, _ in running}),
        ("collector_start_timestamp_seconds", "When the collector started.",
         {(n,): s.started_ms / SECOND_MS for n, _, s in running}),
        ("collector_in_trouble", "1 when the collector cannot store.", {(n,): bool(s.trouble) for n, _, s in running}),
        ("collector_instruments", "Instruments that are followed.", {(n,): len(s.newest) for n, _, s in running}),
        ("collector_queue_requests", "REST requests that wait.", {(n,): s.queue for n, _, s in running}),
        ("collector_inbox_rows", "Rows of the stream that wait to be stored.", {(n,): s.inbox for n, _, s in running}),
        ("collector_commit_seconds", "What the last commit took.", {(n,): s.commit_ms / 1e3 for n, _, s in running}),
        ("stream_silent_seconds", "Between the stream's last row and the status.",
         {(n,): s.streamed_s for n, _, s in running}),
        ("settlement_age_seconds", "Market time since the newest settlement.",
         {(str(v.venue),): v.settlement_s for v in views}),
    )  # fmt: skip
    for what, text, values in gauges:
        yield _gauge(what, text, values, venue)
    lags = {(str(v.venue), symbol): lag for v in views for symbol, lag in v.lag_s.items()}
    yield _gauge("bar_lag_seconds", "Market time since the close of the newest bar.", lags, ["venue", "symbol"])


def _jobs(view: View) -> Iterator[Metric]:
    labels = ["kind", "subject"]
    open_jobs: dict[tuple[str, ...], float] = {}
    for job in view.jobs:
        if job.state in (State.PENDING, State.RUNNING):
            key = (job.kind, job.state.value)
            open_jobs[key] = open_jobs.get(key, 0.0) + 1
    yield _gauge("jobs", "Jobs that wait or run.", open_jobs, ["kind", "state"])
    last = latest(view.jobs)
    yield _gauge("job_success", "1 when the last of its kind completed, 0 when it failed.",
                 {key: float(job.state is State.COMPLETED) for key, job in last.items()}, labels)  # fmt: skip
    took = {
        key: (job.ended_ms - job.started_ms) / SECOND_MS for key, job in last.items() if job.started_ms and job.ended_ms
    }
    yield _gauge("job_duration_seconds", "What the last attempt of the last of its kind took.", took, labels)
    done: dict[tuple[str, ...], float] = {}
    for job in view.jobs:
        if job.state is State.COMPLETED and job.ended_ms:
            done[name(job)] = max(done.get(name(job), 0.0), job.ended_ms / SECOND_MS)
    yield _gauge("job_last_success_timestamp_seconds", "When the last of its kind completed.", done, labels)


def _machine(view: View) -> Iterator[Metric]:
    disks = {(folder,): float(free) for folder, (free, _) in view.disks.items()}
    yield _gauge("disk_free_bytes", "Free bytes of the disk of a folder.", disks, ["folder"])
    sizes = {(folder,): float(size) for folder, (_, size) in view.disks.items()}
    yield _gauge("disk_size_bytes", "Size of the disk of a folder.", sizes, ["folder"])
