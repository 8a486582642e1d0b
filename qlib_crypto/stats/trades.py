"""Trades made from fills: what each closed part of a position earned, and how long it was held."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Payments", "Trades", "closed_trades", "mean_holding_ms"]

Floats = NDArray[np.float64]
#: Of a position: less than this is the rounding of its fills, not something held.
_DUST = 1e-9


class Payments(NamedTuple):
    """What was paid on positions, such as funding: arrays of one shape.

    `time` as in `closed_trades`; `amount` in quote coin, below 0 when paid by us; `late` is True where it fell after
    the fills of the same time.
    """

    time: ArrayLike
    instrument: ArrayLike
    amount: ArrayLike
    late: ArrayLike


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
        Go to the position held then; one that comes while nothing is held goes to the next.

    """
    paid = payments or Payments([], [], [], [])
    size, cost = _floats(quantity), _floats(fee)
    amount = _floats(paid.amount)
    names = np.concatenate([np.asarray(instrument, dtype=object), np.asarray(paid.instrument, dtype=object)])
    when = np.concatenate([_ms(time), _ms(paid.time)])
    rank = np.concatenate([np.ones(size.size), np.where(np.asarray(paid.late, dtype=bool), 2.0, 0.0)])
    change = np.concatenate([size, np.zeros(amount.size)])
    worth = np.concatenate([_floats(price), np.zeros(amount.size)])
    cash = np.concatenate([-cost, amount])
    usable = np.isfinite(change) & np.isfinite(worth) & np.isfinite(cash)
    order = np.lexsort((rank, when))
    order = order[usable[order]]
    books: dict[object, _Book] = {}
    rows: list[tuple[object, float, int, float, float, float, float]] = []
    columns = (names[order], when[order].tolist(), change[order].tolist(), worth[order].tolist(), cash[order].tolist())
    for name, at, delta, at_price, got in zip(*columns, strict=True):
        book = books.get(name)
        if book is None:
            book = books[name] = _Book()
        closed = book.take(at, delta, at_price, got)
        if closed is not None:
            rows.append((name, *closed))
    return _as_trades(rows)


def mean_holding_ms(trades: Trades) -> float:
    """The mean time from entry to close, milliseconds, each trade weighted by its notional at entry; NaN without one.

    Weighted, so that the dust which rebalancing cuts off does not count like a position.
    """
    weight = np.abs(trades.quantity * trades.entry)
    total = float(weight.sum())
    return float(((trades.closed_ms - trades.opened_ms) * weight).sum()) / total if total > 0 else math.nan


class _Book:
    """One instrument's open position: quantity, mean entry price and time, and cash that waits for its close."""

    __slots__ = ("cash", "held", "price", "since")

    def __init__(self) -> None:
        self.held = self.price = self.since = self.cash = 0.0

    def take(
        self, at: int, change: float, price: float, cash: float
    ) -> tuple[float, int, float, float, float, float] | None:
        """Applies a fill, or a payment (no change); what it closed as the numbers of `Trades`, None for nothing."""
        before = self.held
        if change == 0 or before * change >= 0:
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
