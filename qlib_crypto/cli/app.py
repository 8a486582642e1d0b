"""The application object, and how an error ends a command: one line on stderr and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 data not good enough.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import NoReturn

import typer

from qlib_crypto.cli import data, provider, research, system
from qlib_crypto.cli.options import warn_outside_environment
from qlib_crypto.errors import QlibCryptoError, StorageError

app = typer.Typer(
    name="qlib-crypto",
    help="Qlib's research loop for crypto perpetual futures. Research and paper trading only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (data, provider, research, system):
    group.register(app)


def main() -> NoReturn:
    """Run the command line; turns every known error into one line and its exit code."""
    warn_outside_environment()
    try:
        app(standalone_mode=True)
    except QlibCryptoError as error:
        _fail(error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            where = f" at {error.filename}" if error.filename else ""
            _fail(StorageError(f"the disk refused{where}: {error.strerror}; free space or permission, then run again"))
        if error.errno == errno.EPIPE:  # the reader of our output went away, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _fail(error: QlibCryptoError) -> NoReturn:
    print(f"qlib-crypto: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 - this is the command line
    sys.exit(error.exit_code)
