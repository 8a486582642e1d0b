"""A child process of the daemon: on its leash, in a group of its own, ended with a grace time."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Collection, Sequence

from qlib_crypto.daemon.leash import GRACE_S, kill_group
from qlib_crypto.errors import StorageError

_CHUNK = 65_536
_TAIL = 4_096
_LOOK_S = 0.02


class Child:
    """A command that runs while we live; Ctrl-C at our terminal does not reach it, we end it ourselves.

    Parameters
    ----------
    command
        Program and arguments; it must watch its standard input (`daemon.leash`).
    keep
        File descriptors it inherits.
    piped
        Whether `listen` hears its standard output; its standard error then goes to ours, the end of it to `said`.

    Raises
    ------
    StorageError
        The machine cannot start another process.

    """

    def __init__(self, command: Sequence[str], *, keep: Collection[int] = (), piped: bool = False) -> None:
        heard = subprocess.PIPE if piped else None
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=heard, stderr=heard, pass_fds=tuple(keep), process_group=0
            )
        except OSError as error:
            raise StorageError(
                f"{command[0]}: cannot be started ({error.strerror}); free memory or processes"
            ) from None
        self.started_at = time.monotonic()
        self._said = b""
        self._part = b""
        self._asked = False
        self._selector = selectors.DefaultSelector()
        for stream, name in ((self._process.stdout, "out"), (self._process.stderr, "err")):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self._selector.register(stream.fileno(), selectors.EVENT_READ, name)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal that ended it."""
        return self._process.poll()

    @property
    def said(self) -> str:
        """The last line of its standard error without the program's name, empty without one."""
        lines = self._said.decode(errors="replace").strip().splitlines()
        return lines[-1].strip().removeprefix("qlib-crypto: ") if lines else ""

    def tell(self, line: str) -> None:
        """One line to its standard input; nothing happens when it has ended."""
        assert self._process.stdin is not None  # noqa: S101 - always a pipe; for the type checker
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def listen(self, timeout_s: float) -> list[str]:
        """Whole lines of its standard output since the last call; waits for some news at most so long."""
        ended = self.exit_code is not None  # asked before reading: what it said last is in the pipes now
        if not self._selector.get_map():
            if not ended:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout_s)
            return []
        out = b""
        for key, _ in self._selector.select(0 if ended else timeout_s):
            chunk = self._drain(key.fd)
            if key.data == "err" and chunk:
                self._said = (self._said + chunk)[-_TAIL:]
                with contextlib.suppress(OSError):
                    os.write(2, chunk)
            out += chunk if key.data == "out" else b""
        *lines, self._part = (self._part + out).split(b"\n")
        return [line.decode(errors="replace") for line in lines if line]

    def _drain(self, stream: int) -> bytes:
        chunks: list[bytes] = []
        while True:
            try:
                chunk = os.read(stream, _CHUNK)
            except BlockingIOError:
                return b"".join(chunks)
            if not chunk:
                self._selector.unregister(stream)
                return b"".join(chunks)
            chunks.append(chunk)

    def terminate(self) -> None:
        """Ask it to end, once."""
        if self.exit_code is None and not self._asked:
            self._asked = True
            self._process.send_signal(signal.SIGTERM)

    def end(self, grace_s: float = GRACE_S) -> int:
        """Its exit code: asked to end, and killed with all that it started when it does not within the grace time."""
        self.terminate()
        until = time.monotonic() + grace_s
        while self.exit_code is None and time.monotonic() < until:
            if self._selector.get_map():
                self.listen(_LOOK_S)  # a full pipe must not keep it
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(max(0.0, until - time.monotonic()))
        kill_group(self.pid) if self.exit_code is None else None
        code = self._process.wait()
        self._close()
        return code

    def _close(self) -> None:
        if self._selector.get_map():
            self.listen(0)
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
