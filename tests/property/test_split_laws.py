"""Laws of splits: folds partition, groups never cross, order does not matter, files say it all."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from finefold.data.splits import Split, describe_balance, make_split, read_split, write_split

few = settings(deadline=None, max_examples=40)


class Samples(NamedTuple):
    """Samples to split, and into how many folds."""

    ids: list[str]
    labels: list[int]
    groups: list[str]
    class_names: list[str]
    folds: int

    def split(self, *, seed: int = 0) -> Split:
        """The split of them."""
        return make_split(self.ids, self.labels, self.groups, class_names=self.class_names, folds=self.folds, seed=seed)


@st.composite
def grouped_samples(draw: st.DrawFn) -> Samples:
    """Groups of any make, and two that hold every class, so that a split exists."""
    num_classes = draw(st.integers(1, 6))
    group = st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=8)
    groups = [*draw(st.lists(group, max_size=25)), list(range(num_classes)), list(range(num_classes))]
    rows = [(f"group {g}", label) for g, labels in enumerate(groups) for label in labels]
    ids = [f"{i:04d}" for i in draw(st.permutations(range(len(rows))))]
    folds = draw(st.integers(2, min(5, len(groups))))
    names = [f"class {k}" for k in range(num_classes)]
    return Samples(ids, [label for _, label in rows], [name for name, _ in rows], names, folds)


@st.composite
def shuffled(draw: st.DrawFn) -> tuple[Samples, list[int]]:
    """Samples and another order of them."""
    samples = draw(grouped_samples())
    return samples, draw(st.permutations(range(len(samples.ids))))


@few
@given(grouped_samples(), st.integers(0, 3))
def test_folds_partition_the_ids(samples: Samples, seed: int) -> None:
    """Every id is in exactly one fold, folds are 0..F-1 and none is empty."""
    split = samples.split(seed=seed)
    assert split.frame["id"].to_list() == samples.ids
    assert set(split.frame["fold"]) == set(range(samples.folds))
    assert split.num_folds == samples.folds


@few
@given(grouped_samples(), st.integers(0, 3))
def test_groups_never_cross(samples: Samples, seed: int) -> None:
    """All samples of a group are in one fold."""
    folds = samples.split(seed=seed).frame.group_by("group").agg(pl.col("fold").n_unique())["fold"]
    assert folds.max() == 1


@few
@given(grouped_samples(), st.integers(0, 3))
def test_every_fold_can_train_every_class(samples: Samples, seed: int) -> None:
    """Classes that two groups hold are never wholly in one fold."""
    balance = describe_balance(samples.split(seed=seed), samples.labels, samples.class_names)
    assert (balance.counts_FK < balance.counts_FK.sum(axis=0)).all()


@few
@given(shuffled(), st.integers(0, 3))
def test_order_of_rows_does_not_matter(case: tuple[Samples, list[int]], seed: int) -> None:
    """Samples in another order get the same folds, and the split the same hash."""
    samples, order = case
    ids, labels, groups = ([column[i] for i in order] for column in samples[:3])
    there, back = samples.split(seed=seed), Samples(ids, labels, groups, *samples[3:]).split(seed=seed)
    assert back.hash == there.hash
    assert back == there
    assert (back.folds_for(samples.ids) == there.fold_N).all()
    assert (there.folds_for(ids) == back.fold_N).all()


@few
@given(grouped_samples(), st.integers(0, 2**40))
def test_same_seed_same_split(samples: Samples, seed: int) -> None:
    """A split is a function of samples and seed."""
    assert samples.split(seed=seed).frame.equals(samples.split(seed=seed).frame)


@few
@given(st.lists(st.integers(2, 40), min_size=1, max_size=8), st.integers(2, 7), st.integers(0, 3))
def test_ungrouped_samples_are_even_to_one(counts: list[int], folds: int, seed: int) -> None:
    """Without groups, folds differ by at most one sample of every class, and in all."""
    labels = np.repeat(np.arange(len(counts)), counts)
    folds = min(folds, len(labels))
    names, ids = [str(k) for k in range(len(counts))], [f"{i:03d}" for i in range(len(labels))]
    split = make_split(ids, labels, None, class_names=names, folds=folds, seed=seed)
    balance = describe_balance(split, labels, names)
    assert np.ptp(balance.counts_FK, axis=0).max() <= 1
    assert np.ptp(balance.sizes_F) <= 1


@few
@given(st.lists(st.integers(1, 9), min_size=4, max_size=40), st.integers(2, 4))
def test_groups_of_one_class_are_even_to_the_largest(sizes: list[int], folds: int) -> None:
    """With one class, no fold is further from the mean than the largest group."""
    groups = [f"{g:02d}" for g, size in enumerate(sizes) for _ in range(size)]
    labels, ids = np.zeros(len(groups), dtype=int), [str(i) for i in range(len(groups))]
    split = make_split(ids, labels, groups, class_names=["x"], folds=folds)
    sizes_F = describe_balance(split, labels, ["x"]).sizes_F
    assert np.abs(sizes_F - sizes_F.mean()).max() <= max(sizes)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
hard_texts = st.one_of(
    texts, st.sampled_from(["0012", "1,2", '"', 'a"b', " a ", "1e3", "é", "NA", "null", "\r", "a\nb"])
)


@few
@given(st.lists(hard_texts, min_size=2, max_size=12, unique=True), st.data())
def test_files_say_it_all(ids: list[str], data: st.DataObject) -> None:
    """A split read back from its file is the split: zeros, commas, quotes, line ends and all scripts."""
    groups = data.draw(st.lists(hard_texts, min_size=len(ids), max_size=len(ids)))
    group_folds = {group: fold % 2 for fold, group in enumerate(dict.fromkeys(groups))}
    if len(group_folds) == 1:
        groups, group_folds = ids, {name: fold % 2 for fold, name in enumerate(ids)}
    folds = [group_folds[group] for group in groups]
    split = Split(pl.DataFrame({"id": ids, "fold": folds, "group": groups}))
    with TemporaryDirectory() as folder:
        write_split(split, Path(folder) / "split.csv")
        back = read_split(Path(folder) / "split.csv")
    assert back.frame.equals(split.frame)
    assert back.hash == split.hash
