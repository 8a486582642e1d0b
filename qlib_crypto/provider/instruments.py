"""The markets: which instrument exists when, as Qlib's `instruments/*.txt`.

`all okx binance top50` and lists of the user's own, with spans over all frequencies, and `<market>_<freq>` with the
spans that have bars at that frequency. Ends are full timestamps, so one directory serves every frequency.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from qlib_crypto.clock import DAY_MS, SECOND_MS, iso, parse_utc
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Instrument, Interval, Venue

#: [start, end) in Unix milliseconds; an end of None has not come yet.
Span = tuple[int, int | None]
#: Who was in which market when, by the market's name.
Memberships = Mapping[str, Mapping[Instrument, Sequence[Span]]]
#: Opens of an instrument's first and last bar, by frequency.
Extents = Mapping[Instrument, Mapping[Interval, tuple[int, int]]]

#: The market of the universe's members, of all venues.
MEMBERS = "top50"


def market_lines(extents: Extents, memberships: Memberships) -> dict[str, list[str]]:
    """The lines of each market file by its stem: name, first and last instant, both inclusive; no market is empty."""
    out: dict[str, list[str]] = {}
    for instrument in sorted(extents):
        bars = extents[instrument]
        whole = min(first for first, _ in bars.values()), max(last for _, last in bars.values())
        for suffix, extent in (("", whole), *((f"_{i.qlib}", bars[i]) for i in sorted(bars))):
            line = _line(instrument, *extent)
            for market in ("all", str(instrument.venue)):
                out.setdefault(market + suffix, []).append(line)
            for market, members in memberships.items():
                for start, end in _clipped(members.get(instrument, ()), *extent):
                    out.setdefault(market + suffix, []).append(_line(instrument, start, end))
    return out


def market_texts(extents: Extents, memberships: Memberships) -> dict[str, bytes]:
    """The content of each `<market>.txt` that has a member, by name."""
    lines = market_lines(extents, memberships)
    return {f"{name}.txt": "".join(f"{line}\n" for line in of).encode() for name, of in lines.items()}


def read_market(name: str, path: Path) -> dict[Instrument, list[Span]]:
    """A list of the user's own, as Qlib's are: instrument, first and last time a line, by tabs or commas.

    Both times are inside, UTC; a date means the whole day, and one that is left out no limit.

    Raises
    ------
    ConfigError
        No market may have that name, the file is not there, or a line cannot be read.

    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)*", name) or name in {"all", MEMBERS, *Venue}:
        raise ConfigError(f"markets: {name!r} is taken or no name; write a word of small letters and digits")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"markets: {name}: {path} cannot be read: {error}") from None
    found: dict[Instrument, list[Span]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        said = [part.strip() for part in re.split(r"[\t,]", line)]
        try:
            instrument = Instrument.parse(said[0])
            start, last = (said[at] if len(said) > at else "" for at in (1, 2))
            end = parse_utc(last) + (DAY_MS if len(last) == len("YYYY-MM-DD") else SECOND_MS) if last else None
            span = parse_utc(start) if start else 0, end
        except ConfigError as error:
            raise ConfigError(f"{path}:{number}: {error}") from None
        if len(said) > 3 or (end is not None and end <= span[0]):  # noqa: PLR2004 - name, start, end
            raise ConfigError(f"{path}:{number}: {line!r}: write an instrument, its first and its last time")
        found.setdefault(instrument, []).append(span)
    return found


def _line(instrument: Instrument, start_ms: int, end_ms: int) -> str:
    return f"{instrument.qlib}\t{_said(start_ms)}\t{_said(end_ms)}"


_said = lru_cache(maxsize=1024)(iso)  # many begin and end together


def _clipped(spans: Sequence[Span], first: int, last: int) -> list[tuple[int, int]]:
    """The membership inside [first, last], with inclusive ends: a bar that opens at the end of a span is outside."""
    clipped = [(max(start, first), last if end is None else min(end - SECOND_MS, last)) for start, end in sorted(spans)]
    return [(start, end) for start, end in clipped if start <= end]
