#!/usr/bin/env python3
"""Stream Binance USD-M candles and funding into binance_data/: `qlib-crypto collect --venue binance`."""

from _command import run

if __name__ == "__main__":
    run("collect", "--venue", "binance")
