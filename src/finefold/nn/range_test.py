"""A learning rate range test: rates that grow exponentially, and what the loss says to them.

References:
    Smith, Cyclical learning rates for training neural networks, WACV 2017 (arXiv 2015), section 3.3. Rates grow
    exponentially instead of linearly, and the loss of the training batches is read instead of the accuracy.

Shapes: N steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SMOOTHING = 0.04  # of the steps: the width of the bell that losses are averaged under
EXPLODED = 4.0  # times the lowest smoothed loss
CALM = 0.25  # of the steps, at the start, change little: how losses scatter there is the batches' noise
CLEAR = 4.0  # times what smoothing leaves of that noise, a fall that is more than chance
SMALL = 0.02  # of the loss at the start, a fall that is not worth a rate
BEGUN = 0.1  # of the fall has happened where the descent begins


@dataclass(frozen=True)
class Ramp:
    """Factors that grow from `low` to `high` by the same ratio each step; takes a schedule's place.

    Args:
        num_steps: above 1.
        low, high: above 0.
    """

    num_steps: int
    low: float
    high: float

    def factor(self, step: int, scores: Sequence[float] = ()) -> float:  # noqa: ARG002, as schedules are asked
        """The factor of an optimiser step, 0-based."""
        return float(self.low * (self.high / self.low) ** (step / (self.num_steps - 1)))


def smoothed(losses: ArrayLike) -> NDArray[np.float64]:
    """[N] losses, each the mean of its neighbours under a bell that is cut off at the ends."""
    losses_N = np.asarray(losses, dtype=np.float64)
    return np.asarray(_bells(len(losses_N)) @ losses_N)


def _bells(count: int) -> NDArray[np.float64]:
    """[N, N] weights of the neighbours of each step; rows sum to 1."""
    places_N = np.arange(count)
    weights_NN = np.exp(-(((places_N[:, None] - places_N) / max(1.0, SMOOTHING * count)) ** 2) / 2)
    return np.asarray(weights_NN / weights_NN.sum(axis=1, keepdims=True))


def has_exploded(losses: Sequence[float]) -> bool:
    """Whether the last three losses are all several times the lowest that the smoothed ones have been."""
    return len(losses) > 3 and min(losses[-3:]) > EXPLODED * float(smoothed(losses[:-3]).min())


def suggest_rate(rates: Sequence[float], losses: ArrayLike, num_planned: int) -> float | None:
    """The rate at which the smoothed loss falls most steeply; None where it never falls clearly.

    Steepness is per factor of the rate. A descent of fewer than three steps has no shape: then it is a tenth of the
    rate with the lowest loss.

    Args:
        rates: [N] ascending.
        losses: [N] as they were.
        num_planned: steps there would have been without an explosion, N or more.
    """
    raw_N, smooth_N = np.asarray(losses, dtype=np.float64), smoothed(losses)
    calm = slice(max(2, round(CALM * num_planned)))
    level, lowest = float(np.median(smooth_N[calm])), int(smooth_N.argmin())
    # what smoothing leaves of the batches' noise: their distance from the smooth curve, less what averaging takes off
    middle_N = _bells(len(raw_N))[len(raw_N) // 2]
    noise = float((raw_N - smooth_N)[calm].std() * np.sqrt((middle_N**2).sum()))
    fall = level - float(smooth_N[lowest])
    if fall <= max(CLEAR * noise, SMALL * abs(level)) or lowest < calm.stop:
        return None
    start = int(np.flatnonzero(smooth_N[: lowest + 1] >= level - BEGUN * fall)[-1])
    if lowest - start < 3:
        return rates[lowest] / 10
    slopes_N = np.gradient(smooth_N, np.log(rates))
    return rates[start + int(slopes_N[start : lowest + 1].argmin())]
