"""The stages of a run: timed, Qlib's chatter kept in a log, its warnings and ours shown to the user."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import TextIO

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

#: Wall seconds between two lines of a stage that goes on.
BEAT_S = 10.0

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
            with (
                redirect_stdout(_Captured(self.file, sys.stdout)),
                redirect_stderr(_Captured(self.file, sys.stderr)),
            ):
                yield
        finally:
            sys.excepthook = hook  # Qlib's prints every error a second time
            for logger, handlers, propagate, level in before:
                logger.handlers, logger.propagate = handlers, propagate
                logger.setLevel(level)


class _Captured(StringIO):
    """Stands in for a stream: what is written goes to `file`, from the beat of a stage to the stream itself."""

    def __init__(self, file: StringIO, stream: TextIO) -> None:
        super().__init__()
        self._file = file
        self._stream = stream

    def write(self, text: str) -> int:
        """Pass the text on."""
        return (self._stream if isinstance(threading.current_thread(), _Beat) else self._file).write(text)

    def flush(self) -> None:
        """Flush what a beat wrote."""
        if isinstance(threading.current_thread(), _Beat):
            self._stream.flush()


class _Beat(threading.Thread):
    """Tells every `every_s` seconds until `stop` that a stage goes on."""

    def __init__(self, tell: Callable[[], None], every_s: float) -> None:
        super().__init__(daemon=True)
        self._tell = tell
        self._every_s = every_s
        self._over = threading.Event()

    def run(self) -> None:
        """Tell, until it is over."""
        while not self._over.wait(self._every_s):
            self._tell()

    def stop(self) -> None:
        """End it; nothing is told after."""
        self._over.set()
        self.join()


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
    """Times each stage, hides what Qlib prints in it, and tells the user one line and the warnings.

    A stage that goes on says so every `beat_s` seconds, with what `so_far` knows of it.
    """

    progress: Progress
    beat_s: float = field(default_factory=lambda: BEAT_S)
    log: Log = field(default_factory=Log)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str, so_far: Callable[[], str] = lambda: "") -> Iterator[list[str]]:
        said: list[str] = []
        begin = time.perf_counter()

        def tell() -> None:
            words = so_far()
            self.progress(f"{'':{INDENT}}{name} … {time.perf_counter() - begin:.0f} s{words and ', '}{words}")

        beat = _Beat(tell, self.beat_s)
        try:
            with self.log.captured():
                beat.start()
                try:
                    yield said
                finally:
                    beat.stop()
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
            warnings = self.log.take_warnings()
            for warning in warnings:
                self.progress(f"{'':{INDENT}}{warning}")
        self.progress(f"{name:10} {self.seconds[name]:7.1f} s  {' '.join(said)}".rstrip())
