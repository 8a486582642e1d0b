"""The margin tiers of the sandbox's OKX: in contracts, as the venue writes them, changed once for one contract.

From there through client and lake into the provider: each state since it was seen, in coins.
"""

from __future__ import annotations

import json

import pytest
from sandbox_support import get

from qlib_crypto.collect import refresh_instruments, refresh_tiers
from qlib_crypto.feeds import rest_client
from qlib_crypto.lake import Lake
from qlib_crypto.market.margin import dated_tables
from qlib_crypto.provider import convert, verify
from qlib_crypto.sandbox.events import EventConfig, EventTape
from qlib_crypto.sandbox.serve import running
from qlib_crypto.settings import OkxSettings, ProviderSettings
from qlib_crypto.symbols import Interval, Venue

CONFIG = EventConfig(Venue.OKX)
TAPE = EventTape(CONFIG)
MIDDLE = (CONFIG.start_ms + CONFIG.end_ms) // 2
CHANGES = CONFIG.happens.contract_changes
FIRST = next(i for i in TAPE.specs if i.base == "BTC")
RESIZE = next(i for i in TAPE.specs if i.base == "RESIZE")
FAMILIES = "BTC-USDT,ETH-USDT,RESIZE-USDT"


def served(at_ms, **more):
    query = {"instType": "SWAP", "tdMode": "cross", "instFamily": FAMILIES, **more}
    with running([TAPE], speed=0, at=at_ms, awkward=False) as handle:
        asked = "&".join(f"{key}={value}" for key, value in query.items() if value)
        answers = [get(f"{handle.url}/api/v5/public/position-tiers?{asked}") for _ in range(2)]
    assert answers[0].body == answers[1].body
    assert (answers[0].status, answers[0].body["code"]) == (200, "0")
    out = {}
    for row in answers[0].body["data"]:
        out.setdefault(row["instFamily"], []).append(row)
    return out


def test_rows_are_the_venues():
    at = CONFIG.start_ms
    tiers = served(at)
    assert list(tiers) == FAMILIES.split(",")
    assert tiers["BTC-USDT"][:2] == [
        {
            "baseMaxLoan": "", "imr": "0.02", "instFamily": "BTC-USDT", "instId": "", "maxLever": "50",
            "maxSz": "200000", "minSz": "0", "mmr": "0.008", "optMgnFactor": "0", "quoteMaxLoan": "", "tier": "1",
            "uly": "BTC-USDT",
        },
        {
            "baseMaxLoan": "", "imr": "0.025", "instFamily": "BTC-USDT", "instId": "", "maxLever": "40",
            "maxSz": "400000", "minSz": "200001", "mmr": "0.01", "optMgnFactor": "0", "quoteMaxLoan": "", "tier": "2",
            "uly": "BTC-USDT",
        },
    ]  # fmt: skip
    assert served(at, instFamily="", uly="ETH-USDT") == {"ETH-USDT": tiers["ETH-USDT"]}


def sizes(tiers, family):
    return [float(row["maxSz"]) for row in tiers[family]]


def test_one_contracts_tiers_change_once_and_a_smaller_contract_counts_more():
    before, after, end = (served(at) for at in (MIDDLE - 1, MIDDLE, CONFIG.end_ms - 1))
    assert sizes(after, "BTC-USDT") == [size / 2 for size in sizes(before, "BTC-USDT")]
    assert after == end
    assert before["ETH-USDT"] == after["ETH-USDT"]
    early = served(CHANGES - 1)
    assert sizes(before, "RESIZE-USDT") == [10 * size for size in sizes(early, "RESIZE-USDT")]


@pytest.fixture
def visited(tmp_path):
    """A lake that saw the venue four times, a provider that was converted after each, and when that was."""
    times = [CONFIG.start_ms + 60_000, CHANGES + 60_000, MIDDLE + 60_000, CONFIG.end_ms - 60_000]
    lake, provider, told = Lake(tmp_path / "lake"), tmp_path / "qlib_data", []
    settings = ProviderSettings(intervals=("1m", "1h"))
    hour = Interval.parse("1h").ms
    for at in times:
        with running([TAPE], speed=0, at=at) as handle:
            client = rest_client(Venue.OKX, OkxSettings(rate_scale=1e4).at(handle.url))
            _, specs = refresh_instruments(lake, client)
            followed = [spec for spec in specs if spec.instrument in TAPE.specs]
            answered = refresh_tiers(lake, client, followed, told.append)
            assert answered == {spec.instrument for spec in followed}
            for of in (FIRST, RESIZE):
                start = at - at % hour - hour
                lake.store(row for page in client.bars(of, Interval.parse("1m"), start, at) for row in page)
            client.close()
        convert(lake, provider, settings, durable=False)
    assert told == []
    yield lake, provider, settings, times
    lake.close()


def test_states_go_dated_through_lake_and_provider(visited, tmp_path):
    lake, provider, settings, times = visited
    tables = dated_tables(provider / "margin_tiers.json")
    assert set(tables) == {FIRST.qlib, RESIZE.qlib}, "of those that have bars"
    (first, before), (since, after) = tables[FIRST.qlib]
    assert (first, since) == (times[0], times[2])
    assert [tier.cap for tier in after.tiers] == [tier.cap / 2 for tier in before.tiers]
    assert before.most == 8 * 200_000 * TAPE.specs[FIRST].contract_value_base, "sizes are coins"
    ((at, same),) = tables[RESIZE.qlib]
    assert at == times[0], "contracts of a tenth, ten times as many: no new state"
    assert same.most == before.most
    assert {of.qlib: states for of, states in lake.tiers(Venue.OKX).items() if of.qlib in tables} == tables
    rules = json.loads((provider / "rules.json").read_text())
    assert [(s["since_ms"], s["lot_base"]) for s in rules[RESIZE.qlib]] == [(times[0], 0.1), (times[1], 0.01)]
    assert [s["since_ms"] for s in rules[FIRST.qlib]] == [times[0]]
    last = json.loads((provider / "specs.json").read_text())
    assert last == {name: {k: v for k, v in states[-1].items() if k != "since_ms"} for name, states in rules.items()}
    convert(lake, tmp_path / "whole", settings, durable=False)
    for name in ("specs.json", "rules.json", "margin_tiers.json"):
        assert (provider / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert verify(lake, provider) == []
