"""From the venues into the lake: the streaming collector, back-fill by REST, import of files."""

from qlib_crypto.collect.backfill import BackfillSummary, backfill, backfill_funding
from qlib_crypto.collect.collector import collect
from qlib_crypto.collect.importer import ImportResult, import_parquet
from qlib_crypto.collect.parts import CollectSummary, Pace

__all__ = [
    "BackfillSummary",
    "CollectSummary",
    "ImportResult",
    "Pace",
    "backfill",
    "backfill_funding",
    "collect",
    "import_parquet",
]
