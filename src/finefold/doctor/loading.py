"""A DataLoader as the rows that it shows, and what it does to them: drops, repeats, leaves out."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, Subset

from finefold.doctor.datasets import random_numbers_kept
from finefold.errors import DataError

PLAIN = ("SequentialSampler", "RandomSampler")


@dataclass(frozen=True)
class Loading:
    """How a loader goes through its data set.

    Args:
        num_rows: that the data set has for it.
        batch_size: of the loader; 0 where it has batches of its own making.
        drop_last: whether an incomplete last batch is thrown away.
        num_dropped: rows that are never seen because of that.
        num_repeated: rows that an epoch shows more than once.
    """

    num_rows: int
    batch_size: int
    drop_last: bool
    num_dropped: int
    num_repeated: int


def unloaded(given: Any) -> tuple[Any, Loading | None]:
    """The data set that a DataLoader shows, or part of it where its sampler shows a part; anything else as it is.

    Raises:
        DataError: the loader's data set has no rows by number.
    """
    if not isinstance(given, DataLoader):
        return given, None
    if isinstance(given.dataset, IterableDataset):
        raise DataError(
            "the DataLoader is of an iterable data set, whose rows have no numbers",
            "give a map-style data set: len(dataset) and dataset[i]",
        )
    count = len(given.dataset)  # type: ignore[arg-type]
    with random_numbers_kept():
        shown = [int(row) for row in given.sampler] if given.batch_sampler is not None else list(range(count))
    times = Counter(shown)
    size = int(given.batch_size or getattr(given.batch_sampler, "batch_size", 0) or 0)
    drop_last = bool(given.drop_last or getattr(given.batch_sampler, "drop_last", False))
    num_dropped = len(shown) % size if drop_last and size else 0
    repeated = sum(1 for number in times.values() if number > 1)
    loading = Loading(count, size, drop_last, num_dropped, repeated)
    is_part = type(given.sampler).__name__ not in PLAIN and len(times) < count and not repeated
    return (Subset(given.dataset, sorted(times)) if is_part else given.dataset), loading
