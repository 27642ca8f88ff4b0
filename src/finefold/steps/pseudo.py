"""`finefold pseudo`: the next round of a run, trained on unlabelled images too, and kept only if it is better.

Every fold trains on labels that its own model gave, see `metrics.pseudo`; real samples alone validate.

Shapes: N samples, U unlabelled images, K joint classes.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.data.predictions import Ledger, Predictions
from finefold.data.samples import SampleTable
from finefold.data.splits import Split, read_split
from finefold.errors import RunError, UsageError
from finefold.metrics.calibration import Calibration, fit_temperature, no_calibration
from finefold.metrics.paired import Difference, Drawn, draw
from finefold.metrics.pseudo import FoldLabels, FoldProbs, choose_labels
from finefold.metrics.shift import saerens_prior
from finefold.nn.engines import Choice
from finefold.nn.features import PLAIN, PrefixCache
from finefold.nn.heads import FoldHeads
from finefold.nn.probe import Extra
from finefold.recipe.loader import dump_recipe, load_recipe
from finefold.recipe.schema import Recipe
from finefold.recipe.training import View
from finefold.runs.folder import RunFolder, write_text
from finefold.runs.provenance import provenance, text_hash
from finefold.steps.asking import unreadable_samples
from finefold.steps.boxes import find_boxes_for
from finefold.steps.columns import sample_table
from finefold.steps.heads import Fitted, fit_heads
from finefold.steps.outputs import write_folds, write_results
from finefold.steps.predict import image_names
from finefold.steps.progress import SILENT, Progress
from finefold.steps.run import Run, open_run
from finefold.steps.training import quick_scores

KEPT_FROM = 0.95  # share of resamples of groups in which a round must be better
SMALLEST_SHARE = 1e-6  # of a class that training lacks, so that estimating shares may start from it
SCORES = ("macro_f1", "accuracy", "log_loss")


@dataclass(frozen=True)
class Round:
    """One round beside what was kept before.

    Args:
        labels_FK: how many labels each fold trained on, of each class.
        scores: of the ledger after the round.
        differences: score -> how much better than before; above 0 is better.
        is_kept: whether the round's models are the run's now.
    """

    labels_FK: NDArray[np.int64]
    scores: Mapping[str, float]
    differences: Mapping[str, Difference]
    is_kept: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "labels": self.labels_FK.sum(axis=1).tolist(),
            "labels_per_class": self.labels_FK.tolist(),
            "scores": dict(self.scores),
            "differences": {name: one.to_dict() for name, one in self.differences.items()},
            "is_kept": self.is_kept,
        }


@dataclass(frozen=True)
class PseudoLabelled:
    """What pseudo-labelling gave.

    Args:
        before: the run that it started from.
        run: the new run; None where no round was kept.
        metric: the score that decided.
        scores: of the run that it started from.
        rounds: in order; all but the last were kept, and the last may be.
        num_images: unlabelled images that could be read.
    """

    before: Run
    run: Run | None
    metric: str
    scores: Mapping[str, float]
    rounds: tuple[Round, ...]
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return {
            "before": str(self.before.folder.path),
            "run": None if self.run is None else str(self.run.folder.path),
            "metric": self.metric,
            "images": self.num_images,
            "scores": dict(self.scores),
            "rounds": [one.to_dict() for one in self.rounds],
        }


@dataclass(frozen=True, eq=False)
class _Material:
    """What every round starts from.

    Args:
        samples, split: of the run.
        rows_ND: features of the samples.
        views_VUD: features of the unlabelled images, under each view; the first is plain.
    """

    samples: SampleTable
    split: Split
    rows_ND: NDArray[np.float16]
    views_VUD: NDArray[np.float16]

    @property
    def folds_N(self) -> NDArray[np.int64]:
        return self.split.folds_for(self.samples.ids)


def pseudo(
    run: Run,
    images: str | Path | None = None,
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    progress: Progress = SILENT,
) -> PseudoLabelled:
    """Trains the next rounds of a probe on unlabelled images too, and writes them as a run where they are better.

    Args:
        run: a finished run of the probe.
        images: a folder of unlabelled images; without one, the root of [predict] in the run's data.toml.
        out: the new run's folder; nothing is written where no round is kept.
        overrides: `pseudo.key=value`, on top of the run's recipe.
        progress: told of the stages.

    Raises:
        UsageError: the run's recipe trains more than the probe, or an override is of something else.
        RunError: `out` is in the way, or the run's images are not what they were.
        DataError: there is no image.
    """
    start = time.perf_counter()
    recipe = _recipe(run, overrides)
    folder = RunFolder(Path(out))
    fingerprint = {"recipe": text_hash(dump_recipe(recipe)), "run": text_hash(run.folder.manifest.read_text("utf-8"))}
    with folder.begun(fingerprint):
        root, names = image_names(run, images)
        material = _material(run, recipe, root, names, progress)
        ledger = run.ledger()
        heads = tuple(FoldHeads.read(run.folder.fold_weights(fold)) for fold in range(run.num_folds))
        predictions = ledger.predictions.rows_for(material.samples.ids)
        best = first = Fitted(heads, predictions, dict(run.manifest["strengths"]))
        drawn = _drawn(run, ledger, best.predictions)
        scores = {name: drawn.values[name] for name in SCORES}
        rounds: list[Round] = []
        while len(rounds) < recipe.pseudo.rounds:
            labels = tuple(fold_labels(best, fold, material, run, recipe) for fold in range(run.num_folds))
            extra = Extra(material.views_VUD[0], labels)
            made = fit_heads(material.rows_ND, material.samples, material.split, recipe, progress, extra=extra)
            after = _drawn(run, ledger, made.predictions)
            rounds.append(_judged(labels, drawn, after, recipe, run.space.num_classes))
            progress.say(round_line(len(rounds), rounds[-1], recipe.train.metric))
            if not rounds[-1].is_kept:
                break
            best, drawn = made, after
        found = PseudoLabelled(run, None, recipe.train.metric, scores, tuple(rounds), material.views_VUD.shape[1])
        if best is first:
            shutil.rmtree(folder.path)
            return found
        about = {**found.to_dict(), "root": str(root.resolve())}
        _write(folder, run, recipe, best, material, about, time.perf_counter() - start)
    return PseudoLabelled(**{**vars(found), "run": open_run(folder.path)})


def round_line(number: int, one: Round, metric: str) -> str:
    """A round in a sentence: kept or dropped, and the numbers."""
    gap = one.differences[metric]
    name = metric.replace("_", " ").replace(" f1", " F1")
    return (
        f"round {number}: {int(one.labels_FK.sum(axis=1).mean()):,} labels a fold, {name} {one.scores[metric]:.3f} "
        f"({gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}], better in {100 * gap.better:.0f} % of resamples): "
        f"{'kept' if one.is_kept else 'dropped'}"
    )


def fold_labels(fitted: Fitted, fold: int, material: _Material, run: Run, recipe: Recipe) -> FoldLabels:
    """Labels from one fold's model, for that fold; nothing of them rests on a sample that the fold holds out."""
    chosen, space = recipe.pseudo, run.space
    calibration = _calibration(fitted.predictions, material, fold) if chosen.calibrate else None
    mend = (calibration or no_calibration(space.num_classes)).apply
    views_VUK = np.stack([mend(fitted.heads[fold].joint_probs(rows_UD, space)) for rows_UD in material.views_VUD])
    said = FoldProbs(fold, views_VUK)
    shares_K = np.maximum(_train_shares(material, fold), SMALLEST_SHARE)
    shares_K = shares_K / shares_K.sum()
    if chosen.shares == "estimated":
        shares_K = saerens_prior(said.probs_UK, shares_K)
    return choose_labels(
        said,
        shares_K,
        share=chosen.share,
        threshold=chosen.threshold,
        target=chosen.target,
        weight=chosen.weight,
    )


def _calibration(predictions: Predictions, material: _Material, fold: int) -> Calibration:
    """A temperature from the samples that the fold does not hold out, each predicted by its own fold's model."""
    others_N = (material.folds_N != fold) & (material.samples.labels_N >= 0)
    return fit_temperature(predictions.probs_NK[others_N], material.samples.labels_N[others_N])


def _train_shares(material: _Material, fold: int) -> NDArray[np.float64]:
    """[K] class shares of what a fold trains on."""
    labels_N = material.samples.train_labels_N
    counts_K = np.bincount(
        labels_N[(labels_N >= 0) & (material.folds_N != fold)], minlength=material.samples.space.num_classes
    )
    return np.asarray(counts_K / counts_K.sum())


def _judged(labels: Sequence[FoldLabels], before: Drawn, after: Drawn, recipe: Recipe, num_classes: int) -> Round:
    differences = {name: gap for name in SCORES if (gap := after.less(before, name)) is not None}
    counts_FK = np.stack([np.bincount(one.targets_MC.argmax(axis=1), minlength=num_classes) for one in labels])
    is_kept = differences[recipe.train.metric].better >= KEPT_FROM
    return Round(counts_FK, {name: after.values[name] for name in SCORES}, differences, is_kept)


def _drawn(run: Run, ledger: Ledger, predictions: Predictions) -> Drawn:
    """The scores of some out-of-fold predictions, on the same resamples each time."""
    return draw(
        predictions.rows_for(ledger.predictions.ids).probs_NK,
        ledger.labels_N,
        np.asarray(ledger.groups),
        predictions.class_names,
        run.space.attribute_table(),
        codes_NA=ledger.codes_NA,
        resamples=run.recipe.scores.resamples,
    )


def _recipe(run: Run, overrides: Sequence[str]) -> Recipe:
    """The run's recipe with another [pseudo]."""
    if not run.recipe.is_probe_only:
        raise UsageError(
            f"{run.folder.path} trained more than the probe, and pseudo labels are for the probe's heads",
            "train a probe on the same split: finefold train DATA.toml --recipe probe --set model.weights=FILE",
        )
    recipe = load_recipe(str(run.folder.recipe), overrides)
    if recipe.model_copy(update={"pseudo": run.recipe.pseudo}) != run.recipe:
        raise UsageError(
            "--set changes the recipe beyond [pseudo], so the rounds could not be compared with the run",
            "train another run for that; here, set pseudo.weight, pseudo.share and the like",
        )
    return recipe


def _material(run: Run, recipe: Recipe, root: Path, names: Sequence[str], progress: Progress) -> _Material:
    engine = run.manifest["engine"]
    choice = Choice(engine["name"], engine["precision"], "as trained")
    cache = PrefixCache(run.backbone, choice, round(recipe.image.max_megapixels * 1e6))
    samples = SampleTable(sample_table(run), run.space, run.spec.root)
    with progress.stage("features", len(samples), "images") as advance:
        labelled = cache.compute(samples.ids, samples.paths, boxes=samples.boxes, advance=advance)
    if labelled.findings:
        raise unreadable_samples(labelled.findings)
    views: tuple[View, ...] = (PLAIN, *(view for view in recipe.pseudo.views if view != PLAIN))
    paths = [root / name for name in names]
    boxes, _ = find_boxes_for(run, names, paths, root, None, progress)
    with progress.stage("unlabelled", len(paths), "images") as advance:
        filled = cache.fill(names, paths, boxes=boxes, views=views, advance=advance)
    readable_U = filled.is_readable_N
    if not readable_U.any():
        raise RunError(f"none of the images in {root} can be read", "name another folder: finefold pseudo RUN FOLDER")
    views_VUD = np.stack([cache.read(filled, view)[readable_U] for view in views])
    return _Material(samples, read_split(run.folder.split), labelled.rows_ND, views_VUD)


def _write(
    folder: RunFolder,
    run: Run,
    recipe: Recipe,
    fitted: Fitted,
    material: _Material,
    about: Mapping[str, Any],
    seconds: float,
) -> None:
    """The new run: the old one's data and split, other heads, and its own ledger."""
    for source, target in (
        (run.folder.data, folder.data),
        (run.folder.samples, folder.samples),
        (run.folder.split, folder.split),
    ):
        shutil.copyfile(source, target)
    if run.folder.boxes.is_file():
        shutil.copyfile(run.folder.boxes, folder.boxes)
    run.backbone.copy_to(folder.backbone)
    write_text(folder.recipe, dump_recipe(recipe))
    write_folds(folder, fitted, material.samples, material.split, run.backbone)
    none: tuple[Finding, ...] = ()
    write_results(folder, fitted.predictions, material.samples, material.split, recipe, none, was_chosen=False)
    kept = {name: value for name, value in run.manifest.items() if name not in provenance() and name not in ("chosen",)}
    folder.finish(
        {
            **kept,
            **provenance(),
            "seconds": round(seconds, 2),
            "hashes": {**run.manifest["hashes"], "recipe": text_hash(dump_recipe(recipe))},
            "strengths": fitted.strengths,
            "probe": quick_scores(fitted.predictions.probs_NK, material.samples.labels_N),
            "pseudo": dict(about),
        }
    )
