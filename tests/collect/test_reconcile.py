"""Reconciliation: what each source says, counted; the better one kept, the older remembered."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from support_lake import BTC, ETH, M1, T0, FakeVenue, bar, spec
from test_repair import Files

from qlib_crypto.clock import DAY_MS, MINUTE_MS
from qlib_crypto.collect import reconcile
from qlib_crypto.collect.reconcile import COLUMNS, compare
from qlib_crypto.errors import VenueError
from qlib_crypto.lake.tables import BARS
from qlib_crypto.symbols import Venue

END = T0 + 60 * MINUTE_MS
VALUES = st.dictionaries(
    st.integers(0, 9), st.tuples(*([st.sampled_from([1.0, 2.0])] * 5), *([st.sampled_from([None, 1.0, 2.0])] * 2))
)


@given(VALUES, VALUES)
def test_every_row_is_counted_once(here, there):
    found = compare(here, there)
    assert found.only_here == len(set(here) - set(there))
    assert found.only_there == len(set(there) - set(here))
    assert found.equal + found.different == len(set(here) & set(there))
    assert (found.different == 0) == (sum(found.differing.values()) == 0)
    back = compare(there, here)
    assert (back.equal, back.differing) == (found.equal, found.differing)
    for k, name in enumerate(COLUMNS):
        both = [(here[t][k], there[t][k]) for t in set(here) & set(there)]
        assert found.differing.get(name, 0) == sum(a is not None and b is not None and a != b for a, b in both)


def run(lake, client, archive=None, end=END):
    return reconcile(lake, client, archive, [BTC], M1, T0, end)


def venue(*bars):
    client = FakeVenue(now_ms=T0 + DAY_MS)
    client.list(spec(BTC))
    client.add_bars(*bars)
    return client


def test_a_damaged_bulk_file_or_an_archive_that_is_down_costs_the_rest_nothing(lake):
    truth = [bar(k, of=of) for of in (BTC, ETH) for k in range(60)]
    for final in (True, False):
        client = venue(*truth)
        client.list(spec(ETH))
        lake.store([b for b in truth if b.open_ms != T0 + 7 * MINUTE_MS])

        class Archive(Files):
            def bars(self, *asked, final=final):
                self.asked.append(asked)
                raise VenueError("okx archive file is damaged", retryable=True, final=final)

        archive, told = Archive(published=END), []
        reconcile(lake, client, archive, [BTC, ETH], M1, T0, END, told.append)
        assert len(archive.asked) == len(told) == (2 if final else 1)
        assert all(len(lake.bars(of, M1)) == 60 for of in (BTC, ETH))


def test_a_row_that_cannot_be_right_is_kept_away_and_nothing_was_repaired_by_it(lake):
    lake.store([bar(k) for k in range(59)])
    client = venue(*(bar(k) for k in range(59)), bar(59)._replace(close=math.nan))
    report = run(lake, client)
    assert (report.stored, report.refused, len(lake.bars(BTC, M1))) == (59, 1, 59)
    assert lake.repairs(Venue.OKX) == []
    assert [row.time_ms for row in lake.quarantined(Venue.OKX)] == [T0 + 59 * MINUTE_MS]


def test_three_sources_are_compared_and_the_best_is_kept(lake):
    truth = [bar(k, close=100.0 + k) for k in range(60)]
    streamed = [b._replace(volume_base=9.0) if b.open_ms == truth[7].open_ms else b for b in truth[:50]]
    lake.store(streamed)
    filed = [b._replace(source="archive", trades=3) for b in truth[:40]]
    filed[5] = filed[5]._replace(close=filed[5].close + 0.5)
    report = run(lake, venue(*truth), Files(filed, published=T0 + 40 * MINUTE_MS))
    ws_rest, ws_archive, rest_archive = (report.pairs[name] for name in ("ws-rest", "ws-archive", "rest-archive"))
    assert (ws_rest.equal, ws_rest.different, dict(ws_rest.differing)) == (49, 1, {"volume": 1})
    assert (ws_rest.only_here, ws_rest.only_there) == (0, 10)
    assert (ws_archive.equal, dict(ws_archive.differing)) == (38, {"volume": 1, "close": 1})
    assert (rest_archive.equal, dict(rest_archive.differing)) == (39, {"close": 1})
    rows = lake.bars(BTC, M1)
    assert rows.column("source").to_pylist() == ["archive"] * 40 + ["rest"] * 20
    assert rows.column("volume").to_pylist() == [2.5] * 60
    assert rows.column("close").to_pylist()[5] == 105.5
    repaired = [(r.start_ms, r.end_ms, r.rows, r.source, r.cause) for r in lake.repairs(Venue.OKX)]
    assert repaired == [(T0 + 50 * MINUTE_MS, END, 10, "rest", "not_collected")]
    again = run(lake, venue(*truth), Files(filed, published=T0 + 40 * MINUTE_MS))
    assert again.stored == 0
    assert again.pairs["ws-rest"].only_there == 0


def test_what_was_replaced_is_kept_as_it_was_known(lake):
    known = bar(3, close=100.0)
    lake.store([known])
    run(lake, venue(bar(3, close=101.0)))
    assert lake.bars(BTC, M1).column("close").to_pylist() == [101.0]
    before = lake.read(BARS, Venue.OKX, BTC, interval=M1, known_ms=known.received_ms)
    assert len(before) == 1


def test_open_bars_do_not_count(lake):
    client = venue(*(bar(k) for k in range(60)))
    client.now_ms = T0 + 30 * MINUTE_MS + 1
    lake.store([bar(k) for k in range(30)])
    pair = run(lake, client).pairs["ws-rest"]
    assert (pair.equal, pair.only_here, pair.only_there) == (30, 0, 0)
