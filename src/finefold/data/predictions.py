"""Probabilities with their ids and class names, and the ledger of out-of-fold predictions.

Shapes: N samples, K joint classes, A attributes.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.errors import DataError, RunError

SUM_TOLERANCE = 1e-4
LEDGER_COLUMNS = ("id", "fold", "group", "label")
CODES_COLUMN = "label codes"  # only in ledgers of samples that lack some attribute's value


@dataclass(frozen=True)
class Predictions:
    """What a model says of some images.

    Args:
        ids: [N] unique.
        probs_NK: rows sum to 1.
        class_names: [K] names of the columns.
    """

    ids: tuple[str, ...]
    probs_NK: NDArray[np.float64]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.probs_NK.shape != (len(self.ids), len(self.class_names)):
            raise DataError(
                f"{len(self.ids)} ids and {len(self.class_names)} classes do not fit probabilities of shape "
                f"{self.probs_NK.shape}"
            )
        if len(set(self.class_names)) < len(self.class_names):
            raise DataError("predictions name a class twice", "give every class its own name")
        if len(set(self.ids)) < len(self.ids):
            raise DataError("predictions name an id twice", "predict every image once")
        if not np.isfinite(self.probs_NK).all() or (self.probs_NK < 0).any():
            raise DataError("probabilities are negative, infinite or not numbers")
        if len(self.ids) and abs(self.probs_NK.sum(axis=1) - 1).max() > SUM_TOLERANCE:
            worst = self.ids[int(abs(self.probs_NK.sum(axis=1) - 1).argmax())]
            raise DataError(f"the probabilities of `{worst}` do not sum to 1", "pass probabilities, not logits")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def codes_N(self) -> NDArray[np.int64]:
        """[N] most probable class; the lowest code wins a tie."""
        return np.asarray(self.probs_NK.argmax(axis=1), np.int64)

    def rows_for(self, ids: Sequence[str]) -> "Predictions":
        """The predictions of these ids, in their order.

        Raises:
            DataError: an id was not predicted.
        """
        row_of = {name: row for row, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in row_of]
        if missing:
            raise DataError(f"{len(missing)} ids were not predicted, e.g. `{missing[0]}`")
        return Predictions(tuple(ids), self.probs_NK[[row_of[name] for name in ids]], self.class_names)

    def marginals(
        self, attributes: Mapping[str, tuple[tuple[str, ...], NDArray[np.int64]]]
    ) -> dict[str, NDArray[np.float64]]:
        """Per attribute, [N, C] probabilities of its classes: sums of the joint ones.

        Args:
            attributes: `LabelSpace.attribute_table()`.
        """
        table = {}
        for name, (classes, codes_K) in attributes.items():
            member_KC = np.eye(len(classes))[codes_K]
            table[name] = self.probs_NK @ member_KC
        return table

    def to_frame(self) -> pl.DataFrame:
        """Column `id`, then one column per class."""
        return pl.DataFrame({"id": list(self.ids)}, schema={"id": pl.String}).hstack(
            pl.DataFrame(self.probs_NK, schema=[(name, pl.Float64) for name in self.class_names], orient="row")
        )


@dataclass(frozen=True)
class Ledger:
    """Every labelled sample, predicted exactly once by a model that saw neither it nor its group.

    Args:
        predictions: of all samples.
        folds_N: the fold that held each sample out.
        groups: [N].
        labels_N: [N] true joint codes, by the evaluation bands; -1 where an attribute's value is missing.
        codes_NA: true codes of the attributes, -1 where missing; None where every label is known whole.
    """

    predictions: Predictions
    folds_N: NDArray[np.int64]
    groups: tuple[str, ...]
    labels_N: NDArray[np.int64]
    codes_NA: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.predictions), len(self.folds_N), len(self.groups), len(self.labels_N)}
        if len(sizes) > 1:
            raise DataError(f"a ledger's columns differ in length: {sorted(sizes)}")
        is_known_N: NDArray[np.bool_] = np.full(len(self.labels_N), True)
        if self.codes_NA is not None:
            if len(self.codes_NA) != len(self.labels_N):
                raise DataError(f"a ledger has {len(self.labels_N)} labels and {len(self.codes_NA)} rows of codes")
            is_known_N = np.asarray((self.codes_NA >= 0).all(axis=1))
        lowest_N = np.where(is_known_N, 0, -1)
        highest_N = np.where(is_known_N, len(self.predictions.class_names) - 1, -1)
        if ((self.labels_N < lowest_N) | (self.labels_N > highest_N)).any():
            raise DataError("a ledger's label is no code of its classes")
        folds_of: dict[str, int] = {}
        for group, fold in zip(self.groups, self.folds_N.tolist(), strict=True):
            if folds_of.setdefault(group, fold) != fold:
                raise DataError(f"group `{group}` was predicted in folds {folds_of[group]} and {fold}")

    def known(self) -> "Ledger":
        """The samples whose label is known whole."""
        if self.codes_NA is None:
            return self
        rows = np.flatnonzero(self.labels_N >= 0)
        predictions = self.predictions.rows_for([self.predictions.ids[row] for row in rows])
        return Ledger(predictions, self.folds_N[rows], tuple(self.groups[row] for row in rows), self.labels_N[rows])

    def attribute_labels(self, codes: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        """Per attribute, [N] true codes; -1 where missing.

        Args:
            codes: `LabelSpace.attribute_codes()`.
        """
        if self.codes_NA is None:
            return {name: np.asarray(codes_K)[self.labels_N] for name, codes_K in codes.items()}
        return {name: self.codes_NA[:, place] for place, name in enumerate(codes)}

    def write(self, path: Path) -> None:
        """Parquet with id, fold, group, label (class name), then one probability column per class.

        Where attributes' values are missing also `label codes`, a list of the attributes' codes; label is null there.
        """
        names = np.asarray([*self.predictions.class_names, None], dtype=object)  # -1 is the last one
        frame = self.predictions.to_frame()
        about = pl.DataFrame(
            {
                "id": frame["id"],
                "fold": pl.Series(self.folds_N, dtype=pl.Int32),
                "group": pl.Series(list(self.groups), dtype=pl.String),
                "label": pl.Series(names[self.labels_N].tolist(), dtype=pl.String),
            }
        )
        if self.codes_NA is not None:
            codes = pl.Series(CODES_COLUMN, self.codes_NA.tolist(), dtype=pl.List(pl.Int32))
            about = about.with_columns(codes)
        write_parquet(about.hstack(frame.drop("id")), path)

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """The ledger that `write` made.

        Raises:
            RunError: the file cannot be read, or holds no ledger.
        """
        try:
            return cls._from_frame(pl.read_parquet(path))
        except (OSError, pl.exceptions.PolarsError, DataError) as reason:
            said = reason.message if isinstance(reason, DataError) else reason
            raise RunError(f"cannot read the ledger {path}: {said}", "the run is broken: train it again") from reason

    @classmethod
    def _from_frame(cls, frame: pl.DataFrame) -> "Ledger":
        codes_NA = None
        about = frame.select(*LEDGER_COLUMNS)
        if frame.schema.get(CODES_COLUMN) == pl.List(pl.Int32):
            codes_NA = np.array(frame[CODES_COLUMN].to_list(), np.int64).reshape(frame.height, -1)
            frame = frame.drop(CODES_COLUMN)
        names = tuple(name for name in frame.columns if name not in LEDGER_COLUMNS)
        code = {name: number for number, name in enumerate(names)}
        if any(about.drop("label").null_count().row(0)) or (codes_NA is None and about["label"].null_count()):
            raise DataError("a row lacks its id, fold, group or label")
        return cls(
            Predictions(tuple(about["id"]), frame.drop(LEDGER_COLUMNS).cast(pl.Float64).to_numpy(), names),
            about["fold"].cast(pl.Int64).to_numpy(),
            tuple(about["group"]),
            about["label"].replace_strict(code, return_dtype=pl.Int64).cast(pl.Int64).fill_null(-1).to_numpy(),
            codes_NA,
        )


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Writes a whole file or nothing: a reader never sees half of one.

    Raises:
        RunError: the place refuses, or the disk is full.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(unfinished)
        unfinished.replace(path)
    except (OSError, pl.exceptions.PolarsError) as reason:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {reason}", "free some space, or choose another place") from reason
