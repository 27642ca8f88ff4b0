"""`finefold train --plot-lr`: the learning rates that a recipe would train with, step by step, without training."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finefold.data.samples import SampleTable
from finefold.data.splits import Split
from finefold.errors import RecipeError, UsageError
from finefold.nn.backbones import Backbone
from finefold.nn.devices import set_threads, training_device
from finefold.nn.engines import Choice
from finefold.nn.freezing import FreezePlan, PhasePlan, plan_rows
from finefold.nn.heads import JOINT, FoldHeads, LinearHead
from finefold.nn.schedules import make_schedule
from finefold.recipe.schema import Recipe
from finefold.report.curves import draw_rates
from finefold.runs.folder import RunFolder, write_text
from finefold.steps.progress import SILENT, Progress
from finefold.steps.reading import Data
from finefold.steps.split import check_train_labels, known_to
from finefold.steps.train import backbone_of, folds_of, given_split, head_of_one
from finefold.steps.training import Training, copies_each, partners_named, phase_lengths
from finefold.steps.tuning import plan_phases

FOLD = 0  # whose training samples count the steps


@dataclass(frozen=True)
class StageRate:
    """One stage in one phase.

    Args:
        phase: counted from 1.
        stage: of the model, or `head`.
        steps: of the phase.
        peak, final: rates, the highest and that of the last step.
    """

    phase: int
    stage: str
    steps: int
    peak: float
    final: float


@dataclass(frozen=True)
class RatesDrawn:
    """Learning rates as they were drawn.

    Args:
        file: the picture.
        steps: of all phases together.
        stages: what trains, phase by phase, head first.
    """

    file: Path
    steps: int
    stages: tuple[StageRate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return {"file": str(self.file), "steps": self.steps, "stages": [asdict(one) for one in self.stages]}


def plot_rates(
    data: Data,
    split: Split | str | Path | None = None,
    *,
    recipe: Recipe,
    out: str | Path,
    progress: Progress = SILENT,
) -> RatesDrawn:
    """Draws the learning rate of every stage over the optimiser steps of fold 0, all phases in a row.

    No image is read but those that a given split lacks; any other that does not decode counts as a sample. The drops
    of `schedule.name = "plateau"` depend on scores and are left out.

    Args:
        data: what `read_data` gave.
        split: as of `train`.
        recipe: its phases, schedule, sampling and batch size.
        out: an .svg; written over.
        progress: told of the stages, and of what is left out.

    Raises:
        RecipeError: no phase takes steps, one trains nothing, or names what the model lacks.
        SplitError, WeightsError, ModelError: see each.
        UsageError: `out` is no .svg.
        RunError: `out` cannot be written.
    """
    file = check_svg(out, "--plot-lr")
    check_has_steps(recipe)
    set_threads()
    given = given_split(data, split, recipe, progress)
    samples = data.samples
    if given is not None:
        samples = known_to(given, samples, max_pixels=round(recipe.image.max_megapixels * 1e6), progress=progress)
    folds = folds_of(given, samples, (), recipe)
    check_train_labels(folds, samples)
    with progress.stage("model", 0, ""):
        backbone = backbone_of(recipe)
        head = head_of_one(_any_heads(recipe, samples, backbone), samples, recipe)
        plan, shapes, _ = plan_phases(recipe, backbone, head, samples, progress)
    training = Training(
        RunFolder(Path()),  # nothing is read from there or written to it
        recipe,
        samples,
        folds,
        plan,
        backbone,
        (),
        shapes,
        Choice("torch", "fp32", "nothing is computed"),
        "fp32",
        training_device(),
        copies_each(recipe, samples),
        partners_named(recipe, samples),
    )
    if recipe.schedule.name == "plateau":
        progress.say("plateau: when rates drop depends on the scores, so they are drawn without drops")
    return _draw(training, file)


def check_svg(out: str | Path, option: str) -> Path:
    """The path of a picture.

    Raises:
        UsageError: it is no .svg.
    """
    file = Path(out)
    if file.suffix.lower() != ".svg":
        raise UsageError(f"{option} {file} is no .svg", f"the curve is a picture: write {option} {file.stem}.svg")
    return file


def check_has_steps(recipe: Recipe) -> None:
    """
    Raises:
        RecipeError: every phase fits the head to convergence, so that there are no rates.
    """
    if recipe.is_probe_only:
        raise RecipeError(
            "the recipe takes no steps: its only phase fits the head to convergence, without a learning rate",
            'take a recipe with a phase that trains: --recipe quick, or add a [[phase]] with until = "5 epochs"',
        )


def _draw(training: Training, file: Path) -> RatesDrawn:
    """Rates of all phases in a row, as a picture and as a table."""
    names = [layer.name for layer in training.plan.layers]
    rates: dict[str, list[float]] = {name: [] for name in names}
    boundaries, table = [], []
    for number, phase, factors in _factors(training):
        start = len(rates[names[0]])
        boundaries.append((start, f"phase {number}: {phase.says}"))
        lr_of = {row.stage: row.lr for row in _rows(training.plan, number)}
        for name in names:
            lr = lr_of[name]
            own = [math.nan if lr is None else lr * factor for factor in factors]
            rates[name] += own
            if lr is not None:
                table.append(StageRate(number, name, len(own), max(own), own[-1]))
    trained = {name: one for name, one in rates.items() if not all(map(math.isnan, one))}
    write_text(file, draw_rates(trained, boundaries=boundaries, title=f"Learning rates, fold {FOLD}"))
    return RatesDrawn(file, len(rates[names[0]]), tuple(table))


def _rows(plan: FreezePlan, number: int) -> list[Any]:
    return [row for row in plan_rows(plan) if row.phase == number]


def _factors(training: Training) -> Iterator[tuple[int, PhasePlan, list[float]]]:
    """Each phase that takes steps: its number from 1, its plan, and its schedule's factors."""
    for number, num_steps, per_epoch in phase_lengths(training, FOLD):
        schedule = make_schedule(training.recipe.schedule, num_steps=num_steps, steps_per_epoch=per_epoch)
        yield number + 1, training.plan.phases[number], [schedule.factor(step) for step in range(num_steps)]


def _any_heads(recipe: Recipe, samples: SampleTable, backbone: Backbone) -> FoldHeads:
    """Heads of the right sizes: a plan asks for the names of their parameters alone."""
    space = samples.space
    sizes = {JOINT: space.num_classes}
    if recipe.model.heads != "joint":
        sizes = dict(zip(space.names, space.sizes, strict=True))
    width = backbone.num_features
    return FoldHeads(
        {
            name: LinearHead(np.zeros((width, size), np.float32), np.zeros(size, np.float32))
            for name, size in sizes.items()
        }
    )
