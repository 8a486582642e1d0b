"""Trades made from fills: what each closed part of a position earned, and how long it was held."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Payments", "Trades", "account_trades", "closed_trades", "mean_holding_ms"]

Floats = NDArray[np.float64]
#: Of a position: less than this is the rounding of its fills, not something held.
_DUST = 1e-9
_SAME = 1e-6  # quantities of a payment and of the position it was for


class Payments(NamedTuple):
    """What was paid on positions, such as funding: arrays of one shape.

    `time` as in `closed_trades`; `quantity` that was held, signed base coin; `amount` in quote coin, below 0 when
    paid by us.
    """

    time: ArrayLike
    instrument: ArrayLike
    quantity: ArrayLike
    amount: ArrayLike


class Trades(NamedTuple):
    """The closed parts of positions in the order they were closed, arrays of shape (k,).

    Attributes
    ----------
    instrument
        Its name.
    opened_ms, closed_ms
        Mean time of its entries, weighted by quantity, and time of the fill that closed it; Unix milliseconds UTC.
    quantity
        What was closed, base coin: above 0 of a long, below 0 of a short.
    entry, exit
        Mean price of its entries, weighted by quantity, and the price it was closed at; quote coin.
    profit
        quantity x (exit - entry), less its share of the entries' fees, less the fee of closing, and with its share
        of what was paid while the position was held; quote coin.

    """

    instrument: NDArray[np.object_]
    opened_ms: NDArray[np.int64]
    closed_ms: NDArray[np.int64]
    quantity: Floats
    entry: Floats
    exit: Floats
    profit: Floats

    def of(self, side: int) -> Trades:
        """Those that were long (`side` above 0) or short (below 0)."""
        chosen = np.sign(self.quantity) == np.sign(side)
        return Trades(*(values[chosen] for values in self))


def closed_trades(
    time: ArrayLike,
    instrument: ArrayLike,
    quantity: ArrayLike,
    price: ArrayLike,
    fee: ArrayLike,
    payments: Payments | None = None,
) -> Trades:
    """The trades of an account that began flat; what is still held at the end is no trade.

    Each fill against the position closes a part of it at the mean entry price, and opens what goes beyond; the fee
    is split by quantity. So a position that is cut three times makes three trades ("exit trades" in vectorbt).

    Parameters
    ----------
    time
        Shape (n,), `datetime64` or Unix milliseconds UTC. Fills of an instrument at one time keep their order.
    instrument
        Names.
    quantity, price, fee
        Signed base coin, quote coin, quote coin (> 0 is paid by us). A fill with a missing one is left out.
    payments
        Go to the position held then: before the fills of the same time if that was the position, else after them.

    """
    paid = payments or Payments([], [], [], [])
    size, cost, amount = _floats(quantity), _floats(fee), _floats(paid.amount)
    names = np.concatenate([np.asarray(instrument, dtype=object), np.asarray(paid.instrument, dtype=object)])
    when = np.concatenate([_ms(time), _ms(paid.time)])
    is_fill = np.repeat([True, False], [size.size, amount.size])
    coins = np.concatenate([size, _floats(paid.quantity)])
    worth = np.concatenate([_floats(price), np.zeros(amount.size)])
    cash = np.concatenate([-cost, amount])
    usable = np.isfinite(coins) & np.isfinite(worth) & np.isfinite(cash)
    order = np.lexsort((is_fill, when))
    order = order[usable[order]]
    books: dict[object, _Book] = {}
    rows: list[tuple[object, float, int, float, float, float, float]] = []
    columns = (names, when, is_fill, coins, worth, cash)
    for name, at, fill, quantities, at_price, got in zip(*(c[order].tolist() for c in columns), strict=True):
        book = books.get(name)
        if book is None:
            book = books[name] = _Book()
        if not fill:
            book.pay(at, quantities, got)
        elif closed := book.take(at, quantities, at_price, got):
            rows.append((name, *closed))
    return _as_trades(rows)


def account_trades(fills: Any, funding: Any) -> Trades:
    """The trades of `perp_fills` and `perp_funding`, tables by column name, with funding in the profits."""
    payments = Payments(funding["time"], funding["instrument"], funding["quantity"], funding["amount"])
    return closed_trades(
        fills["datetime"], fills["instrument"], fills["quantity"], fills["price"], fills["fee"], payments
    )


def mean_holding_ms(trades: Trades) -> float:
    """The mean time from entry to close, milliseconds, each trade weighted by its notional at entry; NaN without one.

    Weighted, so that the dust which rebalancing cuts off does not count like a position.
    """
    weight = np.abs(trades.quantity * trades.entry)
    total = float(weight.sum())
    return float(((trades.closed_ms - trades.opened_ms) * weight).sum()) / total if total > 0 else math.nan


class _Book:
    """One instrument's open position: quantity, mean entry price and time, and cash that waits for its close."""

    __slots__ = ("cash", "held", "late", "late_at", "price", "since")

    def __init__(self) -> None:
        self.held = self.price = self.since = self.cash = self.late = 0.0
        self.late_at = 0

    def pay(self, at: int, quantity: float, amount: float) -> None:
        """Books a payment on `quantity`; one on another position than this waits for the fills of its time."""
        self._settle(at)
        if abs(quantity - self.held) <= _SAME * abs(quantity):
            self.cash += amount
        else:
            self.late, self.late_at = self.late + amount, at

    def take(
        self, at: int, change: float, price: float, cash: float
    ) -> tuple[float, int, float, float, float, float] | None:
        """Applies a fill; what it closed as the numbers of `Trades`, None for nothing."""
        self._settle(at)
        before = self.held
        if before * change >= 0:
            self._add(at, change, price, cash)
            return None
        part = min(abs(change), abs(before))
        if abs(abs(change) - abs(before)) <= _DUST * abs(before):
            part = abs(before)
        signed = math.copysign(part, before)
        share, of_fee = part / abs(before), min(1.0, part / abs(change))
        carried = self.cash * share
        closed = (
            self.since,
            at,
            signed,
            self.price,
            price,
            signed * (price - self.price) + carried + cash * of_fee,
        )
        self.cash -= carried
        self.held = before - signed
        beyond = change + signed
        if share == 1.0:
            self.held = self.cash = 0.0
            if abs(beyond) > _DUST * abs(before):
                self._add(at, beyond, price, cash * (1.0 - of_fee))
        return closed

    def _settle(self, at: int) -> None:
        if self.late and at > self.late_at:
            self.cash, self.late = self.cash + self.late, 0.0

    def _add(self, at: int, change: float, price: float, cash: float) -> None:
        self.cash += cash
        if change:
            held = self.held + change
            weight = change / held
            self.price += (price - self.price) * weight
            self.since += (at - self.since) * weight
            self.held = held


def _as_trades(rows: list[tuple[object, float, int, float, float, float, float]]) -> Trades:
    names, opened, closed, *numbers = zip(*rows, strict=True) if rows else ((),) * 7
    name = np.empty(len(rows), dtype=object)
    name[:] = names
    return Trades(
        name,
        np.rint(np.asarray(opened, dtype=np.float64)).astype(np.int64),
        np.asarray(closed, dtype=np.int64),
        *(np.asarray(column, dtype=np.float64) for column in numbers),
    )


def _ms(times: ArrayLike) -> NDArray[np.int64]:
    values = np.asarray(times)
    if values.size == 0:
        return np.empty(0, dtype=np.int64)
    return values.astype("datetime64[ms]").astype(np.int64) if values.dtype.kind == "M" else values.astype(np.int64)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)
