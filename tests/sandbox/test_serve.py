"""The running sandbox: options, clock, hold, start and stop, the whole tape."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading

import pytest
from sandbox_support import HOURS, START, Socket, close_code, get, read, silent

from qlib_crypto.clock import DAY_MS, HOUR_MS, iso
from qlib_crypto.errors import ConfigError
from qlib_crypto.sandbox.series import take
from qlib_crypto.sandbox.serve import _banner, running, serve
from qlib_crypto.sandbox.server import Sandbox, SandboxOptions
from qlib_crypto.sandbox.tape_files import FileTape
from qlib_crypto.symbols import Instrument, Interval, Venue

END = START + HOURS * HOUR_MS
BTC = Instrument.parse("BTC_USDT.OKX")
CANDLES = {"op": "subscribe", "args": [{"channel": "candle1m", "instId": "BTC-USDT-SWAP"}]}
BUSINESS = "/ws/v5/business"


def test_both_venues_listen_on_one_loopback_port(okx_tape, binance_tape):
    with running([okx_tape, binance_tape], speed=0, at=END) as handle:
        assert handle.url.startswith("http://127.0.0.1:")
        assert get(f"{handle.url}/api/v5/public/time").body["data"] == [{"ts": str(END)}]
        assert get(f"{handle.url}/fapi/v1/time").body == {"serverTime": END}
        status = handle.status()
    assert (status["market_ms"], status["market_time"], status["speed"]) == (END, iso(END), 0.0)
    assert (status["requests"], status["refused"], status["streams"], status["connections"]) == (2, 0, 0, 0)


def test_a_venue_without_a_tape_is_not_there(okx_tape):
    with running([okx_tape], speed=0) as handle:
        assert get(f"{handle.url}/fapi/v1/time").status == 404
        assert handle.status()["until_ms"] == END


def test_the_clock_can_be_set(okx_tape):
    with running([okx_tape], speed=0) as handle:
        assert handle.status()["market_ms"] == START
        assert handle.set_clock(at=iso(END - HOUR_MS))["market_ms"] == END - HOUR_MS
        assert handle.set_clock(speed="max", until=END - 1)["speed"] == "max"
        assert handle.status()["until_ms"] == END - 1
        for wrong in ({"at": END}, {"speed": -1}, {"at": "soon"}):
            with pytest.raises(ConfigError):
                handle.set_clock(**wrong)
        assert handle.set_clock(speed=0)["market_ms"] == END - HOUR_MS


def test_wrong_controls_say_what_is_wrong(okx_tape):
    with running([okx_tape], speed=0) as handle:
        for kind, more in (("fire", {}), ("drop", {"colour": 1}), ("error", {"count": "x"}), ("drop", {"venue": "x"})):
            with pytest.raises(ConfigError):
                handle.fault(kind, **more)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": "fast"}, "speed"),
        ({"colour": 1}, "colour"),
        ({"rate_scale": 0}, "rate_scale"),
        ({"at": END, "until": START}, "before the start"),
        ({"at": "yesterday"}, "yesterday"),
    ],
)
def test_wrong_options_are_refused(okx_tape, options, message):
    with pytest.raises(ConfigError, match=message), running([okx_tape], **options):
        pass


def test_the_tapes_must_be_one_a_venue(okx_tape):
    for tapes in ([], [okx_tape, okx_tape]):
        with pytest.raises(ConfigError, match="one tape a venue"), running(tapes):
            pass


def test_a_held_clock_waits_for_the_streams(okx_tape):
    async def client(handle):
        async with Socket(handle.url + BUSINESS) as ws:
            await ws.send_json(CANDLES)
            await read(ws, 1)
            before = await asyncio.to_thread(handle.status)
            async with Socket(handle.url + BUSINESS) as other:
                await other.send_json(CANDLES)
                first = [m for m in await read(other, 4) if "data" in m]
                return before, first

    at = END - 5 * HOUR_MS
    with running([okx_tape], speed=600, at=at, hold_streams=2) as handle:
        assert handle.status()["holding"]
        before, first = asyncio.run(client(handle))
        assert (before["holding"], before["market_ms"], before["streams"]) == (True, at, 1)
        assert not handle.status()["holding"]
    assert int(first[0]["data"][0][0]) == at  # nothing of the first bar was missed


def test_at_max_speed_the_clock_follows_the_slowest_reader(okx_tape):
    async def client(handle):
        async with Socket(handle.url + BUSINESS) as ws:
            await ws.send_json(CANDLES)
            seen = 0
            while seen < 200:
                for message in await read(ws, 1):
                    seen += sum(row[8] == "1" for row in message.get("data", ()))
            clock = (await asyncio.to_thread(handle.status))["market_ms"]
            return clock, await asyncio.to_thread(get, f"{handle.url}/api/v5/public/time")

    with running([okx_tape], speed="max", at=END - 40 * HOUR_MS, until=END, hold_streams=1) as handle:
        assert handle.status()["market_ms"] == END - 40 * HOUR_MS
        clock, answer = asyncio.run(client(handle))
        assert answer.status == 200
        assert END - 40 * HOUR_MS <= clock <= END


def test_a_jump_restarts_the_streams_there(okx_tape):
    async def client(handle):
        async with Socket(handle.url + BUSINESS) as ws:
            await ws.send_json(CANDLES)
            await read(ws, 1)
            assert await silent(ws, 0.2)
            await asyncio.to_thread(handle.set_clock, at=END - HOUR_MS + 30_000)
            (push,) = await read(ws, 1)
            return push["data"]

    with running([okx_tape], speed=0, at=END - 9 * HOUR_MS) as handle:
        ((opened, *_, confirm),) = asyncio.run(client(handle))
    assert (int(opened), confirm) == (END - HOUR_MS, "0")


def test_stopping_closes_the_sockets_and_frees_the_port(okx_tape):
    async def client(url, leave):
        async with Socket(url + BUSINESS) as ws:
            await ws.send_json(CANDLES)
            await read(ws, 1)
            leave.set()
            return await close_code(ws)

    leave, codes = threading.Event(), []
    with running([okx_tape], speed=100, at=END - HOUR_MS) as handle:
        thread = threading.Thread(target=lambda: codes.append(asyncio.run(client(handle.url, leave))))
        thread.start()
        assert leave.wait(20)
        port = int(handle.url.rsplit(":", 1)[1])
    thread.join(20)
    assert codes == [1001]
    assert "sandbox" not in {t.name for t in threading.enumerate()}
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_it_runs_in_a_process_of_its_own(okx_tape):
    with running([okx_tape], process=True, speed=0, at=END) as handle:
        assert get(f"{handle.url}/api/v5/public/time").body["data"] == [{"ts": str(END)}]
    with pytest.raises(ConfigError, match="before the start"), running([okx_tape], process=True, at=END, until=START):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_its_address_and_stops_on_a_signal(folder, number):
    code = (
        "import sys\n"
        "from qlib_crypto.sandbox.serve import serve\n"
        "from qlib_crypto.sandbox.tape_files import FileTape\n"
        "from qlib_crypto.symbols import Venue\n"
        "serve([FileTape(sys.argv[1], Venue.OKX)], port=0, say=lambda text: print(text, flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        line = server.stdout.readline()
        assert "http://127.0.0.1:" in line
        url = next(word for word in line.split() if word.startswith("http"))
        assert get(f"{url}/sandbox/status").status == 200
        told = "".join(server.stdout.readline() for _ in range(7))
        server.send_signal(number)
        out, problems = server.communicate(timeout=20)
    assert (server.returncode, out, problems) == (0, "", "")
    for words in (
        "market time  2025-", "1 times real time, until 2025-", "okx: 2 of 3 contracts listed now",
        f"collect --venue okx --endpoint {url} --clock venue", "stop with Ctrl-C",
    ):  # fmt: skip
        assert words in told


def test_a_port_that_is_taken_is_named(okx_tape):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve([okx_tape], port=port)


@pytest.mark.long
def test_the_whole_real_okx_minute_tape_goes_through(real_data):
    """All nine symbols on one connection, 388,795 bars, each once confirmed and open before."""
    tape = FileTape(real_data, Venue.OKX)
    minute = Interval.parse("1m")
    instruments = [i for i in tape.specs if len(tape.bars(i, minute).open_ms)]
    args = [{"channel": "candle1m", "instId": i.venue_id} for i in instruments]

    async def client(url):
        rows = {i.venue_id: [] for i in instruments}
        shown = {}
        async with Socket(url + BUSINESS) as ws:
            await ws.send_json({"op": "subscribe", "args": args})
            while sum(map(len, rows.values())) < 388_795:
                for message in await read(ws, 1):
                    inst_id = message["arg"]["instId"]
                    for row in message.get("data", ()):
                        if row[8] == "1":
                            assert shown[inst_id] == row[0]
                            rows[inst_id].append((int(row[0]), *map(float, row[1:5]), float(row[6])))
                        else:
                            shown[inst_id] = row[0]
            assert await silent(ws)
        return rows

    with running(
        [tape], process=True, speed="max", at="2025-03-18T16:00", until="2025-04-17T17:00", hold_streams=9
    ) as it:
        rows = asyncio.run(client(it.url))
        assert it.status()["bars_sent"] == 388_795
    for instrument in instruments:
        bars = tape.bars(instrument, minute)
        columns = (bars.open_ms, bars.open, bars.high, bars.low, bars.close, bars.volume_base)
        assert rows[instrument.venue_id] == list(zip(*(column.tolist() for column in columns), strict=True))


class Early(FileTape):
    """A tape that ends a day before its bars do."""

    @property
    def span_ms(self):
        start, end = super().span_ms
        return start, end - DAY_MS


def test_the_start_lines_warn_of_a_clock_outside_a_tape_and_name_what_works(folder, binance_tape):
    okx = Early(folder, Venue.OKX)
    inside = Sandbox([okx, binance_tape], SandboxOptions(at=END - 2 * DAY_MS))
    told = _banner(inside, "127.0.0.1", 1)
    assert "nothing moves" not in told
    assert "rank --venue okx" in told
    outside = Sandbox([okx, binance_tape], SandboxOptions(at=END - HOUR_MS))
    told = _banner(outside, "127.0.0.1", 1)
    assert f"okx: the tape ends {iso(END - DAY_MS)}, nothing moves; give --venue okx or an --at inside" in told
    assert "binance: the tape" not in told
    assert "rank --venue binance" in told


def test_the_start_lines_say_from_when_on_there_are_minutes_and_what_there_is_not(folder):
    first = END - HOUR_MS

    class Late(FileTape):
        def bars(self, instrument, interval):
            bars = super().bars(instrument, interval)
            return take(bars, bars.open_ms >= first) if interval.ms < HOUR_MS else bars

    told = _banner(Sandbox([Late(folder, Venue.OKX)], SandboxOptions(at=first - HOUR_MS)), "127.0.0.1", 1)
    assert f"no 1m bars before {iso(first)}: give such an --at" in told
    assert "--clock venue --interval 1h\n" in told
    assert "no open_interest, long_short_ratio, liquidations: take them out of datasets" in told
    told = _banner(Sandbox([Late(folder, Venue.OKX)], SandboxOptions(at=first)), "127.0.0.1", 1)
    assert "bars before" not in told
    assert "--interval" not in told


def test_the_start_lines_collect_bars_that_the_tape_still_has(folder):
    hours = SandboxOptions(at=END - 2 * HOUR_MS)
    minutes = FileTape(folder, Venue.OKX)
    assert "--interval" not in _banner(Sandbox([minutes], hours), "127.0.0.1", 1)

    class Hours(FileTape):
        def intervals(self, instrument):
            return tuple(i for i in super().intervals(instrument) if i.ms >= HOUR_MS)

    assert "--clock venue --interval 1h\n" in _banner(Sandbox([Hours(folder, Venue.OKX)], hours), "127.0.0.1", 1)
