"""`finefold lr-find`: a learning rate range test of one phase on fold 0, and what rate it suggests."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finefold.data.samples import SampleTable
from finefold.data.splits import Split
from finefold.errors import RecipeError, TrainingError
from finefold.nn.classifier import Classifier
from finefold.nn.devices import set_threads
from finefold.nn.features import PrefixCache
from finefold.nn.heads import FoldHeads, blank_heads
from finefold.nn.loop import NotFinite, PhaseLoop
from finefold.nn.range_test import Ramp, has_exploded, smoothed, suggest_rate
from finefold.recipe.schema import Recipe
from finefold.report.curves import draw_range_test
from finefold.runs.folder import RunFolder, write_text
from finefold.steps.heads import fit_heads
from finefold.steps.progress import SILENT, Progress
from finefold.steps.rates import FOLD, check_has_steps, check_svg
from finefold.steps.reading import Data, without_unreadable
from finefold.steps.split import check_train_labels
from finefold.steps.train import folds_of, given_split, head_of_one, prefix_cache
from finefold.steps.training import Training, phase_loop
from finefold.steps.tuning import planned, prefix_caches, with_prefixes

LOW, HIGH, NUM_STEPS = 1e-6, 1.0, 100


@dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Args:
        phase: counted from 1.
        trainable: what the recipe says trains in it.
        lr: the recipe's rate for it.
        suggestion: a rate for it; None where the loss never fell clearly.
        rates: of the head, and so of `lr`, step by step.
        losses: of the steps' batches, as they were.
        smoothed: the same, smoothed.
        stopped: why it ended before the last rate; empty where it did not.
        file: the picture; None where none was asked for.
    """

    phase: int
    trainable: str
    lr: float
    suggestion: float | None
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    stopped: str
    file: Path | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return {**vars(self), "fold": FOLD, "file": None if self.file is None else str(self.file)}


def lr_find(
    data: Data,
    split: Split | str | Path | None = None,
    *,
    recipe: Recipe,
    phase: int | None = None,
    out: str | Path | None = None,
    progress: Progress = SILENT,
) -> RangeTest:
    """Takes about a hundred steps of one phase on fold 0 while the rates grow from 1e-6 to 1, and reads the loss.

    The model starts as the first phase leaves it if that fits the head, else with a blank head; other phases before
    the tested one are passed over. Stages keep their rates relative to the head's. Nothing is kept but the cache.

    Args:
        data: what `read_data` gave.
        split: as of `train`.
        recipe: as of `train`.
        phase: its number in the recipe, from 1; the first that takes steps by default.
        out: an .svg to draw the loss into; written over.
        progress: told of the stages.

    Raises:
        UsageError: `out` is no .svg.
        RecipeError: the recipe has no such phase, or it takes no steps.
        TrainingError: the loss is not a finite number from the start.
        SplitError, RunError, WeightsError, EngineError, CacheError, DataError: see each.

    References:
        Smith, Cyclical learning rates for training neural networks, WACV 2017 (arXiv 2015), section 3.3; see
        nn/range_test.py for departures.
    """
    file = None if out is None else check_svg(out, "--out")
    number = _phase_number(recipe, phase)
    with torch.random.fork_rng():
        loop = _loop(data, split, recipe, number, progress)
        found = _run(loop, recipe, number, progress)
    if file is None:
        return found
    title = f"Range test of phase {found.phase} ({found.trainable}), fold {FOLD}"
    write_text(file, draw_range_test(found.rates, found.smoothed, suggestion=found.suggestion, title=title))
    return RangeTest(**{**vars(found), "file": file})


def _phase_number(recipe: Recipe, phase: int | None) -> int:
    """The phase to test, counted from 0."""
    check_has_steps(recipe)
    stepping = [number for number, one in enumerate(recipe.phase, start=1) if not one.is_probe]
    if phase is None:
        return stepping[0] - 1
    if phase not in stepping:
        why = f"has {len(recipe.phase)} phases" if phase > len(recipe.phase) or phase < 1 else "fits the head there"
        known = " or ".join(f"--phase {number}" for number in stepping)
        raise RecipeError(f"--phase {phase}: the recipe {why}, which has no steps to test", f"write {known}")
    return phase - 1


def _loop(data: Data, split: Split | str | Path | None, recipe: Recipe, number: int, progress: Progress) -> PhaseLoop:
    """The phase's loop as training would run it, its schedule replaced by the ramp."""
    set_threads()
    given = given_split(data, split, recipe, progress)
    cache = prefix_cache(recipe, progress)
    with progress.stage("features", len(data.samples), "images") as advance:
        features = cache.compute(data.samples.ids, data.samples.paths, advance=advance)
    samples = without_unreadable(data.samples, list(features.findings))
    folds = folds_of(given, samples, features.findings, recipe)
    check_train_labels(folds, samples)
    heads = fit_heads(features.rows_ND[features.is_readable_N], samples, folds, recipe, progress).heads[FOLD]
    if not recipe.phase[0].is_probe:
        heads = blank_heads(heads)
    if number > recipe.phase[0].is_probe:
        progress.say(f"phases before phase {number + 1} are passed over, but for the fit of the head")
    training = _training(recipe, samples, folds, cache, heads, number, progress)
    network = training.backbone.build_network().to(memory_format=torch.channels_last)
    classifier = Classifier(network, head_of_one(heads, samples, recipe)).to(training.device)
    loop = phase_loop(training, classifier, FOLD, number)
    lr = recipe.phase[number].lr
    loop.schedule, loop.num_steps, loop.average = Ramp(NUM_STEPS, LOW / lr, HIGH / lr), NUM_STEPS, None
    return loop


def _training(
    recipe: Recipe,
    samples: SampleTable,
    folds: Split,
    cache: PrefixCache,
    heads: FoldHeads,
    number: int,
    progress: Progress,
) -> Training:
    """What the phase goes by, the rows it starts from computed."""
    nowhere = RunFolder(Path())  # nothing is read from there or written to it
    training = planned(nowhere, recipe, samples, folds, cache, head_of_one(heads, samples, recipe), progress)
    if recipe.model.heads == "separate":
        training = replace(training, samples=samples.for_attribute(samples.space.names[0]))
        progress.say(f"each attribute has a model of its own: that of `{samples.space.names[0]}` is tested")
    tested = replace(training.plan, phases=(training.plan.phases[number],))
    caches = prefix_caches(replace(training, plan=tested))
    return with_prefixes(training, caches, progress)


def _run(loop: PhaseLoop, recipe: Recipe, number: int, progress: Progress) -> RangeTest:
    """The steps, until the last rate or an explosion."""
    lr = recipe.phase[number].lr
    rates: list[float] = []
    losses: list[float] = []
    stopped = ""
    with progress.stage("range test", NUM_STEPS, "steps") as advance:
        try:
            for step in loop.run():
                rates.append(step.factor * lr)
                losses.append(step.loss)
                advance(1)
                if has_exploded(losses):
                    stopped = f"the loss exploded at {rates[-1]:.2g}"
                    break
        except NotFinite as trouble:
            stopped = f"{trouble.what} was not a finite number at {loop.schedule.factor(loop.step) * lr:.2g}"
    if not losses:
        raise TrainingError(
            f"phase {number + 1}: {stopped}, the lowest rate there is",
            'look at the images and labels with `finefold show`, or write train.precision = "fp32"',
        )
    smooth_N = smoothed(losses)
    suggestion = suggest_rate(rates, losses, NUM_STEPS) if len(losses) > 1 else None
    return RangeTest(
        number + 1,
        loop.plan.says,
        lr,
        suggestion,
        tuple(rates),
        tuple(losses),
        tuple(np.asarray(smooth_N).tolist()),
        stopped,
    )
