"""The application object, and how an error ends a command: one line on stderr and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 data not good enough, 130 Ctrl-C, 143 terminated.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import signal
import sys
import threading
from typing import Annotated, NoReturn

import typer

from qlib_crypto.cli import daemon, data, imports, jobs, provider, research, system, universe, upkeep, watch
from qlib_crypto.cli.options import warn_outside_environment
from qlib_crypto.cli.progress import tell
from qlib_crypto.errors import ConfigError, QlibCryptoError, StorageError

_INTERRUPTED, _TERMINATED = 130, 143
#: A signal that Python dropped is acted on after so many seconds.
_AGAIN_S = 0.01
_ADVICE = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space",
    errno.EACCES: "get permission, or give another path",
    errno.EROFS: "give a path that can be written",
}

app = typer.Typer(
    name="qlib-crypto",
    help="Qlib's research loop for crypto perpetual futures. Research and paper trading only.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (data, imports, universe, provider, research, system, daemon, jobs, upkeep, watch):
    group.register(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"qlib-crypto {importlib.metadata.version('qlib-crypto')}")
        raise typer.Exit


@app.callback()
def begin(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback answers and ends
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Set how signals end a command; before, while modules load, they end the process at once and silently."""
    if not context.obj:  # a test or a notebook that calls the application keeps its own
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # ends as Ctrl-C does, so that a run is marked as failed; collector and daemon have handlers of their own
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    sys.unraisablehook = _raised_again


def _raised_again(told: sys.UnraisableHookArgs) -> None:
    """A signal that came inside a weak reference's callback or a finalizer, where Python drops what is raised."""
    lost = told.exc_value
    if (
        not isinstance(lost, KeyboardInterrupt | SystemExit)
        or threading.current_thread() is not threading.main_thread()
    ):
        sys.__unraisablehook__(told)
        return

    def end(*_: object) -> NoReturn:
        raise lost.with_traceback(None)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)  # not at once: that would be dropped here as well


def main() -> NoReturn:
    """Run the command line; turns every known error into one line and its exit code."""
    warn_outside_environment()
    try:
        code = app(args=sys.argv[1:] or ["--help"], prog_name="qlib-crypto", standalone_mode=False, obj="process")
    except typer.TyperException as error:  # an option or argument that cannot be read
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "qlib-crypto"
        _fail(ConfigError(f"{error.format_message().rstrip('.')}; see: {command} --help"))
    except typer.Abort:
        tell(stopped := "stopped; what was stored is kept", stopped, level="info")
        sys.exit(_INTERRUPTED)
    except QlibCryptoError as error:
        _fail(error)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of our output went away, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        where = f"{error.filename}: " if error.filename else ""
        advice = _ADVICE.get(error.errno or 0, "give another path")
        _fail(StorageError(f"{where}{error.strerror or error}; {advice}, then run again"))
    sys.exit(code)


def _fail(error: QlibCryptoError) -> NoReturn:
    line = " ".join(str(error).split())
    tell(f"qlib-crypto: {line}", line, level="error")
    sys.exit(error.exit_code)
