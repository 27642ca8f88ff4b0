"""Nearest neighbours among features, exactly, in blocks: memory does not grow with the number of pairs.

Shapes: N images, D features, R reduced features, K neighbours.
"""

import numpy as np
from numpy.typing import NDArray

MOST_FEATURES = 256  # beyond this many images the features are reduced to as many principal ones
_REDUCE_FROM = 12_000
_FIT_ON = 8_000
_BLOCK = 1_024
_BLOCK_OF_OTHERS = 16_384


def nearest(
    features_ND: NDArray[np.floating], groups_N: NDArray[np.int64], *, num_neighbours: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """[N, K] the rows of other groups whose features are most alike, most alike first; -1 where there are fewer.

    Cosine similarity of square roots (features behind a rectifier are skewed), less their mean.

    Args:
        features_ND: any float type; rows of zeros are like nothing.
        groups_N: codes; neighbours of the own group do not count.
        num_neighbours: K.
        rng: chooses the rows that the principal features are fitted on, where there are many.
    """
    unit_NR = _unit_rows(features_ND, rng)
    num_rows = len(unit_NR)
    found_NK = np.full((num_rows, num_neighbours), -1, np.int64)
    for start in range(0, num_rows, _BLOCK):
        rows = slice(start, min(start + _BLOCK, num_rows))
        size = rows.stop - rows.start
        best = np.full((size, num_neighbours), -np.inf, np.float32)
        where = np.full((size, num_neighbours), -1, np.int64)
        for other in range(0, num_rows, _BLOCK_OF_OTHERS):
            columns = slice(other, min(other + _BLOCK_OF_OTHERS, num_rows))
            alike = unit_NR[rows] @ unit_NR[columns].T
            alike[groups_N[rows, None] == groups_N[None, columns]] = -np.inf
            top = min(num_neighbours, alike.shape[1])
            part = np.argpartition(-alike, top - 1, axis=1)[:, :top]
            best = np.concatenate([best, np.take_along_axis(alike, part, axis=1)], axis=1)
            where = np.concatenate([where, part + other], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :num_neighbours]
            best, where = np.take_along_axis(best, order, axis=1), np.take_along_axis(where, order, axis=1)
        found_NK[rows] = np.where(np.isfinite(best), where, -1)
    return found_NK


def likeness_of_pairs(
    features_ND: NDArray[np.floating], pairs_P2: NDArray[np.int64], *, rng: np.random.Generator
) -> NDArray[np.float32]:
    """[P] the similarity, as `nearest` has it, of the two images of each pair."""
    unit_NR = _unit_rows(features_ND, rng)
    alike_P = np.empty(len(pairs_P2), np.float32)
    for start in range(0, len(pairs_P2), _BLOCK_OF_OTHERS):
        left, right = pairs_P2[start : start + _BLOCK_OF_OTHERS].T
        alike_P[start : start + _BLOCK_OF_OTHERS] = np.einsum("pr,pr->p", unit_NR[left], unit_NR[right])
    return alike_P


def _unit_rows(features_ND: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float32]:
    """[N, R] rows of length 1, or 0 where there are no features."""
    num_rows, width = features_ND.shape
    fit_on = np.sort(rng.choice(num_rows, min(_FIT_ON, num_rows), replace=False))
    fitted = _rooted(features_ND[fit_on])
    mean_D = fitted.mean(axis=0)
    axes_DR = None
    if num_rows > _REDUCE_FROM and width > MOST_FEATURES:
        fitted -= mean_D
        _, axes = np.linalg.eigh(fitted.T @ fitted)
        axes_DR = np.ascontiguousarray(axes[:, -MOST_FEATURES:])
    unit_NR = np.empty((num_rows, width if axes_DR is None else MOST_FEATURES), np.float32)
    for start in range(0, num_rows, _BLOCK):
        block = features_ND[start : start + _BLOCK]
        rows = _rooted(block) - mean_D
        if axes_DR is not None:
            rows = rows @ axes_DR
        rows[~block.any(axis=1)] = 0
        unit_NR[start : start + _BLOCK] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return unit_NR


def _rooted(features: NDArray[np.floating]) -> NDArray[np.float32]:
    values = features.astype(np.float32)
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values)), np.float32)
