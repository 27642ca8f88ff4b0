"""What can be wrong with a split, each mistake with its remedy; all of one input are told at once."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.errors import SplitError

SHOWN = 5  # names told of a long list


class Mistake(NamedTuple):
    """One thing wrong with a split, and what to do about it."""

    message: str
    hint: str


def find_mistakes(frame: pl.DataFrame) -> list[Mistake]:
    """Every way in which columns id, fold and group fail to be a split."""
    if frame.is_empty():
        return [Mistake("there are no samples to split", "check the [samples] table of data.toml")]
    mistakes = mistakes_of_ids(frame["id"], frame["group"])
    return [*mistakes, *mistakes_of_numbers(frame["fold"]), *mistakes_of_groups(frame)]


def mistakes_of_numbers(folds: pl.Series) -> list[Mistake]:
    """Folds must be 0..F-1 and at least two."""
    if folds.null_count():
        return [Mistake(f"{counted(folds.null_count(), 'row')} without a fold", "give every sample a fold")]
    present = folds.unique().sort().to_list()
    if present == [0]:
        return [Mistake("all samples are in fold 0", "use at least 2 folds: each is trained on the others")]
    if present == list(range(len(present))):
        return []
    told = ", ".join(str(fold) for fold in present[:12]) + (", ..." if len(present) > 12 else "")
    wanted = f"0 to {max(2, len(present)) - 1}"
    return [Mistake(f"folds are {told}; expected {wanted} without gaps", "number the folds from 0")]


def mistakes_of_groups(frame: pl.DataFrame) -> list[Mistake]:
    """No group may be in two folds."""
    folds = pl.col("fold").unique().sort()
    crossing = frame.group_by("group").agg(folds).filter(pl.col("fold").list.len() > 1).sort("group")
    if crossing.is_empty():
        return []
    told = [f"`{group}` (folds {', '.join(map(str, folds))})" for group, folds in crossing.head(SHOWN).rows()]
    rest = f" and {crossing.height - SHOWN} more" if crossing.height > SHOWN else ""
    count = "1 group is" if crossing.height == 1 else f"{crossing.height} groups are"
    return [
        Mistake(
            f"{count} in more than one fold: {', '.join(told)}{rest}",
            "keep a group in one fold, or its samples are trained on and validated: `finefold split` does",
        )
    ]


def mistakes_of_ids(id_N: pl.Series, group_N: pl.Series) -> list[Mistake]:
    """Every sample has an id of its own, and a group."""
    mistakes = []
    for name, values in (("id", id_N), ("group", group_N)):
        empty = int((values.fill_null("") == "").sum())
        if empty and not (name == "group" and group_N.equals(id_N)):
            mistakes.append(Mistake(f"{counted(empty, 'sample')} without {name}", f"give every sample its {name}"))
    twice = id_N.drop_nulls().value_counts().filter(pl.col("count") > 1)[id_N.name].sort()
    if len(twice):
        hint = "ids must be unique"
        mistakes.append(Mistake(f"{counted(len(twice), 'id')} more than once: {first_few(twice)}", hint))
    return mistakes


def mistakes_of_labels(labels_N: NDArray[np.int64], num_classes: int) -> list[Mistake]:
    """Labels are codes 0..K-1."""
    if len(labels_N) == 0 or (labels_N.min() >= 0 and labels_N.max() < num_classes):
        return []
    got = f"label codes run from {labels_N.min()} to {labels_N.max()}"
    return [Mistake(f"{got}; expected 0 to {num_classes - 1}", "leave out samples without a label")]


def mistakes_of_folds(folds: int, *, num_groups: int, grouped: bool) -> list[Mistake]:
    """There are at least two folds and something for each."""
    if num_groups == 0:
        return [Mistake("there are no samples to split", "check the [samples] table of data.toml")]
    if folds < 2:
        return [Mistake(f"cannot split into {counted(folds, 'fold')}", "use at least 2 folds")]
    if folds <= num_groups:
        return []
    noun = "group" if grouped else "sample"
    hint = f"use at most {num_groups} folds" if num_groups > 1 else f"a split needs at least 2 {noun}s"
    return [Mistake(f"cannot split {counted(num_groups, noun)} into {folds} folds: none may be empty", hint)]


def check_lengths(num_ids: int, num_values: int, num_groups: int | None = None, *, what: str = "labels") -> None:
    """Ids, values and groups come one per sample."""
    groups = num_ids if num_groups is None else num_groups
    if num_ids == num_values == groups:
        return
    told = "" if num_groups is None else f", {num_groups} groups"
    raise SplitError(f"{num_ids} ids, {num_values} {what}{told}", "give one of each per sample, in one order")


def as_strings(values: Sequence[str] | pl.Series) -> pl.Series:
    """A polars series of texts, whatever it came as."""
    if isinstance(values, pl.Series):
        return values.cast(pl.String)
    values = list(values)
    wrong = next((value for value in values if not (value is None or isinstance(value, str))), None)
    if wrong is not None:
        got = f"`{wrong}` is of type {type(wrong).__name__}"
        raise SplitError(f"ids and groups are texts; {got}", "give them as texts: a number loses its zeros")
    return pl.Series(values, dtype=pl.String)


def raise_mistakes(mistakes: Sequence[Mistake], *, where: str = "") -> None:
    """Raise all mistakes as one SplitError, each on its line after `where`; nothing if there are none."""
    if mistakes:
        hints = dict.fromkeys(mistake.hint for mistake in mistakes)
        raise SplitError("\n".join(where + mistake.message for mistake in mistakes), "; ".join(hints))


def first_few(names: Iterable[Any]) -> str:
    """The first names in backticks, and how many more."""
    names = list(names)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:SHOWN]) + rest


def are(number: int) -> str:
    """The verb after so many things."""
    return "is" if number == 1 else "are"


def counted(number: int, noun: str) -> str:
    """The number with its noun, in the plural where it must be."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
