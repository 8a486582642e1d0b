# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Data tour
#
# What lies in the Qlib provider: frequencies, instruments, bars, funding, and where something is missing.
# The provider is `provider_dir` of `config.yaml`; set `QLIB_CRYPTO_PROVIDER_DIR` for another one, such as the one that
# `scripts/demo.sh` made, and `TOUR_FREQ` for other bars than hours.

# %%
import os
from pathlib import Path

# the settings name folders relative to the repository, wherever this notebook was opened
os.chdir(next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "workflows").is_dir()))

import pandas as pd
import plotly.graph_objects as go
import plotly.io
import qlib
from qlib.constant import REG_CN
from qlib.data import D

from qlib_crypto.provider.manifest import read_manifest
from qlib_crypto.report.theme import COLOURS, template
from qlib_crypto.settings import load_settings
from qlib_crypto.stats.returns import steps_in_year

plotly.io.templates["qlib_crypto"] = template("light").update(layout_margin_t=72)  # room for a title and a legend
plotly.io.templates.default = "qlib_crypto"
plotly.io.renderers.default = "plotly_mimetype+notebook"  # plotly.js inside, so that an HTML export opens offline

settings = load_settings()
freq = os.environ.get("TOUR_FREQ", "60min")
qlib.init(provider_uri=str(settings.provider_dir), region=REG_CN, kernels=1, logging_level=30)

# %% [markdown]
# ## What is stored
#
# Every frequency has its own calendar: the complete grid of a market that never closes, in UTC. A bar is named by its
# open. A market file lists who was in it, and when.

# %%
manifest = read_manifest(settings.provider_dir)
calendars = {name: D.calendar(freq=name) for name in manifest.frequencies}
pd.DataFrame(
    {name: {"first bar": times[0], "last bar": times[-1], "bars": len(times)} for name, times in calendars.items()}
).T

# %%
markets = sorted(path.stem for path in (settings.provider_dir / "instruments").glob("*.txt"))
market = next(name for name in (f"okx_{freq}", f"binance_{freq}", "all") if name in markets)
spans = D.list_instruments(D.instruments(market), freq=freq)
print("markets:", ", ".join(markets))
print(f"{market}: {len(spans)} instruments")
pd.DataFrame(
    [(name, start, end) for name, parts in spans.items() for start, end in parts], columns=["instrument", "from", "to"]
).sort_values("instrument", ignore_index=True)

# %% [markdown]
# ## Bars
#
# Any expression of Qlib works on the fields. Prices are quote per base, `$volume` is in base coins, `$amount` in quote
# coins. A missing bar is NaN; nothing is ever filled in.

# %%
times = calendars[freq]
names = sorted(spans)
leader = next((name for name in names if name.startswith("BTC_")), names[0])
bars = D.features([leader], ["$open", "$high", "$low", "$close", "$volume", "$amount"], freq=freq).droplevel(0)
bars.tail()

# %%
last = bars.tail(14 * 24)
candles = go.Candlestick(
    x=last.index, open=last["$open"], high=last["$high"], low=last["$low"], close=last["$close"],
    increasing_line_color=COLOURS["gain"], decreasing_line_color=COLOURS["loss"],
)  # fmt: skip
go.Figure(candles).update_layout(
    title=leader, xaxis_rangeslider_visible=False, yaxis_title="quote per base", hovermode="closest", height=380
)

# %% [markdown]
# ## Funding
#
# Longs pay shorts a positive rate, at each settlement, on the notional then. `$funding` is the sum of the rates settled
# inside a bar: 0 when there was none, NaN when it is not known. `$funding_rate` is the last settled rate that was known
# at the bar's open, and `$funding_interval` its hours: those are for features, the others for cash. `known` is the share
# of an instrument's own bars; fewer than 90 known days are not made into a year's figure.

# %%
funding = D.features(names, ["$funding", "$funding_rate", "$funding_interval"], freq=freq)
rates = funding["$funding"].unstack(level="instrument")
known = rates.notna()
bar_ms = manifest.grid(freq).interval.ms
alive = pd.DataFrame(
    {name: (rates.index >= parts[0][0]) & (rates.index <= parts[-1][1]) for name, parts in spans.items()}
)
enough = known.sum() * bar_ms >= 90 * 24 * 3_600_000
table = pd.DataFrame(
    {
        "known": known.sum() / alive.sum(),
        "settlements": (rates.fillna(0) != 0).sum(),
        "hours between": funding["$funding_interval"].groupby(level="instrument").median(),
        "paid by a long": rates.sum(min_count=1),
        "a year": (rates.sum() / known.sum() * steps_in_year(bar_ms)).where(enough),
    }
)
shares = {"known": "{:.1%}", "hours between": "{:g}", "paid by a long": "{:+.2%}"}
styled = table.sort_values("paid by a long").style.format(shares, na_rep="no data")
styled.format("{:+.2%}", subset=["a year"], na_rep="under 90 days")

# %%
shown = table["paid by a long"].abs().nlargest(6).index
told = rates.loc[known.any(axis=1)]
paid = go.Figure(
    [go.Scatter(x=told.index, y=told[name].cumsum(), name=name, mode="lines", line_width=1.5) for name in shown]
)
paid.update_layout(title="What a long paid since the start: the six with the most funding", height=360)
paid.update_yaxes(tickformat=".2~%", title="of notional")

# %% [markdown]
# ## Coverage
#
# The share of each day's bars that are there (above) and whose funding is known (below). White is nothing: not listed,
# not collected, or a venue that was down.

# %%
close = D.features(names, ["$close"], freq=freq)["$close"].unstack(level="instrument").reindex(times)


def coverage(present: pd.DataFrame, title: str) -> go.Figure:
    """A heat map of the share of present values, instrument by day."""
    daily = present.groupby(present.index.floor("D")).mean().T
    cells = go.Heatmap(
        z=daily.to_numpy(), x=daily.columns, y=[name.rpartition(".")[0] for name in daily.index], zmin=0, zmax=1,
        colorscale=[[0, "#ffffff"], [1, COLOURS["strategy"]]], colorbar={"tickformat": ".0%", "thickness": 12},
        hovertemplate="%{y} %{x|%Y-%m-%d}: %{z:.1%}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(cells).update_layout(title=title, height=110 + 18 * len(daily), hovermode="closest")
    return figure.update_yaxes(autorange="reversed", showgrid=False, dtick=1)


coverage(close.notna(), f"Bars, {freq}")

# %%
coverage(rates.reindex(times).notna(), "Known funding")
