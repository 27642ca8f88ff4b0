"""Pairings that are wrong for a part of the rows."""

import numpy as np
import pytest

from finefold.doctor.pairings import folders_of, orders_of
from finefold.doctor.parts import Stretch, best_part, best_stretch, capped, is_shuffled, misfit
from unit.doctor.planted import court_of, planted

RNG = np.random.default_rng(0)


def test_the_best_stretch_is_the_largest_sum():
    """Against every stretch there is."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        gains_N = rng.normal(size=15)
        sums = {(a, b): gains_N[a:b].sum() for a in range(16) for b in range(a, 16)}
        found = best_stretch(gains_N)
        assert found.nats == pytest.approx(max(sums.values())) and found.nats == pytest.approx(
            sums[found.first, found.last]
        )


def test_no_cluster_adds_more_than_the_cap():
    """A person's seven photos count as one; what speaks against is not capped."""
    sums = np.bincount([0, 0, 1, 2], weights=capped(np.array([3.0, 5.0, -9.0, 1.0]), np.array([0, 0, 1, 2])))
    assert sums.tolist() == [4.0, -9.0, 1.0]


@pytest.mark.parametrize(
    ("turn", "name"),
    [
        (lambda rows: np.roll(rows, -2), "+2 rows"),
        (lambda rows: np.roll(rows, 30), "-30 rows"),
        (lambda rows: rows[::-1], "reversing the labels in rows"),
    ],
)
def test_a_part_is_found_and_named(turn, name):
    """A fifth of the rows moved, or turned round: the pairing is named and gives nearly every row its label back."""
    features_ND, labels_N = planted(800)
    source_N = np.arange(800)
    source_N[300:460] = turn(source_N[300:460])
    found = best_part(court_of(features_ND, labels_N[source_N]), {}, {}, RNG)
    assert found is not None and name in found.pairing.name
    assert (found.labels_N == labels_N).mean() > 0.97


def test_a_folder_in_another_order_is_found():
    """One of four folders has its labels in text order."""
    features_ND, labels_N = planted(400)
    paths = [f"{'abcd'[row // 100]}/{row % 100}.png" for row in range(400)]
    source_N = np.arange(400)
    source_N[200:300] = sorted(range(200, 300), key=lambda row: paths[row])
    court = court_of(features_ND, labels_N[source_N])
    found = best_part(court, orders_of(paths, on_disk=False), {"folder": folders_of(paths)}, RNG)
    assert found is not None and found.pairing.name == "text order of the files in c/"
    assert (found.labels_N == labels_N).all()


def test_shuffled_rows_are_a_misfit_that_nothing_explains():
    """A shuffled part is found where it is; no pairing is named for it."""
    features_ND, labels_N = planted(600)
    source_N = np.arange(600)
    source_N[200:320] = np.random.default_rng(5).permutation(source_N[200:320])
    court = court_of(features_ND, labels_N[source_N])
    stretch = misfit(court)
    assert stretch is not None and abs(stretch.first - 200) < 12 and abs(stretch.last - 320) < 12
    assert is_shuffled(court, stretch, RNG)


@pytest.mark.parametrize("noise", [0.5, 2.0, 8.0])
def test_right_labels_are_left_alone(noise):
    """Easy or hard, where labels are right no part is re-paired and none misfits."""
    for seed in range(3):
        features_ND, labels_N = planted(500, noise=noise, seed=seed)
        court = court_of(features_ND, labels_N)
        assert best_part(court, {}, {}, RNG) is None and misfit(court) is None


def test_hard_images_are_no_misfit():
    """A part whose images say nothing of the labels is not taken for a wrong pairing."""
    features_ND, labels_N = planted(600)
    features_ND[200:320] = np.random.default_rng(0).normal(size=(120, 32)) * 1.4
    court = court_of(features_ND, labels_N)
    stretch = misfit(court)
    assert best_part(court, {}, {}, RNG) is None
    assert stretch is None or not is_shuffled(court, stretch, RNG) or stretch.last - stretch.first < 140


def test_a_run_of_one_class_that_looks_like_another_is_not_shuffled():
    """Where nearly all labels of a stretch are the same, shuffling changes nothing, and so tells nothing."""
    features_ND, labels_N = planted(600, noise=0.5)
    labels_N[200:320] = 0
    labels_N[[230, 290]] = 1
    centre_D = features_ND[np.flatnonzero(labels_N == 2)].astype(np.float32).mean(axis=0)
    features_ND[200:320] = (centre_D + 0.5 * np.random.default_rng(0).normal(size=(120, 32))).astype(np.float16)
    assert not is_shuffled(court_of(features_ND, labels_N), Stretch(200, 320, 40.0), RNG)
