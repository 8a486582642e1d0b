"""The look of the figures: colours that colour-blind readers can tell apart on white and on black, and two templates.

Hues follow Okabe and Ito (2008), each at least 3:1 against both page backgrounds (WCAG 2.2, graphics).
"""

from __future__ import annotations

from typing import Literal

import plotly.graph_objects as go

__all__ = ["COLOURS", "FONT", "LINES", "template"]

COLOURS = {
    "strategy": "#2f81d6",
    "btc": "#d97a1e",
    "equal": "#868e98",
    "price": "#12a07a",
    "funding": "#d97a1e",
    "fee": "#c05a9e",
    "slippage": "#a08c00",
    "liquidation": "#c0392b",
    "total": "#2f81d6",
    "gain": "#2f81d6",
    "loss": "#d97a1e",
    "rank_ic": "#2f81d6",
    "ic": "#d97a1e",
    "net": "#d97a1e",
    "gross": "#2f81d6",
}
#: For lines without a meaning of their own, in order.
LINES = ("#2f81d6", "#d97a1e", "#12a07a", "#c05a9e", "#868e98", "#a08c00")
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

_INK = {"light": ("#3d4650", "#e3e7ec", "#a9b2bc", "#ffffff"), "dark": ("#c3cbd5", "#2a313a", "#5b6570", "#171c22")}


def template(mode: Literal["light", "dark"]) -> go.layout.Template:
    """The layout that every figure starts from; a page swaps it when the reader's colour scheme changes."""
    ink, grid, zero, paper = _INK[mode]
    axis = {
        "gridcolor": grid,
        "zerolinecolor": zero,
        "zerolinewidth": 1,
        "linecolor": zero,
        "ticks": "",
        "ticklabelstandoff": 5,
        "automargin": True,
        "title": {"font": {"size": 12}, "standoff": 8},
        "tickfont": {"size": 12},
    }
    layout = go.Layout(
        font={"family": FONT, "size": 13, "color": ink},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis=axis | {"showgrid": False, "showline": True, "hoverformat": "%Y-%m-%d %H:%M UTC"},
        yaxis=axis | {"showline": False},
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "font": {"size": 12}},
        title={"x": 0, "xanchor": "left", "xref": "paper", "font": {"size": 16}},
        margin={"l": 8, "r": 12, "t": 34, "b": 8},
        hovermode="x unified",
        hoverlabel={"bgcolor": paper, "bordercolor": grid, "font": {"family": FONT, "size": 12, "color": ink}},
        separators=".,",
        colorway=LINES,
        dragmode="zoom",
        bargap=0.15,
    )
    return go.layout.Template(layout=layout)
