"""The `qlib-crypto` command: one file a group of commands; each loads heavy libraries only when it runs."""

from __future__ import annotations

import signal
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line; returns by exiting."""
    # loading takes half a second: Ctrl-C then ends the process at once instead of showing where it was
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from qlib_crypto.cli.app import main as run

    run()
