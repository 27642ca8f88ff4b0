"""metrics.nested: what is fitted is judged elsewhere."""

import numpy as np
import pytest

from finefold.metrics.nested import nested_probs

FOLDS = np.array([0, 1, 2, 1, 0, 2])


def test_no_row_is_changed_by_what_was_fitted_on_it():
    """Every row is changed once, by a fit of exactly the other folds' rows."""
    seen = []

    def fit(rows_N):
        def change(others_N):
            assert not (rows_N & others_N).any()
            assert (rows_N | others_N).all()
            seen.append(np.flatnonzero(others_N).tolist())
            return np.full((others_N.sum(), 2), len(seen))

        return change

    changed_NK = nested_probs(np.zeros((6, 2)), FOLDS, fit)
    assert seen == [[0, 4], [1, 3], [2, 5]]
    assert changed_NK[:, 0].tolist() == [1, 2, 3, 2, 1, 3]


def test_one_fold_cannot_be_nested():
    """A ledger of a single fold is refused: there would be nothing to fit on."""
    with pytest.raises(ValueError, match="at least two folds, got 1"):
        nested_probs(np.zeros((3, 2)), np.zeros(3), lambda _: lambda _: np.zeros((3, 2)))
