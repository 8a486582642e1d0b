"""Who is in the universe: ranking by funding rate, the current list, and who was a member when."""

from qlib_crypto.lake.universe_file import read_universe, universe_path
from qlib_crypto.universe.membership import Ranking, members, membership_spans, ranking_at, rankings
from qlib_crypto.universe.rank import Ranked, is_eligible, rank, update_universe
from qlib_crypto.universe.rebuild import Rebuilt, rebuild

__all__ = [
    "Ranked",
    "Ranking",
    "Rebuilt",
    "is_eligible",
    "members",
    "membership_spans",
    "rank",
    "ranking_at",
    "rankings",
    "read_universe",
    "rebuild",
    "universe_path",
    "update_universe",
]
