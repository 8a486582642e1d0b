"""Qlib's parts of `bench convert`, each in a process of its own: python _qlibs.py PART '{"argument": …}'."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import qlib as qlib_itself
from _measures import Took, run_part, timed
from qlib.config import C
from qlib.data import D
from qlib.data.storage.file_storage import FileFeatureStorage
from qlib.utils import code_to_fname

import qlib_crypto.provider.qlib_calendar  # noqa: F401 - imports are not what is compared

#: What a dump of Qlib writes.
FIELDS = ("open", "high", "low", "close", "volume", "amount", "vwap", "factor")
WORKERS = 2


def qlib(step: str, data: str, target: str, dump_bin: str | None) -> Took:
    """Qlib's own dump of one file a symbol: `all`, or `update` of what is there."""
    took = Took()
    if dump_bin is None:
        with timed(took):
            _dump_through_storage(Path(data), Path(target))
        return took
    spec = importlib.util.spec_from_file_location("dump_bin", Path(dump_bin) / "scripts" / "dump_bin.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(dump_bin)
    module = importlib.util.module_from_spec(spec)
    sys.modules["dump_bin"] = module
    spec.loader.exec_module(module)
    kind: Callable[..., Any] = {"all": module.DumpDataAll, "update": module.DumpDataUpdate}[step]
    with timed(took), contextlib.redirect_stderr(io.StringIO()):
        kind(
            data_path=data, qlib_dir=target, freq="1min", max_workers=WORKERS, date_field_name="date",
            file_suffix=".parquet", include_fields=",".join(FIELDS),
        ).dump()  # fmt: skip
    return took


def _dump_through_storage(data: Path, target: Path) -> None:
    """What a user without Qlib's script would write: its storage class, after a union of all times."""
    frames = {
        path.name.removesuffix(".parquet"): pd.read_parquet(path).set_index("date") for path in data.glob("*.parquet")
    }
    calendar = sorted(set().union(*(frame.index for frame in frames.values())))
    (target / "calendars").mkdir(parents=True)
    (target / "calendars" / "1min.txt").write_text("".join(f"{time:%Y-%m-%d %H:%M:%S}\n" for time in calendar))
    C.set("client", provider_uri=str(target))
    times = pd.DatetimeIndex(calendar)
    for name, frame in frames.items():
        own = times[(times >= frame.index[0]) & (times <= frame.index[-1])]
        spaced, first = frame.reindex(own), int(times.searchsorted(own[0]))
        (target / "features" / code_to_fname(name).lower()).mkdir(parents=True)
        for field in FIELDS:
            storage = FileFeatureStorage(name, field, "1min", provider_uri={"1min": str(target)})
            storage.write(spaced[field].to_numpy(), first)


def calendar(provider: str, *, grid: bool) -> Took:
    """`D.calendar` at one minute in a process that has asked for none yet."""
    of = {"class": "GridCalendarProvider", "module_path": "qlib_crypto.provider.qlib_calendar"}
    more = {"calendar_provider": of} if grid else {}
    qlib_itself.init(provider_uri=provider, region="cn", kernels=1, logging_config=None, **more)
    took = Took()
    with timed(took):
        times = D.calendar(freq="1min")
    parts = D.calendar("2020-02-03", "2020-02-04 00:00:30", freq="1min")
    said = b"".join(pd.DatetimeIndex(of).asi8.tobytes() for of in (times, parts))
    kinds = str([(type(of[0]), type(of[-1]), len(of), isinstance(of, np.ndarray)) for of in (times, parts)])
    return took | {"content": hashlib.sha256(said + kinds.encode()).hexdigest()}


if __name__ == "__main__":
    run_part({"qlib": qlib, "calendar": calendar})
