"""What the folds' logs say of a training, as a picture."""

import json
from collections import defaultdict
from pathlib import Path

from finefold.data.samples import SampleTable
from finefold.recipe.schema import Recipe
from finefold.report.curves import Epoch, draw_history
from finefold.runs.folder import RunFolder, write_text
from finefold.steps.tuning import models_of

HISTORY = "history"
_METRICS = {"macro_f1": "macro F1", "accuracy": "accuracy", "log_loss": "log loss"}


def write_histories(folder: RunFolder, recipe: Recipe, samples: SampleTable, *, num_folds: int) -> tuple[Path, ...]:
    """Draws a run's training; where each attribute has models of its own, theirs each beside their folds.

    Raises:
        RunError: the folder cannot be written.
    """
    metric = recipe.train.metric
    return tuple(
        write_history(folder, num_folds=num_folds, metric=metric)
        if name is None
        else write_history(folder.part(name), num_folds=num_folds, metric=metric, of=name)
        for name in models_of(recipe, samples)
    )


def write_history(folder: RunFolder, *, num_folds: int, metric: str, of: str = "") -> Path:
    """Draws the score and the training loss of every fold and epoch into a run's folder.

    Args:
        folder: whose folds have logs.
        num_folds: how many.
        metric: as in `train.metric`.
        of: what was trained, where a run has several models per fold.

    Raises:
        RunError: the folder cannot be written.
    """
    folds = [read_epochs(folder.fold_log(fold), metric) for fold in range(num_folds)]
    title = f"Training{f' of {of}' if of else ''}, epoch by epoch; a dot is a fold's best"
    file = folder.picture(HISTORY)
    write_text(file, draw_history(folds, metric=_METRICS[metric], title=title))
    return file


def read_epochs(log: Path, metric: str) -> list[Epoch]:
    """The epochs in a fold's log.jsonl.

    Args:
        log: a line per step with its loss, and one per epoch with its scores.
        metric: the score to take.
    """
    lines = [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines()]
    losses: dict[tuple[int, int], list[float]] = defaultdict(list)
    for line in lines:
        if "loss" in line:
            losses[line["phase"], line["epoch"]].append(line["loss"])
    judged = [line for line in lines if metric in line]
    return [
        Epoch(line["phase"] + 1, sum(own) / len(own), line[metric])
        for line in judged
        if (own := losses[line["phase"], line["epoch"]])
    ]
