"""A provider against itself and against the lake."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

from qlib_crypto.clock import DAY_MS, iso
from qlib_crypto.errors import DataError
from qlib_crypto.lake import Lake
from qlib_crypto.provider.calendar import Grid
from qlib_crypto.provider.compare import Cells, value_problems
from qlib_crypto.provider.funding import SERIES
from qlib_crypto.provider.manifest import Manifest, read_manifest
from qlib_crypto.provider.settlements import series_name
from qlib_crypto.provider.specs import NAMES, specs_problems
from qlib_crypto.provider.swap import unfinished
from qlib_crypto.provider.write import feature_dir
from qlib_crypto.symbols import Instrument, Interval

#: Files of the lake that a sample reads.
_SAMPLED_FILES = 50


def verify(lake: Lake, provider_dir: Path, *, cells: Cells = "sample") -> list[str]:
    """What is wrong with a provider, one line each; empty when it is good.

    Files are checked for length, first slot and completeness, calendars and markets for their content, the lake's files
    (some of them, or all) by their content hash. Values are
    compared with a second, independent computation from the lake: of every instrument a day or three, always the
    same, or every cell. Bars that came to the lake after the conversion are no fault.

    Raises
    ------
    DataError
        When there is no provider.

    """
    manifest = read_manifest(provider_dir)
    if manifest is None:
        raise DataError(f"{provider_dir} is no provider (it has no manifest.json); make it with: qlib-crypto convert")
    if unfinished(provider_dir):
        return [f"a conversion of {provider_dir} is going on or was stopped in the middle; wait, or convert again"]
    problems = structure_problems(provider_dir, manifest)
    problems += lake.damaged(_SAMPLED_FILES if cells == "sample" else None)
    return problems or value_problems(lake, provider_dir, manifest, cells)


def structure_problems(provider_dir: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the files themselves, without the lake."""
    return [
        *_calendar_problems(provider_dir / "calendars", manifest),
        *_feature_problems(provider_dir, manifest),
        *specs_problems(provider_dir, manifest.instruments),
    ]


def _calendar_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    expected = {}
    for name, stored in manifest.frequencies.items():
        expected[f"{name}.txt"] = _calendar_text(manifest.grid(name), stored.length)
        expected[f"{name}_future.txt"] = _calendar_text(manifest.grid(name), stored.future_length)
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    yield from (
        f"{folder / name} is not ours; Qlib takes it for a frequency, remove it" for name in found - set(expected)
    )
    for name, text in expected.items():
        if name not in found:
            yield f"{folder / name} is missing"
        elif (folder / name).read_bytes() != text:
            yield f"{folder / name} is not the complete grid that manifest.json states"


def _calendar_text(grid: Grid, length: int) -> bytes:
    times = pl.int_range(grid.origin_ms, grid.origin_ms + length * grid.interval.ms, grid.interval.ms, eager=True)
    style = "%Y-%m-%d" if grid.interval.ms >= DAY_MS else "%Y-%m-%d %H:%M:%S"
    lines = times.cast(pl.Datetime("ms")).dt.strftime(style)
    return ("\n".join(lines) + "\n").encode()


def size_problems(provider_dir: Path, manifest: Manifest) -> Iterator[str]:
    """Files that are missing, too many, or of another length than the manifest says; only the markets are opened."""
    yield from _feature_sizes(provider_dir, manifest)
    sizes: dict[str, int | None] = dict.fromkeys(NAMES)
    for name, stored in manifest.frequencies.items():
        line = len("YYYY-MM-DD\n" if Interval.parse(name).ms >= DAY_MS else "YYYY-MM-DD HH:MM:SS\n")
        sizes[f"calendars/{name}.txt"] = line * stored.length
        sizes[f"calendars/{name}_future.txt"] = line * stored.future_length
    for name, prices in manifest.settlement_prices.items():
        sizes[series_name(Instrument.parse(name))] = SERIES.itemsize * sum(prices.values())
    for name, size in sizes.items():
        try:
            found = (provider_dir / name).stat().st_size
        except FileNotFoundError:
            yield f"{provider_dir / name} is missing"
            continue
        if size not in (None, found):
            yield f"{provider_dir / name} has {found} bytes instead of {size}"
    yield from _market_problems(provider_dir / "instruments", manifest)


def _feature_sizes(provider_dir: Path, manifest: Manifest) -> Iterator[str]:
    root = provider_dir / "features"
    folders = {feature_dir(provider_dir, Instrument.parse(name)).name: name for name in manifest.instruments}
    found = {path.name for path in root.iterdir()} if root.is_dir() else set()
    yield from (f"{root / name} is in no list of manifest.json; remove it" for name in sorted(found - set(folders)))
    for name in sorted(folders):
        sizes = _sizes(root / name) if name in found else {}
        expected = {
            f"{field}.{freq}.bin": 4 * (1 + length)
            for freq, (_, length) in manifest.instruments[folders[name]].items()
            for field in manifest.fields_of(folders[name])
        }
        if sizes == expected:
            continue
        yield from (f"{root / name / extra} belongs to no field" for extra in sorted(set(sizes) - set(expected)))
        for file, wanted in expected.items():
            if file not in sizes:
                yield f"{root / name / file} is missing; Qlib would read it as NaN"
            elif sizes[file] != wanted:
                yield f"{root / name / file} has {sizes[file]} bytes instead of {wanted}"


def _sizes(folder: Path) -> dict[str, int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(handle) as entries:  # by the open folder: no path is walked for each file
            return {entry.name: entry.stat().st_size for entry in entries}
    finally:
        os.close(handle)


def _feature_problems(provider_dir: Path, manifest: Manifest) -> Iterator[str]:
    yield from size_problems(provider_dir, manifest)
    for name, spans in manifest.instruments.items():
        folder = feature_dir(provider_dir, Instrument.parse(name))
        for freq, (start, length) in spans.items():
            for field in manifest.fields_of(name):
                path = folder / f"{field}.{freq}.bin"
                slot = _first_slot(path)
                if slot is not None and slot != start:
                    yield f"{path} starts at slot {slot} instead of {start}"
            if start < 0 or start + length > manifest.frequencies[freq].length:
                yield f"{name} at {freq} ends at slot {start + length}, after the calendar"


def _first_slot(path: Path) -> float | None:
    """None where there is none: the size tells."""
    try:
        with path.open("rb") as file:
            return float(np.frombuffer(file.read(4), dtype="<f4")[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _market_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    """The markets that are made of venues; a membership's spans are its own affair, its names are not."""
    found = {path.name: path.read_text(encoding="utf-8").splitlines() for path in folder.glob("*.txt")}
    expected: dict[str, dict[str, tuple[int, int]]] = {}
    for instrument, extents in manifest.spans_ms().items():
        spans = {f"_{interval.qlib}": span for interval, span in extents.items()}
        spans[""] = (min(s[0] for s in spans.values()), max(s[1] for s in spans.values()))
        for suffix, span in spans.items():
            for market in ("all", instrument.venue):
                expected.setdefault(f"{market}{suffix}.txt", {})[instrument.qlib] = span
    told = cache(iso)  # many begin and end together
    for file, spans_by_name in expected.items():
        wanted = [f"{name}\t{told(start)}\t{told(end)}" for name, (start, end) in sorted(spans_by_name.items())]
        if file not in found:
            yield f"{folder / file} is missing"
        elif sorted(found[file]) != sorted(wanted):
            yield f"{folder / file} does not list the instruments and spans of manifest.json"
    for file, lines in found.items():
        others = {line.split("\t")[0] for line in lines} - set(manifest.instruments)
        yield from (f"{folder / file} lists {name}, which has no bars" for name in sorted(others))
