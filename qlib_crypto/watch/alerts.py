"""Alerts: told once, repeated while they last, and told again when it is over.

They go to the addresses of the settings through Apprise, and always to the log, which is all there is without an
address. What was told is kept in a file, so that a restart of the daemon tells nothing twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from qlib_crypto.clock import SECOND_MS, iso
from qlib_crypto.errors import ConfigError
from qlib_crypto.watch.findings import Finding, Level, ago

log = structlog.get_logger(__name__)

#: Sends title, body and what they are (`failure`, `warning`, `success`); True when every address took them.
type Send = Callable[[str, str, str], bool]
_KINDS = {Level.FAIL: "failure", Level.WARN: "warning"}

#: What is good again for so long, wall seconds, is over; what fails again before has never stopped.
_SETTLE_S = 300.0


class _Told(NamedTuple):
    """An alert that was told: how bad, since when, when last, and since when it is good again (0: it is not)."""

    level: str
    since_s: float
    told_s: float
    seen: str
    good_s: float = 0.0


class Alerts:
    """The alerts of one lake.

    Parameters
    ----------
    send
        Sends title, body and what they are; False when it could not, and then the next look tries again.
    path
        The file that keeps what was told.
    repeat_s
        Wall seconds before what still lasts is told again.
    settle_s
        Wall seconds for which it must be good before it is over.
    wall
        Wall time, Unix seconds.

    """

    def __init__(
        self,
        send: Send,
        path: Path,
        *,
        repeat_s: float,
        settle_s: float = _SETTLE_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._send = send
        self._path = path
        self._repeat_s = repeat_s
        self._settle_s = settle_s
        self._wall = wall
        self._told: dict[str, _Told] = {}
        self._kept = True

    def look(self, findings: Iterable[Finding]) -> list[str]:
        """The lines told this time: what is new, what became worse, what still lasts, and what is over.

        A key that is absent from the findings is good. One message holds all lines of a look.
        """
        now = self._wall()
        if self._kept:  # others that look at this lake share the file; where it cannot be written, memory must do
            self._told = _read(self._path)
        bad = {f.key: f for f in findings if f.level is not Level.OK}
        told, lines, fresh, over = dict(self._told), [], list[Level](), 0
        for key, finding in bad.items():
            before = told.get(key)
            if before is None or _worse(finding, before) or now - before.told_s >= self._repeat_s:
                since = before.since_s if before else now
                lines.append(_line(finding, None if before is None else now - since))
                told[key] = _Told(finding.level, since, now, finding.seen)
                fresh.append(finding.level)
            else:
                told[key] = before._replace(good_s=0.0)
        for key, before in self._told.items():
            if key in bad:
                continue
            told[key] = before._replace(good_s=before.good_s or now)
            if now - told[key].good_s >= self._settle_s:
                lasted = told.pop(key).good_s - before.since_s
                lines.append(f"resolved: {key}, after {ago(lasted)} (it was: {before.seen})")
                over += 1
        if lines and not self._deliver(lines, fresh, over):
            return []
        if told != self._told:
            self._told = told
            self._kept = _write(self._path, told)
        return lines

    def _deliver(self, lines: Sequence[str], fresh: Sequence[Level], over: int) -> bool:
        levels = sorted(set(fresh), key=lambda level: -level.rank)
        parts = [f"{fresh.count(level)} {level}" for level in levels] + [f"{over} resolved"] * bool(over)
        kind = _KINDS[levels[0]] if levels else "success"
        try:
            if self._send(f"qlib-crypto on {platform.node()}: {', '.join(parts)}", "\n".join(lines), kind):
                return True
            why = "an address refused it"
        except Exception as error:  # noqa: BLE001 - whatever a notification service does, the daemon goes on
            why = type(error).__name__  # its text may hold the address, which is a secret
        log.error("alert not sent, tried again at the next look", why=why, lines=len(lines))
        return False


def to_log(_title: str, body: str, _kind: str) -> bool:
    """Every line of an alert in the log; always True."""
    for line in body.splitlines():
        tell = log.info if line.startswith("resolved") else log.warning
        tell("alert", told=line)
    return True


def sender(urls: str) -> Send:
    """What sends to every Apprise address in `urls` (separated by spaces or commas) and to the log.

    Raises
    ------
    ConfigError
        Apprise cannot read an address; the message says which one by its place, the address is a secret.

    """
    addresses = [part for part in re.split(r"[\s,]+(?=[a-zA-Z][a-zA-Z0-9+]*://)", urls.strip().strip(",")) if part]
    if not addresses:
        return to_log
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # one of its 140 services uses a module that ages
        service = _service(addresses)
    logged: set[str] = set()

    def send(title: str, body: str, kind: str) -> bool:
        if body not in logged:  # once, however often sending is tried
            logged.clear()
            logged.add(body)
            to_log(title, body, kind)
        return bool(service.notify(body=body, title=title, notify_type=kind))

    return send


def _service(addresses: Sequence[str]) -> Any:
    import apprise  # noqa: PLC0415 - takes a second, and most commands never alert

    service = apprise.Apprise()
    for place, address in enumerate(addresses, 1):
        if not service.add(address.strip(",")):
            raise ConfigError(
                f"alert address {place} of {len(addresses)} is none that Apprise knows; correct QLIB_CRYPTO_ALERT_URLS "
                "(such as mailto://…, tgram://…, slack://…, json://127.0.0.1:8000)"
            )
    return service


def _worse(finding: Finding, before: _Told) -> bool:
    return finding.level.rank > Level(before.level).rank


def _line(finding: Finding, lasted_s: float | None) -> str:
    still = "" if lasted_s is None else f" (for {ago(lasted_s)})"
    return f"{finding.level}: {finding.key}: {finding.seen}{still}" + (f"; {finding.do}" if finding.do else "")


def _read(path: Path) -> dict[str, _Told]:
    """What was told; nothing when the file is absent or damaged, and then an alert is told twice at worst."""
    try:
        kept: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        told = {str(key): _Told(**values) for key, values in kept.items()}
        for one in told.values():
            Level(one.level)
            iso(int(one.since_s * SECOND_MS))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        log.warning("what was alerted before cannot be read; it may be told again", file=str(path), why=str(error))
        return {}
    return told


def _write(path: Path, told: dict[str, _Told]) -> bool:
    """Keep it; False when the disk refuses, which costs a repeated alert after a restart, nothing else."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps({key: one._asdict() for key, one in told.items()}, indent=1), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        log.warning("what was alerted cannot be kept", file=str(path), why=error.strerror or str(error))
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        return False
    return True
