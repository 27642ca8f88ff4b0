"""Asks the models of a finished run about its own samples again, or about other images: nothing trains, and prefixes
come from the cache.

Shapes: N samples, n of them, U other images, F folds, V views, K joint classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.imageset import ImageSet
from finefold.data.samples import SampleTable
from finefold.data.split_checks import counted
from finefold.data.splits import read_split
from finefold.errors import RunError
from finefold.metrics.pseudo import FoldProbs
from finefold.nn.backbones import IMAGES
from finefold.nn.infer import Fold, FoldEnsemble
from finefold.nn.loaders import CachedRows, ImageRows, Rows
from finefold.nn.streaming import Batch, are_kept, stream_rows
from finefold.recipe.training import View
from finefold.steps.budget import Budget
from finefold.steps.columns import samples_of
from finefold.steps.progress import SILENT, Progress
from finefold.steps.run import Run

ROWS_AT_ONCE = 1024
TRAINED, UNLABELLED = "that the run was trained on", "without labels"
NUMBERS_AT_ONCE = 2e8  # of maps; so many rows fit


@dataclass(frozen=True, eq=False)
class Asked:
    """A run's folds and what they are asked about.

    Args:
        run: with models of its own.
        model: its folds, from the shared prefix on.
        samples: the run's.
        folds_N: which fold holds each sample out.
        rows: of all samples at the prefix, under every view that was asked for.
    """

    run: Run
    model: FoldEnsemble
    samples: SampleTable
    folds_N: NDArray[np.int64]
    rows: Rows

    @classmethod
    def of(
        cls,
        run: Run,
        views: Sequence[View],
        progress: Progress = SILENT,
        *,
        weights: Sequence[Path | Mapping[str, Path]] | None = None,
    ) -> "Asked":
        """Opens a run's models, and computes what the cache lacks of its samples' prefixes.

        Args:
            run: not an ensemble, which has no models of its own.
            views: of each sample.
            progress: told of prefixes that are computed.
            weights: a file for each fold in place of the run's own.

        Raises:
            RunError: the run is an ensemble, or images that it was trained on cannot be read any more.
        """
        weights = [run.fold_weights(fold) for fold in range(run.num_folds)] if weights is None else weights
        model = FoldEnsemble.read(run.backbone, weights, run.space, views=views)
        samples = samples_of(run)
        model = model.exported(run.choice, len(samples) * len(views) // run.num_folds, progress.say)
        folds_N = read_split(run.folder.split).folds_for(samples.ids)
        return cls(run, model, samples, folds_N, _rows(run, model, samples.images, progress))

    def with_folds(self, folds: Sequence[Fold]) -> "Asked":
        """The same samples, asked of other models on the same prefix."""
        model = FoldEnsemble(self.model.backbone, tuple(folds), self.model.space, self.model.views)
        model = model.exported(self.run.choice, len(self.samples) * len(model.views) // len(folds))
        return Asked(self.run, model, self.samples, self.folds_N, self.rows)

    def probs(
        self, fold: int, places: NDArray[np.int64], view: View, *, advance: Callable[[int], None] = lambda _: None
    ) -> NDArray[np.float64]:
        """[n, K] what one fold's model says of some samples under one view; their places in the table."""
        found = [np.zeros((0, self.run.space.num_classes))]
        for part in _parts(places, self.model):
            found.append(self.model.folds[fold].probs(self.rows.read(part, view), self.run.space))
            advance(len(part))
        return np.concatenate(found)

    def out_of_fold(self, view: View, *, advance: Callable[[int], None] = lambda _: None) -> NDArray[np.float64]:
        """[N, K] every sample under one view, by the model of the fold that holds it out."""
        probs_NK = np.empty((len(self.samples), self.run.space.num_classes))
        for fold in range(len(self.model.folds)):
            places = np.flatnonzero(self.folds_N == fold)
            probs_NK[places] = self.probs(fold, places, view, advance=advance)
        return probs_NK


def fold_probs(run: Run, images: ImageSet, views: Sequence[View], progress: Progress = SILENT) -> tuple[FoldProbs, ...]:
    """[F] what each fold's model, and no other, says of images that the run was not trained on.

    Args:
        run: with models of its own.
        images: all can be read.
        views: of each.
        progress: told of prefixes that are computed, and of images done.
    """
    weights = [run.fold_weights(fold) for fold in range(run.num_folds)]
    model = FoldEnsemble.read(run.backbone, weights, run.space, views=views)
    model = model.exported(run.choice, len(images) * len(views), progress.say)
    said_FVUK = np.empty((len(weights), len(views), len(images), run.space.num_classes))
    parts = _rows_by_part(run, model, images, progress)
    with progress.stage("labelling", len(images) * len(views), "images") as advance:
        for places, rows_of in parts:
            for number, view in enumerate(views):
                rows_B = rows_of(view)  # once for all folds
                for fold, one in enumerate(model.folds):
                    said_FVUK[fold, number, places] = one.probs(rows_B, run.space)
                advance(len(places))
    return tuple(FoldProbs(fold, said_VUK) for fold, said_VUK in enumerate(said_FVUK))


RowsOf = Callable[[View], NDArray[Any]]


def _rows_by_part(
    run: Run, model: FoldEnsemble, images: ImageSet, progress: Progress
) -> Iterator[tuple[NDArray[np.int64], RowsOf]]:
    """Places of some images and their rows of the prefix, through the cache if they fit into its budget."""
    cache = run.prefix_cache(model.backbone)
    most_bytes = Budget.of(run.recipe, len(images)).num_bytes
    if model.backbone.cut == IMAGES or are_kept(model, cache, len(images), most_bytes):
        rows = _rows(run, model, images, progress, UNLABELLED)
        return ((part, partial(rows.read, part)) for part in _parts(np.arange(len(images)), model))
    return _streamed(stream_rows(model, cache, images))


def _streamed(batches: Iterator[Batch]) -> Iterator[tuple[NDArray[np.int64], RowsOf]]:
    first = 0
    for batch in batches:
        if batch.findings:
            raise unreadable(batch.findings, UNLABELLED)
        yield np.arange(first, first + len(batch.is_readable_B)), batch.rows.__getitem__
        first += len(batch.is_readable_B)


def _parts(places: NDArray[np.int64], model: FoldEnsemble) -> Iterator[NDArray[np.int64]]:
    """So many at a time as memory takes."""
    at_once = max(1, min(ROWS_AT_ONCE, int(NUMBERS_AT_ONCE / np.prod(model.backbone.shape))))
    for start in range(0, len(places), at_once):
        yield places[start : start + at_once]


def _rows(run: Run, model: FoldEnsemble, images: ImageSet, progress: Progress, which: str = TRAINED) -> Rows:
    if model.backbone.cut == IMAGES:
        return ImageRows(images.paths, model.backbone.preprocessing, run.max_pixels, images.boxes)
    cache = run.prefix_cache(model.backbone)
    with progress.stage("prefix", len(images), "images") as advance:
        filled = cache.fill(images.ids, images.paths, boxes=images.boxes, views=model.views, advance=advance)
    if filled.findings:
        raise unreadable(filled.findings, which)
    return CachedRows({view: cache.open(view) for view in model.views}, filled.hashes)


def unreadable(findings: Sequence[Any], which: str = TRAINED) -> RunError:
    """The error of images that could be read before."""
    return RunError(
        f"{counted(len(findings), 'image')} {which} cannot be read any more, e.g. `{findings[0].ids[0]}`",
        "put them back where they were, or train the run again",
    )
