"""The page: whole, self-contained, honest and safe, for good runs and odd ones."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from qlib_crypto.report.figures import TIMES
from qlib_crypto.report.html import page
from qlib_crypto.report.measures import measure
from qlib_crypto.report.summary import summarise

VOID = {"meta", "br", "img", "link", "input"}


class Reader(HTMLParser):
    """Checks that tags nest, and keeps text, attributes and scripts."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.attributes, self.scripts = [], [], [], {}

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        self.script = dict(attrs).get("id", "code") if tag == "script" else None
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.script = None

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[self.script] = self.scripts.get(self.script, "") + data
        elif data.strip():
            self.texts.append(" ".join(data.split()))


def read(run):
    measures = measure(run)
    text = page(run, measures, summarise(run, measures))
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return text, reader


@pytest.fixture(scope="module")
def whole(run):
    return read(run)


def test_headline_numbers_are_written_as_people_write_them(run, whole):
    summary = summarise(run, measure(run))
    texts = whole[1].texts
    net = f"{100 * abs(summary['net_return']):.2f}%"
    assert ("+" if summary["net_return"] > 0 else "\N{MINUS SIGN}") + net in texts
    assert f"{summary['trades']:,}" in texts
    assert "\N{MINUS SIGN}0.00%" not in texts
    for label in ("Net return", "Sharpe, annualised", "Maximum drawdown", "Rank IC", "Fees", "Funding, net"):
        assert label in texts
    for fact in (
        "2025-02-11 00:00 to 2025-03-23 00:00 UTC",
        "30 instruments predicted",
        "steps of 1 hour",
        "market okx_60min",
    ):
        assert fact in texts


def test_nothing_is_fetched(whole):
    text, reader = whole
    for tag, name, value in reader.attributes:
        assert name not in {"src", "href", "srcset"}, (tag, name, value)
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert "url(" not in text[: text.index("</style>")]


def test_a_table_wider_than_the_screen_scrolls_by_itself(whole):
    assert whole[0].count("<table") == whole[0].count('<div class="scroll"><table') == 6


def test_plotly_is_inlined_once(whole):
    assert whole[0].count("plotly.js v") == 1


def test_every_place_has_its_figure(whole):
    reader = whole[1]
    places = [value for tag, name, value in reader.attributes if name == "data-plot"]
    assert places == [
        "equity", "periods", "attribution", "instruments", "exposure", "turnover", "capacity", "ic", "importance",
    ]  # fmt: skip
    for key in places:
        figure = json.loads(reader.scripts[f"plot-{key}"])
        assert figure["data"]
        assert not figure["layout"].get("template")  # the page brings its own
    assert set(json.loads(reader.scripts["theme-dark"])) == set(json.loads(reader.scripts["theme-light"]))


def test_every_assumption_is_on_the_page(run, whole):
    joined = " ".join(whole[1].texts)
    for words in (
        "okx_60min", "0.05%", "0.02%", "98.73% of the bars", "90.0% derived from the prices, not stated by the venue",
        "untradable: nothing is opened or added to", "99.4% at the trade price of the minute",
        "makes the past look better than it was",
        "funding_rate_mean_168, funding_rate_std_168", run.data_hash, run.run_id, "below the minimum size: 312",
        "at the bar's open", "LGBModel, seed 7", "no maintenance margin",
    ):  # fmt: skip
        assert words in joined, words


def test_an_assumption_nobody_foresaw_is_shown_too(run):
    _, reader = read(dataclasses.replace(run, assumptions={"moon_phase": {"full": 3, "new": None}}))
    assert "Moon phase" in reader.texts
    assert "full: 3; new: \N{EN DASH}" in reader.texts


def test_the_same_run_gives_the_same_bytes(run, whole):
    assert read(run)[0] == whole[0]


def test_names_cannot_break_out(run):
    evil = "</script><script>alert(1)</script>"
    gain = run.feature_importance.rename({run.feature_importance.idxmax(): evil})
    fills = run.fills.assign(instrument=run.fills["instrument"].replace("BTC_USDT.OKX", evil))
    text, reader = read(dataclasses.replace(run, name=evil, feature_importance=gain, fills=fills))
    assert evil not in text
    assert evil in reader.texts
    assert sorted(reader.scripts) == sorted(
        [*(f"plot-{k}" for k in _plots(reader)), "theme-dark", "theme-light", "code"]
    )


def _plots(reader):
    return [value for _, name, value in reader.attributes if name == "data-plot"]


def test_no_trade(make_run):
    _, reader = read(make_run(days=5, trading=False))
    assert any(text.startswith("No trade was made") for text in reader.texts)
    assert "equity never fell" in reader.texts
    assert "instruments" not in _plots(reader)


def test_one_symbol(make_run):
    _, reader = read(make_run(days=5, names=1))
    assert "1 instrument predicted" in reader.texts
    assert any("Only one instrument is predicted" in text for text in reader.texts)
    assert "not defined for this run" in reader.texts
    assert "ic" not in _plots(reader)


def test_no_funding(make_run):
    _, reader = read(make_run(days=5, funding=False))
    assert any(text.startswith("No funding was settled") for text in reader.texts)
    assert "0 paid, 0 received; known on 98.7% of bars" in reader.texts


def test_constant_predictions_and_missing_labels(run):
    for fields in ({"prediction": run.prediction * 0}, {"label": run.label * np.nan}, {"label": None}):
        _, reader = read(dataclasses.replace(run, **fields))
        assert "ic" not in _plots(reader)
        assert any("no IC" in text or "learned nothing" in text for text in reader.texts)


def test_a_month_only(make_run):
    _, reader = read(make_run(days=12))
    columns = reader.texts[reader.texts.index("Return by month") :][2:5]
    assert columns == ["Year", "Feb", "2025"]


def test_several_years(make_run):
    _, reader = read(make_run(days=1000, freq="1D", names=6))
    assert "Return by month" in reader.texts
    assert all(name in reader.texts for name in ("Jan", "Dec", "2025", "2026", "2027"))


def test_a_single_step_and_bare_data(make_run):
    bare = {"assumptions": {}, "feature_importance": None, "dropped_features": (), "seconds": {}, "setup": {},
            "prediction": None, "label": None, "run_id": None, "data_hash": None}  # fmt: skip
    _, reader = read(make_run(bare, days=1 / 24))
    assert "one step" in reader.texts
    assert "Seconds a stage" not in reader.texts


def test_hundreds_of_instruments_are_cut_in_the_table_but_not_in_its_total(run):
    copies = [run.fills.assign(instrument=run.fills["instrument"].str.replace("_", f"{n}_")) for n in range(4)]
    fills = pd.concat(copies, ignore_index=True)
    text, reader = read(dataclasses.replace(run, fills=fills))
    rows = re.findall(r'<th scope="row">[A-Z]+\d?_USDT', text)
    assert len(rows) == 60
    assert any("in the middle are left out" in t for t in reader.texts)
    assert f"{len(fills):,}" in reader.texts


def test_the_page_names_its_run_time_and_code(run):
    fields = {"started": "2025-06-01 08:30:12", "commit": "77aa1e3abc"}
    _, reader = read(dataclasses.replace(run, **fields))
    assert f"run {run.run_id[:8]} of 2025-06-01 08:30 UTC" in reader.texts
    assert "qlib-crypto 0.1.0 at 77aa1e3abc" in reader.texts
    assert run.run_id in reader.texts


def test_annualised_figures_of_a_short_test_are_grey(make_run):
    for days, grey in ((40, 5), (91, 0)):
        text, reader = read(make_run(days=days, freq="4h", names=6))
        assert len(re.findall(r'<dd class="(?:value )?faint">', text)) == grey
        assert any(words.endswith(f"short test: {days} days") for words in reader.texts) == (grey > 0)


def test_amounts_that_are_read_together_have_the_same_digits(run):
    _, reader = read(run)
    paid, received = re.search(r"(\S+) paid, (\S+) received", " ".join(reader.texts)).groups()
    assert "." not in paid + received


def test_every_number_on_hover_has_a_format_that_plotly_understands(whole):
    reader = whole[1]
    for key in _plots(reader):
        for trace in json.loads(reader.scripts[f"plot-{key}"])["data"]:
            number, unit = re.fullmatch(r"%\{[xy]:(.*?)\}(.*)", trace["hovertemplate"]).groups()
            assert re.fullmatch(r",?\.\df|\+?\.\d%", number), "plotly shows all digits for a sign and a comma together"
            assert unit == {"attribution": " USDT", "instruments": " USDT", "exposure": TIMES, "turnover": TIMES}.get(
                key, ""
            )
    for template in ("theme-light", "theme-dark"):
        assert json.loads(reader.scripts[template])["layout"]["xaxis"]["hoverformat"].endswith("UTC")
