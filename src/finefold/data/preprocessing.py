"""One object says how an image becomes a model's input; it is stored with the weights and hashed.

Training, validation, submission, export and serving use this object and no other.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from finefold.errors import DataError

Fit = Literal["crop", "squash"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_ENLARGE = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}


@dataclass(frozen=True)
class Preprocessing:
    """RGB uint8 image of any size -> RGB uint8 [height, width, 3]; mean and std are applied inside the model.

    Args:
        height_px, width_px: what the model sees.
        crop_fraction: share of the resized image that the centre crop keeps, in (0, 1].
        fit: "crop" keeps the aspect and cuts the centre; "squash" stretches to the size.
        interpolation: used where an image is enlarged; shrinking averages areas, the anti-aliased equivalent.
        mean, std: per channel in units of 0-255; the model computes (x - mean) / std.
    """

    height_px: int
    width_px: int
    crop_fraction: float = 1.0
    fit: Fit = "crop"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)

    def __post_init__(self) -> None:
        if min(self.height_px, self.width_px) < 8:
            raise DataError(f"an input of {self.width_px}x{self.height_px} px is too small", "use at least 8 px")
        if not 0 < self.crop_fraction <= 1:
            raise DataError(f"crop_fraction is {self.crop_fraction}", "choose a value in (0, 1]")
        for name, known in (("fit", get_args(Fit)), ("interpolation", tuple(_ENLARGE))):
            if getattr(self, name) not in known:
                raise DataError(f"{name} is `{getattr(self, name)}`", f"choose one of {', '.join(known)}")
        if len(self.mean) != 3 or not np.isfinite(self.mean).all():
            raise DataError(f"mean is {self.mean}", "give a number for each of the three channels")
        if len(self.std) != 3 or not (np.isfinite(self.std).all() and min(self.std) > 0):
            raise DataError(f"std is {self.std}", "every channel's std is above 0")

    @property
    def short_side_px(self) -> int:
        """A decoded image whose short side is smaller than this would be enlarged."""
        return math.ceil(max(self.height_px, self.width_px) / self.crop_fraction)

    @property
    def hash(self) -> str:
        """16 hex digits over every field."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they go into a weights file's header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The object that `to_dict` described.

        Raises:
            DataError: `values` has other keys, or values that are none.
        """
        try:
            return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
        except (KeyError, TypeError) as reason:
            raise DataError(
                f"this is no preprocessing: {values}", "the file was written by another program"
            ) from reason

    def apply(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB uint8 [H, W, 3], or grey [H, W], -> RGB uint8 [height_px, width_px, 3]."""
        height, width = image_HWC.shape[:2]
        crop_h, crop_w = (height, width) if self.fit == "squash" else self._window(height, width)
        top, left = (height - crop_h) // 2, (width - crop_w) // 2
        resized = self._resize(image_HWC[top : top + crop_h, left : left + crop_w], self.height_px, self.width_px)
        return resized if resized.ndim == 3 else np.asarray(cv2.cvtColor(resized, cv2.COLOR_GRAY2RGB), np.uint8)

    def _window(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, in the image's own pixels, of the centre that becomes the input."""
        scale = min(height / self.height_px, width / self.width_px) * self.crop_fraction
        return max(1, min(height, round(self.height_px * scale))), max(1, min(width, round(self.width_px * scale)))

    def _resize(self, image_HWC: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        if image_HWC.shape[:2] == (height, width):
            return np.ascontiguousarray(image_HWC)
        is_shrunk = image_HWC.shape[0] >= height and image_HWC.shape[1] >= width
        method = cv2.INTER_AREA if is_shrunk else _ENLARGE[self.interpolation]
        return np.asarray(cv2.resize(image_HWC, (width, height), interpolation=method), dtype=np.uint8)
