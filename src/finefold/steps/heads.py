"""The probe of a run: linear heads of every fold, on the joint class or on each attribute."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from finefold.data.predictions import Predictions
from finefold.data.samples import SampleTable
from finefold.data.splits import Split
from finefold.nn.heads import JOINT, FoldHeads, LinearHead
from finefold.nn.probe import Extra, fit_probe
from finefold.recipe.schema import Recipe
from finefold.steps.progress import Progress

TRAINED_ON_FLOOR = 1.0  # of heads that training goes on from, see `fit_probe`


@dataclass(frozen=True)
class Fitted:
    """Heads of every fold, and what they say of the rows they did not see."""

    heads: tuple[FoldHeads, ...]
    predictions: Predictions
    strengths: dict[str, list[float]]


def fit_heads(
    features_ND: NDArray[np.float16],
    samples: SampleTable,
    split: Split,
    recipe: Recipe,
    progress: Progress,
    *,
    extra: Extra | None = None,
) -> Fitted:
    """One head per fold on the joint class, or one per fold and attribute, fitted where that is known.

    `extra` rows train besides.
    """
    space, folds_N = samples.space, split.folds_for(samples.ids)
    tasks = {JOINT: samples}
    if recipe.model.heads != "joint":
        tasks = {name: samples.for_attribute(name) for name in space.names}
    heads: list[dict[str, LinearHead]] = [{} for _ in range(split.num_folds)]
    probs: list[NDArray[np.float64]] = []
    strengths = {}
    codes_of = {JOINT: np.arange(space.num_classes), **space.attribute_codes()}
    for task, table in tasks.items():
        with progress.stage(f"heads ({task})" if len(tasks) > 1 else "heads", 0, "steps") as advance:
            probe = fit_probe(
                features_ND,
                table.labels_N,
                table.train_labels_N,
                folds_N,
                num_classes=table.space.num_classes,
                strengths=recipe.probe.strengths,
                power=recipe.head_power,
                floor=0.0 if recipe.is_probe_only else TRAINED_ON_FLOOR,
                max_steps=recipe.probe.max_steps,
                extra=None if extra is None else extra.under(codes_of[task], table.space.num_classes),
                advance=partial(_step, advance),
            )
        for fold, head in enumerate(probe.heads):
            heads[fold][task] = head
        probs.append(probe.probs_NC)
        strengths[task] = list(probe.strengths_F)
    joint_NK = probs[0] if JOINT in tasks else space.joint_probs(probs)
    predictions = Predictions(tuple(samples.ids), joint_NK, space.class_names)
    return Fitted(tuple(FoldHeads(fold) for fold in heads), predictions, strengths)


def _step(advance: Callable[[int], None], _stage: str, _number: int) -> None:
    advance(1)
