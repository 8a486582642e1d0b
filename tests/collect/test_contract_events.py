"""Everything that happens to contracts and venues, at high speed: the lake ends with the tape's rows, each hole named.

The oracle is the tape itself; what only REST knows (labels of open interest and ratios) is read from REST at the end.
"""

from __future__ import annotations

import itertools

import pytest
from support_collect import UNLIMITED, lake_paid, lake_rows, paid, tape_rows
from support_lake import M1

from qlib_crypto.clock import MINUTE_MS, VenueClock
from qlib_crypto.collect import Pace, collect, read_status
from qlib_crypto.collect.series import POLLED
from qlib_crypto.feeds import rest_client
from qlib_crypto.lake import Lake
from qlib_crypto.lake.tables import LIQUIDATIONS
from qlib_crypto.sandbox.events import EventConfig, EventTape
from qlib_crypto.sandbox.serve import running
from qlib_crypto.settings import BinanceSettings, OkxSettings
from qlib_crypto.symbols import Venue

PACE = Pace(look_s=0.1, grace_s=0.4, status_s=1.0, retry_s=0.1)


def settings_of(venue, url):
    kind = OkxSettings if venue is Venue.OKX else BinanceSettings
    return kind(rate_scale=UNLIMITED, timer_scale=0.05).at(url)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("venue", "speed"), [(Venue.OKX, 1200), (Venue.OKX, 300), (Venue.BINANCE, 300)])
def test_listings_delistings_reuse_changes_and_outages_end_with_the_tapes_rows(tmp_path, venue, speed):
    config = EventConfig(venue, hours=5, funding_hours=1)
    tape, happens = EventTape(config), config.happens
    span = tape.span_ms
    first = [instrument for instrument in tape.specs if instrument.listing == 1]
    told = []
    with running([tape], process=True, speed=speed, at=span[0], until=span[1], hold_streams=12,
                 rate_scale=UNLIMITED) as sandbox:  # fmt: skip
        settings = settings_of(venue, sandbox.url)
        client, lake = rest_client(venue, settings), Lake(tmp_path)
        summary = collect(
            lake, client, settings, first, M1, clock=VenueClock(client.server_time_ms, refresh_s=0.2),
            since_ms=span[0], until_ms=span[1], say=told.append, pace=PACE,
        )  # fmt: skip
        asked = {
            (name, instrument): sorted(
                {
                    getattr(row, "time_ms", None) or row.open_ms
                    for page in series.pages(client, instrument, *span)
                    for row in page
                }
            )
            for (name, series), instrument in itertools.product(POLLED.items(), first[:2])
        }
        assert sandbox.status()["failed"] is None
        client.close()
    for instrument in tape.specs:
        assert lake_rows(lake, instrument, span) == tape_rows(tape, instrument, span), (instrument, told[-20:])
        if speed < 1000 or tape.specs[instrument].delisted_ms is None:  # a venue refuses the history of what is gone
            assert lake_paid(lake, instrument, span) == paid(tape, instrument, span), instrument
    for (name, instrument), times in asked.items():
        assert times
        assert POLLED[name].times(lake, instrument, *span).tolist() == times, (name, instrument)
    holes = lake.holes(venue, "kline_1m")
    causes = {}
    for hole in holes:
        causes.setdefault((hole.start_ms, hole.end_ms, hole.cause), set()).add(hole.instrument.symbol)
    traded = {i.symbol for i, s in tape.specs.items() if (s.delisted_ms or span[1]) > happens.outage[0]}
    assert causes == {(*happens.outage, "venue_down"): traded, (*happens.quiet, "no_trade"): {"THIN_USDT"}}
    forced = [len(lake.times(LIQUIDATIONS, instrument)) for instrument in first]
    assert sum(forced) > 0
    changed = next(i for i in tape.specs if i.base == "RESIZE")
    assert [lake.specs(venue, at)[changed].lot_base for at in (happens.contract_changes, span[1])] == [
        version.lot_base for version in tape.versions(changed)
    ]
    status = read_status(lake, venue)
    assert (status.running, status.trouble) == (False, None)
    assert summary.stream_bars > 0
    assert all(hole.end_ms - hole.start_ms >= MINUTE_MS for hole in holes)
    lake.close()
