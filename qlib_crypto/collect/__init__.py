"""From the venues into the lake: the streaming collector, back-fill by REST, import of files."""

from qlib_crypto.collect.backfill import BackfillSummary, backfill, backfill_funding
from qlib_crypto.collect.collector import CollectSummary, collect
from qlib_crypto.collect.importer import ImportResult, import_parquet

__all__ = [
    "BackfillSummary",
    "CollectSummary",
    "ImportResult",
    "backfill",
    "backfill_funding",
    "collect",
    "import_parquet",
]
