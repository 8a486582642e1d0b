from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, iso, parse_utc, utc
from qlib_crypto.daemon.schedule import (
    MOST_PERIODS,
    Cron,
    Period,
    Scheduled,
    Together,
    convert_period,
    missing_workflows,
    rank_period,
    repair_period,
    scheduled,
)
from qlib_crypto.errors import ConfigError
from qlib_crypto.settings import ScheduleSettings
from qlib_crypto.symbols import Venue
from qlib_crypto.universe.rebuild import ranking_times

instants = st.integers(0, 4_102_444_800_000)
NOW = parse_utc("2025-04-17 10:30")


@given(instants, st.integers(1, 7 * DAY_MS), st.integers(0, 7 * DAY_MS))
def test_last_is_the_latest_instant_of_the_grid_not_after_now(now, every, offset):
    last = Period(every, offset).last(now)
    assert last <= now < last + every
    assert (last - offset) % every == 0


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 700), st.integers(0, 700))
def test_between_is_every_instant_after_and_up_to(after, until, every, offset):
    want = [t for t in range(after + 1, until + 1) if (t - offset) % every == 0]
    assert Period(every, offset).between(after, until) == want


def test_of_very_many_missed_periods_the_newest_are_kept():
    period = Period(HOUR_MS, 3 * MINUTE_MS)
    found = period.between(parse_utc("1980-01-01"), NOW)
    assert len(found) == MOST_PERIODS
    assert found[-1] == period.last(NOW)


@given(st.lists(st.integers(0, 40 * HOUR_MS), min_size=1, max_size=12), st.booleans())
def test_looking_at_any_instants_gives_each_period_once(steps, at_first):
    entry = Scheduled("repair", {}, Period(HOUR_MS, 3 * MINUTE_MS), at_first=at_first)
    now, before, given_out = NOW, None, []
    for step in steps:
        given_out += entry.due(before, now)
        before, now = now, now + step
    given_out += entry.due(before, now)
    first = entry.period.last(NOW)
    assert given_out == list(range(first + (0 if at_first else HOUR_MS), now + 1, HOUR_MS))


def test_a_clock_that_stood_years_ahead_does_not_stop_the_schedule_for_years():
    entry = Scheduled("repair", {}, Period(HOUR_MS, 0))
    assert entry.due(parse_utc("2099-01-01"), NOW) == [entry.period.last(NOW)]
    assert entry.due(NOW + 30 * MINUTE_MS, NOW) == [], "a small step back repeats nothing"


@pytest.mark.parametrize(
    ("now", "rank", "convert"),
    [
        ("2025-04-17 00:04:59", "2025-04-16 16:05:00", "2025-04-16 00:10:00"),
        ("2025-04-17 00:10:00", "2025-04-17 00:05:00", "2025-04-17 00:10:00"),
        ("2025-04-17 23:59:59", "2025-04-17 16:05:00", "2025-04-17 00:10:00"),
    ],
)
def test_defaults_rank_after_each_settlement_and_convert_after_midnight(now, rank, convert):
    schedule = ScheduleSettings()
    assert iso(rank_period(schedule).last(parse_utc(now))) == rank
    assert iso(convert_period(schedule).last(parse_utc(now))) == convert


def test_converts_every_hour_when_asked_and_repairs_after_the_hour():
    hourly = convert_period(ScheduleSettings(convert_every_hours=1))
    assert [iso(t)[11:16] for t in hourly.between(NOW - 2 * HOUR_MS, NOW)] == ["09:10", "10:10"]
    assert iso(repair_period(ScheduleSettings()).last(NOW)) == "2025-04-17 10:03:00"


@pytest.mark.parametrize("every", [1, 2, 3, 4, 6, 8, 12, 24])
def test_rankings_and_repairs_fall_on_the_same_times_each_day_and_those_of_a_rebuild(every):
    schedule = ScheduleSettings(rank_every_hours=every, repair_every_hours=every)
    day = parse_utc("2025-04-17")
    due = rank_period(schedule).between(day - 1, day + 3 * DAY_MS - 1)
    assert due == [day + hour * HOUR_MS + 5 * MINUTE_MS for hour in range(0, 72, every)]
    assert due == ranking_times(day, day + 3 * DAY_MS, schedule)
    assert repair_period(schedule).between(day, day + DAY_MS) == [at - 2 * MINUTE_MS for at in due[: 24 // every]]


def test_a_year_of_ticks_finds_each_period_once():
    period = Period(8 * HOUR_MS, 5 * MINUTE_MS)
    begin = parse_utc("2025-01-01")
    seen = {period.last(begin + i * 7 * MINUTE_MS) for i in range(365 * DAY_MS // (7 * MINUTE_MS))}
    assert len([s for s in seen if s >= begin]) == 365 * 3


# ---------------------------------------------------------------------------------------------------------------- cron

NAMES = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


def by_hand(minutes, hours, weekdays, after, until):
    """Every minute looked at: the independent answer. `weekdays` as in a crontab, Sunday 0."""
    at, out = utc(after).replace(second=0, microsecond=0), []
    end = datetime.fromtimestamp(until / 1000, tz=UTC)
    while at <= end:
        ms = round(at.timestamp() * 1000)
        if ms > after and at.minute in minutes and at.hour in hours and at.isoweekday() % 7 in weekdays:
            out.append(ms)
        at += timedelta(minutes=1)
    return out


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("*", {0, 1, 2, 3, 4, 5, 6}), ("0", {0}), ("7", {0}), ("sun", {0}), ("1-5", {1, 2, 3, 4, 5}),
        ("5-7", {5, 6, 0}),
        ("mon-wed,6", {1, 2, 3, 6}), ("sat-mon", {6, 0, 1}), ("*/2", {0, 2, 4, 6}), ("1-5/2", {1, 3, 5}),
    ],
)  # fmt: skip
def test_days_of_the_week_are_a_crontabs(field, days):
    after, until = NOW, NOW + 15 * DAY_MS
    assert Cron(f"30 6,18 * * {field}").between(after, until) == by_hand({30}, {6, 18}, days, after, until)


@given(st.integers(0, 3 * DAY_MS), st.integers(0, 2 * DAY_MS))
def test_cron_between_and_last_agree_with_looking_at_every_minute(begin, length):
    cron, after = Cron("*/20 3-5 * * *"), NOW + begin
    want = by_hand({0, 20, 40}, {3, 4, 5}, set(range(7)), after, after + length)
    assert cron.between(after, after + length) == want
    assert cron.last(after) == by_hand({0, 20, 40}, {3, 4, 5}, set(range(7)), after - DAY_MS - 1, after)[-1]


def test_rare_and_frequent_expressions_over_years():
    assert [iso(t) for t in Cron("0 0 29 2 *").between(parse_utc("2019-01-01"), NOW)] == [
        "2020-02-29 00:00:00", "2024-02-29 00:00:00",
    ]  # fmt: skip
    assert iso(Cron("0 0 29 2 *").last(NOW)) == "2024-02-29 00:00:00"
    hourly = Cron("0 * * * *").between(parse_utc("2019-01-01"), NOW)
    assert len(hourly) == MOST_PERIODS
    assert hourly[-1] == NOW - 30 * MINUTE_MS


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "0 0 * *",
        "0 0 * * * *",
        "61 0 * * *",
        "0 25 * * *",
        "0 0 1 * 1",
        "0 0 * * 8",
        "0 0 * * moon",
        "0 0 30 2 *",
        "x",
    ],
)
def test_what_is_no_expression_is_refused_in_one_line(expression):
    with pytest.raises(ConfigError, match="cron") as refused:
        Cron(expression)
    assert "\n" not in str(refused.value)


@given(st.integers(0, 3 * DAY_MS), st.integers(0, 2 * DAY_MS))
def test_expressions_together_are_the_instants_of_each_once(begin, length):
    parts, after = (Cron("*/20 3-5 * * *"), Cron("0 */5 * * *")), NOW + begin
    want = set().union(*(part.between(after, after + length) for part in parts))
    assert Together(parts).between(after, after + length) == sorted(want)
    assert Together(parts).last(after) == max(part.last(after) for part in parts)


def test_of_very_many_together_the_newest_are_kept():
    hourly = Period(HOUR_MS, 0), Period(HOUR_MS, 30 * MINUTE_MS)
    assert Together(hourly).between(0, NOW) == Period(30 * MINUTE_MS, 0).between(0, NOW)


def test_a_workflow_of_several_expressions_is_one_entry():
    text = [("a.yaml", "0 6 1 * *"), ("b.yaml", "0 7 * * *"), ("a.yaml", "0 12 * * mon")]
    entries = scheduled(ScheduleSettings(workflows=[{"workflow": w, "cron": c} for w, c in text]), [Venue.OKX])
    of = {e.arguments["workflow"]: e.period for e in entries if e.kind == "run"}
    assert len({(e.kind, str(e.arguments)) for e in entries}) == len(entries)
    span = parse_utc("2026-05-30"), parse_utc("2026-06-02")
    assert [iso(at) for at in of["a.yaml"].between(*span)] == ["2026-06-01 06:00:00", "2026-06-01 12:00:00"]
    assert [iso(at)[11:] for at in of["b.yaml"].between(*span)] == ["07:00:00"] * 3


def test_a_workflow_with_other_options_is_another_entry(tmp_path):
    here = tmp_path / "w.yaml"
    here.write_text("")
    runs = [{"workflow": str(here), "cron": "0 6 * * *", "vars": {"TOPK": k}} for k in (3, 5, 3)]
    settings = ScheduleSettings(workflows=[*runs, {"workflow": "gone.yaml", "cron": "0 7 * * *"}])
    entries = [e.arguments for e in scheduled(settings, []) if e.kind == "run"]
    assert entries == [
        {"workflow": str(here), "var.TOPK": "3"}, {"workflow": str(here), "var.TOPK": "5"}, {"workflow": "gone.yaml"},
    ]  # fmt: skip
    assert missing_workflows(settings) == ["gone.yaml"]


def test_the_settings_schedule_every_kind_for_every_venue_and_conversion_once():
    settings = ScheduleSettings(workflows=({"workflow": "w.yaml", "cron": "30 0 * * *"},))
    entries = scheduled(settings, list(Venue))
    of_venue = ["check", "health", "instruments", "rank", "reconcile", "repair", "retain", "seal"]
    assert sorted(e.kind for e in entries if e.arguments == {"venue": "okx"}) == of_venue
    assert sorted(e.kind for e in entries if e.arguments == {"venue": "binance"}) == of_venue
    rest = [e for e in entries if "venue" not in e.arguments]
    assert [(e.kind, e.arguments) for e in rest] == [("convert", {}), ("run", {"workflow": "w.yaml"})]
    assert [e.kind for e in entries if e.at_first] == ["rank", "rank"]
    assert iso(rest[1].period.last(NOW)) == "2025-04-17 00:30:00"
