"""lake → Qlib binary: calendars, instruments and features of one `qlib_data/` directory."""

from qlib_crypto.provider.convert import convert
from qlib_crypto.provider.manifest import Manifest, read_manifest
from qlib_crypto.provider.summary import ConvertSummary
from qlib_crypto.provider.verify import verify

__all__ = ["ConvertSummary", "Manifest", "convert", "read_manifest", "verify"]
