"""Every cell of every field at every frequency against a plain pandas computation, read from the files and by Qlib."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provider_lakes import random_lake
from provider_oracle import FIELDS, oracle

from qlib_crypto.errors import DataError
from qlib_crypto.provider import convert, verify
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Interval

PROVIDER = ProviderSettings(intervals=("1m", "5m", "15m", "1h", "4h", "1d"))

READ_BY_QLIB = """
import sys, pandas as pd, qlib
from qlib.data import D
provider, out, fields = sys.argv[1], sys.argv[2], sys.argv[3].split()
uri = {"class": "MLflowExpManager", "module_path": "qlib.workflow.expm",
       "kwargs": {"uri": f"sqlite:///{out}.db", "default_exp_name": "x"}}
qlib.init(provider_uri=provider, region="us", kernels=1, exp_manager=uri)
frames = {}
for freq in sys.argv[4].split():
    from qlib.data.cache import H
    H.clear()
    frames[freq] = D.features(D.instruments("all"), ["$" + f for f in fields], freq=freq)
pd.to_pickle(frames, out)
"""


def expected(lake):
    """By Qlib names of instrument and frequency: the oracle's frame, indexed by open in ms."""
    wanted = {}
    for instrument, frames in lake.frames.items():
        for target in map(Interval.parse, PROVIDER.intervals):
            frame = oracle(frames, lake.funding.get(instrument), target)
            if frame is not None:
                wanted[instrument.qlib, target.qlib] = frame.astype(np.float32)
    return wanted


def assert_same(found, right, where):
    """Equal to the rounding of one float32, and unknown in the same places."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(right), err_msg=f"{where}: NaN pattern")
    np.testing.assert_allclose(found, right, rtol=2.5e-7, atol=1e-12, err_msg=where)


def assert_files_hold(provider: Path, manifest, wanted):
    held = {(name, freq) for name, spans in manifest.instruments.items() for freq in spans}
    assert held == set(wanted)
    for (name, freq), frame in wanted.items():
        calendar = (provider / "calendars" / f"{freq}.txt").read_text().split("\n")
        for field in FIELDS:
            data = np.fromfile(provider / "features" / name.lower() / f"{field}.{freq}.bin", dtype="<f4")
            first = pd.Timestamp(frame.index[0], unit="ms")
            assert pd.Timestamp(calendar[int(data[0])]) == first, f"{name} {field} {freq} starts elsewhere"
            assert len(data) - 1 == len(frame)
            assert_same(data[1:], frame[field].to_numpy(), f"{name} {field} {freq}")


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    symbols=st.integers(1, 3),
    days=st.integers(1, 2),
    mixed=st.booleans(),
    holes=st.booleans(),
)
def test_files_hold_what_pandas_computes(seed, symbols, days, mixed, holes):
    check_files(seed, symbols, days, mixed, holes)


@pytest.mark.long
@pytest.mark.timeout(1200)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    symbols=st.integers(1, 4),
    days=st.integers(1, 4),
    mixed=st.booleans(),
    holes=st.booleans(),
)
def test_files_hold_what_pandas_computes_on_many_lakes(seed, symbols, days, mixed, holes):
    check_files(seed, symbols, days, mixed, holes)


def check_files(seed, symbols, days, mixed, holes):
    lake = random_lake(seed, symbols=symbols, days=days, mixed=mixed, holes=holes)
    wanted = expected(lake)
    folder = Path(tempfile.mkdtemp())
    try:
        provider = folder / "qlib_data"
        if not wanted:
            with pytest.raises(DataError, match="no complete bar"):
                convert(lake, provider, PROVIDER)
            return
        summary = convert(lake, provider, PROVIDER)
        assert verify(lake, provider, cells="all") == []
        assert_files_hold(provider, summary.manifest, wanted)
        bars = {freq: 0 for _, freq in wanted}
        for (_, freq), frame in wanted.items():
            bars[freq] += int(frame["close"].notna().sum())
        assert summary.bars == bars
        assert set(summary.skipped) == {Interval.parse(name).qlib for name in PROVIDER.intervals} - set(bars)
    finally:
        shutil.rmtree(folder)


def test_qlib_reads_what_pandas_computes(tmp_path):
    lake = random_lake(7, symbols=3, days=2, mixed=True, holes=True)
    summary = convert(lake, tmp_path / "qlib_data", PROVIDER)
    wanted = expected(lake)
    out = tmp_path / "read.pkl"
    frequencies = " ".join(summary.manifest.frequencies)
    arguments = [str(tmp_path / "qlib_data"), str(out), " ".join(FIELDS), frequencies]
    subprocess.run([sys.executable, "-c", READ_BY_QLIB, *arguments], check=True, capture_output=True, timeout=240)
    read = pd.read_pickle(out)  # noqa: S301 - written by our own process just now
    assert set(read) == set(frequencies.split())
    seen = set()
    for freq, frame in read.items():
        for name, part in frame.groupby(level="instrument"):
            right = wanted[name, freq]
            times = part.index.get_level_values("datetime").astype("datetime64[ms]").astype(np.int64)
            np.testing.assert_array_equal(times, right.index)
            for field in FIELDS:
                assert_same(part[f"${field}"].to_numpy(), right[field].to_numpy(), f"{name} {field} {freq}")
            seen.add((name, freq))
    assert seen == set(wanted)
