"""What a data set object keeps in its attributes: paths, labels, index lists. Looked at, never called or changed.

Shapes: N rows of the data set.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from finefold.data.images import IMAGE_SUFFIXES

DEPTH = 4  # data sets inside data sets
NESTED = ("dataset", "base", "ds", "data", "inner", "source")


@dataclass(frozen=True)
class Lists:
    """The lists that were found.

    Args:
        paths: [N] of the rows, where some list names an image for each.
        every_path: a longer list of paths; empty where there is none.
        labels: label lists by the attribute's name, each of N entries or more, as text.
        indices: lists of positions by the attribute's name, in the order found.
    """

    paths: tuple[str, ...] = ()
    every_path: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] | None = None
    indices: Mapping[str, tuple[int, ...]] | None = None


def find_lists(dataset: Any, num_rows: int, labels: Sequence[str]) -> Lists:
    """The lists of `dataset` and of what it wraps.

    Args:
        dataset: any object.
        num_rows: N.
        labels: [N] that the rows gave, as text.
    """
    columns = list(_columns(dataset, ""))
    paths = {name: values for name, values in columns if _are_paths(values)}
    indices = {name: tuple(map(int, values)) for name, values in columns if _are_positions(values)}
    known = set(labels)
    told = {
        name: texts
        for name, values in columns
        if name not in paths and len(values) >= num_rows and set(texts := tuple(map(label_text, values))) >= known
    }
    of_rows, every = _paths_of_rows(paths, indices, num_rows)
    return Lists(of_rows, every, told, indices)


def _paths_of_rows(
    paths: Mapping[str, Sequence[Any]], indices: Mapping[str, tuple[int, ...]], num_rows: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """[N] paths of the rows, and the longest list of paths where it is longer."""
    longest = max(paths.values(), key=len, default=())
    every = tuple(map(str, longest)) if len(longest) > num_rows else ()
    for values in paths.values():
        if len(values) == num_rows:
            return tuple(map(str, values)), every
    for places in indices.values():
        if len(places) == num_rows and max(places, default=0) < len(longest):
            return tuple(str(longest[place]) for place in places), every
    return (), every


def label_text(value: Any) -> str:
    """A label as text: the same for 3, np.int64(3), 3.0 and a tensor of it."""
    item = value.item() if hasattr(value, "item") and getattr(value, "size", 1) != 0 and _is_scalar(value) else value
    if isinstance(item, bool):
        return str(int(item))
    if isinstance(item, float) and item.is_integer():
        return str(int(item))
    return str(item)


def _is_scalar(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return shape is not None and int(np.prod(tuple(shape))) == 1


def _columns(dataset: Any, where: str, depth: int = 0) -> Iterator[tuple[str, Sequence[Any]]]:
    """(attribute's name, its values) of every list of plain values; a table gives one for each column."""
    attributes = getattr(dataset, "__dict__", {})
    for name, value in attributes.items():
        yield from _lists_in(f"{where}{name}", value)
    if depth < DEPTH:
        for name in (name for name in NESTED if name in attributes):
            if hasattr(attributes[name], "__getitem__") and not isinstance(attributes[name], (list, tuple, dict, str)):
                yield from _columns(attributes[name], f"{where}{name}.", depth + 1)


def _lists_in(name: str, value: Any) -> Iterator[tuple[str, Sequence[Any]]]:
    if hasattr(value, "columns") and hasattr(value, "__getitem__"):  # a table of pandas or polars
        for column in value.columns:
            yield f"{name}[{column!r}]", list(value[column])
    elif isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, (list, tuple, np.ndarray)):
                yield from _lists_in(f"{name}[{key!r}]", inner)
    elif isinstance(value, (list, tuple)) and value:
        if (
            isinstance(value[0], (list, tuple))
            and len({len(row) for row in value if isinstance(row, (list, tuple))}) == 1
        ):
            width = len(value[0])
            if width <= 8 and all(isinstance(row, (list, tuple)) for row in value):  # (path, label) pairs
                for place in range(width):
                    yield f"{name}[:, {place}]", [row[place] for row in value]
        elif _is_plain(value[0]):
            yield name, value
    elif hasattr(value, "tolist") and len(getattr(value, "shape", ())) == 1 and len(value):
        yield name, value.tolist()
    elif hasattr(value, "to_list") and len(value):
        yield name, value.to_list()


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, np.generic, PurePath)) or _is_scalar(value)


def _are_paths(values: Sequence[Any]) -> bool:
    first = values[:50]
    return len(values) > 0 and all(
        isinstance(value, (str, PurePath)) and PurePath(value).suffix.lower() in IMAGE_SUFFIXES for value in first
    )


def _are_positions(values: Sequence[Any]) -> bool:
    """Whether all are different whole numbers, none below 0."""
    if not all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in values):
        return False
    return len(values) > 1 and len(set(values)) == len(values) and min(values) >= 0
