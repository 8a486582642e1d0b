"""How health and doctor look on a terminal: marks that read without colour, the worst first, nothing repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from qlib_crypto.clock import iso, utc
from qlib_crypto.daemon.job import State
from qlib_crypto.errors import counted
from qlib_crypto.lake.coverage import NOT_COLLECTED, NOT_LISTED, DayCoverage
from qlib_crypto.symbols import Instrument, Venue
from qlib_crypto.watch.findings import Finding, Level, ago, worst
from qlib_crypto.watch.health import Covered, Health
from qlib_crypto.watch.live import Answer, Outcome
from qlib_crypto.watch.observe import latest

_MARK = {Level.OK: "ok  ", Level.WARN: "warn", Level.FAIL: "FAIL"}
_STYLE = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
_OUTCOME = {Outcome.PASS: "green", Outcome.DIFFERS: "bold red", Outcome.UNKNOWN: "yellow"}
#: A letter for each cause, so that a cell reads without colour.
_LETTER = {NOT_COLLECTED: "!", "venue_down": "d", "no_trade": "t", "delisted": "x"}
_NAME, _CELL, _GAP = 16, 5, 1
#: Room for what is missing, in letters and in words.
_BRIEF, _WORDS = 18, 34
_KEY = 22
_MOST_ROWS = 25


def show(health: Health, *, every: bool = False) -> None:
    """The whole page."""
    console = Console(highlight=False)
    _head(console, health)
    for finding in sorted(health.findings, key=lambda f: -f.level.rank):
        _finding(console, finding)
    for venue, covered in health.covered.items():
        if covered and covered[0].days:
            console.print()
            _coverage(console, venue, covered, health.spans[venue], every=every)
    if health.view.jobs:
        console.print()
        _jobs(console, health)


def show_finding(finding: Finding) -> None:
    """One line of doctor, as soon as it is known."""
    _finding(Console(highlight=False), finding)


def show_total(findings: Sequence[Finding]) -> None:
    """Doctor's last line."""
    bad = [counted(n, word, word) for level, word in ((Level.FAIL, "to mend"), (Level.WARN, "to look at"))
           if (n := sum(f.level is level for f in findings))]  # fmt: skip
    Console(highlight=False).print(Text(", ".join(bad) or "all is well", style=_STYLE[worst(findings)]))


def show_answers(answers: Sequence[Answer], recording: Path) -> None:
    """The answers of a venue, and where what was heard is."""
    console = Console(highlight=False)
    for answer in answers:
        head = Text.assemble((f"{answer.question:3}", "bold"), (f"{answer.outcome:8}", _OUTCOME[answer.outcome]))
        _hanging(console, head, Text(answer.asks), 11)
        _hanging(console, Text(" " * 11), Text(f"assumed: {answer.assumed}", style="dim"), 11)
        _hanging(console, Text(" " * 11), Text(f"seen: {answer.seen}"), 11)
    console.print(f"recorded in {recording}", soft_wrap=True)


def _head(console: Console, health: Health) -> None:
    bad = sum(f.level is not Level.OK for f in health.findings)
    word = "all is well" if not bad else f"{counted(bad, 'finding')} to look at"
    title = Text.assemble((word, _STYLE[health.level]), f"   {iso(health.view.wall_ms)[:16]} UTC")
    for folder, (free, total) in health.view.disks.items():
        title.append(f"   {folder} {free / 1e9:,.0f} of {total / 1e9:,.0f} GB free")
    console.print(title)


def _finding(console: Console, finding: Finding) -> None:
    head = Text.assemble((_MARK[finding.level], _STYLE[finding.level]), f" {finding.key:{_KEY}} ")
    body = Text(finding.seen)
    _hanging(console, head, body, len(head))
    if finding.do:
        _hanging(console, Text(" " * len(head)), Text(f"→ {finding.do}", style="cyan"), len(head))


def _hanging(console: Console, head: Text, body: Text, indent: int) -> None:
    """The body after the head, wrapped lines under its first word; whole lines where nobody looks."""
    if not console.is_terminal:
        console.print(Text.assemble(head, body), soft_wrap=True)
        return
    lines = body.wrap(console, max(20, console.width - indent))
    for at, line in enumerate(lines):
        console.print(Text.assemble(head if at == 0 else " " * indent, line))


def _coverage(
    console: Console, venue: Venue, covered: Sequence[Covered], span: tuple[int, int], *, every: bool
) -> None:
    candles = covered[0]
    table = _by_dataset(covered)
    days = {day.day_ms for day in candles.days}
    title = f"{venue}: {iso(min(days))[:10]} to {iso(span[1])[:16]} UTC"
    if min(days) > span[0]:
        title += ", nothing was collected before"
    console.print(Rule(Text(title, style="bold"), align="left"))
    console.print(table)
    console.print()
    room = (console.width - _NAME - _BRIEF) // (_CELL + _GAP)
    shown = sorted(days)[-max(1, room) :]
    rows = {i: {d.day_ms: d for d in of} for i, of in groupby(candles.days, key=lambda d: d.instrument)}
    lacking = sorted((i for i in rows if _lacks(rows[i].values())), key=lambda i: _order(rows[i].values()))
    whole = [i for i in rows if i not in set(lacking)]
    named = [*lacking, *whole] if every else lacking[:_MOST_ROWS]
    if named:
        left = console.width - _NAME - len(shown) * (_CELL + _GAP)
        console.print(_by_day(rows, named, shown, candles.dataset, words=left >= _WORDS))
    notes = []
    if len(lacking) > len(named):
        notes.append(f"{len(lacking) - len(named)} more are incomplete: --all lists them")
    if whole and not every:
        notes.append(
            f"{counted(len(whole), 'instrument')} complete on every day" + (": --all lists them" if lacking else "")
        )
    if len(shown) < len(days):
        notes.append(f"{len(days) - len(shown)} earlier days do not fit: a wider terminal, or --json")
    for note in notes:
        console.print(Text(note, style="dim"))
    if named:
        console.print(Text("per cent of what the contract could have; ! not collected   d venue down   "
                           "t no trade   x gone with the contract   - not listed", style="dim"))  # fmt: skip


def _by_dataset(covered: Sequence[Covered]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("dataset", no_wrap=True, min_width=len("long_short_ratio"))
    for name in ("rows", "complete", "not collected", "venue down", "no trade", "delisted", "not listed"):
        table.add_column(name, justify="right")
    for one in covered:
        missing = one.missing
        lost = missing[NOT_COLLECTED]
        share = Text(
            _percent(one.expected - lost, one.expected) if one.expected else "-", style="red" if lost else "green"
        )
        counts = [Text(f"{missing[c]:,}" if missing[c] else "·", style="dim" if not missing[c] else "")
                  for c in ("venue_down", "no_trade", "delisted", NOT_LISTED)]  # fmt: skip
        told = Text(f"{lost:,}" if lost else "·", style="bold red" if lost else "dim")
        table.add_row(one.dataset, f"{one.have:,}", share, told, *counts)
    return table


def _by_day(
    rows: Mapping[Instrument, Mapping[int, DayCoverage]],
    named: Sequence[Instrument],
    days: Sequence[int],
    dataset: str,
    *,
    words: bool,
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, _GAP, 0, 0))
    table.add_column(dataset, min_width=_NAME - 1, no_wrap=True)
    for day in days:
        table.add_column(f"{utc(day):%m-%d}", justify="right", width=_CELL, no_wrap=True)
    table.add_column("missing", no_wrap=True, overflow="ellipsis")
    for instrument in named:
        found = rows[instrument]
        cells = [_cell(found[day]) if day in found else Text("") for day in days]
        table.add_row(instrument.symbol, *cells, _reasons(found.values(), words=words))
    return table


def _cell(day: DayCoverage) -> Text:
    absent = day.missing.get(NOT_LISTED, 0)
    expected = day.expected - absent
    if not expected:
        return Text("- " if absent else "", style="dim")
    causes = [cause for cause in _LETTER if cause in day.missing]
    if not causes:
        return Text("100-" if absent else "100 ", style="dim green")
    style = "bold red" if NOT_COLLECTED in causes else "yellow"
    return Text(f"{_percent(day.have, expected).removesuffix('%')}{_LETTER[causes[0]]}", style=style)


def _reasons(days: Iterable[DayCoverage], *, words: bool) -> Text:
    total = Counter[str]()
    for day in days:
        total.update(day.missing)
    parts = []
    for cause, letter in _LETTER.items():
        if number := total[cause]:
            told = f"{number:,} {cause.replace('_', ' ')}" if words else f"{number:,}{letter}"
            parts.append((told, "red" if cause == NOT_COLLECTED else ""))
    return Text(", " if words else " ").join(Text(*part) for part in parts)


def _lacks(days: Iterable[DayCoverage]) -> bool:
    return any(set(day.missing) - {NOT_LISTED} for day in days)


def _order(days: Iterable[DayCoverage]) -> tuple[int, int]:
    """Most rows not collected first, then most rows missing."""
    known = list(days)
    lost = sum(day.missing.get(NOT_COLLECTED, 0) for day in known)
    return -lost, -sum(sum(n for c, n in day.missing.items() if c != NOT_LISTED) for day in known)


def _percent(have: int, of: int) -> str:
    """`100%` only when it is all; cut, never rounded up."""
    return "100%" if have >= of else f"{int(have * 1000 / of) / 10:.1f}%"


def _jobs(console: Console, health: Health) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("job", "of", "state", "ended", "took"):
        table.add_column(name, justify="right" if name in {"ended", "took"} else "left")
    for (kind, subject), job in sorted(latest(health.view.jobs).items()):
        good = job.state is State.COMPLETED
        ended = ago((health.view.wall_ms - (job.ended_ms or 0)) / 1000)
        took = "" if not job.started_ms or not job.ended_ms else f"{(job.ended_ms - job.started_ms) / 1000:.1f} s"
        table.add_row(kind, subject, Text(str(job.state), style="green" if good else "bold red"), f"{ended} ago", took)
    waiting = sum(job.state is State.PENDING for job in health.view.jobs)
    running = sum(job.state is State.RUNNING for job in health.view.jobs)
    console.print(Rule(Text(f"jobs: {running} running, {waiting} waiting", style="bold"), align="left"))
    console.print(Padding(table, 0))
