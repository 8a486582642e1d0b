"""Structured logs: lines for people on a terminal, one JSON object a line for machines elsewhere.

Everything goes to stderr. `LOG_FORMAT=json` or `LOG_FORMAT=text` decides when the terminal should not.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

import structlog
from structlog.typing import Processor

from qlib_crypto.errors import ConfigError

_FORMATS = ("json", "text", "")
#: What these say below an error is no news: an alarm skipped while a job runs, an address of a notification service.
_QUIET = ("apscheduler", "apprise", "urllib3", "requests", "feedhandler", "asyncio")


def configure_logs(stream: TextIO | None = None, *, form: str | None = None) -> str:
    """Let structlog and the standard library write the same lines to `stream` (stderr): `json` or `text`, as chosen.

    May be called again.

    Parameters
    ----------
    stream
        Where to; stderr when None.
    form
        `json`, `text`, or empty to decide by the terminal; the variable `LOG_FORMAT` when None.

    Raises
    ------
    ConfigError
        `LOG_FORMAT` is something else.

    """
    out = sys.stderr if stream is None else stream
    form = os.environ.get("LOG_FORMAT", "").strip().lower() if form is None else form
    if form not in _FORMATS:
        raise ConfigError(f"LOG_FORMAT={form!r}: write json or text, or leave it out")
    terminal = bool(getattr(out, "isatty", lambda: False)())
    as_json = form == "json" or (not form and not terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    last: list[Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=terminal, timestamp_key="time")]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    return "json" if as_json else "text"
