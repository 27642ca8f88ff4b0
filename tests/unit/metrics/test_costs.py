"""What classes, attributes and confusions cost macro F1."""

import numpy as np
import pytest

from finefold.metrics.classification import scores_from_confusion
from finefold.metrics.costs import class_gains, confused_pairs, costs, pair_gains

NAMES = ["wear/male", "wear/female", "normal/male", "normal/female"]
ATTRIBUTES = {
    "mask": (["wear", "normal"], np.array([0, 0, 1, 1])),
    "gender": (["male", "female"], np.array([0, 1, 0, 1])),
}


def confusion(seed: int = 0, *, num_classes: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 20, (num_classes, num_classes))


def macro_f1(counts) -> float:
    return float(scores_from_confusion(counts).macro_f1)


@pytest.mark.parametrize("seed", range(5))
def test_a_classs_gain_is_what_moving_its_errors_gives(seed):
    """The gain equals macro F1 recomputed after moving the same share of each of the class's errors home."""
    counts = confusion(seed).astype(float)
    gains_K, recall_K, mean = class_gains(counts.astype(int))
    for k in range(4):
        moved = counts.copy()
        if recall_K[k] < mean:
            share = (mean * counts[k].sum() - counts[k, k]) / (counts[k].sum() - counts[k, k])
            errors = np.where(np.arange(4) == k, 0, share * counts[k])
            moved[k] -= errors
            moved[k, k] += errors.sum()
            assert moved[k, k] / moved[k].sum() == pytest.approx(mean)
        assert gains_K[k] == pytest.approx(max(0, macro_f1(moved) - macro_f1(counts)), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_confusions_gain_is_what_putting_it_right_gives(seed):
    """The gain equals macro F1 recomputed with that cell on the diagonal; nothing is gained on the diagonal."""
    counts = confusion(seed)
    gains_KK = pair_gains(counts)
    for i in range(4):
        assert gains_KK[i, i] == 0
        for j in set(range(4)) - {i}:
            moved = counts.copy()
            moved[i, i] += moved[i, j]
            moved[i, j] = 0
            assert gains_KK[i, j] == pytest.approx(macro_f1(moved) - macro_f1(counts), abs=1e-12)


def test_an_attribute_put_right_keeps_the_answers_other_attributes():
    """Were gender always right, an answer of the right mask becomes right and one of the wrong mask does not."""
    counts = np.zeros((4, 4), int)
    counts[0, 1], counts[0, 0] = 3, 1  # mask right, gender wrong
    counts[3, 0], counts[3, 3] = 5, 1  # both wrong: becomes wear/female
    found = costs(counts, NAMES, ATTRIBUTES)["attributes"]["gender"]["if_always_right"]
    then = np.zeros((4, 4), int)
    then[0, 0], then[3, 1], then[3, 3] = 4, 5, 1
    assert found == pytest.approx(macro_f1(then) - macro_f1(counts))


def test_an_attributes_class_rises_to_the_attributes_mean():
    """Raising recall of one attribute's class moves that share of its wrong answers, and no other row."""
    counts = confusion(3)
    found = costs(counts, NAMES, ATTRIBUTES)["attributes"]["mask"]["classes"]
    recalls = {name: one["recall"] for name, one in found.items()}
    low = min(recalls, key=lambda name: recalls[name])
    other = next(name for name in recalls if name != low)
    assert found[other]["gain"] == 0
    assert found[low]["mean_recall"] == pytest.approx(np.mean(list(recalls.values())))
    rows, wrong = ([0, 1], [2, 3]) if low == "wear" else ([2, 3], [0, 1])
    support, hits = counts[rows].sum(), counts[np.ix_(rows, rows)].sum()
    share = (found[low]["mean_recall"] * support - hits) / (support - hits)
    then = counts.astype(float)
    for i in rows:
        for j in wrong:
            then[i, j] -= share * counts[i, j]
            then[i, (j + 2) % 4] += share * counts[i, j]
    assert found[low]["gain"] == pytest.approx(max(0, macro_f1(then) - macro_f1(counts)))


def test_a_class_without_samples_costs_nothing_and_is_null():
    """A class that no sample has is no cost, and the others are counted without it."""
    counts = confusion()
    counts[2] = 0
    found = costs(counts, NAMES, ATTRIBUTES)
    assert found["classes"]["normal/male"] is None
    assert all(np.isfinite(one["gain"]) for one in found["classes"].values() if one)
    assert all(np.isfinite(one["gain"]) for one in confused_pairs(counts, NAMES))


def test_perfect_answers_cost_nothing():
    """Without errors nothing can be gained, and no pair is confused."""
    counts = np.diag([3, 4, 5, 6])
    found = costs(counts, NAMES, ATTRIBUTES)
    assert all(one["gain"] == 0 for one in found["classes"].values())
    assert all(part["if_always_right"] == 0 for part in found["attributes"].values())
    assert confused_pairs(counts, NAMES) == []


def test_pairs_come_by_cost():
    """The pair whose errors cost most comes first, with its count and its share of the true class."""
    pairs = confused_pairs(confusion(1), NAMES, most=5)
    assert len(pairs) == 5
    assert [one["gain"] for one in pairs] == sorted((one["gain"] for one in pairs), reverse=True)
    counts = confusion(1)
    first = pairs[0]
    i, j = NAMES.index(first["true"]), NAMES.index(first["predicted"])
    assert first["count"] == counts[i, j]
    assert first["share"] == pytest.approx(counts[i, j] / counts[i].sum())


def test_attributes_that_do_not_make_the_class_are_left_out():
    """Where attributes do not tell all classes apart, moving an answer has no meaning and is not counted."""
    assert costs(confusion(), NAMES, {"mask": ATTRIBUTES["mask"]})["attributes"] == {}
