"""The `qlib-crypto` command: one file a group of commands; each loads heavy libraries only when it runs."""

from qlib_crypto.cli.app import main

__all__ = ["main"]
