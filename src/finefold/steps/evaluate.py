"""`finefold evaluate`: the ledger in numbers and pictures.

Shapes: N samples, K joint classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finefold.data.predictions import Ledger
from finefold.errors import RunError
from finefold.metrics.calibration import calibration_scores, reliability_curve
from finefold.metrics.certainty import SCARCE_GROUPS, certainty, certainty_of_attributes, wilson_interval
from finefold.metrics.costs import confused_pairs, costs
from finefold.metrics.intervals import group_codes
from finefold.metrics.ranking import Ranking, rank_classes
from finefold.metrics.slices import score_slices
from finefold.metrics.summary import summarise
from finefold.recipe.schema import Recipe
from finefold.report.pictures import draw_class_bars, draw_confusion
from finefold.report.ranking import Curve, draw_ranking
from finefold.report.reliability import Bin, draw_reliability
from finefold.runs.folder import write_text
from finefold.steps.columns import slices_by
from finefold.steps.progress import SILENT, Progress
from finefold.steps.run import Run

Attributes = Mapping[str, tuple[Sequence[str], Any]]


def evaluate(
    run: Run, *, by: Sequence[str] = (), views: str | Sequence[str] = (), progress: Progress = SILENT
) -> dict[str, Any]:
    """Scores of a run's ledger with 95 % intervals, per class, attribute and fold, as JSON values.

    Args:
        run: a finished run.
        by: columns to break errors down by, see `columns.slices_by`; they come under the key `by`.
        views: to be measured, each beside those before it, or `recipe`; what they add comes under the key `views`.
        progress: told of images that are read for that.

    Raises:
        UsageError: there is no such column or view.
        RunError: the ledger is broken, or images that are asked about again are not what they were.
    """
    ledger = run.ledger()
    found = score(ledger, run.space.attribute_table(), run.recipe, selected=selection_of(run))
    if views:
        from finefold.steps.views import chosen_views, view_gains  # torch

        found["views"] = view_gains(run, chosen_views(run, views), progress=progress)
    if not by:
        return found
    whole = ledger.known()
    slices = {column: slices_by(run, whole, column, progress=progress) for column in by}
    return {
        **found,
        "by": {
            column: score_slices(
                whole.predictions.probs_NK,
                whole.labels_N,
                np.asarray(whole.groups),
                one,
                resamples=run.recipe.scores.resamples,
                seed=run.recipe.seed,
            )
            for column, one in slices.items()
        },
    }


def score(ledger: Ledger, attributes: Attributes, recipe: Recipe, *, selected: Sequence[str] = ()) -> dict[str, Any]:
    """The ledger in numbers; the same ledger and recipe give the same numbers.

    Args:
        ledger: out-of-fold predictions.
        attributes: `LabelSpace.attribute_table()`.
        recipe: says how many resamples, and the seed.
        selected: in what the held-out samples had a say, see `selection_of`.
    """
    probs_NK, labels_N = ledger.predictions.probs_NK, ledger.labels_N
    names, groups_N = ledger.predictions.class_names, np.asarray(ledger.groups)
    found = summarise(
        probs_NK=probs_NK,
        labels_N=labels_N,
        folds_N=ledger.folds_N,
        groups_N=groups_N,
        class_names=names,
        attributes=attributes,
        codes_NA=ledger.codes_NA,
        resamples=recipe.scores.resamples,
        seed=recipe.seed,
    )
    confusion = np.asarray(found["confusion"])
    groups, _ = group_codes(groups_N)
    joint, parts = rankings(ledger, attributes)
    of_attributes = _attribute_labels(ledger, attributes)
    return {
        **found,
        "costs": costs(confusion, names, attributes),
        "confused": confused_pairs(confusion, names),
        "certainty": {
            "scarce_below_groups": SCARCE_GROUPS,
            "classes": certainty(labels_N, probs_NK.argmax(axis=1), groups, names),
            "attributes": certainty_of_attributes(probs_NK, of_attributes, groups, attributes),
        },
        "ranking": {
            "classes": {name: one and one.to_dict() for name, one in joint.items()},
            "attributes": {
                attribute: {name: one and one.to_dict() for name, one in part.items()}
                for attribute, part in parts.items()
            },
        },
        "calibration": calibration(ledger.known(), recipe),
        "selection": list(selected),
    }


def calibration(ledger: Ledger, recipe: Recipe) -> dict[str, Any]:
    """How far probabilities are from what they say, with intervals, and the bins of the reliability curve."""
    probs_NK, labels_N = ledger.predictions.probs_NK, ledger.labels_N
    scores = calibration_scores(
        probs_NK, labels_N, np.asarray(ledger.groups), resamples=recipe.scores.resamples, seed=recipe.seed
    )
    curve = reliability_curve(probs_NK, labels_N)
    num_bins = len(curve.counts_B)
    groups_N = np.asarray(ledger.groups)
    bins_N = np.minimum((probs_NK.max(axis=1) * num_bins).astype(np.int64), num_bins - 1)
    rows = []
    for place, count in enumerate(curve.counts_B.tolist()):
        if not count:
            continue
        accuracy = float(curve.accuracy_B[place])
        low, high = wilson_interval(accuracy, len(np.unique(groups_N[bins_N == place])))
        rows.append(
            {
                "from": place / num_bins,
                "to": (place + 1) / num_bins,
                "count": count,
                "confidence": float(curve.confidence_B[place]),
                "accuracy": {"value": accuracy, "low": low, "high": high, "n": count},
            }
        )
    return {**{name: one.to_dict() for name, one in scores.items()}, "curve": rows}


def rankings(
    ledger: Ledger, attributes: Attributes
) -> tuple[dict[str, Ranking | None], dict[str, dict[str, Ranking | None]]]:
    """ROC and precision-recall curves of the joint classes, and of every attribute's."""
    probs_NK, labels_N = ledger.predictions.probs_NK, ledger.labels_N
    groups, _ = group_codes(np.asarray(ledger.groups))
    of_attributes = _attribute_labels(ledger, attributes)
    parts = {
        name: rank_classes(probs_NK @ np.eye(len(classes))[np.asarray(codes_K)], of_attributes[name], groups, classes)
        for name, (classes, codes_K) in attributes.items()
    }
    return rank_classes(probs_NK, labels_N, groups, ledger.predictions.class_names), parts


def _attribute_labels(ledger: Ledger, attributes: Attributes) -> dict[str, Any]:
    """Per attribute [N] true codes, -1 where missing."""
    return ledger.attribute_labels({name: codes_K for name, (_, codes_K) in attributes.items()})


def selection_of(run: Run) -> tuple[str, ...]:
    """As `selection`, of a finished run: also of what it was made of, or learned from."""
    own = selection(run.recipe, was_chosen="chosen" in run.manifest)
    return tuple(dict.fromkeys((*own, *run.manifest.get("selection", ()))))


def selection(recipe: Recipe, *, was_chosen: bool = False) -> tuple[str, ...]:
    """In what the held-out samples had a say besides the score: each a sentence; none for an untouched score."""
    reasons = []
    if was_chosen:
        reasons.append("what trains was chosen by a trial on fold 0")
    if not recipe.is_probe_only:
        if recipe.train.keep == "best":
            reasons.append("each fold keeps the epoch that is best on the samples it holds out (train.keep)")
        if recipe.train.patience:
            reasons.append("each fold stops by its score on the samples it holds out (train.patience)")
        if recipe.schedule.name == "plateau":
            reasons.append("each fold's rate drops by its score on the samples it holds out (schedule.name)")
    return tuple(reasons)


def write_pictures(run: Run, found: dict[str, Any], out: str | Path) -> tuple[Path, ...]:
    """Draws the ledger into a folder: confusions, bars per class, ROC and precision-recall curves, reliability.

    Args:
        run: a finished run.
        found: what `evaluate` gave for it.
        out: made where missing; pictures of the same names are written over.

    Raises:
        RunError: the folder cannot be written, or is the run's own, which nothing is written to.
    """
    folder = Path(out)
    if folder.resolve() == run.folder.path.resolve():
        raise RunError(f"{folder} is the run's own folder, which stays as it was", "give another --pictures FOLDER")
    joint, parts = rankings(run.ledger(), run.space.attribute_table())
    names = run.space.class_names
    pictures = {
        "confusion": draw_confusion(found["confusion"], names, title="Out-of-fold confusion"),
        "classes": draw_class_bars(found["classes"], title="Out-of-fold F1 per class"),
    }
    pictures["reliability"] = _reliability(found["calibration"])
    if curves := _curves(joint):
        pictures["curves"] = draw_ranking(curves, title="Out-of-fold ROC and precision-recall")
    if len(parts) > 1:
        for attribute, part in parts.items():
            facts = found["attributes"][attribute]
            title = f"Out-of-fold confusion of {attribute}"
            pictures[f"confusion-{attribute}"] = draw_confusion(facts["confusion"], list(part), title=title)
            if curves := _curves(part):
                title = f"Out-of-fold ROC and precision-recall of {attribute}"
                pictures[f"curves-{attribute}"] = draw_ranking(curves, title=title)
    files = {folder / f"{name.replace('/', '-')}.svg": svg for name, svg in pictures.items()}
    for file, svg in files.items():
        write_text(file, svg)
    return tuple(files)


def _reliability(found: Mapping[str, Any]) -> str:
    bins = [
        Bin(
            one["from"], one["to"], one["count"], one["confidence"], one["accuracy"]["value"], one["accuracy"]["low"],
            one["accuracy"]["high"],
        )
        for one in found["curve"]
    ]  # fmt: skip
    note = f"ECE {found['ece']['value']:.3f}. Intervals count each group once."
    return draw_reliability(bins, title="Out-of-fold reliability", note=note)


def _curves(ranked: Mapping[str, Ranking | None]) -> list[Curve]:
    return [
        Curve(
            name, one.false_T, one.recall_T, one.precision_T, one.auc.value, one.average_precision.value, one.share
        )
        for name, one in ranked.items()
        if one is not None
    ]  # fmt: skip
