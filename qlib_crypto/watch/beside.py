"""What the daemon does beside its work: serves metrics, and looks for what is to be alerted."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import structlog

from qlib_crypto.errors import ConfigError
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Venue
from qlib_crypto.watch.alerts import Alerts, sender
from qlib_crypto.watch.judge import judge
from qlib_crypto.watch.metrics import serving
from qlib_crypto.watch.observe import observe

log = structlog.get_logger(__name__)

#: What was alerted, in the lake's folder.
FILE = "alerts.json"
_LOOK_S = 60.0
_HOUR_S = 3_600.0
_STOP_S = 30.0


def alerts(settings: Settings) -> Alerts:
    """The alerts of a lake, to the addresses of the settings."""
    send = sender(settings.alert_urls.get_secret_value())
    return Alerts(send, settings.lake_dir / FILE, repeat_s=settings.watch.repeat_hours * _HOUR_S)


@contextmanager
def watching(
    settings: Settings, venues: Sequence[Venue], *, look_s: float = _LOOK_S, port: int | None = None
) -> Iterator[str]:
    """Metrics and alerts while the block runs; the address of the metrics, empty when they are off.

    The first look is `look_s` wall seconds after the start: until then collectors have begun to say something. A port
    that is taken is told and costs the metrics, not the daemon.

    Raises
    ------
    ConfigError
        An alert address cannot be read.

    """
    telling, over = alerts(settings), threading.Event()

    def look() -> None:
        while not over.wait(look_s):
            try:
                telling.look(judge(observe(settings, venues), settings))
            except Exception:  # whatever cannot be read now, the next look may
                log.exception("the lake cannot be looked at for alerts, tried again")

    with ExitStack() as stack:
        address = ""
        try:
            address = stack.enter_context(serving(settings, venues, port=port))
        except ConfigError as error:
            log.warning("no metrics", why=str(error))
        if address:
            log.info("metrics served", address=address)
        thread = threading.Thread(target=look, name="alerts", daemon=True)
        thread.start()
        try:
            yield address
        finally:
            over.set()
            thread.join(_STOP_S)
