#!/usr/bin/env python3
"""Lake to Qlib binary: `qlib-crypto convert`."""

from _command import run

if __name__ == "__main__":
    run("convert")
