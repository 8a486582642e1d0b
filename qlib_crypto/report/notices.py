"""What a reader must know before believing a number, in words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qlib_crypto.backtest.attribution import SOURCES
from qlib_crypto.backtest.notes import COUNTED, FUNDING_AS_NONE, PAID_AT_LAST_PRICE
from qlib_crypto.errors import counted
from qlib_crypto.report import formats
from qlib_crypto.report.data import ReportData
from qlib_crypto.report.measures import Measures
from qlib_crypto.stats.ic import MIN_NAMES

__all__ = ["Notice", "notices"]

#: The share of bars or instruments from which on little enough is assumed to say so below alone.
_KNOWN = 0.95
_ATTRIBUTION_TOLERANCE = 1e-9  # of equity: the account's own promise


class Notice(NamedTuple):
    """One statement; `serious` when a headline number is missing or cannot be trusted because of it."""

    text: str
    serious: bool


def notices(data: ReportData, measures: Measures) -> list[Notice]:
    """The statements that hold for this run, the serious ones first."""
    of_run = [*_of_signal(data, measures), *_of_account(data, measures)]
    found = [*_of_origin(data), *of_run, *_of_data(data), *_of_span(measures)]
    return sorted(found, key=lambda notice: not notice.serious)


def _of_origin(data: ReportData) -> list[Notice]:
    if not (data.assumptions.get("order_rules") or {}).get("generated"):
        return []
    text = "A generated market with a planted signal: this checks the pipeline and says nothing about a real market."
    return [Notice(text, serious=True)]


def _of_signal(data: ReportData, measures: Measures) -> list[Notice]:
    if data.prediction is None or data.prediction.empty:
        return [Notice("There are no predictions, so there is no IC.", serious=True)]
    names = data.prediction.index.get_level_values("instrument").nunique()
    if names < MIN_NAMES:
        few = "one instrument is" if names == 1 else f"{names} instruments are"
        text = f"Only {few} predicted; an IC compares at least {MIN_NAMES} with each other, so there is none."
        return [Notice(text, serious=True)]
    found = []
    if data.label is None or measures.unlabelled == 1:
        found.append(Notice("No prediction has a label to compare with, so there is no IC.", serious=True))
    elif measures.unlabelled > 0.01:  # noqa: PLR2004 - the last bars of a span never have one
        found.append(
            Notice(
                f"{measures.unlabelled:.1%} of the predictions have no label; the IC leaves them out.", serious=False
            )
        )
    if measures.constant == 1:
        found.append(
            Notice(
                "The predictions are the same for every instrument at every bar: the model learned nothing.",
                serious=True,
            )
        )
    elif measures.constant > 0:
        found.append(
            Notice(
                f"At {measures.constant:.1%} of the bars all predictions are the same; there is no IC there.",
                serious=False,
            )
        )
    return found


def _of_account(data: ReportData, measures: Measures) -> list[Notice]:
    found = []
    notes = data.assumptions.get("notes") or {}
    unknown, unpriced = (notes.get(COUNTED[at], 0) for at in (FUNDING_AS_NONE, PAID_AT_LAST_PRICE))
    if unknown:
        text = (
            f"Unknown funding was taken as none in {counted(unknown, 'instrument-bar')}, against "
            f"{formats.integer(len(data.positions))} held at step closes: the funding figures lack what was due there."
        )
        found.append(Notice(text, serious=True))
    if unpriced:
        text = (
            f"{counted(unpriced, 'settlement')} had no price at the minute, so the position's last known one was paid."
        )
        found.append(Notice(text, serious=False))
    if data.fills.empty:
        text = (
            "No trade was made, so equity never changed. Look at the signal, the universe and the smallest order sizes."
        )
        found.append(Notice(text, serious=True))
    elif data.funding.empty and not unknown:
        text = "No funding was settled while a position was held: the funding figures are zero because nothing was due."
        found.append(Notice(text, serious=False))
    if (measures.equity <= 0).any():
        found.append(Notice("The account lost everything it had; figures after that have no meaning.", serious=True))
    sources = measures.attribution[list(SOURCES)].sum(axis=1)
    gap = float(np.nanmax(np.abs(sources - measures.attribution["total"])))
    if gap > _ATTRIBUTION_TOLERANCE * float(measures.equity.abs().max()):
        found.append(
            Notice(
                f"{', '.join(SOURCES.values())} miss the change of equity by {gap:.6g} in the quote coin.",
                serious=True,
            )
        )
    for name, label in (("btc", "BTC"), ("equal", "equally weighted")):
        if measures.curve[name].isna().all():
            found.append(Notice(f"There is no {label} benchmark for this run.", serious=False))
    return found


def _of_data(data: ReportData) -> list[Notice]:
    """What was assumed of many instruments because nobody knew it."""
    given, found = data.assumptions, []
    coverage = given.get("funding_coverage")
    if coverage is not None and coverage < _KNOWN:
        found.append(f"funding is known in {coverage:.1%} of the bars")
    for key, what in (("margin_tiers", "margin tiers are assumed"), ("order_rules", "lots and ticks are not known")):
        sources = given.get(key) or {}
        assumed, of = sources.get("assumed", 0), sum(sources.values())
        if of and assumed > (1 - _KNOWN) * of:
            found.append(f"{what} for {assumed} of {of} instruments")
    if not found:
        return []
    return [Notice(f"Look at the assumptions: {'; '.join(found)}.", serious=False)]


def _of_span(measures: Measures) -> list[Notice]:
    if not measures.short:
        return []
    days = formats.days(measures.equity.index[0], measures.equity.index[-1])
    text = "Annualised figures, in grey, extrapolate that to a year and say little by themselves."
    return [Notice(f"The test covers {days}. {text}", serious=False)]
