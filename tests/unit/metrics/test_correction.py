"""metrics.correction: calibrated, moved to other shares, adjusted."""

import json

import numpy as np
import pytest

from finefold.metrics.calibration import softmax
from finefold.metrics.correction import Correction, fit_correction, nested_correction
from finefold.metrics.imbalance import macro_f1

SHARES = np.array([0.5, 0.3, 0.15, 0.05])
CODES = {"first": np.array([0, 0, 1, 1]), "second": np.array([0, 1, 0, 1])}
CALIBRATE, ADJUST = ("none", "temperature", "vector", "per_attribute"), ("none", "logit", "bias")


def answers(num: int = 800, seed: int = 0):
    """Labels of scarce classes, folds, and probabilities that are too sure."""
    rng = np.random.default_rng(seed)
    labels_N = rng.choice(4, num, p=SHARES)
    seen_NK = rng.normal(size=(num, 4)) + 1.5 * np.eye(4)[labels_N]
    return softmax(1.6 * (1.5 * seen_NK + np.log(SHARES))), labels_N, rng.integers(0, 5, num)


@pytest.mark.parametrize("adjust", ADJUST)
@pytest.mark.parametrize("calibrate", CALIBRATE)
def test_every_correction_is_kept_whole(calibrate, adjust):
    """Fitted, written as JSON and read again: the same probabilities, rows sum to 1, and words for it."""
    probs_NK, labels_N, _ = answers()
    fitted = fit_correction(probs_NK, labels_N, calibrate=calibrate, adjust=adjust, shares_K=SHARES, codes=CODES)
    again = Correction.from_dict(json.loads(json.dumps(fitted.to_dict())))
    corrected_NK = fitted.apply(probs_NK)
    assert np.array_equal(again.apply(probs_NK), corrected_NK)
    assert np.allclose(corrected_NK.sum(axis=1), 1)
    assert (fitted.say() == "nothing") == (calibrate == adjust == "none")
    answered_N = (fitted.calibration.apply(probs_NK) / fitted.thresholds_K).argmax(axis=1)
    assert np.array_equal(answered_N, corrected_NK.argmax(axis=1))


def test_nothing_changes_nothing():
    """Without calibration, other shares or adjustment, the very numbers come back."""
    probs_NK, labels_N, folds_N = answers()
    options = {"calibrate": "none", "adjust": "none", "shares_K": SHARES, "codes": CODES}
    assert fit_correction(probs_NK, labels_N, **options).apply(probs_NK) is probs_NK
    assert np.array_equal(nested_correction(probs_NK, labels_N, folds_N, **options), probs_NK)


@pytest.mark.parametrize("adjust", ["logit", "bias"])
def test_nested_adjustment_pays_and_flatters_less(adjust):
    """Judged on folds it did not see, adjusting raises macro F1, and by no more than judged on its own rows."""
    probs_NK, labels_N, folds_N = answers(2000)
    options = {"calibrate": "temperature", "adjust": adjust, "shares_K": SHARES, "codes": CODES}

    def score(probs):
        return macro_f1(labels_N, probs.argmax(axis=1), 4)

    nested = score(nested_correction(probs_NK, labels_N, folds_N, **options))
    own = score(fit_correction(probs_NK, labels_N, **options).apply(probs_NK))
    assert score(probs_NK) < nested <= own + 1e-9


def test_other_shares_move_probabilities_as_bayes_says():
    """Correcting to other shares gives the posteriors of a model trained under them."""
    rng = np.random.default_rng(0)
    likelihoods_NK = np.exp(rng.normal(size=(50, 4)))
    other_K = np.array([0.25, 0.25, 0.25, 0.25])

    def posterior(shares_K):
        joint_NK = likelihoods_NK * shares_K
        return joint_NK / joint_NK.sum(axis=1, keepdims=True)

    fitted = fit_correction(
        posterior(SHARES), np.arange(50) % 4, calibrate="none", adjust="none", shares_K=SHARES, codes=CODES,
        ratio_K=other_K / SHARES,
    )  # fmt: skip
    assert np.allclose(fitted.apply(posterior(SHARES)), posterior(other_K))


def test_full_adjustment_forgets_the_shares():
    """Adjusted with strength 1, answers are the same whatever shares probabilities were moved to."""
    probs_NK, labels_N, _ = answers()
    ratio_K = np.array([0.5, 1.0, 2.0, 3.0])
    plain, moved = (
        fit_correction(
            probs_NK, labels_N, calibrate="none", adjust="logit", shares_K=SHARES, codes=CODES, ratio_K=ratio
        )
        for ratio in (None, ratio_K)
    )
    assert plain.strength is not None
    assert moved.strength is not None
    whole_plain_K, whole_moved_K = plain.offset_K / plain.strength, moved.offset_K / moved.strength
    assert np.ptp(whole_moved_K + np.log(ratio_K) - whole_plain_K) < 1e-9
