"""What the provider must hold, in plain pandas and plain loops; shares nothing with the package but its words."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from qlib_crypto.clock import HOUR_MS, MINUTE_MS

FIELDS = (
    "open", "high", "low", "close", "volume", "amount", "vwap", "factor", "change", "quality",
    "funding", "funding_cash", "funding_open", "funding_open_cash", "funding_rate", "funding_interval", "funding_next",
)  # fmt: skip
LONGEST = 8 * HOUR_MS + MINUTE_MS


def oracle(frames, settlements, target) -> pd.DataFrame | None:
    """Every field from the first complete bar to the last one, by open time in ms; None without a complete bar."""
    bars = None
    for interval in sorted(frames):
        if target.ms % interval.ms or frames[interval].empty:
            continue
        made = _made(frames[interval], interval, target)
        bars = made if bars is None else pd.concat([bars, made[~made.index.isin(bars.index)]]).sort_index()
    if bars is None or bars.empty:
        return None
    index = np.arange(bars.index.min(), bars.index.max() + 1, target.ms)
    out = bars.reindex(index)
    out["vwap"] = (out["amount"] / out["volume"]).where(out["volume"] != 0)
    out["factor"] = np.where(out["close"].isna(), np.nan, 1.0)
    out["quality"] = out["factor"] - 1  # these lakes flag nothing
    out["change"] = out["close"] / out["close"].shift(1) - 1
    return out.join(_funding(frames, settlements, index, target))[list(FIELDS)]


def _made(frame, interval, target):
    stamped = frame.set_axis(pd.to_datetime(frame.index, unit="ms"))
    rule = stamped.resample(pd.Timedelta(target.ms, "ms"), origin="epoch", closed="left", label="left")
    made = rule.agg({"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"})
    parts = target.ms // interval.ms
    made["amount"] = rule["quote_volume"].sum().where(rule["quote_volume"].count() == parts)
    made = made[rule["close"].size() == parts]
    return made.set_axis(made.index.astype("datetime64[ms]").astype(np.int64))


def _funding(frames, settlements, index, target):
    rows = []
    events = [] if settlements is None else _events(frames, settlements)
    minutes = sorted({minute for minute, _, _ in events})
    for start in index:
        stop = start + target.ms
        inside = [(m, rate, price) for m, rate, price in events if start <= m < stop]
        opening = [event for event in inside if event[0] == start]
        whole = _unbroken(minutes, start, stop)
        instant = _unbroken(minutes, start, start + MINUTE_MS)
        last = [(m, rate) for m, rate, _ in events if m <= start]
        rate = hours = np.nan
        if last and start - last[-1][0] <= LONGEST:
            rate = last[-1][1]
            before = [m for m in minutes if m < last[-1][0]]
            if before and last[-1][0] - before[-1] <= LONGEST:
                hours = _interval_ms(before[-1], last[-1][0]) / HOUR_MS
        rows.append(
            (
                sum(e[1] for e in inside) if whole else np.nan,
                sum(e[1] * e[2] for e in inside) if whole else np.nan,
                sum(e[1] for e in opening) if instant else np.nan,
                sum(e[1] * e[2] for e in opening) if instant else np.nan,
                rate,
                hours,
                _to_next(minutes, stop),
            )
        )
    return pd.DataFrame(rows, index=index, columns=list(FIELDS[10:]), dtype=float)


def _events(frames, settlements):
    events = []
    for time, row in settlements.iterrows():
        minute = round(time / MINUTE_MS) * MINUTE_MS
        price = row["mark"]
        for interval in sorted(frames):
            if np.isnan(price) and minute in frames[interval].index:
                price = frames[interval]["open"][minute]
        events.append((minute, row["rate"], price))
    return events


def _unbroken(minutes, start, stop):
    """Whether it is known for each minute of [start, stop) what settled."""
    chain = [m for m in minutes if m <= start][-1:] + [m for m in minutes if start < m < stop]
    if not chain or chain[0] > start:
        return False
    after = [m for m in minutes if m >= stop]
    tail = chain[-1]
    if after and not _lost(minutes, tail, after[0]):
        chain.append(after[0])
        ends = after[0]
    else:
        before = [m for m in minutes if m < tail]
        lone = not before or _lost(minutes, before[-1], tail)
        length = MINUTE_MS if lone else _interval_ms(before[-1], tail)
        ends = tail + (MINUTE_MS if after and length >= after[0] - tail else length)
    return stop <= ends and not any(_lost(minutes, a, b) for a, b in pairwise(chain))


def _lost(minutes, a, b):
    """Whether a settlement between two neighbours is missing: too far apart for any, or for those on both sides."""
    at, gap = minutes.index(a), b - a
    before = [y - x for x, y in pairwise(minutes[max(at - 3, 0) : at + 1])]
    after = [y - x for x, y in pairwise(minutes[at + 1 : at + 5])]
    return gap > LONGEST or (any(gap >= x + HOUR_MS / 2 for x in before) and any(gap >= x + HOUR_MS / 2 for x in after))


def _to_next(minutes, close):
    """Hours, walking from the settlement before the close in hours of the clock to the first that is due."""
    past = [m for m in minutes if m < close][-2:]
    if len(past) < 2 or past[1] - past[0] > LONGEST:
        return np.nan
    length = _interval_ms(*past)
    if length not in (HOUR_MS, 2 * HOUR_MS, 4 * HOUR_MS, 8 * HOUR_MS):
        return np.nan
    due = past[1] + MINUTE_MS
    while due % length:
        due += MINUTE_MS
    if due < close:
        return np.nan
    return (due - close or length) / HOUR_MS


def _interval_ms(before, at):
    gap, lengths = at - before, [n * HOUR_MS for n in (1, 2, 4, 8)]
    return gap if gap in lengths else next((n for n in lengths if n > gap and at % n == 0), gap)
