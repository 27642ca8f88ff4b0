"""metrics.paired: differences over the same resamples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss

from finefold.metrics.paired import draw, holm

NAMES = ("a/x", "a/y", "b/x", "b/y")
ATTRIBUTES = {"first": (("a", "b"), np.array([0, 0, 1, 1])), "second": (("x", "y"), np.array([0, 1, 0, 1]))}


def answers(skill: float, *, num: int = 200, seed: int = 0):
    """Labels, groups of 4, and probabilities that lean towards the truth by `skill`."""
    rng = np.random.default_rng(0)
    labels_N, groups_N = rng.integers(0, 4, num), np.arange(num) // 4
    logits_NK = np.random.default_rng(seed).normal(size=(num, 4)) + skill * np.eye(4)[labels_N]
    probs_NK = np.exp(logits_NK)
    return labels_N, groups_N, probs_NK / probs_NK.sum(axis=1, keepdims=True)


def test_values_are_scikit_learns():
    """Every score on all samples is what scikit-learn gives."""
    labels_N, groups_N, probs_NK = answers(1.0)
    values = draw(probs_NK, labels_N, groups_N, NAMES, ATTRIBUTES).values
    found_N = probs_NK.argmax(axis=1)
    assert values["accuracy"] == pytest.approx(accuracy_score(labels_N, found_N))
    assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels_N, found_N))
    assert values["macro_f1"] == pytest.approx(f1_score(labels_N, found_N, average="macro"))
    assert values["log_loss"] == pytest.approx(log_loss(labels_N, probs_NK))
    assert values["class b/x"] == pytest.approx(f1_score(labels_N, found_N, labels=[2], average="macro"))
    first_N = (probs_NK[:, 2:].sum(axis=1) > probs_NK[:, :2].sum(axis=1)).astype(int)
    assert values["attribute first"] == pytest.approx(accuracy_score(labels_N // 2, first_N))


def test_a_run_is_no_better_than_itself():
    """The difference to itself is 0 with an interval of no width, better in half of the resamples, and p is 1."""
    labels_N, groups_N, probs_NK = answers(1.0)
    drawn = draw(probs_NK, labels_N, groups_N, NAMES, ATTRIBUTES)
    for score in drawn.values:
        found = drawn.less(drawn, score)
        assert found is not None
        assert (found.value, found.low, found.high, found.better, found.p_value) == (0, 0, 0, 0.5, 1)


def test_a_clear_difference_is_seen_and_turns_its_sign():
    """A much better model is better in every resample; seen from the other side everything is negated."""
    labels_N, groups_N, weak_NK = answers(0.5)
    _, _, strong_NK = answers(4.0, seed=1)
    weak, strong = (draw(probs, labels_N, groups_N, NAMES, ATTRIBUTES) for probs in (weak_NK, strong_NK))
    for score in ("macro_f1", "accuracy", "log_loss"):
        found, turned = strong.less(weak, score), weak.less(strong, score)
        assert found is not None
        assert turned is not None
        assert found.low > 0
        assert found.p_value == 0
        assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_pairing_is_sharper_than_two_intervals():
    """Where two models err alike, their difference varies less than either score."""
    labels_N, groups_N, probs_NK = answers(1.0)
    nudged_NK = probs_NK.copy()
    nudged_NK[::10] = np.eye(4)[labels_N[::10]]
    plain, nudged = (draw(probs, labels_N, groups_N, NAMES, {}) for probs in (probs_NK, nudged_NK))
    found = nudged.less(plain, "accuracy")
    assert found is not None
    assert found.low > 0
    assert found.high - found.low < 0.8 * np.ptp(np.quantile(plain.drawn["accuracy"], (0.025, 0.975)))


def test_the_order_of_rows_does_not_matter():
    """Permuting samples changes no value and no resample."""
    labels_N, groups_N, probs_NK = answers(1.0)
    order = np.random.default_rng(1).permutation(len(labels_N))
    one = draw(probs_NK, labels_N, groups_N, NAMES, {})
    other = draw(probs_NK[order], labels_N[order], groups_N[order], NAMES, {})
    for score, drawn_R in one.drawn.items():
        assert np.allclose(drawn_R, other.drawn[score])


def test_a_weight_of_two_is_a_sample_twice():
    """Samples that count double score as if each stood there twice, on all samples and on every resample."""
    labels_N, groups_N, probs_NK = answers(1.0)
    weights_N = np.where(labels_N == 2, 2.0, 1.0)
    rows = np.repeat(np.arange(len(labels_N)), weights_N.astype(int))
    weighted = draw(probs_NK, labels_N, groups_N, NAMES, ATTRIBUTES, weights_N=weights_N, resamples=50)
    twice = draw(probs_NK[rows], labels_N[rows], groups_N[rows], NAMES, ATTRIBUTES, resamples=50)
    for score, drawn_R in weighted.drawn.items():
        assert weighted.values[score] == pytest.approx(twice.values[score])
        assert np.allclose(drawn_R, twice.drawn[score], equal_nan=True)


def test_a_class_without_samples_has_no_difference():
    """What cannot be scored is None, never a number."""
    labels_N, groups_N, probs_NK = answers(1.0)
    labels_N[labels_N == 3] = 2
    drawn = draw(probs_NK, labels_N, groups_N, NAMES, {})
    assert drawn.less(drawn, "class b/y") is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_correction_never_makes_surer(p_values):
    """Corrected p-values are at least the plain ones, at most 1, in the same order; one alone stays as it is."""
    corrected = holm(p_values)
    assert all(plain <= after <= 1 for plain, after in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert list(np.asarray(corrected)[order]) == sorted(corrected)
    assert min(corrected) == pytest.approx(min(1, len(p_values) * min(p_values)))


def test_a_missing_value_leaves_only_its_own_scores():
    """The class is scored where all is known and each attribute where it is, as if the other rows were not there."""
    labels_N, groups_N, probs_NK = answers(1.0)
    codes_NA = np.stack([labels_N // 2, labels_N % 2], axis=1)
    codes_NA[::3, 0] = codes_NA[::5, 1] = -1
    joint_N = np.where((codes_NA >= 0).all(axis=1), labels_N, -1)
    known = joint_N >= 0
    drawn = draw(probs_NK, joint_N, groups_N, NAMES, ATTRIBUTES, codes_NA=codes_NA)
    whole = draw(probs_NK[known], labels_N[known], groups_N[known], NAMES, {}).values
    assert {name: drawn.values[name] for name in whole} == pytest.approx(whole)
    for place, (name, (classes, codes_K)) in enumerate(ATTRIBUTES.items()):
        found_N, rows = (probs_NK @ np.eye(len(classes))[codes_K]).argmax(axis=1), codes_NA[:, place] >= 0
        expected = accuracy_score(codes_NA[rows, place], found_N[rows])
        assert drawn.values[f"attribute {name}"] == pytest.approx(expected)
        assert drawn.drawn[f"attribute {name}"].mean() == pytest.approx(expected, abs=0.02)
