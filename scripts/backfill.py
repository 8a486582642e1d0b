#!/usr/bin/env python3
"""Fetch history by REST: `qlib-crypto backfill`."""

from _command import run

if __name__ == "__main__":
    run("backfill")
