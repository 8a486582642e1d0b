"""A build by several processes is a build by one."""

from __future__ import annotations

import sys

import pytest
from provider_lakes import T0, random_lake
from test_incremental import assert_equal, content, rows_of

from qlib_crypto.clock import DAY_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.lake import Lake
from qlib_crypto.provider import convert, verify
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Venue

PROVIDER = ProviderSettings(intervals=("5m", "1h", "1d"), future_days=3)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Both venues, sealed and unsealed rows."""
    lake = Lake(tmp_path_factory.mktemp("lake"))
    lake.store(rows_of(random_lake(11, symbols=5, days=3, mixed=True, holes=True)))
    lake.seal(Venue.OKX, before_ms=T0 + 2 * DAY_MS)
    return lake


@pytest.fixture(scope="module")
def alone(lake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "qlib_data"
    convert(lake, folder, PROVIDER, durable=False)
    return folder


def test_processes_here(lake, alone, tmp_path):
    said = []
    summary = convert(lake, tmp_path / "qlib_data", PROVIDER, durable=False, jobs=2, progress=said.append)
    assert_equal(content(tmp_path / "qlib_data"), content(alone))
    assert sum(summary.bars.values())
    assert len(said) == 5
    assert verify(lake, tmp_path / "qlib_data", cells="all") == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_processes_on_ray(lake, alone, tmp_path):
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        convert(lake, tmp_path / "qlib_data", PROVIDER, durable=False, jobs=2, on="ray")
    finally:
        ray.shutdown()
    assert_equal(content(tmp_path / "qlib_data"), content(alone))


def test_ray_that_is_not_installed_is_said(lake, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.util.joblib", None)
    with pytest.raises(ConfigError, match=r"pip install 'qlib-crypto\[ray\]'"):
        convert(lake, tmp_path / "qlib_data", PROVIDER, on="ray")
