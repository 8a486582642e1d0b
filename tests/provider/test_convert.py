from __future__ import annotations

import dataclasses
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from provider_lakes import T0, MemoryLake, make_bars, make_settlements, random_lake

from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.errors import ConfigError, DataError, SchemaError, StorageError
from qlib_crypto.lake import Lake
from qlib_crypto.provider import convert, read_manifest, verify
from qlib_crypto.provider.manifest import write_manifest
from qlib_crypto.provider.swap import workplace
from qlib_crypto.schemas import Bar, Settlement
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

ONE_HOUR = Interval.parse("1h")
PROVIDER = ProviderSettings(intervals=("1h", "4h", "1d"), future_days=3)
BTC, ETH = Instrument("BTC", "USDT", Venue.OKX), Instrument("ETH", "USDT", Venue.BINANCE)


def lake_of(**hours):
    """Hourly bars from T0 on: so many each, always the same values."""
    frames = {
        instrument: {ONE_HOUR: make_bars(np.random.default_rng(len(instrument.base)), ONE_HOUR, T0, 240)[:count]}
        for instrument, count in ((BTC, hours.get("btc", 72)), (ETH, hours.get("eth", 60)))
        if count
    }
    funding = make_settlements(np.random.default_rng(2), T0 - 8 * HOUR_MS, [8] * 9, jitter_ms=17, marked=0.5)
    return MemoryLake(frames, {BTC: funding})


def content(folder: Path):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {"manifest.json", "lake_files.json"}
    }


@pytest.fixture
def provider(tmp_path):
    return tmp_path / "qlib_data"


def test_what_is_written(provider):
    summary = convert(lake_of(), provider, PROVIDER, memberships={"top50": {BTC: [(T0, None)]}})
    frequencies = ("60min", "240min", "day")
    assert {path.name for path in provider.iterdir()} == {
        "calendars",
        "features",
        "instruments",
        "lake_files.json",
        "manifest.json",
        "margin_tiers.json",
        "rules.json",
        "settlements",
        "specs.json",
    }
    assert {path.stem for path in (provider / "calendars").iterdir()} == {
        name for frequency in frequencies for name in (frequency, f"{frequency}_future")
    }
    assert {path.name for path in (provider / "features").iterdir()} == {"btc_usdt.okx", "eth_usdt.binance"}
    assert len(list((provider / "features" / "btc_usdt.okx").iterdir())) == 17 * 3
    assert {path.stem for path in (provider / "instruments").iterdir()} == {
        *("all", "okx", "binance", "top50"),
        *(f"{market}_{frequency}" for market in ("all", "okx", "binance", "top50") for frequency in frequencies),
    }
    manifest = read_manifest(provider)
    assert manifest == summary.manifest
    assert manifest.frequencies["60min"].origin == "2025-03-13 00:00:00"
    assert manifest.frequencies["60min"].length == 72
    assert manifest.frequencies["60min"].future_length == 72 + 2 * 24
    assert manifest.instruments["ETH_USDT.BINANCE"] == {"60min": (0, 60), "240min": (0, 15), "day": (0, 2)}
    counts = manifest.settlement_prices["BTC_USDT.OKX"]
    assert sum(counts.values()) == 10
    assert summary.settlement_prices == counts
    assert "2 instruments" in str(summary)
    assert "60min: 132 bars, calendar 2025-03-13 00:00:00 to 2025-03-15 23:00:00" in str(summary)
    assert verify(lake_of(), provider, cells="all") == []


def test_the_same_lake_is_not_converted_twice_unless_told_to(provider):
    first = convert(lake_of(), provider, PROVIDER)
    before = content(provider)
    again = convert(lake_of(), provider, PROVIDER)
    assert (first.changed, again.changed) == (True, False)
    assert "already holds this lake" in str(again)
    full = convert(lake_of(), provider, PROVIDER, full=True)
    assert full.changed
    assert full.manifest == first.manifest.model_copy(update={"generation": 2})
    assert content(provider) == before, "equal lakes give equal bytes"


@pytest.mark.parametrize("what", ["lake", "settings", "memberships", "code", "fields", "damage"])
def test_a_change_of_anything_that_matters_is_converted(provider, what, monkeypatch):
    convert(lake_of(), provider, PROVIDER)
    lake, settings, memberships = lake_of(), PROVIDER, {}
    if what == "lake":
        lake = lake_of(eth=61)
    elif what == "settings":
        settings = PROVIDER.model_copy(update={"future_days": 4})
    elif what == "memberships":
        memberships = {"top50": {BTC: [(T0, None)]}}
    elif what == "code":
        monkeypatch.setattr(sys.modules["qlib_crypto.provider.convert"], "__version__", "99")
    elif what == "fields":
        held = read_manifest(provider)
        write_manifest(provider, held.model_copy(update={"fields": held.fields[:-1]}))
        for path in provider.glob(f"features/*/{held.fields[-1]}.*.bin"):
            path.unlink()
    else:
        next((provider / "features" / "btc_usdt.okx").iterdir()).unlink()
    assert convert(lake, provider, settings, memberships=memberships).changed
    assert verify(lake, provider, cells="all") == []


def test_instruments_of_a_market_of_ones_own_without_bars_are_told(provider):
    none = Instrument("DOGE", "USDT", Venue.OKX)
    markets = {name: {BTC: [(T0, None)], none: [(T0, None)]} for name in ("top50", "majors")}
    told = str(convert(lake_of(), provider, PROVIDER, memberships=markets))
    assert told.count("DOGE") == 1
    assert "market majors: 1 instrument of it not in the provider, such as DOGE_USDT.OKX" in told


@pytest.mark.parametrize("now", [{"btc": 71}, {"btc": 0}, {"eth": 59}])
def test_history_is_never_shortened_unless_told_to(provider, now):
    convert(lake_of(), provider, PROVIDER)
    before = content(provider)
    with pytest.raises(DataError, match=r"restore the lake's files, or accept less history with: .* --full"):
        convert(lake_of(**now), provider, PROVIDER)
    assert content(provider) == before
    assert convert(lake_of(**now), provider, PROVIDER, full=True).changed
    assert verify(lake_of(**now), provider, cells="all") == []


def test_a_frequency_that_is_no_longer_asked_for_goes(provider):
    convert(lake_of(), provider, PROVIDER)
    convert(lake_of(), provider, PROVIDER.model_copy(update={"intervals": ("1h", "1d")}))
    assert not list(provider.rglob("*240min*"))


def test_older_bars_move_the_origin_and_say_so(provider):
    convert(lake_of(), provider, PROVIDER)
    lake = lake_of()
    old = make_bars(np.random.default_rng(9), ONE_HOUR, T0 - 5 * DAY_MS + 7 * HOUR_MS, 20)
    frames = {**lake.frames, Instrument("OLD", "USDT", Venue.OKX): {ONE_HOUR: old}}
    older = dataclasses.replace(lake, frames=frames)
    summary = convert(older, provider, PROVIDER)
    assert summary.manifest.frequencies["60min"].origin == "2025-03-08 00:00:00"
    assert "60min now starts at 2025-03-08 00:00:00, not 2025-03-13 00:00:00: older bars came" in summary.notes
    assert summary.manifest.instruments["BTC_USDT.OKX"]["60min"] == (5 * 24, 72)
    assert verify(older, provider, cells="all") == []


def test_the_origin_stays_when_the_oldest_instrument_is_gone_from_the_wanted_ones(provider):
    convert(lake_of(), provider, PROVIDER)
    text = (provider / "manifest.json").read_text()
    manifest = read_manifest(provider)
    earlier = {name: f.model_copy(update={"origin": "2025-03-10 00:00:00"}) for name, f in manifest.frequencies.items()}
    moved = {
        name: {"60min": (h + 72, n), "240min": (f + 18, m), "day": (d + 3, k)}
        for name, ((h, n), (f, m), (d, k)) in (
            (name, (s["60min"], s["240min"], s["day"])) for name, s in manifest.instruments.items()
        )
    }
    update = {"frequencies": earlier, "instruments": moved}
    (provider / "manifest.json").write_text(manifest.model_copy(update=update).model_dump_json())
    summary = convert(lake_of(), provider, PROVIDER)
    assert summary.changed
    assert summary.manifest.frequencies["60min"].origin == "2025-03-10 00:00:00"
    assert summary.manifest.instruments["BTC_USDT.OKX"]["60min"] == (72, 72)
    assert summary.notes == ()
    assert verify(lake_of(), provider, cells="all") == []
    convert(lake_of(), provider, PROVIDER, full=True)
    assert (provider / "manifest.json").read_text() == text.replace('"generation": 1', '"generation": 3')


def test_an_empty_lake_and_one_without_a_complete_bar_say_what_to_do(provider):
    with pytest.raises(DataError, match="lake memory has no bars; collect some first") as error:
        convert(MemoryLake({}), provider, PROVIDER)
    assert error.value.exit_code == 3
    with pytest.raises(DataError, match="no complete bar of 1d"):
        convert(lake_of(btc=20, eth=0), provider, PROVIDER.model_copy(update={"intervals": ("1d",)}))
    assert not provider.exists()


def test_frequencies_without_a_complete_bar_are_named(provider):
    summary = convert(lake_of(btc=20, eth=0), provider, ProviderSettings(intervals=("1m", "1h", "1d")))
    assert summary.skipped == ("1min", "day")
    assert {path.name for path in (provider / "calendars").iterdir()} == {"60min.txt", "60min_future.txt"}


def test_one_conversion_at_a_time(provider):
    convert(lake_of(), provider, PROVIDER)
    with workplace(provider), pytest.raises(StorageError, match=r"another convert \(process \d+\) is writing"):
        convert(lake_of(eth=61), provider, PROVIDER)
    assert convert(lake_of(eth=61), provider, PROVIDER).changed


def test_a_killed_conversion_leaves_nothing_behind(provider):
    convert(lake_of(), provider, PROVIDER)
    work = provider.with_name("qlib_data.work")
    (work / "new" / "features").mkdir(parents=True)
    provider.rename(work / "old")  # killed between the two renames, where a system cannot exchange names
    assert not convert(lake_of(), provider, PROVIDER).changed
    assert [path.name for path in work.iterdir()] == ["lock"]


def test_the_swap_without_an_exchange_of_names(provider, monkeypatch):
    monkeypatch.setattr("qlib_crypto.provider.swap._exchange", lambda _one, _other: False)
    convert(lake_of(), provider, PROVIDER)
    convert(lake_of(eth=61), provider, PROVIDER)
    assert verify(lake_of(eth=61), provider, cells="all") == []
    assert [path.name for path in provider.with_name("qlib_data.work").iterdir()] == ["lock"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are exchanged in one step on Linux only")
@pytest.mark.long
def test_readers_see_a_whole_provider_at_every_instant(provider):
    convert(lake_of(), provider, PROVIDER)
    seen, missing, stop = set(), [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                seen.add((provider / "manifest.json").stat().st_size > 0)
            except FileNotFoundError:
                missing.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for count in (61, 62, 63):
        convert(lake_of(eth=count), provider, PROVIDER)
    stop.set()
    reader.join()
    assert seen == {True}
    assert not missing


def test_other_files_in_the_folder_stay_and_stale_caches_go(provider):
    (provider / "notes").mkdir(parents=True)
    (provider / "README.md").write_text("what lies here")
    (provider / "notes" / "a.txt").write_text("mine")
    (provider / "features_cache").mkdir()
    convert(lake_of(), provider, PROVIDER)
    convert(lake_of(eth=61), provider, PROVIDER)
    assert (provider / "README.md").read_text() == "what lies here"
    assert (provider / "notes" / "a.txt").read_text() == "mine"
    assert not (provider / "features_cache").exists()


def test_a_provider_of_another_program_is_not_replaced(provider):
    (provider / "features" / "sh600000").mkdir(parents=True)
    with pytest.raises(ConfigError, match="another program made it"):
        convert(lake_of(), provider, PROVIDER)
    assert (provider / "features" / "sh600000").is_dir()
    shutil.rmtree(provider)
    provider.write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        convert(lake_of(), provider, PROVIDER)


def test_a_link_to_a_provider_stays_a_link(provider, tmp_path):
    (tmp_path / "disk").mkdir()
    provider.symlink_to(tmp_path / "disk" / "data", target_is_directory=True)
    convert(lake_of(), provider, PROVIDER)
    assert provider.is_symlink()
    assert read_manifest(tmp_path / "disk" / "data").generation == 1


def test_an_unreadable_manifest_is_named_and_a_full_rebuild_heals_it(provider):
    convert(lake_of(), provider, PROVIDER)
    (provider / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(SchemaError, match=r"manifest.json cannot be read .* convert --full"):
        convert(lake_of(), provider, PROVIDER)
    convert(lake_of(), provider, PROVIDER, full=True)
    assert verify(lake_of(), provider, cells="all") == []


FULL_DISK = """
import resource, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from test_convert import PROVIDER, convert, lake_of
from qlib_crypto.errors import StorageError
provider = Path(sys.argv[3])
convert(lake_of(), provider, PROVIDER)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))  # the system refuses to write more into a file
try:
    convert(lake_of(btc=240), provider, PROVIDER)
except StorageError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="the system cannot limit the size of files")
def test_a_disk_that_refuses_leaves_the_old_provider(provider, root):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(Path(__file__).parent), str(root), str(provider)],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "cannot write provider" in done.stdout
    assert "File too large" in done.stdout
    assert verify(lake_of(), provider, cells="all") == []
    assert [path.name for path in provider.with_name("qlib_data.work").iterdir()] == ["lock"]


def test_a_lake_that_changes_while_it_is_read_is_not_a_fault(provider):
    lake = lake_of()

    class Growing(MemoryLake):
        asked = 0

        def content_hash(self, _files=None):
            self.asked += 1
            return f"{self.asked}"

        def bars(self, instrument, interval, start_ms=None, end_ms=None):
            frames = lake_of(btc=72 + self.asked, eth=60).frames if start_ms is not None else lake.frames
            return MemoryLake(frames).bars(instrument, interval, start_ms, end_ms)

    assert convert(Growing(lake.frames, lake.funding), provider, PROVIDER).changed
    assert verify(lake, provider) == []


def test_a_lake_on_disk_partly_sealed_gives_the_same_bytes(provider, tmp_path):
    memory = random_lake(3, symbols=3, days=2, mixed=True, holes=True)
    lake = Lake(tmp_path / "lake")
    for instrument, frames in memory.frames.items():
        for interval, frame in frames.items():
            lake.store(
                Bar(instrument, interval, t, *row[:5], None if np.isnan(row[5]) else row[5], None, "rest", t + DAY_MS)
                for t, row in zip(frame.index.tolist(), frame.to_numpy().tolist(), strict=True)
            )
    for instrument, frame in memory.funding.items():
        lake.store(
            Settlement(instrument, t, rate, None if np.isnan(mark) else mark, "rest", t + DAY_MS)
            for t, (rate, mark) in zip(frame.index.tolist(), frame.to_numpy().tolist(), strict=True)
        )
    for venue in Venue:
        lake.seal(venue, before_ms=T0 + DAY_MS)
    with_defaults = ProviderSettings()
    convert(lake, provider, with_defaults)
    convert(memory, tmp_path / "other", with_defaults)
    assert content(provider) == content(tmp_path / "other")
    assert not convert(lake, provider, with_defaults).changed
    lake.close()


def test_progress_names_each_instrument(provider):
    lines = []
    convert(lake_of(), provider, PROVIDER, progress=lines.append)
    assert lines == ["BTC_USDT.OKX converted, 2 of 2", "ETH_USDT.BINANCE converted, 1 of 2"][::-1]


def test_bars_that_lack_a_part_are_counted(tmp_path):
    frame = make_bars(np.random.default_rng(1), ONE_HOUR, T0, 24 * 4 - 3)  # the last day is not over yet
    lake = MemoryLake({BTC: {ONE_HOUR: frame.drop(frame.index[[5, 6, 30]])}})
    summary = convert(lake, tmp_path / "qlib_data", PROVIDER, durable=False)
    assert summary.incomplete == {"240min": 2}, "no day is complete before the third"
    assert "240min: 21 bars, 2 between them lack a part" in str(summary)
    assert summary.as_json()["incomplete"] == summary.incomplete
