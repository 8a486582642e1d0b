"""The markets: which instrument exists when, as Qlib's `instruments/*.txt`.

`all okx binance top50` with spans over all frequencies, and `<market>_<freq>` with the spans that have bars at that
frequency. Ends are full timestamps, so one directory serves every frequency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from qlib_crypto.clock import SECOND_MS, iso
from qlib_crypto.symbols import Instrument, Interval, Venue

#: [start, end) in Unix milliseconds; an end of None has not come yet.
Span = tuple[int, int | None]
#: Who was in the universe when: spans by symbol (`BTC_USDT`), by venue.
Memberships = Mapping[Venue, Mapping[str, Sequence[Span]]]
#: Opens of an instrument's first and last bar, by frequency.
Extents = Mapping[Instrument, Mapping[Interval, tuple[int, int]]]

#: The market of the universe's members, of all venues.
MEMBERS = "top50"


def market_lines(extents: Extents, memberships: Memberships) -> dict[str, list[str]]:
    """The lines of each market file by its stem: name, first and last instant, both inclusive; no market is empty."""
    members = {
        Instrument.parse(symbol, venue): spans
        for venue, symbols in memberships.items()
        for symbol, spans in symbols.items()
    }
    out: dict[str, list[str]] = {}
    for instrument in sorted(extents):
        bars = extents[instrument]
        whole = min(first for first, _ in bars.values()), max(last for _, last in bars.values())
        for suffix, extent in (("", whole), *((f"_{i.qlib}", bars[i]) for i in sorted(bars))):
            line = _line(instrument, *extent)
            for market in ("all", str(instrument.venue)):
                out.setdefault(market + suffix, []).append(line)
            for start, end in _clipped(members.get(instrument, ()), *extent):
                out.setdefault(MEMBERS + suffix, []).append(_line(instrument, start, end))
    return out


def market_texts(extents: Extents, memberships: Memberships) -> dict[str, bytes]:
    """The content of each `<market>.txt` that has a member, by name."""
    lines = market_lines(extents, memberships)
    return {f"{name}.txt": "".join(f"{line}\n" for line in of).encode() for name, of in lines.items()}


def _line(instrument: Instrument, start_ms: int, end_ms: int) -> str:
    return f"{instrument.qlib}\t{_said(start_ms)}\t{_said(end_ms)}"


_said = lru_cache(maxsize=1024)(iso)  # many begin and end together


def _clipped(spans: Sequence[Span], first: int, last: int) -> list[tuple[int, int]]:
    """The membership inside [first, last], with inclusive ends: a bar that opens at the end of a span is outside."""
    clipped = [(max(start, first), last if end is None else min(end - SECOND_MS, last)) for start, end in sorted(spans)]
    return [(start, end) for start, end in clipped if start <= end]
