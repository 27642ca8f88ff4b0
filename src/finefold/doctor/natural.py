"""How images look to a network that has seen a million: in which colours, and upright or on their side.

Batch norms remember what photographs were like. Early layers see colour: photographs fit their memory better than the
same with red and blue exchanged. Late layers see things: an upright photograph excites them further beyond the mean
than one on its side. Both are measured on the images at hand, each image against itself.

Shapes: N images, L layers, C channels of a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finefold.nn.backbones import Backbone
from finefold.nn.engines import BATCH

EARLY, LATE = (0.0, 0.1), (0.5, 0.95)  # shares of the depth
COLOURED = 6.0  # spread of red - blue in an image, of 255, below which it is grey
FEW = 12  # images that tell anything
FEWEST_NORMS = 10  # that a network has, for some to be early and some late
NEARER, SURE = 0.2, 5.0  # mean log ratio of distances, and that over its standard error
STRONGER = 0.02  # the same of late layers


@dataclass(frozen=True)
class Reading:
    """Images as they are against another reading of them.

    Args:
        early, late: mean over images of log(distance in the other reading / distance as they are).
        early_z, late_z: over their standard errors.
        num_images: N.
    """

    early: float
    early_z: float
    late: float
    late_z: float
    num_images: int


def reading_with_swapped_channels(backbone: Backbone, images: Sequence[NDArray[np.uint8]]) -> Reading | None:
    """Red and blue exchanged, of the images that have colour; None where they are too few.

    Args:
        backbone: with batch norms.
        images: RGB uint8 [H, W, 3] each.
    """
    coloured = [image for image in images if (image[:, :, 0].astype(float) - image[:, :, 2]).std() >= COLOURED]
    return _reading(backbone, coloured, [np.ascontiguousarray(image[:, :, ::-1]) for image in coloured])


def reading_transposed(backbone: Backbone, images: Sequence[NDArray[np.uint8]]) -> Reading | None:
    """Height and width exchanged."""
    return _reading(backbone, images, [np.ascontiguousarray(image.swapaxes(0, 1)) for image in images])


def looks_swapped(reading: Reading) -> bool:
    """Whether red and blue exchanged are clearly nearer to photographs, early and late."""
    is_nearer = reading.early < -NEARER and reading.early_z < -SURE
    return is_nearer and reading.late > STRONGER and reading.late_z > SURE / 2


def looks_turned(reading: Reading) -> bool:
    """Whether the other reading excites the late layers clearly more."""
    return reading.late > NEARER and reading.late_z > SURE


def _reading(
    backbone: Backbone, images: Sequence[NDArray[np.uint8]], others: Sequence[NDArray[np.uint8]]
) -> Reading | None:
    if len(images) < FEW:
        return None
    network = backbone.build()
    before, after = _distances(backbone, network, images), _distances(backbone, network, others)
    if before is None or after is None:
        return None
    log_NL = np.log(after + 1e-9) - np.log(before + 1e-9)
    early, early_z = _mean(_part(log_NL, EARLY))
    late, late_z = _mean(_part(log_NL, LATE))
    return Reading(early, early_z, late, late_z, len(images))


def _part(values_NL: NDArray[np.float64], shares: tuple[float, float]) -> NDArray[np.float64]:
    count = values_NL.shape[1]
    low, high = (round(share * count) for share in shares)
    return np.asarray(values_NL[:, low : max(high, low + 1)].mean(axis=1))


def _mean(values_N: NDArray[np.float64]) -> tuple[float, float]:
    """The mean, and that over its standard error."""
    error = float(values_N.std(ddof=1)) / len(values_N) ** 0.5
    return float(values_N.mean()), float(values_N.mean()) / max(error, 1e-9)


@torch.inference_mode()
def _distances(
    backbone: Backbone, network: nn.Module, images: Sequence[NDArray[np.uint8]]
) -> NDArray[np.float64] | None:
    """[N, L] mean squared distance, in stds, of each image's channel means from what the batch norms remember."""
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d) and one.running_var is not None]
    if len(norms) < FEWEST_NORMS:
        return None
    seen: dict[int, list[Tensor]] = {}

    def keep(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.setdefault(id(norm), []).append(given[0].mean((2, 3)))

    hooks = [norm.register_forward_pre_hook(keep) for norm in norms]
    inputs = [backbone.preprocessing.apply(image) for image in images]
    for start in range(0, len(inputs), BATCH):
        network(torch.from_numpy(np.stack(inputs[start : start + BATCH])))
    for hook in hooks:
        hook.remove()
    return np.stack([_distance(norm, torch.cat(seen[id(norm)])) for norm in norms if id(norm) in seen], axis=1)


def _distance(norm: nn.BatchNorm2d, means_NC: Tensor) -> NDArray[np.float64]:
    """[N] mean over one norm's channels, but for those that never varied."""
    assert norm.running_mean is not None and norm.running_var is not None
    is_alive_C = norm.running_var > 1e-3 * norm.running_var.max()
    away_NC = (means_NC - norm.running_mean) ** 2 / (norm.running_var + norm.eps)
    return np.asarray(away_NC[:, is_alive_C].mean(1).double().numpy())
