"""Where runs of labels end."""

import numpy as np
import pytest

from finefold.doctor.alignment import check_alignment
from finefold.doctor.ends import best_end
from finefold.doctor.pairings import Pairing
from finefold.doctor.witness import is_witnessed
from unit.doctor.planted import court_of, subject_of


def two_runs(sizes=(300, 300), seed=0):
    rng = np.random.default_rng(seed)
    labels_N = np.repeat(np.arange(len(sizes)), sizes)
    return (rng.normal(size=(len(sizes), 32))[labels_N] + 1.5 * rng.normal(size=(len(labels_N), 32))), labels_N


@pytest.mark.parametrize("by", [-70, -10, 12, 40, 120])
def test_an_end_that_lies_off_is_moved_back(by):
    """Fewer or more labels of the first of two runs: the end is where the images change."""
    features_ND, labels_N = two_runs()
    found = best_end(court_of(features_ND, (np.arange(600) >= 300 + by).astype(np.int64), 2))
    assert found is not None and found.pairing.kind == "end"
    assert (found.labels_N != labels_N).sum() <= min(6, abs(by) // 3)


def test_right_ends_and_short_runs_are_left_alone():
    """Runs that end where images change; labels that are wrong here and there; labels in many runs."""
    features_ND, labels_N = two_runs((200, 150, 250))
    rng = np.random.default_rng(0)
    assert best_end(court_of(features_ND, labels_N, 3)) is None
    assert best_end(court_of(features_ND, rng.permutation(labels_N), 3)) is None
    assert best_end(court_of(rng.normal(size=(600, 32)), labels_N, 3)) is None


def two_makes(seed=0):
    """Two classes of 500 and 250, one folder behind the other; images of each lie by make, which they show more of."""
    rng = np.random.default_rng(seed)
    labels_N = np.repeat([0, 1], (500, 250))
    makes_N = np.repeat([0, 1, 0, 1], (220, 280, 40, 210))
    centres = 3 * rng.normal(size=(2, 32))[makes_N] + 0.5 * rng.normal(size=(2, 32))[labels_N]
    return centres + 1.5 * rng.normal(size=(750, 32)), labels_N


@pytest.mark.parametrize("seed", range(4))
def test_makes_that_lie_together_are_no_classes(seed):
    """A border between makes is told apart better than that between classes, and is not taken for it."""
    features_ND, labels_N = two_makes(seed)
    said = check_alignment(subject_of(features_ND.astype(np.float16), labels_N, num_classes=2))
    assert [one.cause for one in said.findings if one.severity == "error"] == []


def test_rows_that_keep_their_label_bear_witness():
    """For a border where images change, against as many rows in the midst of a run; never where none is left."""
    features_ND, _ = two_runs()
    wrong_N = (np.arange(600) >= 320).astype(np.int64)
    court = court_of(features_ND, wrong_N, 2)
    rows_N = np.arange(600)
    back = Pairing("back", np.where((rows_N >= 300) & (rows_N < 320), 599, rows_N), "end")
    amid = Pairing("amid", np.where((rows_N >= 100) & (rows_N < 120), 599, rows_N), "end")
    assert is_witnessed(court, court.hear(back))
    assert not is_witnessed(court, court.hear(amid))
    assert not is_witnessed(court, court.hear(Pairing("all", np.where(rows_N < 320, 599, rows_N), "end")))
