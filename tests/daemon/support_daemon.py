"""A stand-in for the command line: it notes what it was asked, and misbehaves as files beside it say.

`fail.KIND` holds how many attempts still fail, `wrong.KIND` makes it an error of usage, `hang.KIND` never ends while it
exists, `deaf.KIND` ignores SIGTERM too. `mute` makes collectors write no status, `stale` lets no bar become newer,
`crash` ends the next collector at once, `slow` holds the seconds that collectors take to end.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

from qlib_crypto.daemon.leash import leash
from qlib_crypto.daemon.worker import serve
from qlib_crypto.errors import ConfigError, QlibCryptoError, VenueError

NAME = {"okx": "top50_symbols.json", "binance": "top50_symbols.binance.json"}
HERE = Path(sys.argv[0]).parent if sys.argv[0].endswith("stand_in.py") else Path()


def note(*words) -> None:
    with (HERE / "log").open("a") as log:
        log.write(json.dumps([list(words), os.getpid()]) + "\n")


def do(kind: str) -> None:
    """One job: raises what the files say."""
    note(kind)
    if (HERE / f"deaf.{kind}").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while (HERE / f"hang.{kind}").exists() or (HERE / f"deaf.{kind}").exists():
        time.sleep(0.02)
    if (HERE / f"wrong.{kind}").exists():
        raise ConfigError(f"{kind} is set wrong")
    fails = HERE / f"fail.{kind}"
    if fails.exists() and (left := int(fails.read_text())) > 0:
        fails.write_text(str(left - 1))
        raise VenueError(f"{kind}: the venue does not answer")


def work() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def answer(request):
        do(request.kind)
        if request.kind == "rank":
            Path(os.environ["LAKE"]).joinpath(NAME[sys.argv[3]]).write_text('["BTC_USDT"]')
        return {"period": request.period_ms, "since": request.since_ms}

    serve(answer)


def collect(venue: str) -> None:
    note("collect", venue)
    if (HERE / "crash").exists():
        (HERE / "crash").unlink()
        sys.exit(1)

    def stop(*_):
        if (HERE / "slow").exists():
            time.sleep(float((HERE / "slow").read_text()))
        note("stopped")
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    path = Path(os.environ["LAKE"]) / f"{venue}_data" / "collector.json"
    path.parent.mkdir(exist_ok=True)
    status = {"venue": venue, "pid": os.getpid(), "running": True, "started_ms": 0, "market_ms": 0, "interval": "1m"}
    while True:
        now = time.time_ns() // 1_000_000
        newest = 0 if (HERE / "stale").exists() else now
        if not (HERE / "mute").exists():
            part = path.with_suffix(".part")
            part.write_text(json.dumps(status | {"wall_ms": now, "newest": {"BTC_USDT": newest}}))
            part.replace(path)
        time.sleep(0.02)


def command(kind: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        do(kind)
    except QlibCryptoError as error:
        sys.stderr.write(f"qlib-crypto: {error}\n")
        sys.exit(error.exit_code)
    sys.stdout.write(json.dumps({"done": kind}) + "\n")


def main() -> None:
    name = sys.argv[1]
    if name != "work":
        leash()
    {"work": work, "collect": lambda: collect(sys.argv[3])}.get(name, lambda: command(name))()


@dataclasses.dataclass
class StandIn:
    """The folder of a stand-in, and what it noted."""

    folder: Path

    @property
    def command(self) -> tuple[str, ...]:
        return (sys.executable, str(self.folder / "stand_in.py"))

    def install(self) -> StandIn:
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        (self.folder / "stand_in.py").write_text(code + "import support_daemon; support_daemon.main()\n")
        return self

    def set(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(text)

    def unset(self, name: str) -> None:
        (self.folder / name).unlink()

    def calls(self) -> list[tuple[list[str], int]]:
        log = self.folder / "log"
        return [(words, pid) for words, pid in map(json.loads, log.read_text().splitlines())] if log.exists() else []

    def names(self) -> list[str]:
        return [words[0] for words, _ in self.calls()]

    def pids(self) -> set[int]:
        return {pid for _, pid in self.calls()}


def gone(pid: int) -> bool:
    """Whether a process is gone; one that only waits to be reaped is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
