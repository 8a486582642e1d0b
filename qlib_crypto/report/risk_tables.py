"""The words and numbers of the page's section on risk, as texts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from qlib_crypto.backtest.notes import KINDS
from qlib_crypto.report import formats
from qlib_crypto.report.data import ReportData
from qlib_crypto.report.measures import Measures
from qlib_crypto.report.scenarios import LARGE_MOVES

__all__ = ["kinds", "shape", "stress", "stress_note", "stress_other", "tails", "trades"]

Line = tuple[str, str]
_MOVES = (
    ("all", -1, "All prices fall"),
    ("all", 1, "All prices rise"),
    ("against", -1, "Longs fall while shorts rise"),
    ("btc", -1, "BTC falls, each by its beta"),
    ("btc", 1, "BTC rises, each by its beta"),
)


def tails(measures: Measures) -> list[tuple[str, str, str]]:
    """Value at risk and expected shortfall of days and of steps; days alone where a step is a day or longer."""
    numbers = measures.risk.numbers
    rows: list[tuple[str, str, str]] = []
    kinds = [("", "A day"), ("_step", f"A step of {formats.step(measures.step)}")]
    if measures.step is not None and measures.step >= pd.Timedelta(days=1):
        kinds = kinds[1:] if numbers["days"] == 0 else kinds[:1]
    for suffix, name in kinds:
        for level in (95, 99):
            risk, shortfall = (formats.percent(numbers[f"{kind}_{level}{suffix}"]) for kind in ("var", "es"))
            rows.append((f"{name}, {level}%", risk, shortfall))
    return rows


def shape(measures: Measures) -> list[Line]:
    """How returns are spread, and how long losses lasted."""
    numbers = measures.risk.numbers
    under, checked = numbers["under_water_days"], numbers["var_95_days"]
    lines = [
        ("Longest time under water", f"{formats.number(under, 1)} days" if math.isfinite(under) else formats.NONE),
        ("Steps with a gain, of those with gain or loss", formats.percent(numbers["win_rate_step"], 1)),
        ("Profit factor of steps", formats.number(numbers["profit_factor_step"])),
        ("Skew of days and of steps", _pair(numbers["skew"], numbers["skew_step"])),
        ("Excess kurtosis of days and of steps", _pair(numbers["kurtosis"], numbers["kurtosis_step"])),
    ]
    if checked:
        broken = f"{numbers['var_95_breaches']} of {checked}; {formats.number(0.05 * checked, 1)} expected"
        lines.append(("Days that lost more than the value at risk before them", broken))
    return lines


def kinds(data: ReportData, measures: Measures) -> list[tuple[str, ...]]:
    """By kind of order: fills, what they traded, the profit of what they closed before fees, fees.

    Empty where all are market orders.
    """
    fills = data.fills
    if not {"order", "realised"} <= set(fills.columns) or set(fills["order"]) <= {"market"}:
        return []
    scale = float(measures.equity.iloc[0])
    rows: list[tuple[str, ...]] = []
    for kind in (kind for kind in KINDS if (fills["order"] == kind).any()):
        own = fills[fills["order"] == kind]
        traded, realised = float((own["quantity"] * own["price"]).abs().sum()), float(own["realised"].sum())
        fee = float(own["fee"].sum()) if kind != "venue" else 0.0
        amounts = formats.money(traded, scale), formats.money(realised, scale, signed=True), formats.money(fee, scale)
        rows.append((kind.capitalize(), formats.integer(len(own)), *amounts))
    return rows


def trades(measures: Measures) -> list[Line]:
    """What closed parts of positions earned, and what was held."""
    n = measures.risk.numbers
    hours = n["mean_holding_hours"]
    return [
        ("Closed trades", formats.integer(n["closed_trades"])),
        ("Winners, after fees and funding", formats.percent(n["win_rate"], 1)),
        ("Winners of longs and of shorts", _shares(n["win_rate_long"], n["win_rate_short"])),
        ("Profit factor", formats.number(n["profit_factor"])),
        ("Mean time held, by notional", _held(hours)),
        ("Steps a price went our way, long and short", _shares(n["hit_rate_long"], n["hit_rate_short"])),
        ("Leverage, mean and highest", f"{formats.times(n['leverage_mean'])} and {formats.times(n['leverage_max'])}"),
        (
            "Margin ratio (100% is liquidation), mean and highest",
            f"{formats.percent(n['margin_ratio_mean'], 1)} and {formats.percent(n['margin_ratio_max'], 1)}",
        ),
        (
            "Account with half and none of the return left",
            f"{_account(n['capacity_half'])} and {_account(n['capacity_none'])}",
        ),
        (
            "Instruments held, mean and most",
            f"{formats.number(n['names_mean'], 1)} and {formats.integer(n['names_max'])}",
        ),
        (
            "Largest position of gross, mean and highest",
            f"{formats.percent(n['concentration_mean'], 1)} and {formats.percent(n['concentration_max'], 1)}",
        ),
    ]


def stress(measures: Measures) -> list[tuple[str, ...]]:
    """Of moves by each of `SIZES`: name, change at the last step and worst change of each size, and when that was."""
    table = measures.risk.stress
    rows = []
    for kind, sign, name in _MOVES:
        chosen = table[(table["kind"] == kind) & (np.sign(table["move"]) == sign)]
        if len(chosen):
            pairs = chosen[["last", "worst"]].to_numpy(np.float64).ravel()
            changes = (formats.percent(value, 1, signed=True) for value in pairs)
            rows.append((name, *changes, _when(chosen.iloc[-1]["at"])))
    return rows


def stress_other(measures: Measures) -> list[tuple[str, ...]]:
    """Of the other scenarios: name, change at the last step, worst change, when that was, and by which real move."""
    table = measures.risk.stress
    return [
        (
            str(row["name"]),
            formats.percent(row["last"], 1, signed=True),
            formats.percent(row["worst"], 1, signed=True),
            _when(row["at"]),
            _when(row["move_worst"]),
        )
        for _, row in table[table["move"].isna()].iterrows()
    ]


def stress_note(measures: Measures) -> str:
    """What the scenarios assume."""
    assumed = measures.risk.numbers["betas_assumed"]
    betas = "A beta is the slope of an instrument\u2019s moves on BTC\u2019s"
    if assumed:
        betas += f"; {assumed} of them {'is' if assumed == 1 else 'are'} not known and taken as 1"
    return (
        "Change of equity had it happened at once to what was held at a step\u2019s close, before any trade, stop or "
        f"liquidation.{f' {betas}.' if (measures.risk.stress['kind'] == 'btc').any() else ''} Real moves are the "
        f"{LARGE_MOVES} largest of the span by mean size; what was not held then moves as the equally weighted market."
    )


def _when(at: pd.Timestamp) -> str:
    return formats.NONE if pd.isna(at) else f"{at:%Y-%m-%d %H:%M}"


def _held(hours: float) -> str:
    if not math.isfinite(hours):
        return formats.NONE
    return f"{formats.number(hours / 24, 1)} days" if hours >= 48 else f"{formats.number(hours, 1)} hours"  # noqa: PLR2004 - two days


def _account(size: float) -> str:
    return formats.money(size) if math.isfinite(size) else formats.NONE


def _pair(one: float, other: float) -> str:
    return f"{formats.number(one)} and {formats.number(other)}"


def _shares(one: float, other: float) -> str:
    return f"{formats.percent(one, 1)} and {formats.percent(other, 1)}"
