"""What the doctor examines, made of a data.toml, a run, or anybody's data set object; and `finefold.diagnose`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache as once
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from finefold.data.findings import Finding
from finefold.data.images import list_images
from finefold.data.preprocessing import Box
from finefold.data.samples import SampleTable
from finefold.data.sources import read_source
from finefold.data.splits import Split, read_split
from finefold.doctor.answers import answers_of
from finefold.doctor.checks import chosen_checks, make_checks
from finefold.doctor.datasets import num_rows, read_rows
from finefold.doctor.diagnosis import Diagnosis
from finefold.doctor.loading import unloaded
from finefold.doctor.subject import Subject
from finefold.errors import FinefoldError, UsageError
from finefold.nn.features import Features, PrefixCache
from finefold.recipe.loader import load_recipe
from finefold.recipe.schema import Recipe
from finefold.steps.boxes import find_boxes_for
from finefold.steps.columns import samples_of
from finefold.steps.effort import ledger_views
from finefold.steps.probabilities import stream_of
from finefold.steps.progress import SILENT, Progress
from finefold.steps.reading import Data, read_data, without_unreadable
from finefold.steps.round_trip import RunTrip
from finefold.steps.run import Run, open_run
from finefold.steps.split import split_of
from finefold.steps.train import prefix_cache

if TYPE_CHECKING:
    from torch import nn


def diagnose(
    dataset: Any,
    model: "nn.Module | None" = None,
    *,
    valid: Any = None,
    only: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Diagnosis:
    """Examines data, and a model where one is given: do labels belong to their images, and what else is wrong.

    Args:
        dataset: a data.toml, a run's folder, what `read_data` or `open_run` gave, any map-style data set that yields
            (image, label) or a dict, or a pair of two such: (train, valid).
        model: takes batches of what the data set yields and gives logits.
        valid: the data set that is validated on.
        only: names of checks; all that can be made by default.
        progress: told of the stages.

    Raises:
        UsageError: there is no such check, or a model was given without a data set object.
        DataError: the data cannot be read.
    """
    chosen_checks(only)
    subject = subject_of(dataset, model, valid=valid, progress=progress)
    return make_checks(subject, only)


def subject_of(
    given: Any, model: "nn.Module | None" = None, *, valid: Any = None, progress: Progress = SILENT
) -> Subject:
    """What was given, as the one value that checks take."""
    if isinstance(given, (str, Path)):
        path = Path(given)
        given = read_data(path) if path.is_file() else open_run(path)
    if isinstance(given, (Data, Run)):
        if model is not None or valid is not None:
            raise UsageError(
                "a model or a validation set was given with a data.toml or a run", "give the data set object instead"
            )
        return _of_run(given, progress) if isinstance(given, Run) else _of_data(given, progress)
    if isinstance(given, (tuple, list)) and len(given) == 2 and all(_is_dataset(one) for one in given):
        given, valid = given[0], given[1] if valid is None else valid
    subject = _of_dataset(given, "the data set", model, progress)
    return (
        subject if valid is None else replace(subject, valid=_of_dataset(valid, "the validation set", model, progress))
    )


def _is_dataset(value: Any) -> bool:
    if isinstance(value, DataLoader):
        return True
    return (
        hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, (str, tuple, np.ndarray))
    )


def _of_data(data: Data, progress: Progress) -> Subject:
    split = split_of(data, data.default_split) if data.default_split.is_file() else None
    return _of_samples(str(data.file), data, load_recipe("probe"), split, progress)


def _of_run(run: Run, progress: Progress) -> Subject:
    data = read_data(run.folder.data)
    has_boxes = run.has_boxes and not run.is_ensemble
    if has_boxes:
        data = replace(data, samples=_with_boxes(run, data.samples))
    name, split = str(run.folder.path), read_split(run.folder.split)
    subject = _of_samples(name, data, load_recipe("probe"), split, progress, run if has_boxes else None)

    def predict() -> NDArray[np.int64]:
        return np.asarray(run.ledger().predictions.codes_N, np.int64)

    def answer_test() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        folds, views = range(run.num_folds), ledger_views(run)
        parts = stream_of(run, subject.test_ids, subject.test_paths, folds=folds, views=views)
        return run.ledger().predictions.probs_NK, np.concatenate([part.probs_BK for part in parts])

    is_quick = not run.is_ensemble and run.recipe.is_probe_only and not run.has_boxes
    trips = tuple(RunTrip(one) for one in (run.members() if run.is_ensemble else (run,)))
    return replace(subject, run=run.folder, predict=predict, answer_test=answer_test if is_quick else None, trips=trips)


def _with_boxes(run: Run, samples: SampleTable) -> SampleTable:
    """The samples with what the run looked at of each; the centre where it had no box, or does not know the sample."""
    known = samples_of(run)
    box_of = dict(zip(known.ids, known.boxes or (), strict=True))
    return samples.with_boxes([box_of.get(sample) for sample in samples.ids])


def _of_samples(
    name: str, data: Data, recipe: Recipe, split: Split | None, progress: Progress, boxed_by: Run | None = None
) -> Subject:
    """Rows of a data.toml; of a run that looks at boxes, `boxed_by`, also in the images to answer for."""
    boxes = data.samples.boxes
    cache, features = _looking(recipe, data.samples.ids, data.samples.paths, progress, lambda: boxes)
    found = features()
    samples = without_unreadable(data.samples, list(found.findings))
    is_readable_N = found.is_readable_N
    hashes = tuple(compress(found.hashes, is_readable_N))
    rows_ND, all_N = found.rows_ND[is_readable_N], np.ones(len(samples), bool)
    readable = Features(rows_ND, all_N, found.findings, found.num_computed, hashes)
    test_ids, test_paths = _test_images(data)

    def test_boxes() -> Sequence[Box | None] | None:
        if boxed_by is None or data.spec.predict is None:
            return None
        root = data.spec.folder / data.spec.predict.root
        return find_boxes_for(boxed_by, test_ids, test_paths, root, None, progress)[0]

    return Subject(
        name=name,
        ids=tuple(samples.ids),
        labels_N=samples.labels_N,
        class_names=samples.space.class_names,
        recipe=recipe,
        look=lambda: readable,
        cache=cache,
        attributes=samples.space.attribute_table() if len(samples.space.names) > 1 else {},
        groups=tuple(samples.groups) if samples.is_grouped else None,
        paths=tuple(samples.paths),
        samples=samples,
        columns={} if samples.is_grouped else _columns(data, samples),
        given_folds_N=_folds(split, samples),
        test_ids=test_ids,
        test_paths=test_paths,
        look_at_test=_looking(recipe, test_ids, test_paths, progress, test_boxes, cache)[1],
        notes=() if boxes is None else (_told_of_boxes(boxes),),
    )


def _told_of_boxes(boxes: Sequence[Box | None]) -> str:
    missing = sum(box is None for box in boxes)
    centre = f"; {missing} without a box are looked at in their centre" if missing else ""
    return f"images are looked at as the run's boxes say{centre}"


def _columns(data: Data, samples: SampleTable) -> dict[str, list[str]]:
    """What the data source says of each sample besides its attributes."""
    source = read_source(data.spec)
    place_of = {path: place for place, path in enumerate(source["path"])}
    rows = source[[place_of[path] for path in samples.frame["path"]]]
    others = [name for name in source.columns if name not in ("path", "id", *samples.space.names)]
    return {name: rows[name].fill_null("").to_list() for name in others}


def _looking(
    recipe: Recipe,
    ids: Sequence[str],
    paths: Sequence[Path],
    progress: Progress,
    boxes: Callable[[], Sequence[Box | None] | None],
    cache: Callable[[], PrefixCache] | None = None,
) -> tuple[Callable[[], PrefixCache], Callable[[], Features]]:
    """The backbone, built when first asked for, and the features of some images, of their boxes where there are any."""
    made = cache or once(lambda: prefix_cache(recipe, progress))

    def features() -> Features:
        kept = boxes()
        with progress.stage("features", len(ids), "images") as advance:
            return made().compute(list(ids), list(paths), boxes=kept, advance=advance)

    return made, features


def _test_images(data: Data) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """The images of [predict]; none where it is not said or its folder is not there."""
    said = data.spec.predict
    if said is None:
        return (), ()
    root = data.spec.folder / said.root
    try:
        names = list_images(root).paths
    except FinefoldError:
        return (), ()
    return tuple(names), tuple(root / name for name in names)


def _folds(split: Split | None, samples: SampleTable) -> NDArray[np.int64] | None:
    """The folds of a split file, where it knows every sample."""
    if split is None or not set(samples.ids) <= set(split.frame["id"]):
        return None
    return split.folds_for(samples.ids)


def _of_dataset(dataset: Any, name: str, model: "nn.Module | None", progress: Progress) -> Subject:
    recipe = load_recipe("probe")
    dataset, loading = unloaded(dataset)
    count = num_rows(dataset)
    made = once(lambda: prefix_cache(recipe, progress))
    with progress.stage(f"reading {name}", count, "rows") as advance:
        rows = read_rows(dataset, made(), advance=advance)
    none: tuple[Finding, ...] = ()
    assert rows.features.findings == none
    return Subject(
        name=f"{name} ({type(dataset).__name__})",
        ids=rows.lists.paths if len(set(rows.lists.paths)) == count else tuple(map(str, range(count))),
        labels_N=rows.labels_N,
        class_names=rows.class_names,
        recipe=recipe,
        look=lambda: rows.features,
        cache=made,
        paths=tuple(map(Path, rows.lists.paths)) or None,
        lists=rows.lists,
        dataset=dataset,
        model=model,
        predict=None if model is None else lambda: answers_of(model, dataset),
        loading=loading,
        notes=(f"images: {rows.scale.says}",) if rows.scale.says else (),
    )
