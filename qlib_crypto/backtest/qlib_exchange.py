"""A perpetual venue inside Qlib: signed orders, fees, sizes, margin and funding from provider files.

Named in YAML as `exchange_kwargs.exchange: {class: PerpExchange, module_path: qlib_crypto.backtest.qlib_exchange}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
from qlib.backtest.account import Account
from qlib.backtest.decision import Order, OrderDir
from qlib.backtest.exchange import Exchange
from qlib.log import get_module_logger

from qlib_crypto.backtest.checks import exchange_values, names_of, refuse_stock_rules, stored
from qlib_crypto.backtest.costs import Costs
from qlib_crypto.backtest.engine import Executed, try_order
from qlib_crypto.backtest.load import Loaded
from qlib_crypto.backtest.market import OPEN
from qlib_crypto.backtest.notes import NO_PRICE, WORDS
from qlib_crypto.backtest.orders import load_specs
from qlib_crypto.backtest.qlib_position import PerpPosition
from qlib_crypto.backtest.quotes import Quotes, naive_utc, unix_ms
from qlib_crypto.backtest.slippage import slipping
from qlib_crypto.backtest.source import Source, tables_of
from qlib_crypto.backtest.terms import LEVERAGE, MAX_GROSS_LEVERAGE, RiskLimits, Terms
from qlib_crypto.backtest.values import no_others
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Interval

AUTO = "auto"
#: Bytes of finer bars that are loaded without being asked for.
_MOST_INNER = 1 << 30


class PerpExchange(Exchange):
    """Executes orders at the open of the bar, whole or cut by size and leverage rules.

    Parameters
    ----------
    freq
        Bar length, equal to the executor's `time_per_step`.
    start_time, end_time
        First and last bar, both inclusive, UTC.
    codes
        A market of the provider (`okx_60min`) or a list of instruments.
    deal_price
        `open`: with bars named by their open it is the first price after the signal's bar.
    fees
        What a trade costs: a preset of `market.fees.PRESETS` (`okx_vip0`, `binance_vip3`), or dated rates
        `[{since, maker, taker}, …]`; instead of `taker_fee` and `maker_fee`.
    taker_fee, maker_fee
        Fractions of notional that hold at all times, 0.0005 and 0.0002 when left out; a negative maker fee is a rebate.
    liquidity
        Which of the two an order pays. `taker` is what a market order at the open is.
    slippage
        How much worse than the market an order fills: a fraction of the price, or `{fixed, spread, impact, bars}`, see
        `Slippage`; then on the next worse tick. None is 0, and 0.0005 with `fees: simple`.
    missing_funding
        What to do where funding is unknown: `error` stops with a GapError once a position is held over it,
        `untradable` neither opens nor adds there and closes what is held at that bar's open, `zero` pays nothing.
        Where the rate is known and only the price is not, the last two pay it at the position's last known price.
    max_gross_leverage
        Gross notional over equity that no order may take the account beyond; None for no limit. Without equity
        orders can only reduce.
    margin_mode
        `cross`: all positions share the account's equity; `isolated`: each has the margin that it was opened with;
        `none`: no margin is asked for and nothing is liquidated.
    leverage
        Notional over initial margin of new exposure, at most what the tier of the position allows.
    margin_tiers
        File of margin tiers in the shape of ccxt's `fetch_leverage_tiers`. Without one they are those that the
        provider knows (OKX's, by date), and for other instruments assumed by turnover.
    liquidation_fee
        Share of the notional that the venue keeps of what it liquidates; None is what is left there: maintenance
        margin and closing fee.
    participation
        Fraction of a bar's volume that orders may be of it, None for no cap.
    limits
        What the account forbids itself besides: `{position, net, daily_loss, drawdown, pause, cool_down}`, see
        `RiskLimits`.
    specs
        File of order rules (see `load_specs`), `{}` for none; what the provider knows of them, by date, when None.
    inner
        Finer bars that say more of what happened inside a bar, such as `5min`; the provider must have them. `auto` are
        the longest it has, for a strategy with `orders`; None for none.

    Raises
    ------
    ConfigError
        On Qlib's stock defaults (trade unit, price limit, deal at close), an unknown key, frequency or instrument.

    """

    #: What `qlib-crypto run` checks before training.
    check_values = staticmethod(exchange_values)

    def __init__(
        self,
        freq: str = "60min",
        start_time: Any = None,
        end_time: Any = None,
        codes: str | Sequence[str] = "all",
        deal_price: str | None = None,
        *,
        fees: str | Sequence[Mapping[str, Any]] | None = None,
        taker_fee: float | None = None,
        maker_fee: float | None = None,
        liquidity: str = "taker",
        slippage: float | Mapping[str, Any] | None = None,
        missing_funding: str = "error",
        max_gross_leverage: float | None = MAX_GROSS_LEVERAGE,
        margin_mode: str = "cross",
        leverage: float = LEVERAGE,
        margin_tiers: str | None = None,
        liquidation_fee: float | None = None,
        participation: float | None = None,
        limits: RiskLimits | Mapping[str, Any] | None = None,
        specs: str | None = None,
        inner: str | None = AUTO,
        **unknown: Any,
    ) -> None:
        no_others("exchange", unknown, set(signature(PerpExchange).parameters) - {"unknown"})
        refuse_stock_rules(deal_price)
        start_time, end_time = naive_utc(start_time), naive_utc(end_time)
        given: dict[str, Any] = {
            "taker_fee": taker_fee, "maker_fee": maker_fee, "liquidity": liquidity, "codes": codes, "specs": specs,
            "missing_funding": missing_funding, "max_gross_leverage": max_gross_leverage, "slippage": slippage,
            "margin_mode": margin_mode, "leverage": leverage, "margin_tiers": margin_tiers, "fees": fees,
            "liquidation_fee": liquidation_fee, "participation": participation, "limits": limits, "inner": inner,
        }  # fmt: skip
        self.check_values("exchange", given)
        costs = Costs.of(fees, taker_fee, maker_fee, liquidity, slippage)
        self.terms = Terms(
            costs, missing_funding, max_gross_leverage, margin_mode, float(leverage), liquidation_fee, participation,
            RiskLimits.of(limits),
        )  # fmt: skip
        self.market = codes if isinstance(codes, str) else "list"
        folder, interval = stored(freq), Interval.parse(freq)
        self.spans: dict[str, list[tuple[pd.Timestamp, pd.Timestamp]]] = {}
        names = names_of(codes, interval.qlib, start_time, end_time, self.spans)
        span = unix_ms(start_time), unix_ms(end_time)
        known = next((path for path in (folder / "rules.json", folder / "specs.json") if path.is_file()), folder)
        rules = load_specs(Path(specs) if specs else known)
        if specs and rules and not set(rules) & set(names):
            raise ConfigError(f"exchange.specs {specs} has no rules of any instrument; write them by Qlib name")
        self.source = Source(
            folder, interval, tuple(names), span, rules, tables_of(margin_tiers, folder, names),
            margined=margin_mode != "none", window=costs.slippage.window(interval),
        )  # fmt: skip
        given_inner = None if inner is None or inner == AUTO else Interval.parse(inner)
        if given_inner is not None:
            stored(given_inner.qlib)
        self.inner = inner
        self.loaded: Loaded = self.source.bars(given_inner)
        costs = replace(costs, slippage=costs.slippage.resolved(self.loaded))
        self.terms = replace(self.terms, costs=costs)
        self.loaded, unpriced = slipping(self.loaded, costs.slippage)
        self.notes = {"impact of an order unknown, taken as none: bars of an instrument": unpriced}
        self._has_bar = self.loaded.has_bar
        self._terms, self._fees = self.terms.array(self.loaded.interval.ms), self.terms.fees(self.loaded.opens_ms)
        super().__init__(
            freq=interval.qlib,
            start_time=start_time,
            end_time=end_time,
            codes=names,
            deal_price="$open",
            open_cost=costs.rate(0),
            close_cost=costs.rate(0),
            min_cost=0.0,
            quote_cls=partial(Quotes, loaded=self.loaded),
            trade_unit=None,
        )
        self.quote: Quotes

    def look_inside(self) -> None:
        """Load the finer bars of `inner: auto`, the longest that the provider has, unless they take more than 1 GiB."""
        if self.inner != AUTO:
            return
        own, shape, longest = self.loaded.interval.ms, self.loaded.market.prices.shape, self.source.inner
        if longest is None:
            return
        if 8 * own // longest.ms * math.prod(shape) > _MOST_INNER:
            get_module_logger("perp backtest").warning(
                "%s bars inside those of %s take more than %d MiB: not looked at; write inner: %s to have them",
                longest.qlib, self.loaded.interval.qlib, _MOST_INNER >> 20, longest.qlib,
            )  # fmt: skip
            return
        self.inner = longest.qlib
        self.loaded, _ = slipping(self.source.bars(longest), self.terms.costs.slippage)
        self.quote.loaded = self.loaded

    def get_quote_from_qlib(self) -> None:
        """Nothing is asked of Qlib: the files are read, of every instrument for the whole span, membership or not."""
        self.quote_df = pd.DataFrame({"$open": []})
        self.trade_w_adj_price = False

    # prices and funding of a step

    def open_price(self, name: str, start: pd.Timestamp) -> float:
        """The open of the bar that starts then, NaN when the instrument has no such bar."""
        return self.quote.at(OPEN, name, start)

    def funding_known(self, name: str, start: pd.Timestamp) -> bool:
        """True when it is known what settled in the bar, nothing included."""
        row, column = self.quote.row(start), self.loaded.column.get(name)
        return row is not None and column is not None and not self.loaded.market.unknown[row, column]

    def may_open(self, name: str, start: pd.Timestamp) -> bool:
        """True when the bar has a price, and known funding where the policy is `untradable`."""
        if not math.isfinite(self.open_price(name, start)):
            return False
        return self.terms.missing_funding != "untradable" or self.funding_known(name, start)

    # Qlib's own interface

    def check_stock_suspended(self, stock_id: str, start_time: pd.Timestamp, end_time: pd.Timestamp) -> bool:
        """True when no bar with a price lies in [start_time, end_time]."""
        if end_time.value - start_time.value < self.loaded.interval.ms * 1_000_000:
            row, column = self.quote.row(start_time), self.loaded.column.get(stock_id)
            if row is not None:
                return column is None or not self._has_bar[row, column]
        return self.quote.get_data(stock_id, start_time, end_time, "$close", "ts_data_last") is None

    def check_stock_limit(
        self,
        stock_id: str,  # noqa: ARG002 - the signature is Qlib's
        start_time: pd.Timestamp,  # noqa: ARG002 - as above
        end_time: pd.Timestamp,  # noqa: ARG002 - as above
        direction: int | None = None,  # noqa: ARG002 - as above
    ) -> bool:
        """False: perpetuals have no daily price limit."""
        return False

    def get_factor(self, stock_id: str, start_time: pd.Timestamp, end_time: pd.Timestamp) -> float:  # noqa: ARG002 - Qlib's signature
        """1.0: a perpetual's price is never adjusted."""
        return 1.0

    def get_deal_price(
        self,
        stock_id: str,
        start_time: pd.Timestamp,
        end_time: pd.Timestamp,
        direction: OrderDir,  # noqa: ARG002 - the signature is Qlib's
        method: str | None = "ts_data_last",
    ) -> Any:
        """The open of the bar at `start_time`, NaN without one: never another bar's price, never the close."""
        if method is None:
            return self.quote.get_data(stock_id, start_time, end_time, "$open", None)
        return self.open_price(stock_id, start_time)

    def deal_order(
        self,
        order: Order,
        trade_account: Account | None = None,
        position: PerpPosition | None = None,
        dealt_order_amount: dict[str, float] | None = None,  # noqa: ARG002 - Qlib's signature; volume is capped by the bar
    ) -> tuple[float, float, float]:
        """Executes the order on the account or the position alone: value, fee, price; (0, 0, NaN) when refused.

        For what a strategy tries on a copy of its position; the executor gives the orders of a step to the account
        together. Sets the order's `deal_amount` and `note`.
        """
        if trade_account is not None and position is not None:
            raise ConfigError("deal_order takes an account or a position, not both")
        holder = trade_account.current_position if trade_account is not None else position
        book = holder.book if holder is not None else None
        row, column = self.quote.row(order.start_time), self.loaded.column.get(order.stock_id)
        done = Executed(0.0, math.nan, math.nan, 0.0, WORDS[NO_PRICE])
        if row is not None and column is not None and book is not None:
            done = try_order(self.loaded, self._terms, self._fees, book, row, column, order.amount_delta)
        order.factor, order.deal_amount, order.note = 1.0, abs(done.quantity), done.note
        if not done.quantity or holder is None:
            return 0.0, 0.0, math.nan
        holder.quote(order.stock_id, done.price)
        holder.mirror()
        return order.deal_amount * done.price, done.fee, done.price

    def generate_amount_position_from_weight_position(
        self,
        weight_position: Mapping[str, float],
        cash: float,
        start_time: pd.Timestamp,
        end_time: pd.Timestamp,  # noqa: ARG002 - the signature is Qlib's
        direction: OrderDir = OrderDir.BUY,  # noqa: ARG002 - as above
    ) -> dict[str, float]:
        """The signed base quantities of signed weights of `cash` at this bar's open, those without a price left out.

        Nothing is floored to whole coins and no weight moves to another name.
        """
        prices = {name: self.open_price(name, start_time) for name in weight_position}
        return {n: cash * w / prices[n] for n, w in weight_position.items() if math.isfinite(prices[n])}

    def generate_order_for_target_amount_position(
        self,
        target_position: Mapping[str, float],
        current_position: Mapping[str, float],
        start_time: pd.Timestamp,
        end_time: pd.Timestamp,
    ) -> list[Order]:
        """The orders from held to wanted signed quantities: those that shrink a position first, then by name."""
        orders: list[tuple[bool, str, Order]] = []
        for name in sorted({*target_position, *current_position}):
            held, target = current_position.get(name, 0.0), target_position.get(name, 0.0)
            if target == held or not math.isfinite(self.open_price(name, start_time)):
                continue
            side = OrderDir.BUY if target > held else OrderDir.SELL
            grows = abs(target) > abs(held) or held * target < 0
            orders.append((grows, name, Order(name, abs(target - held), side, start_time, end_time)))
        return [order for _, _, order in sorted(orders, key=lambda item: item[:2])]
