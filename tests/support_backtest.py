"""A market with known truth for backtests, and a deliberately plain replay of a ledger that shares no code with us.

The truth is float64: bars on their ticks, settlements at their own instants. The provider's fields are made from it
here by plain loops, and the replay reads the truth, not the provider.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import qlib
from qlib.backtest.decision import Order, OrderDir, TradeDecisionWO
from qlib.strategy.base import BaseStrategy
from support_provider import write_provider

from qlib_crypto.backtest.result import PerpRun
from qlib_crypto.backtest.run import run_backtest
from qlib_crypto.market.margin import MarginTable

#: Orders that rest and fill as a maker's, and those that become market orders, whatever the others pay.
MADE, STOPPED = ("limit", "take profit"), ("stop", "stop loss", "trailing stop", "risk limit")
FORCED = ("funding unknown: closed", "no more prices or funding: settled at the last mark")
POSITION = "qlib_crypto.backtest.qlib_position.PerpPosition"


@dataclass(frozen=True)
class Margin:
    """What a venue asks for: by instrument a table, and what it keeps of what it takes over (None: what is left)."""

    tables: Mapping[str, MarginTable]
    closing_fee: float
    leverage: float
    isolated: bool = False
    liquidation_fee: float | None = None

    def needed(self, name: str, quantity: float, price: float) -> float:
        return self.tables[name].maintenance(quantity, price) + abs(quantity) * price * self.closing_fee

    def asked(self, name: str, quantity: float, price: float) -> float:
        if self.liquidation_fee is None:
            return self.needed(name, quantity, price)
        return abs(quantity) * price * self.liquidation_fee


@dataclass
class Market:
    """Bars (open, close, perhaps high, low, volume; a missing bar has no row) and settlements (time, rate, mark)."""

    freq: str
    bars: dict[str, pd.DataFrame]
    settlements: dict[str, list[tuple[pd.Timestamp, float, float]]] = field(default_factory=dict)
    specs: dict[str, dict[str, float | str]] = field(default_factory=dict)

    @property
    def step(self) -> pd.Timedelta:
        return pd.Timedelta(1, "D") if self.freq == "day" else pd.Timedelta(self.freq)

    @property
    def times(self) -> pd.DatetimeIndex:
        return pd.date_range(
            min(f.index[0] for f in self.bars.values()), max(f.index[-1] for f in self.bars.values()), freq=self.step
        )

    def settled(self, name: str) -> list[tuple[pd.Timestamp, float, float]]:
        """Its settlements; a name without any pays nothing every 8 hours."""
        if name in self.settlements:
            return self.settlements[name]
        return [(at, 0.0, 1.0) for at in pd.date_range(self.times[0], self.times[-1] + self.step, freq="8h")]

    def write(self, directory: Path) -> Path:
        """The provider of this market."""
        frames = {}
        for name, bars in self.bars.items():
            times = self.times[self.times >= bars.index[0]]
            ends = bars[["open", "close"]]
            usual = {"high": ends.max(axis=1), "low": ends.min(axis=1), "volume": 1000.0, "factor": 1.0}
            frames[name] = bars.assign(**{k: v for k, v in usual.items() if k not in bars}).reindex(times)
        write_provider(directory, frames, self.freq, settlements={n: self.settled(n) for n in self.bars})
        (directory / "specs.json").write_text(json.dumps(self.specs))
        return directory

    def open(self, directory: Path) -> Path:
        """Write, and open in Qlib."""
        self.write(directory)
        qlib.init(
            provider_uri=str(directory), region="cn", trade_unit=None, limit_threshold=None, deal_price="open",
            kernels=1, logging_level=40,
        )  # fmt: skip
        return directory


def random_market(
    *, freq: str = "60min", bars: int = 200, names: int = 8, seed: int = 1, settle_hours: int = 8,
    start: str = "2025-01-01", gaps: bool = True, unpriced: float = 0.0, wicks: float = 0.0,
) -> Market:  # fmt: skip
    """Fat-tailed prices on ticks, with gaps, an outage, a listing, a delisting, and settlements every n hours.

    `unpriced` is the share of settlements without a price, `wicks` how far a bar may go beyond its open and close.
    """
    priced = np.random.default_rng(seed)
    rng = np.random.default_rng(seed)
    step = pd.Timedelta(1, "D") if freq == "day" else pd.Timedelta(freq)
    times = pd.date_range(start, periods=bars, freq=step)
    market = Market(freq, {})
    for i in range(names):
        name = f"{('BTC', 'ETH', 'SOL', 'XRP', 'DOGE', 'ADA', 'PEPE', 'TRX', 'LTC', 'BNB')[i]}_USDT.OKX"
        scale = 10.0 ** rng.integers(-4, 5)
        tick = 10.0 ** round(np.log10(scale) - 4)
        closes = scale * np.exp(np.cumsum(rng.standard_t(4, bars) * 0.01))
        opens = np.concatenate([[scale], closes[:-1]]) * np.exp(rng.normal(0, 0.001, bars))
        frame = pd.DataFrame({"open": np.round(opens / tick) * tick, "close": np.round(closes / tick) * tick}, times)
        ends, far = frame[["open", "close"]], priced.random((bars, 2)) * wicks
        frame["high"] = np.ceil(ends.max(axis=1) * (1 + far[:, 0]) / tick - 1e-6) * tick
        frame["low"] = np.maximum(np.floor(ends.min(axis=1) * (1 - far[:, 1]) / tick + 1e-6), 1) * tick
        alive = np.ones(bars, bool)
        if gaps:
            alive &= rng.random(bars) > 0.02
            alive[bars // 3 : bars // 3 + 3] = False  # an outage of the whole venue
            if i == names - 1:
                alive[: bars // 4] = False  # a listing
            if i == names - 2:
                alive[bars // 2 :] = False  # a delisting
        market.bars[name] = frame[alive]
        first, end = market.bars[name].index[0], market.bars[name].index[-1] + step
        settled = pd.date_range(start, times[-1] + step, freq=f"{settle_hours}h")
        market.settlements[name] = [
            (
                at,
                round(float(rng.normal(1e-4, 3e-4)), 8),
                float(np.interp(at.value, times.asi8, closes)) if priced.random() >= unpriced else np.nan,
            )
            for at in settled
            if first <= at < end + pd.Timedelta(hours=settle_hours)
        ]
        market.specs[name] = {
            "lot_base": float(10.0 ** (2 - round(np.log10(scale)))) / 100, "min_base": 0.0, "min_notional_quote": 5.0,
            "tick_size": tick, "spec_source": "venue",
        }  # fmt: skip
    return market


class Scripted(BaseStrategy):
    """Orders (signed base quantities) at given step opens."""

    def __init__(self, orders: Mapping[str, Mapping[str, float]], **kwargs) -> None:
        super().__init__(**kwargs)
        self.orders = {pd.Timestamp(time): quantities for time, quantities in orders.items()}

    def generate_trade_decision(self, execute_result=None):  # noqa: ARG002 - the signature is Qlib's
        start, end = self.trade_calendar.get_step_time()
        side = {True: OrderDir.BUY, False: OrderDir.SELL}
        wanted = self.orders.get(start, {})
        return TradeDecisionWO([Order(n, abs(q), side[q > 0], start, end) for n, q in wanted.items()], self)


def topk(signal, **kwargs) -> dict:
    """The configuration of a long-short portfolio."""
    return {
        "class": "LongShortTopk",
        "module_path": "qlib_crypto.strategy.long_short",
        "kwargs": {"signal": signal, **kwargs},
    }


def run(
    market: Market, strategy, *, start=None, end=None, account: float = 100_000.0, engine: str = "qlib", **exchange
) -> PerpRun:
    """One backtest on an open provider."""
    config = {
        "engine": engine,
        "executor": {"kwargs": {"time_per_step": market.freq, "generate_portfolio_metrics": True}},
        "backtest": {
            "start_time": start or market.times[0], "end_time": end or market.times[-1], "account": account,
            "exchange_kwargs": {
                "exchange": {"kwargs": {"codes": sorted(market.bars), "margin_mode": "none", **exchange}}
            },
        },
    }  # fmt: skip
    return run_backtest(config, strategy)


def nearer(price: float, to: float) -> float:
    """A billionth of the price nearer to another one, but not beyond it."""
    return price + float(np.clip(to - price, -1e-9 * price, 1e-9 * price))


class Replay:
    """A second account: fills at true prices, true settlements, fees by the rate, marks at true closes."""

    def __init__(
        self,
        market: Market,
        account: float,
        fee_rate: float,
        forced_rate: float,
        slippage: float | Mapping[str, float],
        margin: Margin | None,
        maker_rate: float | None = None,
    ) -> None:
        self.maker_rate = fee_rate if maker_rate is None else maker_rate
        self.margin, self.liquidated = margin, 0.0
        self.entry: dict[str, float] = {}
        self.aside: dict[str, float] = {}  # of an isolated position
        self.market, self.start, self.cash, self.fee_rate = market, account, account, fee_rate
        self.forced_rate, self.slippage, self.slipped = forced_rate, slippage, 0.0
        self.held: dict[str, float] = {}
        self.begun: set[str] = set()  # opened inside this bar
        self.mark: dict[str, float] = {}
        self.funding = self.fee = self.turnover = 0.0
        self.due: dict[tuple[str, pd.Timestamp], list[tuple[pd.Timestamp, float, float]]] = {}
        for name, settled in market.settlements.items():
            for at, rate, price in settled:
                self.due.setdefault((name, at.floor(market.step)), []).append((at, rate, price))

    def settle(self, step, *, at_open):
        for name, quantity in self.held.items():
            for at, rate, price in self.due.get((name, step), []):
                if (at == step) == at_open:
                    known = self.last_price(name, step, before_open=at_open) if np.isnan(price) else price
                    amount = quantity * rate * known
                    self.cash -= amount
                    self.funding -= amount
                    self.aside[name] -= amount

    def open(self, step):
        for name in self.held:
            if step in self.market.bars[name].index:
                self.mark[name] = self.market.bars[name]["open"][step]

    def worst(self, step) -> dict[str, float]:
        """Where the bar harms each position most."""
        found = {}
        for name, quantity in self.held.items() if self.margin is not None else ():
            bars, mark = self.market.bars[name], self.mark[name]
            if step not in bars.index:
                found[name] = mark
            elif quantity > 0:
                found[name] = min(mark, bars["low"][step])
            else:
                found[name] = max(mark, bars["high"][step])
        return found

    def left(self, name: str, price: float) -> float:
        """What is behind an isolated position beyond what is needed."""
        quantity = self.held[name]
        behind = self.aside[name] + quantity * (price - self.entry[name])
        return behind - self.margin.needed(name, quantity, price)

    def surplus(self, prices) -> float:
        """What the account has beyond what is needed."""
        return self.cash + sum(q * prices[n] - self.margin.needed(n, q, prices[n]) for n, q in self.held.items())

    def call(self, worst, taken):
        """What the way from the marks to the worst ones breaks is in `taken`."""
        if self.margin is None:
            return
        if not self.margin.isolated:
            if self.held and self.surplus(worst) <= 0:
                self.take_all(worst, [taken.pop(0) for _ in self.held])
            return
        for name in sorted(self.held):
            if self.left(name, worst[name]) <= 0:
                # an entry that was reached and refused may have called one position before the others
                fill = taken.pop([each.instrument for each in taken].index(name))
                assert fill.quantity == -self.held[name]
                self.on_the_way(fill.price, self.mark[name], worst[name])
                near = 1e-9 * abs(self.held[name]) * fill.price
                start = self.left(name, self.mark[name]) <= 0
                # a tier may begin just there
                before, after = (nearer(fill.price, to) for to in (self.mark[name], worst[name]))
                assert min(self.left(name, fill.price), self.left(name, after)) <= near
                assert self.left(name, before) >= -near or (start and fill.price == self.mark[name])
                behind = self.aside[name] + self.held[name] * (fill.price - self.entry[name])
                asked = (self.margin.asked(name, self.held[name], price) for price in (before, fill.price, after))
                self.take(fill, [min(behind, each) for each in asked])

    def take_all(self, worst, fills):
        prices = {fill.instrument: fill.price for fill in fills}
        assert {fill.instrument: -fill.quantity for fill in fills} == self.held
        for name, price in prices.items():
            self.on_the_way(price, self.mark[name], worst[name])
        near = 1e-9 * sum(abs(q) * prices[n] for n, q in self.held.items())
        before, after = ({name: nearer(price, to[name]) for name, price in prices.items()} for to in (self.mark, worst))
        start = self.surplus(self.mark) <= 0
        assert min(self.surplus(prices), self.surplus(after)) <= near
        assert self.surplus(before) >= -near or (start and prices == self.mark_of_held())
        left = self.cash + sum(q * prices[n] for n, q in self.held.items())
        kept = []
        for at in (before, prices, after):
            asked = {n: self.margin.asked(n, q, at[n]) for n, q in self.held.items()}
            part = min(left, sum(asked.values())) / sum(asked.values()) if sum(asked.values()) > 0 else 0.0
            kept.append({name: part * own for name, own in asked.items()})
        for fill in fills:
            self.take(fill, [each[fill.instrument] for each in kept])

    def mark_of_held(self):
        return {name: self.mark[name] for name in self.held}

    @staticmethod
    def on_the_way(price, start, end):
        assert min(start, end) * (1 - 1e-12) <= price <= max(start, end) * (1 + 1e-12)

    def go_through(self, fills, step):
        """A bar in which something that rested was reached, in the order of its fills; what was taken over is booked.

        When it had to be taken over is for other tests: stops end the way to it. The last ones that no price of the
        bar explains came with its settlements: they are returned.
        """
        last = max(at for at, fill in enumerate(fills) if fill.note != "liquidated") + 1
        for fill in fills[:last]:
            if fill.note == "liquidated":
                self.book(fill)
            else:
                self.trade(fill)
        worst = self.worst(step)
        later = [fill for fill in fills[last:] if self.sound(fill.instrument, worst)]
        for fill in fills[last:]:
            if fill not in later:
                self.book(fill)
        return later

    def sound(self, name, worst) -> bool:
        """Whether nothing between its mark and the worst one takes a position over."""
        if self.margin.isolated:
            return min(self.left(name, self.mark[name]), self.left(name, worst[name])) > 0
        return min(self.surplus(self.mark), self.surplus(worst)) > 0

    def book(self, fill):
        """What was taken over."""
        self.cash -= fill.quantity * fill.price + fill.fee
        self.liquidated -= fill.fee
        self.turnover += abs(fill.quantity) * fill.price
        self.forget(fill.instrument)

    def take(self, fill, kept):
        """`kept` is what it may have cost, here and on either side: just there a tier may begin."""
        assert any(np.isclose(fill.fee, each, rtol=1e-8, atol=1e-6) for each in kept)
        self.book(fill)

    def forget(self, name):
        for of in (self.held, self.mark, self.entry, self.aside):
            of.pop(name, None)

    def last_price(self, name, step, *, before_open) -> float:
        bars = self.market.bars[name]
        if before_open or step not in bars.index or name in self.begun:
            return self.mark[name]
        return bars["open"][step]

    def trade(self, fill):
        delisted = fill.note.startswith("no more prices")
        rested = fill.order not in ("market", "venue")
        price = self.mark[fill.instrument] if delisted else self.market.bars[fill.instrument]["open"][fill.datetime]
        if rested:  # where inside the bar is another test's
            bar = self.market.bars[fill.instrument].loc[fill.datetime]
            low, high = (bar["low"], bar["high"]) if fill.order in STOPPED else (0.0, np.inf)
            assert low * (1 - 1e-9) <= fill.reference <= high * (1 + 1e-9)
            price = fill.reference
        assert np.isclose(fill.reference, price, rtol=1e-12, atol=0)
        if self.slippage and not delisted and fill.order not in MADE:
            price = self.slipped_price(fill, price)
        assert np.isclose(fill.price, price, rtol=1e-12, atol=0)
        self.slipped -= fill.quantity * (price - fill.reference)
        forced = delisted or fill.note == "funding unknown: closed"
        rate = self.forced_rate if forced or fill.order in STOPPED else self.fee_rate
        fee = abs(fill.quantity) * price * (self.maker_rate if fill.order in MADE else rate)
        assert np.isclose(fill.fee, fee, rtol=1e-12, atol=0)
        self.cash -= fill.quantity * price + fee
        self.fee -= fee
        self.turnover += abs(fill.quantity) * price
        if rested and fill.instrument not in self.held:
            self.begun.add(fill.instrument)
        self.hold(fill.instrument, fill.quantity, price, fill.reference)

    def hold(self, name, quantity, price, reference):
        held = self.held.get(name, 0.0)
        after = held + quantity
        if abs(after) <= 1e-9 * abs(quantity):
            self.forget(name)
            return
        lever = 1.0
        if self.margin is not None:
            lever = min(self.margin.leverage, self.margin.tables[name].tier(after, reference).max_leverage)
        entry, aside = self.entry.get(name, price), self.aside.get(name, 0.0)
        if held * quantity >= 0:  # opened or added to
            self.entry[name] = (held * entry + quantity * price) / after
            self.aside[name] = aside + abs(quantity) * price / lever
        elif held * after > 0:  # made smaller
            self.aside[name] = aside * after / held
        else:  # crossed zero
            self.entry[name], self.aside[name] = price, abs(after) * price / lever
        self.held[name] = after
        self.mark.setdefault(name, reference)

    def slipped_price(self, fill, price) -> float:
        """The next tick that is worse by the slippage at least, in decimals; a billionth beside a tick is on it."""
        tick = Decimal(repr(self.market.specs[fill.instrument]["tick_size"]))
        slip = self.slippage
        if not isinstance(slip, float):
            volatility, volume = self.scales(fill.instrument)
            law = volatility[fill.datetime] * (abs(fill.quantity) * price / volume[fill.datetime]) ** 0.5
            law = 0.0 if np.isnan(law) else law
            slip = slip.get("fixed", 0.0) + slip.get("spread", 0.0) / 2 + slip.get("impact", 0.0) * law
            slip = min(slip, 0.5)
        worse = (
            Decimal(repr(round(price / float(tick))))
            * tick
            * (1 + Decimal(repr(round(float(slip), 13))) * (1 if fill.quantity > 0 else -1))
        )
        ticks, side = worse / tick, ROUND_CEILING if fill.quantity > 0 else ROUND_FLOOR
        if abs(ticks - round(ticks)) <= Decimal("1e-9") * ticks:  # as good as on it
            ticks = Decimal(round(ticks))
        return max(float(ticks.quantize(Decimal(1), side) * tick), float(tick))

    @cache  # noqa: B019 - a replay is short
    def scales(self, name):
        """Volatility of a bar and quote coins traded in one, as known at each open: over a day's bars, at least 20."""
        bars = self.market.bars[name].reindex(self.market.times)
        traded = bars["close"] * bars.get("volume", 1000.0)
        window = max(pd.Timedelta(1, "D") // self.market.step, 20)

        def mean(values):
            return values.rolling(window, min_periods=-(-window // 2)).mean().shift(1)

        return mean(bars["close"].pct_change(fill_method=None) ** 2) ** 0.5, mean(traded)

    def close(self, step) -> dict[str, float]:
        for name in self.held:
            if step in self.market.bars[name].index:
                self.mark[name] = self.market.bars[name]["close"][step]
        equity = self.cash + sum(quantity * self.mark[name] for name, quantity in self.held.items())
        price = equity - self.start - self.funding - self.fee - self.slipped - self.liquidated
        net = sum(quantity * self.mark[name] for name, quantity in self.held.items())
        gross = sum(abs(quantity) * self.mark[name] for name, quantity in self.held.items())
        turnover, self.turnover = self.turnover, 0.0
        return {
            "equity": equity, "price": price, "funding": self.funding, "fee": self.fee, "net": net, "gross": gross,
            "turnover": turnover, "slippage": self.slipped, "liquidation": self.liquidated,
        }  # fmt: skip


def replay(
    market: Market, result: PerpRun, *, account: float, fee_rate: float, forced_rate: float | None = None,
    slippage: float | Mapping[str, float] = 0.0, margin: Margin | None = None, maker_rate: float | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Equity, its causes since the start and the exposure at each step's close, and the step's turnover."""
    forced_rate = fee_rate if forced_rate is None else forced_rate
    second, rows = Replay(market, account, fee_rate, forced_rate, slippage, margin, maker_rate), []
    fills = dict(iter(result.fills.groupby("datetime")))
    for step in result.steps.index:
        mine = list(fills[step].itertuples()) if step in fills else []
        taken = [fill for fill in mine if fill.note == "liquidated"]
        asked = [fill for fill in mine if fill.note in FORCED]
        second.begun.clear()
        second.settle(step, at_open=True)
        second.open(step)
        for fill in asked:
            second.trade(fill)
        if any(fill.order in MADE + STOPPED for fill in mine):
            taken = second.go_through([fill for fill in mine if fill.note not in FORCED], step)
        else:
            second.call(second.mark_of_held(), taken)
            for fill in mine:
                if fill.note != "liquidated" and fill.note not in FORCED:
                    second.trade(fill)
            second.call(second.worst(step), taken)
        paid = second.funding
        second.settle(step, at_open=False)
        row = second.close(step)
        if second.funding != paid:
            second.call(second.mark_of_held(), taken)
            later = second.close(step)
            row = {**later, "turnover": row["turnover"] + later["turnover"]}
        assert not taken
        rows.append(row)
    return pd.DataFrame(rows, index=result.steps.index)


def assert_replayed(
    market: Market,
    result: PerpRun,
    *,
    account: float = 100_000.0,
    fee_rate: float = 0.0005,
    forced_rate: float | None = None,
    slippage: float | Mapping[str, float] = 0.0,
    margin: Margin | None = None,
    maker_rate: float | None = None,
) -> None:
    """Recorded equity, each of its causes, exposure and turnover equal the replay to 1e-9 of equity at every step."""
    truth = replay(
        market, result, account=account, fee_rate=fee_rate, forced_rate=forced_rate, slippage=slippage, margin=margin,
        maker_rate=maker_rate,
    )  # fmt: skip
    exact = 1e-9 * truth["equity"].abs().clip(lower=account)
    assert ((result.steps["equity"] - truth["equity"]).abs() <= exact).all()
    for cause in ("price", "funding", "fee", "slippage", "liquidation"):
        assert ((result.steps[cause].cumsum() - truth[cause]).abs() <= exact).all(), cause
    for column in ("net", "gross", "turnover"):
        assert ((result.steps[column] - truth[column]).abs() <= exact).all(), column
    change = result.steps["equity"].diff().fillna(result.steps["equity"].iloc[0] - account)
    causes = result.steps[["price", "funding", "fee", "slippage", "liquidation"]].sum(axis=1)
    assert ((change - causes).abs() <= exact).all()
    assert np.allclose(result.steps["cash"] + result.steps["net"], result.steps["equity"], rtol=1e-12)
