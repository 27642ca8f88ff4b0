"""Confusion matrices and the scores that follow from them."""

import numpy as np
import pytest

from finefold.metrics.classification import confusion_matrix, log_loss_N, scores_from_confusion


def test_confusion_counts_truth_in_rows():
    """Rows are the truth, columns the prediction, and classes that never occur keep their place."""
    confusion = confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 1]), 4)
    assert confusion.dtype == np.int64
    assert confusion.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([0, 1], [0], r"labels have shape \(2,\), predictions \(1,\)"),
        ([0, 3], [0, 1], r"labels run from 0 to 3; expected 0\.\.2"),
        ([0, 1], [0, -1], r"predictions run from -1 to 0; expected 0\.\.2"),
        ([0.0, 1.0], [0, 1], "labels have type float64; expected whole numbers"),
    ],
)
def test_confusion_refuses_what_it_cannot_count(labels, predicted, message):
    """Unequal lengths and codes outside the classes are errors that say which."""
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(labels), np.array(predicted), 3)


def test_scores_of_a_known_matrix():
    """The scores of a matrix worked out by hand."""
    scores = scores_from_confusion(np.array([[3, 1], [2, 4]]))
    assert scores.accuracy == pytest.approx(0.7)
    assert scores.precision == pytest.approx([3 / 5, 4 / 5])
    assert scores.recall == pytest.approx([3 / 4, 4 / 6])
    assert scores.f1 == pytest.approx([6 / 9, 8 / 11])
    assert scores.balanced_accuracy == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert scores.macro_f1 == pytest.approx((6 / 9 + 8 / 11) / 2)
    assert scores.weighted_f1 == pytest.approx(0.4 * 6 / 9 + 0.6 * 8 / 11)


def test_absent_classes_are_left_out_of_averages():
    """A class without a true sample has no recall and no F1, and no average counts it."""
    scores = scores_from_confusion(np.array([[2, 0, 1, 0], [0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert np.isnan(scores.recall).tolist() == [False, False, True, True]
    assert np.isnan(scores.f1).tolist() == [False, False, True, True]
    assert scores.precision[2] == 0 and np.isnan(scores.precision[3])
    assert scores.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert scores.macro_f1 == pytest.approx((4 / 5 + 1) / 2)


def test_a_present_class_never_predicted_has_precision_zero():
    """Precision of a class with samples that is never predicted is 0, not NaN."""
    scores = scores_from_confusion(np.array([[2, 0], [1, 0]]))
    assert scores.precision[1] == 0 and scores.recall[1] == 0 and scores.f1[1] == 0


def test_an_empty_matrix_scores_nan_without_a_warning():
    """Nothing to score gives NaN in every average, silently."""
    scores = scores_from_confusion(np.zeros((3, 3), np.int64))
    assert np.isnan([scores.accuracy, scores.macro_f1, scores.balanced_accuracy, scores.weighted_f1]).all()


def test_leading_axes_are_scored_one_by_one():
    """Scoring a stack of matrices equals scoring each of them."""
    stack = np.random.default_rng(0).integers(0, 4, (5, 2, 3, 3))
    together = scores_from_confusion(stack)
    for index in np.ndindex(5, 2):
        alone = scores_from_confusion(stack[index])
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "precision", "recall", "f1"):
            np.testing.assert_array_equal(getattr(together, name)[index], getattr(alone, name))


def test_log_loss_is_clipped():
    """A certain right answer costs exactly 0, a certain mistake 36.04, whatever the stored type."""
    for dtype in (np.float32, np.float64):
        losses = log_loss_N(np.array([[1, 0], [1, 0], [0.5, 0.5]], dtype), np.array([0, 1, 1]))
        assert losses == pytest.approx([0, 36.0437, np.log(2)], abs=1e-4)
        assert not np.signbit(losses).any()
