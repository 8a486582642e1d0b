"""What a back-fill would cost, and from where each part of it is fetched: REST, or the venue's bulk files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from qlib_crypto.clock import DAY_MS, HOUR_MS, iso, month_start, next_month
from qlib_crypto.collect.spans import Span, minus
from qlib_crypto.errors import counted
from qlib_crypto.feeds import Archive, RestClient
from qlib_crypto.symbols import Instrument

Choice = Literal["auto", "rest", "archive"]
#: Wall seconds a bulk file takes: a month, or a day of one that is not over.
_FILE_S = 0.7
#: The archive is chosen for what REST has too when REST would take longer than this, and the archive half of it.
_PATIENCE_S = 120.0
#: Bytes a row in the lake's files, about: snappy, a day a file.
_ROW_BYTES = {"kline": 60, "mark": 40, "index": 40, "funding": 60, "open_interest": 40, "long_short_ratio": 30}


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """What a back-fill is about to ask.

    Attributes
    ----------
    dataset
        Which.
    instruments, rows
        Of how many it lacks how many rows; for funding those of an 8 h interval, since the real number is unknown.
    requests, files
        Pages of REST, and days of bulk files.
    minutes
        How long that takes at the venue's limits, about.
    megabytes
        What it will take on disk, about.
    source
        `rest`, `archive` or `rest and archive`; `nothing` when nothing is missing or nobody has it.
    unreachable
        Rows that are older than REST reaches, with no archive that has them.
    spans
        What to fetch from `rest` and from `archive`, by instrument.

    """

    dataset: str
    instruments: int
    rows: int
    requests: int
    files: int
    minutes: float
    megabytes: float
    source: str
    unreachable: int
    reached_ms: int
    spans: Mapping[str, Mapping[Instrument, list[Span]]]

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.dataset}: nothing to ask"
        asked = [counted(self.requests, "request")] if self.requests else []
        asked += [counted(self.files, "archive file")] if self.files else []
        took = f"{self.minutes:,.0f} min" if self.minutes >= 1 else "less than a minute"
        size = f"{self.megabytes:,.0f} MB" if self.megabytes >= 1 else "less than 1 MB"
        line = (
            f"{self.dataset}: {counted(self.rows, 'row')} of {counted(self.instruments, 'instrument')}, "
            f"{' and '.join(asked) or 'no request'}, {took}, {size} on disk, source {self.source}"
        )
        if self.unreachable:
            line += f"; {self.unreachable:,} of them older than {iso(self.reached_ms)}, where REST ends"
            line += "" if self.files else ", and no archive has them"
        return line


def plan(
    client: RestClient,
    archive: Archive | None,
    dataset: str,
    todo: Mapping[Instrument, list[Span]],
    step_ms: int,
    now_ms: int,
    choice: Choice = "auto",
) -> BackfillPlan:
    """The cheapest way to the missing spans: REST as far as it reaches, the archive beyond and where it is faster.

    With `choice` `rest` or `archive` the other is used for nothing.
    """
    reach = client.reach_ms(dataset)
    reached = 0 if reach is None else now_ms - reach + HOUR_MS
    published = 0
    if archive is not None and choice != "rest" and archive.serves(dataset):
        published = archive.published_until_ms(now_ms, dataset)
    rest: dict[Instrument, list[Span]] = {}
    filed: dict[Instrument, list[Span]] = {}
    for instrument, spans in todo.items():
        if choice != "archive":
            rest[instrument] = minus(spans, [(0, reached)])
        filed[instrument] = minus(minus(spans, rest.get(instrument, [])), [(published, 2**62)])
    per_page, per_s = client.page_rows(dataset), client.requests_per_s(dataset)
    if choice == "auto" and published:
        slow_s = _requests(rest.values(), step_ms, per_page) / per_s
        could = {i: minus(spans, [(published, 2**62)]) for i, spans in rest.items()}
        if slow_s > _PATIENCE_S and _files(could.values()) * _FILE_S < slow_s / 2:
            filed = {i: sorted([*filed[i], *could[i]]) for i in todo}
            rest = {i: minus(spans, could[i]) for i, spans in rest.items()}
    filed = {instrument: spans for instrument, spans in filed.items() if spans}
    rest = {instrument: spans for instrument, spans in rest.items() if spans}
    requests, files = _requests(rest.values(), step_ms, per_page), _files(filed.values())
    wanted = sum(rows_of(span, step_ms) for spans in todo.values() for span in spans)
    lost = {i: minus(spans, [*rest.get(i, []), *filed.get(i, [])]) for i, spans in todo.items()}
    unreachable = sum(rows_of(span, step_ms) for spans in lost.values() for span in spans)
    stored = max(0, wanted - unreachable)
    kind = next((size for name, size in _ROW_BYTES.items() if dataset.startswith(name)), 60)
    names = [name for name, part in (("rest", rest), ("archive", filed)) if part]
    return BackfillPlan(
        dataset=dataset, instruments=sum(bool(spans) for spans in todo.values()), rows=wanted, requests=requests,
        files=files, minutes=(requests / per_s + files * _FILE_S) / 60, megabytes=stored * kind / 1e6,
        source=" and ".join(names) or "nothing", unreachable=unreachable, reached_ms=reached,
        spans={"rest": rest, "archive": filed},
    )  # fmt: skip


def rows_of(span: Span, step_ms: int) -> int:
    """Rows of the grid in a span, at least one."""
    return max(1, (span[1] - span[0]) // step_ms)


def _requests(parts: Iterable[list[Span]], step_ms: int, page: int) -> int:
    return sum(-(-rows_of(span, step_ms) // page) for spans in parts for span in spans)


def _files(parts: Iterable[list[Span]]) -> int:
    """Whole months, and days beside them."""
    count = 0
    for start, end in (span for spans in parts for span in spans):
        first, last = next_month(start - 1), month_start(end)
        if first > last:
            count += -(-end // DAY_MS) - start // DAY_MS
            continue
        count += -(-(first - start) // DAY_MS) + -(-(end - last) // DAY_MS)
        while first < last:
            first, count = next_month(first), count + 1
    return count
