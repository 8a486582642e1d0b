"""The leash: a child process that ends itself once its standard input closes, however its parent died.

The parent keeps the other end open for as long as it lives; the kernel closes it, also after `kill -9`. What the parent
writes there are lines for the child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

_CHUNK = 65_536
#: Wall seconds to end cleanly before the process, and those it started, are killed.
GRACE_S = 10.0
#: A collector that is asked to end waits for open requests and seals: half of this, and more on a busy machine. The
#: services in deploy/ give the daemon 120 s.
COLLECTOR_GRACE_S = 90.0


def leash(on_line: Callable[[bytes], None] = lambda _: None, *, grace_s: float = GRACE_S) -> None:
    """Watch standard input from now on; SIGTERM to this process when it closes, and SIGKILL to its group after that.

    Standard input is then empty for everything else here.
    """
    rope = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_watch, args=(rope, on_line, grace_s), name="leash", daemon=True).start()


def _watch(rope: int, on_line: Callable[[bytes], None], grace_s: float) -> None:
    # bare reads: a buffered stdin would be locked by this thread when the interpreter ends
    part = b""
    while chunk := _read(rope):
        *lines, part = (part + chunk).split(b"\n")
        for line in lines:
            on_line(line)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    kill_group(os.getpid())


def _read(rope: int) -> bytes:
    try:
        return os.read(rope, _CHUNK)
    except OSError:
        return b""


def kill_group(pid: int) -> None:
    """Kill a process, and where it leads a group of its own the whole group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
