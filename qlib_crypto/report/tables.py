"""The words and numbers of the page: headline cards, statistics, instruments and months, as texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from qlib_crypto.backtest.attribution import SOURCES
from qlib_crypto.report import formats
from qlib_crypto.report.attribution import shown_sources
from qlib_crypto.report.measures import Measures
from qlib_crypto.report.theme import COLOURS

__all__ = ["INSTRUMENT_ROWS", "Card", "cards", "instruments", "months", "statistics", "worst"]

#: Instruments shown one by one: half of them the best, half the worst.
INSTRUMENT_ROWS = 60
_ERROR = (
    "Standard error of the mean over timestamps: stationary block bootstrap with blocks of a day or the cube root of "
    "their number, never below standard deviation over the root of their number."
)
_KNOWN = 0.99  # below this share of bars with known funding the tile says so
_WHOLE_FROM = 10_000  # a column that reaches this has no decimals
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Line(NamedTuple):
    """A number that is no headline; `faint` when it is annualised from a short test."""

    label: str
    value: str
    faint: bool = False


class Card(NamedTuple):
    """A headline number with one line of context; `tone` is `gain`, `loss`, `faint` or empty, `hint` shows on hover."""

    label: str
    value: str
    context: str
    tone: str = ""
    hint: str = ""


def cards(measures: Measures, summary: Mapping[str, Any]) -> list[Card]:
    """The ten headline numbers, the most asked for first."""
    quote, start = summary["quote"], summary["start_equity"]
    net, funding = summary["net_return"], summary["funding_net"]
    paid, received = (formats.money(summary[f"funding_{side}"], start) for side in ("paid", "received"))
    change = summary["end_equity"] - start
    days = formats.days(measures.equity.index[0], measures.equity.index[-1])
    bottom = summary["max_drawdown_at"]
    return [
        Card(
            "Net return",
            formats.percent(net, signed=True),
            f"{formats.money(change, start, signed=True)} {quote} in {days}",
            _tone(net),
        ),
        Card(
            "Gross return",
            formats.percent(summary["gross_return"], signed=True),
            "before fees, slippage and funding" if summary["slippage"] else "before fees and funding",
        ),
        Card(
            "Sharpe, annualised",
            formats.number(summary["sharpe_365"]),
            f"{_basis(measures)}; short test: {days}" if measures.short else _basis(measures),
            "faint" if measures.short else "",
        ),
        Card(
            "Maximum drawdown",
            formats.percent(summary["max_drawdown"]),
            f"lowest step close {bottom[:16]}" if bottom else "equity never fell",
        ),
        Card("Rank IC", _signed(summary["rank_ic"]), _error(summary["rank_ic_se"]), hint=_ERROR),
        Card("IC", _signed(summary["ic"]), _error(summary["ic_se"]), hint=_ERROR),
        Card("Turnover a day", formats.times(summary["turnover_per_day"]), "traded, both sides, over equity"),
        Card(
            "Fills",
            formats.integer(summary["trades"]),
            f"in {formats.integer(summary['steps'])} step{'' if summary['steps'] == 1 else 's'}",
        ),
        _paid("Fees", summary["fees"], start, quote),
        *([_paid("Slippage", summary["slippage"], start, quote)] if summary["slippage"] else []),
        *([_paid("Liquidation", summary["liquidation"], start, quote)] if summary["liquidation"] else []),
        Card(
            "Funding, net",
            f"{formats.money(funding, start, signed=True)} {quote}",
            f"{paid} paid, {received} received{_coverage(summary)}",
            _tone(funding),
        ),
    ]


def _paid(name: str, amount: float, start: float, quote: str) -> Card:
    """What something cost."""
    share = formats.percent(amount / start if start > 0 else None)
    return Card(name, f"{formats.money(amount, start)} {quote}", f"{share} of starting equity")


def _basis(measures: Measures) -> str:
    """What a Sharpe ratio is annualised from."""
    if measures.step is None:
        return "365 days of 24 hours"
    root = f"\N{MULTIPLICATION SIGN} \N{SQUARE ROOT}{formats.integer(measures.steps_per_year)}"
    return f"steps of {formats.step(measures.step)} {root}"


def _coverage(summary: Mapping[str, Any]) -> str:
    share = summary["assumptions"].get("funding_coverage")
    return f"; known on {formats.percent(share, 1)} of bars" if isinstance(share, float) and share < _KNOWN else ""


def worst(steps: pd.DataFrame) -> list[tuple[str, ...]]:
    """Time, return, instrument and amount of each of the worst steps."""
    return [
        (
            f"{at:%Y-%m-%d %H:%M}",
            formats.percent(row["return"], signed=True),
            row["instrument"] or formats.NONE,
            formats.number(row["amount"], signed=True),
        )
        for at, row in steps.iterrows()
    ]


def _signed(value: float | None) -> str:
    return formats.number(value, 4, signed=True)


def _error(value: float | None) -> str:
    return f"± {formats.number(value, 4)} standard error" if value is not None else "not defined for this run"


def _tone(value: float | None) -> str:
    return "" if not value else "gain" if value > 0 else "loss"


def statistics(measures: Measures, summary: Mapping[str, Any]) -> list[Line]:
    """The numbers that are no headline."""
    quote, marks = summary["quote"], summary["benchmarks"]
    exposure = measures.exposure
    annualised = [
        ("Return a year, compounded", formats.percent(summary["annual_return_365"])),
        ("Volatility a year", formats.percent(summary["volatility_365"])),
        ("Sortino, annualised", formats.number(summary["sortino_365"])),
        ("Calmar: return a year over maximum drawdown", formats.number(measures.risk.numbers["calmar"])),
    ]
    rest = [
        ("Starting equity", f"{formats.money(summary['start_equity'])} {quote}"),
        ("Final equity", f"{formats.money(summary['end_equity'])} {quote}"),
        ("BTC over the span", formats.percent(marks["btc"], signed=True)),
        ("Equal weight over the span", formats.percent(marks["equal"], signed=True)),
        (
            "Gross exposure, mean and highest",
            f"{formats.times(exposure['gross'].mean())} and {formats.times(exposure['gross'].max())}",
        ),
        (
            "Net exposure, lowest and highest",
            f"{formats.times(exposure['net'].min())} to {formats.times(exposure['net'].max())}",
        ),
        ("Turnover over the span, times each step's starting equity", formats.times(summary["turnover"], 1)),
        ("Funding settlements on our positions", formats.integer(summary["settlements"])),
        ("IC over its deviation (ICIR)", formats.number(summary["icir"], 3)),
        ("Rank IC over its deviation (rank ICIR)", formats.number(summary["rank_icir"], 3)),
        ("Timestamps with predictions", formats.integer(summary["bars"])),
        ("Predictions", formats.integer(summary["rows"])),
    ]
    return [*(Line(*line) for line in rest), *(Line(*line, faint=measures.short) for line in annualised)]


def instrument_columns(measures: Measures) -> list[str]:
    """The heads of `instruments`."""
    sources = [SOURCES[name] for name in shown_sources(measures.instruments)]
    return ["Instrument", *sources, "Total", "Fills", "Traded"]


def instruments(measures: Measures) -> list[tuple[str, ...]]:
    """Name and cells of each shown instrument, the sum of all of them last; a column has one number of decimals."""
    whole = measures.instruments
    shown = whole
    if len(whole) > INSTRUMENT_ROWS:
        half = INSTRUMENT_ROWS // 2
        shown = pd.concat([whole.head(half), whole.tail(half)])
    total = whole.sum()
    columns = [[*(str(name) for name in shown.index), "Total"]]
    for name in (*shown_sources(whole), "total", "trades", "traded"):
        values = [*shown[name].astype(np.float64), float(total[name])]
        digits = 0 if name == "trades" or max(map(abs, values)) >= _WHOLE_FROM else 2
        signed = name not in {"trades", "traded"}
        columns.append([formats.number(value, digits, signed=signed) for value in values])
    return list(zip(*columns, strict=True))


def months(returns: pd.DataFrame) -> tuple[list[str], list[tuple[str, list[tuple[str, str]]]]]:
    """Column names, and of each year its name with text and colour of its cells, from `Measures.months`.

    Months from the earliest to the latest of the calendar that has a return; a gap is an en dash. The whole year is
    left out where there is one month only, which it would repeat.
    """
    months = returns.drop(columns="year")
    used = [int(month) for month in months.columns[months.notna().any()]]
    shown = months.loc[:, min(used, default=1) : max(used, default=0)]
    if months.notna().to_numpy().sum() > 1:
        shown = shown.join(returns["year"])
    single = shown.drop(columns="year", errors="ignore").to_numpy(np.float64)
    largest = float(np.nan_to_num(np.abs(single)).max(initial=0.0)) or 1.0
    names = [_MONTHS[int(column) - 1] if column != "year" else "Whole year" for column in shown.columns]
    return names, [
        (
            str(year),
            [
                (formats.percent(value, 1) if np.isfinite(value) else formats.NONE, _heat(value, largest))
                for value in row
            ],
        )
        for year, row in zip(shown.index, shown.to_numpy(np.float64), strict=True)
    ]


def _heat(value: float, largest: float) -> str:
    if not np.isfinite(value):
        return "transparent"
    colour = COLOURS["gain"] if value >= 0 else COLOURS["loss"]
    strength = round(8 + 47 * min(1.0, abs(value) / largest))
    return f"color-mix(in srgb, {colour} {strength}%, transparent)"
