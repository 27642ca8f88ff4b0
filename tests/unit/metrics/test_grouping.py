"""Which images belong together, found by features."""

import numpy as np
import pytest

from finefold.metrics.grouping import Grouper, GroupSpace, best_height, groups_at, nested_groups, pair_f1


def people(count=30, photos=5, *, width=12, seed=0):
    """Features in which what photos show varies more than who is shown: plain distances are of no use."""
    rng = np.random.default_rng(seed)
    who_GD = np.concatenate([rng.normal(size=(count, width // 2)), np.zeros((count, width - width // 2))], axis=1)
    what_ND = np.concatenate(
        [
            0.1 * rng.normal(size=(count * photos, width // 2)),
            10 * rng.normal(size=(count * photos, width - width // 2)),
        ],
        axis=1,
    )
    groups_N = np.repeat(np.arange(count), photos)
    return who_GD[groups_N] + what_ND, groups_N, groups_N % 5


def test_new_people_are_told_apart():
    """Groups of people that nothing was learned on are found, where plain distances find none."""
    features_ND, groups_N, folds_N = people()
    new_ND, new_N, _ = people(seed=1)
    grouper = Grouper.fit(features_ND, groups_N, folds_N)
    assert pair_f1(grouper.groups(new_ND), new_N) > 0.9
    plain = GroupSpace(np.zeros(12), np.ones(12), np.eye(12)).link(new_ND)
    assert pair_f1(groups_at(plain, best_height(plain, new_N)), new_N) < 0.5


def test_nested_groups_never_span_folds():
    """Every fold's images are grouped for themselves; two folds are too few to learn from, and that is told."""
    features_ND, groups_N, folds_N = people()
    found_N = nested_groups(features_ND, groups_N, folds_N)
    assert pair_f1(found_N, groups_N) > 0.9
    for group in np.unique(found_N):
        assert len(set(folds_N[found_N == group])) == 1
    with pytest.raises(ValueError, match="at least three folds, got 2"):
        nested_groups(features_ND, groups_N, folds_N % 2)


def test_the_best_height_is_the_best_of_all():
    """No other height between two joins agrees better with the true groups."""
    features_ND, groups_N, _ = people(count=8)
    links = GroupSpace.fit(features_ND, groups_N).link(features_ND[::-1] + 0.3)
    heights = np.concatenate([[0], links[:, 2], [links[-1, 2] + 1]])
    scores = [pair_f1(groups_at(links, height), groups_N) for height in (heights[:-1] + heights[1:]) / 2]
    assert pair_f1(groups_at(links, best_height(links, groups_N)), groups_N) == pytest.approx(max(scores))


def test_few_images_have_few_groups():
    """No image has no group and one image is alone; too many are refused."""
    features_ND, groups_N, folds_N = people()
    grouper = Grouper.fit(features_ND, groups_N, folds_N)
    assert grouper.groups(features_ND[:0]).tolist() == []
    assert grouper.groups(features_ND[:1]).tolist() == [0]
    with pytest.raises(ValueError, match="10001 images are too many"):
        grouper.groups(np.zeros((10_001, 12)))


def test_pairs_agree_whatever_groups_are_called():
    """Renamed groups agree fully; all alone and all together do not."""
    groups_N = np.array([0, 0, 1, 1])
    assert pair_f1(np.array([5, 5, 2, 2]), groups_N) == 1
    assert pair_f1(np.arange(4), groups_N) == 0
    assert pair_f1(np.zeros(4, int), groups_N) == pytest.approx(0.5)
