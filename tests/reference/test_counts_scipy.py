"""metrics.counts against scipy's assignment."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from finefold.metrics.counts import assign_to_counts


@pytest.mark.parametrize("seed", range(8))
def test_answers_are_the_best_there_are(seed):
    """With so many places of each class, no assignment of images has a larger product of probabilities."""
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(2, 7))
    probs_NC = rng.dirichlet(np.full(num_classes, rng.choice([0.1, 1.0])), 90)
    counts_C = rng.multinomial(90, rng.dirichlet(np.ones(num_classes)))
    logs_NC = np.log(np.maximum(probs_NC, 1e-12))
    _, places_N = linear_sum_assignment(logs_NC[:, np.repeat(np.arange(num_classes), counts_C)], maximize=True)
    best_N = np.repeat(np.arange(num_classes), counts_C)[places_N]
    found_N = assign_to_counts(probs_NC, counts_C)
    assert np.bincount(found_N, minlength=num_classes).tolist() == counts_C.tolist()
    rows_N = np.arange(90)
    assert logs_NC[rows_N, found_N].sum() == pytest.approx(logs_NC[rows_N, best_N].sum())
