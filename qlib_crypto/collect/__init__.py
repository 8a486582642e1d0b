"""From the venues into the lake: the streaming collector, back-fill, repair, reconciliation, import of files."""

from qlib_crypto.collect.backfill import BackfillSummary, backfill, backfill_funding, fetch
from qlib_crypto.collect.collector import collect
from qlib_crypto.collect.following import recent_leavers
from qlib_crypto.collect.importer import ImportResult, import_data
from qlib_crypto.collect.listed import refresh_instruments
from qlib_crypto.collect.margin_tiers import refresh_tiers
from qlib_crypto.collect.parts import CollectSummary, Pace
from qlib_crypto.collect.plan import BackfillPlan
from qlib_crypto.collect.reconcile import Comparison, ReconcileReport, reconcile
from qlib_crypto.collect.repair import RepairSummary, repair
from qlib_crypto.collect.status import CollectorStatus, followed, read_status

__all__ = [
    "BackfillPlan",
    "BackfillSummary",
    "CollectSummary",
    "CollectorStatus",
    "Comparison",
    "ImportResult",
    "Pace",
    "ReconcileReport",
    "RepairSummary",
    "backfill",
    "backfill_funding",
    "collect",
    "fetch",
    "followed",
    "import_data",
    "read_status",
    "recent_leavers",
    "reconcile",
    "refresh_instruments",
    "refresh_tiers",
    "repair",
]
