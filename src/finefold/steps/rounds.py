"""One round of pseudo labels: unlabelled images, each fold's own labels for them, and the run that is trained on both.

A round is a run: it is begun, goes on where it was interrupted, and is finished as any other. Its labels are chosen
once and lie in its folder before it trains.

Shapes: N samples, U unlabelled images, F folds, K joint classes.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.imageset import ImageSet
from finefold.data.predictions import Predictions
from finefold.data.samples import SampleTable
from finefold.data.split_checks import counted
from finefold.data.splits import Split, read_split
from finefold.errors import RunError, UsageError
from finefold.metrics.calibration import Calibration, fit_temperature, fit_vector
from finefold.metrics.pseudo import FoldLabels, FoldProbs, choose_labels
from finefold.metrics.shift import saerens_prior
from finefold.nn.features import PLAIN, Features, PrefixCache
from finefold.nn.probe import Extra
from finefold.recipe.loader import dump_recipe
from finefold.recipe.schema import Recipe
from finefold.recipe.training import View
from finefold.runs.folder import RunFolder, write_text
from finefold.runs.provenance import provenance, text_hash
from finefold.steps.asking import fold_probs, unreadable
from finefold.steps.boxes import find_boxes_for
from finefold.steps.columns import samples_of
from finefold.steps.evaluate import selection_of
from finefold.steps.extra import ExtraImages
from finefold.steps.heads import fit_heads
from finefold.steps.outputs import write_results
from finefold.steps.progress import Progress
from finefold.steps.run import Run, open_run
from finefold.steps.train import train_folds
from finefold.steps.training import quick_scores

SMALLEST_SHARE = 1e-6  # of a class that training lacks, so that estimating shares may start from it
OF_ONE_TRAINING = ("chosen", "expected", "took", "pseudo", "selection")  # what the next round's manifest does not keep
KEPT = "rounds of pseudo labels are kept where they are better on the samples that folds hold out (finefold pseudo)"


@dataclass(frozen=True, eq=False)
class Material:
    """What every round starts from.

    Args:
        recipe: of the rounds.
        samples, split: of the run.
        cache: of the whole backbone, on the engine that the run was trained with.
        features: of the samples.
        pool: the unlabelled images that can be read.
    """

    recipe: Recipe
    samples: SampleTable
    split: Split
    cache: PrefixCache
    features: Features
    pool: ImageSet

    @property
    def folds_N(self) -> NDArray[np.int64]:
        return self.split.folds_for(self.samples.ids)


def check_trains_again(run: Run) -> None:
    """That another training like the run's is possible.

    Raises:
        UsageError: it was not trained, or with parts that are not here.
        RunError: it has no ledger.
    """
    path, own = run.folder.path, [name for name in run.manifest.get("own", {}) if name not in ("boxes", "head")]
    if run.is_ensemble or "soup" in run.manifest:
        raise UsageError(
            f"{path} was made of other runs, and a round of pseudo labels is a training",
            "start from one of those that it was made of",
        )
    run.ledger()
    if "teacher" in run.manifest:
        raise UsageError(
            f"{path} learned from a teacher, who says nothing of unlabelled images",
            "start from a run that was trained without --teacher; the teacher itself, if it was trained",
        )
    if own and not run.recipe.is_probe_only:
        raise UsageError(
            f"{path} was trained with parts of your own ({', '.join(own)}), which a round would have to train with too",
            "start from a run whose parts are built in",
        )


def read_material(run: Run, recipe: Recipe, root: Path, names: Sequence[str], progress: Progress) -> Material:
    """Features of the samples, and which unlabelled images can be read.

    Raises:
        RunError: the run's images are not what they were, or no unlabelled image can be read.
    """
    cache = run.prefix_cache()
    samples = samples_of(run)
    with progress.stage("features", len(samples), "images") as advance:
        features = cache.compute(samples.ids, samples.paths, boxes=samples.boxes, advance=advance)
    if features.findings:
        raise unreadable(features.findings)
    paths = [root.resolve() / name for name in names]
    boxes, _ = find_boxes_for(run, names, paths, root, None, progress)
    images = ImageSet(names, paths, boxes)
    with progress.stage("unlabelled", len(images), "images") as advance:
        filled = cache.fill(images.ids, images.paths, boxes=images.boxes, advance=advance)
    if not filled.is_readable_N.any():
        raise RunError(f"none of the images in {root} can be read", "name another folder: finefold pseudo RUN FOLDER")
    pool = images.at(np.flatnonzero(filled.is_readable_N))
    return Material(recipe, samples, read_split(run.folder.split), cache, features, pool)


def train_round(home: RunFolder, before: Run, material: Material, progress: Progress) -> Run | None:
    """The run that learns from the labels of the run before; as it is where it is finished already.

    Args:
        home: the round's folder.
        before: whose fold k labels images for fold k.
        material: what is trained on.
        progress: told of the plan, the stages and every epoch.

    Returns:
        The new run; None where no image gets a label.
    """
    recipe = material.recipe
    if not home.is_finished:
        start = time.perf_counter()
        told = {"recipe": text_hash(dump_recipe(recipe)), "run": text_hash(before.folder.manifest.read_text("utf-8"))}
        with home.begun(told):
            extra = _labelled(home, before, material, progress)
            if extra is None:
                return None
            made = _train(home, before, material, extra, progress)
            home.finish({**made, **provenance(), "seconds": round(time.perf_counter() - start, 2)})
    return open_run(home.path, network=before.network)


def _labelled(home: RunFolder, before: Run, material: Material, progress: Progress) -> ExtraImages | None:
    """The labels, which are chosen once: a round that goes on trains on those that it began with."""
    if not home.extra.is_file():
        views: tuple[View, ...] = tuple(dict.fromkeys((PLAIN, *material.recipe.pseudo.views)))
        predictions = before.ledger().predictions.rows_for(material.samples.ids)
        said = fold_probs(before, material.pool, views, progress)
        labels = tuple(fold_labels(one, predictions, material) for one in said)
        if not any(map(len, labels)):
            return None
        ExtraImages.of(material.pool, labels).write(home.extra)
    extra = ExtraImages.read(home.extra)
    counts = [len(one) for one in extra.labels]
    each = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    progress.say(f"pseudo labels: {each} of {len(material.pool):,} images, by each fold's own model")
    return extra


def fold_labels(said: FoldProbs, predictions: Predictions, material: Material) -> FoldLabels:
    """Labels from one fold's model, for that fold; nothing of them rests on a sample that the fold holds out.

    Args:
        said: by the fold's model.
        predictions: of the samples, out of fold, of the same run.
        material: what is labelled.
    """
    chosen, samples = material.recipe.pseudo, material.samples
    is_others_N, num_classes = material.folds_N != said.fold, samples.space.num_classes
    known_N = is_others_N & (samples.labels_N >= 0)  # each was predicted by its own fold's model
    probs_nK, labels_n = predictions.probs_NK[known_N], samples.labels_N[known_N]
    if chosen.shares == "estimated":  # what a loss did about scarce classes would else be taken for the images' shares
        undone = _calibrated(said, fit_vector(probs_nK, labels_n))
        shares_K = saerens_prior(undone.probs_UK, _shares(labels_n, num_classes))
    else:
        train_N = samples.train_labels_N
        shares_K = _shares(train_N[is_others_N & (train_N >= 0)], num_classes)
    return choose_labels(
        _calibrated(said, fit_temperature(probs_nK, labels_n)) if chosen.calibrate else said,
        shares_K,
        share=chosen.share,
        threshold=chosen.threshold,
        target=chosen.target,
        weight=chosen.weight,
    )


def _calibrated(said: FoldProbs, calibration: Calibration) -> FoldProbs:
    return FoldProbs(said.fold, np.stack([calibration.apply(probs_UK) for probs_UK in said.views_VUK]))


def _shares(labels_n: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """[K] class shares of some labels, all above 0."""
    shares_K = np.maximum(np.bincount(labels_n, minlength=num_classes) / len(labels_n), SMALLEST_SHARE)
    return np.asarray(shares_K / shares_K.sum())


def _train(home: RunFolder, before: Run, material: Material, extra: ExtraImages, progress: Progress) -> dict[str, Any]:
    """All of the round but its manifest, and what that keeps."""
    recipe, samples, split, cache = material.recipe, material.samples, material.split, material.cache
    theirs = before.folder
    mine = ((theirs.data, home.data), (theirs.samples, home.samples), (theirs.split, home.split))
    for source, target in (*mine, *(((theirs.boxes, home.boxes),) if theirs.boxes.is_file() else ())):
        shutil.copyfile(source, target)
    before.backbone.copy_to(home.backbone)
    write_text(home.recipe, dump_recipe(recipe))
    images = extra.images
    with progress.stage("features", len(images), "images") as advance:
        found = cache.compute(images.ids, images.paths, boxes=images.boxes, advance=advance)
    if found.findings:
        raise RunError(
            f"{counted(len(found.findings), 'image')} cannot be read any more, e.g. `{found.findings[0].ids[0]}`",
            "put them back where they were, or start again with another --out",
        )
    features_ND, hashes = material.features.rows_ND, (*material.features.hashes, *found.hashes)
    fitted = fit_heads(features_ND, samples, split, recipe, progress, extra=Extra(found.rows_ND, extra.labels))
    predictions, about = train_folds(home, samples, split, recipe, cache, hashes, fitted, progress, extra=extra)
    inherited = tuple(dict.fromkeys((*selection_of(before), KEPT)))
    write_results(home, predictions, samples, split, recipe, (), was_chosen=False, inherited=inherited)
    num_classes = samples.space.num_classes
    return {
        **{name: value for name, value in before.manifest.items() if name not in OF_ONE_TRAINING},
        **about,
        "hashes": {**before.manifest["hashes"], "recipe": text_hash(dump_recipe(recipe))},
        "strengths": fitted.strengths,
        "probe": quick_scores(fitted.predictions.probs_NK, samples.labels_N),
        "selection": list(inherited),
        "pseudo": {
            "labels_per_class": [np.bincount(one.answers_M, minlength=num_classes).tolist() for one in extra.labels]
        },
    }
