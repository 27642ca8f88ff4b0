"""Which training rows an epoch shows: thinned, drawn by class, repeated. Without torch.

Shapes: N training rows, M of them after thinning, E rows that an epoch shows, C classes.
"""

import math

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-9  # 0.1 * 30 is a little above 3

Ints = NDArray[np.int64]
Groups = NDArray[np.int64] | NDArray[np.str_] | NDArray[np.object_]


def class_counts(labels_N: Ints, num_classes: int) -> Ints:
    """[C] rows per class; labels are 0..num_classes-1."""
    counts_C = np.bincount(labels_N, minlength=num_classes)
    assert len(counts_C) == num_classes
    return counts_C.astype(np.int64)


def epoch_rows(
    rows_N: Ints,
    labels_N: Ints,
    groups_N: Groups,
    *,
    balance: str,
    balance_power: float,
    at_most: int,
    quota: float,
    rng: np.random.Generator,
) -> Ints:
    """[E] row numbers that one epoch shows, in random order; every row once where nothing else is asked.

    First rows are thinned; then what is left is drawn from, or shown once and repeated. How many rows are shown is
    the same in every epoch, whatever `rng` says.

    Args:
        rows_N: the row numbers to choose from.
        labels_N: their classes, 0 or more.
        groups_N: their groups, any values that can be sorted.
        balance: `sampler` draws as many rows as thinning left, with replacement, a class with probability
            proportional to count^(1 - balance_power); anything else takes each once.
        balance_power: 0 draws rows alike, 1 classes.
        at_most: so many different rows of one group and class, others every epoch; 0 for all.
        quota: classes of fewer than quota * M rows, M being what thinning left, are repeated, drawn with
            replacement, up to that many; the epoch grows by what is repeated. 0 for none.
        rng: decides which rows, and their order.
    """
    assert len(rows_N) == len(labels_N) == len(groups_N)
    if len(rows_N) == 0:
        return rows_N
    chosen_M = _thinned(labels_N, groups_N, at_most, rng) if at_most else np.arange(len(rows_N))
    wanted = math.ceil(quota * len(chosen_M) - ROUNDING)
    _, class_M = np.unique(labels_N[chosen_M], return_inverse=True)
    choose = _drawn if balance == "sampler" else _repeated
    places_E = choose(class_M, np.bincount(class_M), balance_power, wanted, rng)
    rows_E: Ints = rows_N[chosen_M[rng.permutation(places_E)]]
    return rows_E


def _thinned(labels_N: Ints, groups_N: Groups, at_most: int, rng: np.random.Generator) -> Ints:
    """[M] places of at most so many rows of each group and class, ascending."""
    _, group_N = np.unique(groups_N, return_inverse=True)
    _, cell_N = np.unique(group_N * (labels_N.max() + 1) + labels_N, return_inverse=True)
    counts = np.bincount(cell_N)
    shuffled_N = rng.permutation(len(labels_N))
    by_cell_N = shuffled_N[np.argsort(cell_N[shuffled_N], kind="stable")]
    rank_N = np.arange(len(labels_N)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_cell_N[rank_N < at_most])


def _drawn(class_M: Ints, counts_C: Ints, power: float, wanted: int, rng: np.random.Generator) -> Ints:
    """[E] places drawn with replacement, at least so many of each class.

    Every class gets what is wanted, and the rest is drawn by what a class is expected to get beyond that: classes
    keep their shares, quotas are certain, and E is not random.
    """
    share_C = counts_C.astype(np.float64) ** (1 - power)
    beyond_C = np.maximum(share_C * (len(class_M) / share_C.sum()) - wanted, 0)
    rest = math.ceil(beyond_C.sum() - ROUNDING)
    drawn_C = rng.multinomial(rest, beyond_C / beyond_C.sum()) if rest > 0 else np.zeros_like(counts_C)
    return _of_classes(class_M, counts_C, wanted + drawn_C, rng)


def _repeated(class_M: Ints, counts_C: Ints, _power: float, wanted: int, rng: np.random.Generator) -> Ints:
    """[E] places, each once, and again from the classes that have too few."""
    return np.append(np.arange(len(class_M)), _of_classes(class_M, counts_C, np.maximum(wanted - counts_C, 0), rng))


def _of_classes(class_M: Ints, counts_C: Ints, num_C: Ints, rng: np.random.Generator) -> Ints:
    """So many places of each class, drawn with replacement."""
    by_class_M, start_C = np.argsort(class_M, kind="stable"), np.cumsum(counts_C) - counts_C
    class_E = np.repeat(np.arange(len(counts_C)), num_C)
    places_E: Ints = by_class_M[start_C[class_E] + rng.integers(counts_C[class_E])]
    return places_E
