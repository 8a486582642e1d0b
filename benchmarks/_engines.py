"""The parts of `bench backtest`, each in a process of its own: python _engines.py PART '{"argument": …}'.

Compiled code is run once before anything is timed; what that first run took in the new process is `cold`.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _measures import Took, run_part, timed

from qlib_crypto.backtest.costs import Costs
from qlib_crypto.backtest.dropout import Dropout
from qlib_crypto.backtest.engine import Engine
from qlib_crypto.backtest.load import Loaded, load
from qlib_crypto.backtest.market import bounds_of, tiers_of
from qlib_crypto.backtest.terms import Terms
from qlib_crypto.market.margin import MarginTable, MarginTier
from qlib_crypto.provider.manifest import read_manifest
from qlib_crypto.symbols import Interval

FEE, ACCOUNT = 0.0005, 1_000_000.0
RULES = Dropout(topk=10, n_drop=2)
#: Everything that stock Qlib does not know, switched off.
PLAIN = {"missing_funding": "zero", "margin_mode": "none", "max_gross_leverage": None}
ONE_TIER = MarginTable((MarginTier(0, 1e15, 0.01, 20),), by_quantity=False, source="file")


def terms(fee: float = FEE, **kwargs: Any) -> Terms:
    """Of one rate for everything."""
    return Terms(Costs.of(None, fee, 0.0, "taker", 0.0), **{"missing_funding": "zero", **kwargs})


def loaded_of(provider: str, freq: str, **kwargs: Any) -> Loaded:
    """The whole of a frequency."""
    folder, interval = Path(provider), Interval.parse(freq)
    manifest = read_manifest(folder)
    if manifest is None:
        raise FileNotFoundError(provider)
    grid = manifest.grid(interval.qlib)
    names = [name for name, own in manifest.instruments.items() if interval.qlib in own]
    # the market's own sizes are off: stock Qlib and vectorbt have none
    return load(folder, interval, names, (grid.origin_ms, grid.end_ms - 1), rules={}, **kwargs)


def known(scores: np.ndarray) -> np.ndarray:
    """Scores by the bar in which they are known."""
    out = np.full(scores.shape, np.nan)
    out[1:] = scores[:-1]
    return out


def array(provider: str, signal: str, out: str, runs: int) -> Took:
    """TopkDropout on the array engine, loading included."""

    def once() -> Engine:
        engine = Engine(loaded_of(provider, "60min", margined=False), terms(**PLAIN), ACCOUNT)
        engine.run_dropout(known(np.load(signal)), RULES)
        return engine

    took = Took()
    began = time.perf_counter()
    once()
    took["cold"] = time.perf_counter() - began
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        engine = once()
        seconds.append(time.perf_counter() - began)
    took["seconds"] = seconds
    np.savez(out, equity=engine.curve[:, 0], fills=engine.fills)
    return took


def _qlib_times(provider: str, names: list[str], signal: str) -> tuple[pd.DatetimeIndex, pd.DataFrame]:
    import qlib  # noqa: PLC0415 - other parts do without

    qlib.init(
        provider_uri=provider, region="cn", trade_unit=None, limit_threshold=None, deal_price="open", kernels=1,
        logging_level=40,
    )  # fmt: skip
    from qlib.data import D  # noqa: PLC0415 - as above

    times = pd.DatetimeIndex(D.calendar(freq="60min"))
    index = pd.MultiIndex.from_product([times, names], names=["datetime", "instrument"])
    scores = pd.DataFrame({"score": np.load(signal).ravel()}, index=index)
    return times, scores


def stock(provider: str, signal: str, out: str, ours: bool) -> Took:
    """TopkDropout in Qlib's loop: stock Qlib's account, or ours."""
    from qlib.backtest import get_strategy_executor  # noqa: PLC0415 - other parts do without
    from qlib.backtest.backtest import backtest_loop  # noqa: PLC0415 - as above

    manifest = read_manifest(Path(provider))
    names = sorted(manifest.instruments) if manifest else []
    times, scores = _qlib_times(provider, names, signal)
    strategy = {
        "class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy.signal_strategy",
        "kwargs": {"signal": scores, "topk": RULES.topk, "n_drop": RULES.n_drop},
    }  # fmt: skip
    executor = {
        "class": "SimulatorExecutor",
        "module_path": "qlib.backtest.executor",
        "kwargs": {"time_per_step": "60min", "generate_portfolio_metrics": True},
    }
    exchange: dict[str, Any] = {
        "freq": "60min", "codes": names, "deal_price": "$open", "open_cost": FEE, "close_cost": FEE, "min_cost": 0.0,
        "trade_unit": None, "limit_threshold": None,
    }  # fmt: skip
    more: dict[str, Any] = {}
    if ours:
        executor = {**executor, "class": "PerpExecutor", "module_path": "qlib_crypto.backtest.qlib_executor"}
        kwargs = {
            "freq": "60min", "start_time": times[0], "end_time": times[-1], "codes": names, "taker_fee": FEE,
            "specs": str(Path(out).with_suffix(".none.json")), **PLAIN,
        }  # fmt: skip
        Path(str(kwargs["specs"])).write_text("{}")
        exchange = {
            "exchange": {"class": "PerpExchange", "module_path": "qlib_crypto.backtest.qlib_exchange", "kwargs": kwargs}
        }
        more = {"pos_type": "qlib_crypto.backtest.qlib_position.PerpPosition"}
    took = Took()
    with warnings.catch_warnings(), timed(took):
        warnings.simplefilter("ignore")
        made, runner = get_strategy_executor(
            start_time=times[0], end_time=times[-1], strategy=strategy, executor=executor,
            benchmark=pd.Series(0.0, times), account=ACCOUNT, exchange_kwargs=exchange, **more,
        )  # fmt: skip
        metrics, _ = backtest_loop(times[0], times[-1], made, runner)
    report = metrics["60min"][0]
    np.savez(
        out,
        equity=report["account"].to_numpy(),
        cost=report["total_cost"].to_numpy(),
        turnover=report["total_turnover"].to_numpy(),
    )
    return took


def weights_of(signal: np.ndarray) -> np.ndarray:
    """Five longs and five shorts of a tenth each, by rank."""
    ranks = np.argsort(np.argsort(signal, axis=1), axis=1)
    n = signal.shape[1]
    weights = np.zeros(signal.shape)
    weights[ranks >= n - 5] = 0.1
    weights[ranks < 5] = -0.1
    return weights


def peer(provider: str, signal: str, runs: int) -> Took:
    """Target weights at every bar: vectorbt (orders, value) and the array engine with funding and margin, in turn.

    Each bar opens at the last close: vectorbt sizes by the value there, the array engine by that at the marks before.
    """
    import vectorbt as vbt  # noqa: PLC0415 - one of the extras

    loaded = loaded_of(provider, "60min", tables={})
    market = loaded.market
    tiers, flags = (own[None] for own in tiers_of([ONE_TIER] * len(loaded.names)))
    market = market._replace(tiers=tiers, by_quantity=flags, bounds=bounds_of(tiers))
    fields = {name: getattr(loaded, name) for name in Loaded.__dataclass_fields__}
    loaded = Loaded(**{**fields, "market": market})
    weights = weights_of(known(np.load(signal)))
    weights[0] = 0.0
    prices = market.prices.copy()
    prices[0, 1:] = prices[3, :-1]
    prices[1], prices[2] = np.maximum(prices[1], prices[0]), np.minimum(prices[2], prices[0])
    market = market._replace(prices=prices)
    loaded = Loaded(**{**fields, "market": market})
    opens, closes = (pd.DataFrame(market.prices[row], columns=loaded.names) for row in (0, 3))
    rebalance = np.ones(len(weights), np.bool_)
    fee = 0.00005

    def ours(**kwargs: Any) -> Engine:
        engine = Engine(loaded, terms(fee, leverage=20.0, **kwargs), ACCOUNT)
        engine.run(weights, rebalance)
        return engine

    def theirs() -> tuple[int, np.ndarray]:
        book = vbt.Portfolio.from_orders(
            closes, weights, size_type="targetpercent", price=opens, val_price=opens, fees=fee, init_cash=ACCOUNT,
            cash_sharing=True, group_by=True, call_seq="auto",
        )  # fmt: skip
        return len(book.orders.values), book.value().to_numpy()

    ours()
    theirs()
    took = Took(mine=[], theirs=[])
    for _ in range(runs):
        for name, run in (("mine", ours), ("theirs", theirs)):
            run()  # takes back the memory that the other gave away
            seconds = []
            for _ in range(5):
                began = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - began)
            took[name].append(statistics.median(seconds))
    count, value = theirs()
    without = market._replace(settled=market.settled[:0], settlements=market.settlements[:0])
    bare = Engine(
        Loaded(**{**fields, "market": without}), terms(fee, margin_mode="none", max_gross_leverage=None), ACCOUNT
    )
    bare.run(weights, rebalance)
    took["orders"] = [len(bare.fills), count]
    took["apart"] = float(np.abs(bare.curve[:, 0] / value - 1).max())
    return took


def minutes(provider: str, signal: str) -> Took:
    """A year of minutes, target weights each hour, loading included."""
    engine: Engine | None = None

    def once(freq: str) -> Engine:
        loaded = loaded_of(provider, freq)
        shape = len(loaded.opens_ms), len(loaded.names)
        step = max(3_600_000 // loaded.interval.ms, 1)
        weights = np.zeros(shape)
        hours = weights_of(np.load(signal, mmap_mode="r")[: -(-shape[0] // step)])
        weights[::step] = hours
        rebalance = np.zeros(shape[0], np.bool_)
        rebalance[step::step] = True
        engine = Engine(loaded, terms(), ACCOUNT)
        engine.run(weights, rebalance)
        return engine

    once("60min")
    took = Took()
    with timed(took):
        engine = once("1min")
    took["gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    took["bars"], took["fills"], took["end"] = len(engine.curve), len(engine.fills), float(engine.curve[-1, 0])
    return took


def raw(provider: str, signal: str) -> Took:  # noqa: ARG001 - as the other parts
    """The files of `minutes`, read and transposed by numpy."""
    took = Took()
    folders = sorted(Path(provider, "features").iterdir())
    with timed(took):
        bars = max((folder / "open.1min.bin").stat().st_size for folder in folders) // 4 - 1
        out = np.empty((5, bars, len(folders)))
        for at, field in enumerate(("open", "high", "low", "close", "volume")):
            rows = np.full((len(folders), bars), np.nan, np.float32)
            for row, folder in zip(rows, folders, strict=True):
                values = np.fromfile(folder / f"{field}.1min.bin", np.float32)[1:]
                row[: len(values)] = values
            out[at] = rows.T
    return took


def sweep(provider: str, signal: str, first: int, stop: int) -> Took:
    """TopkDropout with parameter sets [first, stop) of a thousand, the market loaded once."""
    loaded, scores = loaded_of(provider, "60min"), known(np.load(signal))

    def once(number: int) -> float:
        rules = Dropout(topk=2 + number % 20, n_drop=1 + number // 20 % 5, hold_thresh=1 + number // 100)
        engine = Engine(loaded, terms(), ACCOUNT)
        engine.run_dropout(scores, rules)
        return float(engine.curve[-1, 0])

    once(0)
    took = Took()
    with timed(took):
        ends = [once(number) for number in range(first, stop)]
    took["ends"] = ends
    return took


PARTS: dict[str, Callable[..., Took]] = {
    "array": array, "stock": stock, "peer": peer, "minutes": minutes, "raw": raw, "sweep": sweep,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(run_part(PARTS))
