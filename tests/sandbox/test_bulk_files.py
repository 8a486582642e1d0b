"""Bulk files of both venues, read by nothing but zip, csv and sha256."""

from __future__ import annotations

import csv
import hashlib
import io
import urllib.error
import urllib.request
import zipfile
import zlib

import numpy as np
import pytest
from sandbox_support import get

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, parse_utc
from qlib_crypto.sandbox.events import EventConfig, EventTape
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Instrument, Interval, Venue

M1 = Interval.parse("1m")
START = parse_utc("2026-06-23T12:00")
OKX, BINANCE = (EventTape(EventConfig(venue, start_ms=START, hours=84)) for venue in Venue)
#: A month after the tape's end: everything is published.
LATE = parse_utc("2026-07-28")
DAY = parse_utc("2026-06-24")
VISION = "/data/futures/um/"


@pytest.fixture(scope="module")
def handle():
    with running([OKX, BINANCE], speed=0, at=LATE, until=LATE, rate_scale=float("inf")) as running_one:
        yield running_one


def raw(url):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=20) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def rows(url):
    """The rows of the one CSV in a zip, header and all."""
    status, data = raw(url)
    assert status == 200, url
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (name,) = archive.namelist()
        assert name == url.split("?")[0].rsplit("/", 1)[-1].removesuffix(".zip") + ".csv"
        return list(csv.reader(io.StringIO(archive.read(name).decode())))


def vision(handle, kind, symbol, label, size="daily"):
    tail = f"{symbol}/1m/{symbol}-1m" if "lines" in kind else f"{symbol}/{symbol}-{kind}"
    return f"{handle.url}{VISION}{size}/{kind}/{tail}-{label}.zip"


def during(times, start, end):
    return (times >= start) & (times < end)


@pytest.mark.parametrize(("label", "size", "span"), [
    ("2026-06-24", "daily", (DAY, DAY + DAY_MS)),
    ("2026-06", "monthly", (START, parse_utc("2026-07-01"))),
])  # fmt: skip
def test_binance_klines_are_the_tape(handle, label, size, span):
    header, *got = rows(vision(handle, "klines", "ETHUSDT", label, size))
    bars = BINANCE.bars(Instrument("ETH", "USDT", Venue.BINANCE), M1)
    mine = during(bars.open_ms, *span)
    assert header[:6] == ["open_time", "open", "high", "low", "close", "volume"]
    assert [int(row[0]) for row in got] == bars.open_ms[mine].tolist()
    for column, values in ((1, bars.open), (2, bars.high), (3, bars.low), (4, bars.close), (5, bars.volume_base),
                           (7, bars.volume_quote), (8, bars.trades)):  # fmt: skip
        assert [float(row[column]) for row in got] == values[mine].tolist()
    assert {int(row[6]) - int(row[0]) for row in got} == {59_999}
    assert {len(row) for row in got} == {12}


def test_binance_checksums_fit(handle):
    url = vision(handle, "klines", "BTCUSDT", "2026-06-24")
    status, line = raw(url + ".CHECKSUM")
    digest, name = line.decode().split()
    assert (status, name) == (200, "BTCUSDT-1m-2026-06-24.zip")
    assert hashlib.sha256(raw(url)[1]).hexdigest() == digest


def test_a_damaged_file_has_another_sum_and_comes_well_again(handle):
    url = vision(handle, "klines", "BTCUSDT", "2026-06-25")
    good = raw(url)[1]
    handle.fault("checksum", venue="binance")
    bad = raw(url)[1]
    assert bad != good
    assert len(bad) == len(good)
    assert raw(url)[1] == good
    handle.fault("checksum", venue="okx")
    with pytest.raises((zipfile.BadZipFile, zlib.error)):
        rows(links(handle, "2", "daily", "BTC-USDT", DAY)[0])
    assert rows(links(handle, "2", "daily", "BTC-USDT", DAY)[0])


def test_metrics_are_labelled_with_the_end_and_since_june_25_with_the_start(handle):
    known = BINANCE.open_interest_series(Instrument("BTC", "USDT", Venue.BINANCE))
    ratios = BINANCE.ratio_series(Instrument("BTC", "USDT", Venue.BINANCE))
    for label, shift in (("2026-06-24", 0), ("2026-06-25", 5 * MINUTE_MS)):
        day = parse_utc(label)
        _, *got = rows(vision(handle, "metrics", "BTCUSDT", label))
        mine = (known.time_ms > day) & (known.time_ms <= day + DAY_MS)
        assert [parse_utc(row[0]) + shift for row in got] == known.time_ms[mine].tolist()
        assert [float(row[2]) for row in got] == known.base[mine].tolist()
        assert [float(row[3]) for row in got] == known.quote[mine].tolist()
        assert [float(row[6]) for row in got] == ratios.ratio[mine].tolist()
        assert len(got) > 200


def test_funding_comes_by_month_only_with_the_interval_of_its_time(handle):
    instrument = Instrument("SOON", "USDT", Venue.BINANCE)
    header, *got = rows(vision(handle, "fundingRate", "SOONUSDT", "2026-06", "monthly"))
    settled = BINANCE.settlements(instrument)
    mine = during(settled.time_ms, parse_utc("2026-06-01"), parse_utc("2026-07-01"))
    assert header == ["calc_time", "funding_interval_hours", "last_funding_rate"]
    assert [int(row[0]) for row in got] == settled.time_ms[mine].tolist()
    assert [float(row[2]) for row in got] == settled.rate[mine].tolist()
    assert {row[1] for row in got} == {"8", "4"}
    assert raw(vision(handle, "fundingRate", "SOONUSDT", "2026-06-24"))[0] == 404


def test_a_reused_ticker_has_both_contracts_in_its_file(handle):
    _, *got = rows(vision(handle, "klines", "LUNAUSDT", "2026-06", "monthly"))
    both = [BINANCE.bars(Instrument("LUNA", "USDT", Venue.BINANCE, n), M1).open_ms for n in (1, 2)]
    assert [int(row[0]) for row in got] == np.concatenate(both).tolist()


def test_files_are_there_once_published():
    url = vision(type("At", (), {"url": ""}), "klines", "BTCUSDT", "2026-06-24")
    month = vision(type("At", (), {"url": ""}), "klines", "BTCUSDT", "2026-06", "monthly")
    with running([BINANCE], speed=0, at=START, until=LATE) as box:
        seen = []
        for at in (DAY + DAY_MS + 8 * HOUR_MS, DAY + DAY_MS + 9 * HOUR_MS, parse_utc("2026-07-06"), LATE):
            box.set_clock(at=at)
            seen.append((raw(box.url + url)[0], raw(box.url + month)[0]))
        assert seen == [(404, 404), (200, 404), (200, 404), (200, 200)]


def test_old_files_have_no_header_and_old_months_lack_a_day():
    tape = EventTape(EventConfig(Venue.BINANCE, start_ms=parse_utc("2022-04-14"), hours=60, events=False))
    with running([tape], speed=0, at=LATE, until=LATE) as box:
        daily = rows(vision(box, "klines", "BTCUSDT", "2022-04-15"))
        monthly = rows(vision(box, "klines", "BTCUSDT", "2022-04", "monthly"))
    assert len(daily) == 1440
    assert daily[0][0] == str(parse_utc("2022-04-15"))
    assert not any(during(int(row[0]), parse_utc("2022-04-15"), parse_utc("2022-04-16")) for row in monthly)
    assert len(monthly) == (60 - 24) * 60


@pytest.mark.parametrize(
    "path",
    ["daily/klines/BTCUSDT/1m/ETHUSDT-1m-2026-06-24.zip", "daily/klines/BTCUSDT/1m/BTCUSDT-5m-2026-06-24.zip",
     "daily/klines/NOUSDT/1m/NOUSDT-1m-2026-06-24.zip", "daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-13-44.zip",
     "daily/klines/BTCUSDT/1m/BTCUSDT-1m-2020-06-24.zip", "monthly/metrics/BTCUSDT/BTCUSDT-metrics-2026-06.zip", "x"],
)  # fmt: skip
def test_what_is_not_there_is_a_404(handle, path):
    assert raw(handle.url + VISION + path)[0] == 404
    assert raw(handle.url + VISION + path + ".CHECKSUM")[0] == 404


def links(handle, module, size, family, begin, end=None):
    query = (
        f"module={module}&instType=SWAP&instFamilyList={family}&dateAggrType={size}&begin={begin}&end={end or begin}"
    )
    answer = get(f"{handle.url}/api/v5/public/market-data-history?{query}").body
    assert answer["code"] == "0", answer
    return [file["url"] for group in answer["data"] for d in group["details"] for file in d["groupDetails"]]


def test_okx_links_to_candles_by_days_of_utc_8(handle):
    (url,) = links(handle, "2", "daily", "RESIZE-USDT", DAY)
    assert url.startswith(handle.url + "/cdn/okex/traderecords/candlesticks/daily/20260624/")
    header, *got = rows(url)
    instrument = Instrument("RESIZE", "USDT", Venue.OKX)
    bars = OKX.bars(instrument, M1)
    mine = during(bars.open_ms, DAY - 8 * HOUR_MS, DAY + 16 * HOUR_MS)
    assert ",".join(header) == "instrument_name,open,high,low,close,vol,vol_ccy,vol_quote,open_time,confirm"
    assert [int(row[8]) for row in got] == bars.open_ms[mine].tolist()
    assert [float(row[4]) for row in got] == bars.close[mine].tolist()
    assert [float(row[6]) for row in got] == bars.volume_base[mine].tolist()
    assert {row[0] for row in got} == {"RESIZE-USDT-SWAP"}


def test_okx_counts_each_bar_in_the_contracts_of_its_time(handle):
    change = OKX.happens.contract_changes
    day = change - change % DAY_MS
    got = [row for url in links(handle, "2", "daily", "RESIZE-USDT", day, day + DAY_MS) for row in rows(url)[1:]]
    for row in got:
        if float(row[6]):
            size = 0.1 if int(row[8]) < change else 0.01
            assert float(row[5]) * size == pytest.approx(float(row[6]), rel=1e-9)
    assert any(int(row[8]) < change for row in got)
    assert any(int(row[8]) >= change for row in got)


def test_okx_funding_by_day_is_of_all_swaps_and_by_month_of_one(handle):
    (everybody,) = links(handle, "3", "daily", "ANY", DAY)
    assert links(handle, "3", "daily", "BTC-USDT", DAY) == []
    header, *got = rows(everybody)
    assert header == ["instrument_name", "funding_rate", "funding_time"]
    span = DAY - 8 * HOUR_MS, DAY + 16 * HOUR_MS
    expected = {
        (i.venue_id, int(t), float(r))
        for i in OKX.specs
        for t, r in zip(OKX.settlements(i).time_ms, OKX.settlements(i).rate, strict=True)
        if span[0] <= t < span[1]
    }
    assert {(row[0], int(row[2]), float(row[1])) for row in got} == expected
    (month,) = links(handle, "3", "monthly", "BTC-USDT", parse_utc("2026-05-01"))
    assert len(rows(month)) == 1 + 31 * 3


def test_old_okx_files_have_chinese_headers_and_the_estimate_beside_what_was_paid():
    tape = EventTape(EventConfig(Venue.OKX, start_ms=parse_utc("2022-04-14"), hours=60, events=False))
    with running([tape], speed=0, at=LATE, until=LATE) as box:
        header, *got = rows(links(box, "3", "daily", "ANY", parse_utc("2022-04-15"))[0])
    assert header[3] == "real_funding_rate/实际资金费率"
    assert len(got) == 8 * 3


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("module=2&instType=SWAP&instFamilyList=BTC-USDT&dateAggrType=daily&begin=1&end=0", "51000"),
        ("module=2&instType=SWAP&instFamilyList=BTC-USDT&dateAggrType=weekly&begin=0&end=1", "51000"),
        ("module=2&instType=SWAP&instFamilyList=BTC-USDT&dateAggrType=daily&begin=0&end=" + "9" * 13, "51000"),
        ("module=2&instType=SWAP&dateAggrType=daily&begin=0&end=1", "50014"),
        ("module=2&instType=SWAP&instFamilyList=BTC-USDT&dateAggrType=daily&begin=x&end=1", "51000"),
        (f"module=2&instType=SWAP&instFamilyList=BTC-USDT&dateAggrType=daily&begin=0&end={40 * DAY_MS}", "51000"),
        (f"module=9&instType=SWAP&instFamilyList=BTC-USDT&dateAggrType=daily&begin={DAY}&end={DAY}", "0"),
    ],
)
def test_a_wrong_listing_is_refused(handle, query, code):
    assert get(f"{handle.url}/api/v5/public/market-data-history?{query}").body["code"] == code
