"""The portfolio record of a workflow, checked before anything is trained: strategy, executor, backtest and exchange."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from qlib_crypto.backtest.config import BACKTEST_KEYS, ENGINES, POSITION, completed, innermost
from qlib_crypto.backtest.entries import Entries
from qlib_crypto.backtest.qlib_position import PerpPosition
from qlib_crypto.backtest.qlib_targets import makes_targets, split, uses_signal
from qlib_crypto.backtest.terms import MAX_GROSS_LEVERAGE
from qlib_crypto.backtest.values import one_of
from qlib_crypto.clock import iso
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Interval
from qlib_crypto.workflow.classes import load_class
from qlib_crypto.workflow.values import full_time, known_keys, mapping

_PARTS = ("strategy", "executor", "backtest", "engine")


class Legs(NamedTuple):
    """How many names each leg of a portfolio must reach: the key that says so, its value, and where they come from.

    `market` is the one that is predicted, `codes` what the exchange trades, None for the same. `needs_funding` is the
    bar length whose funding must be known wherever a position is held, None when it need not.
    """

    key: str
    names: int
    market: str
    codes: str | tuple[str, ...] | None
    needs_funding: Interval | None


def check_portfolio(where: str, config: Any, test: tuple[int, int], market: str) -> Iterator[Legs]:
    """Checks the configuration of a `PerpPortfolioRecord`; what it needs, nothing when only its strategy knows.

    Raises
    ------
    ConfigError
        On the first value that is wrong: its place, the value and what to write.

    """
    config = mapping(where, config)
    known_keys(where, config, _PARTS, required=("strategy",))
    backtest = mapping(f"{where}.backtest", config.get("backtest") or {})
    known_keys(f"{where}.backtest", backtest, tuple(sorted(BACKTEST_KEYS)), required=())
    outer = f"{where}.backtest.exchange_kwargs"
    exchange_kwargs = mapping(outer, backtest.get("exchange_kwargs") or {})
    known_keys(outer, exchange_kwargs, ("exchange",), required=())
    exchange = mapping(f"{outer}.exchange", exchange_kwargs.get("exchange") or {})
    exchange = mapping(f"{outer}.exchange.kwargs", exchange.get("kwargs") or {})
    _check_times("backtest", backtest, test)
    _check_times("exchange", exchange, test)
    if backtest.get("pos_type") is not None:
        _check_position(f"{where}.backtest.pos_type", str(backtest["pos_type"]))
    start, end = (iso(at) for at in test)
    given = {key: value for key, value in backtest.items() if value is not None}
    try:
        executor, named, _ = completed({**config, "backtest": {"start_time": start, "end_time": end, **given}})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    step, freq = innermost(executor)["kwargs"]["time_per_step"], named["kwargs"]["freq"]
    if Interval.parse(str(step)) != Interval.parse(str(freq)):
        raise ConfigError(f"{outer}.exchange.kwargs.freq {freq} is not the executor's {step}; give both the same")
    one_of(f"{where}.engine", config.get("engine", ENGINES[0]), ENGINES)
    strategy = config["strategy"]
    for place, part in (("strategy", strategy), ("executor", executor), ("backtest.exchange_kwargs.exchange", named)):
        kind = load_class(f"{where}.{place}", part)
        kwargs = mapping(f"{where}.{place}.kwargs", part.get("kwargs") or {})
        if makes_targets(kind):
            kwargs, signal, orders = split(kwargs)
            if signal is None and uses_signal(part):
                raise ConfigError(f"{where}.{place}.kwargs.signal is missing; write <PRED>, the prediction")
            Entries.check(f"{where}.{place}.kwargs.orders", orders)
        if hasattr(kind, "check_values"):
            kind.check_values(f"{where}.{place}.kwargs", kwargs)
    yield from _legs(f"{where}.strategy.kwargs", strategy, named["kwargs"], market)


def _check_times(place: str, part: Mapping[str, Any], test: tuple[int, int]) -> None:
    first, last = test
    for key in ("start_time", "end_time"):
        if part.get(key) is None:
            continue
        at = full_time(f"{place}.{key}", part[key], None)
        if not first <= at <= last:
            raise ConfigError(
                f"{place}.{key} {iso(at)} lies outside the test segment {iso(first)} to {iso(last)}, where there "
                "are no predictions; take the segment's"
            )


def _check_position(where: str, pos_type: str) -> None:
    module, _, name = pos_type.rpartition(".")
    if not module or not issubclass(load_class(where, {"class": name, "module_path": module}), PerpPosition):
        raise ConfigError(f"{where} {pos_type!r} is no PerpPosition; write {POSITION}")


def _legs(where: str, strategy: Mapping[str, Any], exchange: Mapping[str, Any], market: str) -> Iterator[Legs]:
    kwargs = strategy.get("kwargs") or {}
    kind = load_class(where, strategy)
    if not hasattr(kind, "shortest_leg"):
        return
    gross, cap = kwargs.get("gross_exposure", 0.0), exchange.get("max_gross_leverage", MAX_GROSS_LEVERAGE)
    if cap is not None and gross > cap:
        raise ConfigError(f"{where}.gross_exposure {gross} is above the exchange's max_gross_leverage {cap}; lower it")
    key, names = kind.shortest_leg(kwargs)
    codes = exchange.get("codes")
    known = exchange.get("missing_funding", "error") == "error"
    yield Legs(
        f"{where}.{key}",
        names,
        market,
        codes if codes is None or isinstance(codes, str) else tuple(codes),
        Interval.parse(str(exchange["freq"])) if known else None,
    )
