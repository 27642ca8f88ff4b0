"""metrics.shift: the class shares of a set without labels."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finefold.metrics.calibration import softmax
from finefold.metrics.imbalance import shift_logs
from finefold.metrics.shift import bbse_prior, estimate_shares, rake, saerens_prior

TRAIN = np.array([0.6, 0.3, 0.1])
TEST = np.array([0.3, 0.3, 0.4])
CODES = {"first": np.array([0, 0, 1, 1, 2, 2]), "second": np.array([0, 1, 0, 1, 0, 1])}


def drawn(shares, num: int, seed: int, *, sure: float = 1.0):
    """Labels by these shares, and probabilities calibrated to TRAIN (raised to `sure`)."""
    rng = np.random.default_rng(seed)
    labels_N = rng.choice(3, num, p=shares)
    seen_NK = rng.normal(size=(num, 3)) + 2 * np.eye(3)[labels_N]
    return softmax(sure * (2 * seen_NK + np.log(TRAIN))), labels_N


def test_both_ways_find_the_shares():
    """With another share of every class, both estimates come near the truth; the mean probability does not."""
    probs_NK, labels_N = drawn(TEST, 4000, 1)
    ledger_LK, labels_L = drawn(TRAIN, 4000, 0)
    true_K = np.bincount(labels_N) / 4000
    assert np.abs(saerens_prior(probs_NK, TRAIN) - true_K).max() < 0.02
    assert np.abs(bbse_prior(probs_NK, ledger_LK, labels_L) - true_K).max() < 0.03
    assert np.abs(probs_NK.mean(axis=0) - true_K).max() > 0.04


@pytest.mark.parametrize("shares", [TRAIN, TEST], ids=["unchanged", "shifted"])
def test_intervals_hold_the_truth(shares):
    """Over 25 pairs of sets the 95 % intervals hold the shares in at least 85 of 100 cases; few false alarms."""
    held, alarms = [], 0
    for seed in range(25):
        probs_NK, _ = drawn(shares, 300, 2 * seed + 1, sure=2.0)
        ledger_LK, labels_L = drawn(TRAIN, 300, 2 * seed + 2, sure=2.0)
        found = estimate_shares("x", "abc", probs_NK, ledger_LK, labels_L, np.arange(300), resamples=240)
        for estimate in (found.em, found.bbse):
            held += [score.low <= share <= score.high for score, share in zip(estimate, shares, strict=True)]
        alarms += found.is_shifted
    assert np.mean(held) > 0.85
    assert alarms <= 4 if shares is TRAIN else alarms == 25


def test_a_shift_is_seen():
    """The intervals of a shifted set leave out the shares of training; miscalibration is mended first."""
    probs_NK, _ = drawn(TEST, 1000, 1, sure=2.0)
    ledger_LK, labels_L = drawn(TRAIN, 1000, 0, sure=2.0)
    found = estimate_shares("x", ["a", "b", "c"], probs_NK, ledger_LK, labels_L, np.arange(1000) // 4)
    for estimate in (found.em, found.bbse):
        assert not estimate[2].low <= found.before_K[2] <= estimate[2].high
    assert found.has_changed_K[[0, 2]].all()
    assert found.is_shifted
    assert found.shares_K.sum() == pytest.approx(1)
    json.dumps(found.to_dict(), allow_nan=False)


def test_an_unchanged_set_is_not_shifted():
    """Another set of the same shares: estimates near the ledger's, whose shares lie inside the intervals."""
    probs_NK, _ = drawn(TRAIN, 2000, 3)
    ledger_LK, labels_L = drawn(TRAIN, 2000, 0)
    found = estimate_shares("x", ["a", "b", "c"], probs_NK, ledger_LK, labels_L, np.arange(2000))
    assert not found.is_shifted
    assert np.abs(found.shares_K - found.before_K).max() < 0.03


def test_images_of_one_class_are_counted():
    """25 images that are all of one class: no interval of a single point; five such say nothing of a change."""
    ledger_LK, labels_L = drawn(TRAIN, 1000, 0, sure=6.0)
    rows = np.flatnonzero(labels_L == 0)
    found = estimate_shares("x", "abc", ledger_LK[rows[:25]], ledger_LK, labels_L, np.arange(1000), resamples=100)
    assert found.em[0].value > 0.95 and found.is_shifted
    assert found.em[0].low <= 0.87 and found.bbse[0].low <= 0.87  # 0.025 ** (1 / 25) = 0.863
    assert all(one.high >= 0.13 for one in found.em[1:])
    few = estimate_shares("x", "abc", ledger_LK[rows[:3]], ledger_LK, labels_L, np.arange(1000), resamples=100)
    assert few.em[0].value > 0.95 and not few.is_shifted


def test_the_order_of_rows_does_not_matter():
    """Permuting the rows of either set changes neither an estimate nor an interval."""
    probs_NK, _ = drawn(TEST, 200, 1)
    ledger_LK, labels_L = drawn(TRAIN, 200, 0)
    groups_L, rng = np.arange(200) // 4, np.random.default_rng(0)
    rows_N, rows_L = rng.permutation(200), rng.permutation(200)
    one = estimate_shares("x", "abc", probs_NK, ledger_LK, labels_L, groups_L, resamples=50)
    other = estimate_shares(
        "x", "abc", probs_NK[rows_N], ledger_LK[rows_L], labels_L[rows_L], groups_L[rows_L], resamples=50
    )
    for first, second in zip(one.em + one.bbse, other.em + other.bbse, strict=True):
        assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), abs=1e-4)


def test_groups_widen_intervals():
    """Where the set's images come in groups of ten alike, its intervals are wider than of single images."""
    probs_NK, _ = drawn(TEST, 60, 1)
    probs_NK = np.repeat(probs_NK, 10, axis=0)
    ledger_LK, labels_L = drawn(TRAIN, 1500, 0)

    def width(groups_N):
        found = estimate_shares("x", ["a", "b", "c"], probs_NK, ledger_LK, labels_L, np.arange(1500), groups_N=groups_N)
        return found.em[2].high - found.em[2].low

    assert width(np.arange(600) // 10) > 1.3 * width(None)


def test_the_ledger_itself_is_left_as_it_is():
    """Estimated on the very rows of the ledger, shares are the ledger's within a hair: correcting is the identity."""
    ledger_LK, labels_L = drawn(TRAIN, 3000, 0)
    found = estimate_shares("x", ["a", "b", "c"], ledger_LK, ledger_LK, labels_L, np.arange(3000))
    assert found.shares_K == pytest.approx(found.before_K, abs=1e-3)
    corrected_NK = shift_logs(ledger_LK, np.log(found.shares_K / found.before_K))
    assert np.abs(corrected_NK - ledger_LK).max() < 5e-3


def test_a_class_that_was_never_seen_cannot_be_estimated():
    """A prior of 0 is refused, with the class."""
    with pytest.raises(ValueError, match=r"classes \[1\] have no share before"):
        saerens_prior(np.full((3, 2), 0.5), np.array([1.0, 0.0]))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 60))
def test_estimates_are_shares_in_any_order(seed, num_classes, num):
    """For any probabilities: shares are not negative, sum to 1, and do not depend on the order of rows or classes."""
    rng = np.random.default_rng(seed)
    probs_NK = rng.dirichlet(np.full(num_classes, 0.5), num)
    prior_K = rng.dirichlet(np.ones(num_classes)) * 0.9 + 0.1 / num_classes
    shares_K = saerens_prior(probs_NK, prior_K)
    assert shares_K.min() >= 0
    assert shares_K.sum() == pytest.approx(1)
    rows, classes = rng.permutation(num), rng.permutation(num_classes)
    again_K = saerens_prior(probs_NK[rows][:, classes], prior_K[classes])
    assert again_K == pytest.approx(shares_K[classes], abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_raked_shares_have_the_marginals_asked_for(seed):
    """Raking reaches the wanted marginals; asked for the marginals there are, it changes nothing."""
    rng = np.random.default_rng(seed)
    shares_K = rng.dirichlet(np.ones(6)) * 0.9 + 0.1 / 6
    wanted = {name: rng.dirichlet(np.ones(codes_K.max() + 1)) for name, codes_K in CODES.items()}
    raked_K = rake(shares_K, wanted, CODES)
    for name, wanted_C in wanted.items():
        assert np.bincount(CODES[name], raked_K) == pytest.approx(wanted_C, abs=1e-6)
    as_is = {name: np.bincount(codes_K, shares_K) for name, codes_K in CODES.items()}
    assert rake(shares_K, as_is, CODES) == pytest.approx(shares_K)
