"""The assumptions box: on what a run's numbers rest, as headings with labels and texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from qlib_crypto.report import formats
from qlib_crypto.report.data import ReportData
from qlib_crypto.report.measures import Measures
from qlib_crypto.report.universe import rule, survivorship

__all__ = ["Group", "assumptions"]

_PRICES = {
    "mark": "at the venue's mark price",
    "trade": "at the trade price of the minute",
    "unknown": "without a price",
}
_PRICE_RULE = (
    "a settlement costs rate x position x price: the venue's mark price where its history states it, else the open of "
    "the settlement's minute in the bars; without either its cost is unknown, and where the settings accept that, the "
    "position's last known price is paid"
)
_RULES = {
    "venue": "as the venue stated them",
    "file": "from the tape's file",
    "derived": "derived from the prices, not stated by the venue",
    "generated": "of a generated market, made up with it",
    "assumed": "unknown: every size was taken",
}
_TIERS = {
    "venue": "as the venue published them",
    "file": "from a file",
    "assumed": "assumed by turnover, stricter than venues publish",
}
_MISSING = {
    "error": "error: the backtest stops when funding is unknown while a position is held",
    "untradable": "untradable: nothing is opened or added to while an instrument's funding is unknown, and what is "
    "held is closed at the next price; what was due until then (a settlement at the first unknown bar's open, bars "
    "without a price) counts as none",
    "zero": "zero: unknown funding counts as none",
}


class Group(NamedTuple):
    """One heading of the box with its lines."""

    title: str
    lines: list[tuple[str, str]]


def assumptions(data: ReportData, measures: Measures, summary: Mapping[str, Any]) -> list[Group]:
    """The groups of the box; every key of the run's own assumptions is in one of them, an unknown one under `Other`."""
    groups = {
        "Data": [
            ("Span", formats.span(measures.equity.index[0], measures.equity.index[-1])),
            ("Predictions", _predictions(measures, summary)),
            ("Lake content hash", data.data_hash or formats.NONE),
        ],
        "Strategy": [
            (_STRATEGY.get(key, formats.words(key).capitalize()), formats.text(value))
            for key, value in data.strategy.items()
        ],
        "Model": [
            *data.setup.items(),
            ("Features dropped, no value in training", formats.text(list(data.dropped_features))),
        ],
        "Universe": [],
        "Costs and execution": [],
        "Funding": [("Settled on our positions", _settlements(data, measures))],
        "Other": [],
    }
    for key, value in data.assumptions.items():
        title, label, form = _PLACES.get(key, ("Other", formats.words(key).capitalize(), formats.text))
        if label:
            groups[title].append((label, form(value)))
    if data.universe:
        groups["Universe"].append(("Members", rule(data.universe)))
    groups["Universe"].append(("Survivorship", survivorship(data.universe, str(measures.equity.index[0]))))
    if "funding_price" in data.assumptions:
        groups["Funding"].append(("What that price is", _PRICE_RULE))
    groups["Run"] = [
        ("Run", data.run_id or formats.NONE),
        ("Started", f"{data.started} UTC" if data.started else formats.NONE),
        ("Version", f"qlib-crypto {data.version}" + (f", commit {data.commit}" if data.commit else "")),
    ]
    return [Group(title, lines) for title, lines in groups.items() if lines]


def _predictions(measures: Measures, summary: Mapping[str, Any]) -> str:
    if not summary["rows"]:
        return formats.NONE
    counted = f"{formats.integer(summary['rows'])} at {formats.integer(summary['bars'])} timestamps"
    return f"{counted}; {formats.percent(measures.unlabelled)} without a label"


def _settlements(data: ReportData, measures: Measures) -> str:
    if data.funding.empty:
        return "none"
    marks = measures.settlement_marks.items()
    sources = "; ".join(f"{formats.integer(count)} {str(source).removeprefix('provider ')}" for source, count in marks)
    return f"{formats.integer(len(data.funding))} on {data.funding['instrument'].nunique()} instruments ({sources})"


def _counted(names: Mapping[str, str]) -> Callable[[Any], str]:
    def form(value: Any) -> str:
        if not isinstance(value, Mapping):
            return formats.text(value)
        total = sum(value.values()) or 1
        shares = (
            f"{'all' if n == total else formats.percent(n / total, 1)} {names.get(str(k), str(k))}"
            for k, n in value.items()
            if n
        )
        return "; ".join(shares) or "none"

    return form


def _rate(value: Any) -> str:
    return (
        formats.percent(value, 4).rstrip("%").rstrip("0").rstrip(".") + "%" if isinstance(value, float) else str(value)
    )


def _share(value: Any) -> str:
    return f"{formats.percent(value)} of the bars" if isinstance(value, float) else formats.text(value)


def _one_of(words: Mapping[str, str]) -> Callable[[Any], str]:
    return lambda value: words.get(str(value), formats.text(value))


def _times(value: Any) -> str:
    return formats.times(float(value)) if isinstance(value, int | float) else "unlimited"


#: Labels of the usual settings of a strategy.
_STRATEGY = {
    "topk": "Names a leg (topk)",
    "rebalance_every": "Rebalanced every (rebalance_every), bars",
    "drop_buffer": "Kept within topk + (drop_buffer)",
    "gross_exposure": "Longs plus shorts over equity (gross_exposure)",
}
_COSTS = "Costs and execution"

#: Group, label and form of each key of `perp_assumptions`; without a label the page shows it elsewhere.
_PLACES: dict[str, tuple[str, str, Callable[[Any], str]]] = {
    "start": ("Data", "", formats.text),
    "end": ("Data", "", formats.text),
    "freq": ("Data", "Step", formats.text),
    "bars": ("Data", "Bars of the universe in the span", formats.text),
    "market": ("Universe", "Market", formats.text),
    "instruments": ("Universe", "Instruments listed in the test", formats.text),
    "instruments_with_bars": ("Universe", "Of these with bars in the test", formats.text),
    "delisting": ("Universe", "Delisting", formats.text),
    "benchmarks": ("Universe", "Benchmarks", formats.text),
    "account": (_COSTS, "Starting equity", formats.text),
    "taker_fee": (_COSTS, "Taker fee", _rate),
    "maker_fee": (_COSTS, "Maker fee", _rate),
    "fee_paid": (_COSTS, "Fee paid as", formats.text),
    "deal_price": (_COSTS, "Fills", formats.text),
    "slippage": (_COSTS, "Slippage", _rate),
    "order_rules": (_COSTS, "Lot and minimum sizes", _counted(_RULES)),
    "max_gross_leverage": (_COSTS, "Leverage cap, gross", _times),
    "margin": (_COSTS, "Margin", formats.text),
    "leverage": (_COSTS, "Notional over initial margin, at most", _times),
    "margin_tiers": (_COSTS, "Margin tiers", _counted(_TIERS)),
    "liquidation_fee": (_COSTS, "What the venue keeps of a liquidation", _rate),
    "participation": (_COSTS, "Part of a bar's volume, at most", _rate),
    "orders": (_COSTS, "Orders", formats.text),
    "inside_a_bar": (_COSTS, "Inside a bar", formats.text),
    "walked_as_one": (_COSTS, "Not looked into", formats.text),
    "risk_limits": (_COSTS, "Risk limits of the account", formats.text),
    "sizing": (_COSTS, "Sizing", formats.text),
    "mark": (_COSTS, "Marking", formats.text),
    "precision": (_COSTS, "Precision", formats.text),
    "missing_funding": ("Funding", "Missing funding", _one_of(_MISSING)),
    "funding_coverage": ("Funding", "Known funding", _share),
    "funding_price": ("Funding", "Settlements in the span", _counted(_PRICES)),
    "notes": ("Other", "Decisions the backtest had to take", formats.text),
}
