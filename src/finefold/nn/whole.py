"""A user's whole model taken apart: what gives its features, and its last linear layer, which gives the logits.

Shapes: B images, D features, K outputs.
"""

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finefold.errors import ModelError, WeightsError
from finefold.nn.comparing import TOLERANCE, are_close, does_not_run
from finefold.nn.heads import LinearHead

_HINT = (
    "supported is a model that returns the logits [B, K] of its last nn.Linear, with nothing behind it (no softmax); "
    "or bring the part before, Own(network=...) with images -> features [B, D], which gets a head of finefold's"
)


class TakenHead(nn.Identity):
    """Where the model's last layer was: what went into it is what the model gives."""


@dataclass(frozen=True)
class Whole:
    """A whole model in two parts.

    Args:
        network: a copy without its last layer: normalised images [B, 3, H, W] -> features [B, D].
        path: of that layer in the model.
        head: its weights.
    """

    network: nn.Module
    path: str
    head: LinearHead


def take_apart(model: nn.Module, images_BCHW: Tensor) -> Whole:
    """Takes the last linear layer off a copy of a model, and proves that both together give what the model gives.

    Args:
        model: normalised images [B, 3, H, W] -> logits [B, K].
        images_BCHW: to run it on.

    Raises:
        ModelError: it does not run on them, or does not end in a linear layer.
    """
    copy = deepcopy(model).cpu().eval()
    path = _last_linear(copy, images_BCHW)
    layer = copy.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    network = without_head(copy, path)
    for batch_BCHW in (images_BCHW, images_BCHW.flip(-1) * 0.5):
        with torch.no_grad():
            features_BD = network(batch_BCHW)
            again_BK = F.linear(features_BD, layer.weight, layer.bias) if features_BD.ndim == 2 else None
            logits_BK = model_logits(copy, batch_BCHW)
        if again_BK is None or not are_close(logits_BK, again_BK, tolerance=TOLERANCE):
            raise ModelError(f"without its last layer `{path}` the model does not give what goes into it", _HINT)
    weight_DC = layer.weight.detach().float().T.contiguous().numpy()
    bias_C = np.zeros(layer.out_features, np.float32) if layer.bias is None else layer.bias.detach().float().numpy()
    return Whole(network, path, LinearHead(weight_DC, bias_C))


def without_head(model: nn.Module, path: str) -> nn.Module:
    """A copy of a model whose layer at `path` passes on what it is given.

    Raises:
        WeightsError: it has no such layer.
    """
    copy = deepcopy(model)
    parent, _, name = path.rpartition(".")
    try:
        copy.get_submodule(path)
    except AttributeError as reason:
        raise WeightsError(
            f"the model has no `{path}`, its last layer when it was trained", "give that model"
        ) from reason
    setattr(copy.get_submodule(parent), name, TakenHead())
    return copy


def model_logits(model: nn.Module, images_BCHW: Tensor) -> Tensor:
    """What a model gives for images.

    Raises:
        ModelError: it does not run on them, or gives something else than a tensor [B, K].
    """
    try:
        given = model(images_BCHW)
    except Exception as reason:
        raise does_not_run(images_BCHW, reason) from reason
    if not isinstance(given, Tensor):
        raise ModelError(f"your model gives a {type(given).__name__}, expected logits [B, K]", _HINT)
    if given.ndim != 2 or len(given) != len(images_BCHW):
        raise ModelError(f"your model gives {list(given.shape)}, expected logits [{len(images_BCHW)}, K]", _HINT)
    return given


def _last_linear(model: nn.Module, images_BCHW: Tensor) -> str:
    """The linear layer whose output is the model's."""
    given: dict[str, Tensor] = {}

    def keep(path: str) -> torch.utils.hooks.RemovableHandle:
        return model.get_submodule(path).register_forward_hook(lambda _layer, _given, made: given.update({path: made}))

    handles = [keep(path) for path, layer in model.named_modules() if path and isinstance(layer, nn.Linear)]
    try:
        with torch.no_grad():
            logits_BK = model_logits(model, images_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    found = [path for path, made in given.items() if made.shape == logits_BK.shape and torch.equal(made, logits_BK)]
    if not found:
        raise ModelError(f"{type(model).__name__} does not end in an nn.Linear, which gives its logits", _HINT)
    return found[-1]
