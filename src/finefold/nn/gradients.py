"""A look at the gradients of a model between `backward()` and the optimiser's step: read, never changed.

Shapes: R output units of a layer.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

DEPTH = 4  # parts of a module's path that a stage's name has at most
MIN_STAGES = 3
MIN_UNITS = 8  # layers with fewer say nothing of dead units
TINY = 1e-30


@dataclass(frozen=True)
class Look:
    """What gradients were at one moment.

    Args:
        strength: stage -> 2-norm of its gradients over that of its weights; stages without any gradient are left out.
        norm: of all gradients together.
        missing: trainable parameters whose gradient is None.
        still: trainable parameters whose gradient is 0 in every entry.
        silent: layer -> [R] which of its units have a gradient of exactly 0, so that the batch taught them nothing;
            layers whose gradient is 0 throughout are in `still` alone.
    """

    strength: Mapping[str, float]
    norm: float
    missing: frozenset[str]
    still: frozenset[str]
    silent: Mapping[str, Tensor]

    @property
    def is_blank(self) -> bool:
        """Whether there is no gradient at all, as before `backward()` or after `zero_grad()`."""
        return not self.strength


def stages_by_name(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Trainable parameters by the modules that they are of, as few as make three stages."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    grouped: dict[str, list[str]] = {}
    for depth in range(1, DEPTH + 1):
        grouped = {}
        for name in names:
            module = name.split(".")[:-1]
            grouped.setdefault(".".join(module[:depth]) or name, []).append(name)
        if len(grouped) >= MIN_STAGES:
            break
    return {stage: tuple(members) for stage, members in grouped.items()}


@torch.no_grad()
def look_at_gradients(model: nn.Module, stages: Mapping[str, Collection[str]] | None = None) -> Look:
    """What the gradients in `model` are now.

    Args:
        model: after `backward()`, before gradients are set to zero.
        stages: name -> names of parameters; by the names of modules where None.
    """
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    found = {name: one.grad for name, one in trained.items() if one.grad is not None and not one.grad.is_sparse}
    missing = frozenset(name for name, one in trained.items() if one.grad is None)
    if not found:
        return Look({}, 0.0, missing, frozenset(), {})
    gradients = dict(zip(found, _norms(list(found.values())), strict=True))
    weights = dict(zip(found, _norms([trained[name].detach() for name in found]), strict=True))
    strength = {}
    for stage, names in (stages_by_name(model) if stages is None else stages).items():
        if own := [name for name in names if name in found]:
            strength[stage] = _together(gradients, own) / max(_together(weights, own), TINY)
    still = frozenset(name for name, norm in gradients.items() if norm == 0)
    return Look(strength, _together(gradients, list(found)), missing, still, _silent_units(model, found, still))


def _silent_units(model: nn.Module, found: Mapping[str, Tensor], still: frozenset[str]) -> dict[str, Tensor]:
    """[R] of every linear and convolution layer that learned something: rows of the weight's gradient that are 0."""
    silent = {}
    for name, module in model.named_modules():
        key = f"{name}.weight" if name else "weight"
        is_layer = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and not getattr(module, "transposed", False)
        if is_layer and key in found and key not in still and len(found[key]) >= MIN_UNITS:
            silent[name or type(module).__name__] = found[key].flatten(1).abs().amax(dim=1) == 0
    return silent


def _norms(tensors: Sequence[Tensor]) -> list[float]:
    return torch.stack([norm.float() for norm in torch._foreach_norm(list(tensors))]).tolist()


def _together(norms: Mapping[str, float], names: Sequence[str]) -> float:
    return float(sum(norms[name] ** 2 for name in names) ** 0.5)
