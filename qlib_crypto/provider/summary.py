"""What a conversion did, for people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qlib_crypto.clock import iso
from qlib_crypto.errors import counted
from qlib_crypto.provider.funding import PRICE_SOURCES
from qlib_crypto.provider.manifest import Manifest


@dataclass(frozen=True, slots=True)
class ConvertSummary:
    """What a conversion did.

    Attributes
    ----------
    changed
        False when the provider already held this lake under these settings.
    provider_dir
        Where it is.
    manifest
        What it holds now.
    rebuilt
        True when everything was built anew, False when what changed was put in place.
    bars
        Bars that were computed, by frequency (`60min`), over all instruments; empty when nothing changed.
    incomplete
        Bars between those, by frequency, that are missing because the lake has only a part of them.
    skipped
        Frequencies asked for that the lake has no complete bar of.
    notes
        What a person should know: a calendar that now starts earlier.

    """

    changed: bool
    provider_dir: Path
    manifest: Manifest
    rebuilt: bool = False
    bars: Mapping[str, int] = field(default_factory=dict)
    incomplete: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def settlement_prices(self) -> dict[str, int]:
        """Settlements by where their price came from, over all instruments: `mark`, `trade`, `unknown`."""
        counts = self.manifest.settlement_prices.values()
        return {source: sum(count[source] for count in counts) for source in PRICE_SOURCES}

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "provider": str(self.provider_dir),
            "changed": self.changed,
            "rebuilt": self.rebuilt,
            "instruments": len(self.manifest.instruments),
            "bars": dict(self.bars),
            "incomplete": dict(self.incomplete),
            "skipped": list(self.skipped),
            "settlement_prices": self.settlement_prices,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        if not self.changed:
            return f"{self.provider_dir} already holds this lake; --full builds it anew"
        lines = [f"{self.provider_dir} holds {counted(len(self.manifest.instruments), 'instrument')}"]
        for name, bars in self.bars.items():
            grid = self.manifest.grid(name)
            first, last = iso(grid.origin_ms), iso(grid.open_ms(grid.length - 1))
            computed = "" if self.rebuilt else " computed"
            broken = self.incomplete.get(name)
            parts = f", {broken:,} between them lack a part" if broken else ""
            lines.append(f"{name}: {counted(bars, 'bar')}{computed}{parts}, calendar {first} to {last}")
        if self.skipped:
            lines.append(f"no complete bar of {' '.join(self.skipped)}")
        prices = ", ".join(f"{count:,} {source}" for source, count in self.settlement_prices.items())
        return "\n".join([*lines, f"settlements by price: {prices}", *self.notes])
