"""Training beyond the probe: the plan, the prefix of every phase computed once, and all folds side by side."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from finefold.data.predictions import Predictions, write_parquet
from finefold.data.samples import SampleTable
from finefold.data.splits import Split
from finefold.nn.backbones import IMAGES, POOLED, Backbone
from finefold.nn.classifier import JointLogits
from finefold.nn.cutting import Chain, CutPoint, find_cuts
from finefold.nn.devices import has_compiler, training_device, training_precision
from finefold.nn.features import PrefixCache
from finefold.nn.freezing import FreezePlan, make_plan, plan_rows
from finefold.nn.heads import JOINT, FoldHeads
from finefold.recipe.schema import Recipe
from finefold.runs.folder import RunFolder
from finefold.scale.processes import Message, Workers
from finefold.steps.budget import GIGABYTE, Budget
from finefold.steps.expecting import MEASURED, Expected, Pace, expect, is_short, mean_pace
from finefold.steps.extra import ExtraImages
from finefold.steps.folds import do_job
from finefold.steps.own import NOTHING, Own
from finefold.steps.progress import Progress
from finefold.steps.tracking import OnEvent, unheard
from finefold.steps.training import Training, copies_each, partners_named, phase_lengths, views_needed


def plan_phases(
    recipe: Recipe,
    backbone: Backbone,
    head: JointLogits,
    samples: SampleTable,
    progress: Progress,
    own: Own = NOTHING,
    *,
    num_extra: int = 0,
) -> tuple[FreezePlan, dict[str, tuple[int, ...]], Backbone]:
    """The freeze plan, the shape of a row at each of its cuts, and the backbone, knowing what finding them opened.

    Args:
        recipe: its phases.
        backbone: the network.
        head: of one fold; only its parameters' names count.
        samples: whose prefixes would be cached.
        progress: told where a phase has to do without a cached prefix, and why.
        own: what the user brought from Python.
        num_extra: images whose prefixes would be cached besides.

    Raises:
        RecipeError: a phase trains nothing, or names what the model lacks; augment.copies names no class.
    """
    network = backbone.build_network()
    chain = find_cuts(network, example=backbone.example())
    copies_N = copies_each(recipe, samples, own)
    budget = Budget.of(recipe, len(samples) + num_extra, int(copies_N.sum()))
    is_fresh = recipe.augment.is_fresh or own.augment is not None

    def fits(cut: CutPoint) -> bool:
        return not is_fresh and budget.needed(cut.shape) <= budget.num_bytes

    plan = make_plan(recipe, network, head, chain, fits=fits)
    if is_fresh:
        progress.say("augmentation is new in every epoch: no prefix is cached, the frozen part is computed every time")
    else:
        _tell_of_cuts(plan, make_plan(recipe, network, head, chain, fits=lambda _: True), chain, budget, progress)
    shapes = {POOLED: (backbone.num_features,), IMAGES: _image_shape(backbone)}
    return plan, shapes | {cut.name: cut.shape for cut in chain.cuts}, replace(backbone, opened=chain.opened)


def planned(
    folder: RunFolder,
    recipe: Recipe,
    samples: SampleTable,
    split: Split,
    cache: PrefixCache,
    head: JointLogits,
    progress: Progress,
    own: Own = NOTHING,
    extra: ExtraImages | None = None,
) -> Training:
    """What every fold of a run will go by, but for the prefixes, which are not computed yet.

    Args:
        folder, recipe, samples, split: the run's.
        cache: of the whole backbone, on the engine that was chosen.
        head: of one fold; only its parameters' names count.
        progress: told where a phase has to do without a cached prefix, and why.
        own: what the user brought from Python.
        extra: images that train besides, with the labels that each fold has for them.

    Raises:
        RecipeError: a phase trains nothing, or names what the model lacks.
    """
    device = training_device()
    num_extra = 0 if extra is None else len(extra.images)
    plan, shapes, backbone = plan_phases(recipe, cache.backbone, head, samples, progress, own, num_extra=num_extra)
    precision = training_precision(recipe.train.precision, device)
    is_compiled = recipe.train.compile and has_compiler()
    if recipe.train.compile and not is_compiled:
        progress.say("train.compile: there is no C++ compiler here (g++, clang++ or $CXX), so steps are not compiled")
    copies_N = copies_each(recipe, samples, own)
    return Training(
        folder,
        recipe,
        samples,
        split,
        plan,
        backbone,
        (),
        shapes,
        cache.choice,
        precision,
        device,
        copies_N,
        partners_named(recipe, samples),
        own,
        is_compiled,
        extra=extra,
    )


def plan_lines(plan: FreezePlan) -> list[str]:
    """The plan as text: for each phase and stage what trains, at which rate and weight decay."""
    lines = []
    for number, phase in enumerate(plan.phases, start=1):
        if phase.is_probe:
            lines.append(f"phase {number}: the head, fitted on the frozen network's features")
            continue
        until = {POOLED: "the whole network", IMAGES: "nothing"}.get(phase.cut, f"up to {phase.cut}")
        lines.append(f"phase {number}: {phase.says} for {phase.until}; computed once: {until}")
        for row in plan_rows(plan):
            if row.phase == number and row.tensors:
                norms = f"{row.running} batch norms averaging" if row.running else "batch norms frozen"
                share = f"{row.tensors} of {row.all_tensors} tensors"
                lines.append(
                    f"  {row.stage:<16} {share:<22} lr {row.lr:<8.2g} weight decay {row.weight_decay:<6g} {norms}"
                )
    return lines


def _image_shape(backbone: Backbone) -> tuple[int, ...]:
    return (backbone.preprocessing.height_px, backbone.preprocessing.width_px, 3)


def _tell_of_cuts(plan: FreezePlan, wished: FreezePlan, chain: Chain, budget: Budget, progress: Progress) -> None:
    if chain.reason is not None and any(phase.cut == IMAGES for phase in plan.phases):
        progress.say(f"no prefix is cached: {chain.reason}")
    for number, (phase, best) in enumerate(zip(plan.phases, wished.phases, strict=True), start=1):
        if phase.cut != best.cut:
            needed = budget.needed(chain.point(best.cut).shape) / GIGABYTE
            instead = "no prefix is cached" if phase.cut == IMAGES else f"the prefix ends at {phase.cut}"
            progress.say(
                f"phase {number}: {instead}, for up to {best.cut} it would take {needed:.1f} GB of "
                f"{budget.num_bytes / GIGABYTE:.1f} GB (cache.budget_gb, or fewer augment.views)"
            )


@dataclass(frozen=True)
class Tuned:
    """What training gave.

    Args:
        predictions: of every sample that a trained fold held out.
        expected: seconds that were foretold; None where it was to be short, or could not be told.
        took: seconds since this start, of prefixes and training.
    """

    predictions: Predictions
    expected: Expected | None
    took: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Seconds, as the manifest keeps them."""
        told = {} if self.expected is None else {"expected": self.expected.to_dict()}
        return {**told, "took": {name: round(seconds, 1) for name, seconds in self.took.items()}}


def tune(
    training: Training,
    heads: Sequence[FoldHeads],
    progress: Progress,
    *,
    folds: Sequence[int] | None = None,
    tell: OnEvent = unheard,
) -> Tuned:
    """Trains every fold as the plan says, or some.

    With parts of the user's own, the folds train in this process, one after the other.

    Args:
        training: with hashes; its folder has recipe, samples, split and backbone already.
        heads: [F] what each fold starts from.
        progress: told of the stages, and of every fold's epochs.
        folds: numbers of those that are trained; all where None.
        tell: told of every step and epoch, as they come.

    Raises:
        TrainingError: a loss is not finite, or a worker died.
    """
    folder, samples, split, own = training.folder, training.samples, training.split, training.own
    attributes = models_of(training.recipe, samples)
    for fold, head in enumerate(heads):
        for name in attributes:
            home, start = (folder, head) if name is None else (folder.part(name), FoldHeads({JOINT: head.heads[name]}))
            start.write(home.start_weights(fold), {"kind": "heads"})
    wanted = tuple(range(split.num_folds)) if folds is None else tuple(folds)
    jobs = [(name, fold) for name in attributes for fold in wanted]
    caches = prefix_caches(training)
    with Workers("finefold.steps.folds", len(jobs)) as workers:
        work = _Work(folder, workers, own)
        expected = _foretell(training, jobs, caches, work, progress)
        begin = time.perf_counter()
        training = with_prefixes(training, caches, progress)
        middle = time.perf_counter()
        training.write()
        _train(training, jobs, work, progress, tell)
        took = {"prefix": middle - begin, "training": time.perf_counter() - middle}
    is_one = attributes == (None,)
    found = gather(folder, samples, wanted) if is_one else _gather_parts(folder, samples, split, wanted)
    return Tuned(found, expected, took)


@dataclass(frozen=True)
class _Work:
    """Who does jobs: workers, or this process where there are parts of the user's own."""

    folder: RunFolder
    workers: Workers
    own: Own

    @property
    def at_once(self) -> int:
        """How many jobs side by side."""
        return len(self.workers) if self.own.is_empty else 1

    def run(
        self, jobs: Sequence[tuple[str | None, int]], tell: Callable[[Message], None], own: Own, **more: Any
    ) -> None:
        """Does what the folds' module does with an attribute and a fold."""
        home = str(self.folder.path.resolve())
        messages: list[Message] = [{"run": home, "fold": fold, "attribute": name, **more} for name, fold in jobs]
        if self.own.is_empty:
            self.workers.run(messages, tell)
            return
        for message in messages:
            do_job(message, lambda told: tell(dict(told)), threading.Event(), own)


def _foretell(
    training: Training,
    jobs: Sequence[tuple[str | None, int]],
    caches: Mapping[str, PrefixCache],
    work: _Work,
    progress: Progress,
) -> Expected | None:
    """How long all of it will take, where that is long; said before it starts."""
    own = training.own
    is_unknown = own.augment is not None or training.is_compiled  # it may count its calls; compiling takes a minute
    if is_unknown or is_short(training, jobs):
        return None
    training.write()
    said: list[Message] = []
    with progress.stage("measuring", 0, ""):
        work.run([jobs[0]] * work.at_once, said.append, replace(own, loss=None), measure=True)
        found = [message["paces"] for message in said if message["kind"] == MEASURED and message["paces"]]
        if not found:
            return None
        numbers = [number for number, phase in enumerate(training.plan.phases) if not phase.is_probe]
        paces = {number: mean_pace([Pace(**one[place]) for one in found]) for place, number in enumerate(numbers)}
        expected = expect(training, jobs, paces, caches, views_needed(training.recipe), at_once=work.at_once)
    progress.say(str(expected))
    return expected


def _train(
    training: Training, jobs: Sequence[tuple[str | None, int]], work: _Work, progress: Progress, tell: OnEvent
) -> None:
    """All folds, to their ends."""
    attributes = {name for name, _ in jobs}
    steps = sum(num_steps for _, fold in jobs for _, num_steps, _ in phase_lengths(training, fold))
    num_folds = len({fold for _, fold in jobs})
    what = f"{num_folds} folds" if num_folds > 1 else "one fold"
    if attributes != {None}:
        what += f" of {len(attributes)} attributes' own models"
    progress.say(f"training {what}, {work.at_once} at a time, {training.precision} on {training.device.type}")
    with progress.stage("training", steps, "steps") as advance:
        work.run(jobs, _Told(progress, advance, training.plan, tell), training.own)


def models_of(recipe: Recipe, samples: SampleTable) -> tuple[str | None, ...]:
    """The attributes that have models of their own; None alone where one model answers for all."""
    return samples.space.names if recipe.model.heads == "separate" else (None,)


def _gather_parts(folder: RunFolder, samples: SampleTable, split: Split, folds: Sequence[int]) -> Predictions:
    """The joint predictions of every attribute's own models, and each fold's part of them in its folder."""
    names = samples.space.names
    parts = [gather(folder.part(name), samples.for_attribute(name), folds) for name in names]
    probs = [part.probs_NK for part in parts]
    joint = Predictions(parts[0].ids, samples.space.joint_probs(probs), samples.space.class_names)
    frame, folds_N = joint.to_frame(), split.folds_for(list(joint.ids))
    for fold in folds:
        write_parquet(frame.filter(pl.Series(folds_N == fold)), folder.fold_valid(fold))
    return joint


class _Told:
    """What workers say, as progress and as events."""

    def __init__(self, progress: Progress, advance: Callable[[int], None], plan: FreezePlan, tell: OnEvent) -> None:
        self._progress, self._advance, self._plan, self._tell = progress, advance, plan, tell
        self._done: dict[tuple[str | None, int, int], int] = {}

    def __call__(self, message: Message) -> None:
        kind = message["kind"]
        if kind in ("step", "epoch"):
            self._tell(message)
        if kind == "say":
            self._progress.say(message["line"])
        elif kind == "epoch":
            scores = f"accuracy {message['accuracy']:.3f}, macro F1 {message['macro_f1']:.3f}"
            phase = f", phase {message['phase'] + 1}" if len(self._plan.phases) > 2 else ""
            where = f"fold {message['fold']}{phase}, epoch {message['epoch'] + 1}"
            where = where if message["attribute"] is None else f"{message['attribute']}, {where}"
            self._progress.say(f"{where}: loss {message['loss']:.3f}, {scores}")
        elif kind == "step":
            key = message["attribute"], message["fold"], message["phase"]
            self._advance(message["step"] - self._done.get(key, 0))
            self._done[key] = message["step"]
        elif kind == "skip":
            self._advance(message["steps"])


def prefix_caches(training: Training) -> dict[str, PrefixCache]:
    """The caches of every phase's prefix, by their cuts."""
    cuts = (phase.cut for phase in training.plan.phases if not phase.is_probe and phase.cut != IMAGES)
    return {cut: training.cache(cut) for cut in dict.fromkeys(cuts)}


def with_prefixes(training: Training, caches: Mapping[str, PrefixCache], progress: Progress) -> Training:
    """Computes every phase's prefix once; the training with the hash of each sample's image."""
    images, views, hashes = training.images, views_needed(training.recipe), training.hashes
    num_copies = int(training.copies_N.sum())
    for cut, cache in caches.items():
        size = cache.row_bytes * (len(images) * len(views) + num_copies) / GIGABYTE
        told = f"{len(views)} views" + (
            f" and {num_copies} copies of {(training.copies_N > 0).sum()} images" * bool(training.copies)
        )
        progress.say(f"prefix up to {cut}, {told}, {size:.1f} GB: computed once for all folds")
        with progress.stage("prefix", len(images), "images") as advance:
            filled = cache.fill(
                images.ids, images.paths, boxes=images.boxes, views=views, copies=training.copies, advance=advance
            )
            hashes = filled.hashes
    return replace(training, hashes=hashes)


def gather(folder: RunFolder, samples: SampleTable, folds: Sequence[int]) -> Predictions:
    """Some folds' predictions of what they held out, in the order of the samples."""
    table = pl.concat([pl.read_parquet(folder.fold_valid(fold)) for fold in folds])
    names, held_out = samples.space.class_names, set(table["id"])
    predictions = Predictions(tuple(table["id"].to_list()), table.select(names).to_numpy(), names)
    return predictions.rows_for([name for name in samples.ids if name in held_out])
