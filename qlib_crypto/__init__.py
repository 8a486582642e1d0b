"""qlib-crypto: Qlib's research loop for crypto perpetual futures."""

__version__ = "0.1.0"
