"""The data handler that the workflows name: Alpha158 and funding features, cross-sectional label."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from qlib.contrib.data.handler import check_transform_proc
from qlib.data.dataset.handler import DataHandlerLP

from qlib_crypto.errors import ConfigError
from qlib_crypto.features.expressions import ALPHA158_BARS, OPEN_TO_OPEN, Expressions, alpha158, funding
from qlib_crypto.features.loader import PerpLoader
from qlib_crypto.features.processors import DropEmptyFeatures
from qlib_crypto.symbols import Interval

_OURS = "qlib_crypto.features.processors"
#: Features that are also compared across instruments: a market moves as one, and the label is what is left of that.
CROSS_SECTION = ("KMID", "ROC5", "ROC10", "ROC20", "ROC60", "RSV20", "STD20", "VMA20")
FUNDING_CROSS_SECTION = ("FUND", "FUNDCUM1D")

_INFER: tuple[dict[str, Any], ...] = (
    {"class": "ReplaceInf", "module_path": _OURS, "kwargs": {"fields_group": "feature"}},
    {"class": "DropEmptyFeatures", "module_path": _OURS, "kwargs": {}},
)
_LEARN: tuple[dict[str, Any], ...] = (
    {"class": "CrossSectionalZScore", "module_path": _OURS, "kwargs": {"fields_group": "label"}},
    {"class": "DropnaLabel"},
)


class PerpAlpha158(DataHandlerLP):
    """Alpha158 and funding features of perpetuals at one stored frequency, for `DatasetH`.

    Every value of bar t is known at t's close; the label (group `label`, name `LABEL0`) lies after it. Rows without
    enough history do not exist, see `PerpLoader`.

    Parameters
    ----------
    instruments
        Market name (an instruments file) or a list of instruments.
    start_time, end_time
        First and last bar, both included; full timestamps.
    freq
        A stored frequency in Qlib's canonical spelling: `5min`, `60min`, `day`.
    fit_start_time, fit_end_time
        The training segment, for processors that learn.
    label
        One expression; open to open of the next bar by default.
    with_funding
        False leaves the funding features out.
    cross_section
        Features that get a second column with ending `_CS`: their z-score across instruments at each bar,
        after values beyond 5 robust standard deviations of the median are moved there.
        None for `CROSS_SECTION` and, with funding, `FUNDING_CROSS_SECTION`.
    warmup_bars, min_coverage
        A row needs this share of this many bars up to and including its own.
    infer_processors, learn_processors
        As in Qlib; None for ours: infinities to NaN and empty features dropped; label standardised across
        instruments and rows without a label dropped.

    """

    def __init__(
        self,
        instruments: str | list[str],
        start_time: Any = None,
        end_time: Any = None,
        freq: str = "60min",
        fit_start_time: Any = None,
        fit_end_time: Any = None,
        label: str = OPEN_TO_OPEN,
        *,
        with_funding: bool = True,
        cross_section: Sequence[str] | None = None,
        warmup_bars: int = ALPHA158_BARS,
        min_coverage: float = 0.9,
        infer_processors: Sequence[Any] | None = None,
        learn_processors: Sequence[Any] | None = None,
        filter_pipe: list[Any] | None = None,
        drop_raw: bool = False,
    ) -> None:
        interval = Interval.parse(freq)
        if interval.qlib != freq:
            raise ConfigError(f"freq {freq!r}: Qlib finds no data under this spelling; write {interval.qlib}")
        if warmup_bars < 1 or not 0 < min_coverage <= 1:
            raise ConfigError(
                f"warmup_bars {warmup_bars} and min_coverage {min_coverage}: write a count and a share in (0, 1]"
            )
        features = alpha158()
        if with_funding:
            extra = funding(interval)
            features = Expressions([*features.fields, *extra.fields], [*features.names, *extra.names])
        if cross_section is None:
            cross_section = CROSS_SECTION + (FUNDING_CROSS_SECTION if with_funding else ())
        for name in cross_section:
            if name not in features.names:
                like = ", ".join(get_close_matches(name, features.names)) or "ROC5"
                raise ConfigError(f"cross_section names {name!r}, which is no feature; write one such as {like}")
        loader = PerpLoader(
            features=features,
            label=Expressions([label], ["LABEL0"]),
            interval=interval,
            warmup_bars=warmup_bars,
            min_coverage=min_coverage,
            cross_section=tuple(cross_section),
            filter_pipe=filter_pipe,
        )
        fit = (fit_start_time, fit_end_time)
        super().__init__(
            instruments=instruments,
            start_time=start_time,
            end_time=end_time,
            data_loader=loader,
            infer_processors=check_transform_proc(list(_INFER if infer_processors is None else infer_processors), *fit),
            learn_processors=check_transform_proc(list(_LEARN if learn_processors is None else learn_processors), *fit),
            drop_raw=drop_raw,
        )

    @property
    def dropped_features(self) -> list[str]:
        """Names of the features that were empty in the training segment."""
        return [name for p in self.get_all_processors() if isinstance(p, DropEmptyFeatures) for name in p.dropped]
