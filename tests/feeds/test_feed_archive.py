"""Bulk files of both venues from a loopback host: every shape they were published in, holes, damage, bounded memory.

No real file of either host is at hand; the layouts are those of the reference, the numbers drawn here.
"""

from __future__ import annotations

import hashlib
import io
import tracemalloc
import zipfile
from datetime import UTC, datetime
from urllib.parse import parse_qs

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from support_feeds import loopback, settings_at

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, next_month, parse_utc, utc
from qlib_crypto.errors import ConfigError, SchemaError, VenueError
from qlib_crypto.feeds import Archive
from qlib_crypto.feeds.bulk_files import Table, milliseconds, picked
from qlib_crypto.feeds.transport import Patience
from qlib_crypto.schemas import PERIOD_MS, IndexBar, MarkBar
from qlib_crypto.symbols import Instrument, Interval, Venue

BTC = Instrument("BTC", "USDT", Venue.BINANCE)
BTC_OKX = Instrument("BTC", "USDT", Venue.OKX)
M1, H1 = Interval.parse("1m"), Interval.parse("1h")
UM = "/data/futures/um"
KLINE = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
METRICS = (
    "create_time,symbol,sum_open_interest,sum_open_interest_value,count_toptrader_long_short_ratio,"
    "sum_toptrader_long_short_ratio,count_long_short_ratio,sum_taker_long_short_vol_ratio"
)
CANDLES = "instrument_name,open,high,low,close,vol,vol_ccy,vol_quote,open_time,confirm"
MAY = parse_utc("2024-05-01")
NOW = parse_utc("2024-06-09T03:00")
QUICK = Patience(attempts=2, first_wait_s=0.01, longest_wait_s=0.01, jitter_s=0.0)


def zipped(name, text, encoding="utf-8"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(name.replace(".zip", ".csv"), text.encode(encoding))
    return out.getvalue()


class Host:
    """Files by path, with the checksums of those of Binance; counts what is asked, damages what it is told to."""

    def __init__(self):
        self.files, self.asked, self.damage = {}, [], {}
        self.listed = []

    def put(self, path, *lines, header=None, encoding="utf-8"):
        text = "".join(f"{line}\n" for line in ([header] if header else []) + list(lines))
        name = path.rsplit("/", 1)[-1]
        body = zipped(name, text, encoding)
        self.files[path] = body
        if path.startswith("/data/"):
            self.files[f"{path}.CHECKSUM"] = f"{hashlib.sha256(body).hexdigest()}  {name}\n".encode()

    async def __call__(self, request):
        self.asked.append(request.path_qs)
        if request.path.endswith("/public/time"):
            return web.json_response({"code": "0", "data": [{"ts": str(NOW)}]})
        if request.path.endswith("/market-data-history"):
            return web.json_response(self.listing(request))
        body = self.files.get(request.path)
        if body is None:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        if self.damage.get(request.path, 0) > 0:
            self.damage[request.path] -= 1
            body = body[:20] + bytes([body[20] ^ 1]) + body[21:]
        return web.Response(body=body)

    def listing(self, request):
        """As OKX: of one module, family and size, labels between begin and end, no more than 20."""
        asked = {name: values[0] for name, values in parse_qs(request.query_string).items()}
        begin, end = int(asked["begin"]), int(asked["end"])
        days = (end - begin) / DAY_MS
        assert asked["instType"] == "SWAP"
        assert begin < end <= NOW
        assert days <= (20 if asked["dateAggrType"] == "daily" else 600)
        kind = (asked["module"], asked["instFamilyList"], asked["dateAggrType"])
        rows = [
            {"filename": path.rsplit("/", 1)[-1], "url": f"http://{request.host}{path}?v=999", "dateTs": str(label)}
            for of, label, path in self.listed
            if of == kind and begin <= label <= end
        ]
        return {"code": "0", "msg": "", "data": [{"details": [{"groupDetails": rows}], "totalSizeMB": "1"}]}

    def paths(self):
        return [asked.split("?")[0] for asked in self.asked if ".zip" in asked and "CHECKSUM" not in asked]


def bar_line(at, scale=1):
    price = 100 + at // MINUTE_MS % 1000 / 8
    prices = f"{price},{price + 2},{price - 2},{price + 1}"
    return f"{at * scale},{prices},{at // MINUTE_MS % 7},{at + 59_999},9.5,{at % 11},1,2,0"


def kline_path(size, at, kind="klines", interval="1m"):
    label = utc(at).strftime("%Y-%m" if size == "monthly" else "%Y-%m-%d")
    return f"{UM}/{size}/{kind}/BTCUSDT/{interval}/BTCUSDT-{interval}-{label}.zip"


def minutes(start, end):
    return range(start, end, MINUTE_MS)


@pytest.fixture
def host():
    return Host()


def asked_of(host, venue, call, **settings):
    """The rows of a call to an archive, flat, and page by page in order."""
    with loopback(host) as url:
        archive = Archive(venue, settings_at(venue, url, **settings), QUICK)
        try:
            pages = list(call(archive))
        finally:
            archive.close()
    assert all(pages), "no page is empty"
    rows = [row for page in pages for row in page]
    times = [row.open_ms if hasattr(row, "open_ms") else row.time_ms for row in rows]
    assert times == sorted(set(times)), "oldest first, each once"
    assert {row.source for row in rows} <= {"archive"}
    return rows


def times_of(rows):
    return [row.open_ms if hasattr(row, "open_ms") else row.time_ms for row in rows]


# candles of Binance


@pytest.mark.parametrize("header", [KLINE, None], ids=["header", "none"])
@pytest.mark.parametrize("scale", [1, 1000], ids=["ms", "us"])
def test_binance_bars_with_and_without_header_in_ms_and_us(host, header, scale):
    host.put(kline_path("daily", MAY), *(bar_line(t, scale) for t in minutes(MAY, MAY + DAY_MS)), header=header)
    span = (MAY + 7 * MINUTE_MS, MAY + HOUR_MS)
    rows = asked_of(host, Venue.BINANCE, lambda a: a.bars(BTC, M1, *span))
    assert times_of(rows) == list(minutes(*span))
    first = rows[0]
    line = bar_line(first.open_ms).split(",")
    assert first[3:11] == (*map(float, line[1:6]), 9.5, int(line[8]), "archive")
    assert host.paths() == [kline_path("daily", MAY)]


def test_binance_a_month_comes_from_its_own_file_and_what_it_lacks_from_the_days(host):
    """As in spring 2022: the month lacks the 10th altogether and ten minutes of the 20th, the 30th is in neither."""
    gone = {10: (0, DAY_MS), 20: (HOUR_MS, HOUR_MS + 10 * MINUTE_MS), 30: (0, DAY_MS)}
    end = next_month(MAY)

    def there(at):
        day, into = divmod(at - MAY, DAY_MS)
        low, high = gone.get(day + 1, (0, 0))
        return not low <= into < high

    host.put(kline_path("monthly", MAY), *(bar_line(t) for t in minutes(MAY, end) if there(t)), header=KLINE)
    for day in (10, 20):
        at = MAY + (day - 1) * DAY_MS
        host.put(kline_path("daily", at), *(bar_line(t) for t in minutes(at, at + DAY_MS)))
    rows = asked_of(host, Venue.BINANCE, lambda a: a.bars(BTC, M1, MAY, end))
    assert times_of(rows) == [t for t in minutes(MAY, end) if (t - MAY) // DAY_MS + 1 != 30]
    days = [MAY + (day - 1) * DAY_MS for day in (10, 20)]
    assert host.paths() == [kline_path("monthly", MAY), *(kline_path("daily", day) for day in days)]


def test_binance_few_days_do_not_cost_a_month(host):
    for k in range(3):
        at = MAY + k * DAY_MS
        host.put(kline_path("daily", at), *(bar_line(t) for t in minutes(at, at + DAY_MS)), header=KLINE)
    rows = asked_of(host, Venue.BINANCE, lambda a: a.bars(BTC, M1, MAY + HOUR_MS, MAY + 2 * DAY_MS + HOUR_MS))
    assert len(rows) == 2 * 1440
    assert all("/daily/" in path for path in host.paths())


def test_binance_a_day_without_a_file_has_no_rows_and_is_no_error(host):
    for k in (0, 2):
        at = MAY + k * DAY_MS
        host.put(kline_path("daily", at), *(bar_line(t) for t in minutes(at, at + DAY_MS)), header=KLINE)
    rows = asked_of(host, Venue.BINANCE, lambda a: a.bars(BTC, M1, MAY, MAY + 3 * DAY_MS))
    assert times_of(rows) == [t for k in (0, 2) for t in minutes(MAY + k * DAY_MS, MAY + (k + 1) * DAY_MS)]
    assert asked_of(host, Venue.BINANCE, lambda a: a.bars(BTC, M1, 0, DAY_MS)) == []


def test_binance_duplicates_and_disorder_are_put_right(host):
    lines = [bar_line(t) for t in minutes(MAY, MAY + DAY_MS)]
    host.put(kline_path("daily", MAY), *lines[700:], *lines[:710], *lines[5:9], header=KLINE)
    rows = asked_of(host, Venue.BINANCE, lambda a: a.bars(BTC, M1, MAY, MAY + DAY_MS))
    assert times_of(rows) == list(minutes(MAY, MAY + DAY_MS))


@pytest.mark.parametrize(
    ("kind", "folder", "method"),
    [(MarkBar, "markPriceKlines", "marks"), (IndexBar, "indexPriceKlines", "indexes")],
)
def test_binance_marks_indexes_and_other_intervals(host, kind, folder, method):
    path = kline_path("daily", MAY, folder, "1h")
    lines = [f"{t},1,3,0.5,2,0,{t + HOUR_MS - 1},0,3600,0,0,0" for t in range(MAY, MAY + DAY_MS, HOUR_MS)]
    host.put(path, *lines)
    rows = asked_of(host, Venue.BINANCE, lambda a: getattr(a, method)(BTC, H1, MAY, MAY + DAY_MS))
    assert {type(row) for row in rows} == {kind}
    assert [row[2:8] for row in rows] == [(MAY + k * HOUR_MS, 1.0, 3.0, 0.5, 2.0, "archive") for k in range(24)]


# its funding and metrics


@pytest.mark.parametrize("header", ["calc_time,funding_interval_hours,last_funding_rate", None])
def test_binance_funding_is_by_month(host, header):
    june = next_month(MAY)
    for month in (MAY, june):
        stamps = range(month, next_month(month), 8 * HOUR_MS)
        lines = [f"{t + t % 13},8,{t % 97}e-6" for t in stamps]
        label = utc(month).strftime("%Y-%m")
        host.put(f"{UM}/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-{label}.zip", *lines, header=header)
    span = (MAY + 3 * DAY_MS, june + DAY_MS)
    rows = asked_of(host, Venue.BINANCE, lambda a: a.settlements(BTC, *span))
    want = [t for month in (MAY, june) for t in range(month, next_month(month), 8 * HOUR_MS)]
    want = [t for t in want if span[0] <= t + t % 13 < span[1]]
    assert [(row.time_ms, row.rate, row.mark_price) for row in rows] == [
        (t + t % 13, float(f"{t % 97}e-6"), None) for t in want
    ]


def metrics_line(at, label):
    return f"{utc(label):%Y-%m-%d %H:%M:%S},BTCUSDT,{at % 97 + 1},{at % 89 + 1},1.1,1.2,{at % 83 + 1},0.9"


def put_metrics(host, day, *, at_start, header=METRICS):
    """The rows of the 5 minutes that end in (day, day + 1]; labelled by their start or their end."""
    ends = range(day + PERIOD_MS, day + DAY_MS + 1, PERIOD_MS)
    label = utc(day).strftime("%Y-%m-%d")
    lines = [metrics_line(end, end - PERIOD_MS if at_start else end) for end in ends]
    host.put(f"{UM}/daily/metrics/BTCUSDT/BTCUSDT-metrics-{label}.zip", *lines, header=header)


def test_binance_metrics_keep_one_meaning_over_the_move_of_their_label(host):
    """From the file of 2026-06-25 on the label is the start of the 5 minutes; a row still means what its end knew."""
    move = parse_utc("2026-06-25")
    for k in range(-3, 3):
        put_metrics(host, move + k * DAY_MS, at_start=k >= 0)
    span = (move - 2 * DAY_MS, move + 2 * DAY_MS)
    want = list(range(*span, PERIOD_MS))
    rows = asked_of(host, Venue.BINANCE, lambda a: a.open_interest(BTC, *span))
    assert [row[1:4] for row in rows] == [(t, t % 97 + 1, t % 89 + 1) for t in want]
    ratios = asked_of(host, Venue.BINANCE, lambda a: a.long_short_ratio(BTC, *span))
    assert [row[1:3] for row in ratios] == [(t, t % 83 + 1) for t in want]


def test_binance_metrics_with_holes_doubles_and_empty_values(host):
    day = parse_utc("2024-05-02")
    path = f"{UM}/daily/metrics/BTCUSDT/BTCUSDT-metrics-2024-05-02.zip"
    ends = [day + k * PERIOD_MS for k in range(1, 7)]
    lines = [metrics_line(end, end) for end in ends]
    lines[2] = f"{utc(ends[2]):%Y-%m-%d %H:%M:%S},BTCUSDT,,,1,1,1,1"
    host.put(path, lines[0], lines[0].replace(",1.1,", ",9,"), lines[4], *lines[2:4])
    rows = asked_of(host, Venue.BINANCE, lambda a: a.open_interest(BTC, day, day + DAY_MS))
    assert times_of(rows) == [ends[0], ends[3], ends[4]]
    ratios = asked_of(host, Venue.BINANCE, lambda a: a.long_short_ratio(BTC, day, day + DAY_MS))
    assert times_of(ratios) == [ends[0], ends[2], ends[3], ends[4]]


# OKX


def okx_candle(at, name="BTC-USDT-SWAP"):
    price = 100 + at // MINUTE_MS % 1000 / 8
    return f"{name},{price},{price + 2},{price - 2},{price + 1},{at % 100},{at // MINUTE_MS % 7},9.5,{at},1"


def put_okx(host, module, family, size, label, lines, header, kind, encoding="utf-8"):
    text = utc(label).strftime("%Y-%m-%d" if size == "daily" else "%Y-%m")
    name = "allswap" if family == "ANY" else f"{family}-SWAP"
    path = f"/cdn/okex/traderecords/{kind}/{size}/{text.replace('-', '')}/{name}-{kind}-{text}.zip"
    host.put(path, *lines, header=header, encoding=encoding)
    host.listed.append(((str(module), family, size), label, path))


@pytest.mark.parametrize("zone", [8 * HOUR_MS, 0], ids=["UTC+8", "UTC"])
def test_okx_bars_of_days_and_months_that_begin_at_utc_8(host, zone):
    june = next_month(MAY)

    def lines(start, end):
        return [okx_candle(t) for t in minutes(start - zone, end - zone)]

    put_okx(host, 2, "BTC-USDT", "monthly", MAY, lines(MAY, june), CANDLES, "candlesticks")
    for k in range(-2, 35):
        at = MAY + k * DAY_MS
        put_okx(host, 2, "BTC-USDT", "daily", at, lines(at, at + DAY_MS), CANDLES, "candlesticks")
    span = (MAY, june + 2 * DAY_MS + 5 * MINUTE_MS)
    rows = asked_of(host, Venue.OKX, lambda a: a.bars(BTC_OKX, M1, *span))
    assert times_of(rows) == list(minutes(*span))
    line = okx_candle(rows[0].open_ms).split(",")
    assert rows[0][3:11] == (*map(float, line[1:5]), float(line[6]), 9.5, None, "archive"), "coins, not contracts"
    paths = host.paths()
    assert len(paths) == len(set(paths)) <= 8, "the month, its last day, the three days after it, no file twice"
    assert all(asked.endswith("?v=999") for asked in host.asked if ".zip" in asked)


CHINESE = {
    "mixed": ("contract_type/合约类型,funding_rate/预测费率,real_funding_rate/实际费率,funding_time/时间", "gbk"),
    "only": ("合约,预测费率,实际费率,时间", "utf-8"),
    "none": (None, "utf-8"),
}


@pytest.mark.parametrize("header", sorted(CHINESE))
def test_okx_funding_of_old_files_with_chinese_headers_is_what_was_paid(host, header):
    title, encoding = CHINESE[header]
    stamps = range(MAY - 8 * HOUR_MS, next_month(MAY) - 8 * HOUR_MS, 8 * HOUR_MS)
    lines = [f"BTC-USDT-SWAP,0.5,{t % 97}e-6,{t}" for t in stamps]
    put_okx(host, 3, "BTC-USDT", "monthly", MAY, lines, title, "swaprates", encoding)
    span = (MAY, MAY + 20 * DAY_MS)
    rows = asked_of(host, Venue.OKX, lambda a: a.settlements(BTC_OKX, *span))
    want = [(t, float(f"{t % 97}e-6"), None) for t in stamps if span[0] <= t < span[1]]
    assert [(row.time_ms, row.rate, row.mark_price) for row in rows] == want
    assert len(want) == 60


def test_okx_funding_of_the_last_hours_and_of_unpublished_months_comes_from_days_of_all_swaps(host):
    june, eth = next_month(MAY), Instrument("ETH", "USDT", Venue.OKX)
    header = "instrument_name,funding_rate,funding_time"
    every = 4 * HOUR_MS
    for family in ("BTC-USDT", "ETH-USDT"):
        stamps = range(MAY - 8 * HOUR_MS, june - 8 * HOUR_MS, every)
        lines = [f"{family}-SWAP,{t % 97}e-6,{t}" for t in stamps]
        put_okx(host, 3, family, "monthly", MAY, lines, header, "fundingrates")
    for k in range(-1, 8):
        label = june + k * DAY_MS
        stamps = range(label - 8 * HOUR_MS, label + 16 * HOUR_MS, every)
        lines = [
            f"{name},{t % 97}e-6,{t}" for t in stamps for name in ("BTC-USDT-SWAP", "ETH-USDT-SWAP", "BTC-USD-SWAP")
        ]
        put_okx(host, 3, "ANY", "daily", label, lines, header, "fundingrates")
    span = (june - 2 * DAY_MS, june + 5 * DAY_MS)
    with loopback(host) as url:
        archive = Archive(Venue.OKX, settings_at(Venue.OKX, url), QUICK)
        for instrument in (BTC_OKX, eth):
            rows = [row for page in archive.settlements(instrument, *span) for row in page]
            assert [(row.time_ms, row.rate) for row in rows] == [
                (t, float(f"{t % 97}e-6")) for t in range(*span, every)
            ]
        archive.close()
    days = [path for path in host.paths() if "allswap" in path]
    assert len(days) == len(set(days)), "a day of all swaps is downloaded once for all contracts"


def test_okx_a_link_that_leads_elsewhere_is_not_followed(host):
    host.listed.append((("2", "BTC-USDT", "daily"), MAY, "/x.zip"))

    class Astray(Host):
        def listing(self, request):
            answer = super().listing(request)
            for row in answer["data"][0]["details"][0]["groupDetails"]:
                row["url"] = "http://127.0.0.1:9/BTC-2024-05-01.zip"
                row["filename"] = "BTC-2024-05-01.zip"
            return answer

    astray = Astray()
    astray.listed = host.listed
    with pytest.raises(VenueError, match="is no file on"):
        asked_of(astray, Venue.OKX, lambda a: a.bars(BTC_OKX, M1, MAY, MAY + DAY_MS))


# damage


def test_a_file_that_is_not_what_its_checksum_says_is_named_and_asked_for_once_more(host):
    path = kline_path("daily", MAY)
    host.put(path, *(bar_line(t) for t in minutes(MAY, MAY + DAY_MS)), header=KLINE)
    host.damage[path] = 1
    assert len(asked_of(host, Venue.BINANCE, lambda a: a.bars(BTC, M1, MAY, MAY + DAY_MS))) == 1440
    host.damage[path] = 99
    with pytest.raises(VenueError, match=r"archive file .*BTCUSDT-1m-2024-05-01.zip is damaged \(sha256 ") as caught:
        asked_of(host, Venue.BINANCE, lambda a: a.bars(BTC, M1, MAY, MAY + DAY_MS))
    assert caught.value.retryable
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("said", [b"", b"hello", b"0" * 64 + b"  other.zip\n", b"<html>"])
def test_a_checksum_file_that_says_nothing_is_no_checksum(host, said):
    path = kline_path("daily", MAY)
    host.put(path, bar_line(MAY), header=KLINE)
    host.files[f"{path}.CHECKSUM"] = said
    with pytest.raises(VenueError, match=r"2024-05-01.zip is damaged \(its CHECKSUM reads"):
        asked_of(host, Venue.BINANCE, lambda a: a.bars(BTC, M1, MAY, MAY + DAY_MS))


def test_a_zip_that_is_broken_is_named_or_says_the_same(host):
    """OKX has no checksums: whichever byte is wrong, the zip tells, or it was a byte that means nothing."""
    hour = minutes(MAY, MAY + HOUR_MS)
    put_okx(host, 2, "BTC-USDT", "daily", MAY, [okx_candle(t) for t in hour], CANDLES, "candlesticks")
    path = host.listed[0][2]
    whole, broken = host.files[path], 0

    def rows(archive):
        return [row[:-1] for page in archive.bars(BTC_OKX, M1, MAY, MAY + DAY_MS) for row in page]

    with loopback(host) as url:
        archive = Archive(Venue.OKX, settings_at(Venue.OKX, url, rate_scale=1e6), QUICK)
        want = rows(archive)
        assert len(want) == 60
        for at in range(0, len(whole), 37):
            host.files[path] = whole[:at] if at % 2 else whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
            try:
                assert rows(archive) == want
            except VenueError as error:
                broken += 1
                assert "candlesticks-2024-05-01.zip is damaged" in str(error)  # noqa: PT017 - or it is not damaged
        archive.close()
    assert broken > 20


@pytest.mark.parametrize(
    ("status", "words"), [(403, "geo-block"), (451, "geo-block"), (500, "HTTP 500"), (302, "HTTP 302")]
)
def test_a_host_that_gives_no_file_says_why(status, words):
    async def refuse(_request):
        return web.Response(status=status, text="no", headers={"Location": "/x"} if status == 302 else {})

    with pytest.raises(VenueError, match=words) as caught:
        asked_of(refuse, Venue.BINANCE, lambda a: a.bars(BTC, M1, MAY, MAY + DAY_MS))
    assert str(caught.value).startswith("binance GET /data/futures/um/daily/klines/BTCUSDT/1m/")
    assert caught.value.retryable == (status == 500)


@pytest.mark.parametrize(
    "lines", [["a,b,c"], [bar_line(MAY), "1,2,3"], ["1,2,3"], [bar_line(MAY).replace(",9.5,", ",x,")]]
)
def test_a_file_laid_out_differently_is_told(host, lines):
    host.put(kline_path("daily", MAY), *lines)
    with pytest.raises(SchemaError):
        asked_of(host, Venue.BINANCE, lambda a: a.bars(BTC, M1, MAY, MAY + DAY_MS))


# what it serves


def test_what_is_served_and_from_when():
    with_files = {
        Venue.OKX: {"kline_1m", "funding"},
        Venue.BINANCE: {"kline_1m", "kline_4h", "mark_1m", "index_1m", "funding", "open_interest", "long_short_ratio"},
    }
    names = with_files[Venue.BINANCE] | {"trades", "books", "liquidations", "funding_estimate"}
    for venue, want in with_files.items():
        archive = Archive(venue, settings_at(venue, "http://127.0.0.1:9"))
        assert {name for name in names if archive.serves(name)} == want
        archive.close()
    okx = Archive(Venue.OKX, settings_at(Venue.OKX, "http://127.0.0.1:9"))
    for call in (lambda: okx.marks(BTC_OKX, M1, 0, 1), lambda: okx.indexes(BTC_OKX, M1, 0, 1),
                 lambda: okx.open_interest(BTC_OKX, 0, 1),
                 lambda: okx.long_short_ratio(BTC_OKX, 0, 1), lambda: okx.bars(BTC_OKX, H1, 0, 1)):  # fmt: skip
        with pytest.raises(ConfigError, match="okx publishes no bulk files of"):
            call()
    okx.close()


def test_what_is_published():
    binance = Archive(Venue.BINANCE, settings_at(Venue.BINANCE, "http://127.0.0.1:9"))
    okx = Archive(Venue.OKX, settings_at(Venue.OKX, "http://127.0.0.1:9"))
    for now, daily, funding, slow in [
        ("2026-06-10T08:29", "2026-06-09", "2026-06-01", "2026-06-08"),
        ("2026-06-10T08:30", "2026-06-10", "2026-06-01", "2026-06-08"),
        ("2026-06-01T12:00", "2026-06-01", "2026-05-01", "2026-05-30"),  # a Monday, the first one of June
        ("2026-06-02T12:00", "2026-06-02", "2026-06-01", "2026-05-31"),
        ("2026-07-05T12:00", "2026-07-05", "2026-06-01", "2026-07-03"),  # the first Monday is the 6th
        ("2026-07-07T07:00", "2026-07-06", "2026-07-01", "2026-07-04"),
    ]:
        at = parse_utc(now)
        assert utc(binance.published_until_ms(at)) == datetime.fromisoformat(daily).replace(tzinfo=UTC)
        assert utc(binance.published_until_ms(at, "funding")) == datetime.fromisoformat(funding).replace(tzinfo=UTC)
        assert utc(okx.published_until_ms(at)) == datetime.fromisoformat(slow).replace(tzinfo=UTC)
    binance.close()
    okx.close()


def test_memory_does_not_grow_with_the_months(host):
    """Six months page by page hold no more than two do."""
    m15, month = Interval.parse("15m"), MAY
    for _ in range(6):
        lines = [bar_line(t) for t in range(month, next_month(month), m15.ms)]
        host.put(kline_path("monthly", month, interval="15m"), *lines, header=KLINE)
        month = next_month(month)

    def peak(end):
        archive = Archive(Venue.BINANCE, settings_at(Venue.BINANCE, url), QUICK)
        tracemalloc.start()
        count = sum(len(page) for page in archive.bars(BTC, m15, MAY, end))
        _, top = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        archive.close()
        assert count == (end - MAY) // m15.ms
        return top

    with loopback(host) as url:
        two, six = peak(next_month(next_month(MAY))), peak(month)
    assert six < 1.2 * two


# rows of text


@given(st.integers(0, 4_102_444_800_000))
def test_stamps_are_told_apart_by_their_size(at):
    if at > 10**11:  # 1973
        assert milliseconds(str(at)) == milliseconds(str(at * 1000)) == at
    assert milliseconds(f"{utc(at):%Y-%m-%d %H:%M:%S}") == at - at % 1000


@pytest.mark.parametrize("bad", ["", "x", "1.5", "05:00", "2024-13-01 00:00"])
def test_what_is_no_stamp_is_told(bad):
    with pytest.raises((SchemaError, ConfigError)):
        milliseconds(bad)


def test_columns_are_found_by_name_wherever_they_are():
    table = Table([("a", "b", "c")], [("c",), ("best", "a")])
    rows = [["x", "1"], ["y", "2"]]
    assert list(picked(iter([["A/甲", "C"], *rows]), table, "f")) == [["1", "x"], ["2", "y"]]
    assert list(picked(iter([["1", "2", "3"]]), table, "f")) == [["3", "1"]]
    assert list(picked(iter([["a", "c", "best"], ["1", "2", "3"]]), table, "f")) == [["2", "3"]]
    assert list(picked(iter([]), table, "f")) == []
    with pytest.raises(SchemaError, match="f: 2 columns"):
        list(picked(iter([["1", "2"]]), table, "f"))


def test_the_listing_is_what_the_reference_says():
    """A listing as OKX sends it, with fields that we do not read."""
    one = {"filename": "BTC-USDT-SWAP-candlesticks-2025-08.zip", "sizeMB": "1.2", "dateTs": "1754006400000",
           "url": "https://static.okx.com/cdn/okex/x/202508/BTC-USDT-SWAP-candlesticks-2025-08.zip"}  # fmt: skip
    answer = {"code": "0", "msg": "", "data": [
        {"ts": "1", "totalSizeMB": "1.2", "dateAggrType": "monthly", "details": [
            {"instFamily": "BTC-USDT", "instType": "SWAP", "instId": "", "groupSizeMB": "1.2", "groupDetails": [one],
             "dateRangeStart": "1", "dateRangeEnd": "2"}]}]}  # fmt: skip
    from support_wire import client_of  # noqa: PLC0415 - only here

    client = client_of(Venue.OKX, {"/api/v5/public/market-data-history": orjson.loads(orjson.dumps(answer))})
    assert client.files(module=2) == [(one["filename"], one["url"])]
