"""Scores with intervals, and the bootstrap over groups."""

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import binomtest

from finefold.metrics import intervals
from finefold.metrics.intervals import (
    Score,
    bootstrap_sums,
    counting_interval,
    group_bootstrap_weights,
    group_codes,
    group_sums,
)


@pytest.mark.parametrize("numbers", [(0.5, 0.6, 0.7), (0.5, 0.3, 0.4), (float("nan"), 0, 1), (0.5, 0, float("inf"))])
def test_a_score_cannot_lie_outside_its_interval(numbers):
    """No Score exists whose interval misses its value or that is not finite."""
    with pytest.raises(ValueError, match=r"interval|finite"):
        Score(*numbers, n=3)


def test_a_score_widens_its_interval_to_its_value():
    """Percentiles that miss the value are extended to it, on either side."""
    resampled = np.linspace(0.2, 0.4, 101)
    assert Score.from_resamples(0.9, resampled, 7).to_dict() == pytest.approx(
        {"value": 0.9, "low": 0.205, "high": 0.9, "n": 7}
    )
    assert Score.from_resamples(0.1, resampled, 7).low == 0.1


def test_a_score_ignores_resamples_without_it():
    """NaN resamples are left out, and without any resample the interval is the value."""
    assert Score.from_resamples(0.5, np.array([np.nan, 0.4, 0.6]), 1) == Score.from_resamples(
        0.5, np.array([0.4, 0.6]), 1
    )
    assert Score.from_resamples(0.5, np.array([np.nan]), 1) == Score(0.5, 0.5, 0.5, 1)


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (5, 5), (3, 10), (1, 200)])
def test_counted_shares_have_the_exact_interval(hits, count):
    """Clopper and Pearson's interval, as scipy gives it, for any chance; fractions of a count lie between."""
    for chance in (0.05, 0.01):
        exact = binomtest(hits, count).proportion_ci(1 - chance, method="exact")
        assert counting_interval(hits / count, count, chance=chance) == pytest.approx((exact.low, exact.high))
    more = counting_interval(min(1, (hits + 0.5) / count), count)
    assert more[0] >= counting_interval(hits / count, count)[0]


def test_a_share_that_never_varies_is_counted():
    """0 of 4 groups and a single group have the interval of counting; what varies, or is no share, keeps its own."""
    never = np.zeros(50)
    assert Score.from_resamples(0.0, never, 9, num_counted=4).high == pytest.approx(0.6024, abs=1e-4)
    one = Score.from_resamples(0.7, np.full(50, 0.7), 9, num_counted=1)
    assert one.low < 0.05 and one.high > 0.95
    varying = np.linspace(0.1, 0.3, 50)
    assert Score.from_resamples(0.2, varying, 9, num_counted=4) == Score.from_resamples(0.2, varying, 9)
    assert Score.from_resamples(0.0, never, 9).high == 0


def test_every_resample_draws_as_many_groups_as_there_are():
    """Weights are counts, and every row sums to the number of groups."""
    weights = np.concatenate(list(group_bootstrap_weights(7, resamples=50, seed=3)))
    assert weights.shape == (50, 7)
    assert (weights >= 0).all() and (weights.sum(axis=1) == 7).all()


def test_draws_do_not_depend_on_chunks(monkeypatch):
    """The same seed gives the same resamples however many are drawn at a time."""
    whole = np.concatenate(list(group_bootstrap_weights(9, resamples=20, seed=1)))
    monkeypatch.setattr(intervals, "CHUNK_BYTES", 3 * 9 * 8)
    chunks = list(group_bootstrap_weights(9, resamples=20, seed=1))
    assert len(chunks) == 7
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_sums_equal_repeating_the_rows(monkeypatch):
    """A resample's sums are those of the table with each group's rows repeated as often as drawn."""
    rng = np.random.default_rng(5)
    columns, groups = rng.random((40, 3)), rng.integers(0, 6, 40)
    monkeypatch.setattr(intervals, "CHUNK_BYTES", 4 * 6 * 8)
    sums = bootstrap_sums(group_sums(sparse.csr_array(columns), groups, 6), resamples=10, seed=2)
    weights = np.concatenate(list(group_bootstrap_weights(6, resamples=10, seed=2)))
    for row, drawn in zip(sums, weights, strict=True):
        np.testing.assert_allclose(row, np.repeat(columns, drawn[groups], axis=0).sum(axis=0))


def test_groups_are_numbered_by_name():
    """Group codes follow the sorted names, texts or numbers, also as Python objects."""
    for groups in (["b", "a", "b"], np.array(["b", "a", "b"], object), [20, 3, 20]):
        codes, num_groups = group_codes(np.asarray(groups))
        assert codes.tolist() == [1, 0, 1] and num_groups == 2


def test_an_interval_needs_resamples():
    """Zero resamples are refused rather than called a zero-width interval."""
    with pytest.raises(ValueError, match="needs resamples, got 0"):
        bootstrap_sums(sparse.csr_array(np.ones((2, 1))), resamples=0)
