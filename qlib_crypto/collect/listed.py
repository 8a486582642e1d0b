"""Which contracts trade and since when, as the venue lists them: looked at again and again while collecting."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from qlib_crypto.clock import MINUTE_MS, day_start
from qlib_crypto.collect.spans import Span
from qlib_crypto.errors import VenueError
from qlib_crypto.feeds import RestClient
from qlib_crypto.lake import Lake
from qlib_crypto.lake.listings import numbered
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.symbols import Instrument

#: Absent from the venue's list for so long, and looked for again after it, a contract is gone: a list may come cut.
_GONE_MS = 10 * MINUTE_MS
#: A delisted contract's stream is listened to a little longer, for its last bar.
_LINGER_MS = 10 * MINUTE_MS


def refresh_instruments(lake: Lake, client: RestClient) -> tuple[Path, list[InstrumentSpec]]:
    """The file with the instruments table as the venue states it now, the newest when nothing has changed; the table.

    Raises
    ------
    VenueError, StorageError
        The table stays as it was.

    """
    specs = numbered(_specs(client), lake.specs(client.venue))
    return lake.store_specs(client.venue, specs), specs


def _specs(client: RestClient) -> list[InstrumentSpec]:
    specs = client.specs()
    if not specs:
        raise VenueError(f"{client.venue} lists no instrument; ask it again later", retryable=True)
    return specs


class Listings:
    """The contracts that the venue lists, and those that it listed before.

    `refresh` runs in one thread, everything else may be asked from any. What the lake knows counts until the first
    refresh.
    """

    def __init__(self, lake: Lake, client: RestClient) -> None:
        self._lake, self._client = lake, client
        self.specs: dict[Instrument, InstrumentSpec] = dict(lake.specs(client.venue))
        self._asked = False
        self._again: dict[Instrument, int] = _listed_again(self.specs.values())
        self._absent: dict[Instrument, int] = {}
        self._gone: dict[Instrument, int] = {}
        self._stored_day = -1

    def refresh(self, now_ms: int) -> None:
        """Ask the venue, and store the table when it says something new and once a day."""
        specs = numbered(_specs(self._client), self.specs)
        found = {spec.instrument: spec for spec in specs}
        changed = any(_said(spec) != _said(self.specs.get(instrument)) for instrument, spec in found.items())
        if changed or day_start(now_ms) != self._stored_day:
            self._lake.store_specs(self._client.venue, specs)
            self._stored_day = day_start(now_ms)
        self.specs = self.specs | found
        self._again = _listed_again(self.specs.values())
        absent = set(self.specs) - set(found)
        self._absent = {i: self._absent.get(i, now_ms) for i in absent}
        self._gone = {i: since for i, since in self._absent.items() if now_ms - since >= _GONE_MS or not self._asked}
        self._asked = True

    def trades(self, instrument: Instrument, at_ms: int) -> bool:
        """True when the contract is listed at that time, or was until shortly before; True while nothing is known."""
        spec = self.specs.get(instrument)
        if spec is None:
            return not self._asked
        end = self.end_ms(instrument)
        return (spec.listed_ms or 0) <= at_ms and (end is None or at_ms < end + _LINGER_MS)

    def end_ms(self, instrument: Instrument) -> int | None:
        """When the contract was or will be delisted, as announced, else as seen; None when nothing says so.

        In any case before its ticker was listed again.
        """
        spec = self.specs.get(instrument)
        announced = spec.delisted_ms if spec else None
        end = self._gone.get(instrument) if announced is None else announced
        again = self._again.get(instrument)
        if end is None or again is None:
            return again if end is None else end
        return min(end, again)

    def span(self, instrument: Instrument, start_ms: int, end_ms: int, step_ms: int) -> Span:
        """The part of `[start_ms, end_ms)` in which the contract was listed, on the grid; empty when there is none."""
        spec, end = self.specs.get(instrument), self.end_ms(instrument)
        if spec is not None and spec.listed_ms:
            start_ms = max(start_ms, spec.listed_ms - spec.listed_ms % step_ms)
        if end is not None:
            end_ms = min(end_ms, end - end % step_ms)
        return start_ms, max(start_ms, end_ms)

    def with_successors(self, instruments: Iterable[Instrument]) -> list[Instrument]:
        """The instruments in their order, and behind them the contracts that use the ticker of one of them again."""
        first = list(dict.fromkeys(instruments))
        tickers = {(i.base, i.quote): i.listing for i in first}
        later = [i for i in self.specs if i.listing > tickers.get((i.base, i.quote), i.listing)]
        return list(dict.fromkeys([*first, *sorted(later)]))

    def contract_value(self, instrument: Instrument) -> float | None:
        """Base coins in one contract, as last stated."""
        spec = self.specs.get(instrument)
        return spec.contract_value_base if spec else None


def _listed_again(specs: Iterable[InstrumentSpec]) -> dict[Instrument, int]:
    """Of each contract whose ticker another one uses after it, when that one was listed."""
    ordered = sorted(specs, key=lambda spec: spec.instrument)
    return {
        old.instrument: new.listed_ms
        for old, new in pairwise(ordered)
        if new.listed_ms is not None
        and (old.instrument.base, old.instrument.quote) == (new.instrument.base, new.instrument.quote)
    }


def _said(spec: InstrumentSpec | None) -> InstrumentSpec | None:
    return spec and dataclasses.replace(spec, seen_ms=0)
