"""How long a training will take, foretold from a short measurement: some steps of every phase, some images' prefixes.

Workers measure side by side, as they will train. The model that they step is thrown away, its rates are nearly
nothing, and the rows it sees are made up where no prefix is there yet; images measured stay in the cache.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finefold.data.machine import num_threads
from finefold.nn.backbones import IMAGES
from finefold.nn.copies import Version
from finefold.nn.devices import set_threads
from finefold.nn.engines import BATCH
from finefold.nn.features import PrefixCache
from finefold.nn.loaders import EvaluateRole, Rows
from finefold.nn.loop import NotFinite, PhaseLoop, predict_rows
from finefold.nn.range_test import Ramp
from finefold.nn.weights import read_header
from finefold.recipe.training import View
from finefold.steps.training import Training, held_out_by, phase_lengths, phase_loop, start_classifier

MEASURED = "measured"  # kind of what a worker says
SHORT_ROWS, SHORT_WORK = 5_000, 2e10  # rows that train, and rows times the weights' bytes: less takes about a minute
SECONDS = 1.5  # of steps of a phase
FEW = 4  # rows of the first steps, which tell how many the others may have
_STILL = Ramp(2, 1e-12, 1e-12)


@dataclass(frozen=True)
class Pace:
    """How fast one phase is.

    Args:
        step: seconds of an optimiser step.
        sample: seconds to judge one sample.
    """

    step: float
    sample: float


def mean_pace(paces: Sequence[Pace]) -> Pace:
    """The mean of what several workers measured side by side."""
    return Pace(*(float(np.mean([getattr(pace, name) for pace in paces])) for name in ("step", "sample")))


@dataclass(frozen=True)
class Expected:
    """What is left to do, in seconds.

    Args:
        prefix: of all prefixes that are not cached yet.
        training: of all folds, so many at a time.
        jobs_left, jobs: trainings of a fold (and attribute, where each has its own models) not done, and of all.
        at_once: how many of them side by side.
        is_resumed: whether some of the training was done before.
    """

    prefix: float
    training: float
    jobs_left: int
    jobs: int
    at_once: int
    is_resumed: bool

    def __str__(self) -> str:
        what = "fold" if self.jobs == 1 else "folds" if self.jobs_left == self.jobs else f"of {self.jobs} folds"
        prefix = f"prefix {as_time(self.prefix)}, " if self.prefix else ""
        told = f"training {as_time(self.training)} ({self.jobs_left} {what}, {self.at_once} at a time)"
        return f"{'left' if self.is_resumed else 'expected'}: {prefix}{told}"

    def to_dict(self) -> dict[str, float]:
        """Seconds, as the manifest keeps them."""
        return {"prefix": round(self.prefix, 1), "training": round(self.training, 1)}


def as_time(seconds: float) -> str:
    """Seconds, minutes or hours, to the two digits that a forecast is worth."""
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.1f} min" if minutes < 10 else f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 600 else f"{minutes / 60:.0f} h"


def is_short(training: Training, jobs: Sequence[tuple[str | None, int]]) -> bool:
    """Whether a training is over in less time than a forecast is worth."""
    rows = sum(_rows_left(training.of(attribute), fold) for attribute, fold in jobs)
    return rows < SHORT_ROWS and rows * training.backbone.file.stat().st_size < SHORT_WORK


def _rows_left(training: Training, fold: int) -> float:
    """Rows that a fold's steps will take."""
    recipe = training.recipe.train
    return sum(left for _, left, _ in steps_left(training, fold)) * recipe.batch_size * recipe.accumulate


def steps_left(training: Training, fold: int) -> list[tuple[int, int, int]]:
    """Number (from 0), steps that are left, and steps of an epoch of each phase of a fold that takes steps."""
    file = training.folder.fold_checkpoint(fold)
    if training.folder.fold_valid(fold).is_file():
        return []
    done = read_header(file) if file.is_file() else {"phase": 0, "step": 0}
    lengths = [one for one in phase_lengths(training, fold) if one[0] >= done["phase"]]
    return [
        (number, steps - (done["step"] if number == done["phase"] else 0), per_epoch)
        for number, steps, per_epoch in lengths
    ]


def expect(
    training: Training,
    jobs: Sequence[tuple[str | None, int]],
    paces: Mapping[int, Pace],
    caches: Mapping[str, PrefixCache],
    views: Sequence[View],
    *,
    at_once: int,
) -> Expected:
    """The forecast.

    Args:
        training: with hashes.
        jobs: attribute and fold of every training.
        paces: of the phases, by their numbers.
        caches: of the prefixes to be computed; some images of each go through it now.
        views: of each image.
        at_once: jobs side by side.
    """
    lefts = [(training.of(attribute), fold, steps_left(training.of(attribute), fold)) for attribute, fold in jobs]
    seconds = [_fold_seconds(part, fold, left, paces) for part, fold, left in lefts if left]
    begun = any(part.folder.fold_checkpoint(fold).is_file() for part, fold, _ in lefts)
    prefix = sum(_prefix_seconds(cache, training, views) for cache in caches.values())
    is_resumed = begun or len(seconds) < len(jobs)
    at_once = min(at_once, max(1, len(seconds)))
    return Expected(prefix, makespan(seconds, at_once), len(seconds), len(jobs), at_once, is_resumed)


def _fold_seconds(
    training: Training, fold: int, left: Sequence[tuple[int, int, int]], paces: Mapping[int, Pace]
) -> float:
    num_valid = len(held_out_by(training, fold))
    last = paces[max(paces)].sample * num_valid * len(training.recipe.predict.views)
    steps = sum(count * paces[number].step for number, count, _ in left)
    return last + steps + sum(count / epoch * num_valid * paces[number].sample for number, count, epoch in left)


def makespan(seconds: Sequence[float], at_once: int) -> float:
    """When the last of some jobs ends, each taken in turn by whichever of `at_once` workers is free."""
    ends = [0.0] * at_once
    for one in seconds:
        ends[ends.index(min(ends))] += one
    return max(ends)


def _prefix_seconds(cache: PrefixCache, training: Training, views: Sequence[View]) -> float:
    """Seconds for the rows that are not cached, less those of the images that are put through here."""
    images, copies = training.images, training.copies
    wanted: dict[Version, NDArray[np.bool_]] = {view: np.ones(len(images), bool) for view in views}
    rows_N = np.sum(
        [one_N & ~cache.open(version).contains(training.hashes) for version, one_N in (wanted | dict(copies)).items()],
        axis=0,
    )
    lacking = np.flatnonzero(rows_N)
    count = BATCH * num_threads()
    if len(lacking) < 4 * count:
        return 0.0
    for places in (lacking[:count], lacking[count : 2 * count]):  # the first are slow: the engine starts
        start = time.perf_counter()
        part = images.at(places)
        cache.fill(
            part.ids,
            part.paths,
            boxes=part.boxes,
            views=views,
            copies={copy: one_N[places] for copy, one_N in copies.items()},
        )
        seconds = time.perf_counter() - start
    return float(seconds / rows_N[places].sum() * rows_N[lacking[2 * count :]].sum())


def measure(training: Training, fold: int) -> tuple[Pace, ...]:
    """The pace of each phase that takes steps, in their order, on this process's threads; none where numbers go wrong.

    Nothing but time is taken: the model is made for it, and torch's random numbers go on as if nothing had been.
    """
    set_threads()
    with torch.random.fork_rng():
        classifier = start_classifier(training, fold)
        numbers = [number for number, plan in enumerate(training.plan.phases) if not plan.is_probe]
        try:
            return tuple(_pace(phase_loop(training, classifier, fold, number), training) for number in numbers)
        except NotFinite:  # training itself will tell, with the samples' names
            return ()


def _pace(loop: PhaseLoop, training: Training) -> Pace:
    recipe, role = training.recipe.train, loop.role
    whole = min(recipe.batch_size, len(role.samples))
    rows: Rows = role.rows if loop.plan.cut == IMAGES else _Drawn.of(training.shapes[loop.plan.cut], whole)
    few = min(FEW, whole)
    _seconds_of_steps(loop, rows, few, at_most=1)  # memory is fetched, kernels are made
    each = _seconds_of_steps(loop, rows, few, at_most=1)[0] / few
    batch = int(np.clip(2 * SECONDS / each, few, whole))  # small batches are up to twice as slow by the row
    _seconds_of_steps(loop, rows, batch, at_most=1)
    of_row = float(np.median(_seconds_of_steps(loop, rows, batch))) / batch
    judged = EvaluateRole(rows, role.samples[:batch], batch)
    times = [_seconds_of(lambda: predict_rows(loop.tail, judged.batches(), loop.device)) for _ in range(2)]
    return Pace(of_row * role.rows_per_epoch / loop.steps_per_epoch, min(times) / batch)


def _seconds_of_steps(loop: PhaseLoop, rows: Rows, batch: int, *, at_most: int = 50) -> list[float]:
    """Seconds of some steps of so many rows each, on a loop that shares the model and the optimiser."""
    recipe = loop.role.recipe
    train = recipe.train.model_copy(update={"batch_size": batch})
    role = replace(loop.role, rows=rows, recipe=recipe.model_copy(update={"train": train}))
    stepping = replace(
        loop, role=role, schedule=_STILL, num_steps=10**9, steps_per_epoch=role.batches_per_epoch, accumulate=1
    ).run()
    found: list[float] = []
    while len(found) < min(2, at_most) or (len(found) < at_most and sum(found) < SECONDS):
        found.append(_seconds_of(lambda: next(stepping)))
    return found


def _seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@dataclass(frozen=True)
class _Drawn:
    """Rows of the right shape in place of a prefix that is not computed yet."""

    block: NDArray[np.float16]
    are_images: bool = False

    @classmethod
    def of(cls, shape: Sequence[int], count: int) -> "_Drawn":
        """So many rows of a shape, of numbers from 0 to 1."""
        rng = np.random.default_rng(0)
        return cls(rng.random((count, *shape), np.float32).astype(np.float16))

    def read(self, samples_B: NDArray[np.int64], version: Version) -> NDArray[np.float16]:  # noqa: ARG002, as rows are asked
        """[B, ...] of them."""
        return self.block[: len(samples_B)]
