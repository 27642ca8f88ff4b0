"""`finefold correct`: what calibrating and adjusting would give, each judged on folds it was not fitted on.

Shapes: N samples, K joint classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finefold.errors import UsageError
from finefold.metrics.calibration import calibration_scores
from finefold.metrics.classification import FloatArray
from finefold.metrics.correction import nested_correction
from finefold.metrics.intervals import Score
from finefold.metrics.paired import SCORES, Difference, Drawn, draw
from finefold.recipe.training import AfterRecipe
from finefold.steps.after import changed_after, fit_after
from finefold.steps.aligning import aligned_ledgers, run_names
from finefold.steps.run import Run, open_run


@dataclass(frozen=True)
class Tried:
    """One way to correct a run, or another run as it is.

    Args:
        name: of the way, or of the other run.
        about: what it comes to, fitted on the whole ledger; empty for a run.
        scores: score -> value, every fold corrected by what the others gave.
        changes: score -> difference to doing nothing.
        calibration: `ece`, `classwise_ece`, `brier`.
        overrides: with which `predict` answers that way; empty for doing nothing, and for a run.
    """

    name: str
    about: str
    scores: dict[str, float]
    changes: dict[str, Difference | None]
    calibration: dict[str, Score]
    overrides: tuple[str, ...] = ()

    @property
    def pays(self) -> bool:
        """Whether `predict` can answer that way, and macro F1 rises by more than chance."""
        change = self.changes["macro_f1"]
        return bool(self.overrides) and change is not None and change.low > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "about": self.about,
            **self.scores,
            "changes": {score: one and one.to_dict() for score, one in self.changes.items()},
            **{name: score.to_dict() for name, score in self.calibration.items()},
            "set": list(self.overrides),
        }


@dataclass(frozen=True)
class Corrections:
    """Every way there is, and other runs beside them.

    Args:
        run: name of the run that is corrected.
        num_samples, num_groups: of its ledger.
        tried: the first does nothing.
    """

    run: str
    num_samples: int
    num_groups: int
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried | None:
        """The way that raises macro F1 most; None where none does by more than chance."""
        return max((one for one in self.tried if one.pays), key=lambda one: one.scores["macro_f1"], default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `--json` prints them."""
        return {
            "run": self.run,
            "n": self.num_samples,
            "num_groups": self.num_groups,
            "tried": [one.to_dict() for one in self.tried],
            "best": None if self.best is None else self.best.name,
        }


def correct(runs: Sequence[Run | str | Path], *, overrides: Sequence[str] = ()) -> Corrections:
    """Tries every calibration and adjustment on the first run's ledger, and puts the other runs beside them.

    Args:
        runs: the run to correct, then any others of the same split, such as those trained with a balanced loss.
        overrides: `after.calibrate=...` is what adjustments stand on; as the run's recipe says where left out.

    Raises:
        UsageError: no run, or an override of something else.
        RunError: a run is broken, or has another split or other labels.
    """
    opened = [run if isinstance(run, Run) else open_run(run) for run in runs]
    if not opened:
        raise UsageError("there is no run to correct", "give one: finefold correct RUN")
    names = run_names(opened)
    ledgers = [one.known() for one in aligned_ledgers(opened, names, verb="put side by side")]
    run, ledger = opened[0], ledgers[0]
    calibrate = changed_after(run, overrides).calibrate
    codes, groups_N = run.space.attribute_codes(), np.asarray(ledger.groups)
    resamples = run.recipe.scores.resamples

    def drawn(probs_NK: FloatArray) -> Drawn:
        names_K = ledger.predictions.class_names
        return draw(probs_NK, ledger.labels_N, groups_N, names_K, {}, resamples=resamples)

    nothing = drawn(ledger.predictions.probs_NK)

    def judged(name: str, about: str, probs_NK: FloatArray, *settings: str) -> Tried:
        found = drawn(probs_NK)
        return Tried(
            name,
            about,
            {score: found.values[score] for score in SCORES},
            {score: found.less(nothing, score) for score in SCORES},
            calibration_scores(probs_NK, ledger.labels_N, groups_N, resamples=resamples),
            settings,
        )

    tried = [judged("none", "", ledger.predictions.probs_NK)]
    for name, after in _ways(calibrate, len(codes)).items():
        probs_NK = nested_correction(
            ledger.predictions.probs_NK,
            ledger.labels_N,
            ledger.folds_N,
            calibrate=after.calibrate,
            adjust=after.adjust,
            shares_K=run.train_shares_K,
            codes=codes,
        )
        about = fit_after(ledger, after, run.train_shares_K, run.space).say()
        tried.append(judged(name, about, probs_NK, *_settings(after)))
    others = zip(names[1:], ledgers[1:], strict=True)
    tried += [judged(f"run {name}", "", other.predictions.probs_NK) for name, other in others]
    return Corrections(names[0], len(ledger.labels_N), len(set(ledger.groups)), tuple(tried))


def _ways(calibrate: Any, num_attributes: int) -> dict[str, AfterRecipe]:
    """Name -> what is tried."""
    methods = ("temperature", "vector", *(("per_attribute",) if num_attributes > 1 else ()))
    calibrations = {f"calibrate = {method}": AfterRecipe(calibrate=method) for method in methods}
    on_top = "" if calibrate == "none" else f", {calibrate}"
    adjustments = {
        f"adjust = logit{on_top}": AfterRecipe(calibrate=calibrate, adjust="logit"),
        f"adjust = bias{on_top}": AfterRecipe(calibrate=calibrate, adjust="bias"),
    }
    return calibrations | adjustments


def _settings(after: AfterRecipe) -> list[str]:
    """What `predict --set` takes to answer that way."""
    chosen = {"calibrate": after.calibrate, "adjust": after.adjust}
    return [f"after.{key}={value}" for key, value in chosen.items() if value != "none"]
