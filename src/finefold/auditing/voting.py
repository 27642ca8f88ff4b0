"""What whole groups look like, judged by all other groups: one row per group, and a ridge classifier on it.

A person's photos differ in what is worn and agree in who it is. Their mean per kind of photo is a better witness than
each photo for itself: on photos of faces with drawn masks it tells gender in 88 of 100 people where the vote of
single photos tells 82.

Shapes: N samples, G groups, C classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_GROUPS = 4_000  # beyond, kernels of groups against groups would not fit into memory
_RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # the kernel's diagonal is 1
_LEAST_PROB = 0.01

Floats = NDArray[np.float64]


def group_kernel(
    features: Sequence[NDArray[np.floating]], groups_N: NDArray[np.int64], kinds_N: NDArray[np.int64]
) -> Floats:
    """[G, G] how alike groups are: cosines of standardised means, over feature sets and kinds of samples.

    Args:
        features: one or more [N, D] arrays.
        groups_N: codes 0..G-1, none empty.
        kinds_N: code of each sample's kind; a group without samples of a kind counts as average there.
    """
    num_groups, num_kinds = int(groups_N.max()) + 1, int(kinds_N.max()) + 1
    kernel = np.zeros((num_groups, num_groups))
    parts = [np.ones(len(groups_N), bool)]
    if num_kinds > 1:
        parts += [kinds_N == kind for kind in range(num_kinds)]
    for rows_ND in features:
        for is_in_N in parts:
            means_GD, has_G = _group_means(rows_ND, groups_N, is_in_N, num_groups)
            centre_D, spread_D = means_GD[has_G].mean(axis=0), means_GD[has_G].std(axis=0)
            scaled_GD = np.where(has_G[:, None], (means_GD - centre_D) / np.maximum(spread_D, 1e-3), 0)
            kernel += scaled_GD @ scaled_GD.T / scaled_GD.shape[1]
    lengths_G = np.sqrt(np.maximum(np.diag(kernel), 1e-12))
    return np.asarray(kernel / np.outer(lengths_G, lengths_G))  # a group that is unlike all has no louder voice


def _group_means(
    rows_ND: NDArray[np.floating], groups_N: NDArray[np.int64], is_in_N: NDArray[np.bool_], num_groups: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    chosen = np.flatnonzero(is_in_N)
    order = chosen[np.argsort(groups_N[chosen], kind="stable")]
    sums_GD = np.zeros((num_groups, rows_ND.shape[1]), np.float32)
    counts_G = np.bincount(groups_N[chosen], minlength=num_groups)
    for start in range(0, len(order), 1024):
        block = order[start : start + 1024]
        values = rows_ND[block].astype(np.float32)
        np.add.at(sums_GD, groups_N[block], np.sign(values) * np.sqrt(np.abs(values)))
    sums_GD /= np.maximum(counts_G, 1)[:, None]
    return sums_GD, np.asarray(counts_G > 0)


def vote_of_groups(kernel_GG: Floats, labels_G: NDArray[np.int64], num_classes: int) -> Floats:
    """[G, C] probabilities of each group's class, by the other groups.

    Ridge regression on classes as 0 and 1, which estimates their probabilities.

    Args:
        kernel_GG: what `group_kernel` gave.
        labels_G: codes, -1 for groups that are predicted and not learnt from.
        num_classes: C.
    """
    truth_GC = np.eye(num_classes)[np.maximum(labels_G, 0)]
    probs_GC = np.maximum(_ridge_left_out(kernel_GG, truth_GC, labels_G >= 0), _LEAST_PROB)
    return np.asarray(probs_GC / probs_GC.sum(axis=1, keepdims=True))


def oddness_of_numbers(kernel_GG: Floats, numbers_G: Floats) -> tuple[Floats, Floats]:
    """How far what groups look like lies from what groups with their number usually look like.

    Predictions shrink towards the mean, so a prediction is compared with what is usual at the given number, a line
    fitted to all groups, in units of the spread around it (the median's, so that wrong numbers do not widen it).

    Args:
        kernel_GG: what `group_kernel` gave.
        numbers_G: given numbers, NaN where there is none.

    Returns:
        [G] standard scores, NaN without a number, and [G] numbers that would be usual for such a prediction.
    """
    is_known_G = np.isfinite(numbers_G)
    targets_G1 = np.where(is_known_G, numbers_G, 0.0)[:, None]
    predicted_G = _ridge_left_out(kernel_GG, targets_G1, is_known_G)[:, 0]
    slope, start = np.polyfit(numbers_G[is_known_G], predicted_G[is_known_G], 1)
    off_G = predicted_G - (start + slope * numbers_G)
    spread = 1.4826 * float(np.nanmedian(np.abs(off_G)))
    usual_G = (predicted_G - start) / max(slope, 0.05)
    low, high = np.nanquantile(numbers_G, [0.01, 0.99])
    return off_G / max(spread, 1e-9), np.clip(usual_G, low, high)


def _ridge_left_out(kernel_GG: Floats, targets_GT: Floats, is_known_G: NDArray[np.bool_]) -> Floats:
    """[G, T] predictions for each group by all other known groups, of the strength with the least squared error.

    Leaving one out has a closed form: the residual of the fit to all, divided by what the fit leaves of the group's own
    target. A constant in the kernel stands for the intercept.

    References:
        Rifkin, Lippert, Notes on Regularized Least Squares, MIT-CSAIL-TR-2007-025, section 3.
    """
    known, others = np.flatnonzero(is_known_G), np.flatnonzero(~is_known_G)
    targets_LT = targets_GT[known]
    values_L, axes_LL = np.linalg.eigh(kernel_GG[np.ix_(known, known)] + 1.0)
    best = np.inf
    predicted_GT = np.zeros(targets_GT.shape)
    for ridge in _RIDGES:
        shrunk_L = 1 / (np.maximum(values_L, 0) + ridge)
        weights_LT = axes_LL @ (shrunk_L[:, None] * (axes_LL.T @ targets_LT))
        own_L = np.square(axes_LL) @ shrunk_L
        left_out_LT = targets_LT - weights_LT / own_L[:, None]
        error = float(np.square(left_out_LT - targets_LT).sum())
        if error < best:
            best = error
            predicted_GT[known] = left_out_LT
            predicted_GT[others] = (kernel_GG[np.ix_(others, known)] + 1.0) @ weights_LT
    return predicted_GT
