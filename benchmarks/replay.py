"""Real market data through the sandbox and the collector into the lake, compared with the tape row by row.

Three parts, each timed and each with its equality check: the websocket replay of all OKX 1m symbols, that of all
Binance 1m symbols (both with the funding of their span), and the REST back-fill of all OKX 1h symbols by a process that
is killed half-way and started again. The sandbox runs in a process of its own; its limits and the client's are raised
together. Prints one JSON object.

    python benchmarks/replay.py --data ../shared/data/real [--part okx_1m] [--days 2] [--symbols 3]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _measures import several
from _truth import equal_bars, minutes, tape_rows

from qlib_crypto.clock import DAY_MS, VenueClock, iso
from qlib_crypto.collect import backfill, collect
from qlib_crypto.feeds import rest_client
from qlib_crypto.lake import Lake
from qlib_crypto.market.funding import settlement_intervals
from qlib_crypto.sandbox.serve import SandboxHandle, running
from qlib_crypto.sandbox.tape import Tape
from qlib_crypto.sandbox.tape_files import FileTape
from qlib_crypto.settings import BinanceSettings, OkxSettings, VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

M1, H1 = Interval.parse("1m"), Interval.parse("1h")
#: Multiplies the limits of both sides; high enough never to be met.
UNLIMITED = 10_000.0
STREAMS_EACH = 2  # candles and funding


def client_settings(venue: Venue, url: str, scale: float = UNLIMITED) -> VenueSettings:
    """Settings for a client of the sandbox: what a tape of files has, candles and funding."""
    kind = OkxSettings if venue is Venue.OKX else BinanceSettings
    return kind(rate_scale=scale, datasets=()).at(url)


def equal_funding(lake: Lake, tape: Tape, of: Sequence[Instrument], span: tuple[int, int]) -> tuple[int, bool]:
    """How many settlements the tape has in the span, and whether the lake has exactly those, rates and intervals.

    From each listing on: before it a venue knows no such symbol, whatever else the folder holds.
    """
    count, equal = 0, True
    for instrument in of:
        series = tape.settlements(instrument)
        start = max(span[0], tape.specs[instrument].listed_ms or 0)
        keep = (series.time_ms >= start) & (series.time_ms < span[1])
        count += int(keep.sum())
        table = lake.settlements(tape.venue, instrument, start, span[1])
        times = table.column("timestamp").cast(pa.int64()).to_numpy()
        equal &= np.array_equal(times, series.time_ms[keep])
        equal &= np.array_equal(table.column("funding_rate").to_numpy(), series.rate[keep])
        equal = bool(
            equal
            and np.array_equal(settlement_intervals(times), settlement_intervals(series.time_ms[keep]), equal_nan=True)
        )
    return count, equal


def replay(tape: Tape, of: Sequence[Instrument], span: tuple[int, int], root: Path, **options: Any) -> dict[str, Any]:
    """A websocket replay of the span at maximum speed into a fresh lake, and how it compares."""
    listed = [i for i in of if (tape.specs[i].listed_ms or 0) <= span[0]]  # who is not is followed from then on
    with running(
        [tape], process=True, speed="max", at=span[0], until=span[1], hold_streams=STREAMS_EACH * len(listed),
        rate_scale=UNLIMITED, **options,
    ) as sandbox:  # fmt: skip
        settings = client_settings(tape.venue, sandbox.url)
        client, lake = rest_client(tape.venue, settings), Lake(root)
        began, cpu = time.monotonic(), time.process_time()
        try:
            summary = collect(
                lake, client, settings, of, M1,
                clock=VenueClock(client.server_time_ms, refresh_s=0.5), since_ms=span[0], until_ms=span[1], say=_tell,
            )  # fmt: skip
        finally:
            client.close()
        wall, cpu = time.monotonic() - began, time.process_time() - cpu
        _check(sandbox)
    rows = sum(len(tape_rows(tape, instrument, M1, span)["timestamp"]) for instrument in of)
    settlements, same_funding = equal_funding(lake, tape, of, span)
    out = {
        "rows": rows, "equal": equal_bars(lake, tape, of, M1, span), "settlements": settlements,
        "funding_equal": same_funding, "wall": wall, "cpu": cpu, "streamed": summary.stream_bars,
    }  # fmt: skip
    lake.close()
    return out


def killed_backfill(tape: Tape, of: Sequence[Instrument], interval: Interval, root: Path) -> dict[str, Any]:
    """A REST back-fill of everything by a process that is killed half-way and started again, and how it compares."""
    span = minutes(tape, of, interval)
    rows = sum(len(tape.bars(instrument, interval).open_ms) for instrument in of)
    with running([tape], process=True, speed=0, at=span[1], rate_scale=UNLIMITED) as sandbox:
        arguments = [tape.venue, sandbox.url, str(root), interval.name, *map(str, span), *(i.symbol for i in of)]
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", *arguments]
        began = time.monotonic()
        first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("rows ") and int(line.split()[1]) >= rows // 2:
                break
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        first.stdout.close()
        lake = Lake(root)
        kept = sum(len(lake.bars(instrument, interval)) for instrument in of)
        second = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        wall = time.monotonic() - began
        asked = int(next(line.split()[1] for line in second.stdout.splitlines() if line.startswith("asked ")))
        _check(sandbox)
    equal = equal_bars(lake, tape, of, interval, span)
    lake.close()
    return {"rows": rows, "equal": equal, "kept": kept, "asked_again": asked, "wall": wall, "killed": first.returncode}


def _worker(venue: str, url: str, root: str, interval: str, start: str, end: str, *symbols: str) -> None:
    """The process that is killed: a plain back-fill that says after each page how many rows it has."""
    at = Venue.parse(venue)
    of = [Instrument.parse(symbol, at) for symbol in symbols]
    client = rest_client(at, client_settings(at, url))
    summary = backfill(
        Lake(Path(root)), client, of, Interval.parse(interval), int(start), int(end),
        progress=lambda _what, done, _total: print(f"rows {done}", flush=True),
    )  # fmt: skip
    print(f"asked {summary.rows}", flush=True)


def _check(sandbox: SandboxHandle) -> None:
    status = sandbox.status()
    if status["failed"] or status["refused"]:
        raise RuntimeError(f"the sandbox failed ({status['failed']}) or refused {status['refused']} requests")


def _tell(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def _minutes(data: Path, venue: Venue, arguments: argparse.Namespace) -> tuple[Tape, list[Instrument], tuple[int, int]]:
    tape = FileTape(data, venue)
    of = [i for i in sorted(tape.specs) if M1 in tape.intervals(i)][: arguments.symbols]
    start, end = minutes(tape, of, M1)
    return tape, of, (start, end if arguments.days is None else min(end, start + int(arguments.days * DAY_MS)))


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="replay-") as name:
        yield Path(name)


def _websocket(venue: Venue, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    name, results = f"{venue}_1m", []
    for _ in range(arguments.runs):
        tape, of, span = _minutes(arguments.data, venue, arguments)
        _tell(f"{name}: {len(of)} symbols, {iso(span[0])} to {iso(span[1])}")
        with _folder() as root:
            results.append(replay(tape, of, span, root))
    equal = all(r["equal"] for r in results)
    same_funding = all(r["funding_equal"] for r in results)
    return {
        f"{name}_rows": several([r["rows"] for r in results], "rows", equal=equal),
        f"{name}_streamed": several([r["streamed"] for r in results], "rows", equal=equal),
        f"{name}_settlements": several([r["settlements"] for r in results], "rows", equal=same_funding),
        f"{name}_wall": several([r["wall"] for r in results], "s", equal=equal),
        f"{name}_cpu": several([r["cpu"] for r in results], "s", equal=equal),
        f"{name}_rate": several([r["rows"] / r["wall"] for r in results], "rows/s", equal=equal),
    }


def _rest(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    results = []
    for _ in range(arguments.runs):
        tape = FileTape(arguments.data, Venue.OKX)
        of = [i for i in sorted(tape.specs) if H1 in tape.intervals(i)][: arguments.symbols]
        _tell(f"okx_1h: {len(of)} symbols by REST, killed half-way")
        with _folder() as root:
            results.append(killed_backfill(tape, of, H1, root))
    equal = all(r["equal"] for r in results)
    return {
        "okx_1h_rows": several([r["rows"] for r in results], "rows", equal=equal),
        "okx_1h_kept_after_kill": several([r["kept"] for r in results], "rows", equal=equal),
        "okx_1h_asked_again": several([r["asked_again"] for r in results], "rows", equal=equal),
        "okx_1h_wall": several([r["wall"] for r in results], "s", equal=equal),
        "okx_1h_rate": several([r["rows"] / r["wall"] for r in results], "rows/s", equal=equal),
    }


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, dict[str, Any]]]] = {
    "okx_1m": lambda arguments: _websocket(Venue.OKX, arguments),
    "binance_1m": lambda arguments: _websocket(Venue.BINANCE, arguments),
    "okx_1h": _rest,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; the exit status is 0 when everything was equal, else 3."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["--worker"]:
        _worker(*given[1:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with candles/ and funding/")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--days", type=float, help="only the first days of the 1m span")
    parser.add_argument("--symbols", type=int, help="only the first symbols")
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args(given)
    measures: dict[str, dict[str, Any]] = {}
    for part in arguments.part or PARTS:
        measures |= PARTS[part](arguments)
    print(json.dumps({"bench": "replay", "runs": arguments.runs, "measures": measures}))
    return 0 if all(measure["equal"] for measure in measures.values()) else 3


if __name__ == "__main__":
    sys.exit(main())
