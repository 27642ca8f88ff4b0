"""Split: which fold every sample belongs to. Made stratified and by group, checked, and kept as a file.

A fold is the held-out part of one training: fold 3 trains on the samples of all folds but 3. Samples of
one group (a person, a scene) are always in one fold.

Shapes: N samples in the order of the ids at hand, F folds, K classes.
"""

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from finefold.data.dealing import deal_groups
from finefold.data.images import natural_key
from finefold.data.split_checks import (
    Mistake,
    as_strings,
    check_lengths,
    counted,
    find_mistakes,
    first_few,
    mistakes_of_folds,
    mistakes_of_groups,
    mistakes_of_ids,
    mistakes_of_labels,
    raise_mistakes,
)
from finefold.data.split_rows import read_rows
from finefold.errors import SplitError

ANEW = (
    "deal folds to the samples that are there: `finefold split DATA.toml --out NEW.csv`, then `finefold train "
    "DATA.toml --split NEW.csv`"
)


@dataclass(frozen=True, eq=False)
class Split:
    """The fold of every sample. Two splits are equal when they say the same, in whatever order.

    Args:
        frame: columns `id` (String, unique), `fold` (Int32, 0..F-1, none empty, F >= 2) and `group`
            (String, never in two folds), rows in any order.

    Raises:
        SplitError: with every way in which the frame breaks the above.
    """

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        frame = self.frame.select(
            pl.col("id").cast(pl.String), pl.col("fold").cast(pl.Int32), pl.col("group").cast(pl.String)
        )
        raise_mistakes(find_mistakes(frame))
        object.__setattr__(self, "frame", frame)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Split) and self.hash == other.hash

    def __hash__(self) -> int:
        return int(self.hash, 16)

    def __len__(self) -> int:
        return self.frame.height

    @cached_property
    def num_folds(self) -> int:
        """F."""
        return int(self.fold_N.max()) + 1

    @property
    def fold_N(self) -> NDArray[np.int32]:
        """The fold of each row of the frame."""
        return self.frame["fold"].to_numpy()

    @cached_property
    def hash(self) -> str:
        """16 hex digits of sha256 over the rows sorted by id; the same for rows in another order.

        Column by column (id, fold, group): lengths in bytes of all texts, then the texts, then numbers,
        little-endian, so that no two contents look alike.
        """
        rows, digest = self.frame.sort("id"), hashlib.sha256()
        for name in ("id", "group"):
            digest.update(rows[name].str.len_bytes().to_numpy().astype("<u4").tobytes())
            digest.update("".join(rows[name]).encode())
        digest.update(rows["fold"].to_numpy().astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    def without(self, ids: Collection[str]) -> "Split":
        """The split less these samples; ids that it does not hold change nothing.

        Raises:
            SplitError: a fold would be empty.
        """
        kept = self.frame.filter(~pl.col("id").is_in(list(ids)))
        return self if kept.height == len(self) else Split(kept)

    def folds_for(self, ids: Sequence[str] | pl.Series) -> NDArray[np.int64]:
        """The folds of these samples, [N] in their order.

        Raises:
            SplitError: some of them are not in the split.
        """
        asked = pl.DataFrame({"id": as_strings(ids)})
        found = asked.join(self.frame, on="id", how="left", maintain_order="left")["fold"]
        if found.null_count():
            missing = asked["id"].filter(found.is_null())
            raise SplitError(
                f"{counted(len(missing), 'sample')} of {len(asked)} not in the split: {first_few(missing)}",
                ANEW,
            )
        return found.to_numpy().astype(np.int64)


def make_split(
    ids: Sequence[str] | pl.Series,
    labels_N: ArrayLike,
    groups: Sequence[str] | pl.Series | None,
    *,
    class_names: Sequence[str],
    trainable: int | None = None,
    folds: int = 5,
    seed: int = 0,
    tries: int = 10,
) -> Split:
    """Deal samples to folds so that every class is as even as can be and no group is torn apart.

    The same samples and seed give the same split, on every machine and in whatever order they come.

    Args:
        ids: [N] unique.
        labels_N: [N] codes of the joint class, 0..K-1.
        groups: [N] what must stay together; None lets every sample go its own way.
        class_names: [K].
        trainable: so many classes, the first ones, must have samples outside every fold; all where None.
        folds: at least 2, at most the number of groups.
        seed: at least 0.
        tries: how many deals to make; the most even one is kept.

    Raises:
        SplitError: the input is impossible, or a fold would have nothing to train a class on.
    """
    id_N = as_strings(ids)
    group_N = id_N if groups is None else as_strings(groups)
    labels = np.asarray(labels_N, dtype=np.int64)
    check_lengths(len(id_N), len(labels), len(group_N))
    raise_mistakes(
        [
            *mistakes_of_ids(id_N, group_N),
            *mistakes_of_labels(labels, len(class_names)),
            *mistakes_of_folds(folds, num_groups=group_N.n_unique(), grouped=groups is not None),
            *([] if seed >= 0 else [Mistake(f"seed is {seed}; expected 0 or more", "use another seed")]),
        ]
    )
    code_N = group_N.rank("dense").to_numpy().astype(np.int64) - 1  # by name: rows may come in any order
    fold_G = deal_groups(code_N, labels, num_classes=len(class_names), folds=folds, seed=seed, tries=tries)
    split = Split(pl.DataFrame({"id": id_N, "fold": fold_G[code_N], "group": group_N}))
    check_trainable(split, labels, class_names, trainable=trainable)
    return split


def split_from_folds(
    ids: Sequence[str] | pl.Series, folds: Iterable[Any], groups: Sequence[str] | pl.Series | None
) -> Split:
    """A split from a user's own column of folds: numbers or names, in natural order ('2' before '10').

    Raises:
        SplitError: a sample has no fold, all are in one, or a group is in two.
    """
    id_N = as_strings(ids)
    group_N = id_N if groups is None else as_strings(groups)
    names = ["" if fold is None or fold != fold else _fold_name(fold) for fold in folds]
    check_lengths(len(id_N), len(names), len(group_N), what="folds")
    if "" in names:
        lacking = id_N.filter(pl.Series(names) == "")
        raise SplitError(
            f"{counted(len(lacking), 'sample')} without a fold: {first_few(lacking)}",
            "give every sample a fold, or leave it out of the data",
        )
    number = {name: fold for fold, name in enumerate(sorted(set(names), key=natural_key))}
    fold_N = pl.Series([number[name] for name in names], dtype=pl.Int32)
    return Split(pl.DataFrame({"id": id_N, "fold": fold_N, "group": group_N}))


def _fold_name(fold: Any) -> str:
    """A fold as text, without the `.0` that a column with gaps gives to whole numbers."""
    if isinstance(fold, (float, np.floating)) and float(fold).is_integer():
        return str(int(fold))
    return str(fold).strip()


def check_trainable(
    split: Split, labels_N: ArrayLike, class_names: Sequence[str], *, trainable: int | None = None
) -> None:
    """Every class must have samples outside every fold, or that fold's training never sees it.

    Args:
        split: any split.
        labels_N: [N] codes of the joint class, aligned with the split's rows.
        class_names: [K].
        trainable: only the first so many classes must; all where None.

    Raises:
        SplitError: naming every such class and fold.
    """
    labels = np.asarray(labels_N, dtype=np.int64)
    check_lengths(len(split), len(labels))
    raise_mistakes(mistakes_of_labels(labels, len(class_names)))
    counts_FK = count_classes(split, labels, len(class_names))
    total_K = counts_FK.sum(axis=0)
    stuck = [k for k, total in enumerate(total_K[:trainable]) if counts_FK[:, k].max() == total]
    if not stuck:
        return
    groups_K = np.bincount(_cells(split, labels)["class"].to_numpy(), minlength=len(class_names))
    lines, facts = [], []
    for k in stuck:
        it = "it" if len(stuck) == 1 else f"`{class_names[k]}`"
        if total_K[k] == 0:
            lines.append(f"no fold has a training sample of class `{class_names[k]}`")
            facts.append(f"there is no sample of {it}")
            continue
        fold = int(counts_FK[:, k].argmax())
        lines.append(f"fold {fold} has no training sample of class `{class_names[k]}`")
        come = "comes" if total_K[k] == 1 else "come"
        facts.append(f"{counted(total_K[k], 'sample')} of {it} {come} from {counted(groups_K[k], 'group')}")
    advice = ["merge classes or bands in data.toml, or add samples"] * any(groups_K[k] < 2 for k in stuck)
    advice += ["spread its groups over folds, or try another number of folds"] * any(groups_K[stuck] > 1)
    raise SplitError("\n".join(lines), f"{', '.join(facts)}; {'; '.join(advice)}")


def check_split_covers(split: Split, ids: Sequence[str] | pl.Series, groups: Sequence[str] | pl.Series | None) -> None:
    """A split and a table of samples must belong together.

    Args:
        split: any split; its own groups are not looked at.
        ids: [N] the samples.
        groups: [N] their groups, which no two folds may share; None for samples without.

    Raises:
        SplitError: ids that are no samples, samples without a fold, groups in several folds.
    """
    id_N = as_strings(ids)
    group_N = id_N if groups is None else as_strings(groups)
    check_lengths(len(id_N), len(id_N), len(group_N))
    samples = pl.DataFrame({"id": id_N, "group": group_N})
    known = split.frame.join(samples, on="id", how="semi").height
    mistakes = []
    if known < len(split):
        unknown = split.frame.join(samples, on="id", how="anti", maintain_order="left")["id"]
        mistakes.append(
            Mistake(
                f"{counted(len(unknown), 'id')} of the split not among the samples: {first_few(unknown)}",
                ANEW,
            )
        )
    missing = samples.join(split.frame, on="id", how="anti", maintain_order="left")["id"]
    if len(missing):
        mistakes.append(
            Mistake(
                f"{counted(len(missing), 'sample')} not in the split: {first_few(missing)}",
                ANEW,
            )
        )
    placed = samples.join(split.frame.select("id", "fold"), on="id", how="inner", maintain_order="left")
    raise_mistakes([*mistakes, *mistakes_of_groups(placed)])


def read_split(path: str | os.PathLike[str]) -> Split:
    """Read a split from CSV: columns id, fold and, if there are groups, group. Ids keep their zeros.

    Raises:
        SplitError: with every mistake of the file and its line.
    """
    return Split(read_rows(Path(path)))


def write_split(split: Split, path: str | os.PathLike[str]) -> None:
    """Write columns id, fold, group as CSV; the file is there whole or not at all.

    Raises:
        SplitError: the file cannot be written.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(split.frame.select("id", "fold", "group").write_csv().encode())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        hint = "give a path in a folder that exists and can be written"
        raise SplitError(f"{path}: cannot be written: {error.strerror}", hint) from error


@dataclass(frozen=True, eq=False)
class SplitBalance:
    """How even a split is.

    Args:
        counts_FK: [F, K] samples of every class in every fold.
        sizes_F: [F] samples in every fold.
        groups_F: [F] groups in every fold.
        unreached: what could be more even, one plain sentence each.
    """

    counts_FK: NDArray[np.int64]
    sizes_F: NDArray[np.int64]
    groups_F: NDArray[np.int64]
    unreached: tuple[str, ...]


def describe_balance(
    split: Split, labels_N: ArrayLike, class_names: Sequence[str], *, trainable: int | None = None
) -> SplitBalance:
    """Count classes, samples and groups per fold, and say what balance was not reached.

    Told are classes that a fold has no sample of, and counts further from the mean than the largest
    number that one group holds and 10 %.

    Args:
        split: any split.
        labels_N: [N] codes of the joint class, aligned with the split's rows.
        class_names: [K].
        trainable: only of the first so many classes is told what was not reached; of all where None.
    """
    labels = np.asarray(labels_N, dtype=np.int64)
    check_lengths(len(split), len(labels))
    raise_mistakes(mistakes_of_labels(labels, len(class_names)))
    counts_FK, cells = count_classes(split, labels, len(class_names)), _cells(split, labels)
    groups_K = np.bincount(cells["class"].to_numpy(), minlength=len(class_names))
    largest_K = np.zeros(len(class_names), dtype=np.int64)
    np.maximum.at(largest_K, cells["class"].to_numpy(), cells["len"].to_numpy())
    unreached = []
    for k, name in enumerate(class_names[:trainable]):
        empty = np.flatnonzero(counts_FK[:, k] == 0)
        if groups_K[k] == 0:
            unreached.append(f"class `{name}` has no sample")
        elif len(empty):
            have = f"{counted(groups_K[k], 'group')} for {split.num_folds} folds"
            folds = f"fold {empty[0]} has" if len(empty) == 1 else f"folds {', '.join(map(str, empty))} have"
            unreached.append(f"class `{name}` has {have}: {folds} no sample of it")
        elif told := _uneven(counts_FK[:, k], largest_K[k]):
            unreached.append(f"class `{name}`: {told}")
    groups = split.frame.group_by("group").agg(pl.len(), pl.col("fold").first())
    sizes_F = counts_FK.sum(axis=1)
    if told := _uneven(sizes_F, groups["len"].to_numpy().max()):
        unreached.append(f"all classes together: {told}")
    groups_F = np.bincount(groups["fold"].to_numpy(), minlength=split.num_folds)
    return SplitBalance(counts_FK, sizes_F, groups_F, tuple(unreached))


def _uneven(counts_F: NDArray[np.int64], largest_group: int) -> str:
    """How counts per fold are uneven beyond one group and 10 %, or nothing."""
    wanted = float(counts_F.mean())
    if np.abs(counts_F - wanted).max() <= max(largest_group, 0.1 * wanted):
        return ""
    return f"{counts_F.min()} to {counts_F.max()} samples per fold, {wanted:.1f} wanted"


def count_classes(split: Split, labels_N: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Samples of every class in every fold, [F, K]."""
    cell_N = split.fold_N.astype(np.int64) * num_classes + labels_N
    return np.bincount(cell_N, minlength=split.num_folds * num_classes).reshape(split.num_folds, num_classes)


def _cells(split: Split, labels_N: NDArray[np.int64]) -> pl.DataFrame:
    """One row per group and class: columns group, class, len."""
    return split.frame.select("group").with_columns(pl.Series("class", labels_N)).group_by("group", "class").len()
