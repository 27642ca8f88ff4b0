"""What numbers a model expects: by the memory of its first batch norm, by what its makers say, by what reaches it.

A batch norm that has trained remembers mean and variance of what came in. Images in another form than those it was
trained on do not fit that memory, and the form that does is the right one.

Shapes: B images, C channels of a layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finefold.doctor.forms import FORMS, Form, named, three
from finefold.nn.optim import is_norm

BATCH = 32


@dataclass(frozen=True)
class Memory:
    """How images in several forms fit a batch norm's memory.

    Args:
        layer: its name.
        given: distance of the images as they are given, in nats per channel; below 0.5 for what it was trained on.
        best: the form that fits best.
        best_distance: its.
        is_swapped: whether the best has red and blue exchanged.
    """

    layer: str
    given: float
    best: Form
    best_distance: float
    is_swapped: bool


@dataclass(frozen=True)
class Entry:
    """What reaches the first layer with weights.

    Args:
        layer: its name.
        largest: the largest absolute value that comes in.
        is_untouched: whether images come as the data set gives them.
    """

    layer: str
    largest: float
    is_untouched: bool


def memory_of(model: nn.Module, images_BCHW: Tensor, given: Form) -> Memory | None:
    """How the images, and the same in other forms, fit the model's first batch norm.

    None where the model has none that has trained, or images do not come as [B, 3, H, W] floats.

    Args:
        model: in evaluation mode.
        images_BCHW: as the data set gives them.
        given: their form.
    """
    name = next((name for name, one in model.named_modules() if _has_memory(one)), None)
    if name is None or images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3:
        return None
    norm = model.get_submodule(name)

    def distance(images: Tensor) -> float | None:
        entered = entering(model, norm, images)
        return None if entered is None else _distance(norm, entered)

    as_given = distance(images_BCHW)
    if as_given is None:
        return None
    unit_BHWC = given.undo(images_BCHW.float().cpu().numpy().transpose(0, 2, 3, 1))
    tried: list[tuple[float, int, Form, bool]] = []
    for place, form in enumerate(form for form in FORMS if not form.mistake or form.says == "floats in 0..255"):
        values = ((unit_BHWC - np.asarray(form.mean)) / np.asarray(form.std)).astype(np.float32)
        for is_swapped in (False, True):
            channels = values[..., ::-1] if is_swapped else values
            found = distance(torch.from_numpy(np.ascontiguousarray(channels.transpose(0, 3, 1, 2))))
            if found is not None:
                tried.append((found, place + 100 * is_swapped, form, is_swapped))
    best, _, form, is_swapped = min(tried, key=lambda one: one[:2])
    return Memory(name, as_given, form, best, is_swapped)


def entry_of(model: nn.Module, images: Tensor) -> Entry | None:
    """What reaches the model's first layer with weights; None where no such layer is called."""
    plain = images.float()
    scale = float(plain.std()) or 1.0
    for name, layer in model.named_modules():
        if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            continue
        entered = entering(model, layer, images)
        if entered is not None:
            moved = abs(float(entered.mean() - plain.mean())) / scale
            is_untouched = moved < 0.01 and abs(float(entered.std()) / scale - 1) < 0.01
            return Entry(name, float(entered.abs().max()), is_untouched)
    return None


def has_norms(model: nn.Module) -> bool:
    """Whether any layer normalises, so that the scale of what comes in matters less."""
    return any(is_norm(module) for module in model.modules())


def told_form(model: nn.Module) -> Form | None:
    """The form that a model's makers say it takes: timm's models carry mean and std; None where nothing is said."""
    for module in model.modules():
        for name in ("pretrained_cfg", "default_cfg"):
            told = getattr(module, name, None)
            if isinstance(told, Mapping) and _are_three(told.get("mean")) and _are_three(told.get("std")):
                mean, std = three(told["mean"]), three(told["std"])
                return named(mean, std)
    return None


class _Enough(Exception):  # noqa: N818, ends a forward pass that has shown what was asked for
    pass


@torch.inference_mode()
def entering(model: nn.Module, layer: nn.Module, images: Tensor) -> Tensor | None:
    """What goes into a layer when the model looks at images; None where it is not called, or the model fails."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Any, ...]) -> None:
        seen.append(given[0].detach().float().cpu())
        raise _Enough

    handle = layer.register_forward_pre_hook(keep)
    parameter = next(model.parameters(), None)
    try:
        model(images if parameter is None else images.to(parameter.device))
    except _Enough:
        return seen[0]
    except Exception:
        return None
    finally:
        handle.remove()
    return None


def _has_memory(module: nn.Module) -> bool:
    if not isinstance(module, nn.BatchNorm2d) or module.running_mean is None or module.running_var is None:
        return False
    return bool((module.running_mean != 0).any()) and bool((module.running_var != 1).any())


def _distance(norm: nn.Module, entered_BCHW: Tensor) -> float:
    """Median over channels of the divergence (Kullback-Leibler, of Gaussians) of what comes in from the memory."""
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    mean_C, variance_C = norm.running_mean.float().cpu(), norm.running_var.float().cpu()
    is_alive_C = variance_C > 1e-3 * variance_C.max()
    seen_mean_C, seen_C = entered_BCHW.mean((0, 2, 3)), entered_BCHW.var((0, 2, 3)).clamp(min=1e-12)
    ratio_C = seen_C / variance_C
    nats_C = 0.5 * (ratio_C + (seen_mean_C - mean_C) ** 2 / variance_C - 1 - ratio_C.log())
    return float(nats_C[is_alive_C].median())


def stacked(images: Sequence[Any], to_tensor: Callable[[Any], Tensor]) -> Tensor | None:
    """[B, ...] images as a model takes them; None where they differ in shape or make no tensors."""
    tensors = [to_tensor(image) for image in images[:BATCH]]
    if len({tuple(one.shape) for one in tensors}) != 1:
        return None
    return torch.stack(tensors)


def _are_three(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and len(values) == 3
