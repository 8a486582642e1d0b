"""The figures: computed frames in, Plotly figures out. One function a figure; nothing is computed here but pixels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from qlib_crypto.backtest.attribution import SOURCES
from qlib_crypto.report.attribution import shown_sources
from qlib_crypto.report.theme import COLOURS, template

__all__ = [
    "equity_and_drawdown",
    "exposure",
    "feature_importance",
    "information_coefficient",
    "instrument_attribution",
    "period_returns",
    "source_attribution",
    "thin",
    "turnover",
    "value_at_risk",
]

_DASHES = {"price": None, "funding": "dash", "fee": "dot", "slippage": "dashdot", "liquidation": "longdash"}
POINTS = 3000  # of a line: more than a screen has pixels for
TIMES = "\N{MULTIPLICATION SIGN}"
TOP_FEATURES = 30
TOP_INSTRUMENTS = 12


def thin(frame: pd.DataFrame, limit: int = POINTS) -> pd.DataFrame:
    """`frame` with at most about `limit` rows that draw the same: of each bucket its first, lowest and highest ones.

    Nothing is averaged, so every extreme (the deepest drawdown, the highest exposure) is still there.
    """
    if len(frame) <= limit:
        return frame
    buckets = np.array_split(np.arange(len(frame)), max(1, limit // (2 * frame.shape[1] + 1)))
    keep = {0, len(frame) - 1}
    columns = [frame[name].to_numpy(np.float64) for name in frame.columns]
    for rows in buckets:
        keep.add(int(rows[0]))
        for values in columns:
            part = values[rows]
            if np.isfinite(part).any():
                keep |= {int(rows[np.nanargmin(part)]), int(rows[np.nanargmax(part)])}
    return frame.iloc[sorted(keep)]


def equity_and_drawdown(curve: pd.DataFrame) -> go.Figure:
    """Growth of the account against BTC and the equally weighted market, above the account's drawdown.

    `curve` is `Measures.curve`: `strategy btc equal` as growth from 1.0, `drawdown` ≤ 0; a benchmark that is all NaN
    is left out.
    """
    curve = thin(curve)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.06)
    for name, label in (("equal", "Equal weight"), ("btc", "BTC"), ("strategy", "Strategy")):
        if curve[name].notna().any():
            line = {"color": COLOURS[name], "width": 2.2 if name == "strategy" else 1.2}
            figure.add_trace(_line(curve[name] - 1.0, label, line, "%{y:+.2%}"), row=1, col=1)
    fall = _line(curve["drawdown"], "Drawdown", {"color": COLOURS["strategy"], "width": 1}, "%{y:.2%}")
    figure.add_trace(fall.update(fill="tozeroy", fillcolor="rgba(47,129,214,0.22)", showlegend=False), row=2, col=1)
    figure.update_yaxes(
        title="Return since start", tickformat=_percent(curve.drop(columns="drawdown") - 1), row=1, col=1
    )
    figure.update_yaxes(title="Drawdown", tickformat=_percent(curve[["drawdown"]]), nticks=4, row=2, col=1)
    if not curve["drawdown"].any():
        figure.update_yaxes(range=[-0.01, 0], row=2, col=1)  # nothing to scale by
    figure.update_layout(legend_traceorder="reversed")
    return _finish(figure, 460)


def exposure(exposures: pd.DataFrame) -> go.Figure:
    """Gross and net position as multiples of equity; `exposures` is `Measures.exposure`."""
    exposures = thin(exposures)
    figure = go.Figure()
    for side in ("gross", "net"):
        line = {"color": COLOURS[side], "width": 1.4}
        figure.add_trace(_line(exposures[side], side.capitalize(), line, "%{y:.2f}" + TIMES))
    figure.update_yaxes(title="Times equity", tickformat=".2~f", ticksuffix=TIMES, rangemode="tozero")
    return _finish(figure, 320)


def value_at_risk(days: pd.DataFrame) -> go.Figure:
    """Daily returns against the loss that was to be expected one day in twenty; `days` is `Risk.days`."""
    beyond = days["returns"] < -days["var_95"]
    figure = go.Figure()
    for chosen, name, colour, size in (
        (~beyond, "Return of a day", COLOURS["equal"], 4),
        (beyond, "Lost more", COLOURS["loss"], 7),
    ):
        dots = _line(days["returns"].where(chosen), name, {}, "%{y:+.2%}")
        figure.add_trace(dots.update(mode="markers", line=None, marker={"color": colour, "size": size}))
    line = {"color": COLOURS["strategy"], "width": 1.6, "shape": "hv"}
    figure.add_trace(_line(-days["var_95"], "Value at risk, 95%", line, "%{y:.2%}"))
    figure.update_yaxes(title="Return a day", tickformat=_percent(days[["returns"]]), zeroline=True)
    figure.update_xaxes(hoverformat="%a %Y-%m-%d")
    return _finish(figure, 300)


def capacity(sizes: pd.DataFrame, quote: str = "quote coin") -> go.Figure:
    """The net return by the size of the account; `sizes` is `Capacity.table`."""
    shown = sizes.iloc[1:]
    line = go.Scatter(
        x=shown["account"], y=shown["net_return"], name="Net return", mode="lines+markers", showlegend=False,
        line={"color": COLOURS["strategy"], "width": 2.2},
        hovertemplate="%{y:+.2%}",
    )  # fmt: skip
    figure = go.Figure(line)
    figure.add_hline(
        float(sizes["net_return"].iloc[0]), line={"dash": "dot", "width": 1, "color": COLOURS["equal"]},
        annotation={"text": "the run itself", "showarrow": False, "yanchor": "top"},
    )  # fmt: skip
    figure.update_yaxes(title="Net return", tickformat=_percent(sizes[["net_return"]]), zeroline=True)
    figure.update_xaxes(title=f"Account, {quote}", type="log", tickformat=".2~s", hoverformat=",.0f", dtick=1)
    return _finish(figure, 300)


def source_attribution(attribution: pd.DataFrame, quote: str = "quote coin") -> go.Figure:
    """What each source added up to, and their total; `attribution` is `Measures.attribution`."""
    attribution = thin(attribution)
    figure = go.Figure()
    for name in shown_sources(attribution):
        line = {"color": COLOURS[name], "width": 1.6, "dash": _DASHES[name]}
        figure.add_trace(_line(attribution[name], SOURCES[name], line, f"%{{y:,.2f}} {quote}"))
    total = {"color": COLOURS["total"], "width": 2.4}
    figure.add_trace(_line(attribution["total"], "Total", total, f"%{{y:,.2f}} {quote}"))
    figure.update_yaxes(title=f"Cumulated, {quote}", tickformat=_amounts(attribution))
    return _finish(figure, 360)


def instrument_attribution(instruments: pd.DataFrame, quote: str = "quote coin") -> go.Figure:
    """What the best and the worst instruments earned, by source; `instruments` is `Measures.instruments`."""
    shown = instruments
    if len(instruments) > 2 * TOP_INSTRUMENTS:
        shown = pd.concat([instruments.head(TOP_INSTRUMENTS), instruments.tail(TOP_INSTRUMENTS)])
    names = [str(name).rpartition(".")[0] or str(name) for name in shown.index]
    figure = go.Figure()
    sources = shown_sources(instruments)
    for source in sources:
        bar = go.Bar(x=shown[source].to_numpy(np.float64), y=names, orientation="h", name=SOURCES[source])
        figure.add_trace(bar.update(marker_color=COLOURS[source], hovertemplate=f"%{{x:,.2f}} {quote}"))
    diamond = {"color": COLOURS["total"], "symbol": "diamond", "size": 8, "line": {"width": 1, "color": "#fff"}}
    total = go.Scatter(x=shown["total"].to_numpy(np.float64), y=names, mode="markers", name="Total", marker=diamond)
    figure.add_trace(total.update(hovertemplate=f"%{{x:,.2f}} {quote}"))
    figure.update_layout(barmode="relative", hovermode="y unified")
    _named_rows(figure, len(shown))
    figure.update_xaxes(title=f"Earned, {quote}", tickformat=_amounts(shown[sources]), showgrid=True, zeroline=True)
    return _finish(figure, 110 + 22 * max(len(shown), 3))


def information_coefficient(correlations: pd.DataFrame, window: str) -> go.Figure:
    """Rolling mean of IC and rank IC, above their cumulated sum.

    `correlations` is `Measures.ic`; `window` names the rolling window for the axis, such as `7 days`.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.5, 0.5], vertical_spacing=0.08)
    for row, (kind, hover) in enumerate((("rolling", "%{y:.4f}"), ("cumulated", "%{y:.2f}")), start=1):
        frame = thin(correlations[[f"rank_ic_{kind}", f"ic_{kind}"]])
        for name, label in (("rank_ic", "Rank IC"), ("ic", "IC")):
            line = {"color": COLOURS[name], "width": 1.5}
            trace = _line(frame[f"{name}_{kind}"], label, line, hover)
            figure.add_trace(trace.update(legendgroup=name, showlegend=row == 1), row=row, col=1)
    figure.update_yaxes(title=f"IC, mean of {window}", tickformat=".2~f", zeroline=True, row=1, col=1)
    figure.update_yaxes(title="IC, cumulated", tickformat="~g", zeroline=True, row=2, col=1)
    return _finish(figure, 420)


def period_returns(periods: pd.DataFrame, period: str) -> go.Figure:
    """Net return of each day, week or month, gains and losses apart; `periods` is `Measures.periods`."""
    values = periods["returns"].to_numpy(np.float64)
    colours = np.where(values >= 0, COLOURS["gain"], COLOURS["loss"]).tolist()
    figure = _bars(periods.index, values, colours, "%{y:+.2%}", f"{period.capitalize()} return", period)
    figure.update_yaxes(title=f"Return a {period}", tickformat=_percent(periods[["returns"]]))
    if not periods["returns"].any():
        figure.update_yaxes(range=[-0.01, 0.01])  # nothing to scale by
    return _finish(figure, 300)


def turnover(periods: pd.DataFrame, period: str) -> go.Figure:
    """Traded notional of each day, week or month as a multiple of equity; `periods` is `Measures.periods`."""
    values = periods["turnover"].to_numpy(np.float64)
    figure = _bars(periods.index, values, COLOURS["strategy"], "%{y:.2f}" + TIMES, "Turnover", period)
    figure.update_yaxes(title=f"Times equity a {period}", tickformat=".2~f", ticksuffix=TIMES, rangemode="tozero")
    return _finish(figure, 300)


def feature_importance(importance: pd.Series[float]) -> go.Figure:
    """The 30 features the model gained most from; `importance` is `Measures.importance`, shares of the total gain."""
    top = importance.head(TOP_FEATURES)
    names = [str(name) for name in top.index]
    bar = go.Bar(x=top.to_numpy(np.float64), y=names, orientation="h", name="Share of gain", showlegend=False)
    figure = go.Figure(bar.update(marker_color=COLOURS["strategy"], hovertemplate="%{x:.2%}"))
    figure.update_layout(hovermode="y unified")
    _named_rows(figure, len(top))
    figure.update_xaxes(title="Share of total gain", tickformat=".1~%", showgrid=True, rangemode="tozero")
    return _finish(figure, 80 + 19 * max(len(top), 4))


def _line(values: pd.Series[float], name: str, line: dict[str, object], hover: str) -> go.Scatter:
    return go.Scatter(
        x=values.index.to_numpy(),
        y=values.to_numpy(np.float64),
        name=name,
        mode="lines",
        line=line,
        hovertemplate=hover,
    )


def _bars(
    times: pd.Index, values: NDArray[np.float64], colour: str | list[str], hover: str, name: str, period: str
) -> go.Figure:
    figure = go.Figure(
        go.Bar(x=times.to_numpy(), y=values, marker_color=colour, name=name, hovertemplate=hover, showlegend=False)
    )
    if period == "month":
        figure.update_traces(xperiod="M1", xperiodalignment="middle")
    return figure.update_xaxes(
        hoverformat={"day": "%a %Y-%m-%d", "week": "week from %Y-%m-%d", "month": "%B %Y"}[period]
    )


def _named_rows(figure: go.Figure, count: int) -> None:
    """One row a name, the first on top, without the room that markers would add at both ends."""
    figure.update_yaxes(range=[count - 0.4, -0.6], showgrid=False, tickfont={"size": 11}, dtick=1)
    figure.update_xaxes(hoverformat="")  # the template's is for times


def _percent(frame: pd.DataFrame) -> str:
    """Whole percents where they tell ticks apart, otherwise one or two decimals."""
    values = frame.to_numpy(np.float64)
    span = float(np.nanmax(values) - np.nanmin(values)) if np.isfinite(values).any() else 1.0
    return ".0%" if span >= 0.08 else ".1%" if span >= 0.008 else ".2%"  # noqa: PLR2004 - about four ticks a span


def _amounts(frame: pd.DataFrame) -> str:
    """`20k` from a thousand on, plain numbers below (where the short form would write a half as 500m)."""
    return "~s" if float(np.nan_to_num(np.abs(frame.to_numpy(np.float64))).max(initial=0.0)) >= 1000 else ",.2~f"  # noqa: PLR2004 - as said


def _finish(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(template=template("light"), height=height)
    if not any(trace.showlegend is not False for trace in figure.data):
        figure.update_layout(margin_t=8)  # no room for a legend that is not there
    return figure
