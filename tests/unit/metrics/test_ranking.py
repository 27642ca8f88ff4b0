"""Curves, their areas, and intervals of those."""

import numpy as np
import pytest

from finefold.metrics.ranking import rank, rank_classes


def facts(num_samples=400, *, seed=0, num_levels=0):
    """Scores that lean toward the class; groups of four; ties where there are few levels."""
    rng = np.random.default_rng(seed)
    is_class_N = rng.random(num_samples) < 0.3
    scores_N = rng.normal(size=num_samples) + is_class_N
    if num_levels:
        scores_N = np.round(scores_N * num_levels) / num_levels
    return scores_N, is_class_N, np.arange(num_samples) // 4


def test_perfect_order_has_areas_of_one():
    """Where all of the class rank above all others both areas are 1, with no width."""
    ranking = rank(np.array([4.0, 3, 2, 1]), np.array([True, True, False, False]), np.arange(4))
    assert (ranking.auc.value, ranking.average_precision.value) == (1, 1)
    assert ranking.auc.low == ranking.auc.high == 1


def test_one_score_for_all_is_a_coin():
    """Where all scores tie, the area under the ROC curve is a half and average precision is the class's share."""
    ranking = rank(np.ones(10), np.arange(10) < 3, np.arange(10))
    assert ranking.auc.value == pytest.approx(0.5)
    assert ranking.average_precision.value == pytest.approx(0.3) == ranking.share


@pytest.mark.parametrize("num_levels", [0, 2])
def test_intervals_are_as_wide_as_a_bootstraps(num_levels):
    """The closed form's deviation is within a sixth of that of 400 resamples of groups, with ties and without."""
    scores_N, is_class_N, groups_N = facts(num_levels=num_levels)
    ranking = rank(scores_N, is_class_N, groups_N)
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(400):
        rows = (4 * rng.integers(0, 100, 100)[:, None] + np.arange(4)).ravel()
        again = rank(scores_N[rows], is_class_N[rows], np.arange(400))
        drawn.append((again.auc.value, again.average_precision.value))
    for score, deviation in zip((ranking.auc, ranking.average_precision), np.std(drawn, axis=0), strict=True):
        assert (score.high - score.low) / (2 * 1.96) == pytest.approx(deviation, rel=1 / 6)


def test_the_order_of_rows_does_not_matter():
    """Permuted rows give the same areas, and curves that rise from (0, 0) to (1, 1)."""
    scores_N, is_class_N, groups_N = facts(num_levels=3)
    order = np.random.default_rng(2).permutation(len(scores_N))
    first, second = rank(scores_N, is_class_N, groups_N), rank(scores_N[order], is_class_N[order], groups_N[order])
    for name in ("auc", "average_precision"):
        assert first.to_dict()[name] == pytest.approx(second.to_dict()[name])
    for line in (first.false_T, first.recall_T):
        assert (line[0], line[-1]) == (0, 1)
        assert (np.diff(line) >= 0).all()


def test_rows_without_a_label_are_left_out():
    """A label below 0 says nothing, and a class that no row has is None."""
    probs_NA = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    found = rank_classes(probs_NA, np.array([0, 1, -1]), np.arange(3), ["a", "b"])
    assert found["a"] is not None
    assert found["a"].share == 0.5
    assert rank_classes(probs_NA, np.zeros(3, int), np.arange(3), ["a", "b"]) == {"a": None, "b": None}
