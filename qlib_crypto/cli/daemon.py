"""Commands of the daemon: daemon, and its worker."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from qlib_crypto.cli.options import (
    ClockOption,
    ConfigOption,
    EndpointOption,
    LakeOption,
    ProviderOption,
    RateScaleOption,
    VenueOption,
    settings_from,
)
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Venue

if TYPE_CHECKING:
    from qlib_crypto.clock import Clock
    from qlib_crypto.collect.status import CollectorStatus

#: Of the options given to the daemon, those that a command of its knows.
_KNOWN = {
    "collect": ("--config", "--lake", "--endpoint", "--rate-scale", "--clock"),
    "work": ("--config", "--lake", "--endpoint", "--rate-scale"),
    "backfill": ("--config", "--lake", "--endpoint", "--rate-scale"),
    "convert": ("--config", "--lake", "--provider"),
    "run": ("--config", "--lake", "--provider"),
    "push": ("--config", "--lake"),
    "health": ("--config", "--lake"),
}


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(daemon)
    app.command(hidden=True)(work)


def daemon(
    venue: Annotated[str, typer.Option(help="okx, binance, or both; empty: those enabled in the settings.")] = "",
    collect: Annotated[
        bool, typer.Option("--collect/--no-collect", help="Without: something else keeps the collectors running.")
    ] = True,
    clock: ClockOption = "wall",
    endpoint: EndpointOption = None,
    rate_scale: RateScaleOption = None,
    lake: LakeOption = None,
    provider: ProviderOption = None,
    config: ConfigOption = None,
) -> None:
    """Collect, rank, repair, seal, convert and keep up on time; stops cleanly on Ctrl-C or SIGTERM.

    What is due when is in the settings (schedule); what was done is in the job table, see: qlib-crypto jobs list.
    """
    stopping = threading.Event()
    with _stopped_by_signals(stopping), ExitStack() as over:
        import structlog

        from qlib_crypto.cli.running import steady_clock
        from qlib_crypto.daemon.newer import has_newer
        from qlib_crypto.daemon.run import Daemon
        from qlib_crypto.feeds import rest_client
        from qlib_crypto.watch.beside import watching
        from qlib_crypto.watch.logs import configure_logs

        os.environ["LOG_FORMAT"] = configure_logs()  # what it starts writes the same lines
        settings = settings_from(config, lake=lake, provider=provider, endpoint=endpoint, rate_scale=rate_scale)
        venues = _venues(venue, [v for v in Venue if settings.venue(v).enabled])
        if clock not in {"wall", "venue"}:
            raise ConfigError(f"--clock {clock!r}: write wall or venue")
        given = {"--config": config, "--lake": lake, "--provider": provider, "--endpoint": endpoint,
                 "--rate-scale": rate_scale, "--clock": clock}  # fmt: skip
        log = structlog.get_logger(__name__)
        clients = {v: rest_client(v, settings.venue(v)) for v in venues}
        for client in clients.values():
            over.callback(client.close)

        def options(command: str) -> list[str]:
            known = [(name, given[name]) for name in _KNOWN[command] if given[name] is not None]
            return [part for name, value in known for part in (name, str(value))]

        def market() -> Clock:
            made = steady_clock(clock, clients[venues[0]], lambda line: log.warning("clock", told=line))
            over.callback(made.stop)
            return made

        def newer(status: CollectorStatus) -> bool:
            return has_newer(clients[Venue.parse(status.venue)], status)

        Daemon(
            market, settings, venues, newer, options=options, collect=collect, stopping=stopping,
            beside=partial(watching, settings, venues),
        ).run()  # fmt: skip


def work(
    venue: VenueOption,
    endpoint: EndpointOption = None,
    rate_scale: RateScaleOption = None,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Do the daemon's jobs of one venue: requests on standard input, answers on standard output."""
    from qlib_crypto.daemon.work import Site
    from qlib_crypto.daemon.worker import serve
    from qlib_crypto.watch.logs import configure_logs

    configure_logs()
    at = Venue.parse(venue)
    settings = settings_from(config, lake=lake, venue=at, endpoint=endpoint, rate_scale=rate_scale)
    serve(Site.of(at, settings).do)


def _venues(text: str, enabled: list[Venue]) -> list[Venue]:
    venues = {"": enabled, "both": list(Venue)}.get(text) or ([Venue.parse(text)] if text else [])
    if not venues:
        raise ConfigError("no venue is enabled; set okx.enabled or binance.enabled in config.yaml, or give --venue")
    return venues


@contextmanager
def _stopped_by_signals(stopping: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT ask to stop from the first moment on, also while libraries load."""
    before = {n: signal.signal(n, lambda *_: stopping.set()) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
