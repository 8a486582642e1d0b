"""Which contract a ticker means: a ticker that is used again after a delisting names another instrument.

Venues know only tickers. The instruments table of the lake tells the contracts apart by their list times: the first
that used a ticker is `LUNA_USDT`, the next `LUNA_USDT~2`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, Self

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.symbols import Instrument

#: A venue that states a list time again within the hour corrects it: nothing is delisted and listed again so fast.
_CORRECTED_MS = HOUR_MS


class _OfInstrument(Protocol):
    @property
    def instrument(self) -> Instrument: ...
    def _replace(self, *, instrument: Instrument) -> Self: ...


def numbered(specs: Sequence[InstrumentSpec], known: Mapping[Instrument, InstrumentSpec]) -> list[InstrumentSpec]:
    """The specs as a venue stated them, in the same order, each under the instrument that its ticker means now.

    A spec is of the known contract with its list time; else of the ticker's newest known contract, unless that one
    cannot have been listed then: it was seen trading before, or was delisted by then. That is a relisting, and the
    next number. A list time that moves while the contract has not been listed yet, and the change of a pre-market
    contract to a normal one, are no relistings; without a list time nothing tells one.

    Parameters
    ----------
    specs
        What the venue says, every instrument with listing 1.
    known
        The last seen spec of every instrument ever seen, as `Lake.specs` gives it.

    """
    by_ticker: dict[Instrument, list[InstrumentSpec]] = {}
    for instrument in sorted(known, key=lambda i: i.listing):
        by_ticker.setdefault(_first(instrument), []).append(known[instrument])
    return [
        spec if (listing := _listing(spec, by_ticker.get(_first(spec.instrument), []))) == spec.instrument.listing
        else dataclasses.replace(spec, instrument=dataclasses.replace(spec.instrument, listing=listing))
        for spec in specs
    ]  # fmt: skip


def tickers_of(specs: Iterable[InstrumentSpec]) -> dict[Instrument, Instrument]:
    """From what a venue's rows name, an instrument with listing 1, to the instrument it means; only where they differ.

    Of several contracts of one ticker the newest.
    """
    newest: dict[Instrument, Instrument] = {}
    for spec in specs:
        first = _first(spec.instrument)
        newest[first] = max(newest.get(first, first), spec.instrument, key=lambda i: i.listing)
    return {first: instrument for first, instrument in newest.items() if instrument != first}


def renamed[R: _OfInstrument](rows: Iterable[R], names: Mapping[Instrument, Instrument]) -> list[R]:
    """The rows of a venue under the instruments that `tickers_of` gave."""
    return [row._replace(instrument=names[row.instrument]) if row.instrument in names else row for row in rows]


def _first(instrument: Instrument) -> Instrument:
    return instrument if instrument.listing == 1 else dataclasses.replace(instrument, listing=1)


def _listing(spec: InstrumentSpec, known: Sequence[InstrumentSpec]) -> int:
    """The number of the spec's contract; `known` are its ticker's contracts, the oldest first."""
    if not known:
        return spec.instrument.listing
    for old in reversed(known):
        if _same_time(spec, old):
            return old.instrument.listing
    newest = known[-1]
    return newest.instrument.listing + _listed_again(spec, newest)


def _same_time(spec: InstrumentSpec, old: InstrumentSpec) -> bool:
    if spec.listed_ms is None or old.listed_ms is None:
        return spec.listed_ms is old.listed_ms
    return abs(spec.listed_ms - old.listed_ms) <= _CORRECTED_MS


def _listed_again(spec: InstrumentSpec, old: InstrumentSpec) -> bool:
    if spec.listed_ms is None:
        return False
    if old.delisted_ms is not None and old.delisted_ms <= spec.listed_ms:
        return True
    if old.listed_ms is not None and old.listed_ms > old.seen_ms:
        return False  # it was only announced when last seen: the listing was put off
    if old.rule_type == "pre_market" and spec.rule_type != "pre_market":
        return False
    return spec.listed_ms > old.seen_ms
