"""What steps/split.py checks beyond the split room itself."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from finefold.data.labelling import label_samples
from finefold.data.labels import Attribute, LabelSpace
from finefold.data.samples import SampleTable
from finefold.data.splits import Split
from finefold.errors import SplitError
from finefold.steps.split import check_fits, check_groups, check_train_labels, make, strata_for


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


def _with_gaps(num: int) -> SampleTable:
    """Two attributes of two classes, a third of the second one's values and one whole label missing."""
    space = LabelSpace(
        tuple(Attribute(name, ("a", "b"), name, (("a",), ("b",)), missing=("?",)) for name in ("one", "two"))
    )
    ids = [f"{number:03}" for number in range(num)]
    raw = {
        "one": ["a", "b"] * (num // 2),
        "two": ["?" if number % 3 == 0 else "ab"[number % 4 // 2] for number in range(num)],
    }
    raw["one"][0] = "?"
    frame = pl.DataFrame({"id": ids, "path": ids, "group": ids, "source": [""] * num})
    return SampleTable(label_samples(frame, pl.DataFrame(raw), space, None), space, Path())


def test_partial_labels_are_spread_evenly_too():
    """Every fold gets its share of each joint class and of each partial label, and all samples are in some fold."""
    samples = _with_gaps(120)
    made = make(samples, folds=4, seed=0)
    codes, names = strata_for(made, samples)
    assert names[4:] == ("a/(missing)", "b/(missing)", "(missing)")
    for code in range(6):
        counts = np.bincount(made.fold_N[codes == code], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert len(made) == 120


def test_a_class_must_be_known_whole_somewhere():
    """Classes that only partial labels could be of are told: no fold trains them."""
    samples = _with_gaps(120)
    table = samples.without([one for one, label in zip(samples.ids, samples.labels_N, strict=True) if label == 3])
    with pytest.raises(SplitError, match="no fold has a training sample of class `b/b`"):
        make(table, folds=4, seed=0)


def test_a_fold_must_hold_out_a_whole_label():
    """A fold of partial labels alone cannot be scored, and is told."""
    samples = _with_gaps(120)
    fold_N = np.where(samples.labels_N < 0, 2, np.arange(120) // 4 % 2)
    given = Split(pl.DataFrame({"id": samples.ids, "fold": fold_N, "group": samples.ids}))
    with pytest.raises(SplitError, match="fold 2 has no sample whose attributes are all known"):
        check_fits(given, samples)
