"""Probabilities and answers brought to counts that are known by design: so many images of each class.

Shapes: N images, K joint classes, C classes that counts are of, G groups.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from finefold.metrics.classification import FloatArray, IntArray

SMALLEST = 1e-12  # probability: what a model rules out may still be what the counts leave
ROUNDS, TOLERANCE = 1000, 1e-9

Margin = tuple[IntArray, IntArray]  # [K] code of each joint class, [C] how many images have each code


def scale_to_counts(probs_NK: FloatArray, margins: Sequence[Margin]) -> FloatArray:
    """Class weights are multiplied in until the sums of probabilities are the counts.

    Args:
        probs_NK: rows sum to 1.
        margins: of each attribute whose counts are known; counts sum to N.

    Returns:
        [N, K], rows sum to 1; columns, summed by each margin's codes, to its counts, up to a share of 1e-9 of N. The
        distribution nearest to the given one, by relative entropy, of which that is true.

    References:
        Deming and Stephan, On a least squares adjustment of a sampled frequency table when the expected marginal
        totals are known, Annals of Mathematical Statistics 11(4), 1940: iterative proportional fitting, here of rows
        and of every margin in turn.
    """
    scaled_NK = np.maximum(probs_NK, SMALLEST)
    scaled_NK /= scaled_NK.sum(axis=1, keepdims=True)
    for _ in range(ROUNDS):
        furthest = 0.0
        for codes_K, counts_C in margins:
            sums_C = scaled_NK.sum(axis=0) @ np.eye(len(counts_C))[codes_K]
            furthest = max(furthest, float(abs(sums_C - counts_C).max()))
            factors_C = np.divide(counts_C, sums_C, out=np.zeros(len(counts_C)), where=sums_C > 0)
            scaled_NK *= factors_C[codes_K]
            scaled_NK /= scaled_NK.sum(axis=1, keepdims=True)
        if furthest <= TOLERANCE * len(scaled_NK):
            break
    return scaled_NK


def assign_to_counts(probs_NC: FloatArray, counts_C: IntArray) -> IntArray:
    """[N] codes, so many of each class, whose product of probabilities is largest.

    Starts from the answers under class weights that nearly give the counts; they are best for the counts that they
    happen to have. Then moves one image after the other along the cheapest path from a class with too many to one with
    too few, which keeps them best for the counts that they have then.

    Args:
        probs_NC: rows sum to 1.
        counts_C: whole numbers that sum to N.

    References:
        Ahuja, Magnanti, Orlin, Network Flows, 1993, section 9.7: successive shortest paths, on a graph whose nodes are
        the classes.
    """
    num_classes = len(counts_C)
    logs_NC = np.log(np.maximum(probs_NC, SMALLEST))
    codes_N = (logs_NC + _weights(logs_NC, counts_C)).argmax(axis=1)
    cost_CC = np.full((num_classes, num_classes), np.inf)
    mover_CC = np.zeros((num_classes, num_classes), np.int64)
    stale = list(range(num_classes))
    while True:
        excess_C = np.bincount(codes_N, minlength=num_classes) - counts_C
        if not excess_C.any():
            return np.asarray(codes_N, np.int64)
        for code in stale:
            rows = np.flatnonzero(codes_N == code)
            cost_CC[code] = np.inf
            if len(rows):
                loss_nC = logs_NC[rows, code][:, None] - logs_NC[rows]
                places = loss_nC.argmin(axis=0)
                cost_CC[code] = loss_nC[places, np.arange(num_classes)]
                mover_CC[code] = rows[places]
            cost_CC[code, code] = np.inf
        path = _cheapest(cost_CC, excess_C)
        codes_N[[mover_CC[start, end] for start, end in pairwise(path)]] = path[1:]
        stale = path


def _weights(logs_NC: FloatArray, counts_C: IntArray) -> FloatArray:
    """[C] to be added, so that nearly so many rows have their maximum in each class.

    Scales sharper and sharper probabilities to the counts: the sharper, the nearer their sums are to counts of answers.
    """
    added_C = np.zeros(len(counts_C))
    wanted_C = np.log(np.maximum(counts_C, SMALLEST))
    for sharpness in (1.0, 4.0, 16.0, 64.0):
        for _ in range(20):
            powers_NC = np.exp(sharpness * (logs_NC + added_C - (logs_NC + added_C).max(axis=1, keepdims=True)))
            sums_C = (powers_NC / powers_NC.sum(axis=1, keepdims=True)).sum(axis=0)
            added_C += (wanted_C - np.log(np.maximum(sums_C, SMALLEST))) / sharpness
    return added_C


def _cheapest(cost_CC: FloatArray, excess_C: IntArray) -> list[int]:
    """Codes along the cheapest path from a class with too many images to one with too few; by Bellman and Ford."""
    num_classes = len(excess_C)
    spent_C = np.where(excess_C > 0, 0.0, np.inf)
    before_C = np.full(num_classes, -1)
    for _ in range(num_classes):
        through_CC = spent_C[:, None] + cost_CC
        best_C = through_CC.argmin(axis=0)
        offered_C = through_CC[best_C, np.arange(num_classes)]
        is_better_C = offered_C < spent_C - 1e-12
        if not is_better_C.any():
            break
        spent_C = np.where(is_better_C, offered_C, spent_C)
        before_C = np.where(is_better_C, best_C, before_C)
    place = int(np.where(excess_C < 0, spent_C, np.inf).argmin())
    path = [place]
    while before_C[path[0]] >= 0:
        path.insert(0, int(before_C[path[0]]))
    return path


def answer_by_counts(probs_NK: FloatArray, margins: Sequence[Margin]) -> FloatArray:
    """Probabilities whose answers have exactly the counts.

    Each attribute's answers are assigned by its own scaled probabilities, and what is left of a row then lies on the
    joint classes that agree with them: rows no longer say how sure one is.

    Args:
        probs_NK: rows sum to 1.
        margins: of each attribute whose counts are known.

    Returns:
        [N, K], rows sum to 1.
    """
    scaled_NK = scale_to_counts(probs_NK, margins)
    left_NK = scaled_NK.copy()
    for codes_K, counts_C in margins:
        assigned_N = assign_to_counts(scaled_NK @ np.eye(len(counts_C))[codes_K], counts_C)
        left_NK[codes_K != assigned_N[:, None]] = 0
    return np.asarray(left_NK / left_NK.sum(axis=1, keepdims=True))


def in_groups(probs_NK: FloatArray, groups_N: IntArray, margins_G: Sequence[Sequence[Margin]]) -> FloatArray:
    """`answer_by_counts` of each group by counts of its own.

    Args:
        probs_NK: rows sum to 1.
        groups_N: numbers of the groups.
        margins_G: of every group.
    """
    answered_NK: NDArray[np.float64] = np.empty(probs_NK.shape)
    for group, margins in enumerate(margins_G):
        rows_N = groups_N == group
        answered_NK[rows_N] = answer_by_counts(probs_NK[rows_N], margins)
    return answered_NK
