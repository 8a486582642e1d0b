"""What a venue's REST client gives, whichever the venue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from qlib_crypto.errors import ConfigError
from qlib_crypto.market.margin import MarginTable
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import Bar, Estimate, IndexBar, LongShortRatio, MarkBar, OpenInterest, Settlement, Ticker
from qlib_crypto.symbols import Instrument, Interval, Venue


class History(Protocol):
    """History of one venue in pages, from REST or from bulk files; safe to share between threads.

    Pages hold rows of [start, end), each once, only what was over before it was asked for; they come in the venue's
    order, and none is empty. What the venue does not have is not there.

    Every method raises `VenueError` when the venue does not answer or refuses, `SchemaError` when its answer has
    another shape than documented, and `ConfigError` for what it does not serve.
    """

    def bars(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[Bar]]:
        """Pages of confirmed bars by open time."""
        ...

    def settlements(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[Settlement]]:
        """Pages of settled funding."""
        ...

    def marks(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[MarkBar]]:
        """Pages of closed candles of the mark price by open time."""
        ...

    def indexes(
        self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int
    ) -> Iterator[list[IndexBar]]:
        """Pages of closed candles of the index that the contract follows, by open time."""
        ...

    def open_interest(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[OpenInterest]]:
        """Pages of open interest every 5 minutes; the 5 minutes after a row's time are over."""
        ...

    def long_short_ratio(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[LongShortRatio]]:
        """Pages of the long/short ratio of accounts every 5 minutes; the 5 minutes after a row's time are over."""
        ...

    def close(self) -> None:
        """Close the connections; who waits for a limit gets a `VenueError`."""
        ...


class BulkHistory(History, Protocol):
    """History from the bulk files of one venue; see `archive.Archive`."""

    def serves(self, dataset: str) -> bool:
        """Whether there are files of a dataset, named as in the lake."""
        ...

    def published_until_ms(self, now_ms: int, dataset: str) -> int:
        """What is older is in the files by now."""
        ...


class StatedTiers(NamedTuple):
    """Margin tiers as a venue states them now; and why those of other contracts cannot be read, a line each."""

    tables: Mapping[Instrument, MarginTable]
    refused: Sequence[str] = ()


class RestClient(History, Protocol):
    """Public market data of one venue over REST.

    A dataset is named as in the lake: `kline_1m`, `funding`, `mark_1m`, `index_1m`, `open_interest`,
    `long_short_ratio`.
    """

    venue: Venue

    def server_time_ms(self) -> int:
        """The venue's own time."""
        ...

    def specs(self) -> list[InstrumentSpec]:
        """Every linear perpetual, whatever its state; one whose numbers are not published yet is left out."""
        ...

    def tickers(self) -> list[Ticker]:
        """Last price and 24 h turnover of every linear perpetual that has traded."""
        ...

    def estimates(self) -> list[Estimate]:
        """The running funding rate of every linear perpetual that has one."""
        ...

    def margin_tiers(self, specs: Sequence[InstrumentSpec]) -> Iterator[StatedTiers]:
        """The margin tiers of contracts that trade now, in base coins, by pages; none where a venue keeps them secret.

        A contract's size is that of its spec.
        """
        ...

    def reach_ms(self, dataset: str) -> int | None:
        """How far back from now the venue answers; None: as far as it exists, 0: it does not come over REST."""
        ...

    def page_rows(self, dataset: str) -> int:
        """Rows of one full answer."""
        ...

    def requests_per_s(self, dataset: str) -> float:
        """Requests a second that the venue's limit allows one client, at the settings' share."""
        ...


class Served(NamedTuple):
    """How a dataset comes over REST: from which path (for its limit), rows a page, and how far back."""

    path: str
    rows: int
    reach_ms: int | None = None


def kind_of(dataset: str) -> str:
    """A dataset without its interval: `kline` of `kline_1m`, likewise `mark` and `index`, other names as they are."""
    kind = dataset.partition("_")[0]
    return kind if kind in ("kline", "mark", "index") else dataset


def served(table: dict[str, Served], venue: Venue, dataset: str) -> Served:
    """The row of a dataset.

    Raises
    ------
    ConfigError
        It does not come over REST.

    """
    try:
        return table[kind_of(dataset)]
    except KeyError:
        raise ConfigError(
            f"dataset {dataset!r} does not come over REST from {venue}; choose one of: {' '.join(table)}"
        ) from None
