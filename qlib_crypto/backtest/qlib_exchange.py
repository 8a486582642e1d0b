"""A perpetual venue inside Qlib: signed orders, fees, sizes, leverage and funding from provider quotes.

Named in YAML as `exchange_kwargs.exchange: {class: PerpExchange, module_path: qlib_crypto.backtest.qlib_exchange}`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from qlib.backtest.account import Account
from qlib.backtest.decision import Order, OrderDir
from qlib.backtest.exchange import Exchange
from qlib.data import D

from qlib_crypto.backtest.checks import exchange_values, names_of, refuse_stock_rules, stored
from qlib_crypto.backtest.costs import Costs
from qlib_crypto.backtest.orders import ASSUMED, Admitted, OrderRules, admit, load_specs
from qlib_crypto.backtest.qlib_position import PerpPosition
from qlib_crypto.backtest.quotes import FIELDS, FUNDING, Quotes
from qlib_crypto.errors import ConfigError, DataError, GapError
from qlib_crypto.symbols import Interval

#: The cap of an exchange that is not given one.
MAX_GROSS_LEVERAGE = 3.0


def unix_ms(time: pd.Timestamp) -> int:
    """Unix milliseconds of a time of Qlib's, which is UTC."""
    return int(time.value // 1_000_000)


class FundingSum(NamedTuple):
    """The settlements of one instrument at a bar's open, or inside the bar: summed `rate` and quote `cash` per base.

    `cash` is NaN when unknown. Longs pay a positive amount.
    """

    rate: float
    cash: float

    @property
    def mark(self) -> float:
        """The effective settlement price, NaN when there is none."""
        return self.cash / self.rate if self.rate else math.nan


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
        How much worse than the open every order fills, as a fraction of the price; then on the next worse tick.
        None is 0, and 0.0005 with `fees: simple`.
    missing_funding
        What to do where funding is unknown: `error` stops with a GapError once a position is held over it,
        `untradable` neither opens nor adds there and closes what is held at that bar's open, `zero` pays nothing.
        Where the rate is known and only the price is not, the last two pay it at the position's last known price.
    max_gross_leverage
        Gross notional over equity that no order may take the account beyond; None for no limit. Without equity
        orders can only reduce.
    specs
        File of order rules (see `load_specs`); the provider's `specs.json` when None.

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
        slippage: float | None = None,
        missing_funding: str = "error",
        max_gross_leverage: float | None = MAX_GROSS_LEVERAGE,
        specs: str | None = None,
        **unknown: Any,
    ) -> None:
        refuse_stock_rules(deal_price, unknown)
        given = {"taker_fee": taker_fee, "maker_fee": maker_fee, "liquidity": liquidity, "codes": codes, "specs": specs}
        given |= {"missing_funding": missing_funding, "max_gross_leverage": max_gross_leverage, "slippage": slippage}
        self.check_values("exchange", {**given, "fees": fees})
        self.costs = Costs.of(fees, taker_fee, maker_fee, liquidity, slippage)
        self.missing_funding, self.max_gross_leverage = missing_funding, max_gross_leverage
        self.market = codes if isinstance(codes, str) else "list"
        folder = stored(freq)
        self.specs_path = Path(specs) if specs else folder / "specs.json"
        self.rules: dict[str, OrderRules] = load_specs(self.specs_path)
        self.spans: dict[str, list[tuple[pd.Timestamp, pd.Timestamp]]] = {}
        self.refusals: Counter[str] = Counter()
        super().__init__(
            freq=Interval.parse(freq).qlib,
            start_time=start_time,
            end_time=end_time,
            codes=names_of(codes, Interval.parse(freq).qlib, start_time, end_time, self.spans),
            deal_price="$open",
            open_cost=self.costs.rate(0),
            close_cost=self.costs.rate(0),
            min_cost=0.0,
            quote_cls=partial(Quotes, rules=self.rules),
            trade_unit=None,
        )
        self.quote: Quotes
        self.quote_df: pd.DataFrame
        self.quote_df = self.quote_df.iloc[:0]  # the arrays hold it now

    def get_quote_from_qlib(self) -> None:
        """Reads prices and funding of every instrument for the whole span, membership or not: a holding outlives it."""
        self.quote_df = D.features(self.codes, list(FIELDS), self.start_time, self.end_time, freq=self.freq)
        self.trade_w_adj_price = False
        if self.quote_df.empty or not np.isfinite(self.quote_df["$open"].to_numpy()).any():
            raise DataError(
                f"exchange: no {self.freq} bars of {self.market} ({len(self.codes)} instruments) between "
                f"{self.start_time} and {self.end_time} in the provider; convert them, or change the span"
            )

    # prices and funding of a step

    def open_price(self, name: str, start: pd.Timestamp) -> float:
        """The open of the bar that starts then, NaN when the instrument has no such bar."""
        return self.quote.at("$open", name, self.quote.row(start))

    def fill_price(self, name: str, price: float, quantity: float) -> float:
        """What is paid for a signed quantity while the market is at `price`."""
        return self.costs.price(price, quantity, self.rules.get(name, ASSUMED).tick_size)

    def close_price(self, name: str, start: pd.Timestamp) -> float:
        """The close of the bar that starts then, NaN when the instrument has no such bar."""
        return self.quote.at("$close", name, self.quote.row(start))

    def funding(self, name: str, start: pd.Timestamp) -> tuple[FundingSum, FundingSum]:
        """The settlements at the bar's open, and the later ones inside the bar."""
        row = self.quote.row(start)
        rate, cash, whole_rate, whole_cash = (self.quote.at(field, name, row) for field in FUNDING)
        return FundingSum(rate, cash), FundingSum(whole_rate - rate, whole_cash - cash)

    def funding_known(self, name: str, start: pd.Timestamp) -> bool:
        """True when every settlement of the bar can be paid, none included."""
        return all(self.is_payable(due) for due in self.funding(name, start))

    def is_payable(self, due: FundingSum) -> bool:
        """True when the cash of the settlements is known, or their rate where a missing price is no error."""
        return math.isfinite(due.cash if self.missing_funding == "error" else due.rate)

    def has_ended(self, name: str, start: pd.Timestamp) -> bool:
        """True when neither prices nor funding of the instrument go on within the loaded span: it was delisted."""
        return self.quote.is_over(name, start) and not self.funding_known(name, start)

    def may_open(self, name: str, start: pd.Timestamp) -> bool:
        """True when the bar has a price, and known funding where the policy is `untradable`."""
        if not math.isfinite(self.open_price(name, start)):
            return False
        return self.missing_funding != "untradable" or self.funding_known(name, start)

    # Qlib's own interface

    def check_stock_suspended(self, stock_id: str, start_time: pd.Timestamp, end_time: pd.Timestamp) -> bool:
        """True when no bar with a price lies in [start_time, end_time]."""
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

    def admitted(self, order: Order, position: PerpPosition | None) -> Admitted:
        """What of the order is executed, signed, and why not all of it."""
        name, price = order.stock_id, self.open_price(order.stock_id, order.start_time)
        limit, held = math.inf, 0.0
        if position is not None:
            held = position.account.quantity(name)
            limit = self._notional_left(position, name, price, order.start_time)
        return admit(
            order.amount_delta,
            held=held,
            price=price,
            rules=self.rules.get(name, ASSUMED),
            may_open=self.may_open(name, order.start_time),
            notional_limit=limit,
        )

    def _notional_left(self, position: PerpPosition, name: str, price: float, start: pd.Timestamp) -> float:
        """The notional the leverage cap leaves for one instrument, everything priced at this bar's open."""
        others, equity = 0.0, position.account.cash
        for other, held in position.account.holdings.items():
            now = self.open_price(other, start)
            notional = held.quantity * (now if math.isfinite(now) else held.mark)
            equity += notional
            others += abs(notional) if other != name else 0.0
        if equity <= 0 or not math.isfinite(price):
            return 0.0
        return math.inf if self.max_gross_leverage is None else equity * self.max_gross_leverage - others

    def _calc_trade_info_by_order(
        self,
        order: Order,
        position: PerpPosition | None,
        dealt_order_amount: dict[str, float],  # noqa: ARG002 - Qlib's signature; there is no volume limit
    ) -> tuple[float, float, float]:
        """Price, value and fee of what is executed; sets the order's `deal_amount`, `note` and `reference`."""
        quantity, note = self.admitted(order, position)
        order.factor, order.deal_amount, order.note = 1.0, abs(quantity), note
        if note:
            self.refusals[note] += 1
        order.reference = self.open_price(order.stock_id, order.start_time)
        price = self.fill_price(order.stock_id, order.reference, quantity)
        value = order.deal_amount * price
        return price, value, value * self.costs.rate(unix_ms(order.start_time))

    def deal_order(
        self,
        order: Order,
        trade_account: Account | None = None,
        position: PerpPosition | None = None,
        dealt_order_amount: dict[str, float] | None = None,
    ) -> tuple[float, float, float]:
        """Executes the order on the account or the position: value, fee, price; (0, 0, NaN) when refused."""
        if trade_account is not None and position is not None:
            raise ConfigError("deal_order takes an account or a position, not both")
        holder = trade_account.current_position if trade_account is not None else position
        price, value, fee = self._calc_trade_info_by_order(order, holder, dealt_order_amount or {})
        if order.deal_amount == 0:
            return 0.0, 0.0, math.nan
        if holder is not None:
            holder.quote(order.stock_id, price)
            (trade_account or holder).update_order(order=order, trade_val=value, cost=fee, trade_price=price)
        return value, fee, price

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

    def unknown_funding(self, name: str, start: pd.Timestamp, quantity: float, due: FundingSum) -> GapError:
        """The error of a position held over unknown funding."""
        lacks, needs = ("is unknown", "settlements")
        if math.isfinite(due.rate):
            lacks, needs = (f"of rate {due.rate:.6g} has no price", "bars of that minute")
        return GapError(
            f"funding of {name} {lacks} in the {self.freq} bar of {start} while {quantity:,.6g} are held: import its "
            f"{needs} and convert again, or set missing_funding: untradable or zero"
        )
