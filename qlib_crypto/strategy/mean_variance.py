"""The book with the best expected return for its variance and for what it costs to get there."""

from __future__ import annotations

import importlib
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qlib_crypto.backtest.known import Floats, Ints, Known, Targets
from qlib_crypto.backtest.values import gross_value, no_others, not_negative, number, one_of, positive, whole_numbers
from qlib_crypto.errors import ConfigError
from qlib_crypto.strategy.limits import Limits
from qlib_crypto.strategy.loop import NO_SIGNAL, rebalanced
from qlib_crypto.strategy.risk import Covariance, Ewma
from qlib_crypto.strategy.volatility import check_risk

SOLVERS = ("CLARABEL", "OSQP")
_OWN = ("signal_scale", "risk_aversion", "turnover_cost", "gross_exposure", "net_exposure", "solver")
_KEYS = (*_OWN, "rebalance_every", "half_life", "shrinkage", "min_returns", "limits")
#: Problems are built for so many names and multiples of it, and filled up with names that may have no weight.
_SIZE_STEP = 16
#: Smaller weights and moves are what a solver leaves of 0; they would be orders.
_DUST = 1e-6
#: Added to each variance, as a part of the mean one, so that a factor exists where names move as one.
_JITTER = 1e-9


class MeanVariance:
    """The weights that maximise a'w - risk_aversion w'Cw - turnover_cost sum|w - last|.

    Subject to sum|w| <= `gross_exposure`, the sum of w within `net_exposure`, and the caps of `limits` by name. a is
    `signal_scale` x signal, the expected return until the next rebalance; C the covariance of returns until then
    (`rebalance_every` x `risk.Covariance`). Candidates are the tradable names with a score and a variance; others get
    weight 0. A problem without a solution keeps the book and is tried again in the next bar.

    Parameters
    ----------
    signal_scale
        Expected return of a score of 1 until the next rebalance, fraction.
    risk_aversion
        Price of variance; without other terms and limits w = inv(C) a / (2 risk_aversion).
    turnover_cost
        Of a unit of sum|w - last|, fraction, such as fee plus slippage; last is the last target row.
    gross_exposure
        Largest longs plus shorts over equity.
    net_exposure
        Largest |sum of w|, or [lowest, highest] sum of w.
    rebalance_every
        Bars between two rebalances. One that falls on a bar without any signal waits for the next that has one.
    half_life, shrinkage, min_returns
        Of the covariance, as in `VolatilityTargeted`.
    solver
        CLARABEL (exact) or OSQP (first order).
    limits
        See `Limits`; caps by name are part of the problem, turnover is not.

    Raises
    ------
    ConfigError
        When a parameter is out of range.

    """

    def __init__(
        self,
        *,
        signal_scale: float = 1.0,
        risk_aversion: float = 1.0,
        turnover_cost: float = 0.0,
        gross_exposure: float = 1.0,
        net_exposure: float | Sequence[float] = 0.0,
        rebalance_every: int = 1,
        half_life: float = 168,
        shrinkage: float = 0.2,
        min_returns: int = 48,
        solver: str = "CLARABEL",
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> None:
        own = {"signal_scale": signal_scale, "risk_aversion": risk_aversion, "turnover_cost": turnover_cost}
        book = {"gross_exposure": gross_exposure, "net_exposure": net_exposure, "rebalance_every": rebalance_every}
        risk = {"half_life": half_life, "shrinkage": shrinkage, "min_returns": min_returns}
        self.check_values("strategy", {**own, **book, **risk, "solver": solver, "limits": limits})
        self.signal_scale, self.risk_aversion = float(signal_scale), float(risk_aversion)
        self.turnover_cost, self.gross_exposure = float(turnover_cost), float(gross_exposure)
        low, high = net_exposure if isinstance(net_exposure, Sequence) else (-net_exposure, net_exposure)
        self.net_exposure = float(low), float(high)
        self.rebalance_every, self.solver = rebalance_every, solver
        self.ewma, self.shrinkage = Ewma(float(half_life), min_returns), float(shrinkage)
        self.limits = Limits.of(limits)

    @staticmethod
    def check_values(where: str, kwargs: Mapping[str, Any]) -> None:
        """Nothing, when the given keyword arguments have values that make sense.

        Raises
        ------
        ConfigError
            Names the first that is wrong, under `where`.

        """
        no_others(where, kwargs, _KEYS)
        if "signal_scale" in kwargs:
            positive(f"{where}.signal_scale", kwargs["signal_scale"], "the expected return of a score of 1")
        if "risk_aversion" in kwargs:
            not_negative(f"{where}.risk_aversion", kwargs["risk_aversion"], "the price of variance, such as 5")
        if "turnover_cost" in kwargs:
            not_negative(f"{where}.turnover_cost", kwargs["turnover_cost"], "0.0007 for 7 basis points")
        gross_value(where, kwargs)
        _check_net(f"{where}.net_exposure", kwargs.get("net_exposure", 0.0))
        whole_numbers(where, kwargs, {"rebalance_every": 1})
        check_risk(where, kwargs)
        one_of(f"{where}.solver", kwargs.get("solver", SOLVERS[0]), SOLVERS)
        Limits.check(kwargs.get("limits"), f"{where}.limits")

    def targets(self, known: Known) -> Targets:
        """The weights of every bar."""
        covariance = Covariance(known, self.ewma, self.shrinkage)
        problems: dict[int, _Problem] = {}

        def decide(t: int, last: Floats, notes: Counter[str]) -> Floats | None:
            if np.isnan(known.signal[t]).all():
                notes[NO_SIGNAL] += 1
                return None
            risk = covariance.at(t)
            columns = np.flatnonzero(known.tradable[t] & np.isfinite(known.signal[t]) & ~np.isnan(np.diag(risk)))
            if not len(columns):
                notes["no name with score and variance: position kept"] += 1
                return None
            size = -(-len(columns) // _SIZE_STEP) * _SIZE_STEP
            if size not in problems:
                problems[size] = _Problem(size, self.gross_exposure, self.net_exposure, self.solver)
            cap = np.minimum(self.limits.caps(known, t)[columns], self.gross_exposure)
            solved = self._solved(
                problems[size], known.signal[t, columns], risk[np.ix_(columns, columns)], cap, last[columns]
            )
            if solved is None:
                notes["no solution: position kept"] += 1
                return None
            row = _row(solved, columns, last, cap)
            row = _level(row) if self.net_exposure == (0.0, 0.0) else row
            return row * min(1.0, self.gross_exposure / max(float(np.abs(row).sum()), np.finfo(float).tiny))

        return rebalanced(known, decide, every=self.rebalance_every, limits=self.limits)

    def _solved(self, problem: _Problem, signal: Floats, risk: Floats, cap: Floats, last: Floats) -> Floats | None:
        expected, costs = signal * self.signal_scale, self.turnover_cost
        priced = risk * self.rebalance_every * self.risk_aversion
        # returns of a bar are 1e-4, solvers' tolerances 1e-8: the largest coefficient becomes 1
        unit = max(float(np.abs(expected).max()), costs, float(np.diag(priced).max())) or 1.0
        return problem.solved(expected / unit, _factor(priced / unit), costs / unit, cap, last)


class _Problem:
    """The problem of `size` names, built once; only its numbers change (a DPP problem of cvxpy)."""

    def __init__(self, size: int, gross: float, net: tuple[float, float], solver: str) -> None:
        # here, because it takes a second and no other strategy needs it
        cvxpy: Any = importlib.import_module("cvxpy")
        self._size, self._solver, self._error = size, solver, cvxpy.error.SolverError
        self._weights, moved = cvxpy.Variable(size), cvxpy.Variable(size)
        self._expected, self._factor = cvxpy.Parameter(size), cvxpy.Parameter((size, size))
        self._cost, self._cap = cvxpy.Parameter(nonneg=True), cvxpy.Parameter(size, nonneg=True)
        self._last = cvxpy.Parameter(size)
        w = self._weights
        gain = self._expected @ w - cvxpy.sum_squares(self._factor @ w) - self._cost * cvxpy.sum(moved)
        within = [cvxpy.norm1(w) <= gross, cvxpy.sum(w) >= net[0], cvxpy.sum(w) <= net[1]]
        caps = [w <= self._cap, -w <= self._cap, w - self._last <= moved, self._last - w <= moved]
        self._problem = cvxpy.Problem(cvxpy.Maximize(gain), within + caps)

    def solved(self, expected: Floats, factor: Floats, cost: float, cap: Floats, last: Floats) -> Floats | None:
        """The weights of the first names, or None without a solution."""
        n = len(expected)
        self._expected.value, self._cap.value = np.zeros(self._size), np.zeros(self._size)
        self._last.value, filled = np.zeros(self._size), np.zeros((self._size, self._size))
        self._expected.value[:n], self._cap.value[:n], self._last.value[:n] = expected, cap, last
        filled[:n, :n] = factor
        self._factor.value, self._cost.value = filled, cost
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inaccurate solutions, which are refused below
            try:
                self._problem.solve(solver=self._solver)
            except self._error:
                return None
        return np.asarray(self._weights.value)[:n] if self._problem.status == "optimal" else None


def _factor(matrix: Floats) -> Floats:
    """F with F'F = matrix, shape (n, n), up to `_JITTER`."""
    jitter = _JITTER * float(np.trace(matrix)) / len(matrix)
    return np.asarray(np.linalg.cholesky(matrix + jitter * np.eye(len(matrix))).T) if jitter else matrix


def _row(solved: Floats, columns: Ints, last: Floats, cap: Floats) -> Floats:
    """The whole row, without what the solver's tolerance left of weights and moves."""
    clean = np.clip(np.where(np.abs(solved) < _DUST, 0.0, solved), -cap, cap)
    same = (np.abs(clean - last[columns]) < _DUST) & (np.abs(last[columns]) <= cap)
    row = np.zeros(len(last))
    row[columns] = np.where(same, last[columns], clean)
    return row


def _level(row: Floats) -> Floats:
    """The row, its heavier leg as light as the other: a solver's sum of weights is 0 to its tolerance only."""
    long, short = float(row[row > 0].sum()), -float(row[row < 0].sum())
    light = min(long, short)
    if not light:
        return np.zeros(len(row))
    return np.asarray(np.where(row > 0, row * (light / long), row * (light / short)))


def _check_net(where: str, value: Any) -> None:
    if not isinstance(value, list | tuple):
        not_negative(where, value, "the largest |sum of weights|, such as 0.1, or [lowest, highest]")
        return
    if len(value) != 2:  # noqa: PLR2004 - lowest and highest
        raise ConfigError(f"{where} {value!r} must be a number or [lowest, highest]")
    for bound in value:
        number(where, bound, lambda _: True, "must be a part of equity, such as 0.1")
    if value[0] > value[1]:
        raise ConfigError(f"{where} {value!r} must be [lowest, highest]; swap them")
