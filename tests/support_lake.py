"""Rows for tests of lake, collect and universe."""

from __future__ import annotations

from qlib_crypto.clock import parse_utc
from qlib_crypto.feeds.client import StatedTiers
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import (
    PERIOD_MS,
    Bar,
    Estimate,
    IndexBar,
    LongShortRatio,
    MarkBar,
    OpenInterest,
    PriceBar,
    Settlement,
    Ticker,
)
from qlib_crypto.symbols import Instrument, Interval, Venue

M1, H1 = Interval.parse("1m"), Interval.parse("1h")
BTC = Instrument("BTC", "USDT", Venue.OKX)
ETH = Instrument("ETH", "USDT", Venue.OKX)
PEPE = Instrument("1000PEPE", "USDT", Venue.BINANCE)
T0 = parse_utc("2025-04-01")
RECEIVED = parse_utc("2026-11-01")


def bar(k=0, *, of=BTC, interval=M1, close=100.0, source="ws", **changes) -> Bar:
    """The k-th bar after 2025-04-01."""
    values = Bar(
        of, interval, T0 + k * interval.ms, close, close + 1, close - 1, close, 2.5, None, None, source, RECEIVED
    )
    return values._replace(**changes)


def settlement(time_ms=T0, *, of=BTC, rate=1e-4, source="rest", mark=None) -> Settlement:
    return Settlement(of, time_ms, rate, mark, source, RECEIVED)


def mark(k=0, *, of=BTC, price=100.0, source="rest") -> MarkBar:
    """The k-th minute of the mark price after 2025-04-01."""
    return MarkBar(of, M1, T0 + k * M1.ms, price, price + 1, price - 1, price, source, RECEIVED)


def index(k=0, *, of=BTC, price=99.0, source="rest") -> IndexBar:
    """The k-th minute of the index after 2025-04-01."""
    return IndexBar(of, M1, T0 + k * M1.ms, price, price + 1, price - 1, price, source, RECEIVED)


def open_interest(k=0, *, of=BTC, amount=10.0, source="rest") -> OpenInterest:
    """The k-th five minutes after 2025-04-01."""
    return OpenInterest(of, T0 + k * PERIOD_MS, amount, None, source, RECEIVED)


def ratio(k=0, *, of=BTC, value=1.5, source="rest") -> LongShortRatio:
    """The k-th five minutes after 2025-04-01."""
    return LongShortRatio(of, T0 + k * PERIOD_MS, value, source, RECEIVED)


def estimate(time_ms=T0, *, of=BTC, rate=1e-4, settles_ms=T0 + 8 * H1.ms, hours=8.0) -> Estimate:
    return Estimate(of, time_ms, rate, settles_ms, hours, None, time_ms)


def spec(of=BTC, *, seen_ms=T0, **changes) -> InstrumentSpec:
    values = {
        "state": "live", "category": "crypto", "rule_type": "normal", "tick_size": 0.1, "contract_value_base": 0.01,
        "lot_contracts": 1.0, "min_contracts": 1.0, "min_notional_quote": None, "max_leverage": 100.0,
        "listed_ms": T0 - 10**9, "delisted_ms": None, "spec_source": "venue",
    }  # fmt: skip
    return InstrumentSpec(instrument=of, seen_ms=seen_ms, **{**values, **changes})


class FakeVenue:
    """A venue in memory behind the RestClient protocol: bars and settlements it has, shown no further than its time.

    `page` rows a page, newest first or oldest first; `log` has every request for them; `before_page` and
    `before_tiers` may raise.
    """

    def __init__(self, venue=Venue.OKX, *, now_ms=T0 + 30 * 86_400_000, page=300, newest_first=True):
        self.venue, self.now_ms, self.page, self.newest_first = venue, now_ms, page, newest_first
        self.listing, self.bar_rows, self.settled, self.quotes, self.log = {}, {}, {}, {}, []
        self.turnover, self.gridded, self.reach = {}, {}, {}
        self.tiers, self.tiers_asked = {}, []
        self.before_page = self.before_tiers = lambda: None

    def list(self, *specs):
        self.listing |= {s.instrument: s for s in specs}

    def add_bars(self, *bars):
        for b in bars:
            self.bar_rows.setdefault((b.instrument, b.interval), {})[b.open_ms] = b

    def add_settlements(self, *rows):
        for row in rows:
            self.settled.setdefault(row.instrument, {})[row.time_ms] = row

    def add(self, *rows):
        """Mark and index candles, open interest, ratios."""
        for row in rows:
            at = row.open_ms if isinstance(row, PriceBar) else row.time_ms
            self.gridded.setdefault((type(row), row.instrument), {})[at] = row

    def server_time_ms(self):
        return self.now_ms

    def reach_ms(self, dataset):
        return self.reach.get(dataset)

    def page_rows(self, dataset):  # noqa: ARG002 - as the protocol
        return self.page

    def requests_per_s(self, dataset):  # noqa: ARG002 - as the protocol
        return 10.0

    def specs(self):
        return [s for s in self.listing.values() if s.listed_ms is None or s.listed_ms <= self.now_ms]

    def margin_tiers(self, specs):
        self.tiers_asked.append([s.instrument for s in specs])
        self.before_tiers()
        yield StatedTiers({s.instrument: self.tiers[s.instrument] for s in specs if s.instrument in self.tiers})

    def tickers(self):
        return [Ticker(i, 1.0, self.turnover.get(i, 1e6), self.now_ms) for i in self.listing]

    def estimates(self):
        return list(self.quotes.values())

    def bars(self, instrument, interval, start_ms, end_ms):
        self.log.append(("bars", instrument, start_ms, end_ms))
        found = self.bar_rows.get((instrument, interval), {}).values()
        rows = [b._replace(source="rest") for b in found if start_ms <= b.open_ms < end_ms]
        yield from self._pages([b for b in rows if b.open_ms + interval.ms <= self.now_ms], lambda b: b.open_ms)

    def marks(self, instrument, interval, start_ms, end_ms):
        yield from self._gridded("marks", MarkBar, instrument, interval.ms, start_ms, end_ms)

    def indexes(self, instrument, interval, start_ms, end_ms):
        yield from self._gridded("indexes", IndexBar, instrument, interval.ms, start_ms, end_ms)

    def open_interest(self, instrument, start_ms, end_ms):
        yield from self._gridded("open_interest", OpenInterest, instrument, PERIOD_MS, start_ms, end_ms)

    def long_short_ratio(self, instrument, start_ms, end_ms):
        yield from self._gridded("long_short_ratio", LongShortRatio, instrument, PERIOD_MS, start_ms, end_ms)

    def _gridded(self, name, kind, instrument, step_ms, start_ms, end_ms):
        self.log.append((name, instrument, start_ms, end_ms))
        rows = self.gridded.get((kind, instrument), {})
        found = [at for at in rows if start_ms <= at < end_ms and at + step_ms <= self.now_ms]
        yield from ([rows[at] for at in page] for page in self._pages(found, lambda at: at))

    def settlements(self, instrument, start_ms, end_ms):
        self.log.append(("settlements", instrument, start_ms, end_ms))
        found = self.settled.get(instrument, {}).values()
        rows = [s for s in found if start_ms <= s.time_ms < end_ms and s.time_ms <= self.now_ms]
        yield from self._pages(rows, lambda s: s.time_ms)

    def _pages(self, rows, key):
        rows = sorted(rows, key=key, reverse=self.newest_first)
        for at in range(0, len(rows), self.page):
            self.before_page()
            yield rows[at : at + self.page]

    def close(self):
        pass
