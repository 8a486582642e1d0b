"""Run the sandbox: `serve` blocks until a signal, `running` has it in the background for a test or the demo."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Any

from aiohttp import web

from qlib_crypto.clock import MINUTE_MS, iso
from qlib_crypto.errors import ConfigError, QlibCryptoError, counted
from qlib_crypto.sandbox.server import Sandbox, SandboxOptions
from qlib_crypto.sandbox.tape import HasFlow, HasOpenInterest, Tape
from qlib_crypto.symbols import Interval

_ANSWER_S = 30.0
_START_S = 120.0
_STOP_S = 10.0
_SEND_BUFFER = 64 * 1024


class SandboxHandle:
    """A running sandbox, as a client of its controls; `url` is the one address of REST and websocket."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        # no proxy of the environment may stand between us and loopback
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def status(self) -> dict[str, Any]:
        """What `Sandbox.status` says."""
        return self._call("status", None)

    def set_clock(
        self, *, speed: float | str | None = None, at: int | str | None = None, until: int | str | None = None
    ) -> dict[str, Any]:
        """Change speed, jump, or move the end; the status after it.

        Raises
        ------
        ConfigError
            A value is impossible.

        """
        return self._call("clock", {"speed": speed, "at": at, "until": until})

    def fault(self, kind: str, **parameters: Any) -> dict[str, Any]:
        """Switch on a fault, see `faults.Fault`; its kind and the number of connections it hit.

        Raises
        ------
        ConfigError
            The kind or a parameter is unknown.

        """
        return self._call("fault", {"kind": kind, **parameters})

    def _call(self, name: str, body: dict[str, Any] | None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/sandbox/{name}", data=data)  # noqa: S310 - our own http address
        try:
            with self._open(request, timeout=_ANSWER_S) as answer:
                result: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise ConfigError(json.load(error)["error"]) from None
        return result


def serve(
    tapes: Sequence[Tape],
    *,
    host: str = "127.0.0.1",
    port: int = 8180,
    options: SandboxOptions | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the tapes until SIGINT or SIGTERM; `say` gets the address once it listens.

    Raises
    ------
    ConfigError
        An option is impossible, or the address is taken.

    """
    sandbox = Sandbox(tapes, options or SandboxOptions())
    asyncio.run(_serve(sandbox, host, port, lambda bound: say(_banner(sandbox, host, bound))))


def _banner(sandbox: Sandbox, host: str, port: int) -> str:
    """What runs, and what to type next; the address is in the first line."""
    clock, url, venues = sandbox.clock, f"http://{host}:{port}", list(sandbox.markets)
    speed = "maximum speed" if clock.is_max else f"{clock.speed:g} times real time" if clock.speed else "standing still"
    if clock.held:
        speed += " once its streams are subscribed"
    lines = [
        f"sandbox listens on {url} (REST and websocket of {' and '.join(venues)})",
        f"  market time  {iso(clock.now_ms())} UTC, {speed}, until {iso(clock.until_ms)}",
    ]
    now, moving, notes = clock.now_ms(), [], dict[str, None]()
    for venue, market in sandbox.markets.items():
        start, end = market.tape.span_ms
        if start <= now < end:
            moving.append(venue)
            notes |= dict.fromkeys(_notes(market.tape, now))
            state = f"{len(market.trading(now))} of {counted(len(market.tape.specs), 'contract')} listed now"
        else:
            edge = f"begins {iso(start)}" if now < start else f"ends {iso(end)}"
            state = f"the tape {edge}, nothing moves; give --venue {venue} or an --at inside"
        lines.append(f"  tape         {venue}: {state}, {iso(start)} → {iso(end)}")
    best = (moving or venues)[0]
    bars = _interval(sandbox.markets[best].tape, now)
    lines += [
        *(f"  note         {note}" for note in notes),
        f"  collect      qlib-crypto rank --venue {best} --endpoint {url}",
        f"               qlib-crypto collect --venue {best} --endpoint {url} --clock venue{bars}",
        f"  state        {url}/sandbox/status; stop with Ctrl-C",
    ]
    return "\n".join(lines)


def _notes(tape: Tape, now_ms: int) -> list[str]:
    """What a client would wait for in vain."""
    notes, spans = [], _spans(tape)
    finest = min(spans, key=lambda interval: interval.ms)
    if (first := spans[finest][0]) > now_ms:
        also = " nor what is made of them (open_interest, long_short_ratio, …)" if isinstance(tape, HasFlow) else ""
        notes.append(f"no {finest} bars{also} before {iso(first)}: give such an --at, or collect as below")
    known = isinstance(tape, HasOpenInterest) and any(tape.open_interest_series(i).time_ms.size for i in tape.specs)
    lacks = [] if known else ["open_interest"]
    lacks += [] if isinstance(tape, HasFlow) else ["long_short_ratio", "liquidations"]
    if lacks:
        notes.append(f"no {', '.join(lacks)}: take them out of datasets in the settings, or they count as missing")
    return notes


def _interval(tape: Tape, now_ms: int) -> str:
    """The option that collects the finest bars that come now; empty for minutes, which is what `collect` takes."""
    firsts = {interval: first for interval, (first, last) in _spans(tape).items() if last >= now_ms}
    finest = min([i for i in firsts if firsts[i] <= now_ms] or firsts, key=lambda interval: interval.ms, default=None)
    return f" --interval {finest}" if finest is not None and finest.ms > MINUTE_MS else ""


def _spans(tape: Tape) -> dict[Interval, tuple[int, int]]:
    """The opens of the first and of the last bar of each length that the tape has."""
    spans: dict[Interval, tuple[int, int]] = {}
    for instrument in tape.specs:
        for interval in tape.intervals(instrument):
            if (opens := tape.bars(instrument, interval).open_ms).size:
                first, last = spans.get(interval, (int(opens[0]), int(opens[-1])))
                spans[interval] = min(first, int(opens[0])), max(last, int(opens[-1]))
    return spans


async def _serve(sandbox: Sandbox, host: str, port: int, ready: Callable[[int], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with _listening(sandbox, host, port) as bound:
        ready(bound)
        await stop.wait()


@contextlib.asynccontextmanager
async def _listening(sandbox: Sandbox, host: str, port: int) -> Any:
    """The bound port, while the sandbox listens."""
    runner = web.AppRunner(sandbox.application(), access_log=None, shutdown_timeout=1.0)
    try:
        await runner.setup()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # small, so that at maximum speed the market clock is not far ahead of what a client has read
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        try:
            sock.bind((host, port))
        except OSError as error:
            sock.close()
            raise ConfigError(
                f"sandbox cannot listen on {host}:{port} ({error.strerror}); choose another port"
            ) from None
        await web.SockSite(runner, sock).start()
        yield sock.getsockname()[1]
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def running(tapes: Sequence[Tape], *, process: bool = False, **options: Any) -> Iterator[SandboxHandle]:
    """A sandbox on a free loopback port while the block runs.

    Parameters
    ----------
    tapes
        One a venue.
    process
        True runs it in a process of its own, which leaves this one's interpreter to the client; the tapes are
        pickled. False runs it in a thread.
    options
        Fields of `SandboxOptions`.

    Raises
    ------
    ConfigError
        An option is unknown or impossible.

    """
    try:
        chosen = SandboxOptions(**options)
    except TypeError as error:
        raise ConfigError(f"sandbox: {error}") from None
    with (_in_process if process else _in_thread)(tapes, chosen) as port:
        yield SandboxHandle(port)


@contextlib.contextmanager
def _in_thread(tapes: Sequence[Tape], options: SandboxOptions) -> Iterator[int]:
    sandbox = Sandbox(tapes, options)
    started = threading.Event()
    shared: dict[str, Any] = {}

    async def main() -> None:
        shared["loop"], shared["stop"] = asyncio.get_running_loop(), asyncio.Event()
        async with _listening(sandbox, "127.0.0.1", 0) as port:
            shared["port"] = port
            started.set()
            await shared["stop"].wait()

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits
            shared["error"] = error
        finally:
            started.set()

    thread = threading.Thread(target=work, name="sandbox", daemon=True)
    thread.start()
    started.wait(_START_S)
    if "port" not in shared:
        raise shared.get("error") or ConfigError("sandbox did not start")
    try:
        yield shared["port"]
    finally:
        with contextlib.suppress(RuntimeError):  # its loop is closed already: it ended by itself
            shared["loop"].call_soon_threadsafe(shared["stop"].set)
        thread.join(_STOP_S)
        if "error" in shared:
            raise shared["error"]


@contextlib.contextmanager
def _in_process(tapes: Sequence[Tape], options: SandboxOptions) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(tapes, options, theirs), name="sandbox", daemon=True)
    child.start()
    theirs.close()
    try:
        yield _first_word(ours)
    finally:
        ours.close()
        if child.is_alive():
            child.terminate()
        child.join(_STOP_S)
        if child.is_alive():
            child.kill()
            child.join()
        child.close()


def _first_word(pipe: Any) -> int:
    """The child's port, or its error."""
    try:
        word = pipe.recv() if pipe.poll(_START_S) else "it did not start in time"
    except EOFError:
        word = "its process ended"
    if isinstance(word, int):
        return word
    raise ConfigError(f"sandbox: {word}")


def _child(tapes: Sequence[Tape], options: SandboxOptions, pipe: Pipe) -> None:
    try:
        asyncio.run(_serve(Sandbox(tapes, options), "127.0.0.1", 0, pipe.send))
    except QlibCryptoError as error:
        pipe.send(str(error))
    finally:
        pipe.close()
