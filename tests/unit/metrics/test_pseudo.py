"""Labels that one fold's model gives to unlabelled images."""

import numpy as np
import pytest

from finefold.metrics.pseudo import FoldLabels, FoldProbs, check_matched, choose_labels

SHARES = np.array([0.5, 0.5])


def said(probs, *, fold=2, views=1):
    return FoldProbs(fold, np.stack([np.asarray(probs, float)] * views))


def chosen(of, **changes):
    asked = {"share": 1.0, "threshold": 0.0, "target": "hard", "weight": 0.5, **changes}
    return choose_labels(of, asked.pop("shares_K", SHARES), **asked)


def sure(values):
    """Probabilities of two classes, that of the first given."""
    first = np.asarray(values, float)
    return np.stack([first, 1 - first], axis=1)


def test_labels_belong_to_the_fold_that_made_them():
    """What is chosen from a fold's probabilities keeps the fold's number, under an attribute's classes too."""
    found = chosen(said(sure([0.9, 0.2])))
    assert found.fold == 2 == found.under(np.array([0, 0]), 1).fold
    np.testing.assert_array_equal(found.under(np.array([1, 0]), 2).targets_MC, found.targets_MC[:, ::-1])


def test_another_folds_labels_are_refused():
    """Labels that are not one for each fold in order are an error that says so."""
    one = chosen(said(sure([0.9]), fold=0))
    check_matched([one], 1)
    for wrong in ([one, one], [FoldLabels(1, one.rows_M, one.targets_MC, 1.0)]):
        with pytest.raises(ValueError, match="a fold trains on its own alone"):
            check_matched(wrong, len(wrong))


def test_each_class_has_its_quota_the_surest_first():
    """A class that the model is less sure of keeps its share of the labels."""
    probs_UK = sure([0.99, 0.98, 0.97, 0.96, 0.4, 0.3, 0.45, 0.49])
    found = chosen(said(probs_UK), share=0.5)
    assert found.rows_M.tolist() == [0, 1, 4, 5]
    assert chosen(said(probs_UK), share=0.5, shares_K=np.array([0.75, 0.25])).rows_M.tolist() == [0, 1, 2, 5]


def test_a_threshold_and_views_leave_out_labels():
    """A label that is less sure than asked for, or that another view does not give, is not taken."""
    probs_UK = sure([0.9, 0.6, 0.1, 0.95])
    wide = {"shares_K": np.array([0.75, 0.25])}
    assert chosen(said(probs_UK), **wide).rows_M.tolist() == [0, 1, 2, 3]
    assert chosen(said(probs_UK), threshold=0.8, **wide).rows_M.tolist() == [0, 2, 3]
    turned = FoldProbs(0, np.stack([sure([0.9, 0.9, 0.1, 0.1]), sure([0.9, 0.3, 0.1, 0.1])]))
    assert chosen(turned).rows_M.tolist() == [0, 2, 3]


def test_soft_targets_are_the_models_probabilities():
    """Soft labels are the mean over views, hard ones one-hot; nothing sure enough gives no labels."""
    probs_UK = sure([0.9, 0.2])
    np.testing.assert_allclose(chosen(said(probs_UK, views=2), target="soft").targets_MC, probs_UK)
    np.testing.assert_allclose(chosen(said(probs_UK)).targets_MC, np.eye(2))
    assert len(chosen(said(probs_UK), threshold=0.99)) == 0
