"""The universe: the perpetuals with the largest absolute funding rate, ranked and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from qlib_crypto.clock import SECOND_MS
from qlib_crypto.errors import DataError, counted
from qlib_crypto.feeds import RestClient
from qlib_crypto.lake import Lake
from qlib_crypto.lake.files import read_table
from qlib_crypto.lake.listings import numbered, renamed, tickers_of
from qlib_crypto.lake.paths import UNIVERSE, dated_files
from qlib_crypto.lake.universe_file import universe_path, write_universe
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import MEMBERSHIP, Estimate, Ticker
from qlib_crypto.settings import UniverseSettings
from qlib_crypto.symbols import Instrument, Venue

_EIGHT_HOURS = 8.0
#: A ranking needs the rates of this part of the contracts that are, or were then, listed. One of the others would be of
#: whom an answer cut short happens to name, or of those that somebody chose to follow later.
ENOUGH = 0.95


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
    listed = {spec.instrument for spec in specs if is_eligible(spec)}
    quoted = {e.instrument: (e.rate, e.interval_hours) for e in estimates if e.instrument in listed}
    turnover = {ticker.instrument: ticker.turnover_quote for ticker in tickers}
    return ordered(quoted, turnover, size=size, per_8h=per_8h)


def ordered(
    rates: Mapping[Instrument, tuple[float, float | None]],
    turnover: Mapping[Instrument, float],
    *,
    size: int,
    per_8h: bool = False,
) -> list[Ranked]:
    """The rule of `rank` alone, for instruments that are eligible: `rates` are (rate, interval in hours)."""

    def key(instrument: Instrument) -> tuple[float, float, str]:
        rate, hours = rates[instrument]
        return -abs(_per_8h(rate, hours) if per_8h else rate), -turnover.get(instrument, 0.0), instrument.symbol

    return [
        Ranked(instrument, place, place <= size, *rates[instrument], turnover.get(instrument))
        for place, instrument in enumerate(sorted(rates, key=key), start=1)
    ]


def update_universe(
    lake: Lake, client: RestClient, settings: UniverseSettings, out_dir: Path, *, at_ms: int | None = None
) -> list[Ranked]:
    """The ranking of now: the members' file replaced in `out_dir`, the whole ranking and the specs in the lake.

    The record in the lake comes first: a list that collectors follow always has its reasons on disk. It is stamped
    with the venue's time at which it was made, never with an earlier one.

    Parameters
    ----------
    lake, client, settings, out_dir
        Where from, by which rule, and where to.
    at_ms
        The time that this ranking was due. One recorded since then is that ranking: it is not made again, its list is
        written and it is the answer. Doing a job twice, or late for several times at once, so gives one ranking.

    Raises
    ------
    DataError
        Nothing was eligible, or rates or turnovers of too many that are have not been answered; the old list stays.
    VenueError, StorageError
        The old list stays.

    """
    done = None if at_ms is None else _recorded(lake, client.venue, at_ms)
    ranked = _rank_now(lake, client, settings) if done is None else done
    write_universe(universe_path(out_dir, client.venue), [row.instrument for row in ranked if row.member])
    return ranked


def membership_table(ranked: Sequence[Ranked], at_ms: int) -> pa.Table:
    """One ranking as the lake keeps it: schema MEMBERSHIP."""
    columns: dict[str, list[object]] = {
        name: [getattr(row, name) for row in ranked] for name in MEMBERSHIP.names if name != "timestamp"
    }
    columns["timestamp"] = [at_ms] * len(ranked)
    return pa.table({f.name: pa.array(columns[f.name], type=f.type) for f in MEMBERSHIP}, schema=MEMBERSHIP)


def _rank_now(lake: Lake, client: RestClient, settings: UniverseSettings) -> list[Ranked]:
    at_ms = client.server_time_ms()
    specs = numbered(client.specs(), lake.specs(client.venue))
    names = tickers_of(specs)
    estimates, tickers = renamed(client.estimates(), names), renamed(client.tickers(), names)
    ranked = rank(estimates, specs, tickers, size=settings.size, per_8h=settings.per_8h)
    eligible = {spec.instrument for spec in specs if is_eligible(spec)}
    for what, rows in ("funding rate", estimates), ("24 h turnover", tickers):
        known, live = len(eligible & {row.instrument for row in rows}), len(eligible)
        # the newest listing may still have none, however few there are
        if not known or known < min(ENOUGH * live, live - 1):
            raise DataError(
                f"{client.venue} gives the {what} of only {known} of {counted(live, 'live crypto perpetual')}; the "
                "universe stays as it is, rank later"
            )
    lake.store_specs(client.venue, specs)
    lake.store_membership(client.venue, membership_table(ranked, at_ms), at_ms)
    return ranked


def _recorded(lake: Lake, venue: Venue, since_ms: int) -> list[Ranked] | None:
    """The newest ranking, when it was made at `since_ms` or later; file names tell whole seconds."""
    newest = dated_files(lake.folder(venue), UNIVERSE)[-1:]
    if not newest or newest[0].start_ms < since_ms - since_ms % SECOND_MS:
        return None
    return [
        Ranked(Instrument.parse(row.pop("symbol"), venue), **{k: v for k, v in row.items() if k != "timestamp"})
        for row in read_table(newest[0].path, MEMBERSHIP).to_pylist()
    ]


def _per_8h(rate: float, interval_hours: float | None) -> float:
    return rate * _EIGHT_HOURS / (interval_hours or _EIGHT_HOURS)
