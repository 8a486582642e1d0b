"""What a long command shows on stderr: a bar or a moving line on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qlib_crypto.errors import counted

console = Console(stderr=True, highlight=False)

#: Wall seconds between two lines where there is no terminal.
_LINE_S = 5.0


def say(line: str) -> None:
    """One line, as it is; with `LOG_FORMAT=json` and no terminal a line of the log."""
    tell(line, line, level="info")


def tell(line: str, event: str, *, level: str) -> None:
    """A line on stderr for people, or `event` as a line of the log where the log is JSON."""
    if os.environ.get("LOG_FORMAT", "").strip().lower() != "json" or console.is_terminal:
        console.print(line, markup=False, soft_wrap=True)
        return
    time = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    print(json.dumps({"event": event, "level": level, "time": time}), file=sys.stderr, flush=True)  # noqa: T201 - the log


@contextmanager
def row_progress() -> Iterator[Callable[[str], Callable[[str, int, int], None]]]:
    """A maker of `(what, done, total)` callbacks, one a label."""
    if not console.is_terminal:
        yield lambda label: _now_and_then(
            lambda what, done, total: f"{label}: {what}, {done:,} of {counted(total, 'row')}"
        )
        return
    columns = (TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:

        def bar(label: str) -> Callable[[str, int, int], None]:
            task = bars.add_task(label, total=None)
            return lambda what, done, total: bars.update(task, description=what, completed=done, total=total)

        yield bar


@contextmanager
def line_progress(label: str) -> Iterator[Callable[[str], None]]:
    """A callback for lines of which only the newest matters."""
    if not console.is_terminal:
        yield _now_and_then(str)
        return
    with console.status(label) as status:
        yield status.update


def _now_and_then[**P](words: Callable[P, str]) -> Callable[P, None]:
    last = time.monotonic()

    def show(*args: P.args, **kwargs: P.kwargs) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_S:
            last = time.monotonic()
            say(words(*args, **kwargs))

    return show
