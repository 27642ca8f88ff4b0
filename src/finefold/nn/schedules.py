"""Rates as pure functions of the step: a run that goes on needs to know where it was, nothing else.

References:
    Goyal et al., Accurate, large minibatch SGD, 2017, section 2.2 (linear warm-up); Loshchilov, Hutter, SGDR,
    ICLR 2017, eq. 5 without restarts (cosine); Smith, A disciplined approach to neural network hyper-parameters,
    part 1, 2018, section 4.1 (one cycle; the way down is a cosine and is not cut off for a last phase of its own).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finefold.recipe.durations import Duration
from finefold.recipe.training import ScheduleRecipe

CYCLE_RISE = 0.3  # of a one-cycle phase goes up


@dataclass(frozen=True)
class Schedule:
    """What every group's base rate is multiplied with, step by step of one phase.

    Args:
        name: as in a recipe.
        num_steps: of the phase.
        warmup: steps that rise, fewer than `num_steps`.
        every: steps from one drop to the next, above 0.
        final: factor of the last step, 0..1.
        gamma: factor of a drop, above 0 and at most 1.
        patience: epochs, above 0.
    """

    name: str
    num_steps: int
    warmup: int
    every: int
    final: float
    gamma: float
    patience: int

    def factor(self, step: int, scores: Sequence[float] = ()) -> float:
        """The factor, 0..1, of an optimiser step.

        Rises by the same amount each step to just below 1, then is what `name` says, counted from there. A phase of
        one step takes it at 1, whatever `final` says. Beyond the phase the last step's factor stays.

        Args:
            step: 0-based.
            scores: the phase's past epochs, higher is better; `plateau` alone reads them, after the warm-up.
        """
        step = min(step, self.num_steps - 1)
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        return min(1.0, max(0.0, _SHAPES[self.name](self, step - self.warmup, scores)))


def make_schedule(recipe: ScheduleRecipe, *, num_steps: int, steps_per_epoch: int) -> Schedule:
    """The schedule of a phase.

    `one_cycle` rises for 30 % of the phase instead of `recipe.warmup`. A warm-up is at most all steps but the last.

    Args:
        num_steps: of the phase, which percentages are of.
        steps_per_epoch: above 0.
    """
    num_steps = max(1, num_steps)
    warmup, every = (
        Duration.parse(text).to_steps(steps_per_epoch=steps_per_epoch, whole=num_steps)
        for text in (recipe.warmup, recipe.every)
    )
    if recipe.name == "one_cycle":
        warmup = round(CYCLE_RISE * num_steps)
    warmup = min(warmup, num_steps - 1)
    return Schedule(recipe.name, num_steps, warmup, max(1, every), recipe.final, recipe.gamma, recipe.patience)


def _progress(schedule: Schedule, since: int) -> float:
    """0 at the first step after the warm-up, 1 at the last of the phase; 0 in a phase of one step."""
    if schedule.num_steps == 1:
        return 0.0
    span = schedule.num_steps - 1 - schedule.warmup
    return since / span if span else 1.0


def _cosine(schedule: Schedule, since: int, _scores: Sequence[float]) -> float:
    height = (1 + math.cos(math.pi * _progress(schedule, since))) / 2
    return schedule.final + (1 - schedule.final) * height


def _linear(schedule: Schedule, since: int, _scores: Sequence[float]) -> float:
    return schedule.final + (1 - schedule.final) * (1 - _progress(schedule, since))


def _staircase(schedule: Schedule, since: int, _scores: Sequence[float]) -> float:
    return math.pow(schedule.gamma, since // schedule.every)


def _exponential(schedule: Schedule, since: int, _scores: Sequence[float]) -> float:
    return math.pow(schedule.gamma, since / schedule.every)


def _plateau(schedule: Schedule, _since: int, scores: Sequence[float]) -> float:
    """A drop each time the best score is `patience` epochs old; the next one needs as many again."""
    best, age, drops = -math.inf, 0, 0
    for score in scores:
        if score > best:
            best, age = score, 0
            continue
        age += 1
        if age == schedule.patience:
            age, drops = 0, drops + 1
    return math.pow(schedule.gamma, drops)


def _constant(_schedule: Schedule, _since: int, _scores: Sequence[float]) -> float:
    return 1.0


_SHAPES: dict[str, Callable[[Schedule, int, Sequence[float]], float]] = {
    "cosine": _cosine,
    "one_cycle": _cosine,
    "linear": _linear,
    "step": _staircase,
    "exponential": _exponential,
    "plateau": _plateau,
    "constant": _constant,
}
