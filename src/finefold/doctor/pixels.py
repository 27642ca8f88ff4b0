"""An image as a person's own code gives it -> RGB uint8, and what had to be assumed.

Shapes: H x W pixels; images come as HWC or CHW.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finefold.errors import DataError

NEEDED = (
    "an image is a PIL image, an array or tensor [H, W], [H, W, 3] or [3, H, W]: "
    "uint8, floats in 0..1 or 0..255, or normalised floats"
)
KNOWN_SCALES = {  # mean and std in units of 0..1
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean 0.5 and std 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
SLACK = 0.02  # of the range 0..1 that undone values may lie outside


@dataclass(frozen=True)
class Scale:
    """How numbers become bytes: 255 * (x * std + mean), cut to 0..255.

    Args:
        mean, std: per channel, in units of 0..1.
        says: what was assumed; empty where nothing was.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1 / 255, 1 / 255, 1 / 255)
    says: str = ""

    def to_bytes(self, image: Any) -> NDArray[np.uint8]:
        """RGB uint8 [H, W, 3].

        Raises:
            DataError: it is no image.
        """
        pixels_HWC = to_array(image)
        if pixels_HWC.dtype == np.uint8:
            return np.ascontiguousarray(pixels_HWC)
        unit_HWC = pixels_HWC.astype(np.float32) * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)
        return np.asarray(np.rint(np.nan_to_num(unit_HWC).clip(0, 1) * 255), np.uint8)


def to_array(image: Any) -> NDArray[Any]:
    """[H, W, 3] of whatever number type it came in.

    Raises:
        DataError: it is no image.
    """
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    array = np.asarray(image.detach().cpu().numpy() if hasattr(image, "detach") else image)
    if array.dtype == object or array.dtype.kind not in "uifb":
        raise DataError(f"an image is of type {type(image).__name__}", NEEDED)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise DataError(f"an image has shape {list(array.shape)}", NEEDED)
    return array[:, :, :3] if array.shape[2] >= 3 else np.repeat(array, 3, axis=2)


def find_scale(images: Sequence[Any]) -> Scale:
    """What the numbers of some images mean.

    Args:
        images: at least one, e.g. 32 spread over the data set.

    Raises:
        DataError: one is no image.
    """
    arrays = [to_array(image) for image in images]
    if all(array.dtype == np.uint8 for array in arrays):
        return Scale()
    values_C = np.concatenate([array.reshape(-1, 3)[:: max(1, array.size // 30_000)] for array in arrays]).astype(float)
    low_C, high_C = values_C.min(axis=0), values_C.max(axis=0)
    if low_C.min() >= 0 and high_C.max() <= 1:
        return Scale(std=(1.0, 1.0, 1.0), says="floats in 0..1, taken as they are")
    if low_C.min() >= 0 and 2 < high_C.max() <= 255:
        return Scale(says="floats in 0..255, taken as they are")
    fitting = []
    for name, (mean, std) in KNOWN_SCALES.items():
        least, most = float((low_C * std + mean).min()), float((high_C * std + mean).max())
        if least >= -SLACK and most <= 1 + SLACK and most - least > 0.3:
            fitting.append((most - least, name))
    if fitting:  # the one that fills the range from black to white best
        name = max(fitting)[1]
        return Scale(*KNOWN_SCALES[name], f"normalised floats, undone with {name}")
    least, most = np.quantile(values_C, 0.005), np.quantile(values_C, 0.995)
    width = max(float(most - least), 1e-6)
    mean_of_all, std_of_all = -float(least) / width, 1 / width
    return Scale(
        (mean_of_all,) * 3,
        (std_of_all,) * 3,
        f"normalised floats of an unknown scale: {least:.2f} taken for black, {most:.2f} for white",
    )
