"""Many models' probabilities into one: how they are combined, and how much each one counts.

Weights are fitted on ledgers, so what comes out is judged by nesting: see `nested_ensemble`. Runs are known by what
they say, never by their place, so that the order in which they are given changes nothing.

Shapes: M members, N samples, K classes, B bags, Q steps of a distribution.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finefold.metrics.calibration import log_probs, softmax
from finefold.metrics.classification import FloatArray, IntArray, log_loss_N
from finefold.metrics.imbalance import macro_f1
from finefold.metrics.stacking import Stack, fit_stack

By = Literal["greedy", "mean", "geometric", "rank", "vote", "stack"]
Goal = Literal["macro_f1", "accuracy", "log_loss"]

ROUNDS = 25  # of greedy selection: weights come in steps of a twenty-fifth
BAGS = 10
BAG_SHARE = 0.5  # of the rows in a bag
STEPS = 200  # of the distribution that ranks are read off


@dataclass(frozen=True, eq=False)
class Combination:
    """How members' probabilities become one.

    Args:
        by: the way.
        weights_M: how much each member counts; they sum to 1.
        quantiles_MKQ: of rank means: each member's probabilities of each class in its ledger, evenly spaced quantiles.
        stack: of stacking.
    """

    by: By
    weights_M: FloatArray
    quantiles_MKQ: FloatArray | None = None
    stack: Stack | None = None

    def apply(self, probs_MNK: FloatArray) -> FloatArray:
        """[M, N, K] members' probabilities -> [N, K], rows sum to 1."""
        if self.stack is not None:
            return self.stack.apply(probs_MNK)
        if self.by == "geometric":
            return softmax(np.tensordot(self.weights_M, log_probs(probs_MNK), 1))
        if self.by == "vote":
            return _votes(probs_MNK)
        if self.by == "rank":
            assert self.quantiles_MKQ is not None
            probs_MNK = _ranks(probs_MNK, self.quantiles_MKQ)
        mean_NK = np.tensordot(self.weights_M, probs_MNK, 1)
        return np.asarray(mean_NK / mean_NK.sum(axis=1, keepdims=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "by": self.by,
            "weights": self.weights_M.tolist(),
            "quantiles": None if self.quantiles_MKQ is None else self.quantiles_MKQ.tolist(),
            "stack": None if self.stack is None else self.stack.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Combination":
        """What `to_dict` gave."""
        quantiles = None if values["quantiles"] is None else np.asarray(values["quantiles"])
        stack = None if values["stack"] is None else Stack.from_dict(values["stack"])
        return cls(values["by"], np.asarray(values["weights"]), quantiles, stack)


def fit_combination(
    probs_MNK: FloatArray, labels_N: IntArray, folds_N: NDArray[Any], *, by: By, goal: Goal = "macro_f1"
) -> Combination:
    """Fits what there is to fit.

    * `mean`, `geometric`: of probabilities and of their logarithms; nothing is fitted.
    * `rank`: mean of how high a probability is among the member's own of that class in its ledger.
    * `vote`: the class that most members answer; ties go to the larger mean probability.
    * `greedy`: a weighted mean; see `greedy_weights`.
    * `stack`: a multinomial regression on members' log-probabilities; see `metrics.stacking`.

    Args:
        probs_MNK: members' probabilities of rows they did not see.
        labels_N: [N] true class codes.
        folds_N: [N], for what is fitted within them.
        by: the way.
        goal: what greedy selection raises.
    """
    num_members = len(probs_MNK)
    equal_M = np.full(num_members, 1 / num_members)
    if by == "greedy":
        return Combination(by, greedy_weights(probs_MNK, labels_N, goal=goal))
    if by == "rank":
        steps_Q = np.linspace(0, 1, STEPS + 1)
        return Combination(by, equal_M, np.moveaxis(np.quantile(probs_MNK, steps_Q, axis=1), 0, 2))
    if by == "stack":
        return Combination(by, equal_M, stack=fit_stack(probs_MNK, labels_N, folds_N))
    return Combination(by, equal_M)


def nested_ensemble(
    probs_MNK: FloatArray, labels_N: IntArray, folds_N: NDArray[Any], *, by: By, goal: Goal = "macro_f1"
) -> FloatArray:
    """[N, K] the ensemble's ledger: every fold combined by what was fitted on the other folds.

    Args:
        probs_MNK: members' ledgers, rows in the same order.
        labels_N: [N] true class codes; a sample of unknown label, -1, is combined and fits nothing.
        folds_N: [N].
        by: the way.
        goal: what greedy selection raises.
    """
    combined_NK = np.empty(probs_MNK.shape[1:])
    for fold in np.unique(folds_N):
        is_in_N = folds_N == fold
        rows = ~is_in_N & (labels_N >= 0)
        fitted = fit_combination(probs_MNK[:, rows], labels_N[rows], folds_N[rows], by=by, goal=goal)
        combined_NK[is_in_N] = fitted.apply(probs_MNK[:, is_in_N])
    return combined_NK


def greedy_weights(
    probs_MNK: FloatArray, labels_N: IntArray, *, goal: Goal = "macro_f1", rounds: int = ROUNDS, bags: int = BAGS
) -> FloatArray:
    """Weights by forward selection with replacement, averaged over bags of rows.

    In every bag, half of the rows drawn at random: start with none, and round by round add the member, any of them
    again, with which the mean of all added scores best; keep the rounds up to the best score.

    Args:
        probs_MNK: members' probabilities of rows they did not see.
        labels_N: [N] true class codes.
        goal: `macro_f1` and `accuracy` are raised, `log_loss` lowered.
        rounds: at most so many are added.
        bags: B.

    Returns:
        [M] weights, none below 0, summing to 1.

    References:
        Caruana, Niculescu-Mizil, Crew, Ksikes, Ensemble selection from libraries of models, ICML 2004. Bags
        are of rows instead of members: of a handful of runs, bags without the best one would give its weight away.
    """
    num_members, num_rows = probs_MNK.shape[:2]
    order = _canonical(probs_MNK, labels_N)
    rows_N = np.lexsort([*probs_MNK[order].sum(axis=0).T, *probs_MNK[order[0]].T, labels_N])
    rng = np.random.default_rng(0)
    counts_M = np.zeros(num_members)
    for _ in range(bags):
        bag = rows_N[rng.permutation(num_rows)[: max(1, round(BAG_SHARE * num_rows))]]
        judge = _Judge(probs_MNK[order][:, bag], labels_N[bag], goal)
        counts_M[order] += _select(judge, num_members, rounds)
    return np.asarray(counts_M / counts_M.sum())


class _Judge:
    """Scores sums of members' probabilities; only rows on which members disagree are looked at."""

    def __init__(self, probs_MNK: FloatArray, labels_N: IntArray, goal: Goal) -> None:
        self._goal, self._num_classes = goal, probs_MNK.shape[2]
        answers_MN = probs_MNK.argmax(axis=2)
        # whatever the weights, what all answer is what their mean answers
        disagree_N = np.ones(len(labels_N), bool) if goal == "log_loss" else (answers_MN != answers_MN[0]).any(axis=0)
        self._labels_n = labels_N[disagree_N]
        agreed, truth = answers_MN[0, ~disagree_N], labels_N[~disagree_N]
        self._support_K = np.bincount(labels_N, minlength=self._num_classes)
        self._predicted_K = np.bincount(agreed, minlength=self._num_classes)
        self._hits_K = np.bincount(truth[agreed == truth], minlength=self._num_classes)
        # classes first: numpy takes the largest over the first axis many times faster than over the last
        self.probs_MKn = np.ascontiguousarray(probs_MNK[:, disagree_N].transpose(0, 2, 1), np.float32)

    def score(self, sum_Kn: NDArray[Any], count: int) -> float:
        """The goal of the mean of `count` members, larger is better."""
        columns_n = np.arange(len(self._labels_n))
        if self._goal == "log_loss":
            return -float(log_loss_N(sum_Kn.T / count, self._labels_n).mean())
        is_answer_Kn = sum_Kn == sum_Kn.max(axis=0)  # a tie answers with both
        hit_n = is_answer_Kn[self._labels_n, columns_n]
        hits_K = self._hits_K + np.bincount(self._labels_n[hit_n], minlength=self._num_classes)
        if self._goal == "accuracy":
            return float(hits_K.sum() / self._support_K.sum())
        predicted_K = self._predicted_K + np.count_nonzero(is_answer_Kn, axis=1)
        present_K = self._support_K > 0
        return float((2 * hits_K / np.maximum(self._support_K + predicted_K, 1))[present_K].mean())


def _select(judge: _Judge, num_members: int, rounds: int) -> FloatArray:
    """[M] how often each member was added, up to the round of the best score; they sum to 1."""
    sum_Kn = np.zeros(judge.probs_MKn.shape[1:], np.float32)
    added: list[int] = []
    best, best_rounds = -math.inf, 0
    for number in range(1, rounds + 1):
        scores = [judge.score(sum_Kn + judge.probs_MKn[member], number) for member in range(num_members)]
        place = int(np.argmax(scores))
        added.append(place)
        sum_Kn += judge.probs_MKn[added[-1]]
        if scores[place] > best + 1e-12:
            best, best_rounds = scores[place], number
    return np.bincount(added[:best_rounds], minlength=num_members) / best_rounds


def _canonical(probs_MNK: FloatArray, labels_N: IntArray) -> list[int]:
    """Places of the members in an order that depends on what they say alone; `fsum` rounds the same in any order."""
    rows_N = np.arange(len(labels_N))

    def key(member: int) -> tuple[float, float, float]:
        probs_NK = probs_MNK[member]
        true_N = probs_NK[rows_N, labels_N]
        return (
            -macro_f1(labels_N, probs_NK.argmax(axis=1), probs_NK.shape[1]),
            -math.fsum(np.log(np.maximum(true_N, 1e-300))),
            math.fsum((probs_NK**2).ravel()),
        )

    return sorted(range(len(probs_MNK)), key=key)


def _votes(probs_MNK: FloatArray) -> FloatArray:
    """[N, K] shares of votes, with so little of the mean probability that it only decides between equal ones."""
    num_members = len(probs_MNK)
    votes_NK = np.eye(probs_MNK.shape[2])[probs_MNK.argmax(axis=2)].mean(axis=0)
    little = 1 / (num_members + 2)
    return np.asarray((1 - little) * votes_NK + little * probs_MNK.mean(axis=0))


def _ranks(probs_MNK: FloatArray, quantiles_MKQ: FloatArray) -> FloatArray:
    """[M, N, K] how high each probability is among its member's own of that class, above 0 and at most 1."""
    num_members, _, num_classes = probs_MNK.shape
    steps_Q = np.linspace(1 / (2 * quantiles_MKQ.shape[2]), 1, quantiles_MKQ.shape[2])
    ranks_MNK = np.empty(probs_MNK.shape)
    for member in range(num_members):
        for code in range(num_classes):
            ranks_MNK[member, :, code] = np.interp(probs_MNK[member, :, code], quantiles_MKQ[member, code], steps_Q)
    return ranks_MNK
