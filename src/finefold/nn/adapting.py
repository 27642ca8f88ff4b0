"""What fits without being equal: which unit can be made which, and the values that then are laid there."""

from collections.abc import Hashable, Mapping
from math import prod

import torch
from torch import Tensor

from finefold.nn.dataflow import DataFlow
from finefold.nn.layout import Layout, Placed
from finefold.nn.units import ONLY, Shape, Unit
from finefold.nn.weights import State

_COLOURS = 3  # channels of the images that weights are mostly learned on
ADAPTIONS = {
    "channels": "the stem, adapted to other input channels",
    "folded": "the same number of values, folded otherwise: their order is a guess",
}


def how_to_adapt(source: Unit, target: Unit, *, is_convolution: bool) -> str | None:
    """How a source's unit could be made a target's: "channels", "folded", or not at all (None).

    Args:
        source, target: the units.
        is_convolution: whether the target's weight is [O, I, H, W], which its shape without trailing ones may hide.
    """
    if source.shapes.keys() != target.shapes.keys():
        return None
    role = ONLY if ONLY in source.shapes else "weight"
    if any(source.shapes[one] != target.shapes[one] for one in source.shapes if one != role):
        return None
    one, other = source.shapes.get(role, ()), target.shapes.get(role, ())
    if not one or not other or one[0] != other[0]:
        return None
    if is_convolution and one[1:2] == (_COLOURS,) and one[2:] == other[2:] and len(other) in (2, 4):
        return "channels"
    if prod(one) == prod(other) and {len(one), len(other)} == {2, 4}:
        return "folded"
    return None


def is_other_head(source: Unit, head: Unit) -> bool:
    """Whether a unit is a linear layer on the same features as `head`, with another number of outputs."""
    one, other = weight_shape(source), weight_shape(head)
    return len(one) == len(other) == 2 and one[1] == other[1] and one[0] != other[0]


def weight_shape(unit: Unit) -> Shape:
    """Shape of a unit's weight, less trailing ones; empty where it has none."""
    return unit.shapes.get("weight") or unit.shapes.get(ONLY) or ()


def coarse_label(unit: Unit, flow: DataFlow) -> Hashable:
    """What a unit is, whatever its stem's channels, its head's size and how its weight is folded."""
    keys = [key for keys in unit.keys.values() for key in keys]
    is_end = any(key in flow.output for key in keys)
    is_start = all(not flow.before.get(key) for key in keys)
    shapes = []
    for role, shape in sorted(unit.shapes.items()):
        rows, rest = shape[0] if shape else 1, prod(shape[1:])
        if is_end:
            rows = 0
        if is_start and len(shape) == 4:
            rest = prod(shape[2:])
        shapes.append((role, rows, rest))
    return tuple(shapes)


def lay_values(layout: Layout, source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> State:
    """The values of the placed tensors, shaped and typed as the target's."""
    return {one.key: _laid_value(one, source, target[one.key]).to(target[one.key].dtype) for one in layout.placed}


def _laid_value(one: Placed, source: Mapping[str, Tensor], own: Tensor) -> Tensor:
    if one.how == "kept":
        return own.clone()
    if one.how == "new":
        return torch.zeros_like(own)
    tensors = [source[key].detach() for key in one.sources]
    if one.how == "joined":
        return torch.cat(tensors).reshape(own.shape)
    if one.how.startswith("part"):
        piece = int(one.how[5]) - 1
        return tensors[0].chunk(3)[piece].reshape(own.shape).clone()
    if one.how == "channels":
        return _adapt_channels(tensors[0], own.shape[1])
    return tensors[0].reshape(own.shape).clone()


def _adapt_channels(weight_OCHW: Tensor, channels: int) -> Tensor:
    """A first convolution's weight for other input channels, so that its sums keep their size.

    One channel gets the sum of the three: a grey image then gives what its three equal channels gave. More get the
    three in turn, scaled by 3 / channels.

    References:
        timm, adapt_input_conv, which does the same.
    """
    if channels == 1:
        return weight_OCHW.sum(dim=1, keepdim=True)
    repeats = -(-channels // weight_OCHW.shape[1])
    return weight_OCHW.repeat(1, repeats, 1, 1)[:, :channels] * (weight_OCHW.shape[1] / channels)
