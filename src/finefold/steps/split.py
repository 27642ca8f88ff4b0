"""`finefold split`: folds for all later runs, as a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.data.samples import SampleTable
from finefold.data.split_checks import counted
from finefold.data.splits import (
    Split,
    SplitBalance,
    check_split_covers,
    check_trainable,
    describe_balance,
    read_split,
    split_from_folds,
    write_split,
)
from finefold.data.splits import make_split as deal
from finefold.data.strata import MISSING
from finefold.errors import SplitError
from finefold.steps.progress import SILENT, Progress
from finefold.steps.reading import Data, check_images, decode, without_unreadable


@dataclass(frozen=True)
class SplitMade:
    """A split and how even it came out.

    Args:
        split: the folds.
        balance: counts per fold and class, and what could not be reached.
        names: of the classes it counts: the joint ones, then the partial labels of samples that lack a value.
        file: where it was written.
        samples: the readable samples it covers.
        findings: images that were left out.
    """

    split: Split
    balance: SplitBalance
    names: tuple[str, ...]
    file: Path
    samples: SampleTable
    findings: tuple[Finding, ...]


def split(
    data: Data, *, folds: int = 5, seed: int = 0, out: str | Path | None = None, progress: Progress = SILENT
) -> SplitMade:
    """Splits the readable samples into folds, stratified on all joint classes, groups kept whole.

    Samples that lack an attribute's value are spread evenly too, those of each partial label by themselves.
    A column of fold numbers that data.toml names is taken as it is.

    Raises:
        SplitError: there is no such split, or `out` exists and holds another one.
    """
    samples, findings = check_images(data.samples, progress=progress)
    made = make(samples, folds=folds, seed=seed)
    file = Path(out) if out is not None else data.default_split
    if file.exists() and read_split(file).hash != made.hash:
        raise _other_split(data, samples, file, folds, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_split(made, file)
    codes, names = strata_for(made, samples)
    balance = describe_balance(made, codes, names, trainable=samples.space.num_classes)
    return SplitMade(made, balance, names, file, samples, tuple(findings))


def _other_split(data: Data, samples: SampleTable, file: Path, folds: int, seed: int) -> SplitError:
    """What to do about a split that is there: where it fits, with some samples excluded since, training takes it."""
    made_anew = file.with_name(f"{file.stem}.new.csv")
    asked = f" --folds {folds}" + f" --seed {seed}" * (seed != 0)
    anew = (
        f"`finefold split {data.file}{asked} --out {made_anew}`, then `finefold train {data.file} --split {made_anew}`"
    )
    try:
        old = read_split(file)
        rest = old.without(data.excluded)
        check_fits(rest, samples)
    except SplitError:
        return SplitError(
            f"{file} holds another split, which does not fit the samples",
            f"keep it for the runs that were made by it, and deal folds of their own to the samples: {anew}; "
            "or delete the file if no run needs it",
        )
    if lost := len(old) - len(rest):
        return SplitError(
            f"{file} is there and fits, less {counted(lost, 'sample')} that data.toml excludes: training takes it so",
            f"nothing is to be done: the samples keep their folds. For folds dealt anew: {anew}",
        )
    return SplitError(
        f"{file} holds another split of the same samples",
        f"runs on different splits cannot be compared. To use both: {anew}; or delete the file if no run needs it",
    )


def make(samples: SampleTable, *, folds: int, seed: int) -> Split:
    """A split of samples: the user's own column of folds where there is one, else a balanced one."""
    if samples.fold is not None:
        own = split_from_folds(samples.ids, samples.fold.to_list(), samples.groups)
        _check_learnable(own, samples)
        return own
    codes_N, names = _strata(samples)
    groups, num_classes = samples.groups if samples.is_grouped else None, samples.space.num_classes
    made = deal(samples.ids, codes_N, groups, class_names=names, trainable=num_classes, folds=folds, seed=seed)
    _check_learnable(made, samples)
    return made


def _check_learnable(split: Split, samples: SampleTable) -> None:
    """Every fold trains every class, and holds samples out whose joint class is known.

    Raises:
        SplitError: naming each fold that does not.
    """
    codes, names = strata_for(split, samples)
    check_trainable(split, codes, names, trainable=samples.space.num_classes)
    known = split.fold_N[codes < samples.space.num_classes]
    unknown = sorted(set(range(split.num_folds)) - set(known.tolist()))
    if unknown:
        lines = [f"fold {fold} has no sample whose attributes are all known" for fold in unknown]
        raise SplitError("\n".join(lines), "the joint class could not be scored there: use fewer folds")


def check_groups(given: Split, samples: SampleTable) -> None:
    """A given split must not tear apart the samples' own groups, whatever groups its file names.

    Raises:
        SplitError: a group is in two folds.
    """
    own = samples.frame.select("id", "group")
    known = given.frame.select("id", "fold").join(own, on="id", how="inner", maintain_order="left")
    if known.height == len(given):  # else ids are unknown, which `check_fits` tells
        Split(known)


def split_of(data: Data, file: Path) -> Split:
    """A split from a file, less the samples that data.toml excludes: their folds wait for them.

    Raises:
        SplitError: it is no split, or a fold would be empty.
    """
    return read_split(file).without(data.excluded)


def known_to(given: Split, samples: SampleTable, *, max_pixels: int, progress: Progress) -> SampleTable:
    """The samples less those that a split lacks because their images do not decode; no others are opened.

    Raises:
        DataError: no image decodes.
    """
    known = set(given.frame["id"])
    missing = [(name, path) for name, path in zip(samples.ids, samples.paths, strict=True) if name not in known]
    if not missing:
        return samples
    ids, paths = zip(*missing, strict=True)
    return without_unreadable(samples, decode(ids, paths, max_pixels=max_pixels, progress=progress))


def check_fits(given: Split, samples: SampleTable) -> Split:
    """A given split, less samples that are not there to be read, once it is known to fit.

    Raises:
        SplitError: it lacks samples, knows others, lets a group cross folds, or leaves a class untrainable.
    """
    check_split_covers(given, samples.ids, samples.groups)
    _check_learnable(given, samples)
    return given


def check_train_labels(split: Split, samples: SampleTable) -> None:
    """Every class keeps a training sample in every fold after `train_bands` and `train_drop`.

    Raises:
        SplitError: naming each fold and class that has none left.
    """
    folds_N, train_N, num_classes = split.folds_for(samples.ids), samples.train_labels_N, samples.space.num_classes
    lines = []
    for fold in range(split.num_folds):
        counts_K = np.bincount(train_N[(folds_N != fold) & (train_N >= 0)], minlength=num_classes)
        lines += [
            f"fold {fold} has no training sample of class `{name}` left by train_bands and train_drop"
            for name, count in zip(samples.space.class_names, counts_K, strict=True)
            if not count
        ]
    if lines:
        raise SplitError("\n".join(lines), "move the bounds of train_bands, or drop less with train_drop, in data.toml")


def _strata(samples: SampleTable) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """What a split spreads evenly: [N] joint classes and partial labels, one of them for samples of which nothing is
    known; and their names.
    """
    strata = samples.strata
    if (strata.codes_N >= 0).all():
        return strata.codes_N, strata.names
    return np.where(strata.codes_N < 0, len(strata), strata.codes_N), (*strata.names, MISSING)


def strata_for(split: Split, samples: SampleTable) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The same in the split's own order."""
    codes_N, names = _strata(samples)
    code_of = dict(zip(samples.ids, codes_N.tolist(), strict=True))
    return np.array([code_of[name] for name in split.frame["id"]], np.int64), names


def make_split(data: Data, *, folds: int = 5, seed: int = 0, progress: Progress = SILENT) -> Split:
    """The split that `split` would write, kept in memory.

    Raises:
        SplitError: there is no such split.
    """
    samples, _ = check_images(data.samples, progress=progress)
    return make(samples, folds=folds, seed=seed)
