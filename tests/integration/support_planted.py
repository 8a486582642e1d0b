"""A generated market in a lake and its provider, and what a researcher measures there with Qlib.

Tables are hours by symbols in the tape's order. The truth to compare with is the tape's; every measured number comes
from the provider.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import qlib
from numpy.typing import NDArray
from qlib.data import D

from qlib_crypto.clock import HOUR_MS, iso
from qlib_crypto.lake import Lake
from qlib_crypto.provider import convert
from qlib_crypto.sandbox.generator import GeneratorConfig, GeneratorTape
from qlib_crypto.schemas import Bar, Settlement
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.stats.ic import pearson_ic
from qlib_crypto.stats.significance import bootstrap_standard_error
from qlib_crypto.symbols import Instrument, Interval, Venue

ROOT = Path(__file__).resolve().parents[2]
HOUR = Interval.parse("1h")
MOVE, RATE, LABEL = "$close/Ref($open, 5) - 1", "$funding_rate", "Ref($open, -2)/Ref($open, -1) - 1"
BOOTSTRAP_SEED = 20250501

Table = NDArray[np.float64]


class Gap(NamedTuple):
    """A mean IC, the mean of what it should be over the same hours, and the standard error of their difference."""

    ic: float
    wanted: float
    error: float
    hours: int

    @property
    def errors(self) -> float:
        return (self.ic - self.wanted) / self.error

    @property
    def agrees(self) -> bool:
        return abs(self.errors) <= 3

    def __str__(self) -> str:
        return f"IC {self.ic:.4f}, wanted {self.wanted:.4f} ± {self.error:.4f}: {self.errors:+.2f}; {self.hours} hours"


class Predictions(NamedTuple):
    """What a workflow's run stored: scores and true labels of its test hours, and the mean IC that Qlib logged."""

    score: Table
    label: Table
    logged_ic: float
    hours: int


@dataclass(frozen=True)
class Planted:
    """A tape, and the folder with its lake and provider."""

    tape: GeneratorTape
    folder: Path

    @classmethod
    def build(cls, venue: Venue, strength: float, folder: Path) -> Planted:
        """The generator's default market, 150 days of hours, stored, sealed and converted."""
        tape = GeneratorTape(GeneratorConfig(venue, minute_days=0, signal_strength=strength))
        lake = Lake(folder)
        for instrument in tape.instruments:
            lake.store(_bars(tape, instrument))
            lake.store(_settlements(tape, instrument))
        lake.seal(venue)
        convert(lake, folder / "qlib_data", ProviderSettings(intervals=(HOUR.name,)))
        lake.close()
        return cls(tape, folder)

    @property
    def market(self) -> str:
        return f"{self.tape.venue}_{HOUR.qlib}"

    def read(self, *expressions: str) -> list[Table]:
        """Expressions of the provider, evaluated by Qlib."""
        qlib.init(provider_uri=str(self.folder / "qlib_data"), region="cn", kernels=1, logging_level=40)
        frame = D.features(D.instruments(self.market), list(expressions), freq=HOUR.qlib)
        return [self.table(frame[expression]) for expression in expressions]

    def table(self, column: pd.Series) -> Table:
        """A column with levels `datetime` and `instrument` in any order."""
        wide = column.unstack("instrument")  # noqa: PD010 - a series has no pivot_table
        hours = pd.to_datetime(self.tape.hours_ms, unit="ms")
        names = [instrument.qlib for instrument in self.tape.instruments]
        assert set(wide.index) <= set(hours)
        assert set(wide.columns) <= set(names)
        return wide.reindex(index=hours, columns=names).to_numpy(np.float64)

    def gap(self, prediction: Table, label: Table, *, wanted: float | None = None) -> Gap:
        """The prediction's IC against the planted signal's expected IC, or a constant, where both exist.

        Cells that the generator does not score count for neither: the outage, and labels across a delisting.
        """
        scored = self.tape.scored()
        ic = pearson_ic(np.where(scored, prediction, np.nan), np.where(scored, label, np.nan))
        expected = self.tape.expected_ic()
        if wanted is not None:
            expected = np.where(np.isfinite(expected), wanted, np.nan)
        both = np.isfinite(ic) & np.isfinite(expected)
        error = bootstrap_standard_error(ic - expected, seed=BOOTSTRAP_SEED)
        return Gap(float(ic[both].mean()), float(expected[both].mean()), error, int(both.sum()))

    def learn(self) -> Predictions:
        """The hourly LightGBM workflow, run as it is in a process of its own, one thread."""
        variables = {"NAME": "planted", "MARKET": self.market, "NUM_THREADS": "1", **self._segments()}
        script = Path(__file__).with_name("workflow_script.py")
        workflow = ROOT / "workflows" / "lightgbm_60min.yaml"
        done = subprocess.run(
            [sys.executable, str(script), str(workflow), str(self.folder), json.dumps(variables)],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        stored = pd.read_pickle(self.folder / "pred.pkl")  # noqa: S301 - our own run wrote it a moment ago
        logged = json.loads((self.folder / "metrics.json").read_text())["IC"]
        hours = stored.index.get_level_values("datetime").nunique()
        return Predictions(self.table(stored["score"]), self.table(stored["LABEL0"]), logged, hours)

    def _segments(self) -> dict[str, str]:
        """60 % of the span to train on, 12 % to validate, the rest to test, embargoes between; a label needs 2 bars."""
        hours = self.tape.config.hours
        train, valid = round(hours * 0.6), round(hours * 0.72)
        bounds = {"TRAIN": (0, train), "VALID": (train + 4, valid), "TEST": (valid + 4, hours - 3)}
        start = self.tape.config.start_ms
        return {
            f"{name}_{edge}": iso(start + hour * HOUR_MS)
            for name, edges in bounds.items()
            for edge, hour in zip(("START", "END"), edges, strict=True)
        }


def planted_signal(move: Table, rate: Table) -> tuple[Table, Table]:
    """The reversal and the funding part of the stated signal, of a 6-hour return and the last settled rate."""
    known = np.isfinite(move) & np.isfinite(rate)
    known &= known.sum(axis=1, keepdims=True) >= 8
    return -0.8 * _z(np.where(known, move, np.nan)), -0.6 * _z(np.where(known, rate, np.nan))


def _z(table: Table) -> Table:
    frame = pd.DataFrame(table)
    return frame.sub(frame.mean(axis=1), axis=0).div(frame.std(axis=1, ddof=0), axis=0).to_numpy()


def _bars(tape: GeneratorTape, instrument: Instrument) -> list[Bar]:
    bars = tape.bars(instrument, HOUR)
    prices = (bars.open, bars.high, bars.low, bars.close, bars.volume_base, bars.volume_quote)
    return [
        Bar(instrument, HOUR, open_ms, *values, None if trades < 0 else trades, "rest", open_ms + HOUR_MS)
        for open_ms, trades, *values in zip(
            bars.open_ms.tolist(), bars.trades.tolist(), *(column.tolist() for column in prices), strict=True
        )
    ]


def _settlements(tape: GeneratorTape, instrument: Instrument) -> list[Settlement]:
    settled = tape.settlements(instrument)
    columns = (settled.time_ms.tolist(), settled.rate.tolist(), settled.mark_price.tolist())
    return [Settlement(instrument, at, rate, mark, "rest", at) for at, rate, mark in zip(*columns, strict=True)]
