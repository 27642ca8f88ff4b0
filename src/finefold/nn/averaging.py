"""Averages of a model's weights along its training: often better than the last, and steadier to evaluate.

Shapes are the model's own; averages are kept in float32, where the model is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from finefold.recipe.training import TrainRecipe

COUNT = "count"
VALUE = "value."


class Average(ABC):
    """An average of states, each a dict from name to tensor, all with the same names and shapes.

    Floating tensors are averaged in float32; others, such as `num_batches_tracked`, are the latest. Whoever calls
    decides from when on states are taken in.
    """

    def __init__(self) -> None:
        self._count = 0
        self._values: dict[str, Tensor] = {}

    @abstractmethod
    def _share(self, count: int) -> float:
        """The share of a new state, when `count` are averaged already, 1 or more."""

    def update(self, state: Mapping[str, Tensor]) -> None:
        """Takes a state in; its tensors are copied."""
        if self._count == 0:
            self._values = {name: _copied(value) for name, value in state.items()}
        else:
            self._mix(state, self._share(self._count))
        self._count += 1

    def _mix(self, state: Mapping[str, Tensor], share: float) -> None:
        assert state.keys() == self._values.keys()
        means, news = [], []
        for name, value in state.items():
            if not value.is_floating_point():
                self._values[name] = _copied(value)
                continue
            self._values[name] = self._values[name].to(value.device)  # loaded ones come from a file
            means.append(self._values[name])
            news.append(value.detach().float())
        if means:
            torch._foreach_lerp_(means, news, share)  # as torch.optim.swa_utils: one kernel instead of hundreds

    def values(self) -> dict[str, Tensor]:
        """The average, copied; there is one after the first update."""
        assert self._count
        return {name: value.clone() for name, value in self._values.items()}

    def state(self) -> dict[str, Tensor]:
        """What `load` needs to go on, to the bit, as if never interrupted; copied."""
        values = {f"{VALUE}{name}": value.clone() for name, value in self._values.items()}
        return {COUNT: torch.tensor(self._count), **values}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state` gave."""
        self._count = int(state[COUNT])
        self._values = {name.removeprefix(VALUE): value.clone() for name, value in state.items() if name != COUNT}


class ExponentialAverage(Average):
    """Every state weighs `decay` times what the next one does, and at first less.

    After n states the decay is min(decay, (1 + n) / (10 + n)), so that the average of a short training does not
    remember how it began.

    Args:
        decay: above 0, below 1.

    References:
        Polyak, Juditsky, Acceleration of stochastic approximation by averaging, 1992, for the idea; the growing
        decay is that of TensorFlow's ExponentialMovingAverage with `num_updates`.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def _share(self, count: int) -> float:
        return 1 - min(self.decay, (1 + count) / (10 + count))


class StochasticAverage(Average):
    """The plain mean of the states, taken in from late in the training on.

    References:
        Izmailov et al., Averaging weights leads to wider optima and better generalization, UAI 2018, algorithm 1.
        Running statistics of batch norms are averaged as weights are, not computed anew from the training images;
        for norms that are frozen it is the same.
    """

    def _share(self, count: int) -> float:
        return 1 / (1 + count)


def make_average(recipe: TrainRecipe) -> Average | None:
    """The average that `[train]` asks for, or None; that SWA begins at `swa_start` is the loop's to see to."""
    if recipe.average == "ema":
        return ExponentialAverage(recipe.ema_decay)
    if recipe.average == "swa":
        return StochasticAverage()
    return None


def _copied(value: Tensor) -> Tensor:
    return value.detach().to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
