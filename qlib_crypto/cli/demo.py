"""The demo: every step of the main job as a real command against the local exchange, timed and shown.

The sandbox stands still while history is fetched by REST: at the end of it, and before that at each delisting, since
a venue forgets what it delisted. Then its clock runs as fast as the sockets take while the collector streams the last
days; then lake, provider, workflow and report.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from qlib_crypto.cli.segments import segments
from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, iso, parse_utc
from qlib_crypto.errors import ConfigError, QlibCryptoError, counted
from qlib_crypto.sandbox.serve import SandboxHandle
from qlib_crypto.sandbox.tape import Tape
from qlib_crypto.symbols import Interval, Venue

console = Console(highlight=False)

_HISTORY_DAYS = 120
_STREAM_DAYS = 2
_RATE_SCALE = "100"
_WORKFLOWS = {"1h": "lightgbm_60min", "5m": "lightgbm_5min", "1m": "lightgbm_5min", "1d": "lightgbm_day"}
_START_S = 60.0
#: Share of the planted IC that a model must find.
_PASS = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What the demo does, decided from the tape.

    `history` bars are fetched by REST over `[start_ms, stream_ms)`, of every perpetual listed at one of `stops`, where
    the venue's clock stands meanwhile; `stream` bars of `streamed` come by websocket until `end_ms`. `universe` says in
    words who is in it.
    """

    venue: Venue
    history: Interval
    stream: Interval
    start_ms: int
    stream_ms: int
    end_ms: int
    instruments: int
    stops: tuple[int, ...]
    universe: str
    streamed: tuple[str, ...]


def run_demo(*, tape: str, venue: Venue, interval: str, out: Path) -> None:
    """Run the main job and say where the report is."""
    begin = time.monotonic()
    history = Interval.parse(interval)
    if history.name not in _WORKFLOWS:
        raise ConfigError(f"interval {interval!r}: the demo has workflows for {' '.join(_WORKFLOWS)}")
    plan = plan_demo(tape, venue, history)
    if out.exists():
        _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    console.print(
        f"[bold]qlib-crypto demo[/]  {venue}, {tape or 'generated market'}, {counted(plan.instruments, 'perpetual')}"
    )
    console.print(f"  history {plan.history}: {iso(plan.start_ms)} → {iso(plan.stream_ms)} UTC by REST")
    console.print(f"  stream  {plan.stream}: {iso(plan.stream_ms)} → {iso(plan.end_ms)} UTC by websocket")
    console.print(f"  universe: {plan.universe}", soft_wrap=True)
    console.print(f"  --rate-scale {_RATE_SCALE}: rate limits raised {_RATE_SCALE} x, the venue is local", style="dim")
    with _sandbox(tape, plan, out) as url:
        _collect(plan, url, out)
    lake, provider = ["--lake", str(out)], ["--provider", str(out / "qlib_data")]
    _step("convert", "convert", *lake, *provider)
    _step("verify", "verify", *lake, *provider)
    variables = workflow_variables(plan, out)
    workflow = f"workflows/{_WORKFLOWS[history.name]}.yaml"
    options = [part for name, value in variables.items() for part in ("--var", f"{name}={value}")]
    _step("workflow", "run", workflow, *options, *lake, *provider)
    _show(Path("reports/demo/summary.json"), planted_ic(tape, plan, variables), time.monotonic() - begin)


def plan_demo(tape: str, venue: Venue, history: Interval) -> Plan:
    """The spans and intervals that this tape can give."""
    from qlib_crypto.cli.running import open_tape

    source = open_tape(tape, venue)
    by_interval: dict[Interval, dict[str, tuple[int, int]]] = {}
    for instrument in sorted(source.specs):
        for stored in source.intervals(instrument):
            opens = source.bars(instrument, stored).open_ms
            if len(opens):
                by_interval.setdefault(stored, {})[instrument.symbol] = (int(opens[0]), int(opens[-1]) + stored.ms)
    if not any(stored <= history for stored in by_interval):
        raise ConfigError(f"tape {tape} has no {history} bars of {venue}; choose another --interval or --venue")
    base = history if history in by_interval else min(by_interval)
    spans = by_interval[base].values()
    first, last = min(a for a, _ in spans), max(b for _, b in spans)
    finest = Interval.parse("1m")
    stream, end = history, last
    minutes = [b for _, b in by_interval.get(finest, {}).values() if first + _STREAM_DAYS * DAY_MS < b <= last + DAY_MS]
    if minutes:  # 1m bars lie inside the history: stream those, up to the last whole hour they reach
        stream, end = finest, max(minutes)
    end -= end % HOUR_MS
    start = max(first, end - (_STREAM_DAYS + _HISTORY_DAYS) * DAY_MS)
    start += -start % HOUR_MS
    begin = end - _STREAM_DAYS * DAY_MS
    streamed = tuple(s for s, (a, b) in by_interval.get(stream, by_interval[base]).items() if a < end and b > begin)
    return Plan(
        venue, history, stream, start, begin, end, len(by_interval[base]), _stops(source, start, begin),
        _universe(tape, source, start, end), streamed,
    )  # fmt: skip


def _stops(source: Tape, start_ms: int, stream_ms: int) -> tuple[int, ...]:
    """Where the venue's clock stands while it is ranked and back-filled: the start where it can be ranked there, a
    minute before each delisting, and the start of the stream.
    """
    known = any(source.funding_now(instrument, start_ms) for instrument in source.specs)
    gone = {at - MINUTE_MS for at, _ in _delistings(source, start_ms, stream_ms)}
    return (*((start_ms,) if known else ()), *sorted(gone), stream_ms)


def _delistings(source: Tape, start_ms: int, end_ms: int) -> list[tuple[int, str]]:
    delisted = ((spec.delisted_ms or 0, spec.instrument.symbol) for spec in source.specs.values())
    return sorted((at, symbol) for at, symbol in delisted if start_ms < at < end_ms)


def _universe(tape: str, source: Tape, start_ms: int, end_ms: int) -> str:
    if tape and tape != "generator":
        return "every perpetual of the tape; who recorded it chose them, so perhaps with hindsight"
    gone = ", ".join(f"{symbol} until {iso(at)}" for at, symbol in _delistings(source, start_ms, end_ms))
    return "every perpetual while it was listed, none chosen by its ranking" + (f" ({gone})" if gone else "")


def workflow_variables(plan: Plan, out: Path) -> dict[str, str]:
    """The workflow's variables."""
    return {
        "NAME": "demo",
        "MARKET": f"{plan.venue}_{_bar(plan)}",
        **segments(plan.start_ms, plan.end_ms, Interval.parse(_bar(plan))),
        "MISSING_FUNDING": "untradable",
        "PROVIDER_URI": str(out / "qlib_data"),
    }


def _bar(plan: Plan) -> str:
    return _WORKFLOWS[plan.history.name].removeprefix("lightgbm_")


def _collect(plan: Plan, url: str, out: Path) -> None:
    common = ["--venue", plan.venue, "--endpoint", url, "--rate-scale", _RATE_SCALE, "--lake", str(out)]
    history = ["--symbols", "all", "--interval", plan.history.name, "--start", iso(plan.start_ms)]
    for stop in plan.stops:
        _handle(url).set_clock(at=stop)
        at = iso(stop)
        _step(f"rank at {at}", "rank", *common)
        if stop > plan.start_ms:
            _step(f"history until {at}", "backfill", *common, *history, "--end", at)
    with _timed("stream"):
        options = ["--interval", plan.stream.name, "--clock", "venue", "--until", iso(plan.end_ms)]
        collector = _start("collect", *common, *options, "--symbols", ",".join(plan.streamed))
        try:
            _wait_for_streams(url, collector)
            _handle(url).set_clock(speed="max", until=plan.end_ms)
            code = collector.wait()
        finally:
            _end(collector)
        if code:
            raise QlibCryptoError(f"demo: the collector ended with exit code {code}; its message is above")
    if plan.stream != plan.history:  # the last hours of those that have no minutes
        _step("top up", "backfill", *common, *history, "--end", iso(plan.end_ms))


def _handle(url: str) -> SandboxHandle:
    return SandboxHandle(int(url.rsplit(":", 1)[1]))


def _wait_for_streams(url: str, collector: subprocess.Popen[bytes]) -> None:
    """Until the collector has subscribed and the count of streams stands still."""
    seen, since = 0, time.monotonic()
    while time.monotonic() - since < _START_S and collector.poll() is None:
        streams = int(_handle(url).status()["streams"])
        if streams and streams == seen and time.monotonic() - since > 2:  # noqa: PLR2004 - two seconds without a newcomer
            return
        if streams != seen:
            seen, since = streams, time.monotonic()
        time.sleep(0.25)
    if collector.poll() is None:
        raise QlibCryptoError("demo: the collector subscribed to nothing within a minute; its messages are above")


@contextmanager
def _sandbox(tape: str, plan: Plan, out: Path) -> Iterator[str]:
    """A sandbox process that stands still at the first stop; its address."""
    log = (out / "sandbox.log").open("wb")
    arguments = ["sandbox", "--venue", plan.venue, "--port", "0", "--speed", "0", "--rate-scale", _RATE_SCALE]
    process = subprocess.Popen(
        [*_command(), *arguments, "--tape", tape or "generator", "--at", iso(plan.stops[0])],
        stdout=subprocess.PIPE,
        stderr=log,
        env=_environment(),
    )
    try:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        line = process.stdout.readline().decode().strip()
        if "http://" not in line:
            raise QlibCryptoError(f"demo: the sandbox did not start; see {out / 'sandbox.log'}")
        yield "http://" + line.rsplit("http://", 1)[1].split()[0]
    finally:
        _end(process)
        log.close()


def _step(label: str, *arguments: str) -> None:
    with _timed(label):
        process = _start(*arguments)
        try:
            code = process.wait()
        finally:
            _end(process)
        if code:
            raise QlibCryptoError(
                f"demo: `qlib-crypto {arguments[0]}` ended with exit code {code}; its message is above"
            )


@contextmanager
def _timed(label: str) -> Iterator[None]:
    console.rule(f"[bold]{label}", align="left", style="dim")
    begin = time.monotonic()
    yield
    console.print(f"  [dim]{label}: {time.monotonic() - begin:.1f} s[/]")


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    shown = " ".join(shlex.quote(a) for a in arguments)
    console.print(f"  $ qlib-crypto {shown}", soft_wrap=True, markup=False, style="dim")
    return subprocess.Popen([*_command(), *arguments], env=_environment())


def _command() -> list[str]:
    return [sys.executable, "-m", "qlib_crypto.cli"]


def _environment() -> Mapping[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "2"}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _clear(out: Path) -> None:
    """Remove an earlier demo, and nothing that is not one."""
    if any(
        p.name not in {"okx_data", "binance_data", "qlib_data", "sandbox.log"}
        and not p.name.startswith(("top50", "qlib_data", "."))
        for p in out.iterdir()
    ):
        raise ConfigError(f"--out {out} holds other files than a demo's; give an empty or new folder")
    shutil.rmtree(out)


def planted_ic(tape: str, plan: Plan, variables: Mapping[str, str]) -> float | None:
    """The mean expected IC, over the test's hours, of the signal a generated market hides; None for a real tape."""
    from qlib_crypto.cli.running import open_tape
    from qlib_crypto.sandbox.generator import GeneratorTape

    source = open_tape(tape, plan.venue) if not tape else None
    if not isinstance(source, GeneratorTape):
        return None
    hours, expected = source.hours_ms, source.expected_ic()
    tested = (hours >= parse_utc(variables["TEST_START"])) & (hours <= parse_utc(variables["TEST_END"]))
    return float(np.nanmean(expected[tested]))


def ic_verdict(ic: float | None, planted: float) -> str:
    """The IC as a share of the one that the market hides, and whether that is enough."""
    share = (ic or 0.0) / planted
    verdict = "passed" if share >= _PASS else "NOT passed"
    return f"{share:.0%} of the {planted:.4f} that the generated market hides: {verdict}, {_PASS:.0%} is enough"


def _show(path: Path, planted: float | None, seconds: float) -> None:
    console.rule("[bold]done", align="left", style="dim")
    if planted:
        from qlib_crypto.report.summary import to_json

        summary = json.loads(path.read_text(encoding="utf-8")) | {"planted_ic": planted}
        path.write_text(to_json(summary), encoding="utf-8")
        console.print(f"  {'IC':15}{ic_verdict(summary['ic'], planted)}", soft_wrap=True, markup=False)
    for name, file in (("report", path.with_name("report.html")), ("summary", path)):
        console.print(f"  {name:15}{file.resolve()}", soft_wrap=True, markup=False)
    console.print(
        f"\n  {seconds:.0f} s in all. Runs: mlflow ui --backend-store-uri sqlite:///mlruns.db", soft_wrap=True
    )
