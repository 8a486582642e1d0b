"""Doctor: what to run first when something is wrong. Installation, settings, folders, disk, clock, venues, locks.

Each check stands by itself: one that cannot be made says so and the others go on.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from qlib_crypto.daemon.schedule import missing_workflows, scheduled
from qlib_crypto.errors import QlibCryptoError, counted
from qlib_crypto.feeds.probe import looking, venue_time_ms
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Venue
from qlib_crypto.watch import doctor_lake
from qlib_crypto.watch.alerts import sender
from qlib_crypto.watch.findings import Finding, Level, ago

_PACKAGE = "qlib-crypto"
_PYTHON = (3, 12)
_SETUP = "run scripts/setup.sh"
#: Libraries that need more than their wheel, and how long loading them may take.
_LOADED, _LOAD_S = ("qlib", "lightgbm", "cryptofeed", "mlflow", "pyarrow", "duckdb"), 120.0
#: How far this machine's clock may be from the venue's, milliseconds: bars close, then a mistake of an hour.
_CLOCK_WARN_MS, _CLOCK_FAIL_MS = 1_000, 60_000
_SLOW_S, _FRAME_S = 2.0, 15.0

type Check = Callable[[], Iterator[Finding]]


def diagnose(
    settings: Settings, venues: Sequence[Venue], *, config: Path | None, offline: bool = False
) -> Iterator[Finding]:
    """Every finding, as it is made; the venues come last, because they take longest."""
    checks: list[tuple[str, Check]] = [
        ("python", _python),
        ("packages", _packages),
        ("libraries", _libraries),
        ("settings", lambda: _settings(settings, venues, config)),
        ("schedule", lambda: _schedule(settings, venues)),
        ("alerts", lambda: _alerts(settings)),
        ("lake", lambda: doctor_lake.folders(settings, venues)),
        ("disk", lambda: doctor_lake.disks(settings)),
        ("files", doctor_lake.open_files),
        ("locks", lambda: doctor_lake.locks(settings, venues)),
    ]
    if not offline:
        for venue in venues:
            checks.append((f"{venue} REST", lambda v=venue: _rest(settings, v)))  # type: ignore[misc]
            checks.append((f"{venue} websocket", lambda v=venue: _socket(settings, v)))  # type: ignore[misc]
    for key, check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - a check that fails is itself a finding
            text = " ".join(str(error).split()) or type(error).__name__
            seen, _, do = text.rpartition("; ") if isinstance(error, QlibCryptoError) else (text, "", "")
            yield Finding(key, Level.FAIL, seen or text, do if seen else "")


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    seen = f"{version}, {sys.prefix}"
    if sys.version_info[:2] != _PYTHON:
        yield Finding("python", Level.FAIL, f"{seen}; 3.12 is needed", _SETUP)
    elif Path(sys.prefix).name not in {"qlib", ".venv"} and os.environ.get("CONDA_DEFAULT_ENV") != "qlib":
        yield Finding("python", Level.WARN, f"{seen}: neither .venv nor the conda environment qlib",
                      "source .venv/bin/activate, or conda activate qlib")  # fmt: skip
    else:
        yield Finding("python", Level.OK, seen)


def _packages() -> Iterator[Finding]:
    """Versions against the project's own requirements."""
    wrong = []
    wanted = [Requirement(text) for text in importlib.metadata.requires(_PACKAGE) or []]
    wanted = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    for requirement in wanted:
        try:
            have = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            wrong.append(f"{requirement.name} {have} instead of {requirement.specifier}")
    own = importlib.metadata.version(_PACKAGE)
    if wrong:
        yield Finding("packages", Level.FAIL, ", ".join(wrong), _SETUP)
    else:
        yield Finding("packages", Level.OK, f"{_PACKAGE} {own}, {counted(len(wanted), 'requirement')} met")


def _libraries() -> Iterator[Finding]:
    """Whether the heavy libraries load, each named that does not: a wheel may lack a library of the system."""
    script = (
        "import importlib, json, sys, warnings\nwarnings.simplefilter('ignore')\nbad = {}\n"
        f"for name in {_LOADED!r}:\n"
        "    try: importlib.import_module(name)\n"
        "    except BaseException as error: bad[name] = f'{type(error).__name__}: {error}'\n"
        "print(json.dumps(bad))"
    )
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=_LOAD_S, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding("libraries", Level.FAIL, f"loading ended with code {done.returncode}: {last}", _SETUP)
        return
    bad: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    for name, why in bad.items():
        system = re.search(r"lib\w+\.so[.\d]*", why)
        advice = (
            f"install the system's package of {system[0]} (libgomp.so.1: apt install libgomp1)" if system else _SETUP
        )
        yield Finding(f"library {name}", Level.FAIL, why, advice)
    if not bad:
        yield Finding("libraries", Level.OK, f"{', '.join(_LOADED)} load in {time.monotonic() - begin:.0f} s")


def _settings(settings: Settings, venues: Sequence[Venue], config: Path | None) -> Iterator[Finding]:
    file = config or Path("config.yaml")
    names = sorted(n for n, value in os.environ.items() if n.startswith("QLIB_CRYPTO_") and value)
    where = f"{file.absolute()}" if file.is_file() else f"defaults, no {file.absolute()}"
    seen = f"{where}; {', '.join(names)} in the environment" if names else where
    yield Finding("settings", Level.OK, seen)
    for venue in venues:
        part = settings.venue(venue)
        follows = part.symbols if isinstance(part.symbols, str) else counted(len(part.symbols), "symbol")
        also = f", proxy {part.proxy.rpartition('@')[2]}" if part.proxy else ""
        fast = part.rate_scale > 1 and "127.0.0.1" not in part.rest_url
        yield Finding(
            f"{venue} settings",
            Level.WARN if fast else Level.OK,
            f"{follows}, {part.interval}, {' '.join(part.datasets)}; {part.rest_url}, {part.ws_url}{also}"
            + (f"; rate_scale {part.rate_scale:g}" if fast else ""),
            "rate_scale above 1 breaks the venue's limits: set it to 1" if fast else "",
        )
        if part.symbols == "top50":
            yield _universe(settings, venue)


def _universe(settings: Settings, venue: Venue) -> Finding:
    from qlib_crypto.universe import read_universe, universe_path  # noqa: PLC0415 - loads polars

    path = universe_path(settings.lake_dir, venue)
    if not path.is_file():
        return Finding(f"{venue} universe", Level.WARN, f"{path.absolute()} does not exist yet",
                       f"qlib-crypto rank --venue {venue}; the daemon does it by itself")  # fmt: skip
    members = read_universe(path, venue)
    hours = (time.time() - path.stat().st_mtime) / 3600
    return Finding(f"{venue} universe", Level.OK, f"{counted(len(members), 'member')}, written {hours:.0f} h ago")


def _schedule(settings: Settings, venues: Sequence[Venue]) -> Iterator[Finding]:
    workflows = settings.schedule.workflows
    scheduled(settings.schedule, venues)  # refuses a cron expression that cannot be read
    if missing := missing_workflows(settings.schedule):
        yield Finding("schedule", Level.FAIL, f"{', '.join(missing)} does not exist in {Path.cwd()}",
                      "correct schedule.workflows in the settings")  # fmt: skip
    else:
        yield Finding("schedule", Level.OK, f"{counted(len(workflows), 'workflow')} beside the daemon's own jobs")


def _alerts(settings: Settings) -> Iterator[Finding]:
    urls = settings.alert_urls.get_secret_value()
    sender(urls)
    number = len(re.findall(r"[a-zA-Z][a-zA-Z0-9+]*://", urls))
    seen = f"{counted(number, 'address', 'addresses')} of Apprise" if number else "to the log only"
    yield Finding("alerts", Level.OK, seen, "" if number else "for mail or a messenger set QLIB_CRYPTO_ALERT_URLS")


def _rest(settings: Settings, venue: Venue) -> Iterator[Finding]:
    part = settings.venue(venue)
    begin, ours = time.monotonic(), time.time()
    theirs = venue_time_ms(venue, part)
    took = time.monotonic() - begin
    slow = took > _SLOW_S
    yield Finding(f"{venue} REST", Level.WARN if slow else Level.OK, f"{part.rest_url} answers in {took * 1e3:,.0f} ms",
                  "slow: look at the network or the proxy" if slow else "")  # fmt: skip
    offset = theirs - (ours + took / 2) * 1e3
    beyond = max(0.0, abs(offset) - took * 500)
    level = Level.FAIL if beyond > _CLOCK_FAIL_MS else Level.WARN if beyond > _CLOCK_WARN_MS else Level.OK
    advice = "set this machine's clock by NTP (timedatectl set-ntp true)"
    if level is Level.FAIL and "127.0.0.1" in part.rest_url:  # a sandbox has a time of its own
        level, advice = Level.WARN, "against a sandbox give collect and daemon --clock venue"
    apart = f"{offset / 1e3:+,.2f} s from this machine's"
    if abs(offset) > 2 * _CLOCK_FAIL_MS:
        apart = f"{ago(abs(offset) / 1e3)} {'behind' if offset < 0 else 'ahead of'} this machine's"
    yield Finding(f"{venue} clock", level, apart,
                  "" if level is Level.OK else advice)  # fmt: skip


def _socket(settings: Settings, venue: Venue) -> Iterator[Finding]:
    part = settings.venue(venue)
    okx = venue is Venue.OKX
    path = "/ws/v5/public" if okx else "/market/stream?streams=btcusdt@markPrice@1s"
    request = {"op": "subscribe", "args": [{"channel": "tickers", "instId": "BTC-USDT-SWAP"}]} if okx else None
    begin = time.monotonic()

    async def first() -> bool:
        async with looking(part, path, lambda _what, _text: None) as look:
            if request:
                await look.say(request)
            async for frame in look.hear(_FRAME_S):
                if isinstance(frame, dict) and "data" in frame:
                    return True
        return False

    heard = asyncio.run(first())
    seen = (
        f"{part.ws_url} {'gives data' if heard else 'opens and gives no data'} within {time.monotonic() - begin:.1f} s"
    )
    yield Finding(f"{venue} websocket", Level.OK if heard else Level.FAIL, seen,
                  "" if heard else "a proxy that cuts websockets, or another route: see doctor --live")  # fmt: skip
