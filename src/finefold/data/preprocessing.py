"""One object says how an image becomes a model's input; it is stored with the weights and hashed.

Training, validation, submission, export and serving use this object and no other. Three steps, in this order: the image
is framed (cut to a box, or to a centre in its own pixels), fitted (resized to what the model sees), toned
(grey, CLAHE).
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

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the upright image; right and bottom are outside

TILES = (8, 8)  # across and down, each of which CLAHE looks at: OpenCV's own choice
# Fields that came later; where they have these values they are not written, so that hashes and headers stay the same.
_LATER: dict[str, Any] = {"centre": None, "grey": False, "clahe": 0.0}
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
        centre: height and width of the centre that is kept, in the image's own pixels; where the image is smaller it
            keeps what it has. None keeps all of it.
        grey: whether colour is taken away; the three channels are then equal.
        clahe: clip limit of contrast-limited adaptive histogram equalisation of the brightness; 0 for none.

    References:
        Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV, 1994, as OpenCV has it; on the
        luma of YCrCb, so that what is grey stays grey.
    """

    height_px: int
    width_px: int
    crop_fraction: float = 1.0
    fit: Fit = "crop"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    centre: tuple[int, int] | None = None
    grey: bool = False
    clahe: float = 0.0

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
        if self.centre is not None and (len(self.centre) != 2 or not all(_is_length(px) for px in self.centre)):
            raise DataError(f"centre is {self.centre}", "give a height and a width, whole numbers of at least 1 px")
        if not 0 <= self.clahe < math.inf:
            raise DataError(f"clahe is {self.clahe}", "give a clip limit above 0, usually 2 to 4, or 0 for none")

    @property
    def short_side_px(self) -> int:
        """A decoded image whose short side is smaller than this would be enlarged."""
        return math.ceil(max(self.height_px, self.width_px) / self.crop_fraction)

    def decode_px(self, box: Box | None = None) -> int | None:
        """The short side that an image has to be decoded with; None for its own size, which pixels of a crop are of."""
        return self.short_side_px if self.centre is None and box is None else None

    @property
    def hash(self) -> str:
        """16 hex digits over what `to_dict` gives."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they go into a weights file's header."""
        return {key: value for key, value in asdict(self).items() if key not in _LATER or value != _LATER[key]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The object that `to_dict` described.

        Raises:
            DataError: `values` has other keys, or values that are none.
        """
        try:
            tuples = {key: tuple(values[key]) for key in ("mean", "std", *({"centre"} & set(values)))}
            return cls(**{**values, **tuples})
        except (KeyError, TypeError) as reason:
            raise DataError(
                f"this is no preprocessing: {values}", "the file was written by another program"
            ) from reason

    def apply(self, image_HWC: Pixels, box: Box | None = None) -> Pixels:
        """RGB uint8 [H, W, 3], or grey [H, W], -> RGB uint8 [height_px, width_px, 3].

        Args:
            image_HWC: the whole image, upright; of its own size where there is a centre or a box.
            box: what of it is wanted, inside the image; it takes the place of the centre.
        """
        return self.finished(self.framed(image_HWC, box))

    def framed(self, image_HWC: Pixels, box: Box | None = None) -> Pixels:
        """The first step: the part of an image that everything after it sees."""
        height, width = image_HWC.shape[:2]
        left, top, right, bottom = self.frame(height, width, box)
        return image_HWC[top:bottom, left:right]

    def frame(self, height: int, width: int, box: Box | None = None) -> Box:
        """Where in an image of this size everything after the first step looks: the box, or the centre."""
        if box is not None or self.centre is None:
            return box or (0, 0, width, height)
        kept_h, kept_w = min(height, self.centre[0]), min(width, self.centre[1])
        left, top = (width - kept_w) // 2, (height - kept_h) // 2
        return left, top, left + kept_w, top + kept_h

    def finished(self, framed_HWC: Pixels) -> Pixels:
        """A framed image -> what the model sees: `fitted`, then `toned`."""
        return self.toned(self.fitted(framed_HWC))

    def fitted(self, framed_HWC: Pixels) -> Pixels:
        """The second step: a framed image, RGB or grey -> RGB uint8 [height_px, width_px, 3]."""
        height, width = framed_HWC.shape[:2]
        crop_h, crop_w = (height, width) if self.fit == "squash" else self._window(height, width)
        top, left = (height - crop_h) // 2, (width - crop_w) // 2
        resized = self._resize(framed_HWC[top : top + crop_h, left : left + crop_w], self.height_px, self.width_px)
        return resized if resized.ndim == 3 else np.asarray(cv2.cvtColor(resized, cv2.COLOR_GRAY2RGB), np.uint8)

    def toned(self, image_HWC: Pixels) -> Pixels:
        """The last step, of training's augmented images too: colour taken away, contrast evened out. Size stays."""
        if self.grey:
            grey_HW = np.asarray(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), np.uint8)
            return np.asarray(cv2.cvtColor(self._equalised(grey_HW), cv2.COLOR_GRAY2RGB), np.uint8)
        if not self.clahe:
            return image_HWC
        brightness_first = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2YCrCb)
        brightness_first[:, :, 0] = self._equalised(brightness_first[:, :, 0])
        return np.asarray(cv2.cvtColor(brightness_first, cv2.COLOR_YCrCb2RGB), np.uint8)

    def _equalised(self, grey_HW: Any) -> Pixels:
        if not self.clahe:
            return np.asarray(grey_HW, np.uint8)
        # made anew each time: one of them is not to be shared between threads
        return np.asarray(cv2.createCLAHE(self.clahe, TILES).apply(np.ascontiguousarray(grey_HW)), np.uint8)

    def _window(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, in the image's own pixels, of the centre that becomes the input."""
        scale = min(height / self.height_px, width / self.width_px) * self.crop_fraction
        return max(1, min(height, round(self.height_px * scale))), max(1, min(width, round(self.width_px * scale)))

    def _resize(self, image_HWC: Pixels, height: int, width: int) -> Pixels:
        if image_HWC.shape[:2] == (height, width):
            return np.ascontiguousarray(image_HWC)
        is_shrunk = image_HWC.shape[0] >= height and image_HWC.shape[1] >= width
        method = cv2.INTER_AREA if is_shrunk else _ENLARGE[self.interpolation]
        return np.asarray(cv2.resize(image_HWC, (width, height), interpolation=method), dtype=np.uint8)


def _is_length(px: Any) -> bool:
    return isinstance(px, int) and px >= 1
