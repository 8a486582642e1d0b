"""What market and clock the long-running commands work with, and the sandbox."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from qlib_crypto.clock import DAY_MS, MINUTE_MS, Clock, VenueClock, WallClock, iso, parse_utc
from qlib_crypto.collect.market_time import MarketTime
from qlib_crypto.errors import ConfigError, QlibCryptoError, VenueError
from qlib_crypto.feeds import RestClient
from qlib_crypto.sandbox.tape import Tape
from qlib_crypto.symbols import Venue

_SANDBOX_DAYS = 2
_CLOCKS_APART_MS = 5 * MINUTE_MS


def open_tape(tape: str, venue: Venue, *, seed: int | None = None, signal_strength: float | None = None) -> Tape:
    """The tape of a folder of Parquet, or the generator's market when `tape` is empty or `generator`."""
    if tape in {"", "generator"}:
        from qlib_crypto.sandbox.generator import GeneratorTape
        from qlib_crypto.sandbox.generator_config import GeneratorConfig

        config = GeneratorConfig(venue=venue)
        if seed is not None:
            config = dataclasses.replace(config, seed=seed)
        if signal_strength is not None:
            config = dataclasses.replace(config, signal_strength=signal_strength)
        return GeneratorTape(config)
    from qlib_crypto.sandbox.tape_files import FileTape

    return FileTape(Path(tape), venue)


def market_clock(kind: str, client: RestClient) -> Clock:
    """The wall, or the venue's own time.

    Raises
    ------
    ConfigError
        The kind is unknown, or the wall is asked for while the venue's clock reads another time: every bar would
        then be due at the wrong time.

    """
    if kind == "wall":
        theirs, ours = client.server_time_ms(), WallClock().now_ms()
        if abs(theirs - ours) > _CLOCKS_APART_MS:
            raise ConfigError(
                f"{client.venue}'s clock reads {iso(theirs)}, this machine's {iso(ours)}; against a sandbox add "
                "--clock venue, otherwise set this machine's clock"
            )
        return WallClock()
    if kind == "venue":
        return VenueClock(client.server_time_ms, refresh_s=1.0)
    raise ConfigError(f"--clock {kind!r}: write wall or venue")


class SteadyClock:
    """Market time as `MarketTime` reads it in its thread, as a clock; `stop` ends the thread."""

    def __init__(self, time: MarketTime) -> None:
        self._time = time
        self.stop = time.stop
        time.start()

    def now_ms(self) -> int:
        """Market time now; asks nobody and returns at once."""
        return self._time.now_ms


def steady_clock(kind: str, client: RestClient, say: Callable[[str], None]) -> SteadyClock:
    """A `market_clock` that the venue confirms again and again, so that a step of this machine's clock moves nothing.

    Where the venue does not answer, the wall is believed until it does; the venue's own time cannot be had without it.

    Raises
    ------
    ConfigError
        As `market_clock`.
    VenueError
        The venue's time is asked for, and it does not answer.

    """
    try:
        clock = market_clock(kind, client)
    except VenueError:
        if kind != "wall":
            raise
        clock = WallClock()
    return SteadyClock(MarketTime(clock, client.server_time_ms, say, ask_first=kind != "wall"))


def run_sandbox(
    *,
    tape: str,
    venues: Sequence[Venue],
    port: int,
    speed: str,
    at: str,
    until: str,
    hold_streams: int,
    seed: int | None,
    signal_strength: float | None,
    rate_scale: float | None,
) -> None:
    """Serve the tape of every venue that has one, until a signal."""
    from qlib_crypto.sandbox.serve import serve
    from qlib_crypto.sandbox.server import SandboxOptions

    if tape not in {"", "generator"} and not Path(tape).is_dir():
        raise ConfigError(f"tape {tape} is no folder; give one with candles/ and funding/, or `generator`")
    tapes, refused = [], []
    for venue in venues:
        try:
            tapes.append(open_tape(tape, venue, seed=seed, signal_strength=signal_strength))
        except QlibCryptoError as error:
            refused.append(error)
    if not tapes:
        raise refused[0]
    start = parse_utc(at) if at else max(t.span_ms[1] for t in tapes) - _SANDBOX_DAYS * DAY_MS
    options = SandboxOptions(
        speed=speed,
        at=start,
        until=until or None,
        hold_streams=hold_streams,
        rate_scale=1.0 if rate_scale is None else rate_scale,
    )
    serve(tapes, port=port, options=options, say=lambda line: print(line, flush=True))  # noqa: T201 - the address
