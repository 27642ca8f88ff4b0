"""Labels of a whole list against images of a part."""

import numpy as np

from finefold.doctor.evidence import ClosedProbe
from finefold.doctor.trials import Court
from finefold.doctor.warping import best_warp
from unit.doctor.planted import planted


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


def test_a_part_of_the_images_is_aligned_with_nothing_else_known():
    """Four in five images beside the first of the whole list's labels; and the labels of a part beside all images."""
    features_ND, labels_N = planted(600, run=6)
    kept = np.sort(np.random.default_rng(0).permutation(600)[:480])
    images = best_warp(court(features_ND[kept], labels_N[:480]), np.random.default_rng(0))
    labels = best_warp(court(features_ND[:480], labels_N[kept]), np.random.default_rng(0))
    assert images is not None and labels is not None
    assert (images.labels_N == labels_N[kept])[images.labels_N >= 0].mean() > 0.9
    assert (labels.labels_N == labels_N[:480])[labels.labels_N >= 0].mean() > 0.9


def test_right_labels_are_not_aligned_otherwise():
    """However noisy the images, no other alignment beats right labels, nor labels that are half in random order."""
    for noise in (0.5, 2.0, 4.0):
        features_ND, labels_N = planted(500, run=8, noise=noise)
        assert best_warp(court(features_ND, labels_N), np.random.default_rng(0)) is None
    rows_N = np.arange(500)
    rows_N[250:] = np.random.default_rng(1).permutation(rows_N[250:])
    assert best_warp(court(features_ND, labels_N[rows_N]), np.random.default_rng(0)) is None
