"""Training beyond the probe: the plan, the prefix of every phase computed once, and all folds side by side."""

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from finefold.data.cachedir import cache_root
from finefold.data.predictions import Predictions, write_parquet
from finefold.data.samples import SampleTable
from finefold.data.splits import Split
from finefold.nn.backbones import IMAGES, POOLED, Backbone
from finefold.nn.classifier import JointLogits
from finefold.nn.cutting import Chain, CutPoint, find_cuts
from finefold.nn.devices import training_device, training_precision
from finefold.nn.features import DTYPE, PrefixCache
from finefold.nn.freezing import FreezePlan, make_plan, plan_rows
from finefold.nn.heads import JOINT, FoldHeads
from finefold.recipe.schema import Recipe
from finefold.runs.folder import RunFolder
from finefold.scale.processes import Message, num_workers, run_jobs
from finefold.steps.folds import do_job
from finefold.steps.own import NOTHING, Own
from finefold.steps.progress import Progress
from finefold.steps.training import Training, phase_lengths, views_needed

GIGABYTE = 1e9
SHARE_OF_DISK = 0.25


@dataclass(frozen=True)
class Budget:
    """What cached prefixes may take on disk.

    Args:
        num_bytes: of rows.
        num_rows: images times views.
    """

    num_bytes: float
    num_rows: int

    @classmethod
    def of(cls, recipe: Recipe, num_samples: int) -> "Budget":
        """The recipe's, or a quarter of what is free."""
        root = cache_root()
        root.mkdir(parents=True, exist_ok=True)
        asked = recipe.cache.budget_gb
        num_bytes = asked * GIGABYTE if asked else SHARE_OF_DISK * shutil.disk_usage(root).free
        return cls(num_bytes, num_samples * len(views_needed(recipe)))

    def needed(self, shape: Sequence[int]) -> float:
        """Bytes of all rows of a shape."""
        return float(np.prod(shape, dtype=np.int64)) * DTYPE.itemsize * self.num_rows


def plan_phases(
    recipe: Recipe, backbone: Backbone, head: JointLogits, num_samples: int, progress: Progress, own: Own = NOTHING
) -> tuple[FreezePlan, dict[str, tuple[int, ...]]]:
    """The freeze plan, and the shape of a row at each of its cuts.

    Args:
        recipe: its phases.
        backbone: the network.
        head: of one fold; only its parameters' names count.
        num_samples: whose prefixes would be cached.
        progress: told where a phase has to do without a cached prefix, and why.
        own: what the user brought from Python.

    Raises:
        RecipeError: a phase trains nothing, or names what the model lacks.
    """
    network = backbone.build_network()
    chain = find_cuts(network, example=backbone.example())
    budget = Budget.of(recipe, num_samples)
    is_fresh = recipe.augment.preset != "none" or bool(recipe.augment.classes) or own.augment is not None

    def fits(cut: CutPoint) -> bool:
        return not is_fresh and budget.needed(cut.shape) <= budget.num_bytes

    plan = make_plan(recipe, network, head, chain, fits=fits)
    if is_fresh:
        progress.say("augmentation is new in every epoch: no prefix is cached, the frozen part is computed every time")
    else:
        _tell_of_cuts(plan, make_plan(recipe, network, head, chain, fits=lambda _: True), chain, budget, progress)
    shapes = {POOLED: (backbone.num_features,), IMAGES: _image_shape(backbone)}
    return plan, shapes | {cut.name: cut.shape for cut in chain.cuts}


def planned(
    folder: RunFolder,
    recipe: Recipe,
    samples: SampleTable,
    split: Split,
    cache: PrefixCache,
    head: JointLogits,
    progress: Progress,
    own: Own = NOTHING,
) -> Training:
    """What every fold of a run will go by, but for the prefixes, which are not computed yet.

    Args:
        folder, recipe, samples, split: the run's.
        cache: of the whole backbone, on the engine that was chosen.
        head: of one fold; only its parameters' names count.
        progress: told where a phase has to do without a cached prefix, and why.
        own: what the user brought from Python.

    Raises:
        RecipeError: a phase trains nothing, or names what the model lacks.
    """
    device = training_device()
    plan, shapes = plan_phases(recipe, cache.backbone, head, len(samples), progress, own)
    precision = training_precision(recipe.train.precision, device)
    return Training(
        folder, recipe, samples, split, plan, cache.backbone, (), shapes, cache.choice, precision, device, own
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
            if row.phase == number and row.trained:
                norms = f"{row.running} batch norms averaging" if row.running else "batch norms frozen"
                share = f"{row.trained} of {row.tensors} tensors"
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


def tune(
    training: Training, heads: Sequence[FoldHeads], progress: Progress, *, folds: Sequence[int] | None = None
) -> Predictions:
    """Trains every fold as the plan says, or some; the out-of-fold predictions.

    With parts of the user's own, the folds train in this process, one after the other.

    Args:
        training: without hashes; its folder has recipe, samples, split and backbone already.
        heads: [F] what each fold starts from.
        progress: told of the stages, and of every fold's epochs.
        folds: numbers of those that are trained; all where None.

    Raises:
        TrainingError: a loss is not finite, or a worker died.
    """
    training = with_prefixes(training, progress)
    folder, samples, split, own = training.folder, training.samples, training.split, training.own
    wanted = tuple(range(split.num_folds)) if folds is None else tuple(folds)
    training.write()
    attributes = models_of(training.recipe, samples)
    for fold, head in enumerate(heads):
        for name in attributes:
            home, start = (folder, head) if name is None else (folder.part(name), FoldHeads({JOINT: head.heads[name]}))
            start.write(home.start_weights(fold), {"kind": "heads"})
    of_one = sum(num_steps for fold in wanted for _, num_steps, _ in phase_lengths(training, fold))
    steps = of_one * len(attributes)
    jobs: list[Message] = [
        {"run": str(folder.path.resolve()), "fold": fold, "attribute": name} for name in attributes for fold in wanted
    ]
    what = f"{len(wanted)} folds" if len(wanted) > 1 else "one fold"
    if attributes != (None,):
        what += f" of {len(attributes)} attributes' own models"
    side_by_side = num_workers(len(jobs)) if own.is_empty else 1
    progress.say(f"training {what}, {side_by_side} at a time, {training.precision} on {training.device.type}")
    with progress.stage("training", steps, "steps") as advance:
        told = _Told(progress, advance, training.plan)
        if own.is_empty:
            run_jobs("finefold.steps.folds", jobs, told)
        else:
            for job in jobs:
                do_job(job, lambda message: told(dict(message)), threading.Event(), own)
    if attributes == (None,):
        return gather(folder, samples, wanted)
    return _gather_parts(folder, samples, split, wanted)


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
    """What workers say, as progress."""

    def __init__(self, progress: Progress, advance: Callable[[int], None], plan: FreezePlan) -> None:
        self._progress, self._advance, self._plan = progress, advance, plan
        self._done: dict[tuple[str | None, int, int], int] = {}

    def __call__(self, message: Message) -> None:
        kind = message["kind"]
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


def with_prefixes(training: Training, progress: Progress) -> Training:
    """Computes every phase's prefix once; the training with the hash of each sample's image."""
    recipe, samples = training.recipe, training.samples
    views = views_needed(recipe)
    hashes: tuple[bytes, ...] = ()
    cuts = dict.fromkeys(phase.cut for phase in training.plan.phases if not phase.is_probe and phase.cut != IMAGES)
    for cut in cuts:
        cache = training.cache(cut)
        size = cache.row_bytes * len(samples) * len(views) / GIGABYTE
        told = f"prefix up to {cut}, {len(views)} views, {size:.1f} GB"
        progress.say(f"{told}: computed once for all folds")
        with progress.stage("prefix", len(samples), "images") as advance:
            filled = cache.fill(samples.ids, samples.paths, boxes=samples.boxes, views=views, advance=advance)
            hashes = filled.hashes
    return replace(training, hashes=hashes)


def gather(folder: RunFolder, samples: SampleTable, folds: Sequence[int]) -> Predictions:
    """Some folds' predictions of what they held out, in the order of the samples."""
    table = pl.concat([pl.read_parquet(folder.fold_valid(fold)) for fold in folds])
    names, held_out = samples.space.class_names, set(table["id"])
    predictions = Predictions(tuple(table["id"].to_list()), table.select(names).to_numpy(), names)
    return predictions.rows_for([name for name in samples.ids if name in held_out])
