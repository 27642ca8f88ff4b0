"""Counts that are known by design, of all images or of each group of them, brought into the answers.

Shapes: N images, K joint classes, C classes that counts are of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.labels import LabelSpace
from finefold.data.predictions import Ledger
from finefold.data.split_checks import counted
from finefold.data.submission import Template
from finefold.errors import DataError, UsageError
from finefold.metrics.counts import Margin, in_groups
from finefold.metrics.intervals import group_codes
from finefold.metrics.paired import SCORES, Drawn, draw
from finefold.steps.answers import Answers
from finefold.steps.class_tables import JOINT, read_class_tables
from finefold.steps.pooling import Pooling, given_groups, pool_answers
from finefold.steps.progress import Progress
from finefold.steps.run import Run


@dataclass(frozen=True)
class Counts:
    """How many images there are of each class, by design.

    Args:
        file: that says so.
        of: attribute, or `joint` -> [C] whole numbers.
        each: what they hold in: a column of the template or a CSV that says groups; all images together where None.
    """

    file: Path
    of: Mapping[str, NDArray[np.int64]]
    each: str | None = None

    @property
    def total(self) -> int:
        """Images that they are of."""
        return int(next(iter(self.of.values())).sum())


def read_counts(file: str | Path, space: LabelSpace, each: str | None = None) -> Counts:
    """Counts that a TOML file says: a table for an attribute, or `[joint]` for the joint class.

    Raises:
        DataError: the file cannot be read, names what is not there, or its counts are none; all at once.
    """
    path = Path(file)
    found, mistakes = read_class_tables(path, space, _mistakes)
    counts = {name: np.asarray(values_C, np.int64) for name, values_C in found.items()}
    if len({int(counts_C.sum()) for counts_C in counts.values()}) > 1:
        said = ", ".join(f"{name} {counts_C.sum()}" for name, counts_C in counts.items())
        mistakes.append(f"its tables are of different numbers of images: {said}")
    if mistakes:
        lines = "\n".join(f"  {line}" for line in mistakes)
        example = ", ".join(f'"{one}" = ...' for one in space.attributes[0].classes)
        raise DataError(f"{path} does not say counts:\n{lines}", f"write e.g. [{space.names[0]}] {example}")
    return Counts(path, counts, each)


def _mistakes(name: str, values: Sequence[Any], _is_named_rightly: bool) -> list[str]:
    is_whole = all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
    return [] if is_whole else [f"`[{name}]`: counts are whole numbers, 0 or more"]


def check_counts(run: Run, counts: Counts, num_images: int, *, is_adapted: bool) -> None:
    """Counts can be of these images; to be asked before the work.

    Raises:
        UsageError: class shares are adapted to besides.
        DataError: they are of another number of images.
    """
    run.ledger()
    if is_adapted:
        raise UsageError("--counts says the class shares already", "leave --adapt-prior out, or set it to off")
    if counts.each is None and counts.total != num_images:
        raise DataError(
            f"the counts of {counts.file} are of {counted(counts.total, 'image')}, and there are {num_images:,}",
            "counts are of all images that are answered for; where they hold in each group, say --counts-in GROUPS",
        )


def together(
    answers: Answers,
    pooling: Pooling | None,
    counts: Counts | None,
    form: Template | None,
    ledger: Ledger,
    weights_N: NDArray[np.float64] | None,
    progress: Progress,
) -> Answers:
    """What looks at all answers at once: pooling, or counts; arguments as theirs."""
    if pooling is not None:
        return pool_answers(answers, pooling, form, ledger=ledger, weights_N=weights_N, progress=progress)[0]
    assert counts is not None
    return count_answers(answers, counts, form, ledger=ledger, weights_N=weights_N)


def count_answers(
    answers: Answers, counts: Counts, form: Template | None, *, ledger: Ledger, weights_N: NDArray[np.float64] | None
) -> Answers:
    """The answers with the counts, and what knowing its own counts gives on the ledger.

    Args:
        answers: of all test images.
        counts: by design.
        form: the template that is filled in, where there is one.
        ledger: of the run, under all that was done to the answers before.
        weights_N: how much each of its samples counts; alike where None.

    Raises:
        DataError: a group is not of as many images as the counts are.
        SubmissionError: an image has no group.
    """
    run, num_images = answers.run, len(answers.predictions)
    groups_N, names = np.zeros(num_images, np.int64), ["all"]
    if counts.each is not None:
        given = given_groups(answers, counts.each, form)
        names = sorted(set(given))
        groups_N, _ = group_codes(np.asarray(given))
    sizes_G = np.bincount(groups_N)
    wrong = np.flatnonzero(sizes_G != counts.total)
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {counted(len(sizes_G), 'group')} are not of {counts.total} images as the counts of "
            f"{counts.file} are, e.g. {names[wrong[0]]} of {sizes_G[wrong[0]]}",
            "counts that hold in each group are of groups of one size",
        )
    codes = {**run.space.attribute_codes(), JOINT: np.arange(run.space.num_classes)}
    margins: list[Margin] = [(codes[name], counts_C) for name, counts_C in counts.of.items()]
    probs_NK = in_groups(answers.predictions.probs_NK, groups_N, [margins] * len(sizes_G))
    before, after, num_samples = _on_ledger(run, ledger.known(), counts, codes, weights_N)
    gap = after.less(before, "macro_f1")
    about = {
        "kind": "counts",
        "file": str(counts.file),
        "counts": {name: counts_C.tolist() for name, counts_C in counts.of.items()},
        "each": counts.each,
        "groups": len(sizes_G),
        "is_transductive": True,
        "ledger": {
            "before": float(before.values["macro_f1"]),
            "after": float(after.values["macro_f1"]),
            "difference": gap and gap.to_dict(),
        },
        "expected": {
            # no log loss: probabilities no longer say how sure one is
            name: None if name == "log_loss" else after.score(name, num_samples).to_dict()
            for name in SCORES
        },
    }
    return answers.corrected(probs_NK, about)


def _on_ledger(
    run: Run, ledger: Ledger, counts: Counts, codes: Mapping[str, Any], weights_N: NDArray[np.float64] | None
) -> tuple[Drawn, Drawn, int]:
    """Scores before and after the ledger, or each of its groups, is told its own counts."""
    labels_N, probs_NK = ledger.labels_N, ledger.predictions.probs_NK
    groups_N = np.zeros(len(labels_N), np.int64)
    if counts.each is not None:
        groups_N, _ = group_codes(np.asarray(ledger.groups))
    margins_G = [
        [
            (codes[name], np.bincount(codes[name][labels_N[groups_N == group]], minlength=len(counts_C)))
            for name, counts_C in counts.of.items()
        ]
        for group in range(groups_N.max() + 1)
    ]
    drawn = [
        draw(
            one_NK,
            labels_N,
            np.asarray(ledger.groups),
            run.space.class_names,
            {},
            weights_N=weights_N,
            resamples=run.recipe.scores.resamples,
        )
        for one_NK in (probs_NK, in_groups(probs_NK, groups_N, margins_G))
    ]
    return drawn[0], drawn[1], len(labels_N)
