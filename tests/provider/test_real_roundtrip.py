"""Every real candle: imported, converted, and read back through Qlib."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from qlib_crypto.collect import import_data
from qlib_crypto.lake import Lake
from qlib_crypto.provider import convert, verify
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

NAMES = ["open", "high", "low", "close", "volume"]
#: Folder, venue, interval of each lake; one interval a lake, so that nothing is made of finer bars.
LAKES = {
    "1m": [("okx_swap_1m", Venue.OKX), ("binance_um_1m", Venue.BINANCE)],
    "5m": [("okx_swap_5m", Venue.OKX)],
    "1h": [("okx_swap_1h", Venue.OKX), ("binance_um_1h", Venue.BINANCE)],
}

READ = """
import sys, warnings
warnings.filterwarnings("ignore")
import qlib
from qlib.data import D
provider, freq, out = sys.argv[1:]
qlib.init(provider_uri=provider, region="cn", kernels=1, logging_config=None,
          calendar_provider={"class": "GridCalendarProvider", "module_path": "qlib_crypto.provider.qlib_calendar"})
names = D.list_instruments(D.instruments(f"all_{freq}"), freq=freq, as_list=True)
data = D.features(names, ["$open", "$high", "$low", "$close", "$volume"], freq=freq)
data.columns = [name[1:] for name in data.columns]
data.reset_index().to_parquet(out)
"""


def read_back(provider, interval, tmp_path):
    """What Qlib reads, by instrument; rows are bars that there are."""
    out = tmp_path / "read.parquet"
    command = [sys.executable, "-c", READ, str(provider), interval.qlib, str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    frame = pd.read_parquet(out).dropna(subset=["close"])
    return {name: of.set_index("datetime")[NAMES] for name, of in frame.groupby("instrument")}


def source(path):
    frame = pd.read_parquet(path)
    if "close_time" in frame:
        frame = frame.iloc[:-1]  # downloaded before it closed, so the import drops it
    frame.index = frame["timestamp"].dt.tz_convert(None).astype("datetime64[ns]")
    return frame[NAMES]


def made_lake(real_data, folder, name):
    lake = Lake(folder)
    for within, venue in LAKES[name]:
        paths = sorted((real_data / "candles" / within).glob("*.parquet"))
        import_data(lake, paths, venue, "kline", Interval.parse(name))
    return lake


@pytest.mark.parametrize("name", LAKES)
def test_every_candle_comes_back(real_data, tmp_path, name):
    interval, provider = Interval.parse(name), tmp_path / "qlib_data"
    lake = made_lake(real_data, tmp_path, name)
    summary = convert(lake, provider, ProviderSettings(intervals=tuple(dict.fromkeys([name, "5m", "1h"]))))
    found = read_back(provider, interval, tmp_path)
    rows = 0
    for within, venue in LAKES[name]:
        for path in sorted((real_data / "candles" / within).glob("*.parquet")):
            own, read = source(path), found.pop(Instrument.from_venue_id(venue, path.stem).qlib)
            assert read.index.equals(own.index), path
            np.testing.assert_array_equal(read.to_numpy(), own.to_numpy().astype(np.float32), err_msg=str(path))
            rows += len(own)
    assert found == {}
    assert summary.bars[interval.qlib] == rows > 30_000
    assert verify(lake, provider) == []
    if name == "1m":
        five_of_one(real_data, provider, tmp_path)
    lake.close()


def five_of_one(real_data, provider, tmp_path):
    """Five minutes made of minutes are the venue's own five minutes, in every bar that both have."""
    made = read_back(provider, Interval.parse("5m"), tmp_path)
    for path in sorted((real_data / "candles" / "okx_swap_5m").glob("*.parquet")):
        own = source(path)
        read = made[Instrument.from_venue_id(Venue.OKX, path.stem).qlib]
        both = own.index.intersection(read.index)
        assert len(both) > 8_000
        prices = NAMES[:4]
        np.testing.assert_array_equal(
            read.loc[both, prices], own.loc[both, prices].astype(np.float32), err_msg=str(path)
        )
        np.testing.assert_allclose(read.loc[both, "volume"], own.loc[both, "volume"], rtol=1e-6)
