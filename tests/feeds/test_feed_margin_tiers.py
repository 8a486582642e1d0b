"""OKX's margin tiers as its client reads them: in coins, a page of five contracts, one bad contract alone."""

from __future__ import annotations

import pytest
from support_lake import BTC, ETH, spec
from support_wire import client_of

from qlib_crypto.errors import SchemaError, VenueError
from qlib_crypto.market.margin import MarginTable, MarginTier
from qlib_crypto.symbols import Instrument, Venue

PATH = "/api/v5/public/position-tiers"


def row(family="BTC-USDT", tier=1, least="0", largest="500", mmr="0.004", lever="100", **changes):
    return {
        "baseMaxLoan": "", "imr": "0.01", "instFamily": family, "instId": "", "maxLever": lever, "maxSz": largest,
        "minSz": least, "mmr": mmr, "optMgnFactor": "0", "quoteMaxLoan": "", "tier": str(tier), "uly": family,
        **changes,
    }  # fmt: skip


NEXT = row(tier=2, least="500.01", largest="1000", mmr="0.005", lever="75")


class Refusing:
    """An HTTP core that knows some families only, and refuses a request that names another."""

    def __init__(self, known, *, final=True):
        self.known, self.final, self.asked = known, final, []

    def get(self, path, **params):
        assert (path, params["instType"], params["tdMode"]) == (PATH, "SWAP", "cross")
        families = params["instFamily"].split(",")
        self.asked.append(families)
        if set(families) - set(self.known):
            raise VenueError("okx: 51001", final=self.final, retryable=not self.final)
        return {"data": [row(family) for family in families]}


def test_sizes_are_coins_and_rates_hold_for_the_whole_position():
    client = client_of(Venue.OKX, {PATH: {"data": [NEXT, row(), row("BTC-USDC", largest="7")]}})
    (page,) = client.margin_tiers([spec(BTC, contract_value_base=0.01)])
    tiers = (MarginTier(0.0, 5.0, 0.004, 100.0), MarginTier(5.0, 10.0, 0.005, 75.0))
    assert page == ({BTC: MarginTable(tiers, by_quantity=True, source="venue")}, [])


def test_rows_that_name_only_the_underlying_are_taken():
    client = client_of(Venue.OKX, {PATH: {"data": [row(instFamily="")]}})
    (page,) = client.margin_tiers([spec(BTC)])
    assert set(page.tables) == {BTC}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("ETH-USDT")], "has no tier"),
        ([row("ETH-USDT"), row(mmr="")], "mmr is missing"),
        ([row("ETH-USDT"), row(largest="many")], "'many' is no number"),
        ([row("ETH-USDT"), row(), row(least="700", largest="900")], "the next begins at"),
        ([row("ETH-USDT"), NEXT], "the next begins at"),
        ([row("ETH-USDT"), row(mmr="0.05"), NEXT], "asks less than the one before"),
    ],
)
def test_a_contract_whose_rows_make_no_table_is_told_and_costs_the_others_nothing(rows, said):
    client = client_of(Venue.OKX, {PATH: {"data": rows}})
    (page,) = client.margin_tiers([spec(BTC), spec(ETH)])
    assert set(page.tables) == {ETH}
    (line,) = page.refused
    assert "BTC_USDT.OKX" in line
    assert said in line


def test_five_contracts_a_request_and_one_that_is_refused_alone():
    names = [f"C{n}" for n in range(7)]
    specs = [spec(Instrument(name, "USDT", Venue.OKX)) for name in names]
    http = Refusing({f"{name}-USDT" for name in names} - {"C2-USDT"})
    pages = list(client_of(Venue.OKX, http).margin_tiers(specs))
    assert [len(families) for families in http.asked] == [5, 1, 1, 1, 1, 1, 2]
    assert [of.base for page in pages for of in page.tables] == [name for name in names if name != "C2"]
    assert [line for page in pages for line in page.refused] == ["margin tiers of C2_USDT.OKX: okx: 51001"]


def test_a_venue_that_does_not_answer_ends_the_walk_and_another_shape_is_an_error():
    http = Refusing(set(), final=False)
    with pytest.raises(VenueError):
        list(client_of(Venue.OKX, http).margin_tiers([spec(BTC), spec(ETH)]))
    assert len(http.asked) == 1
    with pytest.raises(SchemaError, match="instead of a list"):
        list(client_of(Venue.OKX, {PATH: {"data": None}}).margin_tiers([spec(BTC)]))


def test_binance_keeps_its_brackets_to_itself():
    assert list(client_of(Venue.BINANCE, {}).margin_tiers([spec(Instrument("BTC", "USDT", Venue.BINANCE))])) == []
