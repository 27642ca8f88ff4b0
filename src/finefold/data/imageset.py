"""Images by name, with their files and what is kept of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finefold.data.preprocessing import Box


@dataclass(frozen=True)
class ImageSet:
    """Names, files, and what is kept of each image, where boxes say it.

    Args:
        ids: [N] names.
        paths: [N] files.
        boxes: [N] what is kept, None for the image's centre; None where nothing is said of any.
    """

    ids: Sequence[str]
    paths: Sequence[Path]
    boxes: Sequence[Box | None] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, first: int, count: int) -> "ImageSet":
        """At most so many of them."""
        rows = slice(first, first + count)
        return ImageSet(self.ids[rows], self.paths[rows], None if self.boxes is None else self.boxes[rows])

    def at(self, places_n: NDArray[np.int64]) -> "ImageSet":
        """Those at some places."""
        places, boxes = places_n.tolist(), self.boxes
        return ImageSet(
            [self.ids[place] for place in places],
            [self.paths[place] for place in places],
            None if boxes is None else [boxes[place] for place in places],
        )

    def __add__(self, other: "ImageSet") -> "ImageSet":
        """These, and others after them."""
        boxes = None
        if self.boxes is not None or other.boxes is not None:
            boxes = [*(self.boxes or [None] * len(self)), *(other.boxes or [None] * len(other))]
        return ImageSet([*self.ids, *other.ids], [*self.paths, *other.paths], boxes)
