"""metrics.imbalance: offsets for scarce classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from finefold.metrics.calibration import softmax
from finefold.metrics.imbalance import (
    fit_bias,
    fit_strength,
    logit_adjust,
    macro_f1,
    share_offsets,
    shift_logs,
    to_thresholds,
)

SHARES = np.array([0.6, 0.3, 0.08, 0.02])


def answers(num: int = 1500, seed: int = 0, shares=SHARES):
    """Samples of scarce classes, and the probabilities that follow from what can be seen of them."""
    rng = np.random.default_rng(seed)
    labels_N = rng.choice(len(shares), num, p=shares)
    seen_NK = rng.normal(size=(num, len(shares))) + 1.5 * np.eye(len(shares))[labels_N]
    return softmax(1.5 * seen_NK + np.log(shares)), labels_N


def score(probs_NK, labels_N):
    """Macro F1 of the likeliest class."""
    return macro_f1(labels_N, probs_NK.argmax(axis=1), probs_NK.shape[1])


def test_macro_f1_is_scikit_learns():
    """Weighted and unweighted macro F1 are scikit-learn's."""
    probs_NK, labels_N = answers()
    found_N, weights_N = probs_NK.argmax(axis=1), np.random.default_rng(1).random(len(labels_N))
    assert macro_f1(labels_N, found_N, 4) == pytest.approx(f1_score(labels_N, found_N, average="macro"))
    expected = f1_score(labels_N, found_N, average="macro", sample_weight=weights_N)
    assert macro_f1(labels_N, found_N, 4, weights_N) == pytest.approx(expected)


def test_strength_one_answers_as_if_classes_were_alike():
    """Full adjustment turns posteriors under the shares into posteriors under equal shares; none changes nothing."""
    probs_NK, _ = answers()
    likelihoods_NK = probs_NK / SHARES
    expected_NK = likelihoods_NK / likelihoods_NK.sum(axis=1, keepdims=True)
    assert np.allclose(logit_adjust(probs_NK, SHARES, 1.0), expected_NK)
    assert np.allclose(logit_adjust(probs_NK, SHARES, 0.0), probs_NK)


def test_adjusting_helps_other_samples():
    """Strength and offsets fitted on some samples raise the macro F1 of others."""
    probs_NK, labels_N = answers(3000)
    others_NK, truth_N = answers(3000, seed=1)
    strength = fit_strength(probs_NK, labels_N, SHARES)
    assert 0 < strength <= 2
    assert score(logit_adjust(others_NK, SHARES, strength), truth_N) > score(others_NK, truth_N) + 0.02
    offset_K = fit_bias(probs_NK, labels_N, share_offsets(SHARES, strength))
    assert score(shift_logs(others_NK, offset_K), truth_N) > score(others_NK, truth_N) + 0.02


def test_a_class_of_no_share_is_left_alone():
    """A class that training never saw gets no offset instead of an infinite one."""
    assert share_offsets(np.array([0.5, 0.5, 0.0]), 1.0)[2] == 0


def test_two_classes_get_the_best_threshold():
    """Of two classes the offset reaches the macro F1 of the best of all thresholds, tried one by one."""
    probs_NK, labels_N = answers(300, shares=np.array([0.85, 0.15]))
    offset_K = fit_bias(probs_NK, labels_N, np.zeros(2))
    best = max(
        f1_score(labels_N, probs_NK[:, 1] > threshold, average="macro") for threshold in [*probs_NK[:, 1], 0.0, 1.0]
    )
    assert score(shift_logs(probs_NK, offset_K), labels_N) == pytest.approx(best)
    threshold = to_thresholds(offset_K)[1]
    found_N = shift_logs(probs_NK, offset_K).argmax(axis=1)
    assert np.array_equal(found_N == 1, probs_NK[:, 1] > threshold)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(5, 120))
def test_coordinate_ascent_never_loses(seed, num_classes, num):
    """On its own rows, with any weights, offsets are at least as good as where they started; row order is nothing."""
    rng = np.random.default_rng(seed)
    probs_NK, labels_N = rng.dirichlet(np.ones(num_classes), num), rng.integers(0, num_classes, num)
    weights_N, start_K = rng.random(num) + 0.1, rng.normal(size=num_classes)
    offset_K = fit_bias(probs_NK, labels_N, start_K, weights_N)
    before = macro_f1(labels_N, shift_logs(probs_NK, start_K).argmax(axis=1), num_classes, weights_N)
    after = macro_f1(labels_N, shift_logs(probs_NK, offset_K).argmax(axis=1), num_classes, weights_N)
    assert after >= before - 1e-9
    assert offset_K.mean() == pytest.approx(0, abs=1e-9)
    order = rng.permutation(num)
    again_K = fit_bias(probs_NK[order], labels_N[order], start_K, weights_N[order])
    assert np.allclose(again_K, offset_K)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(4, 40))
def test_one_offset_is_the_best_there_is(seed, num_classes, num):
    """The first move of coordinate ascent reaches the best macro F1 of a fine grid of that class's offsets."""
    from finefold.metrics.imbalance import _best_offset

    rng = np.random.default_rng(seed)
    probs_NK, labels_N = rng.dirichlet(np.ones(num_classes), num), rng.integers(0, num_classes, num)
    offset_K = rng.normal(size=num_classes)
    offset, gain = _best_offset(np.log(probs_NK), labels_N, np.ones(num), offset_K, 0)

    def reached(value):
        moved_K = np.concatenate([[value], offset_K[1:]])
        return macro_f1(labels_N, (np.log(probs_NK) + moved_K).argmax(axis=1), num_classes)

    present = len(np.unique(labels_N))
    assert reached(offset) >= max(map(reached, np.linspace(-15, 15, 301))) - 1e-9
    assert reached(offset) - reached(offset_K[0]) == pytest.approx(gain / present, abs=1e-9)
