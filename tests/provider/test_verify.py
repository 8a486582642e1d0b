"""Every kind of damage is found, and the finding names the file or cell."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from provider_lakes import T0, MemoryLake, make_bars, make_settlements

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.errors import DataError
from qlib_crypto.provider import convert, verify
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

HOUR = Interval.parse("1h")
BTC = Instrument("BTC", "USDT", Venue.OKX)
HOURS = 96


def lake_of(hours=HOURS, seed=1):
    bars = make_bars(np.random.default_rng(seed), HOUR, T0, 200)[:hours]
    funding = make_settlements(np.random.default_rng(2), T0, [8] * 12, jitter_ms=0, marked=1)
    return MemoryLake({BTC: {HOUR: bars}}, {BTC: funding})


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify") / "qlib_data"
    convert(lake_of(), folder, ProviderSettings(intervals=("1h", "1d")))
    return folder


@pytest.fixture
def provider(converted, tmp_path):
    return shutil.copytree(converted, tmp_path / "qlib_data")


def feature(provider, field="close", freq="60min"):
    return provider / "features" / "btc_usdt.okx" / f"{field}.{freq}.bin"


def rewrite(path, change):
    data = np.fromfile(path, dtype="<f4")
    change(data)
    data.tofile(path)


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


DAMAGE = {
    "a torn file": (lambda p: append(feature(p), b"ab"), "has 390 bytes instead of 388"),
    "a value too many": (lambda p: append(feature(p), b"abcd"), "has 392 bytes instead of 388"),
    "a lost value": (lambda p: feature(p).write_bytes(feature(p).read_bytes()[:-4]), "has 384 bytes instead of 388"),
    "a shifted start": (
        lambda p: rewrite(feature(p), lambda d: d.__setitem__(0, 1)),
        "starts at slot 1.0 instead of 0",
    ),
    "an unset start": (lambda p: rewrite(feature(p), lambda d: d.__setitem__(0, np.nan)), "starts at slot nan"),
    "a missing field": (lambda p: feature(p, "vwap").unlink(), "vwap.60min.bin is missing"),
    "a field of nobody": (lambda p: feature(p, "mark").write_bytes(b"abcd"), "belongs to no field"),
    "a missing instrument": (lambda p: shutil.rmtree(feature(p).parent), "is missing; Qlib would read it as NaN"),
    "a foreign instrument": (lambda p: (p / "features" / "x").mkdir(), "is in no list of manifest.json"),
    "a stray calendar": (lambda p: (p / "calendars" / "cn.txt").write_text(""), "cn.txt is not ours; Qlib takes it"),
    "a missing calendar": (lambda p: (p / "calendars" / "day_future.txt").unlink(), "day_future.txt is missing"),
    "a calendar with a hole": (
        lambda p: (p / "calendars" / "day.txt").write_text("2025-03-13\n2025-03-15\n"),
        "day.txt is not the complete grid",
    ),
    "a missing market": (lambda p: (p / "instruments" / "all.txt").unlink(), "all.txt is missing"),
    "a market with another span": (
        lambda p: (p / "instruments" / "okx_day.txt").write_text("BTC_USDT.OKX\t2025-03-14\t2025-03-15\n"),
        "okx_day.txt does not list the instruments and spans",
    ),
    "a market with a stranger": (
        lambda p: append(p / "instruments" / "top50.txt", b"X_USDT.OKX\t2025-03-14\t2025-03-15\n"),
        "top50.txt lists X_USDT.OKX, which has no bars",
    ),
    "another value": (
        lambda p: rewrite(feature(p), lambda d: d.__setitem__(30, d[30] * (1 + 1e-6))),
        "BTC_USDT.OKX close of 60min differs in 1 bars, the first at 2025-03-14 05:00:00",
    ),
    "a filled value": (
        lambda p: rewrite(feature(p, "change"), lambda d: d.__setitem__(1, 0)),
        "BTC_USDT.OKX change of 60min differs in 1 bars, the first at 2025-03-13 00:00:00: provider 0.0, lake nan",
    ),
    "an erased value": (
        lambda p: rewrite(feature(p, "funding", "day"), lambda d: d.__setitem__(2, np.nan)),
        "BTC_USDT.OKX funding of day differs in 1 bars, the first at 2025-03-14 00:00:00",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(provider, damage):
    assert verify(lake_of(), provider, cells="all") == []
    spoil, finding = DAMAGE[damage]
    spoil(provider)
    problems = verify(lake_of(), provider, cells="all")
    assert problems
    assert finding in problems[0]


def test_a_swap_of_two_values_anywhere_is_found_in_all_cells(provider):
    rng = np.random.default_rng(0)
    for field in ("open", "high", "low", "close", "volume", "amount", "vwap", "change"):
        slot = int(rng.integers(2, HOURS))
        rewrite(feature(provider, field), lambda data, at=slot: data.__setitem__([at, at + 1], data[[at + 1, at]]))
    assert len(verify(lake_of(), provider, cells="all")) == 8


def test_a_provider_made_from_another_lake_is_found_even_in_a_sample(provider):
    problems = verify(lake_of(seed=5), provider)
    assert any("close of day differs" in line and "the lake changed since" in line for line in problems)


def test_bars_that_came_later_are_no_fault(provider):
    assert verify(lake_of(HOURS + 50), provider, cells="all") == []


def test_a_hole_that_was_filled_later_is_no_fault_but_an_erased_value_is(provider):
    rewrite(feature(provider), lambda data: data.__setitem__(9, np.nan))
    assert any("close of 60min differs in 1 bars" in line for line in verify(lake_of(), provider, cells="all"))
    assert verify(lake_of(HOURS + 50), provider, cells="all") == []  # the lake changed: it may have come since


def test_bars_that_were_left_out_are_a_fault(provider):
    """The lake is as it was, but the provider lacks its last day."""
    lake = lake_of(HOURS + 24)
    manifest = (provider / "manifest.json").read_text()
    (provider / "manifest.json").write_text(manifest.replace(lake_of().content_hash(), lake.content_hash()))
    assert verify(lake, provider) == [
        "BTC_USDT.OKX lacks 24 bars of 60min, the first at 2025-03-17 00:00:00",
        "BTC_USDT.OKX lacks 1 bars of day, the first at 2025-03-17 00:00:00",
    ]


def test_an_instrument_that_the_lake_has_not_is_a_fault(provider):
    assert verify(MemoryLake({}), provider) == ["BTC_USDT.OKX is not in the lake"]


def test_restated_funding_is_found(provider):
    lake = lake_of()
    lake.funding[BTC].loc[T0 + 16 * HOUR_MS, "rate"] += 1e-4
    problems = verify(lake, provider, cells="all")
    assert {line.split(" differs")[0] for line in problems} == {str(provider / "settlements" / "btc_usdt.okx.bin")} | {
        f"BTC_USDT.OKX {field} of 60min"
        for field in ("funding", "funding_cash", "funding_open", "funding_open_cash", "funding_rate")
    } | {f"BTC_USDT.OKX {field} of day" for field in ("funding", "funding_cash")}


def test_no_provider_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"is no provider .* make it with: qlib-crypto convert"):
        verify(lake_of(), tmp_path)
