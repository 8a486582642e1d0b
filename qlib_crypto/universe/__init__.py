"""Who is in the universe: ranking by funding rate, the current list, and who was a member when."""

from qlib_crypto.lake.universe_file import read_universe, universe_path
from qlib_crypto.universe.rank import Ranked, is_eligible, membership_spans, rank, update_universe

__all__ = [
    "Ranked",
    "is_eligible",
    "membership_spans",
    "rank",
    "read_universe",
    "universe_path",
    "update_universe",
]
