"""The bootstrap against the variances it converges to, which have closed forms, and against known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qlib_crypto.stats.significance import block_length_rule, bootstrap_standard_error, cautious_standard_error

NAN = math.nan


def ar1(n, phi, seed):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=n + 200)
    out = np.zeros(n + 200)
    for t in range(1, n + 200):
        out[t] = phi * out[t - 1] + noise[t]
    return out[200:]


def stationary_by_formula(x, length):
    """Politis and Romano (1994), lemma 1: the exact variance of the resampled mean, from circular autocovariances."""
    n, d = len(x), x - x.mean()
    circular = np.array([np.mean(d * np.roll(d, -i)) for i in range(n)])
    weight = [(1 - i / n) * (1 - 1 / length) ** i for i in range(n)]
    return math.sqrt((circular[0] + 2 * sum(w * c for w, c in zip(weight[1:], circular[1:], strict=True))) / n)


def circular_by_formula(x, length):
    """All n blocks are equally likely and independent: the variance of a block's sum, times the number of blocks."""
    n, d = len(x), x - x.mean()
    sums = [sum(d[(start + k) % n] for k in range(length)) for start in range(n)]
    return math.sqrt(np.var(sums) * (n / length)) / n


@pytest.mark.parametrize("phi", [0.0, 0.6, -0.4])
@pytest.mark.parametrize("length", [1, 4, 10])
def test_agrees_with_the_closed_forms(phi, length):
    x = ar1(200, phi, seed=1)  # 200 is a multiple of every length, so that circular blocks are all whole
    tolerance = 0.05  # 1.5 % standard deviation of a deviation over 2000 draws
    for kind, formula in (("stationary", stationary_by_formula), ("circular", circular_by_formula)):
        drawn = bootstrap_standard_error(x, block_length=length, draws=2000, seed=3, kind=kind)
        assert drawn == pytest.approx(formula(x, length), rel=tolerance)


def test_covers_the_true_error_of_an_autocorrelated_mean():
    n, phi = 2000, 0.7
    truth = 1 / (1 - phi) / math.sqrt(n)  # standard deviation of the mean of an AR(1) with unit noise
    naive, blocked = [], []
    for seed in range(20):
        x = ar1(n, phi, seed)
        naive.append(np.std(x, ddof=1) / math.sqrt(n))
        blocked.append(bootstrap_standard_error(x, block_length=40, draws=300))
    assert np.mean(blocked) == pytest.approx(truth, rel=0.12)
    assert np.mean(naive) < 0.6 * truth  # what one would believe without blocks


def test_same_seed_same_answer_another_seed_another():
    x = ar1(300, 0.3, 5)
    assert bootstrap_standard_error(x, seed=1) == bootstrap_standard_error(x, seed=1)
    assert bootstrap_standard_error(x, seed=1) != bootstrap_standard_error(x, seed=2)


def test_scales_and_shifts_like_a_standard_error():
    x = ar1(300, 0.3, 5)
    plain = bootstrap_standard_error(x)
    assert bootstrap_standard_error(1000 * x) == pytest.approx(1000 * plain)
    assert bootstrap_standard_error(x + 1e6) == pytest.approx(plain, rel=1e-6)


def test_gaps_cost_precision_but_do_not_poison():
    x = ar1(600, 0.0, 8)
    holes = x.copy()
    holes[100:400] = NAN
    error = bootstrap_standard_error(holes, block_length=1)
    assert error == pytest.approx(np.nanstd(holes) / math.sqrt(300), rel=0.1)


@pytest.mark.parametrize("kind", ["stationary", "circular"])
def test_edges(kind):
    for none in ([], [1.0], [NAN, NAN], [NAN, 2.0, NAN]):
        assert math.isnan(bootstrap_standard_error(none, kind=kind))
    assert bootstrap_standard_error([0.3] * 10, kind=kind) == pytest.approx(0.0, abs=1e-15)
    assert bootstrap_standard_error([1.0, 2.0, 3.0], block_length=3, kind=kind) >= 0.0
    assert bootstrap_standard_error([1.0, 2.0, 3.0], block_length=99, kind="circular") == pytest.approx(0.0, abs=1e-12)


def test_a_long_series_is_drawn_in_batches(monkeypatch):
    from qlib_crypto.stats import significance  # noqa: PLC0415 - patched here only

    x = ar1(500, 0.2, 9)
    whole = bootstrap_standard_error(x, block_length=5, draws=800)
    monkeypatch.setattr(significance, "_BATCH_CELLS", 5_000)
    assert bootstrap_standard_error(x, block_length=5, draws=800) == pytest.approx(whole, rel=0.15)


@pytest.mark.parametrize(("n", "length"), [(0, 1), (1, 1), (8, 2), (9, 3), (1000, 10), (8760, 21)])
def test_block_length_rule(n, length):
    assert block_length_rule(n) == length


@pytest.mark.parametrize("bad", [{"block_length": 0}, {"draws": 1}])
def test_impossible_requests_are_refused(bad):
    with pytest.raises(ValueError, match="must be at least"):
        bootstrap_standard_error([1.0, 2.0], **bad)


@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_the_cautious_error_meets_the_truth_of_independent_and_of_like_neighbours(phi):
    n = 1000
    truth = 1 / (1 - phi) / math.sqrt(n)
    claimed = [cautious_standard_error(ar1(n, phi, seed), block_length=24) for seed in range(20)]
    assert 0.88 * truth < np.mean(claimed) < 1.15 * truth


def test_the_cautious_error_never_claims_more_than_independent_values_tell():
    for seed in range(10):
        x = ar1(625, -0.4, seed)
        x[::7] = NAN
        independent = np.nanstd(x, ddof=1) / math.sqrt(np.isfinite(x).sum())
        assert bootstrap_standard_error(x, block_length=24) < independent
        assert cautious_standard_error(x, block_length=24) == pytest.approx(independent)
    assert math.isnan(cautious_standard_error([NAN, 1.0]))
