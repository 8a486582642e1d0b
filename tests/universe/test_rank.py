from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_lake import BTC, ETH, T0, FakeVenue, estimate, spec

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.errors import ConfigError, DataError, VenueError
from qlib_crypto.lake.sql import query
from qlib_crypto.schemas import MEMBERSHIP, Ticker
from qlib_crypto.settings import UniverseSettings
from qlib_crypto.symbols import Instrument, Venue
from qlib_crypto.universe import membership_spans, rank, read_universe, universe_path, update_universe

SOL, XRP, ADA, PI = (Instrument(base, "USDT", Venue.OKX) for base in ("SOL", "XRP", "ADA", "PI"))


def ticker(of, turnover):
    return Ticker(of, 1.0, turnover, T0)


def test_the_largest_absolute_rate_is_first_and_the_first_size_are_members():
    rates = {BTC: 1e-4, ETH: -5e-4, SOL: 3e-4, XRP: 0.0}
    ranked = rank([estimate(of=of, rate=rate) for of, rate in rates.items()], [spec(of) for of in rates], [], size=2)
    assert [(r.symbol, r.rank, r.member) for r in ranked] == [
        ("ETH_USDT", 1, True), ("SOL_USDT", 2, True), ("BTC_USDT", 3, False), ("XRP_USDT", 4, False),
    ]  # fmt: skip
    assert ranked[0].funding_rate == -5e-4


def test_only_live_crypto_perpetuals_that_are_no_pre_market_and_have_a_rate_are_ranked():
    specs = [
        spec(BTC), spec(ETH, state="suspend"), spec(SOL, category="other"), spec(XRP, rule_type="pre_market"),
        spec(ADA),
    ]  # fmt: skip
    quotes = [estimate(of=of) for of in (BTC, ETH, SOL, XRP, PI)]  # PI is not listed, ADA has no rate
    assert [r.instrument for r in rank(quotes, specs, [], size=50)] == [BTC]


def test_equal_rates_go_by_turnover_then_by_symbol():
    of = [SOL, XRP, ADA, BTC]
    quotes = [estimate(of=i, rate=(-1) ** k * 1e-4) for k, i in enumerate(of)]
    tickers = [ticker(XRP, 5.0), ticker(SOL, 1.0), ticker(ADA, 1.0)]
    assert [r.instrument for r in rank(quotes, [spec(i) for i in of], tickers, size=9)] == [XRP, ADA, SOL, BTC]


def test_per_8h_normalises_by_the_interval():
    quotes = [estimate(rate=8e-4, hours=8.0), estimate(of=ETH, rate=2e-4, hours=1.0), estimate(of=SOL, rate=5e-4)]
    quotes[2] = quotes[2]._replace(interval_hours=None)
    specs = [spec(BTC), spec(ETH), spec(SOL)]
    assert [r.instrument for r in rank(quotes, specs, [], size=9)] == [BTC, SOL, ETH]
    assert [r.instrument for r in rank(quotes, specs, [], size=9, per_8h=True)] == [ETH, BTC, SOL]
    first, _, last = rank(quotes, specs, [], size=9, per_8h=True)
    assert (first.funding_rate, first.rate_per_8h) == (2e-4, pytest.approx(1.6e-3))  # the record keeps what was quoted
    assert last.rate_per_8h == last.funding_rate == 5e-4  # an unknown interval counts as 8 h


@given(
    st.dictionaries(
        st.sampled_from([BTC, ETH, SOL, XRP, ADA, PI]),
        st.tuples(st.sampled_from([-2e-4, -1e-4, 0.0, 1e-4, 2e-4]), st.sampled_from([1.0, 2.0])),
    ),
    st.integers(1, 7),
    st.randoms(),
)
def test_the_order_of_the_answers_does_not_matter(rows, size, random):
    quotes = [estimate(of=of, rate=rate) for of, (rate, _) in rows.items()]
    tickers = [ticker(of, turnover) for of, (_, turnover) in rows.items()]
    specs = [spec(of) for of in rows]
    first = rank(quotes, specs, tickers, size=size)
    for some in (quotes, tickers, specs):
        random.shuffle(some)
    assert rank(quotes, specs, tickers, size=size) == first
    keys = [(-abs(rows[r.instrument][0]), -rows[r.instrument][1], r.symbol) for r in first]
    assert keys == sorted(keys)
    assert sum(r.member for r in first) == min(size, len(rows))


def venue_with(rates, now_ms=T0):
    client = FakeVenue(now_ms=now_ms)
    client.list(*(spec(of, seen_ms=now_ms) for of in rates))
    client.quotes = {of: estimate(now_ms, of=of, rate=rate) for of, rate in rates.items()}
    return client


def test_update_writes_the_list_and_its_reasons(lake, tmp_path):
    settings = UniverseSettings(size=2)
    rows = update_universe(lake, venue_with({BTC: 1e-4, ETH: 2e-4, SOL: 3e-4}), settings, tmp_path)
    assert json.loads((tmp_path / "top50_symbols.json").read_text()) == ["SOL_USDT", "ETH_USDT"]
    assert read_universe(universe_path(tmp_path, Venue.OKX), Venue.OKX) == [SOL, ETH]
    (record,) = (lake.folder(Venue.OKX) / "universe").iterdir()
    assert record.name == "membership_20250401T000000.parquet"
    assert pq.ParquetFile(record).schema_arrow.remove_metadata().equals(MEMBERSHIP)
    answer = query(lake, "select symbol, rank, member, funding_rate, interval_hours, turnover_quote from membership")
    assert answer.to_numpy().tolist() == [
        ["SOL_USDT", 1, True, 3e-4, 8.0, 1e6], ["ETH_USDT", 2, True, 2e-4, 8.0, 1e6],
        ["BTC_USDT", 3, False, 1e-4, 8.0, 1e6],
    ]  # fmt: skip
    assert len(rows) == 3
    assert set(lake.specs(Venue.OKX)) == {BTC, ETH, SOL}


def test_binance_has_a_list_of_its_own(tmp_path):
    assert universe_path(tmp_path, Venue.BINANCE).name == "top50_symbols.binance.json"


def test_what_goes_wrong_leaves_the_old_list(lake, tmp_path):
    settings = UniverseSettings(size=2)
    update_universe(lake, venue_with({BTC: 1e-4}), settings, tmp_path)
    empty = venue_with({})
    with pytest.raises(DataError, match="stays as it is"):
        update_universe(lake, empty, settings, tmp_path)
    broken = venue_with({ETH: 1e-4})

    def gone():
        raise VenueError("okx does not answer", retryable=True)

    broken.tickers = gone
    with pytest.raises(VenueError):
        update_universe(lake, broken, settings, tmp_path)
    assert read_universe(universe_path(tmp_path, Venue.OKX), Venue.OKX) == [BTC]


@pytest.mark.parametrize("what", ["quotes", "tickers"])
@pytest.mark.parametrize(
    ("live", "answered", "enough"),
    [(60, 2, False), (60, 56, False), (60, 57, True), (3, 2, True), (3, 1, False), (1, 0, False)],
)
def test_half_an_answer_is_no_ranking(lake, tmp_path, what, live, answered, enough):
    coins = [Instrument(f"C{n}", "USDT", Venue.OKX) for n in range(live)]
    update_universe(lake, venue_with(dict.fromkeys(coins, 1e-4)), UniverseSettings(), tmp_path)
    before = (tmp_path / "top50_symbols.json").read_text()
    client = venue_with(dict.fromkeys(coins, 2e-4), T0 + 8 * HOUR_MS)
    if what == "quotes":
        client.quotes = {of: client.quotes[of] for of in coins[:answered]}
    else:
        client.tickers = lambda: [ticker(of, 1.0) for of in coins[:answered]]
    if enough:
        assert update_universe(lake, client, UniverseSettings(), tmp_path)
        return
    with pytest.raises(DataError, match=rf"of only {answered} of {live} live.*stays as it is, rank later"):
        update_universe(lake, client, UniverseSettings(), tmp_path)
    assert (tmp_path / "top50_symbols.json").read_text() == before
    assert len(set(lake.memberships(Venue.OKX).column("timestamp").to_pylist())) == 1


def test_spans_open_and_close_with_the_rankings(lake, tmp_path):
    settings = UniverseSettings(size=1)
    assert membership_spans(lake, Venue.OKX) == {}
    for hour, best in enumerate([BTC, ETH, ETH, BTC, SOL]):
        client = venue_with({of: 2e-4 if of == best else 1e-4 for of in (BTC, ETH, SOL)}, T0 + hour * 8 * HOUR_MS)
        update_universe(lake, client, settings, tmp_path)
    at = [T0 + k * 8 * HOUR_MS for k in range(5)]
    assert membership_spans(lake, Venue.OKX) == {
        "BTC_USDT": [(at[0], at[1]), (at[3], at[4])], "ETH_USDT": [(at[1], at[3])], "SOL_USDT": [(at[4], None)],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "rank --venue okx"),
        ("[", "no JSON"),
        ("{}", "no array"),
        ("[]", "no array"),
        ("[1]", "no array"),
        ('["BTC-USDT-SWAP"]', "BASE_QUOTE"),
        ('["BTC_USDT.BINANCE"]', "not on okx"),
    ],
)
def test_a_list_that_cannot_be_read_says_why(tmp_path, text, words):
    path = tmp_path / "top50_symbols.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        read_universe(path, Venue.OKX)
    assert "\n" not in str(error.value)
