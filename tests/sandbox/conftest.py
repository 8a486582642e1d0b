"""A small folder of Parquet in the layout of the real one, and the tapes on it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from sandbox_support import HOURS, MINUTES, START, as_klines, candles, settlements, write

from qlib_crypto.sandbox.tape_files import FileTape
from qlib_crypto.symbols import Venue


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """OKX: BTC 1m and 1h, ETH 1m, PEPE 1h. Binance: BTC 1m as a raw download, 1000PEPE 1h, SOL 1m."""
    root = tmp_path_factory.mktemp("tape")
    hour, minute = 3_600_000, 60_000
    minutes_at = START + (HOURS * hour - MINUTES * minute)
    okx, binance = root / "candles" / "okx_swap_{}", root / "candles" / "binance_um_{}"
    write(candles(START, HOURS, hour, 80_000.0, 1, 1), Path(str(okx).format("1h")) / "BTC-USDT-SWAP.parquet")
    write(candles(minutes_at, MINUTES, minute, 80_000.0, 1, 2), Path(str(okx).format("1m")) / "BTC-USDT-SWAP.parquet")
    write(candles(minutes_at, MINUTES, minute, 2_000.0, 2, 3), Path(str(okx).format("1m")) / "ETH-USDT-SWAP.parquet")
    write(candles(START, HOURS, hour, 6.5e-6, 9, 4), Path(str(okx).format("1h")) / "PEPE-USDT-SWAP.parquet")
    raw = as_klines(candles(minutes_at, MINUTES + 1, minute, 80_000.0, 1, 5), minute)
    write(raw, Path(str(binance).format("1m")) / "BTCUSDT.parquet")
    write(candles(minutes_at, MINUTES, minute, 130.0, 3, 7), Path(str(binance).format("1m")) / "SOLUSDT.parquet")
    pepe = candles(START, HOURS, hour, 6.5e-3, 7, 6)
    write(pepe, Path(str(binance).format("1h")) / "1000PEPEUSDT.parquet")
    funding = [settlements("BTC-USDT-SWAP", START, 8, 120, 1), settlements("ETH-USDT-SWAP", START, 4, 240, 2)]
    write(pd.concat(funding), root / "funding" / "okx_swap_funding.parquet")
    early = [settlements("BTCUSDT", START, 8, 60, 3, 17), settlements("1000PEPEUSDT", START, 4, 240, 4, 17)]
    write(pd.concat(early), root / "funding" / "binance_um_funding_a.parquet")
    late = settlements("BTCUSDT", START + 60 * 8 * hour, 8, 60, 5, 17)
    write(late, root / "funding" / "binance_um_funding_b.parquet")
    return root


@pytest.fixture(scope="session")
def okx_tape(folder) -> FileTape:
    return FileTape(folder, Venue.OKX)


@pytest.fixture(scope="session")
def binance_tape(folder) -> FileTape:
    return FileTape(folder, Venue.BINANCE)
