"""Our calibration against scikit-learn's and scipy's."""

import numpy as np
import pytest
from scipy import optimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss

from finefold.metrics.calibration import calibration_scores, fit_temperature, fit_vector, reliability_curve, softmax


def answers(num: int = 1500, num_classes: int = 4, seed: int = 0):
    """Labels, and probabilities that are too sure of them."""
    rng = np.random.default_rng(seed)
    logits_NK = rng.normal(size=(num, num_classes))
    probs_NK = softmax(logits_NK)
    labels_N = (probs_NK.cumsum(axis=1) < rng.random((num, 1))).sum(axis=1)
    return softmax(2.5 * logits_NK), labels_N


class Told(ClassifierMixin, BaseEstimator):
    """A classifier whose input is its answer."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def fit(self, _probs_NK, _labels_N):
        """Nothing to learn."""
        return self

    @property
    def classes_(self):
        return np.arange(self.num_classes)

    def __sklearn_is_fitted__(self):
        return True

    def predict(self, probs_NK):
        """The likeliest class."""
        return probs_NK.argmax(axis=1)

    def predict_proba(self, probs_NK):
        """What it was told."""
        return probs_NK


def test_temperature_equals_scikit_learn():
    """Temperature scaling gives scikit-learn's probabilities."""
    probs_NK, labels_N = answers()
    theirs = CalibratedClassifierCV(FrozenEstimator(Told(4)), method="temperature").fit(probs_NK, labels_N)
    ours_NK = fit_temperature(probs_NK, labels_N).apply(probs_NK)
    assert np.allclose(ours_NK, theirs.predict_proba(probs_NK), atol=1e-3)


def test_vector_scaling_equals_a_plain_minimum():
    """Vector scaling finds what scipy finds without gradients from the formula as it is written."""
    probs_NK, labels_N = answers(200, 3)

    def objective(theta):
        loss = log_loss(labels_N, softmax(theta[:3] * np.log(probs_NK) + theta[3:]), labels=range(3))
        return loss + (((theta[:3] - 1) ** 2).sum() + (theta[3:] ** 2).sum()) / 2 / 200

    start = np.array([1.0, 1, 1, 0, 0, 0])
    found = optimize.minimize(objective, start, method="BFGS", options={"gtol": 1e-6})
    ours = fit_vector(probs_NK, labels_N)
    assert objective(np.concatenate([ours.scale_K, ours.offset_K])) <= found.fun + 1e-6
    theirs_NK = softmax(found.x[:3] * np.log(probs_NK) + found.x[3:])
    assert np.allclose(ours.apply(probs_NK), theirs_NK, atol=2e-3)


def test_brier_equals_scikit_learn():
    """The Brier score of several classes is scikit-learn's, unhalved."""
    probs_NK, labels_N = answers()
    ours = calibration_scores(probs_NK, labels_N, np.arange(len(labels_N)), resamples=100)["brier"].value
    assert ours == pytest.approx(brier_score_loss(labels_N, probs_NK, labels=range(4), scale_by_half=False))


def test_reliability_equals_scikit_learn():
    """The reliability curve is scikit-learn's of whether the likeliest class is right, which leaves empty bins out."""
    probs_NK, labels_N = answers()
    curve = reliability_curve(probs_NK, labels_N, bins=10)
    is_right_N = probs_NK.argmax(axis=1) == labels_N
    true, said = calibration_curve(is_right_N, probs_NK.max(axis=1), n_bins=10)
    has = curve.counts_B > 0
    assert curve.accuracy_B[has] == pytest.approx(true)
    assert curve.confidence_B[has] == pytest.approx(said)


def test_classwise_error_equals_the_formula():
    """The classwise error equals the loop anyone would write over classes and bins."""
    probs_NK, labels_N = answers(500, 3)
    total = 0.0
    for code in range(3):
        for low in np.arange(15) / 15:
            upper = 2.0 if low == 14 / 15 else low + 1 / 15
            rows = (probs_NK[:, code] >= low) & (probs_NK[:, code] < upper)
            if rows.any():
                gap = probs_NK[rows, code].mean() - (labels_N[rows] == code).mean()
                total += rows.sum() / 500 * abs(gap) / 3
    ours = calibration_scores(probs_NK, labels_N, np.arange(500), resamples=100)["classwise_ece"].value
    assert ours == pytest.approx(total, abs=5e-3)
