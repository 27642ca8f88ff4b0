"""What steps/split.py checks beyond the split room itself."""

from pathlib import Path

import polars as pl
import pytest

from finefold.data.labels import Attribute, LabelSpace
from finefold.data.samples import SampleTable
from finefold.data.splits import Split
from finefold.errors import SplitError
from finefold.steps.split import check_groups, check_train_labels


def _samples(train_labels: list[int | None]) -> SampleTable:
    space = LabelSpace((Attribute("kind", ("a", "b"), "kind", (("a",), ("b",))),))
    labels = [0, 0, 1, 1]
    names = [f"{number}.jpg" for number in range(4)]
    frame = pl.DataFrame(
        {
            "id": names,
            "path": names,
            "group": ["g0", "g1", "g0", "g1"],
            "source": [""] * 4,
            "kind": ["a", "a", "b", "b"],
            "label": pl.Series(labels, dtype=pl.Int32),
            "train_label": pl.Series(train_labels, dtype=pl.Int32),
        }
    )
    return SampleTable(frame, space, Path())


def _split(folds: list[int]) -> Split:
    names = [f"{number}.jpg" for number in range(4)]
    return Split(pl.DataFrame({"id": names, "fold": pl.Series(folds, dtype=pl.Int32), "group": names}))


def test_a_class_that_training_drops_whole_is_an_error():
    """Where train_drop leaves a fold nothing to learn a class from, the fold and the class are named."""
    check_train_labels(_split([0, 1, 0, 1]), _samples([0, 0, 1, 1]))
    with pytest.raises(SplitError) as raised:
        check_train_labels(_split([0, 1, 0, 1]), _samples([0, 0, None, 1]))
    assert "fold 1 has no training sample of class `b` left by train_bands and train_drop" in str(raised.value)
    assert "train_drop" in str(raised.value.hint)
    assert "fold 0" not in str(raised.value)


def test_the_samples_own_groups_rule_over_those_of_the_file():
    """A file that names every sample its own group still may not tear apart the samples' groups."""
    check_groups(_split([0, 1, 0, 1]), _samples([0, 0, 1, 1]))
    with pytest.raises(SplitError, match="`g0`"):
        check_groups(_split([0, 1, 1, 0]), _samples([0, 0, 1, 1]))
