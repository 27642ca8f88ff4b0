"""Where runs of labels end."""

import numpy as np
import pytest

from finefold.doctor.ends import best_end
from unit.doctor.planted import court_of


def two_runs(sizes=(300, 300), seed=0):
    rng = np.random.default_rng(seed)
    labels_N = np.repeat(np.arange(len(sizes)), sizes)
    return (rng.normal(size=(len(sizes), 32))[labels_N] + 1.5 * rng.normal(size=(len(labels_N), 32))), labels_N


@pytest.mark.parametrize("by", [-70, 40, 120])
def test_an_end_that_lies_off_is_moved_back(by):
    """Fewer or more labels of the first of two runs: the end is where the images change."""
    features_ND, labels_N = two_runs()
    found = best_end(court_of(features_ND, (np.arange(600) >= 300 + by).astype(np.int64), 2))
    assert found is not None and found.pairing.kind == "end"
    assert (found.labels_N != labels_N).sum() <= 6


def test_right_ends_and_short_runs_are_left_alone():
    """Runs that end where images change; labels that are wrong here and there; labels in many runs."""
    features_ND, labels_N = two_runs((200, 150, 250))
    rng = np.random.default_rng(0)
    assert best_end(court_of(features_ND, labels_N, 3)) is None
    assert best_end(court_of(features_ND, rng.permutation(labels_N), 3)) is None
    assert best_end(court_of(rng.normal(size=(600, 32)), labels_N, 3)) is None
