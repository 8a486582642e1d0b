"""One self-contained HTML page of a run: what was computed and drawn, composed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.io import to_json
from plotly.offline import get_plotlyjs

from qlib_crypto.report import figures, formats, risk_tables, tables
from qlib_crypto.report.assumptions import assumptions
from qlib_crypto.report.data import ReportData
from qlib_crypto.report.measures import Measures
from qlib_crypto.report.notices import notices
from qlib_crypto.report.scenarios import SIZES
from qlib_crypto.report.theme import COLOURS, FONT, template
from qlib_crypto.report.worst import worst_steps

__all__ = ["page"]


class Plot(NamedTuple):
    """A figure on the page: `key` names it, `wide` gives it the whole row."""

    key: str
    title: str
    caption: str
    figure: go.Figure
    wide: bool = True


class Section(NamedTuple):
    """A heading with its figures and the table that belongs to them, None when there is none."""

    title: str
    plots: list[Plot]
    table: str | None = None


def page(data: ReportData, measures: Measures, summary: Mapping[str, Any]) -> str:
    """The page as text: style, plotly.js and figures inside, nothing fetched (its own policy forbids it)."""
    sections = _sections(measures, summary)
    month_names, months = tables.months(measures.months)
    plots = {plot.key: _embedded(plot.figure) for section in sections for plot in section.plots}
    return _template().render(
        name=data.name,
        subtitle=_subtitle(data, measures, summary),
        origin=_origin(data),
        short=formats.days(measures.equity.index[0], measures.equity.index[-1]) if measures.short else "",
        cards=tables.cards(measures, summary),
        notices=notices(data, measures),
        sections=sections,
        plots=plots,
        themes={mode: _script_safe(to_json(template(mode))) for mode in ("light", "dark")},
        statistics=tables.statistics(measures, summary),
        instruments=tables.instruments(measures),
        instrument_columns=tables.instrument_columns(measures),
        instruments_left_out=max(0, len(measures.instruments) - tables.INSTRUMENT_ROWS),
        month_names=month_names,
        months=months,
        worst=tables.worst(worst_steps(data, measures)),
        tails=(tails := risk_tables.tails(measures)),
        tails_unknown=any(formats.NONE in row for row in tails),
        days=measures.risk.numbers["days"],
        shape=risk_tables.shape(measures),
        trades=risk_tables.trades(measures),
        kinds=risk_tables.kinds(data, measures),
        stress=risk_tables.stress(measures),
        stress_other=risk_tables.stress_other(measures),
        stress_sizes=[formats.percent(size, 0) for size in SIZES],
        stress_note=risk_tables.stress_note(measures),
        seconds=[(formats.words(stage), formats.number(value, 1)) for stage, value in data.seconds.items()],
        total_seconds=formats.number(sum(data.seconds.values()), 1),
        assumptions=assumptions(data, measures, summary),
        quote=summary["quote"],
        colours=COLOURS,
        font=FONT,
        plotly=get_plotlyjs(),
        run_id=data.run_id,
        version=data.version,
    )


def _sections(measures: Measures, summary: Mapping[str, Any]) -> list[Section]:
    quote, period = summary["quote"], measures.period
    sections = [
        Section(
            "Performance",
            [
                Plot(
                    "equity",
                    "Equity and drawdown",
                    "After all costs and funding, against BTC and the equally weighted market, which pay neither.",
                    figures.equity_and_drawdown(measures.curve),
                ),
                Plot(
                    "periods",
                    f"Return by {period}",
                    "Net; a close at 00:00 UTC counts for the period that ends there.",
                    figures.period_returns(measures.periods, period),
                ),
            ],
            "months",
        ),
        Section(
            "Where it came from",
            [
                Plot(
                    "attribution",
                    "Price, funding and costs",
                    "Every change of equity has one of these causes; their sum is the total.",
                    figures.source_attribution(measures.attribution, quote),
                ),
                *_instrument_plot(measures, quote),
            ],
            "instruments" if len(measures.instruments) else None,
        ),
        Section(
            "Positions",
            [
                Plot(
                    "exposure",
                    "Exposure",
                    "Notional at mark over equity: gross adds longs and shorts, net subtracts.",
                    figures.exposure(measures.exposure),
                    wide=False,
                ),
                Plot(
                    "turnover",
                    "Turnover",
                    f"Traded notional over equity, each {period}; both sides of a change count.",
                    figures.turnover(measures.periods, period),
                    wide=False,
                ),
            ],
        ),
        Section("Risk", _risk_plots(measures, quote), "risk"),
    ]
    signal = _signal_plots(measures)
    return [*sections, Section("Signal", signal)] if signal else sections


def _instrument_plot(measures: Measures, quote: str) -> list[Plot]:
    if measures.instruments.empty:
        return []
    shown, all_of_them = 2 * figures.TOP_INSTRUMENTS, len(measures.instruments)
    which = f"The {shown // 2} best and {shown // 2} worst of {all_of_them}" if all_of_them > shown else "All of them"
    figure = figures.instrument_attribution(measures.instruments, quote)
    return [Plot("instruments", "By instrument", f"{which}, by what each earned in the end.", figure)]


def _risk_plots(measures: Measures, quote: str) -> list[Plot]:
    window, larger, plots = measures.risk.window, measures.risk.capacity, []
    if window:
        caption = (
            f"Each day\u2019s return, and the loss that 19 days in 20 of the {window} before it stayed at or under."
        )
        plots.append(Plot("risk", "Days against value at risk", caption, figures.value_at_risk(measures.risk.days)))
    if larger is not None:
        caption = (
            "Net return with a larger account: each order pays volatility \u00d7 \u221a(order / volume) of a bar more. "
            "An order of magnitude: the book is not traded again with less."
        )
        plots.append(Plot("capacity", "Capacity", caption, figures.capacity(larger.table, quote)))
    return plots


def _signal_plots(measures: Measures) -> list[Plot]:
    plots = []
    if measures.ic["rank_ic"].notna().any():
        window = _window(measures)
        caption = f"Correlation of prediction and realised label across instruments; rolling mean of {window}."
        plots.append(
            Plot("ic", "Information coefficient", caption, figures.information_coefficient(measures.ic, window))
        )
    if measures.importance is not None:
        count = len(measures.importance)
        shown = (
            f"The first {figures.TOP_FEATURES} of {count} features" if count > figures.TOP_FEATURES else "All features"
        )
        caption = f"{shown}, by the gain their splits brought in training."
        plots.append(Plot("importance", "Feature importance", caption, figures.feature_importance(measures.importance)))
    return plots


def _window(measures: Measures) -> str:
    times = measures.ic.index.to_numpy()
    length = pd.Timedelta(np.median(np.diff(times))) * measures.ic_window
    days = length / pd.Timedelta(days=1)
    return f"{days:g} day{'' if days == 1 else 's'}" if days >= 1 and days % 1 == 0 else f"{measures.ic_window} bars"


def _subtitle(data: ReportData, measures: Measures, summary: Mapping[str, Any]) -> list[str]:
    parts = [
        formats.span(measures.equity.index[0], measures.equity.index[-1]),
        f"{formats.integer(summary['symbols'])} instrument{'' if summary['symbols'] == 1 else 's'} predicted",
        f"steps of {formats.step(measures.step)}" if measures.step is not None else "one step",
    ]
    market = data.assumptions.get("market")
    return [*parts, f"market {market}"] if isinstance(market, str) and market else parts


def _origin(data: ReportData) -> list[str]:
    run = f"run {data.run_id[:8]}" if data.run_id else "a run without a record"
    when = f" of {data.started[:16]} UTC" if data.started else ""
    return [run + when, f"qlib-crypto {data.version}" + (f" at {data.commit}" if data.commit else "")]


def _embedded(figure: go.Figure) -> dict[str, Any]:
    bare = go.Figure(figure).update_layout(template=None)  # the page brings its own, by colour scheme
    return {"height": figure.layout.height, "json": _script_safe(to_json(bare, validate=False))}


def _script_safe(json_text: str) -> str:
    return json_text.replace("<", "\\u003c")  # else a name such as </script> would end the element


@cache
def _template() -> jinja2.Template:
    source = resources.files("qlib_crypto.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(source)
