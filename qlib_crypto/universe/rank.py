"""The universe: the perpetuals with the largest absolute funding rate, ranked, written and remembered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from qlib_crypto.errors import DataError
from qlib_crypto.feeds import RestClient
from qlib_crypto.lake import Lake
from qlib_crypto.lake.universe_file import universe_path, write_universe
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import MEMBERSHIP, Estimate, Ticker
from qlib_crypto.settings import UniverseSettings
from qlib_crypto.symbols import Instrument, Venue

_EIGHT_HOURS = 8.0


class Ranked(NamedTuple):
    """One perpetual's place: `rank` from 1; `member` when it is within the size.

    `funding_rate` is the running rate as quoted, per interval; `interval_hours` and `turnover_quote` (24 h) are None
    where the venue does not say.
    """

    instrument: Instrument
    rank: int
    member: bool
    funding_rate: float
    interval_hours: float | None
    turnover_quote: float | None

    @property
    def symbol(self) -> str:
        """`BTC_USDT`."""
        return self.instrument.symbol

    @property
    def rate_per_8h(self) -> float:
        """The rate normalised to eight hours; an unknown interval counts as 8 h, the default of both venues."""
        return _per_8h(self.funding_rate, self.interval_hours)


def is_eligible(spec: InstrumentSpec) -> bool:
    """True for a live crypto contract under the venue's normal rules."""
    return (spec.state, spec.category, spec.rule_type) == ("live", "crypto", "normal")


def rank(
    estimates: Iterable[Estimate],
    specs: Iterable[InstrumentSpec],
    tickers: Iterable[Ticker],
    *,
    size: int,
    per_8h: bool = False,
) -> list[Ranked]:
    """Every eligible perpetual by absolute current funding rate, the largest first; the first `size` are members.

    Eligible is what is live, crypto, neither pre-market nor otherwise special (`rule_type` normal), and has a rate.
    Equal rates go by turnover, the larger first, then by symbol. With `per_8h` each rate is normalised to eight hours
    by its interval before comparing; an unknown interval counts as 8 h, the default of both venues.
    """
    quoted = {estimate.instrument: estimate for estimate in estimates}
    turnover = {ticker.instrument: ticker.turnover_quote for ticker in tickers}
    eligible = [spec.instrument for spec in specs if is_eligible(spec) and spec.instrument in quoted]

    def size_of(instrument: Instrument) -> float:
        rate, hours = quoted[instrument].rate, quoted[instrument].interval_hours
        return abs(_per_8h(rate, hours) if per_8h else rate)

    ordered = sorted(eligible, key=lambda i: (-size_of(i), -turnover.get(i, 0.0), i.symbol))
    return [
        Ranked(
            instrument, place, place <= size, quoted[instrument].rate, quoted[instrument].interval_hours,
            turnover.get(instrument),
        )
        for place, instrument in enumerate(ordered, start=1)
    ]  # fmt: skip


def update_universe(lake: Lake, client: RestClient, settings: UniverseSettings, out_dir: Path) -> list[Ranked]:
    """The ranking of now: the members' file replaced in `out_dir`, the whole ranking and the specs in the lake.

    The record in the lake comes first: a list that collectors follow always has its reasons on disk.

    Raises
    ------
    DataError
        Nothing was eligible; the old list stays.
    VenueError, StorageError
        The old list stays.

    """
    at_ms = client.server_time_ms()
    specs = client.specs()
    ranked = rank(client.estimates(), specs, client.tickers(), size=settings.size, per_8h=settings.per_8h)
    if not ranked:
        raise DataError(
            f"{client.venue} quotes no funding rate of a live crypto perpetual; the universe stays as it is, rank later"
        )
    lake.store_specs(client.venue, specs)
    lake.store_membership(client.venue, _table(ranked, at_ms), at_ms)
    write_universe(universe_path(out_dir, client.venue), [row.instrument for row in ranked if row.member])
    return ranked


def membership_spans(lake: Lake, venue: Venue) -> dict[str, list[tuple[int, int | None]]]:
    """When each symbol was a member: ascending disjoint `[start_ms, end_ms)`; end None is still a member.

    A ranking holds from its time until the next one; symbols that never were members are left out.
    """
    table = lake.memberships(venue)
    times = table.column("timestamp").cast(pa.int64()).to_pylist()
    members: dict[int, set[str]] = {at: set() for at in times}
    for at, symbol, member in zip(times, table.column("symbol").to_pylist(), table.column("member").to_pylist(),
                                  strict=True):  # fmt: skip
        if member:
            members[at].add(symbol)
    open_since: dict[str, int] = {}
    spans: dict[str, list[tuple[int, int | None]]] = {}
    for at, now in sorted(members.items()):
        for symbol in set(open_since) - now:
            spans.setdefault(symbol, []).append((open_since.pop(symbol), at))
        for symbol in now:
            open_since.setdefault(symbol, at)
    for symbol, since in open_since.items():
        spans.setdefault(symbol, []).append((since, None))
    return {symbol: spans[symbol] for symbol in sorted(spans)}


def _per_8h(rate: float, interval_hours: float | None) -> float:
    return rate * _EIGHT_HOURS / (interval_hours or _EIGHT_HOURS)


def _table(ranked: Sequence[Ranked], at_ms: int) -> pa.Table:
    columns: dict[str, list[object]] = {
        name: [getattr(row, name) for row in ranked] for name in MEMBERSHIP.names if name != "timestamp"
    }
    columns["timestamp"] = [at_ms] * len(ranked)
    return pa.table({f.name: pa.array(columns[f.name], type=f.type) for f in MEMBERSHIP}, schema=MEMBERSHIP)
