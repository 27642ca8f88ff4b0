"""Labels of a whole list against images of a part."""

from itertools import combinations

import numpy as np
import pytest

from finefold.doctor.evidence import ClosedProbe
from finefold.doctor.trials import Court
from finefold.doctor.warping import best_warp, match_in_order
from unit.doctor.planted import planted


@pytest.mark.parametrize("is_whole", [True, False])
def test_matching_in_order_is_the_best_there_is(is_whole):
    """Against every choice of rising numbers, of all places or of the first ones."""
    rng = np.random.default_rng(0)
    rate = 0.6
    for _ in range(10):
        worth_PQ = rng.normal(3, 1, size=(4, 7)).astype(np.float32)
        found_P, total = match_in_order(worth_PQ, np.zeros(4, np.int64), 7, rate, is_whole=is_whole)

        def value(chosen, worth_PQ=worth_PQ):
            skipped = 7 - len(chosen)
            return worth_PQ[range(len(chosen)), chosen].sum() + len(chosen) * np.log(rate) + skipped * np.log(1 - rate)

        best = max(
            value(list(chosen))
            for size in (range(4, 5) if is_whole else range(1, 5))
            for chosen in combinations(range(7), size)
        )
        assert total == pytest.approx(best, abs=1e-3)
        assert value(found_P[found_P >= 0].tolist()) == pytest.approx(best, abs=1e-3)


def test_a_band_around_the_right_numbers_gives_what_all_numbers_give():
    """Only what lies far from the even stretch is left out, whichever way the windows move."""
    rng = np.random.default_rng(3)
    worth_PQ = rng.normal(size=(60, 90)).astype(np.float32)
    own_P = np.sort(rng.permutation(90)[:60])
    worth_PQ[np.arange(60), own_P] += 6
    whole_P, total = match_in_order(worth_PQ, np.zeros(60, np.int64), 90, 0.67, is_whole=True)
    first_P = np.clip(np.rint(np.arange(60) * 1.5).astype(int) - 15, 0, 90 - 31)
    banded_PW = worth_PQ[np.arange(60)[:, None], first_P[:, None] + np.arange(31)]
    found_P, same = match_in_order(banded_PW, first_P, 90, 0.67, is_whole=True)
    assert found_P.tolist() == whole_P.tolist() and same == pytest.approx(total, abs=1e-2)
    assert (found_P == own_P).mean() > 0.9


def test_labels_in_random_order_are_not_aligned_with_sorted_images():
    """Images in runs pick what they need out of any list of labels; labels in another order would do as well."""
    features_ND, labels_N = planted(300, run=30, noise=0.5)
    for seed in range(3):
        shuffled_N = np.random.default_rng(seed).permutation(labels_N)
        assert best_warp(court(features_ND, shuffled_N), np.random.default_rng(0)) is None


def test_runs_of_labels_in_random_order_are_not_aligned():
    """The same where labels come in runs as the images do: backwards they would do as well."""
    features_ND, _ = planted(300, run=7, noise=0.5, seed=1)
    _, others_N = planted(300, run=7, seed=2)
    assert best_warp(court(features_ND, others_N), np.random.default_rng(0)) is None


def court(features_ND, labels_N, every_label=None) -> Court:
    count = len(labels_N)
    return Court.of(ClosedProbe(features_ND, np.arange(count) % 5), labels_N, 4, np.arange(count), every_label)


def test_a_part_of_the_images_with_all_labels_is_aligned():
    """Four in five images, in order, beside the whole list of labels."""
    features_ND, labels_N = planted(500, run=12)
    kept = np.sort(np.random.default_rng(0).permutation(500)[:400])
    found = best_warp(court(features_ND[kept], labels_N[:400], labels_N), np.random.default_rng(0))
    assert found is not None and found.pairing.kind == "subset"
    assert (found.labels_N == labels_N[kept])[found.labels_N >= 0].mean() > 0.9


def test_noise_is_not_aligned():
    """Images that say nothing of the labels are aligned with nothing, however well some path may fit."""
    rng = np.random.default_rng(0)
    _, labels_N = planted(300)
    assert best_warp(court(rng.normal(size=(300, 32)), labels_N), rng) is None
