"""What a lake should hold after a market was collected: compared with the tape that the sandbox played."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.lake import Lake
from qlib_crypto.lake.paths import kline_dataset
from qlib_crypto.market.funding import snap_to_minute
from qlib_crypto.sandbox.tape import Tape
from qlib_crypto.symbols import Instrument, Interval

Span = tuple[int, int]
VALUES = ("open", "high", "low", "close", "volume", "quote_volume", "trades")


@dataclass
class Difference:
    """How a lake differs from a tape; `named` rows are missing with a cause, `lost` ones without."""

    rows: int = 0
    lost: int = 0
    named: int = 0
    doubled: int = 0
    wrong: int = 0
    foreign: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """True when every row is there or named, once, and says what the tape says."""
        return not (self.lost or self.doubled or self.wrong or self.foreign)

    def __iadd__(self, other: Difference) -> Difference:  # noqa: PYI034 - a plain sum
        for name in ("rows", "lost", "named", "doubled", "wrong", "foreign"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.examples = [*self.examples, *other.examples][:5]
        return self

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows, {self.lost} lost, {self.named} named, {self.doubled} doubled, {self.wrong} wrong, "
            f"{self.foreign} foreign{'; ' if self.examples else ''}{'; '.join(self.examples)}"
        )


def tape_rows(tape: Tape, instrument: Instrument, interval: Interval, span: Span) -> dict[str, NDArray[np.float64]]:
    """The tape's bars with opens in the span, in the lake's column names; NaN where the tape has none."""
    bars = tape.bars(instrument, interval)
    keep = (bars.open_ms >= span[0]) & (bars.open_ms < span[1])
    return {
        "timestamp": bars.open_ms[keep], "open": bars.open[keep], "high": bars.high[keep], "low": bars.low[keep],
        "close": bars.close[keep], "volume": bars.volume_base[keep], "quote_volume": bars.volume_quote[keep],
        "trades": np.where(bars.trades[keep] < 0, np.nan, bars.trades[keep]),
    }  # fmt: skip


def bars_differ(lake: Lake, tape: Tape, spans: Mapping[Instrument, Span], interval: Interval) -> Difference:
    """The lake's bars of each instrument's span against the tape's."""
    total = Difference()
    for instrument, span in spans.items():
        total += _instrument(lake, tape, instrument, interval, span)
    return total


def _instrument(lake: Lake, tape: Tape, instrument: Instrument, interval: Interval, span: Span) -> Difference:
    out = Difference()
    table = lake.bars(instrument, interval, *span)
    got = table.column("timestamp").cast(pa.int64()).to_numpy()
    want = tape_rows(tape, instrument, interval, span)
    times = want["timestamp"]
    out.rows = len(times)
    out.doubled = len(got) - len(np.unique(got))
    out.foreign = len(np.setdiff1d(got, times))
    missing = np.setdiff1d(times, got)
    if len(missing):
        out.named = int(_named(lake, instrument, interval, missing).sum())
        out.lost = len(missing) - out.named
        if out.lost:
            out.examples.append(
                f"{instrument} lacks {len(missing)} from {pa.scalar(int(missing[0]), pa.timestamp('ms'))}"
            )
    if out.foreign or out.doubled:
        return out
    common = np.isin(times, got)
    for name in VALUES:
        expected = want[name][common]
        column = table.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
        known = np.isfinite(expected)
        wrong = int((column[known] != expected[known]).sum())
        if wrong:
            out.wrong += wrong
            at = int(times[common][known][np.flatnonzero(column[known] != expected[known])[0]])
            out.examples.append(f"{instrument} {name} differs {wrong} times from {pa.scalar(at, pa.timestamp('ms'))}")
    return out


def _named(lake: Lake, instrument: Instrument, interval: Interval, missing: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the missing opens the lake names a cause for."""
    named = np.zeros(len(missing), dtype=bool)
    for hole in lake.holes(instrument.venue, kline_dataset(interval), instrument):
        named |= (missing >= hole.start_ms) & (missing < hole.end_ms)
    return named


def settlements_differ(lake: Lake, tape: Tape, spans: Mapping[Instrument, Span]) -> Difference:
    """The lake's settled funding of each instrument's span against the tape's: minute and rate."""
    total = Difference()
    for instrument, span in spans.items():
        series = tape.settlements(instrument)
        keep = (series.time_ms >= span[0]) & (series.time_ms < span[1])
        want = dict(zip(snap_to_minute(series.time_ms[keep]).tolist(), series.rate[keep].tolist(), strict=True))
        table = lake.settlements(instrument.venue, instrument, *span)
        times = snap_to_minute(table.column("timestamp").cast(pa.int64()).to_numpy()).tolist()
        got = dict(zip(times, table.column("funding_rate").to_pylist(), strict=True))
        missing = sorted(set(want) - set(got))
        holes = lake.holes(instrument.venue, "funding", instrument, *span) if missing else []
        lost = [at for at in missing if not any(hole.start_ms <= at < hole.end_ms for hole in holes)]
        total += Difference(
            rows=len(want),
            lost=len(lost),
            named=len(missing) - len(lost),
            doubled=len(times) - len(got),
            wrong=sum(got[at] != rate for at, rate in want.items() if at in got),
            foreign=len(set(got) - set(want)),
            examples=[f"{instrument} lacks the settlement {pa.scalar(lost[0], pa.timestamp('ms'))}"] if lost else [],
        )
    return total


def equal_bars(lake: Lake, tape: Tape, of: Sequence[Instrument], interval: Interval, span: Span) -> bool:
    """True when the lake holds exactly the tape's bars, equal in every column that the tape has, and no other."""
    traded = sorted(i for i in of if len(tape_rows(tape, i, interval, span)["timestamp"]))
    found = bars_differ(lake, tape, dict.fromkeys(of, span), interval)
    everything = sum(len(lake.bars(instrument, interval)) for instrument in of)
    return (
        lake.instruments(tape.venue, interval) == traded
        and found.equal
        and not found.named
        and everything == found.rows
    )


def minutes(tape: Tape, of: Iterable[Instrument], interval: Interval) -> Span:
    """From the first bar's open to the last one's close of some instruments."""
    opens = [tape.bars(instrument, interval).open_ms for instrument in of]
    return int(min(t[0] for t in opens)), int(max(t[-1] for t in opens)) + interval.ms
