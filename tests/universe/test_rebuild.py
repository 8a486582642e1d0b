"""The universe of the past, against oracles that know nothing of how it is computed."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_lake import BTC, ETH, T0, FakeVenue, estimate, settlement, spec

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, iso, parse_utc
from qlib_crypto.collect import import_data
from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.lake import Lake
from qlib_crypto.lake.snapshots import rebuilt
from qlib_crypto.lake.sql import query
from qlib_crypto.sandbox.generator import GeneratorConfig, GeneratorTape
from qlib_crypto.schemas import MEMBERSHIP, Settlement
from qlib_crypto.settings import ScheduleSettings, UniverseSettings
from qlib_crypto.symbols import Instrument, Venue
from qlib_crypto.universe import members, membership_spans, rankings, rebuild, update_universe
from qlib_crypto.universe.rebuild import ranking_times

SOL, XRP = (Instrument(base, "USDT", Venue.OKX) for base in ("SOL", "XRP"))
EIGHT, SIZE = 8 * HOUR_MS, 5
AFTER = 5 * MINUTE_MS  # the offset of a ranking from a settlement


def chosen(lake, venue, at_ms):
    """The members at a time, as the spans say it."""
    return {
        symbol
        for symbol, spans in membership_spans(lake, venue).items()
        if any(start <= at_ms and (end is None or at_ms < end) for start, end in spans)
    }


def store_funding(lake, rates, days=3, start=T0):
    """Settlements every 8 h, the rates as given."""
    lake.store([
        settlement(start + k * EIGHT, of=of, rate=rate) for of, rate in rates.items() for k in range(3 * days)
    ])  # fmt: skip


# ------------------------------------------------------------------------------------------- the market of known truth


@pytest.fixture(scope="module")
def tape():
    start = parse_utc("2025-01-01")
    return GeneratorTape(GeneratorConfig(Venue.BINANCE, start_ms=start, end_ms=start + 30 * DAY_MS, minute_days=0))


@pytest.fixture(scope="module")
def market(tape, tmp_path_factory):
    lake = Lake(tmp_path_factory.mktemp("market"))
    seen = tape.span_ms[1]
    lake.store_specs(Venue.BINANCE, [replace(one, seen_ms=seen) for one in tape.specs.values()])
    for instrument in tape.instruments:
        series = tape.settlements(instrument)
        lake.store(
            Settlement(instrument, int(at), float(rate), None, "archive", seen + DAY_MS)
            for at, rate in zip(series.time_ms, series.rate, strict=True)
        )
    lake.seal(Venue.BINANCE)
    yield lake
    lake.close()


def truth(tape, at_ms, size):
    """By the plan of the market: every contract that trades at that time, by the size of its last settled rate."""
    last = {}
    for instrument, one in tape.specs.items():
        if one.listed_ms <= at_ms and (one.delisted_ms is None or at_ms < one.delisted_ms):
            series = tape.settlements(instrument)
            past = [float(rate) for at, rate in zip(series.time_ms, series.rate, strict=True) if at <= at_ms]
            if past:
                last[instrument.symbol] = past[-1]
    return sorted(last, key=lambda symbol: (-abs(last[symbol]), symbol))[:size], last


def test_a_generated_market_with_listings_a_delisting_and_an_interval_change(tape, market):
    start, end = tape.span_ms
    done = rebuild(market, Venue.BINANCE, start, end, UniverseSettings(size=SIZE))
    assert done.times_ms == list(range(start + AFTER, end, EIGHT))
    assert (done.made, done.thin, done.outside) == (0, [], [])
    table = rebuilt(market.folder(Venue.BINANCE)).to_pandas()
    assert len(set(table["symbol"])) == len(tape.instruments)  # every contract had its time
    held = {ranking.start_ms: ranking.symbols for ranking in rankings(market, Venue.BINANCE)}
    counts = set()
    for at, rows in table.groupby(table["timestamp"].astype("int64")):
        wanted, last = truth(tape, int(at), SIZE)
        assert list(rows["symbol"][rows["member"]]) == wanted == list(held[int(at)])
        assert dict(zip(rows["symbol"], rows["funding_rate"], strict=True)) == last
        counts.add(len(last))
    assert len(counts) >= 4  # three listings and a delisting were seen

    leaver = next(one for one in tape.specs.values() if one.delisted_ms)
    newcomer = max((one for one in tape.specs.values()), key=lambda one: one.listed_ms)
    ranked = table[table["symbol"] == leaver.instrument.symbol]["timestamp"].astype("int64")
    assert leaver.delisted_ms - EIGHT <= ranked.max() < leaver.delisted_ms
    ranked = table[table["symbol"] == newcomer.instrument.symbol]["timestamp"].astype("int64")
    assert newcomer.listed_ms <= ranked.min() <= newcomer.listed_ms + 2 * EIGHT


def test_the_spans_say_the_same_and_end_a_day_after_the_last_ranking(tape, market):
    start, end = tape.span_ms
    rebuild(market, Venue.BINANCE, start, end, UniverseSettings(size=SIZE))
    for at in range(start + AFTER, end, 88 * HOUR_MS):
        wanted = truth(tape, at, SIZE)[0]
        assert members(market, Venue.BINANCE, at) == wanted
        assert chosen(market, Venue.BINANCE, at + EIGHT - 1) == set(wanted)
    last = end - EIGHT + AFTER
    assert chosen(market, Venue.BINANCE, last + DAY_MS - 1)
    assert not chosen(market, Venue.BINANCE, last + DAY_MS)
    assert not chosen(market, Venue.BINANCE, start)


def test_doing_it_again_writes_the_same_files(tape, market):
    start, _ = tape.span_ms
    span = start + 5 * DAY_MS, start + 8 * DAY_MS
    folder = market.folder(Venue.BINANCE) / "universe"
    first = rebuild(market, Venue.BINANCE, *span, UniverseSettings(size=SIZE))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert rebuild(market, Venue.BINANCE, *span, UniverseSettings(size=SIZE)) == first
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert f"rebuilt_{iso(span[0] + AFTER).translate(str.maketrans(' ', 'T', '-:'))}.parquet" in before


# -------------------------------------------------------------------------------------------------------- the real one


@pytest.mark.long
def test_real_funding_of_every_binance_perpetual(lake, real_data):
    """539 contracts, settling every 1, 4 or 8 hours: the same universe as a pandas `merge_asof` of the file."""
    path = real_data / "funding" / "binance_um_funding_2026_all.parquet"
    import_data(lake, [path], Venue.BINANCE, "funding")
    span = parse_utc("2026-01-20"), parse_utc("2026-03-18")
    done = rebuild(lake, Venue.BINANCE, *span, UniverseSettings())
    times = pd.date_range("2026-01-20 00:05", "2026-03-17 16:05", freq="8h", tz="UTC").as_unit("ms")
    assert done.times_ms == times.astype("int64").tolist()
    ours = rebuilt(lake.folder(Venue.BINANCE)).to_pandas()

    funding = pq.ParquetFile(path).read().to_pandas()
    funding["funding_time"] = funding["funding_time"].dt.round("min").astype("datetime64[ms, UTC]")
    grid = pd.MultiIndex.from_product([times, funding["symbol"].unique()], names=["at", "symbol"]).to_frame(index=False)
    last = pd.merge_asof(
        grid.sort_values("at", kind="stable"), funding.sort_values("funding_time"), left_on="at",
        right_on="funding_time", by="symbol", tolerance=pd.Timedelta("8h"),
    ).dropna(subset="funding_rate")  # fmt: skip
    last["symbol"] = last["symbol"].str.removesuffix("USDT") + "_USDT"
    last["size"] = -last["funding_rate"].abs()
    last = last.sort_values(["at", "size", "symbol"])
    assert list(zip(ours["timestamp"], ours["symbol"], ours["funding_rate"], strict=True)) == list(
        zip(last["at"], last["symbol"], last["funding_rate"], strict=True)
    )
    assert ours.groupby("timestamp")["member"].sum().eq(50).all()
    counts = ours.groupby("timestamp").size()  # of a contract that settles more often the file reaches back less far
    assert (counts.iloc[0], counts.iloc[-1]) == done.contracts == (124, 539)
    assert set(ours["interval_hours"].dropna()) == {1.0, 2.0, 4.0, 8.0}


# ------------------------------------------------------------------------------- rankings made, and rankings rebuilt


def rank_at(lake, now_ms, rates, folder, **options):
    client = FakeVenue(now_ms=now_ms)
    client.list(*(spec(of, seen_ms=now_ms) for of in rates))
    client.quotes = {of: estimate(now_ms, of=of, rate=rate) for of, rate in rates.items()}
    return update_universe(lake, client, UniverseSettings(size=1), folder, **options)


def test_rankings_that_were_made_win_and_holes_between_them_are_rebuilt(lake, tmp_path):
    store_funding(lake, {BTC: 1e-4, ETH: 2e-4}, days=4)  # settled funding says ETH
    made = [T0 + DAY_MS + AFTER + 2_000, T0 + DAY_MS + EIGHT + AFTER + 3_000, T0 + 2 * DAY_MS + AFTER + 2_000]
    for at in made:
        rank_at(lake, at, {BTC: 3e-4, ETH: 1e-4}, tmp_path)  # what was quoted then said BTC
    done = rebuild(lake, Venue.OKX, T0, T0 + 3 * DAY_MS, UniverseSettings(size=1))
    hole = T0 + DAY_MS + 2 * EIGHT + AFTER  # the third ranking of the second day was never made
    rebuilt_at = [T0 + AFTER, T0 + EIGHT + AFTER, T0 + 2 * EIGHT + AFTER, hole,
                  T0 + 2 * DAY_MS + EIGHT + AFTER, T0 + 2 * DAY_MS + 2 * EIGHT + AFTER]  # fmt: skip
    assert (done.times_ms, done.made) == (rebuilt_at, 3)
    assert len(lake.memberships(Venue.OKX)) == 6  # never mixed up: three rankings of two
    assert len(query(lake, "select * from membership")) == 6
    assert membership_spans(lake, Venue.OKX) == {
        "BTC_USDT": [(made[0], hole), (made[2], rebuilt_at[4])],
        "ETH_USDT": [(T0 + AFTER, made[0]), (hole, made[2]), (rebuilt_at[4], rebuilt_at[5] + DAY_MS)],
    }
    assert members(lake, Venue.OKX, made[0]) == ["BTC_USDT"]
    assert members(lake, Venue.OKX, made[0] - 1) == ["ETH_USDT"]
    with pytest.raises(DataError, match=r"holds at 2025-04-01 00:04:59, the first one holds from 2025-04-01 00:05:00"):
        members(lake, Venue.OKX, T0 + AFTER - 1)
    assert (
        pq.ParquetFile(lake.folder(Venue.OKX) / "universe" / "rebuilt_20250401T000500.parquet")
        .schema_arrow.remove_metadata()
        .equals(MEMBERSHIP)
    )


def test_a_ranking_that_turns_up_later_takes_the_place_of_a_rebuilt_one(lake, tmp_path):
    store_funding(lake, {BTC: 1e-4, ETH: 2e-4})
    rebuild(lake, Venue.OKX, T0, T0 + DAY_MS, UniverseSettings(size=1))
    rank_at(lake, T0 + EIGHT + AFTER + 2_000, {BTC: 3e-4, ETH: 1e-4}, tmp_path)
    assert [(r.start_ms - T0, r.symbols) for r in rankings(lake, Venue.OKX)] == [
        (AFTER, ("ETH_USDT",)), (EIGHT + AFTER + 2_000, ("BTC_USDT",)), (2 * EIGHT + AFTER, ("ETH_USDT",)),
    ]  # fmt: skip


def test_no_ranking_at_all(lake):
    with pytest.raises(DataError, match="there is none yet; rebuild"):
        members(lake, Venue.OKX, T0)
    with pytest.raises(DataError, match=r"cannot be rebuilt: the lake has no funding.*backfill --venue okx"):
        rebuild(lake, Venue.OKX, T0, T0 + DAY_MS, UniverseSettings())
    with pytest.raises(ConfigError, match="not after"):
        rebuild(lake, Venue.OKX, T0, T0, UniverseSettings())


# ------------------------------------------------------------------------------------------------------ who is eligible


def test_too_few_of_the_listed_contracts_with_funding_give_no_ranking(lake):
    """Only contracts that somebody chose to follow later: their ranking would know the future."""
    listed = [spec(Instrument(f"C{k}", "USDT", Venue.OKX), seen_ms=T0 + 9 * DAY_MS) for k in range(20)]
    lake.store_specs(Venue.OKX, listed)
    rates = {one.instrument: 1e-4 for one in listed}
    store_funding(lake, {of: rates[of] for of in list(rates)[:18]})
    with pytest.raises(DataError, match="funding of 18 of the 20 perpetuals then listed; fetch it"):
        rebuild(lake, Venue.OKX, T0, T0 + 2 * DAY_MS, UniverseSettings())
    store_funding(lake, {listed[18].instrument: 1e-4}, days=1, start=T0 + DAY_MS)
    done = rebuild(lake, Venue.OKX, T0, T0 + 2 * DAY_MS, UniverseSettings())
    assert done.times_ms == [T0 + DAY_MS + k * EIGHT + AFTER for k in range(3)]
    assert done.thin == [(T0 + k * EIGHT + AFTER, 18, 20) for k in range(3)]


def test_what_the_venue_says_of_the_contracts_decides(lake):
    lake.store_specs(Venue.OKX, [
        spec(BTC, seen_ms=T0 + 9 * DAY_MS, listed_ms=T0 + DAY_MS), spec(ETH, seen_ms=T0 + 9 * DAY_MS),
        spec(SOL, seen_ms=T0 + 9 * DAY_MS, category="other"), spec(XRP, seen_ms=T0 + 9 * DAY_MS, state="suspend"),
    ])  # fmt: skip
    store_funding(lake, {BTC: 4e-4, ETH: 1e-4, SOL: 5e-4, XRP: 3e-4})
    done = rebuild(lake, Venue.OKX, T0, T0 + 2 * DAY_MS, UniverseSettings(size=2))
    assert done.outside == ["BTC_USDT"]  # funding of a contract that used the ticker before, or a wrong list time
    assert members(lake, Venue.OKX, T0 + HOUR_MS) == ["XRP_USDT", "ETH_USDT"]  # its state is of today, not of then
    assert members(lake, Venue.OKX, T0 + DAY_MS + HOUR_MS) == ["BTC_USDT", "XRP_USDT"]


def test_a_contract_that_vanished_without_notice_is_not_missed_for_ever(lake):
    lake.store_specs(Venue.OKX, [spec(BTC, seen_ms=T0), spec(ETH, seen_ms=T0)])
    lake.store_specs(Venue.OKX, [spec(BTC, seen_ms=T0 + 3 * DAY_MS)])
    store_funding(lake, {BTC: 1e-4})
    store_funding(lake, {ETH: 1e-4}, days=1, start=T0 - DAY_MS)
    assert len(rebuild(lake, Venue.OKX, T0 + EIGHT, T0 + 2 * DAY_MS, UniverseSettings()).times_ms) == 5


def test_without_an_entry_in_the_table_a_contract_is_listed_while_its_funding_is_known(lake):
    hourly = [settlement(T0 + k * HOUR_MS, of=ETH, rate=9e-4) for k in range(22)]  # delisted after 21:00
    store_funding(lake, {BTC: 1e-4})
    lake.store(hourly)
    rebuild(lake, Venue.OKX, T0, T0 + 2 * DAY_MS, UniverseSettings(size=1))
    assert membership_spans(lake, Venue.OKX)["ETH_USDT"] == [(T0 + AFTER, T0 + DAY_MS + AFTER)]


def test_rates_are_normalised_by_the_interval_that_they_settled(lake):
    store_funding(lake, {BTC: 4e-4})
    lake.store([settlement(T0 + k * HOUR_MS, of=ETH, rate=1e-4) for k in range(72)])
    rebuild(lake, Venue.OKX, T0 + DAY_MS, T0 + 2 * DAY_MS, UniverseSettings(size=1, per_8h=True))
    assert members(lake, Venue.OKX, T0 + DAY_MS + AFTER) == ["ETH_USDT"]
    rebuild(lake, Venue.OKX, T0 + DAY_MS, T0 + 2 * DAY_MS, UniverseSettings(size=1))
    assert members(lake, Venue.OKX, T0 + DAY_MS + AFTER) == ["BTC_USDT"]
    table = rebuilt(lake.folder(Venue.OKX)).to_pydict()
    assert set(zip(table["symbol"], table["interval_hours"], strict=True)) == {("BTC_USDT", 8.0), ("ETH_USDT", 1.0)}


@given(
    st.integers(0, 10**6),
    st.integers(1, 5 * 24 * 60),
    st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]),
    st.integers(0, 2000),
)
def test_ranking_times_are_the_days_hours_plus_the_offset(start, length, every, offset):
    schedule = ScheduleSettings(rank_every_hours=every, rank_offset_minutes=offset)
    span = T0 + start * MINUTE_MS, T0 + (start + length) * MINUTE_MS
    wanted = [
        minute for minute in range(*span, MINUTE_MS)
        if (minute - offset * MINUTE_MS) % DAY_MS % (every * HOUR_MS) == 0
    ]  # fmt: skip
    assert ranking_times(*span, schedule) == wanted


# ------------------------------------------------------------------------------------- a ranking that was due before


def test_a_ranking_that_was_due_is_made_once(lake, tmp_path):
    due = T0 + EIGHT + AFTER
    first = rank_at(lake, due + 3_456, {BTC: 1e-4, ETH: 2e-4}, tmp_path, at_ms=due)
    (tmp_path / "top50_symbols.json").unlink()  # it was killed between record and list
    again = rank_at(lake, due + 60_000, {BTC: 9e-4, ETH: 2e-4}, tmp_path, at_ms=due)
    assert again == first
    assert json.loads((tmp_path / "top50_symbols.json").read_text()) == ["ETH_USDT"]
    assert rank_at(lake, due + 70_000, {BTC: 9e-4, ETH: 2e-4}, tmp_path, at_ms=due + EIGHT) != first
    assert len(rankings(lake, Venue.OKX)) == 2  # stamped when they were made, never before
    assert rankings(lake, Venue.OKX)[1].start_ms == due + 70_000


def test_a_relisted_ticker_is_ranked_as_another_contract(lake, tmp_path):
    rank_at(lake, T0, {BTC: 1e-4, ETH: 5e-4}, tmp_path)
    client = FakeVenue(now_ms=T0 + 20 * DAY_MS)
    client.list(spec(BTC, seen_ms=client.now_ms), spec(ETH, seen_ms=client.now_ms, listed_ms=T0 + 15 * DAY_MS))
    client.quotes = {of: estimate(client.now_ms, of=of, rate=r) for of, r in {BTC: 1e-4, ETH: 5e-4}.items()}
    client.turnover = {ETH: 7.0}
    rows = update_universe(lake, client, UniverseSettings(size=1), tmp_path)
    second = replace(ETH, listing=2)
    assert [(r.instrument, r.turnover_quote) for r in rows] == [(second, 7.0), (BTC, 1e6)]
    assert json.loads((tmp_path / "top50_symbols.json").read_text()) == ["ETH_USDT~2"]
    assert set(lake.specs(Venue.OKX)) == {BTC, ETH, second}
    assert list(membership_spans(lake, Venue.OKX)) == ["ETH_USDT", "ETH_USDT~2"]
