from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support_lake import T0

from qlib_crypto.cli.imports import import_files
from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.errors import ConfigError


def candles(path, minutes, *, low=99.0):
    count = len(minutes)
    table = pa.table({
        "timestamp": pa.array([T0 + k * MINUTE_MS for k in minutes], pa.timestamp("ms", tz="UTC")),
        **{name: np.full(count, 100.0) for name in ("open", "high", "close", "volume")}, "low": np.full(count, low),
    })  # fmt: skip
    pq.write_table(table, path)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    candles(folder / "BTC-USDT-SWAP.parquet", [0, 1, 4, 5, 7])
    candles(folder / "ETH-USDT-SWAP.parquet", [0, 1, 2])
    return folder


def test_every_file_with_holes_is_shown_and_the_list_named(files, tmp_path, capsys):
    import_files([files], "okx", lake=tmp_path / "lake")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "BTC-USDT-SWAP.parquet: 2 holes, 3 bars missing; the first from 2025-04-01 00:02:00 to 2025-04-01 00:04:00"
    )
    (listed,) = (tmp_path / "lake" / "okx_data" / "imports").iterdir()
    assert lines[1:] == [f"2 holes in all, each listed in {listed}", "imported 8 rows from 2 files"]


def test_json_has_every_hole(files, tmp_path, capsys):
    import_files([files / "BTC-USDT-SWAP.parquet"], "okx", as_json=True, lake=tmp_path / "lake")
    answer = json.loads(capsys.readouterr().out)
    assert answer | {"holes_file": None} == {
        "files": 1, "rows": 5, "messages": [], "refused": [], "holes_file": None,
        "holes": [
            {"file": "BTC-USDT-SWAP.parquet", "symbol": "BTC_USDT", "dataset": "kline_1m",
             "start_ms": T0 + 2 * MINUTE_MS, "end_ms": T0 + 4 * MINUTE_MS, "rows": 2},
            {"file": "BTC-USDT-SWAP.parquet", "symbol": "BTC_USDT", "dataset": "kline_1m",
             "start_ms": T0 + 6 * MINUTE_MS, "end_ms": T0 + 7 * MINUTE_MS, "rows": 1},
        ],
    }  # fmt: skip
    assert answer["holes_file"].endswith(".csv")


def test_what_went_to_the_quarantine_is_told(tmp_path, capsys):
    candles(tmp_path / "BTC-USDT-SWAP.parquet", [0, 1], low=-1.0)
    import_files([tmp_path / "BTC-USDT-SWAP.parquet"], "okx", quarantine=True, lake=tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[2:] == ["2 impossible rows in quarantine", "imported 0 rows from 1 file"]


def test_nothing_to_import_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no file at"):
        import_files([tmp_path / "none.parquet"], "okx", lake=tmp_path)
    with pytest.raises(ConfigError, match="write kline or funding"):
        import_files([tmp_path], "okx", dataset="books", lake=tmp_path)
