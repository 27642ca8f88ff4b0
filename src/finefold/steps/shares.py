"""The class shares of new images, and whether correcting to them is worth it. Used by `finefold predict`.

Shapes: N new images, L rows of the ledger, K joint classes, C classes of an attribute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.labels import LabelSpace
from finefold.data.predictions import Ledger
from finefold.errors import DataError
from finefold.metrics.correction import Correction, fit_correction, nested_correction
from finefold.metrics.paired import Difference, draw
from finefold.metrics.shift import ShareEstimate, estimate_shares, rake
from finefold.recipe.training import AfterRecipe
from finefold.steps.class_tables import JOINT, read_class_tables
from finefold.steps.run import Run

SUM_TOLERANCE = 1e-3
LEAST_SEEN = 0.5  # images of a class

Shares = Mapping[str, NDArray[np.float64]]  # attribute, or `joint` -> [C] shares of its classes


@dataclass(frozen=True, eq=False)
class Adaptation:
    """What was found out about the class shares of new images, and what was done about it.

    Args:
        estimates: of every attribute, and of the joint class; none where shares were given.
        wanted: attribute, or `joint` -> the shares that probabilities are moved to; empty where none changed.
        is_applied: whether probabilities were moved.
        reason: why, or why not.
        expected: score -> its expected change, seen on the ledger weighted to the new shares.
        assumed: what has to hold for this to be right.
    """

    estimates: tuple[ShareEstimate, ...]
    wanted: Shares
    is_applied: bool
    reason: str
    expected: Mapping[str, Difference | None]
    assumed: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "is_applied": self.is_applied,
            "reason": self.reason,
            "shares": {name: shares_C.tolist() for name, shares_C in self.wanted.items()},
            "expected_change": {name: one and one.to_dict() for name, one in self.expected.items()},
            "assumed": list(self.assumed),
            "estimates": {one.name: one.to_dict() for one in self.estimates},
        }


def adapt(
    run: Run, probs_NK: NDArray[np.float64], after: AfterRecipe, given: Shares | None = None
) -> tuple[Correction | None, Adaptation]:
    """Estimates the class shares of new images, or takes the given ones, and fits a correction to them.

    Estimated shares are used where one of an attribute's (of a single attribute: of a class's) differs by more than
    chance from the ledger's, and only if the ledger, weighted to the new shares, expects macro F1 to rise.

    Args:
        run: whose ledger says what to expect.
        probs_NK: of the new images, as the folds' models made them.
        after: what else is done to probabilities.
        given: shares that are known, from `read_shares`; these are used whatever is expected of them.

    Returns:
        the correction, which does what `after` says too, or None where shares are left as they are; and the account.
    """
    ledger, space = run.ledger().known(), run.space
    before_K = np.bincount(ledger.labels_N, minlength=space.num_classes) / len(ledger.labels_N)
    estimates = () if given is not None else _estimates(ledger, space, probs_NK, run.recipe.seed)
    if given is not None:
        wanted, reason = dict(given), "these shares were given"
    else:
        counted = estimates if len(estimates) == 1 else estimates[:-1]  # the joint class stands last, to be looked at
        wanted = {one.name: _whole(one, space) for one in counted if one.is_shifted}
        reason = f"the shares of {' and '.join(wanted)} differ by more than chance from the ledger's"
    assumed = _assumptions(after, space, is_estimated=given is None)
    if not wanted:
        return None, Adaptation(estimates, {}, False, "no share differs by more than chance", {}, assumed)
    codes = {**space.attribute_codes(), JOINT: np.arange(space.num_classes)}
    after_K = rake(before_K, wanted, codes)
    ratio_K = np.divide(after_K, before_K, out=np.ones_like(after_K), where=before_K > 0)
    expected = _expected(run, ledger, after, ratio_K)
    change = expected["macro_f1"]
    if given is None and (change is None or change.value <= 0):
        reason += ", but the ledger expects nothing of correcting for it"
        return None, Adaptation(estimates, wanted, False, reason, expected, assumed)
    if given is None and change is not None and change.low <= 0:
        reason += "; macro F1 is expected to rise, which may be chance"
    fitted = fit_correction(
        ledger.predictions.probs_NK,
        ledger.labels_N,
        calibrate=_calibrate(after, space),
        adjust=after.adjust,
        shares_K=run.train_shares_K,
        codes=space.attribute_codes(),
        ratio_K=ratio_K,
    )
    return fitted, Adaptation(estimates, wanted, True, reason, expected, assumed)


def read_shares(file: str | Path, space: LabelSpace) -> Shares:
    """Class shares that a TOML file says: a table for an attribute, or `[joint]` for the joint class.

    Raises:
        DataError: the file cannot be read, or names what is not there, or its shares are none; all at once.
    """
    path = Path(file)
    found, mistakes = read_class_tables(path, space, _mistakes)
    shares = {name: np.asarray(values_C, np.float64) for name, values_C in found.items()}
    if mistakes:
        lines = "\n".join(f"  {line}" for line in mistakes)
        example = {space.names[0]: dict.fromkeys(space.attributes[0].classes, "...")}
        hint = f"write a table for each attribute whose shares are known: {_as_toml(example)}"
        raise DataError(f"{path} does not say class shares:\n{lines}", hint)
    return shares


def _as_toml(table: Mapping[str, Mapping[str, str]]) -> str:
    name, classes = next(iter(table.items()))
    return f"[{name}] " + ", ".join(f'"{one}" = {share}' for one, share in classes.items())


def _mistakes(name: str, values: Sequence[Any], is_named_rightly: bool) -> list[str]:
    if not all(isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 for value in values):
        return [f"`[{name}]`: shares are numbers, 0 or more"]
    if is_named_rightly and abs(sum(values) - 1) > SUM_TOLERANCE:
        return [f"`[{name}]`: shares sum to {sum(values):g}, not 1"]
    return []


def _estimates(
    ledger: Ledger, space: LabelSpace, probs_NK: NDArray[np.float64], seed: int
) -> tuple[ShareEstimate, ...]:
    """Of every attribute, then of the joint class; of a single attribute once."""
    questions = dict(space.attribute_table())
    if len(questions) > 1:
        questions[JOINT] = (space.class_names, np.arange(space.num_classes))
    found = []
    for name, (classes, codes_K) in questions.items():
        labels_L = codes_K[ledger.labels_N]
        present = np.unique(labels_L)  # a class without a row cannot be told apart from the others
        membership_KC = np.eye(len(classes))[codes_K][:, present]
        found.append(
            estimate_shares(
                name,
                [classes[code] for code in present],
                _rows(probs_NK @ membership_KC),
                _rows(ledger.predictions.probs_NK @ membership_KC),
                np.searchsorted(present, labels_L),
                np.asarray(ledger.groups),
                seed=seed,
            )
        )
    return tuple(found)


def _rows(probs_NC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows that sum to 1 again, where classes were left out."""
    sums_N1 = probs_NC.sum(axis=1, keepdims=True)
    return np.asarray(np.where(sums_N1 > 0, probs_NC / np.maximum(sums_N1, 1e-300), 1 / probs_NC.shape[1]))


def _whole(estimate: ShareEstimate, space: LabelSpace) -> NDArray[np.float64]:
    """[C] estimated shares of all classes of an attribute; 0 for one that the ledger lacks.

    No fewer than half an image of any other class, so that one of which there seems to be none can still be answered.
    """
    seen_K = np.maximum(estimate.shares_K, LEAST_SEEN / estimate.em[0].n)
    shares = dict(zip(estimate.class_names, seen_K / seen_K.sum(), strict=True))
    return np.asarray([shares.get(one, 0.0) for one in space.attribute_table()[estimate.name][0]])


def _calibrate(after: AfterRecipe, space: LabelSpace) -> Any:
    """How, where shares are corrected: that needs calibrated probabilities, also where the recipe asks for none."""
    if after.calibrate != "none":
        return after.calibrate
    return "per_attribute" if len(space.attributes) > 1 else "temperature"


def _assumptions(after: AfterRecipe, space: LabelSpace, *, is_estimated: bool) -> tuple[str, ...]:
    said = [
        "how images of a class look is as in training, and only class shares differ",
        "the mean of all folds is as sure as a single fold, on whose answers everything was fitted",
    ]
    if is_estimated:
        said.append("every new image is a sample of its own: photos of the same person would widen the intervals")
    if len(space.attributes) > 1:
        said.append("attributes depend on each other as in training, but for their own shares")
    if after.calibrate == "none":
        said.append(f"probabilities were calibrated for it ({_calibrate(after, space)}), fitted on the ledger")
    return tuple(said)


def _expected(
    run: Run, ledger: Ledger, after: AfterRecipe, ratio_K: NDArray[np.float64]
) -> dict[str, Difference | None]:
    """How scores change where the ledger's classes count as often as in the new images; all fitted on other folds."""
    space, labels_L = run.space, ledger.labels_N
    options: dict[str, Any] = {
        "adjust": after.adjust,
        "shares_K": run.train_shares_K,
        "codes": space.attribute_codes(),
    }
    ways = ({"calibrate": after.calibrate}, {"calibrate": _calibrate(after, space), "ratio_K": ratio_K})
    before, corrected = (
        draw(
            nested_correction(ledger.predictions.probs_NK, labels_L, ledger.folds_N, **options, **way),
            labels_L,
            np.asarray(ledger.groups),
            space.class_names,
            {},
            weights_N=ratio_K[labels_L],
            resamples=run.recipe.scores.resamples,
        )
        for way in ways
    )
    return {score: corrected.less(before, score) for score in ("macro_f1", "accuracy")}
