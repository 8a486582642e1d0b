"""Single values of a workflow file, checked, with the place they stand at in the message."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from qlib_crypto.clock import iso, parse_utc
from qlib_crypto.errors import ConfigError, hint
from qlib_crypto.symbols import Interval

_MINUTE_DIGITS = len("2025-04-17 16:50")


def full_time(where: str, value: Any, interval: Interval | None) -> int:
    """The instant of a full timestamp, a bar's open when an interval is given.

    Qlib reads a bare date as its 00:00 or as the whole day, by its YAML type.
    """
    bare = isinstance(value, date) and not isinstance(value, datetime)
    if bare or not isinstance(value, str | datetime) or (isinstance(value, str) and len(value) < _MINUTE_DIGITS):
        raise ConfigError(f"{where} {value!s:.40}: write a full UTC time such as 2025-04-17 16:00:00")
    try:
        at = parse_utc(value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if (datetime.fromisoformat(value.strip()) if isinstance(value, str) else value).tzinfo is not None:
        raise ConfigError(f"{where} {value}: Qlib compares times without a zone; write {iso(at)}, which is UTC")
    if interval is not None and at % interval.ms:
        raise ConfigError(
            f"{where} {iso(at)} is not the open of a {interval.qlib} bar; write {iso(interval.floor(at))}"
        )
    return at


def mapping(where: str, value: Any) -> Mapping[str, Any]:
    """The value, which must be a mapping."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be a mapping, not {value!r}")
    return value


def known_keys(where: str, config: Mapping[str, Any], known: tuple[str, ...], *, required: tuple[str, ...]) -> None:
    """Refuses keys that are unknown or missing."""
    for key in config:
        if key not in known:
            raise ConfigError(f"{where}: key {key} is unknown{hint(str(key), known)}")
    for key in required:
        if key not in config:
            raise ConfigError(f"{where}: key {key} is missing; see workflows/lightgbm_60min.yaml")
