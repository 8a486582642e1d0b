"""The collector's status file and its lock."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qlib_crypto.collect.status import STATUS_FILE, CollectorStatus, only_collector, read_status, write_status
from qlib_crypto.errors import StorageError
from qlib_crypto.symbols import Venue

STATUS = CollectorStatus(
    "okx", 7, True, 1, 2, 3, "1m", 0.5, {"BTC_USDT": 5, "ETH_USDT": None}, {"ws": 4}, {"kline_1m": 4}, {"lost": 1},
    {"lost": 1}, {"no_trade": 2}, {"reconnects": 3}, 1, 0, 0, 0, 0, 9, 1.5, None,
)  # fmt: skip


def test_a_status_is_read_as_it_was_written(lake):
    assert read_status(lake, Venue.OKX) is None
    write_status(lake, STATUS)
    assert read_status(lake, Venue.OKX) == STATUS
    assert [path.name for path in lake.folder(Venue.OKX).iterdir()] == [STATUS_FILE]  # nothing else is left


@pytest.mark.parametrize("text", ["", "{", "[]", '{"venue": "okx", "unheard_of": 1}'])
def test_a_torn_or_foreign_status_is_none(lake, text):
    write_status(lake, STATUS)
    (lake.folder(Venue.OKX) / STATUS_FILE).write_text(text)
    assert read_status(lake, Venue.OKX) is None


def test_one_collector_a_venue_and_lake_also_after_a_crash(lake):
    hold = (
        "import sys\nfrom pathlib import Path\nfrom qlib_crypto.collect.status import only_collector\n"
        "from qlib_crypto.lake import Lake\nfrom qlib_crypto.symbols import Venue\n"
        "with only_collector(Lake(Path(sys.argv[1])), Venue.OKX):\n    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(lake.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(StorageError, match=f"process {other.pid} already collects okx"),
            only_collector(lake, Venue.OKX),
        ):
            pass
        with only_collector(lake, Venue.BINANCE):  # another venue is free
            pass
        other.kill()
    with only_collector(lake, Venue.OKX), pytest.raises(StorageError), only_collector(lake, Venue.OKX):
        pass
