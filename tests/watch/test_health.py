"""Health on a lake whose every gap, lag and failed job the test put there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support_clock import World
from support_lake import bar
from support_lake import index as index_bar
from support_lake import mark as mark_bar
from support_watch import FIRST, NOW, coin, gappy_lake, status, watched_settings

from qlib_crypto.cli import health_page
from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.collect.market_time import MarketTime
from qlib_crypto.collect.status import only_collector, pid_namespace, write_status
from qlib_crypto.lake import Lake
from qlib_crypto.settings import OkxSettings, WatchSettings
from qlib_crypto.symbols import Interval, Venue
from qlib_crypto.watch.beside import FILE
from qlib_crypto.watch.findings import Finding, Level, ago, worst
from qlib_crypto.watch.health import examine
from qlib_crypto.watch.judge import judge
from qlib_crypto.watch.observe import market_now, observe

OKX = [Venue.OKX]
H1 = Interval.parse("1h")


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Read only."""
    folder = tmp_path_factory.mktemp("gappy")
    return gappy_lake(folder)


@pytest.fixture(scope="module")
def found(lake):
    return examine(lake, OKX, days=7, wall_ms=NOW)


@pytest.fixture
def page(monkeypatch, capsys):
    """What a terminal of some width, or a pipe, shows."""

    def show(health, width, *, terminal=False, **options):
        kind = {"width": width, "force_terminal": terminal, "color_system": "standard" if terminal else None}
        monkeypatch.setattr(health_page, "Console", lambda **given: Console(**kind, **given))
        health_page.show(health, **options)
        return capsys.readouterr().out

    return show


def by_key(findings):
    return {f.key: f for f in findings}


def okx_only(settings, **changes):
    return settings.model_copy(update={"okx": OkxSettings(datasets=()), **changes})


def test_coverage_counts_every_row_and_every_cause(found):
    candles = found.covered[Venue.OKX][0]
    assert candles.dataset == "kline_1h"
    hours = (NOW - FIRST) // HOUR_MS
    absent = 30 + 26  # before NEW was listed, after GONE was delisted
    assert candles.have == 9 * hours - absent - (4 + 4 + 3)
    # the last hour is over for less than the grace time: whoever lacks it lacks nothing yet
    assert candles.missing == {"not_collected": 4, "venue_down": 4, "no_trade": 3, "not_listed": absent - 1}
    assert candles.expected == candles.have + 4 + 4 + 3


def test_days_before_anything_was_collected_are_no_gap(found):
    assert {d.day_ms for d in found.covered[Venue.OKX][0].days} == {FIRST + k * DAY_MS for k in range(4)}


def test_days_of_an_outage_are_a_gap_when_there_is_data_before(tmp_path):
    store = Lake(tmp_path)
    old = range(FIRST - 10 * DAY_MS, FIRST - 9 * DAY_MS, HOUR_MS)
    store.store([bar(of=coin("BTC"), interval=H1, open_ms=t) for t in [*old, NOW - H1.ms]])
    write_status(store, status())
    missing = examine(watched_settings(tmp_path), OKX, days=3, wall_ms=NOW).covered[Venue.OKX][0].missing
    assert missing["not_collected"] == 2 * 24 + 13
    do = by_key(examine(watched_settings(tmp_path), OKX, days=4, wall_ms=NOW).findings)["okx coverage"].do
    assert do.endswith("qlib-crypto repair --venue okx --since 2026-11-18"), do


def test_a_newcomers_past_is_no_gap_of_the_first_members(tmp_path):
    """The first members begin with the ranking, those of later rankings some days before it."""
    store, began = Lake(tmp_path), NOW - 6 * HOUR_MS
    first, newcomer, silent = coin("BTC"), coin("ETH"), coin("SOL")
    store.store_marks({first: began, newcomer: FIRST, silent: began}, H1)
    store.store([bar(of=first, interval=H1, open_ms=t) for t in range(began, NOW, H1.ms)])
    store.store([bar(of=newcomer, interval=H1, open_ms=t) for t in range(FIRST, NOW, H1.ms)])
    write_status(store, status(newest={c.symbol: NOW - H1.ms for c in (first, newcomer, silent)}))
    found = examine(okx_only(watched_settings(tmp_path)), OKX, days=4, wall_ms=NOW)
    candles = found.covered[Venue.OKX][0]
    assert [d.instrument for d in candles.days] == [first, *[newcomer] * 4, silent]
    assert candles.missing == {"not_collected": 5}, "of the one that never came, since it was wanted"
    assert by_key(found.findings)["okx coverage"].do == (
        "the hourly repair asks for them; now: qlib-crypto repair --venue okx"
    )


@pytest.mark.parametrize(("name", "row"), [("mark", mark_bar), ("index", index_bar)])
def test_a_dataset_that_began_later_has_no_gap_before_its_beginning(tmp_path, name, row):
    store = Lake(tmp_path)
    store.store([bar(of=coin("BTC"), interval=H1, open_ms=t) for t in range(FIRST, NOW, H1.ms)])
    store.store([row(of=coin("BTC"))._replace(open_ms=t) for t in range(NOW - 5 * HOUR_MS, NOW, MINUTE_MS)])
    write_status(store, status())
    settings = watched_settings(tmp_path, okx=OkxSettings(datasets=(name, "open_interest")))
    found = examine(settings, OKX, days=4, wall_ms=NOW)
    covered = {one.dataset: one for one in found.covered[Venue.OKX]}
    candles = covered[f"{name}_1m"]
    assert candles.missing == {}
    assert candles.expected == candles.have == 5 * 60 - 3
    assert covered["open_interest"].days == []
    finding = by_key(found.findings)["okx coverage"]
    assert (finding.level, finding.seen) == (Level.WARN, "nothing yet of funding, open_interest")


def test_the_findings_name_what_is_wrong_and_what_to_do(found):
    bad = {f.key: f for f in found.findings if f.level is not Level.OK}
    assert set(bad) == {"daemon", "job repair okx", "okx coverage"}
    assert "HTTP 503" in bad["job repair okx"].seen
    assert bad["job repair okx"].do == "qlib-crypto jobs submit repair --venue okx"
    assert "4 of kline_1h" in bad["okx coverage"].seen
    assert found.level is Level.FAIL


def test_a_delisted_contract_is_not_late(found):
    assert "GONE_USDT" not in found.view.venues[Venue.OKX].lag_s
    assert found.view.venues[Venue.OKX].lag_s["BTC_USDT"] == 0


@pytest.mark.parametrize(
    ("changes", "key", "level", "words"),
    [
        ({"wall_ms": NOW - 10 * MINUTE_MS, "market_ms": NOW - 10 * MINUTE_MS}, "collector", "fail", "10 min"),
        ({"running": False}, "collector", "fail", "stopped"),
        ({"trouble": "disk full"}, "collector", "fail", "disk full"),
        ({"streamed_s": 200.0}, "collector", "warn", "nothing came by stream for 3 min"),
        ({"streamed_s": None}, "collector", "ok", "3 reconnects in 5 h"),
        ({"newest": {"BTC_USDT": NOW - 2 * HOUR_MS, "ETH_USDT": NOW - HOUR_MS, "X_USDT": NOW - HOUR_MS}},
         "lag", "warn", "1 of 3 instruments late: BTC_USDT 60 min"),
        ({"newest": {"BTC_USDT": NOW - 2 * HOUR_MS}}, "lag", "fail", "1 of 1"),
        ({"newest": {"BTC_USDT": None}}, "lag", "warn", "has a bar yet"),
        ({"newest": {}}, "lag", "warn", "no instrument"),
        ({"last_settlement_ms": NOW - 9 * HOUR_MS}, "settlement", "fail", "9 h ago"),
        ({"last_settlement_ms": NOW - 8 * HOUR_MS}, "settlement", "ok", "8 h ago"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_each_trouble_of_a_collector_is_a_finding(tmp_path, changes, key, level, words):
    write_status(Lake(tmp_path), status(**changes))
    settings = watched_settings(tmp_path)
    finding = by_key(judge(observe(settings, OKX, wall_ms=NOW), settings))[f"okx {key}"]
    assert (str(finding.level), words in finding.seen) == (level, True), finding
    assert bool(finding.do) == (level != "ok")


@pytest.mark.parametrize("market_ms", [NOW - 4_000, NOW - 400 * DAY_MS])
def test_a_killed_collector_is_told_at_once_and_what_nobody_knows_then(tmp_path, market_ms):
    store, settings = Lake(tmp_path), watched_settings(tmp_path)

    def told(namespace):
        newest = {"BTC_USDT": market_ms - HOUR_MS}
        write_status(store, status(namespace=namespace, market_ms=market_ms, newest=newest,
                                   last_settlement_ms=market_ms))  # fmt: skip
        view = observe(settings, OKX, wall_ms=NOW)
        return view.venues[Venue.OKX], by_key(judge(view, settings))

    with only_collector(store, Venue.OKX):
        assert told(pid_namespace())[1]["okx collector"].level is Level.OK
    view, found = told("pid:[1]")  # another container's lock is not seen here
    assert (view.up, found["okx collector"].level) == (True, Level.OK)
    view, found = told(pid_namespace())
    assert (view.up, found["okx collector"].level) == (False, Level.FAIL)
    assert "was killed" in found["okx collector"].seen
    same_clock = market_ms > NOW - DAY_MS
    assert (view.lag_s["BTC_USDT"] is None, view.settlement_s is None) == (not same_clock, not same_clock)
    for key in ("okx lag", "okx settlement"):
        assert found[key].seen.startswith("unknown") != same_clock
        assert found[key].level is (Level.OK if same_clock else Level.WARN)


def test_a_settlement_of_the_lake_counts_when_the_collector_has_seen_none(tmp_path):
    settings = gappy_lake(tmp_path)
    store = Lake(tmp_path)
    write_status(store, status(last_settlement_ms=None))
    assert observe(settings, OKX, wall_ms=NOW).venues[Venue.OKX].settlement_s == 6 * 3600


def test_nothing_at_all_says_how_to_begin(tmp_path, page):
    health = examine(watched_settings(tmp_path), OKX, days=7, wall_ms=NOW)
    assert by_key(health.findings)["okx collector"].level is Level.WARN
    assert "qlib-crypto collect --venue okx" in page(health, 100)
    assert json.loads(json.dumps(health.as_json()))["venues"]["okx"]["coverage"] == {}


def test_little_disk_is_a_finding(tmp_path):
    settings = watched_settings(tmp_path, watch=WatchSettings(disk_free_gb=1e6))
    assert by_key(judge(observe(settings, OKX), settings))["disk lake"].level is Level.FAIL


def test_market_time_is_the_wall_or_what_a_sandbox_said_and_the_wall_since():
    assert market_now(None, NOW) == NOW
    assert market_now(status(), NOW) == NOW
    assert market_now(status(market_ms=5 * DAY_MS), NOW) == 5 * DAY_MS + 4_000


@pytest.mark.parametrize("offset_ms", [0, 3 * HOUR_MS])
def test_an_outage_of_the_venue_is_told_as_long_as_it_is(tmp_path, monkeypatch, offset_ms):
    """Six hours in which the collector's clock could not be confirmed; it may have jumped meanwhile."""
    away = NOW - 6 * HOUR_MS
    with monkeypatch.context() as patched:
        world = World(patched, start_ms=away)
        market = MarketTime(world, world.venue_ms, print)
        world.down, world.offset_ms = True, offset_ms
        world.live(market, 6 * 3_600, 5.0)
        market_ms = market.now_ms
    store = Lake(tmp_path)
    opens = range(FIRST, away, MINUTE_MS)
    store.store([bar(of=coin("BTC"), interval=Interval.parse("1m"), open_ms=t) for t in opens])
    newest = {"BTC_USDT": opens[-1]}
    wall_ms = NOW + offset_ms
    write_status(store, status(interval="1m", wall_ms=wall_ms, market_ms=market_ms, streamed_s=21_600, newest=newest))
    health = examine(okx_only(watched_settings(tmp_path)), OKX, days=1, wall_ms=wall_ms)
    told = by_key(health.findings)
    assert abs(health.view.venues[Venue.OKX].lag_s["BTC_USDT"] - 6 * 3_600) < 60
    assert {told[f"okx {key}"].level for key in ("lag", "coverage")} == {Level.FAIL}
    assert abs(health.covered[Venue.OKX][0].missing["not_collected"] - 6 * 60) <= 5


def test_the_page_shows_the_worst_first_and_only_what_needs_a_look(found, page):
    shown = page(found, 100)
    assert all(len(line.rstrip()) <= 100 or not line.startswith("LOST") for line in shown.splitlines())
    first = [line.split()[0] for line in shown.splitlines()[1:] if line[:4].strip() in {"FAIL", "warn", "ok"}]
    assert first == sorted(first, key=["FAIL", "warn", "ok"].index)
    rows = [line.split()[0] for line in shown.splitlines() if "_USDT" in line]
    assert rows == ["LOST_USDT", "MIXED_USDT", "QUIET_USDT", "DOWN_USDT"]
    assert re.search(r"^LOST_USDT +100 +91\.6! +100 +92\.8! 3 not collected", shown, re.MULTILINE)
    assert re.search(r"^DOWN_USDT +100 +91\.6d ", shown, re.MULTILINE)
    assert "5 instruments complete on every day: --all lists them" in shown
    assert "\x1b" not in shown


def test_all_lists_those_that_are_complete_and_marks_what_was_not_listed(found, page):
    shown = page(found, 140, every=True)
    assert re.search(r"^NEW_USDT +- +100- +100 +100", shown, re.MULTILINE)
    assert re.search(r"^GONE_USDT +100 +100 +100- +-", shown, re.MULTILINE)
    assert re.search(r"^BTC_USDT +100 +100 +100 +100 *$", shown, re.MULTILINE)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_line_of_a_terminal_is_wider_than_it(found, page, width):
    for line in page(found, width, terminal=True).splitlines():
        assert len(re.sub(r"\x1b\[[\d;]*m", "", line).rstrip()) <= width


def test_colours_are_for_terminals_only(found, page):
    assert "\x1b[1;31mFAIL" in page(found, 100, terminal=True)
    assert "\x1b" not in page(found, 100, terminal=False)


def test_the_command_gives_json_alerts_and_an_exit_code_that_says_it_is_not_good(lake):
    result = subprocess.run(
        [sys.executable, "-m", "qlib_crypto.cli", "health", "--lake", str(lake.lake_dir), "--venue", "okx",
         "--days", "30", "--json", "--alert"],
        capture_output=True, text=True, check=False, timeout=120, cwd=lake.lake_dir,
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    told = json.loads(result.stdout)
    assert told["level"] == "fail"
    assert told["venues"]["okx"]["up"] is False, "this machine's clock is not that of the test"
    assert {j["kind"]: j["state"] for j in told["jobs"]} == {"rank": "completed", "repair": "failed"}
    logged = [json.loads(line) for line in result.stderr.splitlines()]
    assert any(line["told"].startswith("fail: job repair okx: failed") for line in logged)
    assert "job repair okx" in (lake.lake_dir / FILE).read_text()


def test_the_brief_json_lists_days_with_something_missing_and_all_every_day(found):
    brief, every = (found.as_json(every=e)["venues"]["okx"]["coverage"]["kline_1h"]["days"] for e in (False, True))
    assert [(d["symbol"], d["missing"]) for d in brief if d["symbol"] == "QUIET_USDT"] == [
        ("QUIET_USDT", {"no_trade": 3})
    ]
    assert len(every) == 9 * 4
    assert len(brief) == 2 + 1 + 1 + 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "120 min"), (7_200, "2 h"), (None, "ever")],
)
def test_ago_is_short(seconds, text):
    assert ago(seconds) == text


def test_the_worst_level_is_found():
    levels = [Finding("a", level, "") for level in Level]
    assert worst(levels) is Level.FAIL
    assert worst(levels[:2]) is Level.WARN
    assert worst([]) is Level.OK
