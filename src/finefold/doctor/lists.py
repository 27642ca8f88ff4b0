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
MOST_VALUES = 20_000_000
PLAIN_COLUMNS = ("string", "large_string", "int", "uint", "float", "double", "bool")  # of an arrow table


@dataclass(frozen=True)
class Lists:
    """The lists that were found.

    Args:
        paths: [N] of the rows, where some list names an image for each.
        every_path: a longer list of paths; empty where there is none.
        labels: label lists by the attribute's name, each of N entries or more, as text.
        indices: lists of positions by the attribute's name, in the order found.
        others: [N] more that may be the rows' paths, likeliest first.
        beginnings: the first N of longer lists of paths; the rows' where the pictures say so.
    """

    paths: tuple[str, ...] = ()
    every_path: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] | None = None
    indices: Mapping[str, tuple[int, ...]] | None = None
    others: tuple[tuple[str, ...], ...] = ()
    beginnings: tuple[tuple[str, ...], ...] = ()


def find_lists(dataset: Any, num_rows: int, labels: Sequence[str]) -> Lists:
    """The lists of `dataset` and of what it wraps.

    Args:
        dataset: any object.
        num_rows: N.
        labels: [N] that the rows gave, as text.
    """
    columns = list(_columns(dataset, "", set()))
    paths = {name: values for name, values in columns if _are_paths(values)}
    indices = {name: tuple(map(int, values)) for name, values in columns if _are_positions(values)}
    known = set(labels)
    told = {}
    for name, values in columns:
        if name not in paths and len(values) >= num_rows:
            texts = tuple(map(label_text, values))
            if set(texts) >= known or _are_named_otherwise(texts[:num_rows], labels):
                told[name] = texts
    longest = max(paths.values(), key=len, default=())
    every = tuple(map(str, longest)) if len(longest) > num_rows else ()
    of_rows = [found for found in dict.fromkeys(_paths_of(dataset, set())) if len(found) == num_rows]
    beginnings = tuple(tuple(map(str, values[:num_rows])) for values in paths.values() if len(values) > num_rows)
    return Lists(of_rows[0] if of_rows else (), every, told, indices, tuple(of_rows[1:]), beginnings)


def _are_named_otherwise(texts: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether each label has one text and each text one label, as names have numbers."""
    pairs = set(zip(texts, labels, strict=False))
    return len(pairs) == len(set(texts)) == len(set(labels)) > 1


def _paths_of(dataset: Any, seen: set[int]) -> Iterator[tuple[str, ...]]:
    """Lists of paths that the rows of a data set may have: its own, and those of what it wraps, by its positions."""
    if id(dataset) in seen or len(seen) > DEPTH:
        return
    seen = seen | {id(dataset)}
    columns = [values for _, values in _own_columns(dataset)]
    own = [tuple(map(str, values)) for values in columns if _are_paths(values)]
    yield from own
    inner = [found for _, value in wrapped(dataset) for found in _paths_of(value, seen)]
    for places in (values for values in columns if _are_positions(values)):
        for found in (*inner, *own):
            if max(places) < len(found):
                yield tuple(found[place] for place in places)
    yield from inner
    for value in getattr(dataset, "__dict__", {}).values():  # several, one after the other
        if isinstance(value, (list, tuple)) and 1 < len(value) < 1000 and all(map(_is_dataset, value)):
            firsts = [next(_paths_of(one, seen), None) for one in value]
            if all(first is not None for first in firsts):
                yield tuple(path for first in firsts if first is not None for path in first)


def _is_dataset(value: Any) -> bool:
    """Whether it has rows, and is no list, array or table."""
    kind = type(value)
    if isinstance(value, (list, tuple, dict, str, bytes)) or not hasattr(value, "__dict__"):
        return False
    is_table = any(hasattr(value, name) for name in ("columns", "tolist", "to_list"))
    return hasattr(kind, "__getitem__") and hasattr(kind, "__len__") and not is_table


def wrapped(dataset: Any) -> Iterator[tuple[str, Any]]:
    """(attribute's name, data set) of what a data set keeps inside."""
    for name, value in getattr(dataset, "__dict__", {}).items():
        if _is_dataset(value):
            yield name, value


def _own_columns(dataset: Any) -> Iterator[tuple[str, Sequence[Any]]]:
    """(attribute's name, its values) of every list of plain values; what cannot be read is passed over."""
    for name, value in getattr(dataset, "__dict__", {}).items():
        try:
            yield from list(_lists_in(name, value))
        except Exception:
            continue


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


def _columns(dataset: Any, where: str, seen: set[int]) -> Iterator[tuple[str, Sequence[Any]]]:
    """(attribute's name, its values) of every list of plain values, of what is wrapped too."""
    if id(dataset) in seen or len(seen) > DEPTH:
        return
    seen = seen | {id(dataset)}
    for name, values in _own_columns(dataset):
        yield f"{where}{name}", values
    for name, value in wrapped(dataset):
        yield from _columns(value, f"{where}{name}.", seen)


def _lists_in(name: str, value: Any) -> Iterator[tuple[str, Sequence[Any]]]:
    if hasattr(value, "column_names") and hasattr(value, "schema"):  # an arrow table
        for column in value.column_names:
            if str(value.schema.field(column).type).startswith(PLAIN_COLUMNS):
                yield f"{name}[{column!r}]", value.column(column).to_pylist()
    elif hasattr(value, "columns") and hasattr(value, "__getitem__"):  # a table of pandas or polars
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
        elif isinstance(value[0], dict) and all(
            isinstance(row, dict) and row.keys() == value[0].keys() for row in value
        ):
            for key in value[0]:
                if _is_plain(value[0][key]):
                    yield f"{name}[:, {key!r}]", [row[key] for row in value]
        elif _is_plain(value[0]):
            yield name, value
    elif hasattr(value, "tolist") and len(getattr(value, "shape", ())) == 1 and 0 < len(value) < MOST_VALUES:
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
