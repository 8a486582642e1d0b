"""The stages of a run: timed, Qlib's chatter kept in a log, its warnings and ours shown to the user."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO

#: Loggers whose warnings concern the user; what else is logged goes to the file only.
_LOGGERS = ("qlib", "qlib_crypto")

#: What Qlib warns of although it is as we want it: kept in the file.
_EXPECTED = (
    "No valid experiment found",  # the first run of an experiment
    "limit_threshold not set",  # perpetuals have no daily price limit
    "`common_infra` is not set",  # Qlib sets it right after
)

Progress = Callable[[str], None]

#: Where the words of a progress line begin.
INDENT = 22

_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
_FORMAT.converter = time.gmtime


class Log:
    """What Qlib, MLflow and LightGBM printed and logged during a run, and the warnings that nobody has shown yet."""

    def __init__(self) -> None:
        self.file = StringIO()
        self._warnings: list[str] = []

    @property
    def text(self) -> str:
        """Everything so far."""
        return self.file.getvalue()

    def take_warnings(self) -> list[str]:
        """The warnings since the last call, one line each, repetitions once."""
        taken, self._warnings = self._warnings, []
        return list(dict.fromkeys(taken))

    @contextmanager
    def captured(self) -> Iterator[None]:
        """Inside, prints and logs go into this log; exceptions pass untouched."""
        file = logging.StreamHandler(self.file)
        file.setFormatter(_FORMAT)
        warnings = _Collect(self._warnings)
        loggers = [logging.getLogger(name) for name in _LOGGERS]
        before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
        hook = sys.excepthook
        try:
            for logger in loggers:
                logger.handlers, logger.propagate = [file, warnings], False
                logger.setLevel(logging.INFO)
            with redirect_stdout(self.file), redirect_stderr(self.file):
                yield
        finally:
            sys.excepthook = hook  # Qlib's prints every error a second time
            for logger, handlers, propagate, level in before:
                logger.handlers, logger.propagate = handlers, propagate
                logger.setLevel(level)


class _Collect(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if not message.startswith(_EXPECTED):
            self._messages.append(message)


@dataclass(slots=True)
class Stages:
    """Times each stage, hides what Qlib prints in it, and tells the user one line and the warnings."""

    progress: Progress
    log: Log = field(default_factory=Log)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[list[str]]:
        said: list[str] = []
        begin = time.perf_counter()
        try:
            with self.log.captured():
                yield said
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
            warnings = self.log.take_warnings()
            for warning in warnings:
                self.progress(f"{'':{INDENT}}{warning}")
        self.progress(f"{name:10} {self.seconds[name]:7.1f} s  {' '.join(said)}".rstrip())
