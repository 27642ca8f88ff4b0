"""Weights of several models that started alike, averaged into one model.

Shapes: M models.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from finefold.nn.classifier import Tail

STATISTICS = ("running_mean", "running_var")


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor, summed in float64; counters are the first model's.

    Args:
        states: [M] of the same names and shapes.

    References:
        Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without
        increasing inference time, ICML 2022, section 3.
    """
    mean = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            mean[name] = first.clone()
            continue
        total = sum((state[name].double() for state in states[1:]), first.double())
        mean[name] = (total / len(states)).to(first.dtype)
    return mean


def moved_norms(states: Sequence[Mapping[str, Tensor]]) -> tuple[str, ...]:
    """Names of the batch norms whose statistics differ between models: their mean is that of no model's inputs."""
    found: dict[str, None] = {}
    for name in states[0]:
        module, _, kind = name.rpartition(".")
        if kind in STATISTICS and any(not torch.equal(states[0][name], state[name]) for state in states[1:]):
            found[module] = None
    return tuple(found)


@torch.no_grad()
def recompute_norms(tail: Tail, norms: Sequence[str], batches: Iterator[Tensor], device: torch.device) -> None:
    """Statistics of some batch norms anew, as means over batches; all else stays as in evaluation.

    Args:
        tail: of the averaged model; changed in place.
        norms: names in the classifier.
        batches: of rows in random order, else a batch varies less than the whole.
        device: where the tail is.
    """
    tail.eval()
    chosen = [tail.classifier.get_submodule(name) for name in norms]
    for norm in chosen:
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches
        norm.train()
    for rows in batches:
        tail(rows.to(device))
    tail.eval()
