"""What a venue states as a whole, as a part of `Lake`: instruments, margin tiers; and the rankings made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from qlib_crypto import schemas
from qlib_crypto.lake import snapshots
from qlib_crypto.lake.files import read_tables
from qlib_crypto.lake.identified import Identified
from qlib_crypto.lake.paths import UNIVERSE, venue_folder
from qlib_crypto.lake.read import listed
from qlib_crypto.lake.snapshots import TierStates
from qlib_crypto.market.margin import MarginTable
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.symbols import Instrument, Venue


class Stated(Identified):
    """The part of a lake that keeps states with the time at which they were seen; none counts for the time before."""

    def folder(self, venue: Venue) -> Path:
        """The venue's folder."""
        return venue_folder(self.root, venue)

    def store_specs(self, venue: Venue, specs: Sequence[InstrumentSpec]) -> Path:
        """The snapshot file that says these specs: a new one, or the newest when nothing but the time changed."""
        return snapshots.store_specs(self.folder(venue), specs)

    def specs(self, venue: Venue, at_ms: int | None = None) -> dict[Instrument, InstrumentSpec]:
        """The specs last seen of every instrument ever seen; with `at_ms` as they were known then."""
        return snapshots.specs(self.folder(venue), venue, at_ms)

    def spec_states(self, venue: Venue) -> dict[Instrument, tuple[InstrumentSpec, ...]]:
        """Of every instrument each spec that said something else than the one seen before, oldest first."""
        return snapshots.spec_states(self.folder(venue), venue)

    def store_tiers(self, venue: Venue, tables: Mapping[Instrument, MarginTable], at_ms: int) -> Path | None:
        """The new file of the margin tiers, seen at `at_ms`, that differ from those seen last; None when none does.

        Raises
        ------
        StorageError
            The disk refused; nothing is stored.

        """
        return snapshots.store_tiers(self.folder(venue), venue, tables, at_ms)

    def tiers(self, venue: Venue, at_ms: int | None = None) -> dict[Instrument, TierStates]:
        """The margin tiers of every instrument by the time they were seen first, oldest first, no two alike in a row.

        With `at_ms` those known then.
        """
        return snapshots.tiers(self.folder(venue), venue, at_ms)

    def store_membership(self, venue: Venue, table: pa.Table, at_ms: int) -> Path:
        """The new file of one ranking (schema MEMBERSHIP), named by its time."""
        return snapshots.store_membership(self.folder(venue), table, at_ms)

    def memberships(self, venue: Venue) -> pa.Table:
        """Every ranking, oldest first: schema MEMBERSHIP."""
        files = listed(self.folder(venue), UNIVERSE)
        return read_tables([file.path for file in files], schemas.MEMBERSHIP)
