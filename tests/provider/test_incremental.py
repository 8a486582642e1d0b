"""However a lake came to be, converting it as it grew gives the bytes of one conversion at the end."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provider_lakes import T0, MemoryLake, random_lake

from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.lake import Lake
from qlib_crypto.lake.retention import retain
from qlib_crypto.provider import convert, verify
from qlib_crypto.schemas import Bar, Settlement
from qlib_crypto.settings import ProviderSettings, RetentionSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

PROVIDER = ProviderSettings(intervals=("1m", "5m", "1h", "4h", "1d"), future_days=3)


def content(folder: Path):
    """Every byte but the count of conversions."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    manifest = json.loads(found.pop("manifest.json"))
    del manifest["generation"]
    return found | {"manifest.json": manifest}


def assert_equal(found, right):
    assert set(found) == set(right)
    for name, data in right.items():
        if found[name] != data and name.endswith(".bin"):
            one, other = (np.frombuffer(of, "<f4") for of in (found[name], data))
            assert len(one) == len(other), f"{name}: {len(one)} values instead of {len(other)}"
            at = np.flatnonzero((one != other) & ~(np.isnan(one) & np.isnan(other)))
            raise AssertionError(f"{name} differs at {at[:5]}: {one[at[:5]]} instead of {other[at[:5]]}")
        assert found[name] == data, name


def growing(rng, lake, steps):
    """The lake as it was before: rows not there yet, values restated since; at each step more is as it is in the end.

    Nothing that was the first or last bar goes again.
    """
    parts = {("bars", i, interval): frame for i, of in lake.frames.items() for interval, frame in of.items()}
    parts |= {("funding", i, None): frame for i, frame in lake.funding.items()}
    there = {key: _arrival(rng, frame, steps) for key, frame in parts.items()}
    wrong = {key: np.where(rng.random(len(frame)) < rng.choice([0, 0.01, 0.2]), rng.integers(0, steps, len(frame)), -1)
             for key, frame in parts.items()}  # fmt: skip
    for step in range(steps):
        frames, funding = {}, {}
        for key, frame in parts.items():
            kind, instrument, interval = key
            now = frame.copy()
            restated = wrong[key] >= step
            now.loc[restated, now.columns[0]] *= 1.01
            now = now[there[key] <= step]
            if len(now) and kind == "bars":
                frames.setdefault(instrument, {})[interval] = now
            elif len(now):
                funding[instrument] = now
        if frames:
            yield MemoryLake(frames, funding)


def _arrival(rng, frame, steps):
    """The step at which each row is there: mostly in order of time, some late, some whole stretches first or last."""
    number = len(frame)
    if rng.random() < 0.2:
        return np.full(number, rng.integers(0, steps))
    order = np.linspace(0, steps - 0.001, number)
    if rng.random() < 0.25:
        order = order[::-1]  # the past is back-filled
    at = order.astype(int)
    late = rng.random(number) < rng.choice([0, 0.002, 0.1])
    at[late] = rng.integers(0, steps, late.sum())
    return at


def has_bars(lake):
    """Every bar of the lake is a complete bar of a frequency of its own."""
    return any(len(frame) for of in lake.frames.values() for frame in of.values())


def check(seed, symbols, days, steps, *, mixed, holes):
    rng = np.random.default_rng(seed)
    lake = random_lake(seed, symbols=symbols, days=days, mixed=mixed, holes=holes)
    folder = Path(tempfile.mkdtemp())
    try:
        provider = folder / "qlib_data"
        for number, now in enumerate(growing(rng, lake, steps)):
            other = folder / str(number)
            if not has_bars(now):
                continue
            convert(now, other, PROVIDER, durable=False)
            convert(now, provider, PROVIDER, durable=False)
            assert_equal(content(provider), content(other))
            assert not convert(now, provider, PROVIDER, durable=False).changed
        assert verify(now, provider, cells="all") == []
    finally:
        shutil.rmtree(folder)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1), symbols=st.integers(1, 3), days=st.integers(1, 3), steps=st.integers(2, 4),
    mixed=st.booleans(), holes=st.booleans(),
)  # fmt: skip
def test_a_lake_that_grew_gives_the_bytes_of_a_full_conversion(seed, symbols, days, steps, mixed, holes):
    check(seed, symbols, days, steps, mixed=mixed, holes=holes)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1), symbols=st.integers(1, 4), days=st.integers(1, 5), steps=st.integers(2, 7),
    mixed=st.booleans(), holes=st.booleans(),
)  # fmt: skip
def test_many_lakes_that_grew_give_the_bytes_of_a_full_conversion(seed, symbols, days, steps, mixed, holes):
    check(seed, symbols, days, steps, mixed=mixed, holes=holes)


def rows_of(memory):
    """The rows of a lake in memory, in the order of time."""
    rows = [
        Bar(i, interval, t, *row[:5], None if np.isnan(row[5]) else row[5], None, "rest", t + DAY_MS)
        for i, frames in memory.frames.items()
        for interval, frame in frames.items()
        for t, row in zip(frame.index.tolist(), frame.to_numpy().tolist(), strict=True)
    ]
    rows += [
        Settlement(i, t, rate, None if np.isnan(mark) else mark, "rest", t + DAY_MS)
        for i, frame in memory.funding.items()
        for t, (rate, mark) in zip(frame.index.tolist(), frame.to_numpy().tolist(), strict=True)
    ]
    return sorted(rows, key=lambda row: row.open_ms if isinstance(row, Bar) else row.time_ms)


def test_rows_that_wait_are_sealed_restated_and_become_months(tmp_path):
    lake, provider = Lake(tmp_path), tmp_path / "qlib_data"
    rows = rows_of(random_lake(3, symbols=3, days=2, mixed=True, holes=True))
    numbers = iter(range(99))

    def converted():
        other = tmp_path / f"full{next(numbers)}"
        convert(lake, other, PROVIDER, durable=False)
        summary = convert(lake, provider, PROVIDER)
        assert_equal(content(provider), content(other))
        shutil.rmtree(other)
        return summary

    for part, some in enumerate(np.array_split(np.arange(len(rows)), 3)):
        lake.store([rows[at] for at in some])
        assert converted().changed
        for venue in Venue if part else ():
            lake.seal(venue, before_ms=T0 + DAY_MS)
        converted()
    bar = next(row for row in rows if isinstance(row, Bar) and row.interval.name == "1m")
    lake.store([bar._replace(close=bar.high, source="archive")])
    assert converted().changed
    for venue in Venue:
        lake.seal(venue)
    converted()  # sealed rows have another hash than those that wait
    assert not converted().changed
    for venue in Venue:
        assert retain(lake, venue, RetentionSettings(compact_after_days=30), T0 + 400 * DAY_MS).compacted
    assert not converted().changed
    assert verify(lake, provider, cells="all") == []
    lake.close()


def test_a_provider_without_its_list_of_files_is_built_anew(tmp_path):
    memory = random_lake(5, symbols=2, days=2, mixed=False, holes=False)
    convert(memory, tmp_path / "qlib_data", PROVIDER)
    right = content(tmp_path / "qlib_data")
    written = (tmp_path / "qlib_data" / "lake_files.json").read_bytes()
    assert json.loads(written)["files"] == memory.files()
    digit = written.index(b" 0 0 ") + 9  # of a file's hash
    flipped = written[:digit] + (b"1" if written[digit : digit + 1] == b"0" else b"0") + written[digit + 1 :]
    for text in (
        b"",
        b"{}",
        b'{"files": [1], "unsealed": []}',
        written[:-40],
        flipped,
        written.replace(b".parquet", b".parcuet"),
    ):
        (tmp_path / "qlib_data" / "lake_files.json").write_bytes(text)
        convert(memory, tmp_path / "qlib_data", PROVIDER)
        assert_equal(content(tmp_path / "qlib_data"), right)
        assert (tmp_path / "qlib_data" / "lake_files.json").read_bytes() == written


def test_a_conversion_that_was_stopped_on_its_way_is_told_and_finished(tmp_path):
    memory = random_lake(5, symbols=2, days=2, mixed=False, holes=False)
    provider = tmp_path / "qlib_data"
    convert(memory, provider, PROVIDER)
    (tmp_path / "qlib_data.work" / "commit" / "files").mkdir(parents=True)
    (tmp_path / "qlib_data.work" / "commit" / "patches.bin").write_bytes(b"")
    (tmp_path / "qlib_data.work" / "commit" / "update.json").write_text('{"places": [], "remove": []}')
    assert "stopped in the middle" in verify(memory, provider)[0]
    assert not convert(memory, provider, PROVIDER).changed
    assert verify(memory, provider) == []


@pytest.mark.parametrize("full", [False, True])
def test_rows_that_come_during_a_conversion_are_for_the_next(tmp_path, full):
    """Bars after the last, bars between others and settlements, none sealed: no fault, and nothing forgotten."""
    lake, provider, other = Lake(tmp_path), tmp_path / "qlib_data", tmp_path / "other"
    rows = rows_of(random_lake(5, symbols=3, days=1, mixed=False, holes=False))
    late = [*rows[300:340], *rows[-60:], *(row for row in rows if isinstance(row, Settlement))][::-1]
    lake.store([row for row in rows if row not in late])

    def more_comes(_line):
        for _ in range(20):
            lake.store([late.pop()] if late else [])

    while late:
        convert(lake, provider, PROVIDER, durable=False, full=full, progress=more_comes)
    convert(lake, provider, PROVIDER, durable=False)
    convert(lake, other, PROVIDER, durable=False, full=True)
    assert_equal(content(provider), content(other))
    assert verify(lake, provider, cells="all") == []


def test_named_files_are_enough(tmp_path):
    """What the lake says that it wrote gives what a look at every file gives."""
    lake, provider, other = Lake(tmp_path), tmp_path / "qlib_data", tmp_path / "other"
    rows = rows_of(random_lake(5, symbols=3, days=3, mixed=True, holes=True))
    lake.store(rows[: len(rows) // 2])
    for venue in Venue:
        lake.seal(venue)
    convert(lake, provider, PROVIDER, durable=False)
    for part in (rows[len(rows) // 2 : -50], rows[-50:], [row._replace(source="archive") for row in rows[:400:7]]):
        lake.store(part)
        named = [path for venue in Venue for path in lake.seal(venue)]
        assert not convert(lake, provider, PROVIDER, durable=False, changed=[]).changed
        summary = convert(lake, provider, PROVIDER, durable=False, changed=named)
        assert summary.changed == (part[0].source != "archive")
        assert not summary.rebuilt
        convert(lake, other, PROVIDER, durable=False, full=True)
        assert_equal(content(provider), content(other))
        assert not convert(lake, provider, PROVIDER, durable=False).changed


@pytest.mark.parametrize("kind", ["gone", "short", "settlements gone", "settlements torn"])
@pytest.mark.parametrize("named", [False, True])
def test_a_damaged_provider_is_built_anew(tmp_path, kind, named):
    lake, provider, other = Lake(tmp_path), tmp_path / "qlib_data", tmp_path / "other"
    rows = rows_of(random_lake(5, symbols=2, days=2, mixed=False, holes=False))
    lake.store(rows)
    for venue in Venue:
        lake.seal(venue)
    convert(lake, provider, PROVIDER, durable=False)
    bar = next(row for row in rows if isinstance(row, Bar))
    lake.store([bar._replace(source="archive", close=bar.close * 1.01, high=bar.high * 1.02)])
    changed = lake.seal(bar.instrument.venue)
    folder = next(path for path in (provider / "features").iterdir() if path.name.upper() == bar.instrument.qlib)
    path = next(folder.glob("close.*.bin"))
    if kind.startswith("settlements"):
        path = provider / "settlements" / f"{folder.name}.bin"
    if kind.endswith("gone"):
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:9])
    summary = convert(lake, provider, PROVIDER, durable=False, changed=changed if named else None)
    assert summary.rebuilt
    convert(lake, other, PROVIDER, durable=False)
    assert_equal(content(provider), content(other))


@pytest.mark.parametrize(("intervals", "hours", "days"), [(("1h", "1d", "week"), 8, 17), (("1h", "1d"), 1, 5)])
@pytest.mark.parametrize("what", ["restated", "late", "grown"])
def test_a_long_bar_has_all_its_settlements_in_an_update(tmp_path, intervals, hours, days, what):
    """More of them in one bar than what one tells depends on."""
    chosen = ProviderSettings(intervals=intervals, future_days=3)
    btc, hour = Instrument("BTC", "USDT", Venue.OKX), Interval.parse("1h")
    monday = T0 // (7 * DAY_MS) * 7 * DAY_MS + 4 * DAY_MS
    last = days * 24 - 10

    def opened(first, end):
        for k in range(first, end):
            yield Bar(
                btc, hour, monday + k * HOUR_MS, 100.0, 101.0, 99.0, 100.0, 1.0, 100.0, 1, "rest", T0 + 99 * DAY_MS
            )

    def settled(first, end):
        return [
            Settlement(btc, monday + h * HOUR_MS, 1e-4, 100.0, "rest", T0 + 99 * DAY_MS)
            for h in range(first, end, hours)
        ]

    lake = Lake(tmp_path / "lake")
    rows = settled(-24, last)
    middle = next(
        row for row in rows if row.time_ms >= monday + (days - 6 if hours == 8 else days - 3) * DAY_MS + 20 * HOUR_MS
    )
    lake.store([*opened(0, last), *(row for row in rows if what != "late" or row is not middle)])
    lake.seal(Venue.OKX)
    convert(lake, tmp_path / "qlib_data", chosen, durable=False)
    if what == "grown":
        lake.store([*opened(last, last + 9), *settled((last + 24) // hours * hours - 24 + hours, last + 9)])
    else:
        lake.store([middle._replace(rate=3e-4, source="archive") if what == "restated" else middle])
    assert not convert(lake, tmp_path / "qlib_data", chosen, durable=False).rebuilt
    convert(lake, tmp_path / "other", chosen, durable=False)
    assert_equal(content(tmp_path / "qlib_data"), content(tmp_path / "other"))
    assert verify(lake, tmp_path / "qlib_data", cells="all") == []


DAMAGED = {
    "settlements/btc_usdt.okx.bin": lambda data: data[:-25],
    "calendars/1min.txt": lambda data: data[:-40],
    "calendars/1min_future.txt": lambda data: data[:-20],
    "calendars/60min.txt": lambda _: None,
    "instruments/all.txt": lambda data: data[:-7],
    "instruments/okx_1min.txt": lambda _: None,
    "specs.json": lambda _: None,
    "rules.json": lambda _: None,
    "margin_tiers.json": lambda data: data[:-2],
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("named", [False, True])
def test_a_damaged_file_is_found_also_when_the_lake_has_grown(tmp_path, name, named):
    lake, provider = Lake(tmp_path / "lake"), tmp_path / "qlib_data"
    btc, minute = Instrument("BTC", "USDT", Venue.OKX), Interval.parse("1m")

    def opened(first, end):
        for k in range(first, end):
            yield Bar(btc, minute, T0 + k * 60_000, 100.0, 101.0, 99.0, 100.0, 1.0, 100.0, 1, "rest", T0 + 9 * DAY_MS)

    lake.store(
        [*opened(0, 1440), *(Settlement(btc, T0 + h * HOUR_MS, 1e-4, 9.0, "rest", T0 + DAY_MS) for h in (0, 8, 16))]
    )
    lake.seal(Venue.OKX)
    convert(lake, provider, PROVIDER, durable=False)
    path = provider / name
    data = DAMAGED[name](path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    assert verify(lake, provider)
    lake.store([*opened(1440, 2000), Settlement(btc, T0 + 24 * HOUR_MS, 1e-4, 9.0, "rest", T0 + 2 * DAY_MS)])
    written = lake.seal(Venue.OKX)
    convert(lake, provider, PROVIDER, durable=False, changed=written if named else None)
    convert(lake, provider, PROVIDER, durable=False)  # with files named, only what is touched is looked at
    convert(lake, tmp_path / "other", PROVIDER, durable=False)
    assert_equal(content(provider), content(tmp_path / "other"))
    assert verify(lake, provider, cells="all") == []


def test_a_settlement_that_is_altered_in_the_provider_is_found(tmp_path):
    memory = random_lake(5, symbols=2, days=2, mixed=False, holes=False)
    convert(memory, tmp_path / "qlib_data", PROVIDER)
    path = max((tmp_path / "qlib_data" / "settlements").iterdir(), key=lambda of: of.stat().st_size)
    path.write_bytes(path.read_bytes()[:8] + bytes([path.read_bytes()[8] ^ 1]) + path.read_bytes()[9:])
    assert any(
        "settlements/" in line and "differs in 1 settlements" in line for line in verify(memory, tmp_path / "qlib_data")
    )


@pytest.mark.parametrize("root", ["lake", "./lake", "../{here}/lake"])
def test_files_are_named_from_the_folder_that_one_is_in(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    lake = Lake(Path(root.format(here=tmp_path.name)))
    rows = rows_of(random_lake(5, symbols=1, days=1, mixed=False, holes=False))
    lake.store(rows[:9])
    venue = rows[0].instrument.venue
    lake.seal(venue)
    convert(lake, tmp_path / "qlib_data", PROVIDER, durable=False)
    lake.store(rows[9:])
    assert convert(lake, tmp_path / "qlib_data", PROVIDER, durable=False, changed=lake.seal(venue)).changed
    assert not convert(lake, tmp_path / "qlib_data", PROVIDER, durable=False).changed
    with pytest.raises(ConfigError, match="is no file of the lake"):
        convert(
            lake,
            tmp_path / "qlib_data",
            PROVIDER,
            durable=False,
            changed=[Path("okx_data/kline_1m/X_USDT_20250101.parquet")],
        )


@pytest.mark.parametrize("gone", ["all", "features"])
def test_a_provider_that_was_removed_after_a_kill_is_built_again(tmp_path, gone):
    memory = random_lake(5, symbols=2, days=2, mixed=False, holes=False)
    provider = tmp_path / "qlib_data"
    convert(memory, provider, PROVIDER)
    right = content(provider)
    decided = tmp_path / "qlib_data.work" / "commit"
    (decided / "files").mkdir(parents=True)
    name = str(next((provider / "features").rglob("close.*.bin")).relative_to(provider))
    (decided / "patches.bin").write_bytes(b"1234")
    (decided / "update.json").write_text(f'{{"places": [["{name}", 4, 4]], "remove": []}}')
    shutil.rmtree(provider if gone == "all" else provider / "features")
    assert convert(memory, provider, PROVIDER).rebuilt
    assert_equal(content(provider), right)
