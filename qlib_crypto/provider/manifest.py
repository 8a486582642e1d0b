"""`manifest.json`: what a provider holds and what it was made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from qlib_crypto.clock import iso, parse_utc
from qlib_crypto.errors import SchemaError
from qlib_crypto.provider.calendar import Grid
from qlib_crypto.provider.instruments import Memberships
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval

NAME = "manifest.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Frequency(_Part):
    """The calendar of one frequency: `origin` (UTC) of slot 0, stored slots, and slots with the future ones."""

    origin: str
    length: int
    future_length: int

    @classmethod
    def of(cls, grid: Grid, future_days: int) -> Frequency:
        """The record of a grid."""
        return cls(
            origin=iso(grid.origin_ms), length=grid.length, future_length=grid.extended(future_days).length
        )  # fmt: skip

    @property
    def origin_ms(self) -> int:
        """Open of slot 0, Unix milliseconds."""
        return parse_utc(self.origin)


class Manifest(_Part):
    """One finished conversion.

    Attributes
    ----------
    generation
        Counts the conversions that changed this provider.
    code_version
        Of qlib-crypto.
    lake_content
        `Lake.content_hash()` when the conversion began reading.
    settings, memberships
        What was asked for; of the memberships a hash.
    fields
        The fields of every instrument at every frequency it has.
    extra_fields
        By instrument: those that it has beside them, at every frequency too.
    frequencies
        By Qlib's name (`60min`).
    instruments
        By Qlib's name (`BTC_USDT.OKX`) and frequency: first slot and number of slots.
    settlement_prices
        By instrument: how many settlements were valued at the venue's `mark`, at the `trade` price of the settlement's
        minute, or are of `unknown` price.

    """

    format: Literal[1] = 1
    generation: int
    code_version: str
    lake_content: str
    settings: ProviderSettings
    memberships: str
    fields: tuple[str, ...]
    extra_fields: dict[str, tuple[str, ...]] = {}
    frequencies: dict[str, Frequency]
    instruments: dict[str, dict[str, tuple[int, int]]]
    settlement_prices: dict[str, dict[str, int]]

    def fields_of(self, instrument: str) -> tuple[str, ...]:
        """The fields of one instrument."""
        return (*self.fields, *self.extra_fields.get(instrument, ()))

    @property
    def all_fields(self) -> tuple[str, ...]:
        """The fields that any instrument has."""
        return (*self.fields, *dict.fromkeys(name for of in self.extra_fields.values() for name in of))

    def grid(self, frequency: str) -> Grid:
        """The stored slots of one frequency."""
        stored = self.frequencies[frequency]
        return Grid(Interval.parse(frequency), stored.origin_ms, stored.length)

    def span_ms(self, instrument: str, frequency: str) -> tuple[int, int]:
        """Open of an instrument's first and last slot."""
        return _span(self.grid(frequency), *self.instruments[instrument][frequency])

    def spans_ms(self) -> dict[Instrument, dict[Interval, tuple[int, int]]]:
        """`span_ms` of all."""
        grids = {name: self.grid(name) for name in self.frequencies}
        return {
            Instrument.parse(name): {grids[freq].interval: _span(grids[freq], *span) for freq, span in own.items()}
            for name, own in self.instruments.items()
        }


def _span(grid: Grid, start: int, length: int) -> tuple[int, int]:
    return grid.open_ms(start), grid.open_ms(start + length - 1)


def membership_hash(memberships: Memberships) -> str:
    """A hash of who was in which market when."""
    plain = {
        name: {of.qlib: spans for of, spans in members.items()} for name, members in memberships.items() if members
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def manifest_text(manifest: Manifest) -> bytes:
    """`manifest.json`, with keys in order, so that equal conversions write equal bytes."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(manifest.model_dump(mode="json"), option=option)


def write_manifest(provider_dir: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into a folder."""
    (provider_dir / NAME).write_bytes(manifest_text(manifest))


def read_manifest(provider_dir: Path) -> Manifest | None:
    """The provider's manifest, None when the folder has none.

    Raises
    ------
    SchemaError
        When the file is not a manifest of this version.

    """
    path = provider_dir / NAME
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise SchemaError(
            f"{path} cannot be read ({where}: {first['msg']}); make the provider anew with: qlib-crypto convert --full"
        ) from None
