"""How a market was chosen, told truthfully."""

from __future__ import annotations

import pytest

from qlib_crypto.report.universe import chosen, rule, survivorship

START = "2025-02-01 00:00:00"


@pytest.fixture
def provider(tmp_path):
    """Three instruments on OKX, two of them ranked from March on, one of them twice."""
    folder = tmp_path / "instruments"
    folder.mkdir()

    def write(name, *lines):
        (folder / f"{name}.txt").write_text("".join("\t".join(line) + "\n" for line in lines))

    end = "2025-06-01 00:00:00"
    write("okx_60min", *((f"{coin}_USDT.OKX", "2025-01-01 00:00:00", end) for coin in ("BTC", "ETH", "SOL")))
    write("binance_60min", ("BTC_USDT.BINANCE", "2025-01-01 00:00:00", end))
    ranked = (
        ("BTC_USDT.OKX", "2025-04-01 00:00:00", end),
        ("ETH_USDT.OKX", "2025-03-01 08:00:00", "2025-03-01 15:59:59"),
        ("ETH_USDT.OKX", "2025-05-01 00:00:00", end),
    )
    write("top50", *ranked)
    write("top50_60min", *ranked)
    return tmp_path


def test_a_venues_market_ranked_after_the_test_began_was_chosen_with_hindsight(provider):
    universe = chosen(provider, "okx_60min")
    assert universe == {
        "market": "okx_60min", "listed": 3, "ranked": 2, "first_ranking": "2025-03-01 08:00:00", "point_in_time": False,
    }  # fmt: skip
    assert "2 of 3 are members" in rule(universe)
    assert "first made 2025-03-01 08:00 UTC" in rule(universe)
    assert survivorship(universe, START).startswith(
        "Chosen with hindsight: 2 of 3 are from a ranking first made 2025-03-01 08:00"
    )
    assert not survivorship(universe, "2025-05-01 00:00:00").startswith("Chosen with hindsight")


def test_members_are_point_in_time(provider):
    universe = chosen(provider, "top50_60min")
    assert universe["point_in_time"]
    assert "each while it was one; first ranked 2025-03-01 08:00 UTC" in rule(universe)
    assert "none was picked with hindsight" in survivorship(universe, START)


def test_without_a_ranking_or_a_market_file(provider):
    assert "none of them was ever ranked" in rule(chosen(provider, "binance_60min"))
    (provider / "instruments" / "top50.txt").unlink()
    assert chosen(provider, "okx_60min")["first_ranking"] is None
    assert chosen(provider, "list") == {}
    assert rule({}) == "a list of instruments"
    assert "makes the past look better" in survivorship({}, START)
