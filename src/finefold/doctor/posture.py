"""Images of a data set beside the files that they were read from: on their side, channels in another order, squashed.

Shapes: N images; pictures are compared at T x T pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from finefold.data.images import decode_image
from finefold.errors import ImageError

T = 24
CROPS = (1.0, 0.875, 0.7)  # of a file's picture that an image may show
CLEAR = 0.8  # correlation of an image with its file
AHEAD = 0.15  # of the second best posture
COLOURED = 6.0  # spread of red - blue in a picture, of 255, below which it is grey
SHARE = 0.8  # of the images that must agree

Turn = Callable[[NDArray[Any]], NDArray[Any]]
TURNS: Mapping[str, Turn] = MappingProxyType(
    {
        "upright": lambda image: image,
        "mirrored": lambda image: image[:, ::-1],
        "upside down": lambda image: image[::-1],
        "turned by 180 degrees": lambda image: image[::-1, ::-1],
        "transposed (height and width swapped)": lambda image: image.swapaxes(0, 1),
        "turned by 90 degrees": lambda image: np.rot90(image, 1),
        "turned by 270 degrees": lambda image: np.rot90(image, 3),
        "transposed and turned": lambda image: np.rot90(image, 2).swapaxes(0, 1),
    }
)
PLAIN = ("upright", "mirrored")


@dataclass(frozen=True)
class Posture:
    """How images lie, as compared with their files.

    Args:
        turn: of TURNS, that explains them best.
        agreement: mean correlation with the files so turned.
        upright: mean correlation with the files as they are, or mirrored.
        is_swapped: whether red and blue are exchanged; None where the pictures are grey.
        is_squashed: whether the height of the images is the width of the files and the other way round.
        num_compared: N.
        pairs: (image, file) of each, small, the file turned and cut as the image is.
    """

    turn: str
    agreement: float
    upright: float
    is_swapped: bool | None
    is_squashed: bool
    num_compared: int
    pairs: tuple[tuple[NDArray[np.float32], NDArray[np.uint8]], ...]


def read_file(path: str | Path) -> NDArray[np.uint8] | None:
    """A file's picture, upright; None where it cannot be read."""
    try:
        return decode_image(Path(path).read_bytes(), at_least_px=128)
    except (OSError, ImageError):
        return None


def compare_with_files(
    images: Sequence[NDArray[Any]], files: Sequence[NDArray[np.uint8]], bytes_: Sequence[NDArray[np.uint8]]
) -> Posture | None:
    """How images lie beside their files; None where the files are not theirs.

    Args:
        images: [H, W, 3] as the data set gives them.
        files: [H, W, 3] pictures of the same rows.
        bytes_: the images as uint8, whatever their form.
    """
    grey = [_small(image.mean(axis=2)) for image in bytes_]
    own = [file.mean(axis=2) for file in files]
    found: dict[tuple[str, float], NDArray[np.float64]] = {}
    for turn, lay in TURNS.items():
        for crop in CROPS:
            shown = [_small(lay(_cut(file, crop))) for file in own]
            found[turn, crop] = np.array([_agreement(one, other) for one, other in zip(grey, shown, strict=True)])
    by_turn = {turn: max(float(found[turn, crop].mean()) for crop in CROPS) for turn in TURNS}
    best = max(by_turn, key=lambda turn: by_turn[turn])
    crop = max(CROPS, key=lambda crop: float(found[best, crop].mean()))
    turned = [_small(TURNS[best](_cut(file, crop))) for file in own]
    if by_turn[best] < 0.5 or not _are_theirs(grey, turned):
        return None
    upright = max(by_turn[turn] for turn in PLAIN)
    pairs = tuple(
        (_small(image), np.asarray(np.rint(_small(TURNS[best](_cut(file, crop)))), np.uint8))
        for image, file in zip(images, files, strict=True)
    )
    swapped = _is_swapped([_small(image) for image in bytes_], [file for _, file in pairs])
    is_plain = best in PLAIN
    squashed = is_plain and crop == 1 and by_turn[best] >= CLEAR and _is_squashed(images, files)
    return Posture(best, by_turn[best], upright, swapped, squashed, len(images), pairs)


def is_turned(posture: Posture) -> bool:
    """Whether images surely lie otherwise than their files."""
    clear = posture.agreement >= CLEAR and posture.agreement >= posture.upright + AHEAD
    return posture.turn not in PLAIN and clear


def _are_theirs(images: Sequence[NDArray[Any]], files: Sequence[NDArray[Any]]) -> bool:
    """Whether images look more like their own files than like other rows' files."""
    alike_NN = np.array([[_agreement(one, other) for other in files] for one in images])
    return float((np.diag(alike_NN) >= alike_NN.max(axis=1) - 0.02).mean()) >= SHARE


def _is_swapped(images: Sequence[NDArray[Any]], files: Sequence[NDArray[Any]]) -> bool | None:
    signs = []
    for image, file in zip(images, files, strict=True):
        given, own = image[:, :, 0] - image[:, :, 2], file[:, :, 0].astype(np.float32) - file[:, :, 2]
        if own.std() >= COLOURED and given.std() >= 1:
            signs.append(_agreement(given, own))
    if len(signs) < 4:
        return None
    return float((np.array(signs) < -0.5).mean()) >= SHARE


def _is_squashed(images: Sequence[NDArray[Any]], files: Sequence[NDArray[Any]]) -> bool:
    given_N = np.log([image.shape[0] / image.shape[1] for image in images])
    own_N = np.log([file.shape[0] / file.shape[1] for file in files])
    is_so_N = (np.abs(given_N + own_N) < 0.05) & (np.abs(own_N) > 0.1)
    return float(is_so_N.mean()) >= SHARE


def _cut(image: NDArray[Any], share: float) -> NDArray[Any]:
    """The centre of a picture."""
    height, width = image.shape[:2]
    kept_h, kept_w = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - kept_h) // 2, (width - kept_w) // 2
    return image[top : top + kept_h, left : left + kept_w]


def _small(image: NDArray[Any]) -> NDArray[np.float32]:
    plain = np.ascontiguousarray(image, np.float32)
    return np.asarray(cv2.resize(plain, (T, T), interpolation=cv2.INTER_AREA), np.float32)


def _agreement(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Correlation of two small pictures."""
    first, second = first - first.mean(), second - second.mean()
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / size if size > 0 else 0.0
