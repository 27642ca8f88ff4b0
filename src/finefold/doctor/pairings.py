"""Other ways in which labels may belong to images.

A pairing is [N] positions: row i's image belongs to label number `source[i]`, or to none (-1). The pairing that the
data have is 0, 1, 2, ...
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pairing:
    """Which label belongs to which image.

    Args:
        name: in words, as it completes "re-pairing by ...".
        source_N: position of each row's label; -1 for a row that would have none.
    """

    name: str
    source_N: NDArray[np.int64]

    def labels(self, labels_M: NDArray[np.int64]) -> NDArray[np.int64]:
        """[N] labels under this pairing; -1 where there is none."""
        return np.where(self.source_N >= 0, labels_M[np.maximum(self.source_N, 0)], -1)


def shifted(count: int, by: int, *, cyclic: bool) -> Pairing:
    """The label of the row `by` rows further on; cyclic or with the end cut off."""
    source_N = np.arange(count) + by
    if cyclic:
        return Pairing(f"a cyclic shift of the labels by {-by:+d} rows", source_N % count)
    return Pairing(
        f"a shift of the labels by {-by:+d} rows", np.where((source_N >= 0) & (source_N < count), source_N, -1)
    )


def near_shifts(count: int, most: int = 20) -> Iterator[Pairing]:
    """Shifts by few rows."""
    for by in range(1, min(most, count - 1) + 1):
        yield shifted(count, by, cyclic=False)
        yield shifted(count, -by, cyclic=False)
