"""What whole groups look like, out of fold: one row per group, from all its samples, and a ridge classifier on it.

A person's photos differ in what is worn and agree in who it is. Their mean per kind of photo is a better witness than
each photo for itself: on photos of faces with drawn masks it tells gender in 88 of 100 people where the vote of
single photos tells 82.

Shapes: N samples, G groups, C classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_GROUPS = 4_000  # beyond, kernels of groups against groups would not fit into memory
_FOLDS, _REPEATS = 10, 5
_RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # in units of the kernel's mean diagonal
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


def vote_of_groups(kernel_GG: Floats, labels_G: NDArray[np.int64], num_classes: int, *, seed: int = 0) -> Floats:
    """[G, C] out-of-fold probabilities of each group's class.

    Ridge regression on classes as 0 and 1, which estimates their probabilities.

    Args:
        kernel_GG: what `group_kernel` gave.
        labels_G: codes, -1 for groups that are predicted and not learnt from.
        num_classes: C.
        seed: of the divisions into folds.
    """
    truth_GC = np.eye(num_classes)[np.maximum(labels_G, 0)]
    probs_GC = np.maximum(_ridge_out_of_fold(kernel_GG, truth_GC, labels_G >= 0, seed), _LEAST_PROB)
    return np.asarray(probs_GC / probs_GC.sum(axis=1, keepdims=True))


def oddness_of_numbers(kernel_GG: Floats, numbers_G: Floats, *, seed: int = 0) -> tuple[Floats, Floats]:
    """How far what groups look like lies from what groups with their number usually look like.

    Predictions shrink towards the mean, so a prediction is compared with what is usual at the given number, a line
    fitted to all groups, in units of the spread around it (the median's, so that wrong numbers do not widen it).

    Args:
        kernel_GG: what `group_kernel` gave.
        numbers_G: given numbers, NaN where there is none.
        seed: of the divisions into folds.

    Returns:
        [G] standard scores, NaN without a number, and [G] numbers that would be usual for such a prediction.
    """
    is_known_G = np.isfinite(numbers_G)
    targets_G1 = np.where(is_known_G, numbers_G, 0.0)[:, None]
    predicted_G = _ridge_out_of_fold(kernel_GG, targets_G1, is_known_G, seed)[:, 0]
    slope, start = np.polyfit(numbers_G[is_known_G], predicted_G[is_known_G], 1)
    off_G = predicted_G - (start + slope * numbers_G)
    spread = 1.4826 * float(np.nanmedian(np.abs(off_G)))
    usual_G = (predicted_G - start) / max(slope, 0.05)
    low, high = np.nanquantile(numbers_G, [0.01, 0.99])
    return off_G / max(spread, 1e-9), np.clip(usual_G, low, high)


def _ridge_out_of_fold(kernel_GG: Floats, targets_GT: Floats, is_known_G: NDArray[np.bool_], seed: int) -> Floats:
    """[G, T] out-of-fold predictions, the mean over several divisions, of the strength with the least squared error."""
    num_groups = len(targets_GT)
    predicted_RGT = np.zeros((len(_RIDGES), *targets_GT.shape))
    scale = float(np.trace(kernel_GG)) / num_groups
    rng = np.random.default_rng(seed)
    for _ in range(_REPEATS):
        folds_G = rng.permutation(num_groups) % min(_FOLDS, num_groups)
        for fold in range(int(folds_G.max()) + 1):
            held = folds_G == fold
            learnt = ~held & is_known_G
            mean_T = targets_GT[learnt].mean(axis=0)
            values, axes = np.linalg.eigh(kernel_GG[np.ix_(learnt, learnt)])
            along = axes.T @ (targets_GT[learnt] - mean_T)
            across = kernel_GG[np.ix_(held, learnt)] @ axes
            for number, ridge in enumerate(_RIDGES):
                predicted_RGT[number, held] += across @ (along / (values + ridge * scale)[:, None]) + mean_T
    predicted_RGT /= _REPEATS
    errors_R = np.square(predicted_RGT - targets_GT)[:, is_known_G].sum(axis=(1, 2))
    return np.asarray(predicted_RGT[int(errors_R.argmin())])
