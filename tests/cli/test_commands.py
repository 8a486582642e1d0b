"""The command line as a user meets it: help, one-line errors, exit codes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support_lake import H1, T0, bar

from qlib_crypto.cli.running import open_tape
from qlib_crypto.clock import iso
from qlib_crypto.lake import Lake
from qlib_crypto.sandbox.serve import running
from qlib_crypto.sandbox.tape_files import FileTape
from qlib_crypto.symbols import Instrument, Venue

GROUPS = ("collect", "backfill", "import", "seal", "rank", "members", "sql", "convert", "verify", "run", "report",
          "sandbox", "daemon", "demo", "bench", "push")  # fmt: skip


@pytest.fixture
def qlib_crypto(tmp_path):
    """Runs a command in an empty folder."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "qlib_crypto.cli", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


def one_line(result, code, *words):
    assert result.returncode == code, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def test_help_lists_every_command(qlib_crypto):
    result = qlib_crypto("--help")
    assert result.returncode == 0
    for command in GROUPS:
        assert command in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("convert",), 3, ("no bars", "collect")),
        (("run", "workflows/nothing.yaml"), 2, ("workflows/nothing.yaml",)),
        (("collect", "--venue", "kraken"), 2, ("kraken", "okx")),
        (("collect", "--venue", "okx"), 2, ("top50_symbols.json", "rank")),
        (("collect", "--venue", "okx", "--symbols", "BTCUSDT"), 2, ("BTCUSDT", "BTC_USDT")),
        (("backfill", "--venue", "okx", "--start", "tomorrow"), 2, ("tomorrow", "ISO")),
        (
            ("backfill", "--venue", "okx", "--start", "2025-01-02", "--end", "2025-01-01", "--symbols", "BTC_USDT"),
            2,
            ("--end",),
        ),
        (
            ("backfill", "--venue", "okx", "--start", "2025-01-01", "--symbols", "BTC_USDT", "--interval", "7m"),
            2,
            ("7m",),
        ),
        (("import", "none.parquet", "--venue", "okx"), 2, ("none.parquet",)),
        (("sandbox", "--speed", "fast"), 2, ("fast", "max")),
        (("sandbox", "--tape", "nowhere", "--venue", "okx"), 2, ("nowhere",)),
        (("bench", "nothing"), 2, ("nothing",)),
        (("sql", "selec 1"), 2, ("selec",)),
        (("sql", "select 1"), 3, ("no lake", "--lake")),
        (("run", "workflows/x.yaml", "--fit-segments"), 2, ("convert",)),
        (("rank", "--venue", "okx", "--endpoint", "ftp://x"), 2, ("ftp://x",)),
        (("rank", "--size", "0"), 2, ("--size", "rank --help")),
        (("seal", "--venue", "okx", "--lake", "nowhere"), 3, ("nowhere", "--lake")),
        (("collect", "--venue", "okx", "--symbols", ","), 2, ("--symbols",)),
        (("sandbox", "--port", "99999"), 2, ("--port",)),
        (("sandbox", "--rate-scale", "0"), 2, ("rate_scale",)),
        (("rank", "--size", "many"), 2, ("--size", "rank --help")),
        (("bogus",), 2, ("bogus", "qlib-crypto --help")),
        (("collect",), 2, ("--venue", "collect --help")),
        (("rank", "--venue", "okx", "--endpoint", "http://127.0.0.1:9"), 1, ("127.0.0.1:9",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and value and value[0] != "no bars" else None,
)
def test_bad_input_is_one_line_that_says_what_to_do(qlib_crypto, arguments, code, words):
    one_line(qlib_crypto(*arguments), code, *words)


def test_wrong_settings_key_names_file_and_key(qlib_crypto, tmp_path):
    (tmp_path / "config.yaml").write_text("univers: {size: 3}\n")
    one_line(qlib_crypto("seal", "--venue", "okx"), 2, "univers", "config.yaml")


@pytest.mark.parametrize(
    "script", ["okx_data_collector", "binance_data_collector", "get_top50", "convert_to_qlib", "backfill", "run_daemon"]
)
def test_well_known_scripts_have_help(root, script):
    result = subprocess.run(
        [sys.executable, str(root / "scripts" / f"{script}.py"), "--help"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Usage: qlib-crypto " in result.stdout
    assert f"{script}.py" not in result.stdout


def test_a_script_outside_any_environment_says_what_to_do(root, tmp_path):
    result = subprocess.run(
        [sys.executable, "-S", "-E", str(root / "scripts" / "get_top50.py"), "--help"],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1
    assert "scripts/setup.sh" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_outside_the_environment_one_line_says_so(qlib_crypto, tmp_path, monkeypatch):
    code = "import sys; sys.prefix = '/usr'; from qlib_crypto.cli.options import warn_outside_environment as w; w()"
    environment = {k: v for k, v in os.environ.items() if k != "CONDA_DEFAULT_ENV"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stderr.startswith("qlib-crypto: running outside")
    inside = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "CONDA_DEFAULT_ENV": "qlib"},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert inside.stderr == ""


def test_rank_shows_the_first_five_with_their_rates(qlib_crypto):
    with running([open_tape("generator", Venue.OKX)], speed=0, at="2025-05-29") as sandbox:
        result = qlib_crypto("rank", "--endpoint", sandbox.url, "--size", "7")
    assert result.returncode == 0, result.stderr
    first, *rows, last = result.stderr.splitlines()
    assert first == "okx: 7 of 31 eligible perpetuals, by |funding rate| as quoted; the first:"
    assert len(rows) == 5
    assert re.fullmatch(r"  1 \w+_USDT +[+-]0\.\d{4}% per (8 h|[14] h, [+-]\d\.\d{4}% per 8 h)", rows[0]), rows[0]
    assert "top50_symbols.json" in last
    assert "universe" in last


def test_a_benchmark_is_a_module_like_any_other(qlib_crypto, tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "speed.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass(slots=True)\n"
        "class Result:\n"
        "    words: list[str]\n"
        "def main(argv: list[str]) -> int:\n"
        "    print(Result(argv).words)\n"
        "    return 3\n"
    )
    result = qlib_crypto("bench", "speed", "--only", "fast")
    assert result.returncode == 3, result.stderr
    assert result.stdout.strip() == "['--only', 'fast']"


def test_symbols_that_the_venue_does_not_list_are_refused(qlib_crypto):
    with running([open_tape("generator", Venue.OKX)], speed=0, at="2025-05-29") as sandbox:
        options = ("--venue", "okx", "--endpoint", sandbox.url, "--symbols")
        collect = ("collect", "--clock", "venue", "--until", "2025-05-29", *options)
        one_line(qlib_crypto(*collect, "NOPE_USDT"), 2, "NOPE_USDT", "--symbols")
        one_line(qlib_crypto("backfill", "--start", "2025-05-28", *options, "NOPE_USDT"), 2, "NOPE_USDT", "--symbols")
        some = qlib_crypto(*collect, "NOPE_USDT,BTC_USDT")
    assert some.returncode == 0, some.stderr
    assert "okx does not list NOPE_USDT now" in some.stderr


def test_a_wall_clock_against_a_market_of_another_time_is_refused(qlib_crypto, real_data):
    with running([FileTape(real_data, Venue.OKX)], speed=0, at="2025-04-15") as sandbox:
        arguments = ("--endpoint", sandbox.url, "--symbols", "BTC_USDT")
        one_line(qlib_crypto("collect", "--venue", "okx", *arguments), 2, "2025-04-15", "--clock venue")


def test_a_start_after_the_venues_clock_is_refused(qlib_crypto):
    with running([open_tape("generator", Venue.OKX)], speed=0, at="2025-05-29") as sandbox:
        options = ("--venue", "okx", "--endpoint", sandbox.url, "--symbols", "BTC_USDT")
        one_line(qlib_crypto("backfill", "--start", "2025-05-30", *options), 2, "2025-05-30", "2025-05-29 00:00:00")


def test_a_backfill_keeps_order_rules_and_margin_tiers_of_what_it_fetched(qlib_crypto, tmp_path):
    with running([open_tape("generator", Venue.OKX)], speed=0, at="2025-05-29") as sandbox:
        options = ("--interval", "1h", "--symbols", "BTC_USDT", "--endpoint", sandbox.url)
        done = qlib_crypto("backfill", "--venue", "okx", "--start", "2025-05-28", *options)
    assert done.returncode == 0, done.stderr
    lake, btc = Lake(tmp_path), Instrument("BTC", "USDT", Venue.OKX)
    assert len(lake.specs(Venue.OKX)) > 1
    assert {of: len(states) for of, states in lake.tiers(Venue.OKX).items()} == {btc: 1}
    lake.close()


def test_verify_tells_a_provider_that_the_lake_has_left_behind(qlib_crypto, tmp_path):
    lake = Lake(tmp_path)
    lake.store([bar(k, interval=H1) for k in range(48)])
    assert qlib_crypto("convert").returncode == 0
    assert qlib_crypto("verify").returncode == 0
    lake.store([bar(k, interval=H1) for k in range(48, 50)])
    lake.close()
    result = qlib_crypto("verify")
    assert result.returncode == 3
    newest = iso(T0 + 49 * H1.ms)
    assert f"stale: the lake changed since this provider was made (newest bar of okx {newest})" in result.stdout
    assert "convert --full" not in result.stderr
