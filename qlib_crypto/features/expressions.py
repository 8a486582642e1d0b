"""The feature expressions: Alpha158 made safe for cheap coins, and features of funding.

An expression at bar t uses bars up to and including t, so its value is known at t's close. A window that holds an
unknown funding value is unknown (NaN), because Qlib's rolling operators would otherwise skip it silently.
"""

from __future__ import annotations

from typing import NamedTuple

from qlib.contrib.data.loader import Alpha158DL

from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.symbols import Interval

#: Bars that the longest window of Alpha158 needs: 60 and the one before them.
ALPHA158_BARS = 61

#: The label: what a position entered at the next open earns until the open after it.
OPEN_TO_OPEN = "Ref($open, -2)/Ref($open, -1) - 1"

#: Windows of the funding features, in days.
FUNDING_DAYS = (1, 3, 7)

#: Qlib blanks R² and correlation where a rolling standard deviation is within 2e-5 of zero, which is most of a coin
#: priced at 0.001 and the quiet minutes of every coin. Both are scale-free, and a power of two scales float32 without
#: rounding: the blank then only catches what really is constant, and every value that Qlib does give stays the same.
_SCALE = 2**40

#: A thousandth of the usual 0.01 % per 8 h: keeps the z-score of a constant rate at 0 instead of noise over noise.
_FLAT_RATE = 1e-7


class Expressions(NamedTuple):
    """Qlib expressions and the column names they get, in step."""

    fields: list[str]
    names: list[str]


def alpha158() -> Expressions:
    """Qlib's Alpha158 made safe for cheap coins and quiet bars; windows of 5, 10, 20, 30 and 60 bars.

    `RSQR`, `CORR` and `CORD` are free of the price scale. `CORD` takes the return instead of the price ratio, which
    is rounded near 1: small moves keep their digits, and no move at all is no infinity. `VMA` and `VSTD`, which divide
    by the bar's volume, are unknown (NaN) where it is zero, not 1e16. All other features are bounded or of the size
    of a return. Everything else is Qlib's own.

    Source: `qlib.contrib.data.loader.Alpha158DL` (pyqlib 0.9.7), `Rsquare` and `Corr` in `qlib/data/ops.py`.
    """
    fields, names = Alpha158DL.get_feature_config()
    return Expressions([_safe(field) for field in fields], names)


def _safe(field: str) -> str:
    if field.startswith("Rsquare($close,"):
        return field.replace("$close", f"$close*{_SCALE}")
    if field.startswith("Corr($close, Log($volume+1),"):
        return field.replace("Corr($close, Log($volume+1),", f"Corr($close*{_SCALE}, Log($volume+1)*{_SCALE},")
    if field.startswith("Corr($close/Ref($close,1), Log($volume/Ref($volume, 1)+1),"):
        change, volume = "($close-Ref($close,1))/Ref($close,1)", "Log($volume/Ref($volume, 1)+1)"
        return f"Corr({change}*{_SCALE}, {volume}*{_SCALE},{field.rpartition(',')[2]}"
    return field.replace("/($volume+1e-12)", "/If($volume > 0, $volume, np.nan)")


def funding(interval: Interval) -> Expressions:
    """Features of funding at one bar length.

    `FUND` is the last settled rate as quoted, `FUND8H` per 8 hours, `FUNDINT` its interval in hours; over 1, 3 and 7
    days `FUNDCUM` is what a long paid, `FUNDMA` the mean level, `FUNDSTD` its deviation, `FUNDZ` the level against
    both and `FUNDCHG` its change. Windows shorter than two bars are left out, except the sums. `FUNDNEXT` is the hours
    from the bar's close to the next settlement; a settlement at the close itself has passed.

    `$funding_rate` is known at a bar's open and `$funding_next` at its close. So is `$funding`, unless a settlement is
    overdue: whether nothing settled since is known when the next one comes, so `FUNDNEXT` and the sums wait for it.
    """
    level = "($funding_rate*8/$funding_interval)"
    wanted = {"FUND": "$funding_rate", "FUND8H": level, "FUNDINT": "$funding_interval"}
    if interval.ms <= 8 * HOUR_MS:
        wanted["FUNDCHG8H"] = f"{level}-Ref({level}, {8 * HOUR_MS // interval.ms})"
    for days in FUNDING_DAYS:
        n = days * DAY_MS // interval.ms
        known = _whole("$funding", f"Sum($funding, {n})", n)
        wanted[f"FUNDCUM{days}D"] = f"If($funding_next > 0, {known}, np.nan)"
        wanted[f"FUNDCHG{days}D"] = f"{level}-Ref({level}, {n})"
        if n > 1:
            mean, deviation = f"Mean({level}, {n})", f"Std({level}, {n})"
            wanted[f"FUNDMA{days}D"] = _whole(level, mean, n)
            wanted[f"FUNDSTD{days}D"] = _whole(level, deviation, n)
            wanted[f"FUNDZ{days}D"] = _whole(level, f"({level}-{mean})/({deviation}+{_FLAT_RATE})", n)
    wanted["FUNDNEXT"] = "$funding_next"
    return Expressions(list(wanted.values()), list(wanted))


def _whole(series: str, expression: str, n: int) -> str:
    # np.nan is resolved by Qlib's evaluator, which has numpy in scope
    return f"If(Count({series}, {n}) >= {n}, {expression}, np.nan)"
