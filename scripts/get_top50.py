#!/usr/bin/env python3
"""Rank by absolute funding rate, write top50_symbols.json: `qlib-crypto rank`."""

from _command import run

if __name__ == "__main__":
    run("rank")
