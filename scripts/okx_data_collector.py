#!/usr/bin/env python3
"""Stream OKX candles and funding into okx_data/: `qlib-crypto collect --venue okx`."""

from _command import run

if __name__ == "__main__":
    run("collect", "--venue", "okx")
