#!/usr/bin/env python3
"""Collect, rank and convert on time: `qlib-crypto daemon`."""

from _command import run

if __name__ == "__main__":
    run("daemon")
