"""Segments cut from what there is: 65 % to train, 12 % to validate, the rest to test, a day between them."""

from __future__ import annotations

from pathlib import Path

from qlib_crypto.clock import DAY_MS, iso
from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.symbols import Interval

_TRAIN, _VALID = 0.65, 0.12
#: Bars at the end that have no label, since it looks two opens ahead.
_UNLABELLED = 2


def segments(start_ms: int, end_ms: int, interval: Interval) -> dict[str, str]:
    """The workflow variables `TRAIN_START` … `TEST_END` for bars with opens in `[start_ms, end_ms)`."""
    step, span = interval.ms, end_ms - start_ms
    gap = max(DAY_MS, (_UNLABELLED + 1) * step)
    train_end = start_ms + int(span * _TRAIN) // step * step
    valid_end = train_end + gap + int(span * _VALID) // step * step
    edges = {
        "TRAIN_START": start_ms,
        "TRAIN_END": train_end,
        "VALID_START": train_end + gap,
        "VALID_END": valid_end,
        "TEST_START": valid_end + gap,
        "TEST_END": end_ms - _UNLABELLED * step,
    }
    if sorted(edges.values()) != list(edges.values()) or edges["TEST_START"] == edges["TEST_END"]:
        raise DataError(
            f"{interval.qlib} bars from {iso(start_ms)} to {iso(end_ms)} are too few to cut into segments; "
            "collect or back-fill a longer span"
        )
    return {name: iso(ms) for name, ms in edges.items()}


def stored_segments(provider_dir: Path, workflow: Path) -> dict[str, str]:
    """The segments of everything the provider holds at the workflow's frequency.

    Raises
    ------
    ConfigError
        There is no provider, the workflow has no `values.freq`, or that frequency is not stored.

    """
    from qlib_crypto.provider import read_manifest
    from qlib_crypto.workflow.data import require_frequency
    from qlib_crypto.workflow.template import render

    manifest = read_manifest(provider_dir)
    if manifest is None:
        raise ConfigError(f"{provider_dir} is no provider; make it with: qlib-crypto convert")
    freq = str((render(workflow, {}).get("values") or {}).get("freq"))
    require_frequency(manifest, Interval.parse(freq), provider_dir, workflow)
    grid = manifest.grid(freq)
    return segments(grid.origin_ms, grid.origin_ms + grid.length * grid.interval.ms, grid.interval)
