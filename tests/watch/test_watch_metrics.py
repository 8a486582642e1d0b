"""Metrics as Prometheus reads them: names, helps, values, and a lake that cannot be read."""

import re
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support_watch import NOW, gappy_lake, status, wait_for, watched_settings

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.collect.status import write_status
from qlib_crypto.errors import ConfigError, StorageError
from qlib_crypto.lake import Lake
from qlib_crypto.settings import WatchSettings
from qlib_crypto.symbols import Venue
from qlib_crypto.watch.beside import FILE, watching
from qlib_crypto.watch.metrics import Exporter, serving
from qlib_crypto.watch.observe import observe

OKX = [Venue.OKX]


def read(address):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=10) as answer:
        return answer.read().decode()


def values(families):
    return {(s.name, *sorted(s.labels.items())): s.value for f in families for s in f.samples}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return gappy_lake(tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="module")
def families(settings):
    return list(Exporter(lambda: observe(settings, OKX, wall_ms=NOW), settings).collect())


def test_names_follow_prometheus(families):
    names = [f.name for f in families]
    assert len(names) == len(set(names)) > 35
    for family in families:
        assert re.fullmatch(r"qlib_crypto_[a-z_]+", family.name), family.name
        assert family.documentation[-1] == ".", family.name
        assert not re.search(r"_(ms|minutes|hours|mb|gb|percent)(_|$)", family.name), f"{family.name}: no base unit"
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert not {"le", "quantile", "job", "instance"} & set(sample.labels), sample.labels


def test_values_are_those_of_the_files(families):
    seen = values(families)
    okx = ("venue", "okx")
    assert seen["qlib_crypto_collector_up", okx] == 1
    assert seen["qlib_crypto_collector_silent_seconds", okx] == 4
    assert seen["qlib_crypto_bar_lag_seconds", ("symbol", "BTC_USDT"), okx] == 0
    assert seen["qlib_crypto_rows_total", ("source", "ws"), okx] == 900
    assert seen["qlib_crypto_gap_rows_total", ("cause", "disconnected"), okx] == 7
    assert seen["qlib_crypto_repaired_rows_total", ("cause", "disconnected"), okx] == 5
    assert seen["qlib_crypto_hole_rows_total", ("cause", "no_trade"), okx] == 2
    assert seen["qlib_crypto_stream_reconnects_total", okx] == 3
    assert seen["qlib_crypto_settlement_age_seconds", okx] == 6 * 3600
    assert seen["qlib_crypto_holes", ("cause", "venue_down"), ("dataset", "kline_1h"), okx] == 2
    assert seen["qlib_crypto_collector_commit_seconds", okx] == 0.0025
    assert seen["qlib_crypto_job_success", ("kind", "rank"), ("subject", "okx")] == 1
    assert seen["qlib_crypto_job_success", ("kind", "repair"), ("subject", "okx")] == 0
    ended = (NOW - HOUR_MS) / 1000 + 2.5
    assert seen["qlib_crypto_job_last_success_timestamp_seconds", ("kind", "rank"), ("subject", "okx")] == ended
    assert seen["qlib_crypto_job_duration_seconds", ("kind", "rank"), ("subject", "okx")] == 2.5
    assert seen["qlib_crypto_disk_free_bytes", ("folder", "lake")] > 0
    assert seen["qlib_crypto_scrape_success",] == 1


def test_labels_are_bounded_by_what_is_followed(families):
    symbols = {s.labels["symbol"] for f in families for s in f.samples if "symbol" in s.labels}
    assert len(symbols) == 8, "those followed that are not delisted"
    assert {label for f in families for s in f.samples for label in s.labels} <= {
        "venue", "symbol", "source", "dataset", "cause", "kind", "state", "subject", "folder", "version"
    }  # fmt: skip


def test_a_silent_collector_is_down_and_its_lag_grows(tmp_path):
    write_status(Lake(tmp_path), status(wall_ms=NOW - HOUR_MS, market_ms=NOW - HOUR_MS))
    settings = watched_settings(tmp_path)
    seen = values(Exporter(lambda: observe(settings, OKX, wall_ms=NOW + HOUR_MS), settings).collect())
    assert seen["qlib_crypto_collector_up", ("venue", "okx")] == 0
    assert seen["qlib_crypto_bar_lag_seconds", ("symbol", "BTC_USDT"), ("venue", "okx")] == 3600


def test_what_cannot_be_read_is_a_metric_too(settings):
    def broken():
        raise StorageError("job table: cannot read; free disk space")

    seen = values(Exporter(broken, settings).collect())
    assert seen["qlib_crypto_scrape_success",] == 0
    assert ("qlib_crypto_collector_up", ("venue", "okx")) not in seen


def test_they_are_served_on_loopback_as_prometheus_reads_them(settings, families):
    with serving(settings, OKX, port=0) as address:
        assert address.startswith("http://127.0.0.1:")
        told = {f.name for f in text_string_to_metric_families(read(address))}
    assert {f.name for f in families} <= told
    assert "qlib_crypto_daemon_process_resident_memory_bytes" in told
    with pytest.raises(OSError, match="refused"):
        read(address)


def test_port_0_of_the_settings_serves_nothing(settings):
    quiet = settings.model_copy(update={"watch": WatchSettings(metrics_port=0)})
    with serving(quiet, OKX) as address:
        assert address == ""


def test_a_taken_port_is_told_and_the_daemon_goes_on(settings):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}.*watch.metrics_port"), serving(settings, OKX, port=port):
            pass
        with watching(settings, OKX, port=port) as address:
            assert address == ""


def test_while_the_daemon_runs_it_alerts(tmp_path, caplog):
    settings = gappy_lake(tmp_path)
    with watching(settings, OKX, look_s=0.05, port=0) as address:
        wait_for((tmp_path / FILE).is_file)
        assert "qlib_crypto_scrape_success 1.0" in read(address)
    assert "job repair okx" in (tmp_path / FILE).read_text()
