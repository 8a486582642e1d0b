"""A workflow's configuration, checked before anything runs: keys, classes, times and frequencies.

Qlib takes an unknown key in silence, fills an unknown frequency with stock hours, and lets segments touch. What the
data must hold is checked by `qlib_crypto.workflow.data`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from qlib.config import MODE_CONF, C
from qlib.data.data import LocalExpressionProvider
from qlib.data.ops import register_all_ops

from qlib_crypto.backtest.values import whole_number
from qlib_crypto.clock import DAY_MS, iso
from qlib_crypto.errors import ConfigError, counted
from qlib_crypto.features.expressions import OPEN_TO_OPEN
from qlib_crypto.symbols import Interval
from qlib_crypto.workflow.classes import check_classes, named_classes
from qlib_crypto.workflow.portfolio import Legs, check_portfolio
from qlib_crypto.workflow.values import full_time, known_keys, mapping

_TOP = ("values", "qlib_init", "experiment_name", "task", "sys")
_TASK = ("model", "dataset", "record")
_SEGMENTS = ("train", "valid", "test")
_INIT_EXTRA = ("region", "trade_unit", "limit_threshold", "deal_price", "clear_mem_cache", "skip_if_reg", "custom_ops")
_LARGEST_SEED = 2**31 - 1
#: What each region assumes of stocks, and what it must be here.
_OVERRIDES = {"trade_unit": None, "limit_threshold": None, "deal_price": "open", "kernels": 1}


@dataclass(frozen=True, slots=True)
class Workflow:
    """A checked workflow.

    Attributes
    ----------
    config
        The configuration that Qlib gets.
    name
        The experiment.
    provider
        Its folder, as written.
    markets
        The market files it reads, the features' first.
    legs
        How many instruments its portfolios need.
    interval, intervals
        Bar length of the features, and every one that is named anywhere.
    segments
        First and last bar by name, Unix milliseconds, both included.
    label
        Expression of the label.
    seed
        Of the model, None without one.

    """

    path: Path
    config: Mapping[str, Any]
    name: str
    provider: Path
    tracking_uri: str
    markets: tuple[str, ...]
    legs: tuple[Legs, ...]
    interval: Interval
    intervals: tuple[Interval, ...]
    segments: Mapping[str, tuple[int, int]]
    label: str
    seed: int | None


def check_workflow(path: Path, config: Mapping[str, Any]) -> Workflow:
    """The checked workflow of a rendered configuration.

    Raises
    ------
    ConfigError
        On the first thing that is wrong: the file, the key, its value and what to write.

    """
    try:
        return _checked(path, config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _checked(path: Path, config: Mapping[str, Any]) -> Workflow:
    known_keys("top level", config, _TOP, required=("qlib_init", "task"))
    init, task = mapping("qlib_init", config["qlib_init"]), mapping("task", config["task"])
    tracking_uri = _check_init(init)
    known_keys("task", task, _TASK, required=_TASK)
    if not isinstance(task["record"], list):
        raise ConfigError(f"task.record must be a list of records, not {task['record']!r}")
    check_classes("task", task)
    handler, segments = _dataset(task["dataset"])
    interval = _interval("task.dataset.kwargs.handler.kwargs.freq", handler.get("freq", "60min"))
    label = handler.get("label", OPEN_TO_OPEN)
    _check_model(task["model"])
    ahead = label_bars(label)
    if ahead < 1:
        raise ConfigError(f"label {label!r} looks {ahead} bars ahead, so it is known already; write {OPEN_TO_OPEN}")
    spans = _check_segments(segments, interval, ahead)
    _check_handler(handler, spans)
    markets = [_market("task.dataset.kwargs.handler.kwargs.instruments", handler.get("instruments"))]
    legs: list[Legs] = []
    for place, record in named_classes("task.record", task["record"]):
        kwargs = record.get("kwargs") or {}
        if record["class"] == "PerpPortfolioRecord":
            legs.extend(check_portfolio(f"{place}.kwargs.config", kwargs.get("config"), spans["test"], markets[0]))
        if record["class"] == "PerpExchange" and isinstance(kwargs.get("codes"), str):
            markets.append(_market(f"{place}.kwargs.codes", kwargs["codes"]))
        if record["class"] == "SigAnaRecord":
            _check_annualisation(place, kwargs, interval)
    intervals = {interval, *(_interval(place, value) for place, value in _frequencies("task", task))}
    name = str(config.get("experiment_name", path.stem))
    if Path(name).name != name or not name.strip(" ."):
        raise ConfigError(f"experiment_name {name!r} names a folder of reports too; write one such as {path.stem}")
    return Workflow(
        path=path,
        config=config,
        name=name,
        provider=Path(str(init["provider_uri"])).expanduser(),
        tracking_uri=tracking_uri,
        markets=tuple(dict.fromkeys(markets)),
        legs=tuple(legs),
        interval=interval,
        intervals=tuple(sorted(intervals)),
        segments=spans,
        label=label,
        seed=(task["model"].get("kwargs") or {}).get("seed"),
    )


def label_bars(label: str) -> int:
    """How many bars an expression looks ahead: 2 for `Ref($open, -2)/Ref($open, -1) - 1`.

    Raises
    ------
    ConfigError
        When it is no expression of Qlib.

    """
    register_all_ops(C)
    try:
        _, ahead = LocalExpressionProvider().get_expression_instance(label).get_extended_window_size()
    except Exception as error:  # noqa: BLE001 - Qlib evaluates the text as Python, so anything can come
        raise ConfigError(f"label {label!r} is no expression of Qlib: {error}; write {OPEN_TO_OPEN}") from None
    return int(ahead)


def _check_model(model: Mapping[str, Any]) -> None:
    """Refuses what LightGBM would refuse after the features are made, or take for something else."""
    kwargs = model.get("kwargs") or {}
    for key in ("seed", "num_threads"):
        if kwargs.get(key) is not None:
            whole_number(f"task.model.kwargs.{key}", kwargs[key], 0)
    if (kwargs.get("seed") or 0) > _LARGEST_SEED:
        raise ConfigError(f"task.model.kwargs.seed {kwargs['seed']} must be at most {_LARGEST_SEED}")


def _check_init(init: Mapping[str, Any]) -> str:
    known = (*C._default_config, *MODE_CONF["client"], *_INIT_EXTRA)  # noqa: SLF001 - Qlib has no list of its settings
    known_keys("qlib_init", init, known, required=("provider_uri", "region", "exp_manager"))
    if not isinstance(init["provider_uri"], str) or not init["provider_uri"]:
        raise ConfigError(f"qlib_init.provider_uri {init['provider_uri']!r}: write the provider's folder, qlib_data")
    for key, value in _OVERRIDES.items():
        if key not in init or init[key] != value:
            now = init.get(key, "what the region sets")
            wanted = "null" if value is None else value
            raise ConfigError(f"qlib_init.{key} is {now}, which is not for perpetuals; write {key}: {wanted}")
    manager = mapping("qlib_init.exp_manager", init["exp_manager"])
    check_classes("qlib_init", init)
    uri = str((manager.get("kwargs") or {}).get("uri", ""))
    if "://" not in uri or uri.startswith("file:"):
        raise ConfigError(
            f"qlib_init.exp_manager.kwargs.uri {uri!r}: MLflow refuses file stores; write sqlite:///mlruns.db"
        )
    return uri


def _dataset(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    where = "task.dataset.kwargs"
    kwargs = mapping(where, config.get("kwargs"))
    known_keys(where, kwargs, ("handler", "segments", "fetch_kwargs"), required=("handler", "segments"))
    handler = mapping(f"{where}.handler.kwargs", mapping(f"{where}.handler", kwargs["handler"]).get("kwargs"))
    segments = mapping(f"{where}.segments", kwargs["segments"])
    known_keys(f"{where}.segments", segments, _SEGMENTS, required=_SEGMENTS)
    return handler, segments


def _check_segments(segments: Mapping[str, Any], interval: Interval, ahead: int) -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    for name in _SEGMENTS:
        ends = segments[name]
        if not isinstance(ends, list | tuple) or len(ends) != 2:  # noqa: PLR2004 - a first and a last bar
            raise ConfigError(f"segment {name} is {ends!r}; write [first bar, last bar]")
        first, last = (full_time(f"segment {name}", value, interval) for value in ends)
        if last < first:
            raise ConfigError(f"segment {name} ends at {iso(last)}, before its start {iso(first)}; swap them")
        spans[name] = first, last
    for before, after in pairwise(_SEGMENTS):
        gap = (spans[after][0] - spans[before][1]) // interval.ms
        if gap <= ahead:
            earliest = iso(spans[before][1] + (ahead + 1) * interval.ms)
            apart = f"{counted(gap, 'bar')} after {before} ends" if gap >= 0 else f"before {before} ends"
            raise ConfigError(
                f"segment {after} starts at {iso(spans[after][0])}, {apart}, but a label looks {counted(ahead, 'bar')} "
                f"ahead; start it at {earliest} or later"
            )
    return spans


def _check_handler(handler: Mapping[str, Any], spans: Mapping[str, tuple[int, int]]) -> None:
    where, train = "handler", spans["train"]
    bounds = {
        "start_time": (0, train[0], "must not be after the training segment's start"),
        "end_time": (spans["test"][1], None, "must not be before the test segment's end"),
        "fit_start_time": (train[0], train[1], "must lie in the training segment"),
        "fit_end_time": (train[0], train[1], "must lie in the training segment: what a processor learns is training"),
    }
    for key, (low, high, rule) in bounds.items():
        if handler.get(key) is None:
            if key in ("start_time", "end_time"):
                continue
            raise ConfigError(f"{where}.{key} is missing; it {rule}")
        at = full_time(f"{where}.{key}", handler[key], None)
        if at < low or (high is not None and at > high):
            raise ConfigError(f"{where}.{key} {iso(at)} {rule} ({iso(low) if at < low else iso(high or 0)})")


def _check_annualisation(where: str, kwargs: Mapping[str, Any], interval: Interval) -> None:
    a_year = 365 * DAY_MS // interval.ms
    given = kwargs.get("ann_scaler", 252)
    if ("ann_scaler" in kwargs or kwargs.get("ana_long_short")) and given != a_year:
        raise ConfigError(f"{where}.kwargs.ann_scaler is {given}; {interval.qlib} bars have {a_year} a year of 24/7")


def _frequencies(where: str, config: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key in ("freq", "time_per_step"):
                yield f"{where}.{key}", value
            else:
                yield from _frequencies(f"{where}.{key}", value)
    elif isinstance(config, list):
        for number, value in enumerate(config):
            yield from _frequencies(f"{where}[{number}]", value)


def _interval(where: str, text: Any) -> Interval:
    interval = Interval.parse(str(text))
    if interval.qlib != text:
        raise ConfigError(f"{where} {text!r}: Qlib finds no data under this spelling; write {interval.qlib}")
    return interval


def _market(where: str, name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{where} {name!r}: write a market of the provider, such as okx_60min")
    return name
