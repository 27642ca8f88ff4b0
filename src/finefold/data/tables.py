"""Tables of a row for each image, which for many images do not fit into memory beside all else."""

import os
import tempfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from finefold.data.cachedir import cannot_write

LARGE_BYTES = 64 * 2**20
ROWS_AT_ONCE = 4096


def zero_rows(shape: tuple[int, ...], dtype: DTypeLike, *, folder: Path) -> NDArray[Any]:
    """An array of zeros to be filled; a large one lies in a file without a name.

    The system writes parts of such a file out where memory is short, and drops it with the last use of the array, also
    when the process is killed.

    Args:
        shape: of the array.
        dtype: of the array.
        folder: on the disk where a large array is to lie.

    Raises:
        CacheError: the folder cannot be written, or its disk is full.
    """
    kind = np.dtype(dtype)
    if prod(shape) * kind.itemsize < LARGE_BYTES:
        return np.zeros(shape, kind)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), prod(shape) * kind.itemsize)
            return np.asarray(np.memmap(file, kind, "r+", shape=shape))
    except OSError as reason:
        raise cannot_write(folder, reason) from reason


def taken_rows(table: NDArray[Any], rows: NDArray[np.integer], *, folder: Path) -> NDArray[Any]:
    """Some rows of a table: a part of it where they follow each other, else a copy that lies where `zero_rows` puts it.

    Args:
        table: [N, ...].
        rows: ascending.
        folder: as of `zero_rows`.
    """
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return table[int(rows[0]) : int(rows[-1]) + 1]
    found = zero_rows((len(rows), *table.shape[1:]), table.dtype, folder=folder)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        found[start : start + ROWS_AT_ONCE] = table[rows[start : start + ROWS_AT_ONCE]]
    return found


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Makes the file so long; where the system can, for good: a full disk is told now and does not kill later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
    else:
        os.ftruncate(descriptor, num_bytes)
