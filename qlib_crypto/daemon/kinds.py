"""The kinds of jobs: what each takes, where it runs, how long and how often it may try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qlib_crypto.clock import parse_utc
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Venue

_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3_600.0, 86_400.0
_VAR = "var."


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of job.

    Attributes
    ----------
    takes
        Names of its arguments, each a text; those that begin with `*` must be given.
    timeout_s
        Wall seconds after which it is ended; that attempt has failed.
    attempts
        Failed attempts before it has failed for good.
    command
        True: a process of the command line by itself. False: done in the warm worker of its venue.

    """

    takes: tuple[str, ...]
    timeout_s: float
    attempts: int = 5
    command: bool = False


#: A ranking is tried for about two hours: no later one makes up for it.
KINDS: Mapping[str, Kind] = {
    "rank": Kind(("*venue",), 10 * _MINUTE_S, attempts=24),
    "instruments": Kind(("*venue",), 10 * _MINUTE_S),
    "repair": Kind(("*venue", "since"), _HOUR_S),
    "seal": Kind(("*venue",), _HOUR_S),
    "reconcile": Kind(("*venue", "start", "end"), 4 * _HOUR_S),
    "check": Kind(("*venue", "start", "end"), 4 * _HOUR_S),
    "retain": Kind(("*venue",), 8 * _HOUR_S),
    "push": Kind(("*venue",), 8 * _HOUR_S, command=True),
    "health": Kind(("*venue", "days"), 30 * _MINUTE_S, command=True),
    "convert": Kind(("full",), 8 * _HOUR_S, command=True),
    "run": Kind(("*workflow", "fit_segments", _VAR), 2 * _DAY_S, attempts=2, command=True),
    "backfill": Kind(("*venue", "*start", "end", "symbols", "interval"), 7 * _DAY_S, command=True),
}

#: Kinds of which every missed period is done by itself.
EACH = ("rank",)

#: Kinds that go before others.
URGENT = ("rank",)


def checked(kind: str, arguments: Mapping[str, str]) -> dict[str, Any]:
    """The arguments as the job table keeps them: known ones only, venues and times spelled one way.

    Raises
    ------
    ConfigError
        The kind or a name is unknown, a value impossible, or a necessary one missing.

    """
    if kind not in KINDS:
        raise ConfigError(f"job kind {kind!r} is unknown; choose one of: {' '.join(KINDS)}")
    takes = KINDS[kind].takes
    names = [name.lstrip("*") for name in takes]
    for name in arguments:
        if name not in names and not (_VAR in names and name.startswith(_VAR) and name != _VAR):
            known = " ".join(f"{n}NAME=" if n == _VAR else f"{n}=" for n in names)
            raise ConfigError(f"job {kind} takes no {name}; it takes: {known}")
    missing = [name[1:] for name in takes if name.startswith("*") and not arguments.get(name[1:])]
    if missing:
        raise ConfigError(f"job {kind} needs {missing[0]}; add {missing[0]}=…")
    values: dict[str, Any] = {name: value for name, value in arguments.items() if value != ""}
    if "venue" in values:
        values["venue"] = str(Venue.parse(values["venue"]))
    for name in {"start", "end", "since"} & values.keys():
        parse_utc(values[name])
    for name in {"full", "fit_segments"} & values.keys():
        if values[name] != "true":
            raise ConfigError(f"{kind} {name}={values[name]}: write {name}=true, or leave it out")
    if kind == "health" and not str(values.get("days", "1")).isdigit():
        raise ConfigError(f"health days={values['days']}: write a number of days")
    return values


def command_line(kind: str, arguments: Mapping[str, Any], options: Sequence[str]) -> list[str]:
    """The command of a job that is a process by itself, `options` being those the daemon was started with."""
    own = (_VAR, "workflow", "full", "fit_segments")
    given = [part for name, value in arguments.items() if not name.startswith(own)
             for part in (f"--{name}", str(value))]  # fmt: skip
    if kind == "run":
        variables = [f"{name.removeprefix(_VAR)}={value}" for name, value in arguments.items() if name.startswith(_VAR)]
        fitted = ["--fit-segments"] if arguments.get("fit_segments") else []
        given = [*fitted, *(part for item in variables for part in ("--var", item)), "--", str(arguments["workflow"])]
        return [kind, *options, "--json", *given]
    if kind in {"health", "convert", "push"}:
        given.append("--json")
    return [kind, *given, *(["--full"] if arguments.get("full") else []), *options]
