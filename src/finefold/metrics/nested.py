"""What is fitted on a ledger is judged on folds it was not fitted on.

Shapes: N samples, K joint classes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.metrics.classification import FloatArray

Rows = NDArray[np.bool_]


def nested_probs(
    probs_NK: FloatArray, folds_N: NDArray[Any], fit: Callable[[Rows], Callable[[Rows], FloatArray]]
) -> FloatArray:
    """Every fold's rows, changed by what was fitted on the other folds.

    Args:
        probs_NK: only says the shape.
        folds_N: [N] fold of each sample; at least two of them.
        fit: [N] mask of the rows to fit on -> a function from a mask of rows to their new probabilities.

    Returns:
        [N, K]: no row comes from anything that was fitted on it.

    Raises:
        ValueError: fewer than two folds.
    """
    folds = np.unique(folds_N)
    if len(folds) < 2:
        raise ValueError(f"nesting needs at least two folds, got {len(folds)}")
    changed_NK = np.empty(probs_NK.shape, np.float64)
    for fold in folds:
        is_in_N = folds_N == fold
        changed_NK[is_in_N] = fit(~is_in_N)(is_in_N)
    return changed_NK
