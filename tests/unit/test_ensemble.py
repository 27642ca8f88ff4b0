"""ensemble: many models' probabilities into one."""

import json

import numpy as np
import pytest

from finefold.ensemble import Combination, fit_combination, greedy_weights, nested_ensemble
from finefold.metrics.calibration import softmax
from finefold.metrics.imbalance import macro_f1
from finefold.metrics.paired import draw

WAYS = ("greedy", "mean", "geometric", "rank", "vote", "stack")


def library(num_members: int = 4, num: int = 400, num_classes: int = 3, seed: int = 0):
    """Members that see the same samples through noise of their own, some more of it; labels and folds."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, num_classes, num)
    seen_NK = rng.normal(size=(num, num_classes)) + 1.5 * np.eye(num_classes)[labels_N]
    probs_MNK = np.stack(
        [softmax(seen_NK + rng.uniform(0.3, 2) * rng.normal(size=seen_NK.shape)) for _ in range(num_members)]
    )
    return probs_MNK, labels_N, np.arange(num) % 4


def score(probs_NK, labels_N):
    """Macro F1 of the likeliest class."""
    return macro_f1(labels_N, probs_NK.argmax(axis=1), probs_NK.shape[1])


@pytest.mark.parametrize("by", WAYS)
def test_every_way_gives_probabilities_and_is_kept_whole(by):
    """Rows sum to 1, weights sum to 1 and are not negative; written as JSON and read again it says the same."""
    probs_MNK, labels_N, folds_N = library()
    fitted = fit_combination(probs_MNK, labels_N, folds_N, by=by)
    combined_NK = fitted.apply(probs_MNK)
    assert np.allclose(combined_NK.sum(axis=1), 1)
    assert combined_NK.min() >= 0
    assert fitted.weights_M.sum() == pytest.approx(1)
    assert fitted.weights_M.min() >= 0
    again = Combination.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert np.array_equal(again.apply(probs_MNK), combined_NK)


@pytest.mark.parametrize("by", WAYS)
def test_the_order_of_members_and_rows_changes_nothing(by):
    """Permuting members permutes their weights; permuting rows permutes what comes out."""
    probs_MNK, labels_N, folds_N = library(5)
    rng = np.random.default_rng(1)
    members, rows = rng.permutation(5), rng.permutation(len(labels_N))
    one = fit_combination(probs_MNK, labels_N, folds_N, by=by)
    other = fit_combination(probs_MNK[members][:, rows], labels_N[rows], folds_N[rows], by=by)
    assert np.allclose(other.weights_M, one.weights_M[members])
    tolerance = 1e-3 if by == "stack" else 1e-9
    assert np.allclose(other.apply(probs_MNK[members]), one.apply(probs_MNK), atol=tolerance)


@pytest.mark.parametrize("by", WAYS)
def test_one_opinion_many_times_stays_that_opinion(by):
    """Copies of one member answer what it answers."""
    probs_MNK, labels_N, folds_N = library(1)
    copies_MNK = np.repeat(probs_MNK, 3, axis=0)
    combined_NK = fit_combination(copies_MNK, labels_N, folds_N, by=by).apply(copies_MNK)
    agree = (combined_NK.argmax(axis=1) == probs_MNK[0].argmax(axis=1)).mean()
    assert agree == 1 if by in ("greedy", "mean", "geometric", "vote") else agree > 0.9


@pytest.mark.parametrize("by", ["greedy", pytest.param("stack", marks=pytest.mark.slow)])  # many fits of stacks
def test_nesting_is_rarely_clearly_worse_than_the_best_member(by):
    """In a tenth of seeded cases at most is the nested ensemble below the best member by more than its interval.

    Never would be too much to ask: the best member is chosen in hindsight, and 95 % intervals miss.
    """
    names, cases = tuple("abc"), 20
    num_worse = 0
    for seed in range(cases):
        num_members = 2 + seed % 4
        probs_MNK, labels_N, folds_N = library(num_members, 240, seed=seed)
        nested_NK = nested_ensemble(probs_MNK, labels_N, folds_N, by=by)
        best = max(range(num_members), key=lambda member: score(probs_MNK[member], labels_N))
        pair = [
            draw(probs, labels_N, np.arange(240), names, {}, resamples=200) for probs in (nested_NK, probs_MNK[best])
        ]
        found = pair[0].less(pair[1], "macro_f1")
        assert found is not None
        num_worse += found.high < 0
    assert num_worse <= cases / 10


def test_weights_leave_noise_out():
    """A member that knows nothing gets next to no weight, and good ones share the rest."""
    probs_MNK, labels_N, _ = library(3)
    noise_NK = np.random.default_rng(9).dirichlet(np.ones(3), len(labels_N))
    weights_M = greedy_weights(np.concatenate([probs_MNK, noise_NK[None]]), labels_N, goal="log_loss")
    assert weights_M[-1] < 0.1
    assert weights_M.sum() == pytest.approx(1)


@pytest.mark.parametrize("goal", ["macro_f1", "accuracy", "log_loss"])
def test_selection_beats_the_best_member_on_its_own_rows(goal):
    """On the rows it was fitted on, the weighted mean reaches the best member's goal, within a hundredth."""
    probs_MNK, labels_N, _ = library(3, seed=3)
    mean_NK = np.tensordot(greedy_weights(probs_MNK, labels_N, goal=goal), probs_MNK, 1)
    rows_N = np.arange(len(labels_N))
    goals = {
        "macro_f1": score,
        "accuracy": lambda probs, labels: (probs.argmax(axis=1) == labels).mean(),
        "log_loss": lambda probs, labels: np.log(probs[rows_N, labels]).mean(),
    }
    assert goals[goal](mean_NK, labels_N) >= max(goals[goal](one, labels_N) for one in probs_MNK) - 0.01


def test_rows_on_which_all_agree_are_counted():
    """Looking only at rows of disagreement gives the score of all rows."""
    from finefold.ensemble import _Judge

    probs_MNK, labels_N, _ = library(4)
    judge = _Judge(probs_MNK, labels_N, "macro_f1")
    assert judge.probs_MKn.shape[2] < len(labels_N)
    found = judge.score(judge.probs_MKn.sum(axis=0), 4)
    assert found == pytest.approx(score(probs_MNK.mean(axis=0), labels_N))


def test_votes_count_and_ties_go_to_the_surer():
    """Two of three votes win against a surer third; one against one, the larger mean probability wins."""
    probs_MNK = np.array([[[0.51, 0.49]], [[0.51, 0.49]], [[0.01, 0.99]]])
    vote = Combination("vote", np.full(3, 1 / 3))
    assert vote.apply(probs_MNK).argmax() == 0
    assert vote.apply(probs_MNK[1:]).argmax() == 1


def test_ranks_do_not_depend_on_what_is_asked_beside():
    """A row's rank is among the ledger's, so it is the same alone and among others."""
    probs_MNK, labels_N, folds_N = library()
    fitted = fit_combination(probs_MNK, labels_N, folds_N, by="rank")
    assert np.allclose(fitted.apply(probs_MNK[:, :1]), fitted.apply(probs_MNK)[:1])


def test_a_sample_of_unknown_label_is_combined_and_fits_nothing():
    """Rows whose label is -1 get an answer; the others' are as if those rows were not there."""
    probs_MNK, labels_N, folds_N = library()
    unknown_N = labels_N.copy()
    unknown_N[::5] = -1
    known = unknown_N >= 0
    nested_NK = nested_ensemble(probs_MNK, unknown_N, folds_N, by="greedy")
    without_NK = nested_ensemble(probs_MNK[:, known], labels_N[known], folds_N[known], by="greedy")
    assert np.allclose(nested_NK[known], without_NK)
    assert np.allclose(nested_NK.sum(axis=1), 1)
