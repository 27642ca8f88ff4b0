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
CALM = 0.25  # of the steps, at the start, do next to nothing: what losses do there is noise
CLEAR = 3.0  # times the noise, a fall that is more than that
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
    places_N = np.arange(len(losses_N))
    width = max(1.0, SMOOTHING * len(losses_N))
    weights_NN = np.exp(-(((places_N[:, None] - places_N) / width) ** 2) / 2)
    return np.asarray(weights_NN @ losses_N / weights_NN.sum(axis=1))


def has_exploded(losses: Sequence[float]) -> bool:
    """Whether the last three losses are all several times the lowest that the smoothed ones have been."""
    return len(losses) > 3 and min(losses[-3:]) > EXPLODED * float(smoothed(losses[:-3]).min())


def suggest_rate(rates: Sequence[float], losses_N: NDArray[np.float64], num_planned: int) -> float | None:
    """The rate at which the loss falls most steeply; None where it never falls clearly.

    Steepness is per factor of the rate. A descent of fewer than three steps has no shape: then it is a tenth of the
    rate with the lowest loss.

    Args:
        rates: [N] ascending.
        losses_N: smoothed.
        num_planned: steps there would have been without an explosion, N or more.
    """
    calm_N = losses_N[: max(2, round(CALM * num_planned))]
    level, noise = float(np.median(calm_N)), float(calm_N.std())
    lowest = int(losses_N.argmin())
    fall = level - float(losses_N[lowest])
    if fall <= CLEAR * noise:
        return None
    start = int(np.flatnonzero(losses_N[: lowest + 1] >= level - BEGUN * fall)[-1])
    if lowest - start < 3:
        return rates[lowest] / 10
    slopes_N = np.gradient(losses_N, np.log(rates))
    return rates[start + int(slopes_N[start : lowest + 1].argmin())]
