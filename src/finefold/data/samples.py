"""The sample table: which image is what, and whom it shows. An immutable value.

Shapes: N samples, K joint classes, A attributes.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.data.imageset import ImageSet
from finefold.data.labels import LabelSpace
from finefold.data.preprocessing import Box
from finefold.data.strata import Strata
from finefold.errors import DataError

SIDES = ("box left", "box top", "box right", "box bottom")
COLUMNS = ("id", "path", "group", "source", "label", "train_label")


@dataclass(frozen=True)
class SampleTable:
    """Labelled samples, one row each.

    Args:
        frame: columns `id`, `path` (relative to `root`, with /), `group`, `source` (text), `label` (joint
            code that evaluation uses, null where the value of an attribute is missing), `train_label` (joint code
            that training sees, null there too and where the sample is kept out of training), and one text column
            per attribute, null where missing. Where any value is missing also `train_codes`: the attributes' codes
            that training sees, -1 where missing or kept out. Where boxes say what is kept of an image also the four
            `SIDES`.
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
        """[N] joint codes in [0, K) that scores are measured against; -1 where an attribute's value is missing."""
        return self.frame["label"].fill_null(-1).to_numpy().astype(np.int64)

    @property
    def train_labels_N(self) -> NDArray[np.int64]:
        """[N] joint codes that training sees; -1 where a value is missing or the sample is kept out of training."""
        return self.frame["train_label"].fill_null(-1).to_numpy().astype(np.int64)

    @property
    def has_missing(self) -> bool:
        """Whether the values of some attributes are known while others are missing."""
        return "train_codes" in self.frame.columns

    @property
    def codes_NA(self) -> NDArray[np.int64]:
        """[N, A] each attribute's codes that scores are measured against; -1 where missing."""
        if not self.has_missing:
            return self._attribute_codes(self.labels_N)
        columns = [
            self.frame[one.name].replace_strict(one.classes, range(len(one.classes)), return_dtype=pl.Int64)
            for one in self.space.attributes
        ]
        return np.stack([column.fill_null(-1).to_numpy() for column in columns], axis=1)

    @property
    def train_codes_NA(self) -> NDArray[np.int64]:
        """[N, A] each attribute's codes that training sees; -1 where missing or kept out of training."""
        if not self.has_missing:
            return self._attribute_codes(self.train_labels_N)
        return np.array(self.frame["train_codes"].to_list(), np.int64).reshape(len(self), len(self.space.names))

    def _attribute_codes(self, labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
        codes_KA = np.stack(list(self.space.attribute_codes().values()), axis=1)
        return np.where(labels_N[:, None] >= 0, codes_KA[labels_N], -1)

    @property
    def strata(self) -> Strata:
        """The joint class or partial label of every sample."""
        return Strata.of(self.space, self.codes_NA)

    @property
    def train_strata(self) -> Strata:
        """The same as training sees them; -1 for samples that train nothing."""
        return Strata.of(self.space, self.train_codes_NA)

    def num_missing(self) -> dict[str, int]:
        """How many samples lack an attribute's value, of attributes that any sample lacks."""
        counts = zip(self.space.names, (self.codes_NA < 0).sum(axis=0).tolist(), strict=True)
        return {name: count for name, count in counts if count}

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

    @property
    def images(self) -> ImageSet:
        """[N] the images alone."""
        return ImageSet(self.ids, self.paths, self.boxes)

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
        if self.has_missing:
            order = self.frame["id"].arg_sort().to_numpy()
            digest.update(np.hstack([self.codes_NA, self.train_codes_NA])[order].astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    def counts_K(self) -> NDArray[np.int64]:
        """[K] samples per joint class, of those whose class is known."""
        labels_N = self.labels_N
        return np.bincount(labels_N[labels_N >= 0], minlength=self.space.num_classes)

    def for_attribute(self, name: str) -> "SampleTable":
        """The same samples under one attribute's classes alone."""
        place = self.space.names.index(name)
        codes = (("label", self.codes_NA), ("train_label", self.train_codes_NA))
        columns = [pl.Series(key, codes_NA[:, place], dtype=pl.Int32).replace(-1, None) for key, codes_NA in codes]
        frame = self.frame.drop("train_codes", strict=False).with_columns(*columns)
        return replace(self, frame=frame, space=LabelSpace((self.space.attributes[place],)))

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
