"""What `[after]` of a recipe asks for, fitted on a run's ledger and applied to probabilities of new images.

Shapes: N images, K joint classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.labels import LabelSpace
from finefold.data.predictions import Ledger, Predictions
from finefold.errors import UsageError
from finefold.metrics.classification import FloatArray
from finefold.metrics.correction import Correction, fit_correction, nested_correction, nothing
from finefold.metrics.paired import SCORES, draw
from finefold.recipe.loader import load_recipe
from finefold.recipe.training import AfterRecipe
from finefold.runs.folder import read_json
from finefold.steps.run import Run
from finefold.steps.shares import Adaptation, Shares, adapt, read_shares

OFF, AUTO = "off", "auto"
ROWS_LOOKED_AT = 20_000  # of new images, for their class shares: more would not make the estimate surer


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be done to the probabilities of new images, and the account of it.

    Args:
        run: whose models made them.
        after: what was asked for.
        correction: what is applied.
        adaptation: about class shares; None where nobody asked.
    """

    run: Run
    after: AfterRecipe
    correction: Correction
    adaptation: Adaptation | None

    @property
    def is_nothing(self) -> bool:
        """Whether nobody asked for anything."""
        return self.correction.is_nothing and self.adaptation is None

    def apply(self, probs_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        """[B, K] corrected probabilities; rows of unreadable images, the training class shares, stay as they are."""
        is_of_an_image_B = readable(self.run, probs_BK)
        corrected_BK = probs_BK.copy()
        corrected_BK[is_of_an_image_B] = self.correction.apply(probs_BK[is_of_an_image_B])
        return corrected_BK

    def about(self) -> dict[str, Any]:
        """Plain JSON values; `expected` holds what the ledger scores under it, fitted on other folds."""
        told: dict[str, Any] = {"kind": "after", "said": self.correction.say(), **self.correction.to_dict()}
        told["expected"] = self._expected()
        return told if self.adaptation is None else {**told, "adaptation": self.adaptation.to_dict()}

    def ledger(self) -> tuple[Ledger, FloatArray | None]:
        """The ledger under the correction, each fold by what was fitted on the others, and how much each row counts.

        The run's own ledger, every row alike (None), where there is no correction; else of what is known whole.
        """
        if self.correction.is_nothing:
            return self.run.ledger(), None
        ledger = self.run.ledger().known()
        probs_LK = nested_correction(
            ledger.predictions.probs_NK,
            ledger.labels_N,
            ledger.folds_N,
            calibrate=self.correction.calibration.method,
            adjust=self.correction.adjust,
            shares_K=self.run.train_shares_K,
            codes=self.run.space.attribute_codes(),
            ratio_K=self.correction.ratio_K,
        )
        predictions = Predictions(ledger.predictions.ids, probs_LK, ledger.predictions.class_names)
        return replace(ledger, predictions=predictions), self.correction.ratio_K[ledger.labels_N]

    def _expected(self) -> dict[str, dict[str, Any]]:
        if self.correction.is_nothing:
            return {}
        ledger, weights_L = self.ledger()
        found = draw(
            ledger.predictions.probs_NK,
            ledger.labels_N,
            np.asarray(ledger.groups),
            self.run.space.class_names,
            {},
            weights_N=weights_L,
            resamples=self.run.recipe.scores.resamples,
        )
        num_samples = len(ledger.labels_N)
        return {score: found.score(score, num_samples).to_dict() for score in SCORES}


def readable(run: Run, probs_BK: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[B] whether a row is of an image; an unreadable one has exactly the training class shares."""
    return np.asarray((probs_BK != run.train_shares_K).any(axis=1))


def changed_after(run: Run, overrides: Sequence[str]) -> AfterRecipe:
    """The run's `[after]` with overrides on top.

    Raises:
        UsageError: an override is of what was settled by training.
        RecipeError: it has a mistake.
    """
    settled = [override for override in overrides if not override.strip().startswith("after.")]
    if settled:
        key = settled[0].partition("=")[0].strip()
        raise UsageError(f"`{key}` was settled when the run was trained", "only [after] can change: after.adjust=logit")
    return load_recipe(str(run.folder.recipe), overrides).after if overrides else run.recipe.after


def fit_after(ledger: Ledger, after: AfterRecipe, shares_K: NDArray[np.float64], space: LabelSpace) -> Correction:
    """What `[after]` comes to on a ledger.

    Args:
        ledger: out-of-fold predictions.
        after: what is asked for.
        shares_K: class shares of what training saw.
        space: what the classes are.
    """
    ledger = ledger.known()
    return fit_correction(
        ledger.predictions.probs_NK,
        ledger.labels_N,
        calibrate=after.calibrate,
        adjust=after.adjust,
        shares_K=shares_K,
        codes=space.attribute_codes(),
    )


def correction_of(run: Run, after: AfterRecipe) -> Correction:
    """The run's own correction where it was fitted when it was trained, else fitted now."""
    asked = (after.calibrate, after.adjust)
    if after.is_nothing:
        return nothing(run.space.num_classes)
    if run.folder.after.is_file() and asked == (run.recipe.after.calibrate, run.recipe.after.adjust):
        return Correction.from_dict(read_json(run.folder.after))
    return fit_after(run.ledger().known(), after, run.train_shares_K, run.space)


def plan_correction(
    run: Run, look: Callable[[], FloatArray], after: AfterRecipe, adapt_prior: str | Path | None = None
) -> Plan:
    """What is to be done to the probabilities of new images.

    Args:
        run: whose models made them.
        look: gives [N, K] probabilities as they made them, of all new images or `ROWS_LOOKED_AT` random ones; only
            asked where shares are adapted to.
        after: what is to be done.
        adapt_prior: `off`, `auto`, or a TOML file of known class shares; as `after` says where left out.

    Raises:
        DataError: the file does not say class shares.
    """
    way = str(after.adapt_prior if adapt_prior is None else adapt_prior)
    given = check_adapt_prior(run, way)
    correction, adaptation = None, None
    if way != OFF:
        seen_NK = look()
        seen_NK = seen_NK[readable(run, seen_NK)]
        if len(seen_NK):
            correction, adaptation = adapt(run, seen_NK, after, given)
    if correction is None:
        correction = correction_of(run, after)
    return Plan(run, after, correction, adaptation)


def asks_for_shares(after: AfterRecipe, adapt_prior: str | Path | None) -> bool:
    """Whether probabilities are to be adapted to class shares."""
    return str(after.adapt_prior if adapt_prior is None else adapt_prior) != OFF


def check_adapt_prior(run: Run, way: str | Path | None) -> Shares | None:
    """The shares of a file that `--adapt-prior` names; None for `off`, `auto` and nothing. To be asked before the work.

    Raises:
        DataError: the file does not say class shares.
    """
    return None if way is None or str(way) in (OFF, AUTO) else read_shares(way, run.space)
