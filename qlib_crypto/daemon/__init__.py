"""The daemon: what runs on time without anybody watching."""

from qlib_crypto.daemon.run import Daemon

__all__ = ["Daemon"]
