"""Which model a state dict is of: the one whose own keys and shapes are the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from finefold.errors import ModelError, WeightsError
from finefold.nn.catalogue import TORCHVISION, build_model, timm_library, torchvision_names
from finefold.nn.units import COUNTER, wrapper_prefix

_NEAR_TIMM = 12  # names of timm near the hint that are tried
_NEAR_TORCHVISION = 5


class _Shells(TorchFunctionMode):
    """Makes parameters without memory: models are built in milliseconds, whatever their size."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Identified:
    """The model that a state dict is of.

    Args:
        name: as timm or torchvision call it.
        model: with random weights.
    """

    name: str
    model: nn.Module


def identify_model(state: Mapping[str, Tensor], like: str, *, is_likely: bool = False) -> Identified | None:
    """The timm or torchvision model that a state dict is of, with random weights; None where that cannot be told.

    Args:
        state: the tensors.
        like: see `models_like`.
        is_likely: whether `like` is what the state is called, and so decides between models of the same keys.
    """
    found = models_like(state, like)
    if is_likely and like in found:
        found = {like: found[like]}
    if len(found) != 1:
        return None
    name, num_classes = next(iter(found.items()))
    return Identified(name, build_model(name, num_classes=num_classes))


def models_like(state: Mapping[str, Tensor], like: str) -> dict[str, int]:
    """The models that have exactly the keys and shapes of a state dict, and its number of classes.

    torchvision's models are all tried, timm's whose names are near to `like`. Another number of classes and a
    wrapper's prefix are allowed for. One of torchvision's is taken alone; of timm's, several may have the same keys
    and compute otherwise (`tf_efficientnet_b0` pads as TensorFlow does).

    Args:
        state: the tensors.
        like: a name to begin with, such as the model they are to be laid onto.
    """
    prefix = wrapper_prefix(state)
    shapes = {key.removeprefix(prefix): shape for key, shape in _shapes(state).items()}
    for names in _names(like):
        found = {name: size for name in names if (size := _is_of(name, shapes)) is not None}
        if found:
            return found
    return {}


def _names(like: str) -> tuple[list[str], list[str], list[str]]:
    """torchvision's names nearest to a hint, timm's near ones, the rest of torchvision's."""
    plain = like.removeprefix(TORCHVISION)
    known = torchvision_names()
    near = [TORCHVISION + name for name in get_close_matches(plain, known, n=len(known), cutoff=0.0)]
    timm_near = get_close_matches(plain, timm_library().list_models(), n=_NEAR_TIMM, cutoff=0.3)
    return near[:_NEAR_TORCHVISION], timm_near, near[_NEAR_TORCHVISION:]


def _is_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The number of classes with which a model has exactly these keys and shapes; None where it has not."""
    shell = _shell(name)
    if shell is None:
        return None
    own, before = shell
    if own.keys() != shapes.keys():
        return None
    other = [key for key in own if own[key] != shapes[key]]
    sizes = {(own[key][0], shapes[key][0]) for key in other if own[key][1:] == shapes[key][1:]}
    if not other:
        return before
    if len(sizes) == 1 and len(other) <= 2 and {key.rpartition(".")[2] for key in other} <= {"weight", "bias"}:
        rows, size = next(iter(sizes))
        return size if rows == before else None
    return None


@lru_cache(maxsize=512)
def _shell(name: str) -> tuple[dict[str, tuple[int, ...]], int] | None:
    """Keys and shapes of a model, and its number of classes; None where it is not to be had without its memory."""
    try:
        with _Shells():
            model = build_model(name)
    except (ModelError, WeightsError, RuntimeError, NotImplementedError, TypeError):
        return None
    return _shapes(model.state_dict()), _num_classes(model)


def _num_classes(model: nn.Module) -> int:
    """Outputs of a shell's last linear layer, or convolution where it ends in one."""
    named = getattr(model, "num_classes", None)
    if isinstance(named, int):
        return named
    last = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    return last.weight.shape[0]


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items() if not key.endswith(COUNTER)}
