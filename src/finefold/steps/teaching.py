"""What a finished run teaches the run that is to be trained (`finefold train --teacher`), fold by fold.

The teacher of fold k is its own fold k's model: of no other do the probabilities of a training row not know what fold k
holds out. The ledger would not do, though its rows look out of fold: a row of fold j was predicted by a model that
trained on fold k's samples.

Shapes: F folds, N samples, K joint classes, M members.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.samples import SampleTable
from finefold.data.splits import Split, read_split
from finefold.ensemble import fit_combination
from finefold.errors import RunError, UsageError
from finefold.recipe.schema import Recipe
from finefold.steps.aligning import aligned_ledgers, run_names
from finefold.steps.asking import Asked
from finefold.steps.progress import Progress
from finefold.steps.run import Run


def check_teacher(teacher: Run, recipe: Recipe, samples: SampleTable, split: Split | None) -> Split:
    """The teacher's split, by which its student trains.

    Raises:
        UsageError: the recipe cannot learn from a teacher.
        RunError: the teacher has no ledger, other samples or classes, or another split is asked for.
    """
    if recipe.is_probe_only or recipe.model.heads == "separate":
        what = "fits the probe alone" if recipe.is_probe_only else "trains models of their own for each attribute"
        raise UsageError(
            f"the recipe {what}, which learns from no teacher", "take a recipe with a phase that trains: --recipe quick"
        )
    teacher.ledger()
    own = read_split(teacher.folder.split)
    if teacher.space.class_names != samples.space.class_names:
        raise RunError(f"{teacher.folder.path} has other classes than the data", "give a teacher of the same data.toml")
    if split is not None and split.hash != own.hash:
        raise RunError(
            f"{teacher.folder.path} was trained by another split, so that its models saw samples that are to be held "
            "out",
            "leave --split out: the teacher's is used; or train the teacher again by this one",
        )
    return own


def teach(teacher: Run, samples: SampleTable, split: Split, progress: Progress) -> NDArray[np.float32]:
    """[F, N, K] what each fold's teacher says of the samples that the fold trains on; NaN of those it holds out.

    Args:
        teacher: a run, or an ensemble, whose members are combined by what was fitted on the other folds.
        samples: that train.
        split: of both.
        progress: told of prefixes and of samples done.

    Raises:
        RunError: the teacher was trained on other samples.
    """
    members = teacher.members() if teacher.is_ensemble else (teacher,)
    folds_N = split.folds_for(samples.ids)
    taught = np.full((split.num_folds, len(samples), samples.space.num_classes), np.nan, np.float32)
    said = np.empty((len(members), *taught.shape), np.float32)
    for place, member in enumerate(members):
        said[place] = _said_by(member, samples, folds_N, split.num_folds, progress)
    combine = _combination(teacher, members)
    for fold in range(split.num_folds):
        rows_N = folds_N != fold
        taught[fold, rows_N] = combine(fold, said[:, fold, rows_N].astype(np.float64))
    return taught


def _said_by(
    run: Run, samples: SampleTable, folds_N: NDArray[np.int64], num_folds: int, progress: Progress
) -> NDArray[np.float32]:
    """[F, N, K] of one run's folds; NaN where held out."""
    views = run.recipe.predict.views
    asked = Asked.of(run, views, progress)
    place_of = {name: place for place, name in enumerate(asked.samples.ids)}
    lacking = [name for name in samples.ids if name not in place_of]
    if lacking:
        raise RunError(
            f"{run.folder.path} was not trained on {len(lacking)} of the samples, e.g. `{lacking[0]}`",
            "train the teacher again on the same data.toml",
        )
    places_N = np.array([place_of[name] for name in samples.ids])
    said = np.full((num_folds, len(samples), samples.space.num_classes), np.nan, np.float32)
    with progress.stage("teacher", len(samples) * (num_folds - 1) * len(views), "samples") as advance:
        for fold in range(num_folds):
            rows_N = folds_N != fold
            of_views = [asked.probs(fold, places_N[rows_N], view, advance=advance) for view in views]
            said[fold, rows_N] = np.mean(of_views, axis=0)
    return said


def _combination(teacher: Run, members: tuple[Run, ...]) -> Any:
    """(fold, [M, n, K]) -> [n, K], by what was fitted on the rows of the other folds."""
    if not teacher.is_ensemble:
        return lambda _fold, said_MNK: said_MNK[0]
    ledgers = aligned_ledgers(members, run_names(members), verb="combined")
    probs_MNK = np.stack([ledger.predictions.probs_NK for ledger in ledgers])
    labels_N, folds_N = ledgers[0].labels_N, ledgers[0].folds_N
    by, goal = teacher.manifest["by"], teacher.manifest["goal"]

    def combine(fold: int, said_MNK: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = (folds_N != fold) & (labels_N >= 0)
        fitted = fit_combination(probs_MNK[:, rows], labels_N[rows], folds_N[rows], by=by, goal=goal)
        return fitted.apply(said_MNK)

    return combine
