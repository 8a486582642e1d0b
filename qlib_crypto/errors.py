"""The errors of qlib-crypto, one tree, by who must act.

.. code-block:: text

    QlibCryptoError            exit 1  catching this one is always meaningful
    ├── ConfigError            exit 2  the user: a setting, an option, a workflow key
    ├── VenueError             exit 1  the venue or the network; `retryable` says whether waiting helps
    ├── StorageError           exit 1  the operator: disk full, permission, another writer
    ├── DataError              exit 3  the data is not good enough for what was asked
    │   ├── GapError                   bars or settlements are missing
    │   ├── SchemaError                a file or message has another shape than agreed
    │   └── UnconfirmedBarError        an open bar was about to be stored
    ├── LookaheadError         exit 3  a value would have been known before its time
    └── MarginError            exit 1  an order or position that the margin rules refuse

A message is one line: what, where, the value, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "ConfigError",
    "DataError",
    "GapError",
    "LookaheadError",
    "MarginError",
    "QlibCryptoError",
    "SchemaError",
    "StorageError",
    "UnconfirmedBarError",
    "VenueError",
    "counted",
    "hint",
]


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 bar`, `2,880 bars`; `plural` where an s is not enough. For messages."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def hint(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` when a known name is close, otherwise the known names, otherwise nothing."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(names)}" if names else ""


class QlibCryptoError(Exception):
    """The base of every error this package raises on purpose."""

    exit_code = 1


class ConfigError(QlibCryptoError):
    """A setting, option, symbol, interval or workflow key that cannot be right."""

    exit_code = 2


class VenueError(QlibCryptoError):
    """The venue answered with an error, or did not answer.

    Attributes
    ----------
    retryable
        True when the same request may succeed after a wait.
    final
        True when it is about this very request, and others may succeed: no such instrument, a wrong parameter, a bulk
        file that stays damaged. To ask at once again is vain.
    retry_after_s
        Seconds the venue asked us to wait, None when it did not say.

    """

    def __init__(
        self, message: str, *, retryable: bool = False, final: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.final = final
        self.retry_after_s = retry_after_s


class StorageError(QlibCryptoError):
    """The disk refused: full, not writable, or held by another process."""


class DataError(QlibCryptoError):
    """The data is not good enough for what was asked."""

    exit_code = 3


class GapError(DataError):
    """Bars or settlements that are needed are missing."""


class SchemaError(DataError):
    """A file or message has another shape than agreed."""


class UnconfirmedBarError(DataError):
    """A bar that the venue has not confirmed was about to be stored."""


class LookaheadError(QlibCryptoError):
    """A value would have been used before it was known."""

    exit_code = 3


class MarginError(QlibCryptoError):
    """The margin rules refuse this order or position."""
