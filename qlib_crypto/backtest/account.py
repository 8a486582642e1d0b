"""The one account of linear perpetuals: float64 money, signed base quantities, every change attributed.

Arithmetic only, no Qlib and no pandas, so that every engine and paper trading share one meaning of money.

Conventions: quantities are signed base coins (short < 0), prices and money are quote coins, `cash` is what is left
after paying quantity x price for every position, so that

    equity = cash + sum(quantity x mark)        wallet = cash + sum(quantity x entry)

A short therefore holds more cash than its wallet. Equity equals a venue's margin balance (wallet + unrealised profit).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from qlib_crypto.clock import iso
from qlib_crypto.errors import DataError, GapError

#: A remainder below this part of the larger of order and position is rounding, not a position.
DUST = 1e-12


class Fill(NamedTuple):
    """One executed order: signed base `quantity` at `price`; `fee` > 0 is paid by us, < 0 is a rebate.

    `realised` is the profit of the part that closed a position, before the fee; `reference` is the price that the
    market had, what lies between that and `price` is slippage.
    """

    instrument: str
    quantity: float
    price: float
    fee: float
    realised: float
    reference: float


class FundingPayment(NamedTuple):
    """One funding event on the position held at its instant: amount = -quantity x rate x mark, < 0 is paid by us.

    `mark` is the settlement price used and `mark_source` says whose it is. Where several settlements come as one sum,
    `mark` is their effective price, NaN when their rates cancel while their amounts do not.
    """

    time_ms: int
    instrument: str
    quantity: float
    mark: float
    rate: float
    amount: float
    mark_source: str


class Attribution(NamedTuple):
    """What changed the equity so far, quote coin; what was paid is negative. The sum is the change."""

    price: float
    funding: float
    fee: float
    slippage: float


@dataclass(slots=True)
class Holding:
    """An open position: signed base `quantity`, average `entry` price, last seen `mark`."""

    quantity: float
    entry: float
    mark: float


@dataclass(slots=True)
class PerpAccount:
    """Cash and positions with one-way netting.

    Attributes
    ----------
    cash
        Quote coin, see the module; starts as the whole equity.
    holdings
        Open positions by instrument, none with quantity 0.
    stale_marks
        How often a position was to be marked while its price was missing, and kept its last mark.

    """

    cash: float
    holdings: dict[str, Holding] = field(default_factory=dict)
    stale_marks: int = 0
    _price: float = 0.0
    _funding: float = 0.0
    _fee: float = 0.0
    _slippage: float = 0.0

    @property
    def net(self) -> float:
        """The signed notional at mark, quote coin."""
        return math.fsum(h.quantity * h.mark for h in self.holdings.values())

    @property
    def gross(self) -> float:
        """The absolute notional at mark, quote coin."""
        return math.fsum(abs(h.quantity) * h.mark for h in self.holdings.values())

    @property
    def equity(self) -> float:
        """Cash plus net notional: what would be left if everything closed at mark without a fee."""
        return math.fsum([self.cash, *(h.quantity * h.mark for h in self.holdings.values())])

    @property
    def wallet(self) -> float:
        """Start equity plus everything realised (closed profit, funding, fees); equity less unrealised profit."""
        return math.fsum([self.cash, *(h.quantity * h.entry for h in self.holdings.values())])

    @property
    def attribution(self) -> Attribution:
        """The causes of the whole change of equity since the start."""
        return Attribution(self._price, self._funding, self._fee, self._slippage)

    def quantity(self, instrument: str) -> float:
        """The signed base quantity held, 0.0 when flat."""
        holding = self.holdings.get(instrument)
        return holding.quantity if holding else 0.0

    def trade(
        self, instrument: str, quantity: float, price: float, fee_rate: float, *, reference: float | None = None
    ) -> Fill:
        """The fill of `quantity` base coins (signed) at `price`; the fee is |quantity| x price x `fee_rate`.

        An order that crosses zero closes and opens in one fill and pays the fee on both legs. `reference` is the price
        that the market had, `price` when None. A held position keeps its mark (what lies between reference and mark is
        a price change); a new one is marked at the reference.

        Raises
        ------
        DataError
            When quantity, price or fee rate is not finite, the quantity 0 or the price not positive.

        """
        reference = price if reference is None else reference
        sound = math.isfinite(price * fee_rate * reference) and price > 0 and reference > 0
        if not (sound and math.isfinite(quantity) and quantity):
            raise DataError(
                f"trade of {instrument}: quantity {quantity}, price {price}, reference {reference}, "
                f"fee rate {fee_rate}; give a signed quantity other than 0 and positive prices"
            )
        held = self.holdings.get(instrument) or Holding(0.0, price, reference)
        fee = abs(quantity) * price * fee_rate
        closed = -math.copysign(min(abs(quantity), abs(held.quantity)), quantity) if held.quantity * quantity < 0 else 0
        realised = closed * (price - held.entry)
        self.cash -= quantity * price + fee
        self._fee -= fee
        self._price += quantity * (held.mark - reference)
        self._slippage += quantity * (reference - price)
        self._hold(instrument, held, quantity, price)
        return Fill(instrument, quantity, price, fee, realised, reference)

    def _hold(self, instrument: str, held: Holding, quantity: float, price: float) -> None:
        after = held.quantity + quantity
        if abs(after) <= DUST * max(abs(held.quantity), abs(quantity)):
            self.holdings.pop(instrument, None)
            return
        if held.quantity * quantity >= 0:
            entry = held.entry + (price - held.entry) * (quantity / after)
        else:
            entry = held.entry if held.quantity * after > 0 else price
        self.holdings[instrument] = Holding(after, entry, held.mark)

    def settle(
        self,
        instrument: str,
        time_ms: int,
        rate: float,
        mark: float,
        mark_source: str,
        *,
        cash_per_base: float | None = None,
    ) -> FundingPayment | None:
        """The funding of the position held now, None when flat: a long pays a positive rate.

        `rate` is the fraction of notional for the interval that ends now, `mark` the settlement price, and
        `cash_per_base` their product where the source sums it over several settlements (`rate` is then only reported).

        Raises
        ------
        GapError
            When a position is held and the amount is unknown.

        """
        held = self.holdings.get(instrument)
        if held is None:
            return None
        amount = -held.quantity * (rate * mark if cash_per_base is None else cash_per_base)
        if not math.isfinite(amount):
            raise GapError(
                f"funding of {instrument} is unknown at {iso(time_ms)} (rate {rate}, mark {mark}) while "
                f"{held.quantity:,.6g} are held: import its settlements, or set missing_funding: untradable or zero"
            )
        self.cash += amount
        self._funding += amount
        return FundingPayment(time_ms, instrument, held.quantity, mark, rate, amount, mark_source)

    def mark(self, prices: Mapping[str, float]) -> None:
        """Every held position at its new price, quote per base; a missing one (absent or NaN) keeps the last mark."""
        for instrument, held in self.holdings.items():
            price = prices.get(instrument, math.nan)
            if math.isfinite(price) and price > 0:
                self._price += held.quantity * (price - held.mark)
                held.mark = price
            else:
                self.stale_marks += 1

    def copy(self) -> PerpAccount:
        """An account of the same state that shares nothing with this one."""
        holdings = {name: Holding(h.quantity, h.entry, h.mark) for name, h in self.holdings.items()}
        return PerpAccount(self.cash, holdings, self.stale_marks, *self.attribution)
