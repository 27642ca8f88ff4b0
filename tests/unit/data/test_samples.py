"""The sample table: an illegal one cannot be made, and its hash says whether two are the same."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from finefold.data.labels import Attribute, LabelSpace
from finefold.data.samples import SampleTable
from finefold.errors import DataError

SPACE = LabelSpace((Attribute("kind", ("cat", "dog"), "kind", (("cat",), ("dog",))),))


def table_of(ids: list[str], *, fold: list[str] | None = None, **columns: list[Any]) -> SampleTable:
    """Cats, each its own group and file, unless columns say otherwise."""
    values = {"path": ids, "group": ids, "source": [""] * len(ids), "label": [0] * len(ids)} | columns
    values = {"id": ids, "train_label": values["label"], "kind": ["cat"] * len(ids)} | values
    types = {name: pl.Int32 if name.endswith("label") else pl.String for name in values}
    return SampleTable(
        pl.DataFrame(values, schema=types), SPACE, Path("root"), None if fold is None else pl.Series(fold)
    )


def told(action: Callable[[], Any]) -> tuple[str, str | None]:
    with pytest.raises(DataError) as caught:
        action()
    return caught.value.message, caught.value.hint


def test_says_what_it_holds() -> None:
    """Ids, groups, labels, training labels (-1 where kept out), files and counts come in the rows' order."""
    table = table_of(["b", "a", "c"], group=["x", "x", "y"], label=[1, 0, 1], train_label=[1, None, 0])
    assert len(table) == 3
    assert (table.ids, table.groups, table.is_grouped) == (["b", "a", "c"], ["x", "x", "y"], True)
    assert table.labels_N.tolist() == [1, 0, 1]
    assert table.train_labels_N.tolist() == [1, -1, 0]
    assert table.labels_N.dtype == table.train_labels_N.dtype == np.int64
    assert table.paths == [Path("root/b"), Path("root/a"), Path("root/c")]
    assert table.counts_K().tolist() == [1, 2]
    assert not table_of(["a", "b"]).is_grouped


def test_counts_name_every_class() -> None:
    """A class without samples counts 0."""
    assert table_of(["a"]).counts_K().tolist() == [1, 0]


def test_an_empty_table_is_refused() -> None:
    """No samples is an error that names the folder."""
    assert told(lambda: table_of([])) == (
        "no samples in root",
        "check `root` and the template, csv or class folders",
    )


def test_repeated_ids_are_refused() -> None:
    """Ids are unique; the error counts the repeated ones and shows five."""
    ids = [str(number) for number in range(7)] * 2
    assert told(lambda: table_of(ids, path=[str(number) for number in range(14)])) == (
        "two samples have the id `0`, `1`, `2`, `3`, `4` (7 such)",
        "give `[samples] id` a column without repeats",
    )


def test_repeated_files_are_refused() -> None:
    """No two samples share a file."""
    assert told(lambda: table_of(["a", "b"], path=["x", "x"])) == (
        "two samples share the file `x` (1 such)",
        "list every image once",
    )


def test_is_a_value() -> None:
    """Nothing of a table can be set anew."""
    with pytest.raises(FrozenInstanceError):
        table_of(["a"]).root = Path()  # type: ignore[misc]


def test_leaving_samples_out_makes_another_table() -> None:
    """`without` keeps order and folds of the others, knows no strangers, and changes nothing itself."""
    table = table_of(["a", "b", "c"], fold=["1", "2", "3"])
    less = table.without({"b", "stranger"})
    assert less.ids == ["a", "c"]
    assert less.fold is not None
    assert less.fold.to_list() == ["1", "3"]
    assert len(table) == 3
    assert table.without([]).ids == table.ids
    assert told(lambda: table.without(["a", "b", "c"]))[0] == "no samples in root"


def test_the_hash_sees_content_not_order() -> None:
    """Rows in another order hash alike; another id, group, label or training label does not."""
    table = table_of(["a", "b"], label=[0, 1])
    assert len(table.hash) == 16
    assert table.hash == table_of(["b", "a"], label=[1, 0]).hash
    others = [
        table_of(["a", "c"], label=[0, 1]),
        table_of(["a", "b"], label=[0, 1], group=["x", "x"]),
        table_of(["a", "b"], label=[1, 0]),
        table_of(["a", "b"], label=[0, 1], train_label=[0, None]),
    ]
    assert len({table.hash, *(other.hash for other in others)}) == 5
