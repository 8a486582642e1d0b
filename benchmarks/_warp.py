"""The command line on a machine whose clock runs at a market's speed and stands wrong by what a file says.

python _warp.py OFFSET_FILE MARKET_MS MONOTONIC_S SPEED collect --venue okx …
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

_LOOK_S = 0.02


class Warp:
    """Unix time: market time that ran on from a known instant, plus the seconds in a file."""

    def __init__(self, path: str, market_ms: str, monotonic_s: str, speed: str) -> None:
        self._path = Path(path)
        self._market_ms, self._since_s, self._speed = float(market_ms), float(monotonic_s), float(speed)
        self._read_s, self._offset_s = 0.0, 0.0

    def time_ns(self) -> int:
        """Nanoseconds."""
        now = time.monotonic()
        if now - self._read_s > _LOOK_S:
            self._read_s, self._offset_s = now, float(self._path.read_text() or 0)
        return int((self._market_ms + (now - self._since_s) * 1000 * self._speed + self._offset_s * 1000) * 1e6)

    def time(self) -> float:
        """Seconds."""
        return self.time_ns() / 1e9


if __name__ == "__main__":
    warp = Warp(*sys.argv[1:5])
    time.time, time.time_ns = warp.time, warp.time_ns
    from qlib_crypto.cli import main

    sys.argv[1:] = sys.argv[5:]
    main()
