"""Margin tiers of the contracts that are collected: asked for with the instruments, kept when they changed.

A venue that does not answer costs nobody anything: it is told, and asked again next time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from qlib_crypto.clock import day_start
from qlib_crypto.errors import SchemaError, VenueError
from qlib_crypto.feeds import RestClient
from qlib_crypto.lake import Lake
from qlib_crypto.market.margin import MarginTable
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.symbols import Instrument


def refresh_tiers(
    lake: Lake, client: RestClient, specs: Iterable[InstrumentSpec], say: Callable[[str], None]
) -> set[Instrument]:
    """The contracts that the venue was asked for and did not fail; their tiers are kept as of now where they changed.

    `specs` are of contracts that trade now. What the venue refuses, or says in another shape, is told.

    Raises
    ------
    StorageError
        The disk refused; nothing is kept.

    """
    asked = list(specs)
    tables: dict[Instrument, MarginTable] = {}
    answered = set()
    try:
        for page in client.margin_tiers(asked):
            tables |= page.tables
            for line in page.refused:
                say(line)
        answered = {spec.instrument for spec in asked}
    except (VenueError, SchemaError) as error:
        say(f"margin tiers stay as they were seen last: {error}")
    if not tables:
        return answered
    try:
        now_ms = client.server_time_ms()  # after the answers: no state is dated back
    except VenueError as error:
        say(f"margin tiers stay as they were seen last: {error}")
        return set()
    lake.store_tiers(client.venue, tables, now_ms)
    return answered | set(tables)


class DailyTiers:
    """The margin tiers of what a collector follows, asked for once a UTC day and when a contract's size changes."""

    def __init__(self, lake: Lake, client: RestClient, say: Callable[[str], None]) -> None:
        self._lake, self._client, self._say = lake, client, say
        self._asked: dict[Instrument, float] = {}
        self._told: set[str] = set()
        self._day = -1

    def refresh(self, specs: Iterable[InstrumentSpec], now_ms: int) -> None:
        """Ask for those that were not asked for yet; of what failed each line is told once a day."""
        if (day := day_start(now_ms)) != self._day:
            self._day, self._asked, self._told = day, {}, set()
        due = {s.instrument: s for s in specs if self._asked.get(s.instrument) != s.contract_value_base}
        answered = refresh_tiers(self._lake, self._client, due.values(), self._tell) if due else set()
        self._asked |= {of: due[of].contract_value_base for of in answered}

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._say(line)
