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
        found_P, total = match_in_order(worth_PQ, rate, is_whole=is_whole)

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
