"""The bulk archive of a venue: history that is older than REST reaches, or that comes faster in files."""

from __future__ import annotations

from collections.abc import Iterator

from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds.transport import Patience
from qlib_crypto.feeds.venues import VENUES
from qlib_crypto.schemas import Bar, IndexBar, LongShortRatio, MarkBar, OpenInterest, Settlement
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue


class Archive:
    """History of one venue from its bulk files, in pages of a day or a month, oldest first; `source` is `archive`.

    Every method that gives pages gives the rows of [start, end), each once; a file that is not published (yet) or a
    time before the contract was listed has no rows and is no error. At most one file and the rows of one month are
    held at a time. Safe to share between threads.

    Parameters
    ----------
    settings
        `archive_url`, `rest_url` (OKX lists its files there), `proxy` and `rate_scale` are used.

    Raises
    ------
    VenueError
        From every method that gives pages: a file is damaged (its name is in the message), or nobody answers.
    SchemaError
        A file is laid out differently than documented.
    ConfigError
        There are no files of what is asked for.

    """

    def __init__(self, venue: Venue, settings: VenueSettings, patience: Patience | None = None) -> None:
        self.venue = venue
        self._files = VENUES[venue].bulk(settings, patience)

    def serves(self, dataset: str) -> bool:
        """Whether there are files of a dataset, named as in the lake (`kline_1m`, `mark_1m`, `funding`, …)."""
        return self._files.serves(dataset)

    def published_until_ms(self, now_ms: int, dataset: str = "kline_1m") -> int:
        """What is older than this is in the files by `now_ms`; funding of Binance lags more, for it comes by month."""
        return self._files.published_until_ms(now_ms, dataset)

    def bars(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[Bar]]:
        """Bars by open time; a day that the file of a month lacks comes from the day's own."""
        self._check(f"kline_{interval}")
        return self._files.bars(instrument, interval, start_ms, end_ms)

    def settlements(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[Settlement]]:
        """Settled funding, without mark prices."""
        self._check("funding")
        return self._files.settlements(instrument, start_ms, end_ms)

    def marks(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[MarkBar]]:
        """Candles of the mark price, as `bars`."""
        self._check(f"mark_{interval}")
        return self._files.marks(instrument, interval, start_ms, end_ms)

    def indexes(
        self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int
    ) -> Iterator[list[IndexBar]]:
        """Candles of the index that the contract follows, as `bars`."""
        self._check(f"index_{interval}")
        return self._files.indexes(instrument, interval, start_ms, end_ms)

    def open_interest(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[OpenInterest]]:
        """Open interest every 5 minutes, labelled as REST labels it."""
        self._check("open_interest")
        return self._files.open_interest(instrument, start_ms, end_ms)

    def long_short_ratio(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[LongShortRatio]]:
        """The long/short ratio of accounts every 5 minutes, labelled as REST labels it."""
        self._check("long_short_ratio")
        return self._files.long_short_ratio(instrument, start_ms, end_ms)

    def close(self) -> None:
        """Close the connections; who waits for a limit gets a `VenueError`."""
        self._files.close()

    def _check(self, dataset: str) -> None:
        if not self.serves(dataset):
            raise ConfigError(f"{self.venue} publishes no bulk files of {dataset}; ask REST instead")
