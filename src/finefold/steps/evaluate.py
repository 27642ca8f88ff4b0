"""`finefold evaluate`: the ledger in numbers."""

from typing import Any

import numpy as np

from finefold.data.predictions import Ledger
from finefold.metrics.summary import summarise
from finefold.recipe.schema import Recipe
from finefold.steps.run import Run


def evaluate(run: Run) -> dict[str, Any]:
    """Scores of a run's ledger with 95 % intervals, per class, attribute and fold, as JSON values.

    Raises:
        RunError: the ledger is broken.
    """
    return score(run.ledger(), run.space.attribute_table(), run.recipe)


def score(ledger: Ledger, attributes: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The ledger in numbers; the same ledger and recipe give the same numbers.

    Args:
        ledger: out-of-fold predictions.
        attributes: `LabelSpace.attribute_table()`.
        recipe: says how many resamples, and the seed.
    """
    return summarise(
        probs_NK=ledger.predictions.probs_NK,
        labels_N=ledger.labels_N,
        folds_N=ledger.folds_N,
        groups_N=np.asarray(ledger.groups),
        class_names=ledger.predictions.class_names,
        attributes=attributes,
        codes_NA=ledger.codes_NA,
        resamples=recipe.scores.resamples,
        seed=recipe.seed,
    )
