"""Whether a provider holds what a workflow asks for, checked from its manifest and file sizes in milliseconds."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from qlib_crypto.clock import iso, parse_utc
from qlib_crypto.errors import ConfigError, DataError, counted, hint
from qlib_crypto.provider.conversion import FIELDS
from qlib_crypto.provider.instruments import MEMBERS
from qlib_crypto.provider.manifest import Manifest, read_manifest
from qlib_crypto.provider.swap import unfinished
from qlib_crypto.provider.write import feature_file
from qlib_crypto.symbols import Instrument, Interval
from qlib_crypto.workflow.check import Workflow
from qlib_crypto.workflow.portfolio import Legs

_FLOAT = np.dtype("<f4")
#: An update is put in place in less.
_PATIENCE_S = 30.0
#: Instruments that a warning names.
_SHOWN = 5


def check_data(workflow: Workflow) -> Manifest:
    """The provider's manifest, when the provider has the workflow's frequencies, markets, times and whole files.

    Warns of instruments without any known funding in the test segment, when the backtest would stop at one.

    Raises
    ------
    ConfigError
        A frequency, market or time that the provider does not have.
    DataError
        The provider is missing or damaged, or a segment has no instrument.

    """
    manifest = open_manifest(workflow.provider)
    for interval in workflow.intervals:
        require_frequency(manifest, interval, workflow.provider, workflow.path)
    if lacking := [field for field in FIELDS if field not in manifest.fields]:
        raise DataError(
            f"{workflow.provider} lacks {' '.join(lacking)}: an older version made it; run: qlib-crypto convert"
        )
    _check_calendar(workflow, manifest)
    for field in re.findall(r"\$(\w+)", workflow.label):
        if field not in manifest.all_fields:
            raise ConfigError(
                f"{workflow.path}: label {workflow.label!r}: no field {field}{hint(field, manifest.all_fields)}"
            )
    for market in workflow.markets:
        _check_market(workflow, market, manifest)
    for legs in workflow.legs:
        _check_legs(workflow, legs, manifest)
    return manifest


def open_manifest(provider: Path) -> Manifest:
    """The manifest of a provider; one that is being put in place is waited for.

    Raises
    ------
    DataError
        When there is none, or a conversion was stopped in the middle.

    """
    if not provider.is_dir():
        raise DataError(f"provider {provider} does not exist; make it with: qlib-crypto convert, or give --provider")
    until = time.monotonic() + _PATIENCE_S
    while unfinished(provider):
        if time.monotonic() > until:
            raise DataError(
                f"a conversion of {provider} was stopped in the middle; finish it with: qlib-crypto convert"
            )
        time.sleep(0.1)
    manifest = read_manifest(provider)
    if manifest is None:
        raise DataError(f"{provider} has no manifest.json, so no finished conversion; run: qlib-crypto convert --full")
    return manifest


def require_frequency(manifest: Manifest, interval: Interval, provider: Path, workflow: Path) -> None:
    """Nothing, when the provider has bars of this length.

    Raises
    ------
    ConfigError
        When it has none: what to configure, or what to collect.

    """
    if interval.qlib in manifest.frequencies:
        return
    what = f"add {interval} to provider.intervals and convert, or choose a stored one"
    if interval.name in manifest.settings.intervals:
        what = (
            f"it is in provider.intervals, but the lake has no complete bar of it: back-fill or collect {interval} or "
            "finer bars, then run: qlib-crypto convert"
        )
    stored = ", ".join(manifest.frequencies)
    raise ConfigError(f"{workflow}: {interval.qlib} bars are not stored in {provider} (stored: {stored}); {what}")


def check_unchanged(workflow: Workflow, manifest: Manifest) -> None:
    """Nothing, when the provider is still the one of `manifest`.

    Raises
    ------
    DataError
        When it was converted in between, so that what was read may be of two conversions.

    """
    now = open_manifest(workflow.provider).generation
    if now != manifest.generation:
        raise DataError(
            f"{workflow.provider} was converted while it was read (generation {manifest.generation}, now {now}); "
            "run the workflow again"
        )


def _check_calendar(workflow: Workflow, manifest: Manifest) -> None:
    grid = manifest.grid(workflow.interval.qlib)
    first, last = grid.origin_ms, grid.end_ms - workflow.interval.ms
    for name, (start, end) in workflow.segments.items():
        for at in (start, end):
            if not first <= at <= last:
                raise ConfigError(
                    f"{workflow.path}: segment {name} reaches {iso(at)}, but {workflow.provider} has "
                    f"{workflow.interval.qlib} bars from {iso(first)} to {iso(last)}; change the segment, "
                    "or cut all from what there is: --fit-segments (in a schedule or job: fit_segments)"
                )


def _check_market(workflow: Workflow, market: str, manifest: Manifest) -> None:
    folder = workflow.provider / "instruments"
    path = folder / f"{market}.txt"
    markets = sorted(p.stem for p in folder.glob("*.txt"))
    if market not in markets and market.startswith(MEMBERS):
        whole = next((name for name in markets if name.endswith(f"_{workflow.interval.qlib}")), "all")
        raise ConfigError(
            f"{workflow.path}: market {market!r} is not in {folder}: the lake has no ranking, or no bar of a member "
            "since; run: qlib-crypto rank, collect, then convert. Members count from the first ranking on; for the "
            f"history before it choose another market such as {whole}"
        )
    if market not in markets:
        raise ConfigError(f"{workflow.path}: market {market!r} is not in {folder}{hint(market, markets)}")
    freq = market.rpartition("_")[2]
    if freq in manifest.frequencies and freq not in {interval.qlib for interval in workflow.intervals}:
        raise ConfigError(
            f"{workflow.path}: market {market} is of {freq} bars, which the workflow does not use; write "
            f"{market.removesuffix(freq)}{workflow.interval.qlib}"
        )
    spans = market_spans(path)
    for name, (start, end) in workflow.segments.items():
        if not any(first <= end and start <= last for first, last in spans.values()):
            raise DataError(
                f"{workflow.path}: market {market} has no instrument in segment {name} ({iso(start)} to {iso(end)}), "
                f"only from {iso(min(s for s, _ in spans.values()))} to {iso(max(e for _, e in spans.values()))}; "
                "change the segment"
            )
    for instrument in spans:
        for interval in workflow.intervals:
            _check_files(workflow.provider, Instrument.parse(instrument), interval, manifest)


def _check_legs(workflow: Workflow, legs: Legs, manifest: Manifest) -> None:
    start, end = workflow.segments["test"]
    names: set[str] | None = None
    for codes in (legs.market, legs.codes or legs.market):
        listed = {*codes}
        if isinstance(codes, str):
            spans = market_spans(workflow.provider / "instruments" / f"{codes}.txt")
            listed = {name for name, (first, last) in spans.items() if first <= end and start <= last}
        names = listed if names is None else names & listed
    have = len(names or ())
    if have < 2 * legs.names:
        raise ConfigError(
            f"{workflow.path}: {legs.key} {legs.names} needs {2 * legs.names} instruments, but {legs.market} has "
            f"{have} to trade in the test segment, so nothing would be traded; write {max(have // 2, 1)} or less, or "
            "choose a larger market"
        )
    if legs.needs_funding:
        _warn_of_funding(workflow, legs.needs_funding, names or (), manifest)


def _warn_of_funding(workflow: Workflow, interval: Interval, names: Iterable[str], manifest: Manifest) -> None:
    unknown = [
        name for name in sorted(names) if not _funding_known(workflow, Instrument.parse(name), interval, manifest)
    ]
    if unknown:
        shown = ", ".join(unknown[:_SHOWN]) + (", …" if len(unknown) > _SHOWN else "")
        logging.getLogger(__name__).warning(
            "no known funding of %s in the test segment (%s): the backtest stops if one is held; set missing_funding: "
            "untradable or import their settlements",
            counted(len(unknown), "instrument"), shown,
        )  # fmt: skip


def _funding_known(workflow: Workflow, instrument: Instrument, interval: Interval, manifest: Manifest) -> bool:
    """Whether a bar of the test segment knows its funding, or there is no bar."""
    start, length = manifest.instruments.get(instrument.qlib, {}).get(interval.qlib, (0, 0))
    origin = manifest.grid(interval.qlib).open_ms(start)
    first, last = ((at - origin) // interval.ms for at in workflow.segments["test"])
    first, count = max(first, 0), min(last + 1, length) - max(first, 0)
    if count <= 0:
        return True
    path = feature_file(workflow.provider, instrument, "funding", interval)
    values = np.fromfile(path, _FLOAT, count=count, offset=(1 + first) * _FLOAT.itemsize)
    return not np.isnan(values).all()


def market_spans(path: Path) -> Mapping[str, tuple[int, int]]:
    """First and last instant of each instrument of a market file, Unix milliseconds, over all its spans.

    Raises
    ------
    DataError
        When the file is empty or no market file.

    """
    spans: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            name, *ends = line.split("\t")
            first, last = (parse_utc(end) for end in ends)
        except (ValueError, ConfigError):
            raise DataError(
                f"{path}:{number} is no line of name, start and end; run: qlib-crypto convert --full"
            ) from None
        known = spans.get(name, (first, last))
        spans[name] = min(first, known[0]), max(last, known[1])
    if not spans:
        raise DataError(f"{path} is empty; collect data, then run: qlib-crypto convert")
    return spans


def _check_files(provider: Path, instrument: Instrument, interval: Interval, manifest: Manifest) -> None:
    stored = manifest.instruments.get(instrument.qlib, {}).get(interval.qlib)
    if stored is None:
        return  # an instrument without bars at this frequency has no rows
    wanted = (1 + stored[1]) * _FLOAT.itemsize
    for field in manifest.fields_of(instrument.qlib):
        path = feature_file(provider, instrument, field, interval)
        size = path.stat().st_size if path.is_file() else None
        if size != wanted:
            found = "is missing" if size is None else f"has {size} bytes, not {wanted}"
            raise DataError(f"{path} {found}; make the provider anew with: qlib-crypto convert --full")
