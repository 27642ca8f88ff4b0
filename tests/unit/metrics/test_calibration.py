"""metrics.calibration: measuring how sure is too sure, and mending it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finefold.metrics.calibration import (
    Calibration,
    calibration_scores,
    fit_per_attribute,
    fit_temperature,
    fit_vector,
    no_calibration,
    reliability_curve,
    softmax,
)

CODES = {"first": np.array([0, 0, 1, 1, 2, 2]), "second": np.array([0, 1, 0, 1, 0, 1])}
FITS = {
    "temperature": fit_temperature,
    "vector": fit_vector,
    "per_attribute": lambda probs, labels: fit_per_attribute(probs, labels, CODES),
}


def calibrated(num: int = 4000, num_classes: int = 6, seed: int = 0):
    """Probabilities, and labels drawn from them: perfectly calibrated."""
    rng = np.random.default_rng(seed)
    probs_NK = softmax(2 * rng.normal(size=(num, num_classes)))
    return probs_NK, (probs_NK.cumsum(axis=1) < rng.random((num, 1))).sum(axis=1)


def sharpened(probs_NK, power):
    """Too sure by a power."""
    raised_NK = probs_NK**power
    return raised_NK / raised_NK.sum(axis=1, keepdims=True)


def test_a_temperature_is_found_again():
    """Probabilities raised to a power are lowered by its inverse."""
    probs_NK, labels_N = calibrated()
    fitted = fit_temperature(sharpened(probs_NK, 2.5), labels_N)
    assert fitted.scale_K == pytest.approx(np.full(6, 1 / 2.5), rel=0.05)
    assert np.abs(fitted.apply(sharpened(probs_NK, 2.5)) - probs_NK).max() < 0.03


def test_each_attribute_has_its_own_temperature():
    """Two independent attributes, one too sure and one too unsure: both powers are found, and undo the damage."""
    rng = np.random.default_rng(1)
    first_NC, second_NC = softmax(2 * rng.normal(size=(6000, 3))), softmax(2 * rng.normal(size=(6000, 2)))

    def joint(first, second):
        return (first[:, :, None] * second[:, None, :]).reshape(len(first), -1)

    probs_NK = joint(first_NC, second_NC)
    labels_N = (probs_NK.cumsum(axis=1) < rng.random((6000, 1))).sum(axis=1)
    damaged_NK = joint(sharpened(first_NC, 3.0), sharpened(second_NC, 0.5))
    fitted = fit_per_attribute(damaged_NK, labels_N, CODES)
    assert fitted.powers["first"] == pytest.approx(1 / 3, rel=0.08)
    assert fitted.powers["second"] == pytest.approx(2, rel=0.08)
    assert np.abs(fitted.apply(damaged_NK) - probs_NK).max() < 0.06


def test_a_class_that_is_always_overrated_is_lowered():
    """Vector scaling finds the offset that a class was given."""
    probs_NK, labels_N = calibrated()
    shift_K = np.array([1.0, 0, 0, 0, 0, -1.0])
    fitted = fit_vector(softmax(np.log(probs_NK) + shift_K), labels_N)
    assert fitted.offset_K - fitted.offset_K.mean() == pytest.approx(-shift_K, abs=0.25)


def test_a_class_without_samples_moves_little():
    """The prior of vector scaling keeps a class that never occurs at finite numbers."""
    probs_NK, labels_N = calibrated()
    has_N = labels_N != 5
    fitted = fit_vector(probs_NK[has_N], labels_N[has_N])
    assert np.abs(fitted.offset_K).max() < 10
    assert np.isfinite(fitted.apply(probs_NK)).all()


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_a_calibrated_model_is_left_alone(fit):
    """Fitted on calibrated probabilities, every method hardly changes them."""
    probs_NK, labels_N = calibrated(8000)
    assert np.abs(fit(probs_NK, labels_N).apply(probs_NK) - probs_NK).mean() < 0.01


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_fitting_never_raises_the_log_loss_it_is_fitted_on(fit):
    """On its own rows a fit is at least as good as doing nothing, also with probabilities of exactly 0 and 1."""
    probs_NK, labels_N = calibrated(500)
    probs_NK[:20] = np.eye(6)[np.arange(20) % 6]
    fitted_NK = fit(probs_NK, labels_N).apply(probs_NK)
    rows_N = np.arange(500)

    def loss(probs):
        return -np.log(np.maximum(probs[rows_N, labels_N], 2.2e-16)).mean()

    assert loss(fitted_NK) <= loss(probs_NK) + 1e-9


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(sorted(FITS)), st.integers(0, 1000))
def test_permuting_rows_changes_nothing(name, seed):
    """A fit does not depend on the order of rows; applied, rows stay probabilities; saved and read it is the same."""
    probs_NK, labels_N = calibrated(300, seed=seed)
    order = np.random.default_rng(seed).permutation(300)
    found_NK = FITS[name](probs_NK, labels_N).apply(probs_NK)
    other = FITS[name](probs_NK[order], labels_N[order])
    assert np.allclose(other.apply(probs_NK), found_NK, atol=1e-5)
    assert np.allclose(found_NK.sum(axis=1), 1)
    again = Calibration.from_dict(json.loads(json.dumps(other.to_dict())))
    assert np.array_equal(again.apply(probs_NK), other.apply(probs_NK))


def test_no_calibration_is_the_identity():
    """Doing nothing gives back the very numbers."""
    probs_NK, _ = calibrated(50)
    assert no_calibration(6).apply(probs_NK) is probs_NK


def test_errors_tell_calibrated_from_too_sure():
    """Calibrated probabilities have small errors, sharpened ones large; every interval holds its value."""
    probs_NK, labels_N = calibrated()
    groups_N = np.arange(len(labels_N)) // 4
    good = calibration_scores(probs_NK, labels_N, groups_N, resamples=100)
    bad = calibration_scores(sharpened(probs_NK, 3.0), labels_N, groups_N, resamples=100)
    assert good["ece"].value < 0.03
    for name in ("ece", "classwise_ece", "brier"):
        assert bad[name].low > good[name].high
        assert good[name].n == len(labels_N)


def test_the_curve_is_the_error():
    """The calibration error is the reliability curve's mean distance from the diagonal; counts are all samples."""
    probs_NK, labels_N = calibrated()
    curve = reliability_curve(probs_NK, labels_N)
    assert curve.counts_B.sum() == len(labels_N)
    has = curve.counts_B > 0
    assert np.isnan(curve.accuracy_B[~has]).all()
    gaps = np.abs(curve.accuracy_B - curve.confidence_B)[has]
    expected = (curve.counts_B[has] * gaps).sum() / len(labels_N)
    found = calibration_scores(probs_NK, labels_N, np.arange(len(labels_N)), resamples=100)
    assert found["ece"].value == pytest.approx(expected)
