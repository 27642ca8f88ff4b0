"""Columns that errors can be looked at by: of the run, of its images' files, of its data source."""

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import polars as pl

from finefold.data.measures import MEASURES, measure_images
from finefold.data.predictions import Ledger
from finefold.data.samples import SampleTable
from finefold.data.sources import read_source
from finefold.errors import DataError, RunError, UsageError
from finefold.metrics.slices import Slices, slice_numbers, slice_texts
from finefold.steps.progress import SILENT, Progress
from finefold.steps.run import Run

GROUP_SIZE = "group-size"
BUILT_IN = ("source", "fold", GROUP_SIZE, *MEASURES)


def slices_by(run: Run, ledger: Ledger, column: str, *, progress: Progress = SILENT) -> Slices:
    """The ledger's samples by a column.

    Args:
        run: whose samples they are.
        ledger: of the run.
        column: `source`, `fold`, `group-size` (samples of a sample's group), `width`, `height` or `brightness` (of the
            image file), an attribute, or a column or field of the data source.
        progress: told of the images that are read.

    Raises:
        UsageError: there is no such column.
        RunError, DataError: the run's samples, or their source, cannot be read.
    """
    ids = ledger.predictions.ids
    if column == "fold":
        return slice_texts([str(fold) for fold in ledger.folds_N.tolist()])
    if column == GROUP_SIZE:
        sizes = Counter(ledger.groups)
        return slice_numbers(np.array([sizes[group] for group in ledger.groups], np.float64))
    samples = sample_table(run)
    if column in MEASURES:
        path_of = dict(zip(samples["id"], samples["path"], strict=True))
        with progress.stage("measuring", len(ids), "images") as advance:
            measured = measure_images([run.spec.root / path_of[name] for name in ids], advance=advance)
        return slice_numbers(measured[column])
    if column == "source" and not any(samples[column]):
        raise UsageError("the samples have no source", f"there are {', '.join(_known(run))}")
    if column in ("source", *run.space.names):
        return _joined(ids, samples["id"].to_list(), samples[column].to_list())
    return _of_source(run, ids, samples, column, progress)


def _known(run: Run, more: Sequence[str] = ()) -> list[str]:
    """Columns that can be asked for; `source` where there are several."""
    names = dict.fromkeys((*BUILT_IN, *run.space.names, *more))
    return [name for name in names if name != "source" or any(sample_table(run)[name])]


def _of_source(run: Run, ids: tuple[str, ...], samples: pl.DataFrame, column: str, progress: Progress) -> Slices:
    """By a column that the data source has and the run does not keep."""
    try:
        source = read_source(run.spec)
    except DataError as reason:
        raise DataError(
            f"`{column}` is no column that the run keeps, and its data source cannot be read: {reason.message}",
            f"the run knows {', '.join(_known(run))}",
        ) from reason
    if column not in source.columns:
        known = _known(run, source.columns)
        near = get_close_matches(column, known, n=1)
        meant = f"did you mean `{near[0]}`? " if near else ""
        raise UsageError(f"there is no column `{column}`", f"{meant}There are {', '.join(known)}")
    value_of = dict(zip(source["path"], source[column], strict=True))
    values = [value_of.get(path) for path in samples["path"]]
    if gone := sum(path not in value_of for path in samples["path"]):
        progress.say(
            f"{gone:,} of {len(values):,} samples are no longer in the data's source: their {column} is unknown"
        )
    return _joined(ids, samples["id"].to_list(), values)


def _joined(ids: tuple[str, ...], sample_ids: list[str], values: list[str | None]) -> Slices:
    value_of = dict(zip(sample_ids, values, strict=True))
    return slice_texts([value_of.get(name) for name in ids])


def samples_of(run: Run) -> SampleTable:
    """The samples that the run was trained on, with their labels, files and boxes.

    Raises:
        RunError: the file is missing or broken.
    """
    return SampleTable(sample_table(run), run.space, run.spec.root)


def sample_table(run: Run) -> pl.DataFrame:
    """The samples that the run was trained on, as text.

    Raises:
        RunError: the file is missing or broken.
    """
    try:
        return pl.read_parquet(run.folder.samples)
    except (OSError, pl.exceptions.PolarsError) as reason:
        raise RunError(f"cannot read {run.folder.samples}: {reason}", "the run is broken: train it again") from reason
