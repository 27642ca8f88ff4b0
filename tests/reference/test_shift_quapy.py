"""Our share estimates against QuaPy's, and against scipy on the formulas as they are written.

QuaPy is BSD, but brings nine packages of its own, so it is no dependency of the tests: what its EMQ gave is written
down here, from inputs that anyone can make again.
"""

import numpy as np
import pytest
from scipy import optimize

from finefold.metrics.calibration import softmax
from finefold.metrics.shift import bbse_prior, saerens_prior

# quapy 0.2.3: EMQ.EM(prior, probs, epsilon=1e-10)[0] of `waves(...)`
QUAPY = {
    (60, 3): [0.572486147, 0.304246825, 0.123267028],
    (200, 5): [0.484839952, 0.247846689, 0.142423421, 0.076755672, 0.048134266],
}


def waves(num: int, num_classes: int):
    """Probabilities and a prior without any random number."""
    logits_NK = 3 * np.sin(np.outer(np.arange(1, num + 1), np.arange(1, num_classes + 1) ** 1.5))
    prior_K = np.arange(1, num_classes + 1) / np.arange(1, num_classes + 1).sum()
    return softmax(logits_NK), prior_K


@pytest.mark.parametrize("size", QUAPY)
def test_expectation_maximisation_equals_quapy(size):
    """Shares equal those of QuaPy's EMQ."""
    assert saerens_prior(*waves(*size), tolerance=1e-12) == pytest.approx(QUAPY[size], abs=1e-7)


@pytest.mark.parametrize("size", QUAPY)
def test_expectation_maximisation_finds_the_greatest_likelihood(size):
    """No shares are likelier: scipy's search over the simplex ends at the same ones."""
    probs_NK, prior_K = waves(*size)

    def loss(shares_K):
        return -np.log(probs_NK @ (shares_K / prior_K)).mean()

    sums_to_1 = {"type": "eq", "fun": lambda shares_K: shares_K.sum() - 1}
    found = optimize.minimize(
        loss, prior_K, method="SLSQP", bounds=[(0, 1)] * len(prior_K), constraints=[sums_to_1], options={"ftol": 1e-14}
    )
    ours_K = saerens_prior(probs_NK, prior_K, tolerance=1e-12)
    assert loss(ours_K) <= found.fun + 1e-9
    assert ours_K == pytest.approx(found.x, abs=1e-3)


def test_black_box_shift_equals_the_inverse():
    """Where the confusion can be inverted and gives no negative share, the estimate is the paper's."""
    rng = np.random.default_rng(0)
    labels_L = rng.integers(0, 3, 900)
    ledger_LK = softmax(rng.normal(size=(900, 3)) + 2 * np.eye(3)[labels_L])
    truth_N = rng.choice(3, 900, p=[0.2, 0.3, 0.5])
    probs_NK = softmax(rng.normal(size=(900, 3)) + 2 * np.eye(3)[truth_N])
    confusion_KK = np.stack([(ledger_LK * (labels_L == code)[:, None]).mean(axis=0) for code in range(3)], axis=1)
    ratios_K = np.linalg.inv(confusion_KK) @ probs_NK.mean(axis=0)
    shares_K = ratios_K * np.bincount(labels_L) / 900
    assert (ratios_K > 0).all()
    assert bbse_prior(probs_NK, ledger_LK, labels_L) == pytest.approx(shares_K / shares_K.sum())
