"""The sample table: which image is what, and whom it shows. An immutable value.

Shapes: N samples, K joint classes.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.data.labels import LabelSpace
from finefold.data.preprocessing import Box
from finefold.errors import DataError

SIDES = ("box left", "box top", "box right", "box bottom")
COLUMNS = ("id", "path", "group", "source", "label", "train_label")


@dataclass(frozen=True)
class SampleTable:
    """Labelled samples, one row each.

    Args:
        frame: columns `id`, `path` (relative to `root`, with /), `group`, `source` (text), `label` (joint
            code that evaluation uses), `train_label` (joint code that training sees, null where the sample
            is kept out of training), and one text column per attribute; the four `SIDES` where
            boxes say what is kept of an image.
        space: what the codes mean.
        root: folder the paths are relative to.
        fold: the user's own fold of each sample, where the source had such a column.
    """

    frame: pl.DataFrame
    space: LabelSpace
    root: Path
    fold: pl.Series | None = None

    def __post_init__(self) -> None:
        missing = [name for name in (*COLUMNS, *self.space.names) if name not in self.frame.columns]
        assert not missing, f"sample table lacks {missing}"
        if self.frame.is_empty():
            raise DataError(f"no samples in {self.root}", "check `root` and the template, csv or class folders")
        _check_unique(self.frame, "id", "two samples have the id", "give `[samples] id` a column without repeats")
        _check_unique(self.frame, "path", "two samples share the file", "list every image once")

    def __len__(self) -> int:
        return self.frame.height

    @property
    def ids(self) -> list[str]:
        """[N] sample ids."""
        return self.frame["id"].to_list()

    @property
    def groups(self) -> list[str]:
        """[N] group of each sample: images of one group never go to two folds."""
        return self.frame["group"].to_list()

    @property
    def is_grouped(self) -> bool:
        """Whether any group holds more than one sample."""
        return self.frame["group"].n_unique() < self.frame.height

    @property
    def labels_N(self) -> NDArray[np.int64]:
        """[N] joint codes in [0, K) that scores are measured against."""
        return self.frame["label"].to_numpy().astype(np.int64)

    @property
    def train_labels_N(self) -> NDArray[np.int64]:
        """[N] joint codes that training sees; -1 keeps a sample out of training."""
        return self.frame["train_label"].fill_null(-1).to_numpy().astype(np.int64)

    @property
    def paths(self) -> list[Path]:
        """[N] image files."""
        return [self.root / path for path in self.frame["path"]]

    @property
    def boxes(self) -> list[Box | None] | None:
        """[N] what is kept of each image, where boxes say it; None where none were said."""
        if SIDES[0] not in self.frame.columns:
            return None
        return [None if row[0] is None else row for row in self.frame.select(SIDES).iter_rows()]

    def with_boxes(self, boxes: Sequence[Box | None]) -> "SampleTable":
        """The same samples, each with what is kept of its image; None for its centre."""
        sides = {side: [None if box is None else box[at] for box in boxes] for at, side in enumerate(SIDES)}
        return replace(self, frame=self.frame.with_columns(pl.Series(k, v, pl.Int32) for k, v in sides.items()))

    @property
    def hash(self) -> str:
        """16 hex digits over ids, groups, labels and class names, whatever the order of rows."""
        rows = self.frame.select("id", "group", "label", "train_label").sort("id")
        digest = hashlib.sha256("\n".join(self.space.class_names).encode())
        digest.update(rows.write_csv().encode())
        return digest.hexdigest()[:16]

    def counts_K(self) -> NDArray[np.int64]:
        """[K] samples per joint class."""
        return np.bincount(self.labels_N, minlength=self.space.num_classes)

    def for_attribute(self, name: str) -> "SampleTable":
        """The same samples under one attribute's classes alone."""
        attribute = next(one for one in self.space.attributes if one.name == name)
        codes_K = self.space.attribute_codes()[name]
        train_N = self.train_labels_N
        frame = self.frame.with_columns(
            pl.Series("label", codes_K[self.labels_N], dtype=pl.Int32),
            pl.Series("train_label", np.where(train_N >= 0, codes_K[train_N], -1), dtype=pl.Int32).replace(-1, None),
        )
        return replace(self, frame=frame, space=LabelSpace((attribute,)))

    def without(self, ids: Collection[str]) -> "SampleTable":
        """The table less these samples."""
        keep = ~self.frame["id"].is_in(list(ids))
        fold = None if self.fold is None else self.fold.filter(keep)
        return replace(self, frame=self.frame.filter(keep), fold=fold)


def _check_unique(frame: pl.DataFrame, column: str, message: str, hint: str) -> None:
    repeated = frame[column].filter(frame[column].is_duplicated()).unique(maintain_order=True)
    if len(repeated):
        named = ", ".join(f"`{value}`" for value in repeated.head(5))
        raise DataError(f"{message} {named} ({len(repeated)} such)", hint)
