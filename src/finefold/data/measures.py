"""Plain measures of image files: width, height, brightness.

Shapes: N images.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finefold.data.images import MAX_PIXELS, read_image
from finefold.data.machine import num_threads
from finefold.errors import ImageError

MEASURES = ("width", "height", "brightness")
LUMA = np.array([0.299, 0.587, 0.114])  # of red, green, blue, as ITU-R BT.601 weighs them

Progress = Callable[[int], None]


def measure_images(
    paths: Sequence[Path], *, max_pixels: int = MAX_PIXELS, advance: Progress = lambda _: None
) -> dict[str, NDArray[np.float64]]:
    """Width and height in pixels as one sees the image (EXIF rotation applied), and mean luma in 0..255.

    Args:
        paths: [N] files.
        max_pixels: larger images are refused before they are decoded.
        advance: told how many files were measured since.

    Returns:
        measure -> [N]; NaN for a file that is no readable image.
    """

    def measure(path: Path) -> tuple[float, float, float]:
        try:
            image_HWC = read_image(path, max_pixels=max_pixels)
        except ImageError:
            return np.nan, np.nan, np.nan
        finally:
            advance(1)
        height, width = image_HWC.shape[:2]
        return float(width), float(height), float(image_HWC.mean(axis=(0, 1)) @ LUMA)

    with ThreadPoolExecutor(num_threads()) as pool:
        rows = list(pool.map(measure, paths))
    table_N3 = np.array(rows, np.float64).reshape(-1, len(MEASURES))
    return {name: table_N3[:, column] for column, name in enumerate(MEASURES)}
