"""What the short jobs do, on a real lake and a venue in memory; each done twice leaves what it left when done once."""

import dataclasses
import json

import pytest
from support_lake import BTC, ETH, M1, T0, FakeVenue, bar, estimate, spec

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.collect.status import CollectorStatus, write_status
from qlib_crypto.daemon.jobs import FILE, JobTable
from qlib_crypto.daemon.kinds import command_line
from qlib_crypto.daemon.newer import has_newer
from qlib_crypto.daemon.work import Site
from qlib_crypto.daemon.worker import Request
from qlib_crypto.errors import ConfigError, VenueError
from qlib_crypto.lake import Lake
from qlib_crypto.market.margin import MarginTable, MarginTier
from qlib_crypto.settings import ScheduleSettings, Settings
from qlib_crypto.symbols import Instrument, Venue

NOW = T0 + DAY_MS + 2 * HOUR_MS + 30 * MINUTE_MS
OKX = {"venue": "okx"}


@pytest.fixture
def venue():
    made = FakeVenue(now_ms=NOW)
    made.list(spec(BTC), spec(ETH))
    made.quotes = {of: estimate(NOW, of=of, settles_ms=NOW + HOUR_MS) for of in (BTC, ETH)}
    made.add_bars(*(bar(k, of=of) for of in (BTC, ETH) for k in range((NOW - T0) // M1.ms)))
    return made


@pytest.fixture
def site(tmp_path, venue):
    lake = Lake(tmp_path)
    okx = {"symbols": ["BTC_USDT", "ETH_USDT"], "datasets": []}
    yield Site(Venue.OKX, Settings(lake_dir=tmp_path, okx=okx), lake, venue, None)
    lake.close()


def twice(site, kind, period_ms=None, since_ms=None, **arguments):
    """The result of a job that is done, and done again by somebody who did not know."""
    request = Request(kind, {**OKX, **arguments}, period_ms, since_ms)
    first = site.do(request)
    content = site.lake.content_hash()
    second = site.do(request)
    assert site.lake.content_hash() == content
    assert json.loads(json.dumps([first, second])) == [first, second], "the job table keeps JSON"
    return first


def test_each_seal_asks_for_one_push_where_the_settings_name_an_address(site):
    table = JobTable(site.settings.lake_dir / FILE)
    twice(site, "seal", period_ms=NOW)
    assert table.list() == []
    schedule = ScheduleSettings(push="s3://bucket/lake")
    pushing = dataclasses.replace(site, settings=site.settings.model_copy(update={"schedule": schedule}))
    for period_ms in (NOW, NOW + DAY_MS):
        twice(pushing, "seal", period_ms=period_ms)
    assert [(job.kind, job.arguments, job.period_ms) for job in table.list()] == [
        ("push", OKX, NOW),
        ("push", OKX, NOW + DAY_MS),
    ]
    assert command_line("push", OKX, ["--lake", "l"]) == ["push", "--venue", "okx", "--json", "--lake", "l"]
    table.close()


def test_a_ranking_that_is_done_twice_for_its_period_is_one(site):
    found = twice(site, "rank", period_ms=NOW - 25 * MINUTE_MS)
    assert found == {"eligible": 2, "members": 2}
    assert len(list((site.lake.folder(Venue.OKX) / "universe").iterdir())) == 1
    assert (site.settings.lake_dir / "top50_symbols.json").is_file()


def test_the_instruments_come_with_the_margin_tiers_of_what_is_followed(site, venue):
    venue.list(spec(Instrument("NEW", "USDT", Venue.OKX)))
    tiers = MarginTable((MarginTier(0, 5.0, 0.01, 50),), by_quantity=True, source="venue")
    venue.tiers = dict.fromkeys(venue.listing, tiers)
    assert twice(site, "instruments", period_ms=NOW)["tiers"] == 2
    assert site.lake.tiers(Venue.OKX) == dict.fromkeys((BTC, ETH), ((NOW, tiers),))
    assert venue.tiers_asked == [[BTC, ETH]] * 2


def test_instruments_are_refreshed_without_a_ranking_and_by_a_venue_that_refuses_its_tiers(site, venue):
    def fails():
        raise VenueError("no answer")

    venue.before_tiers = fails
    assert twice(site, "instruments", period_ms=NOW)["tiers"] == 0
    unranked = dataclasses.replace(site, settings=Settings(lake_dir=site.settings.lake_dir))
    assert twice(unranked, "instruments", period_ms=NOW)["tiers"] == 0
    assert len(site.lake.specs(Venue.OKX)) == 2


def test_rankings_that_were_missed_are_one_ranking_now_and_none_then(site, venue):
    before = site.do(Request("rank", OKX, NOW, None))
    venue.now_ms = NOW + DAY_MS
    missed = [site.do(Request("rank", OKX, NOW + hours * HOUR_MS, None)) for hours in (8, 16, 24)]
    assert missed == [before] * 3
    table = site.lake.memberships(Venue.OKX)
    assert sorted(set(table.column("timestamp").cast("int64").to_pylist())) == [NOW, NOW + DAY_MS]


def test_instruments_are_stored_when_they_changed(site, venue):
    twice(site, "instruments")
    venue.now_ms += DAY_MS
    venue.list(spec(BTC, contract_value_base=0.1))
    site.do(Request("instruments", OKX, None, None))
    assert site.lake.specs(Venue.OKX)[BTC].contract_value_base == 0.1


def test_repair_fills_what_was_missed(site):
    site.lake.store([bar(k, of=of) for of in (BTC, ETH) for k in range(100)])
    site.lake.store([bar(k, of=of) for of in (BTC, ETH) for k in range(200, 300)])
    found = twice(site, "repair")
    assert found["instruments"] == 2
    assert found["stored"]["kline_1m"] >= 200
    times = site.lake.bar_times(BTC, M1)
    assert times.tolist() == list(range(T0, int(times[-1]) + 1, M1.ms))


def test_after_a_long_pause_repair_looks_further_back_than_usual(site, venue):
    venue.now_ms += 10 * DAY_MS
    site.lake.store([bar(0)])

    def first_asked(arguments, since_ms):
        venue.log.clear()
        site.do(Request("repair", {**OKX, **arguments}, None, since_ms))
        return min(start for name, _, start, _ in venue.log if name == "bars")

    assert first_asked({"since": "2025-04-05"}, T0) == T0 + 4 * DAY_MS
    assert T0 < first_asked({}, T0 + HOUR_MS) <= T0 + HOUR_MS


def test_seal_writes_whole_days_only(site):
    site.lake.store([bar(k) for k in range(2000)])
    found = twice(site, "seal", period_ms=T0 + DAY_MS + 10 * MINUTE_MS)
    assert found == {"files": 1, "before": "2025-04-02 00:00:00"}
    assert [p.name for p in (site.lake.folder(Venue.OKX) / "kline_1m").iterdir()] == ["BTC_USDT_20250401.parquet"]


def test_upkeep_looks_at_the_day_before_and_at_what_was_not_looked_at(site):
    period = T0 + 5 * DAY_MS + 150 * MINUTE_MS
    assert site.days(Request("check", OKX, period, None)) == (T0 + 4 * DAY_MS, T0 + 5 * DAY_MS)
    assert site.days(Request("check", OKX, period, period - DAY_MS)) == (T0 + 4 * DAY_MS, T0 + 5 * DAY_MS)
    assert site.days(Request("check", OKX, period, period - 4 * DAY_MS))[0] == T0 + DAY_MS
    assert site.days(Request("check", OKX, period, period - 400 * DAY_MS))[0] == T0 - 26 * DAY_MS
    given = {**OKX, "start": "2025-04-01", "end": "2025-04-03"}
    assert site.days(Request("check", given, None, None)) == (T0, T0 + 2 * DAY_MS)
    with pytest.raises(ConfigError, match="is not before end"):
        site.days(Request("check", {**given, "end": "2025-04-01"}, None, None))


def test_reconciliation_and_check_and_retention_give_their_counts(site):
    site.lake.store([bar(k) for k in range(1440)])
    site.lake.store([bar(7, close=300.0)])
    period = T0 + DAY_MS + 150 * MINUTE_MS
    found = twice(site, "reconcile", period_ms=period)
    assert found["pairs"]["ws-rest"]["different"] == 1
    assert site.lake.bars(BTC, M1).column("close").to_pylist()[7] == 100.0
    assert twice(site, "check", period_ms=period)["rows"] >= 1440
    site.lake.seal(Venue.OKX)
    assert twice(site, "retain", period_ms=period) == {"dropped": 0, "compacted": 0, "removed": 0, "problems": 0}


def test_work_needs_a_universe_unless_symbols_are_given(tmp_path, venue):
    site = Site(Venue.OKX, Settings(lake_dir=tmp_path), Lake(tmp_path), venue, None)
    with pytest.raises(ConfigError, match="run: qlib-crypto rank"):
        site.do(Request("repair", OKX, None, None))
    with pytest.raises(ConfigError, match="is no work of a venue"):
        site.do(Request("convert", {}, None, None))


def test_leavers_that_the_collector_keeps_are_kept_up_too(site):
    write_status(site.lake, status({"SOL_USDT": None, "BTC_USDT": NOW}))
    assert [i.symbol for i in site.instruments()] == ["BTC_USDT", "ETH_USDT", "SOL_USDT"]


def status(newest):
    return CollectorStatus("okx", 1, True, 0, 0, NOW, "1m", newest=newest)


@pytest.mark.parametrize(("behind", "dead"), [(0, False), (1, False), (3, False), (4, True), (600, True)], ids=str)
def test_a_feed_is_dead_when_the_venue_has_bars_well_after_its_newest(venue, behind, dead):
    last = M1.floor(NOW) - M1.ms
    assert has_newer(venue, status({"BTC_USDT": last - behind * M1.ms, "ETH_USDT": None})) is dead


def test_a_quiet_venue_has_no_newer_bars_however_long(venue):
    newest = max(venue.bar_rows[BTC, M1])
    venue.now_ms += 5 * HOUR_MS
    assert not has_newer(venue, status({"BTC_USDT": newest, "ETH_USDT": newest}))
    assert not has_newer(venue, status({"BTC_USDT": None}))
