"""Open interest and long/short ratio by REST, as each venue pages and limits them."""

from __future__ import annotations

import numpy as np
import pytest
from sandbox_support import get

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.sandbox.events import EventConfig, EventTape
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Instrument, Interval, Venue

M1 = Interval.parse("1m")
#: Six days: more than OKX reaches back at 5 minutes.
TAPES = {venue: EventTape(EventConfig(venue, hours=144)) for venue in Venue}
NOW = TAPES[Venue.OKX].span_ms[1] - 2 * MINUTE_MS
BTC = {venue: Instrument("BTC", "USDT", venue) for venue in Venue}


@pytest.fixture(scope="module")
def handle():
    with running(list(TAPES.values()), speed=0, at=NOW, rate_scale=float("inf")) as running_one:
        yield running_one


OKX = "/api/v5/rubik/stat/contracts/{}?instId=BTC-USDT-SWAP"
BINANCE = "/futures/data/{}?symbol=BTCUSDT&period=5m"


def okx_rows(handle, name, **query):
    more = "".join(f"&{key}={value}" for key, value in query.items())
    answer = get(handle.url + OKX.format(name) + more).body
    assert answer["code"] == "0", answer
    return answer["data"]


def test_okx_open_interest_is_paged_by_begin_and_end_both_exclusive(handle):
    known = TAPES[Venue.OKX].open_interest_series(BTC[Venue.OKX])
    newest = okx_rows(handle, "open-interest-history")
    assert len(newest) == 100
    times = [int(row[0]) for row in newest]
    assert times == known.time_ms[known.time_ms <= NOW][::-1][:100].tolist()
    assert times[0] == NOW - NOW % 300_000
    part = okx_rows(handle, "open-interest-history", begin=times[10], end=times[5])
    assert part == newest[6:10]
    for row in part:
        i = int(np.searchsorted(known.time_ms, int(row[0])))
        assert (float(row[2]), float(row[3])) == (known.base[i], known.quote[i])
        assert float(row[1]) == pytest.approx(known.base[i] / 0.1, rel=1e-12)


def walk(handle, name, **query):
    rows, end = [], NOW + 1
    while page := okx_rows(handle, name, end=end, **query):
        rows += page
        end = int(page[-1][0])
    return rows


def test_okx_reaches_1440_rows_back_at_any_period(handle):
    tape = TAPES[Venue.OKX]
    known = tape.ratio_series(BTC[Venue.OKX])
    rows = walk(handle, "long-short-account-ratio-contract")
    past = known.time_ms <= NOW
    assert [int(row[0]) for row in rows] == known.time_ms[past][::-1][:1440].tolist()
    assert [float(row[1]) for row in rows] == known.ratio[past][::-1][:1440].tolist()
    assert past.sum() > 1440
    hourly = walk(handle, "long-short-account-ratio-contract", period="1H")
    assert [int(row[0]) for row in hourly] == known.time_ms[past & (known.time_ms % HOUR_MS == 0)][::-1].tolist()


def test_okx_refuses_a_period_and_a_length_that_it_has_not(handle):
    for more in ("&period=7m", "&limit=101", "&begin=x"):
        answer = get(handle.url + OKX.format("open-interest-history") + more)
        assert (answer.status, answer.body["code"]) == (400, "51000")
    assert get(handle.url + OKX.format("open-interest-history").replace("BTC-", "NO-")).body["code"] == "51001"


def test_binance_is_ascending_inclusive_and_omits_what_did_not_trade(handle):
    tape = TAPES[Venue.BINANCE]
    known = tape.open_interest_series(BTC[Venue.BINANCE])
    down = tape.happens.outage
    start, end = down[0] - down[0] % 300_000 - HOUR_MS, down[1] + HOUR_MS
    path = BINANCE.format("openInterestHist") + f"&startTime={start}&endTime={end - end % 300_000}&limit=500"
    rows = get(handle.url + path).body
    mine = (known.time_ms >= start) & (known.time_ms <= end - end % 300_000)
    assert [row["timestamp"] for row in rows] == known.time_ms[mine].tolist()
    assert [float(row["sumOpenInterest"]) for row in rows] == known.base[mine].tolist()
    assert [float(row["sumOpenInterestValue"]) for row in rows] == known.quote[mine].tolist()
    assert not any(down[0] < row["timestamp"] <= down[1] for row in rows)
    assert np.diff([row["timestamp"] for row in rows]).max() > 300_000


def test_binance_ratio_is_long_over_short_in_four_decimals(handle):
    known = TAPES[Venue.BINANCE].ratio_series(BTC[Venue.BINANCE])
    rows = get(handle.url + BINANCE.format("globalLongShortAccountRatio")).body
    past = known.ratio[known.time_ms <= NOW]
    assert len(rows) == 30
    assert [float(row["longShortRatio"]) for row in rows] == past[-30:].tolist()
    for row in rows:
        shares = float(row["longAccount"]), float(row["shortAccount"])
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert shares[0] / shares[1] == pytest.approx(float(row["longShortRatio"]), rel=1e-3)


def test_binance_reaches_30_days_back_and_has_a_limit_of_its_own(handle):
    path = BINANCE.format("openInterestHist")
    early = get(handle.url + path + f"&startTime={NOW - 30 * DAY_MS - 1}&limit=10")
    assert (early.status, early.body["code"]) == (400, -1130)
    assert get(handle.url + path + f"&startTime={NOW - 30 * DAY_MS}&limit=10").status == 200
    assert get(handle.url + path.replace("5m", "7m")).status == 400
    with running([TAPES[Venue.BINANCE]], speed=0, at=NOW, rate_scale=0.005) as small:
        statuses = [get(small.url + path).status for _ in range(6)]
    assert statuses == [200] * 5 + [429]


def test_a_tape_without_statistics_has_none(okx_tape, binance_tape):
    end = okx_tape.span_ms[1]
    with running([okx_tape, binance_tape], speed=0, at=end, rate_scale=float("inf")) as bare:
        assert okx_rows(bare, "open-interest-history") == []
        assert okx_rows(bare, "long-short-account-ratio-contract") == []
        assert get(bare.url + BINANCE.format("globalLongShortAccountRatio")).body == []


@pytest.mark.parametrize(
    ("kind", "okx", "binance"),
    [
        ("mark_bars", "mark-price-candles?instId=BTC-USDT-SWAP", "markPriceKlines?symbol=BTCUSDT"),
        ("index_bars", "index-candles?instId=BTC-USDT", "indexPriceKlines?pair=BTCUSDT"),
    ],
)
def test_mark_and_index_candles_are_the_tapes_own(handle, kind, okx, binance):
    for venue, tape in TAPES.items():
        bars = getattr(tape, kind)(BTC[venue], M1)
        past = bars.open_ms + MINUTE_MS <= NOW
        if venue is Venue.OKX:
            path = f"/api/v5/market/history-{okx}&limit=100"
            rows = [row for row in get(handle.url + path).body["data"] if row[5] == "1"][::-1]
        else:
            rows = get(f"{handle.url}/fapi/v1/{binance}&interval=1m&limit=100").body
            rows = [row for row in rows if row[6] < NOW]
        n = len(rows)
        assert [float(row[4]) for row in rows] == bars.close[past][-n:].tolist()
        assert [float(row[2]) for row in rows] == bars.high[past][-n:].tolist()
        assert bars.close[past][-1] != tape.bars(BTC[venue], M1).close[past][-1]
    premium = get(f"{handle.url}/fapi/v1/premiumIndex?symbol=BTCUSDT").body
    price = {"mark_bars": "markPrice", "index_bars": "indexPrice"}[kind]
    assert float(premium[price]) == bars.close[past][-1]
