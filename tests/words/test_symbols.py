import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.clock import DAY_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import QUOTES, Instrument, Interval, Venue, venue_bar

bases = st.text(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"), min_size=1, max_size=10)
instruments = st.builds(Instrument, bases, st.sampled_from(QUOTES), st.sampled_from(Venue), st.integers(1, 9))


@given(instruments)
def test_qlib_and_file_spellings_parse_back(instrument):
    assert Instrument.parse(instrument.qlib) == instrument
    assert Instrument.parse(instrument.symbol, instrument.venue) == instrument


@given(instruments)
def test_venue_ids_parse_back(instrument):
    parsed = Instrument.from_venue_id(instrument.venue, instrument.venue_id)
    assert parsed is not None
    assert (parsed.base, parsed.quote, parsed.venue) == (instrument.base, instrument.quote, instrument.venue)


@given(st.text(max_size=40), st.sampled_from(Venue))
def test_any_venue_id_is_an_instrument_or_none(text, venue):
    parsed = Instrument.from_venue_id(venue, text)
    assert parsed is None or parsed.venue_id == text


@pytest.mark.parametrize(
    "venue_id",
    ["BTC-USD-SWAP", "BTC-USD_UM-SWAP", "BTC-USDT-250627", "LISTING-SWAP-SLX-USDT", "", "-USDT-SWAP", "BTC-USDT"],
)
def test_okx_oddities_are_no_linear_perpetual(venue_id):
    assert Instrument.from_venue_id(Venue.OKX, venue_id) is None


def test_known_spellings():
    btc = Instrument("BTC", "USDT", Venue.OKX)
    assert (btc.symbol, btc.qlib, btc.venue_id, btc.cryptofeed) == (
        "BTC_USDT", "BTC_USDT.OKX", "BTC-USDT-SWAP", "BTC-USDT-PERP",
    )  # fmt: skip
    assert Instrument("LUNA", "USDT", Venue.BINANCE, 2).qlib == "LUNA_USDT~2.BINANCE"


@pytest.mark.parametrize("text", ["BTCUSDT", "BTC-USDT", "BTC_USDT.KRAKEN", "", "_USDT", "BTC_USDT"])
def test_unknown_symbols_say_what_to_write(text):
    with pytest.raises(ConfigError):
        Instrument.parse(text)


@pytest.mark.parametrize("ms", [m for m in range(60_000, DAY_MS + 1, 60_000) if DAY_MS % m == 0])
def test_every_divisor_of_a_day_has_one_spelling_each_way(ms):
    interval = Interval.of_ms(ms)
    assert Interval.parse(interval.name) == Interval.parse(interval.qlib) == interval
    assert interval.ms == ms


@pytest.mark.parametrize("text", ["7m", "0m", "1s", "2w", "", "m1", "-1m", "48h", "2d"])
def test_unknown_intervals_are_refused(text):
    with pytest.raises(ConfigError):
        Interval.parse(text)


def test_venue_spellings_open_at_utc():
    assert venue_bar(Venue.OKX, Interval.parse("1d")) == "1Dutc"
    assert venue_bar(Venue.BINANCE, Interval.parse("60min")) == "1h"
    with pytest.raises(ConfigError, match="not served"):
        venue_bar(Venue.OKX, Interval.parse("10m"))
