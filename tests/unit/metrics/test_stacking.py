"""metrics.stacking: a regression on several models' log-probabilities."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from finefold.metrics.calibration import log_probs, softmax
from finefold.metrics.stacking import PENALTIES, _fit, fit_stack


def members(num: int = 600, seed: int = 0):
    """One member that knows class 0 well, one that knows the others, and labels."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, 3, num)
    sharp_N1, blunt_N1 = 3 * np.eye(3)[labels_N], rng.normal(size=(num, 3))
    first = softmax(blunt_N1 + sharp_N1 * np.array([1.0, 0.2, 0.2]))
    second = softmax(rng.normal(size=(num, 3)) + sharp_N1 * np.array([0.0, 1.0, 1.0]))
    return np.stack([first, second]), labels_N, np.arange(num) % 3


def test_it_learns_who_knows_what():
    """On other samples the stack has a lower log loss than either member and than their geometric mean."""
    probs_MNK, labels_N, folds_N = members()
    others_MNK, truth_N, _ = members(seed=1)
    stacked = log_loss(truth_N, fit_stack(probs_MNK, labels_N, folds_N).apply(others_MNK))
    geometric_NK = softmax(np.log(others_MNK).mean(axis=0))
    assert stacked < min(log_loss(truth_N, one) for one in (*others_MNK, geometric_NK)) - 0.02


def test_held_strongly_it_is_the_geometric_mean():
    """With an enormous penalty nothing is left but the geometric mean."""
    probs_MNK, labels_N, _ = members(200)
    held_NK = _fit(probs_MNK, labels_N, 1e6).apply(probs_MNK)
    assert np.allclose(held_NK, softmax(np.log(probs_MNK).mean(axis=0)), atol=1e-4)


def test_of_one_fold_the_strongest_penalty_is_taken():
    """Where no fold is left to choose on, weights are held as strongly as can be."""
    probs_MNK, labels_N, _ = members(200)
    assert fit_stack(probs_MNK, labels_N, np.zeros(200)).penalty == PENALTIES[-1]


def test_held_weakly_it_is_scikit_learns_regression():
    """Nearly unheld, it reaches the log loss of scikit-learn's logistic regression on the same columns."""
    probs_MNK, labels_N, _ = members(400)
    columns_ND = np.concatenate([log_probs(one) - log_probs(one).mean(axis=1, keepdims=True) for one in probs_MNK], 1)
    theirs = LogisticRegression(C=1e4, tol=1e-8, max_iter=5000).fit(columns_ND, labels_N)
    expected = log_loss(labels_N, theirs.predict_proba(columns_ND))
    assert abs(log_loss(labels_N, _fit(probs_MNK, labels_N, 1e-7).apply(probs_MNK)) - expected) < 1e-3
