"""What of a view is not good, and what to do about it: the findings of health and of the alerts."""

from __future__ import annotations

import shlex

from qlib_crypto.clock import SECOND_MS
from qlib_crypto.daemon.job import State
from qlib_crypto.errors import counted
from qlib_crypto.settings import Settings
from qlib_crypto.watch.findings import Finding, Level, ago
from qlib_crypto.watch.observe import HEARTBEAT_S, VenueView, View, latest, name

#: The longest interval between settlements, and what one may be late, market seconds.
_SETTLEMENT_S = 8 * 3_600 + 900
#: A job that waits or runs longer is told, wall seconds.
_WAITING_S, _RUNNING_S = 2 * 3_600, 12 * 3_600
_GB = 1e9
_UNTIMED, _UNTIMED_DO = "unknown: the market's time is only known while a collector runs", "start the collector"
_NAMED = 3


def judge(view: View, settings: Settings) -> list[Finding]:
    """Everything that was looked at, good or not; keys are the same in every look."""
    watch = settings.watch
    out = [_daemon(view)]
    for venue in view.venues.values():
        out += [_collector(venue), _lag(venue, watch.lag_minutes * 60), _settlement(venue), _quarantine(venue)]
    out += [_disk(folder, free, watch.disk_free_gb) for folder, (free, _) in view.disks.items()]
    return [*out, *_jobs(view)]


def _daemon(view: View) -> Finding:
    if view.daemon is not None:
        return Finding("daemon", Level.OK, f"runs as process {view.daemon}")
    return Finding("daemon", Level.WARN, "does not run: nothing is ranked, repaired or converted by itself",
                   "start it: qlib-crypto daemon")  # fmt: skip


def _collector(view: VenueView) -> Finding:
    key, status, start = f"{view.venue} collector", view.status, f"start it: qlib-crypto collect --venue {view.venue}"
    if status is None:
        return Finding(
            key,
            Level.WARN,
            "none has run on this lake",
            f"{start}, or the daemon; or set {view.venue}.enabled: false in config.yaml",
        )
    if not status.running:
        return Finding(key, Level.FAIL, f"was stopped {ago(view.silent_s)} ago", f"{start}, or the daemon")
    if not view.up:
        seen, do = (
            f"process {status.pid} says nothing since {ago(view.silent_s)}",
            "look at its log; if it hangs, end it",
        )
        if view.killed:
            seen, do = (
                f"process {status.pid} was killed: it said that it runs, but nobody holds its lock",
                "look at its log",
            )
        return Finding(key, Level.FAIL, seen, f"{do}, then {start}")
    if status.trouble:
        return Finding(key, Level.FAIL, f"cannot store: {status.trouble}", "free disk space, check permissions")
    followed = counted(len(status.newest), "instrument")
    silent = status.streamed_s
    if silent is not None and silent > HEARTBEAT_S:
        return Finding(key, Level.WARN, f"nothing came by stream for {ago(silent)}; REST fills what is missing",
                       "look at the venue's status page and at the collector's log")  # fmt: skip
    reconnects = counted(status.stream.get("reconnects", 0), "reconnect")
    return Finding(key, Level.OK, f"{followed}, {reconnects} in {ago((status.wall_ms - status.started_ms) / 1000)}")


def _lag(view: VenueView, limit_s: float) -> Finding:
    key = f"{view.venue} lag"
    known = {symbol: lag for symbol, lag in view.lag_s.items() if lag is not None}
    if not view.lag_s:
        return Finding(key, Level.WARN, "no instrument is followed", f"qlib-crypto rank --venue {view.venue}")
    if not view.timed:
        return Finding(key, Level.WARN, _UNTIMED, _UNTIMED_DO)
    if not known:
        return Finding(key, Level.WARN, f"none of {counted(len(view.lag_s), 'instrument')} has a bar yet",
                       "wait for the first minute; then look at the collector's log")  # fmt: skip
    late = sorted((s for s in known if known[s] > limit_s), key=lambda s: -known[s])
    if not late:
        return Finding(key, Level.OK, f"nobody is further behind than {ago(max(known.values()))}")
    named = ", ".join(f"{symbol} {ago(known[symbol])}" for symbol in late[:_NAMED]) + (", …" * (len(late) > _NAMED))
    level = Level.FAIL if 2 * len(late) > len(known) else Level.WARN
    return Finding(key, level, f"{len(late)} of {counted(len(known), 'instrument')} late: {named}",
                   "look at the collector's log; the hourly repair fills what REST has")  # fmt: skip


def _settlement(view: VenueView) -> Finding:
    key = f"{view.venue} settlement"
    if not view.timed:
        return Finding(key, Level.WARN, _UNTIMED, _UNTIMED_DO)
    if view.settlement_s is None:
        return Finding(key, Level.WARN, "no settled funding stored", "it comes with the next settlement, or: backfill")
    seen = f"the newest was {ago(view.settlement_s)} ago"
    if view.settlement_s <= _SETTLEMENT_S:
        return Finding(key, Level.OK, seen)
    return Finding(key, Level.FAIL, f"{seen}, longer than any interval", "look at the collector's log")


def _quarantine(view: VenueView) -> Finding:
    key, (number, new) = f"{view.venue} quarantine", view.quarantined
    if new:
        return Finding(key, Level.WARN, f"{counted(new, 'impossible row')} in the last day, {number:,} in all",
                       'look at them: qlib-crypto sql "select * from quarantine"')  # fmt: skip
    return Finding(key, Level.OK, f"{number:,} rows, none in the last day" if number else "empty")


def _disk(folder: str, free: int, least_gb: float) -> Finding:
    seen, advice = f"{free / _GB:,.1f} GB free", "free disk space, or lower retention.bulky_days"
    level = Level.FAIL if free < least_gb * _GB else Level.WARN if free < 2 * least_gb * _GB else Level.OK
    return Finding(f"disk {folder}", level, seen, "" if level is Level.OK else f"{advice} ({least_gb:g} GB are wanted)")


def _jobs(view: View) -> list[Finding]:
    out, last = [], latest(view.jobs)
    for (kind, subject), job in sorted(last.items()):
        if job.state is State.FAILED:
            why = (job.error or "no reason told").rstrip(".")
            venue = ["--venue", subject] if "venue" in job.arguments else []
            given = [shlex.quote(f"{key}={value}") for key, value in job.arguments.items() if key != "venue"]
            again = " ".join(["qlib-crypto jobs submit", kind, *venue, *given])
            when = ago((view.wall_ms - (job.ended_ms or job.submitted_ms)) / SECOND_MS)
            out.append(Finding(f"job {kind} {subject}".strip(), Level.FAIL, f"failed {when} ago: {why}", again))
    for job in view.jobs:
        since = job.started_ms if job.state is State.RUNNING else job.submitted_ms
        waited = (view.wall_ms - (since or view.wall_ms)) / SECOND_MS
        limit = {State.PENDING: _WAITING_S, State.RUNNING: _RUNNING_S}.get(job.state)
        if limit is not None and waited > limit:
            key = " ".join(["job", *filter(None, name(job)), str(job.id)])
            verb = "runs" if job.state is State.RUNNING else "waits"
            out.append(Finding(key, Level.WARN, f"{verb} since {ago(waited)}", "is the daemon running? see its log"))
    if not out:
        done = counted(sum(job.state is State.COMPLETED for job in last.values()), "kind")
        out.append(Finding("jobs", Level.OK, f"the last of each of {done} completed" if last else "none yet"))
    return out
