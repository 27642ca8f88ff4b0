"""Splits are at least as even as scikit-learn's."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from finefold.data.splits import make_split

Layout = tuple[NDArray[np.int64], NDArray[np.int64]]  # class and group of each sample

FOLDS = 5


def masks(rng: np.random.Generator) -> Layout:
    """403 people with 7 photos: 18 classes of mask, gender and age, older people rare."""
    person = 3 * rng.choice(2, 403, p=[0.4, 0.6]) + rng.choice(3, 403, p=[0.48, 0.45, 0.07])
    mask = np.tile([0, 0, 0, 0, 0, 1, 2], 403)
    return mask * 6 + np.repeat(person, 7), np.repeat(np.arange(403), 7)


def long_tail(rng: np.random.Generator) -> Layout:
    """300 groups of 2 to 30, each sample's class drawn from a long tail."""
    sizes = np.minimum(1 + rng.geometric(0.25, 300), 30)
    shares = 1 / np.arange(1, 13) ** 1.7
    labels = rng.choice(12, int(sizes.sum()), p=shares / shares.sum())
    return labels, np.repeat(np.arange(300), sizes)


def main_class(rng: np.random.Generator) -> Layout:
    """400 groups of 1 to 14, most samples of a group of its main class."""
    shares = 1 / np.arange(1, 19) ** 1.5
    groups = np.repeat(np.arange(400), rng.integers(1, 15, 400))
    main = rng.choice(18, 400, p=shares / shares.sum())[groups]
    other = rng.choice(18, len(groups), p=shares / shares.sum())
    return np.where(rng.random(len(groups)) < 0.3, other, main), groups


def counts_of(folds_N: NDArray[np.int64], labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Samples of every class in every fold, [F, K]."""
    counts = np.zeros((FOLDS, labels_N.max() + 1))
    np.add.at(counts, (folds_N, labels_N), 1)
    return counts


def deviations(folds_N: NDArray[np.int64], labels_N: NDArray[np.int64]) -> tuple[float, float, float]:
    """Largest and root mean square relative deviation of classes, and the spread of fold sizes."""
    counts = counts_of(folds_N, labels_N)
    relative = counts / counts.mean(axis=0) - 1
    return float(np.abs(relative).max()), float(np.sqrt((relative**2).mean())), float(np.ptp(counts.sum(axis=1)))


def sklearn_folds(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The folds of StratifiedGroupKFold."""
    folds = np.empty(len(labels), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for fold, (_, valid) in enumerate(
            StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels, groups)
        ):
            folds[valid] = fold
    return folds


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layout", [masks, long_tail, main_class])
def test_as_even_as_sklearn(layout: Callable[[np.random.Generator], Layout], seed: int) -> None:
    """No measure of unevenness is above the best that sklearn reaches in five shuffles."""
    labels, groups = layout(np.random.default_rng(seed))
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    names = [str(k) for k in range(labels.max() + 1)]
    ids = [str(i) for i in range(len(labels))]
    split = make_split(ids, labels, [str(g) for g in groups], class_names=names, folds=FOLDS, seed=seed)
    ours = deviations(split.fold_N.astype(np.int64), labels)
    theirs = [deviations(sklearn_folds(labels, groups, shuffle), labels) for shuffle in range(5)]
    assert all(mine <= min(column) + 1e-12 for mine, column in zip(ours, zip(*theirs, strict=True), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_ungrouped_counts_are_those_of_sklearn(seed: int) -> None:
    """Without groups, every class has the counts per fold that StratifiedKFold gives it, in some order."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.choice(6, 500, p=[0.5, 0.25, 0.1, 0.08, 0.04, 0.03]))
    folds = np.empty(len(labels), dtype=np.int64)
    for fold, (_, valid) in enumerate(StratifiedKFold(FOLDS).split(labels, labels)):
        folds[valid] = fold
    ids = [str(i) for i in range(len(labels))]
    split = make_split(ids, labels, None, class_names=list("abcdef"), folds=FOLDS, seed=seed)
    ours, theirs = counts_of(split.fold_N.astype(np.int64), labels), counts_of(folds, labels)
    assert (np.sort(ours, axis=0) == np.sort(theirs, axis=0)).all()
