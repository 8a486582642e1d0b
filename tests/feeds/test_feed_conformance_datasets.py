"""Both venues' clients against the sandbox for what is beside candles and funding: the tape comes out again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from support_feeds import START_MS, ArrayTape, plain_row, rows_of, settings_at, streaming

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from qlib_crypto.feeds import Archive, rest_client
from qlib_crypto.sandbox.series import moved
from qlib_crypto.sandbox.serve import running
from qlib_crypto.sandbox.tape import Levels, OpenInterestSeries, Prints, RatioSeries
from qlib_crypto.schemas import PERIOD_MS, Book, Liquidation, Trade
from qlib_crypto.symbols import Interval, Venue

M1 = Interval.parse("1m")
FAST = 1_000_000.0
BARS = 4 * 1440


class FullTape(ArrayTape):
    """An array tape with everything else there is, drawn by instrument."""

    def _rng(self, instrument, what):
        return np.random.default_rng([sorted(self.specs).index(instrument), what])

    def _times(self):
        return np.arange(START_MS, self.span_ms[1] + 1, PERIOD_MS, dtype=np.int64)

    def index_bars(self, instrument, interval):
        return moved(self.bars(instrument, interval), lambda price: price - 0.25)

    def open_interest_series(self, instrument):
        times = self._times()
        base = np.round(self._rng(instrument, 1).uniform(1e3, 1e5, len(times)), 3)
        return OpenInterestSeries(times, base, np.round(base * 100, 2))

    def ratio_series(self, instrument):
        times = self._times()
        return RatioSeries(times, np.round(self._rng(instrument, 2).uniform(0.5, 3, len(times)), 4))

    def _prints(self, instrument, every_ms, what):
        rng = self._rng(instrument, what)
        times = START_MS + np.cumsum(rng.integers(1, every_ms, 2 * (self.span_ms[1] - START_MS) // every_ms))
        times = times[times < self.span_ms[1]]
        n = len(times)
        contracts = rng.integers(1, 900, n)
        base = np.round(contracts * self.specs[instrument].contract_value_base, 8)
        price = np.round(rng.uniform(90, 110, n), 4)
        return Prints(times, 5_000 + np.arange(n), rng.random(n) < 0.5, price, base)

    def trades(self, instrument):
        return self._prints(instrument, 40 * SECOND_MS, 3)

    def liquidations(self, instrument):
        return self._prints(instrument, 600 * SECOND_MS, 4)

    def book(self, instrument, at_ms, depth):
        middle = 100 + at_ms // SECOND_MS % 13
        size = self.specs[instrument].contract_value_base
        bids, asks = (
            tuple((middle + sign * k / 8, round((k + at_ms // SECOND_MS % 5) * size, 8)) for k in range(1, depth + 1))
            for sign in (-1, 1)
        )
        return Levels(bids, asks)


@pytest.fixture(scope="module", params=list(Venue))
def venue(request):
    return request.param


@pytest.fixture(scope="module")
def tape(venue):
    return FullTape(venue, M1, BARS)


def values(tape, instrument):
    return tape.specs[instrument].contract_value_base


# live


def test_trades_liquidations_and_books_of_a_replay_are_the_tapes(venue, tape):
    names, end = sorted(tape.specs), START_MS + 30 * MINUTE_MS
    streams = {Venue.OKX: 2 * 4 + 1, Venue.BINANCE: 2 * 5}[venue]
    with (
        running([tape], at=START_MS, until=end, speed="max", hold_streams=streams, rate_scale=FAST) as box,
        streaming(
            venue, box.url, names, M1, datasets=("liquidations", "trades", "books"), book_every_s=60.0,
            contract_values=lambda i: values(tape, i),
        ) as got,
    ):  # fmt: skip
        got.wait(lambda: box.status()["finished"], 60)
        got.wait(lambda: len(got.bars) == 30 * len(names))
        want = {
            kind: sorted(
                (i, int(at), *more, "buy" if buys else "sell", float(price), pytest.approx(float(base)))
                for i in names
                for at, more, buys, price, base in prints(tape, i, kind, end)
            )
            for kind in (Trade, Liquidation)
        }
        got.wait(lambda: len([row for row in got.others if isinstance(row, Trade)]) >= len(want[Trade]))
        got.wait(lambda: len([row for row in got.others if isinstance(row, Liquidation)]) >= len(want[Liquidation]))
    assert got.problems == []
    for kind, rows in want.items():
        assert sorted(row[:-1] for row in got.others if isinstance(row, kind)) == rows
        assert len(rows) > 4
    books = [row for row in got.others if isinstance(row, Book)]
    assert max(Counter((row.instrument, row.time_ms // MINUTE_MS) for row in books).values()) == 1
    assert len(books) >= 28 * len(names)
    for row in books:
        (bid, ask) = tape.book(row.instrument, row.time_ms, 5)
        assert list(zip(row.bid_prices, map(pytest.approx, row.bid_quantities), strict=True)) == list(bid)
        assert list(zip(row.ask_prices, map(pytest.approx, row.ask_quantities), strict=True)) == list(ask)


def prints(tape, instrument, kind, end):
    """What happened of a kind before `end`; an id only for trades."""
    p = tape.trades(instrument) if kind is Trade else tape.liquidations(instrument)
    for k in np.flatnonzero(p.time_ms <= end):
        yield p.time_ms[k], (int(p.trade_id[k]),) if kind is Trade else (), p.buys[k], p.price[k], p.quantity_base[k]


@pytest.mark.parametrize("fault", ["duplicate", "reorder", "malformed", "unknown_instrument"])
def test_a_stream_under_a_fault_loses_nothing_that_came(venue, tape, fault):
    """Twice, out of turn, beside garbage or strangers: every bar once, and the trouble counted."""
    names = sorted(tape.specs)
    more = {"count": 40} if fault in ("malformed", "unknown_instrument") else {"seconds": 0.6}
    with (
        running(
            [tape], at=START_MS, until=START_MS + 160 * MINUTE_MS, speed=6_000, hold_streams=4, rate_scale=FAST
        ) as box,
        streaming(venue, box.url, names, M1) as got,
    ):
        got.wait(lambda: len(got.bars) > 20)
        box.fault(fault, **more)
        got.wait(lambda: box.status()["finished"], 60)
        got.wait(lambda: len(got.bars) >= 160 * len(names) - 1, 20)
        counters = got.stream.counters
    want = sorted(row for name in names for row in rows_of(tape, name, M1, START_MS, START_MS + 160 * MINUTE_MS))
    rows = sorted(map(plain_row, got.bars))
    assert rows == want
    if fault == "malformed":
        assert counters.malformed > 0
    if fault == "unknown_instrument":
        assert counters.unknown > 0
    assert counters.reconnects == 0
    assert len(got.problems) <= 8, "each kind of trouble once a minute"


def test_a_topic_that_the_venue_refuses_is_counted_and_the_others_go_on(venue, tape):
    names = sorted(tape.specs)
    with running([tape], at=START_MS, speed=600, rate_scale=FAST) as box:
        with streaming(venue, box.url, names[:1], M1) as got:
            got.wait(lambda: got.bars)
            box.fault("unknown_channel")
            got.stream.replace(names)
            got.wait(lambda: got.stream.counters.subscribe_errors == 1)
            mark = len(got.bars)
            got.wait(lambda: len([bar for bar in got.bars[mark:] if bar.instrument == names[0]]) > 5)
        assert len(got.problems) == 1


# history


@pytest.fixture(scope="module")
def standing(venue, tape):
    now = START_MS + 3 * DAY_MS + 20 * HOUR_MS + 30_000
    with running([tape], at=now, speed=0, rate_scale=FAST) as box:
        settings = settings_at(venue, box.url, rate_scale=FAST)
        client, archive = rest_client(venue, settings), Archive(venue, settings)
        yield client, archive, now
        client.close()
        archive.close()


def flat(pages):
    return sorted(row for page in pages for row in page)


def test_statistics_over_rest_are_the_tapes(venue, tape, standing):
    client, _, now = standing
    for instrument in tape.specs:
        interest, ratio = tape.open_interest_series(instrument), tape.ratio_series(instrument)
        over = interest.time_ms + PERIOD_MS <= now
        got = flat(client.open_interest(instrument, START_MS, now))
        assert [row[1:4] for row in got] == list(
            zip(interest.time_ms[over], interest.base[over], interest.quote[over], strict=True)
        )
        got = flat(client.long_short_ratio(instrument, START_MS + HOUR_MS, START_MS + DAY_MS))
        part = (ratio.time_ms >= START_MS + HOUR_MS) & (ratio.time_ms < START_MS + DAY_MS)
        assert [row[1:3] for row in got] == list(zip(ratio.time_ms[part], ratio.ratio[part], strict=True))


@pytest.mark.parametrize("kind", ["marks", "indexes"])
def test_marks_and_indexes_over_rest_are_closed_candles_of_the_window(venue, tape, standing, kind):
    client, _, now = standing
    for instrument in tape.specs:
        span = (now - 26 * HOUR_MS, now + HOUR_MS)
        got = flat(getattr(client, kind)(instrument, M1, *span))
        assert [row.open_ms for row in got] == list(
            range(-(-span[0] // MINUTE_MS) * MINUTE_MS, now - 30_000, MINUTE_MS)
        )
        assert all(row.low <= min(row.open, row.close) <= max(row.open, row.close) <= row.high for row in got)
        traded = tape.bars(instrument, M1)
        want = moved(traded, lambda price: price - 0.25 if kind == "indexes" else price).close
        assert [row.close for row in got] == want[
            np.searchsorted(traded.open_ms, [row.open_ms for row in got])
        ].tolist()


def test_the_archive_is_the_tape(venue, tape, standing):
    """Candles, and on Binance statistics, of days that are published by the sandbox's clock."""
    client, archive, now = standing
    until = min(archive.published_until_ms(now), now)
    for instrument in tape.specs:
        start = START_MS
        got = flat(archive.bars(instrument, M1, start, until))
        assert [plain_row(bar) for bar in got] == rows_of(tape, instrument, M1, start, until)
        if venue is Venue.BINANCE:
            interest, ratio = tape.open_interest_series(instrument), tape.ratio_series(instrument)
            part = (interest.time_ms > start) & (interest.time_ms < until)
            got = flat(archive.open_interest(instrument, start + 1, until))
            assert [row[1:4] for row in got] == list(
                zip(interest.time_ms[part], interest.base[part], interest.quote[part], strict=True)
            )
            got = flat(archive.long_short_ratio(instrument, start + 1, until))
            assert [row[1:3] for row in got] == list(zip(ratio.time_ms[part], ratio.ratio[part], strict=True))
            for of in ("marks", "indexes"):
                filed, asked = (
                    flat(getattr(source, of)(instrument, M1, until - DAY_MS, until)) for source in (archive, client)
                )
                assert [row[:7] for row in filed] == [row[:7] for row in asked]
                assert len(filed) == DAY_MS // MINUTE_MS


def test_funding_of_the_archive_is_the_tapes(venue, tape, standing):
    _, archive, now = standing
    until = archive.published_until_ms(now, "funding")
    for instrument in tape.specs:
        series = tape.settlements(instrument)
        part = (series.time_ms >= until - 40 * DAY_MS) & (series.time_ms < until)
        got = flat(archive.settlements(instrument, until - 40 * DAY_MS, until))
        assert [row[1:3] for row in got] == list(zip(series.time_ms[part], series.rate[part], strict=True))
        assert len(got) >= 120
