"""The `qlib-crypto` command: one file a group of commands; each loads heavy libraries only when it runs."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:  # nothing is loaded before `main` minds signals
    from typing import NoReturn

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line; returns by exiting."""
    # while modules load Ctrl-C ends the process at once instead of showing where it was; not SIG_DFL, which polars
    # replaces when it loads by a handler that swallows the signal
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    from qlib_crypto.cli.app import main as run

    run()
