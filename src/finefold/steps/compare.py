"""`finefold compare`: is one run really better than another? Paired over groups, on the same split.

Shapes: N samples, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finefold.data.predictions import Ledger
from finefold.errors import UsageError
from finefold.metrics.paired import LOWER_IS_BETTER, SCORES, Difference, Drawn, draw, holm
from finefold.steps.aligning import aligned_ledgers, run_names
from finefold.steps.run import Run, open_run

By = Literal["macro_f1", "accuracy", "balanced_accuracy", "log_loss"]
SURE = 0.05  # a corrected p-value below it tells two runs apart


@dataclass(frozen=True)
class Pair:
    """Two runs beside each other; differences are of the second less the first, above 0 is better.

    Args:
        first, second: names of the runs.
        scores: score -> difference.
        attributes: attribute -> difference of its accuracy.
        classes: class -> difference of its F1; None where it has no sample.
        only_first, only_second: ids of the samples that only this run has right.
        p_value: of the score that runs are ranked by, corrected for the number of pairs.
    """

    first: str
    second: str
    scores: dict[str, Difference | None]
    attributes: dict[str, Difference | None]
    classes: dict[str, Difference | None]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    p_value: float

    @property
    def is_told_apart(self) -> bool:
        """Whether the difference is more than chance."""
        return self.p_value < SURE

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""

        def plain(found: dict[str, Difference | None]) -> dict[str, Any]:
            return {name: None if one is None else one.to_dict() for name, one in found.items()}

        return {
            "first": self.first,
            "second": self.second,
            "p_value": self.p_value,
            "is_told_apart": self.is_told_apart,
            "scores": plain(self.scores),
            "attributes": plain(self.attributes),
            "classes": plain(self.classes),
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
        }


@dataclass(frozen=True)
class Comparison:
    """Some runs of one split, best first.

    Args:
        by: the score they are ranked by.
        num_samples, num_groups: of the ledgers, where the joint class is known.
        ranking: names and their scores.
        attributes: name of the run -> attribute -> accuracy.
        pairs: every two of them, the better one second.
    """

    by: By
    num_samples: int
    num_groups: int
    ranking: tuple[tuple[str, dict[str, float]], ...]
    attributes: dict[str, dict[str, float]]
    pairs: tuple[Pair, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return {
            "by": self.by,
            "n": self.num_samples,
            "num_groups": self.num_groups,
            "ranking": [{"run": name, **scores, "attributes": self.attributes[name]} for name, scores in self.ranking],
            "pairs": [pair.to_dict() for pair in self.pairs],
        }


def compare(runs: Sequence[Run | str | Path], *, by: By = "macro_f1") -> Comparison:
    """Compares runs on the ledgers of one split.

    Args:
        runs: at least two, or their folders.
        by: what they are ranked by.

    Raises:
        UsageError: fewer than two runs, or one twice.
        RunError: a run is broken, or they differ in split, samples, classes or labels.
    """
    opened = [run if isinstance(run, Run) else open_run(run) for run in runs]
    names = run_names(opened)
    if len(opened) < 2:
        raise UsageError("one run is nothing to compare", "give two or more: finefold compare RUN RUN")
    if len({run.folder.path.resolve() for run in opened}) < len(opened):
        raise UsageError("a run is given twice", "give every run once")
    ledgers = aligned_ledgers(opened, names, verb="compared")
    first = ledgers[0]
    attributes = opened[0].space.attribute_table()
    drawn = [
        draw(
            ledger.predictions.probs_NK,
            first.labels_N,
            np.asarray(first.groups),
            first.predictions.class_names,
            attributes,
            codes_NA=first.codes_NA,
            resamples=opened[0].recipe.scores.resamples,
        )
        for ledger in ledgers
    ]
    sign = 1 if by in LOWER_IS_BETTER else -1
    order = sorted(range(len(names)), key=lambda place: sign * drawn[place].values[by])
    couples = [(worse, better) for better, worse in combinations(order, 2)]
    plain = [_p_value(drawn[better], drawn[worse], by) for worse, better in couples]
    pairs = tuple(
        _pair(names, ledgers, drawn, worse, better, tuple(attributes), p_value)
        for (worse, better), p_value in zip(couples, holm(plain), strict=True)
    )
    return Comparison(
        by,
        int((first.labels_N >= 0).sum()),
        len({group for group, label in zip(first.groups, first.labels_N, strict=True) if label >= 0}),
        tuple((names[place], {score: drawn[place].values[score] for score in SCORES}) for place in order),
        {names[place]: {one: drawn[place].values[f"attribute {one}"] for one in attributes} for place in order},
        pairs,
    )


def _p_value(better: Drawn, worse: Drawn, by: By) -> float:
    found = better.less(worse, by)
    return 1.0 if found is None else found.p_value


def _pair(
    names: Sequence[str],
    ledgers: Sequence[Ledger],
    drawn: Sequence[Drawn],
    worse: int,
    better: int,
    attributes: Sequence[str],
    p_value: float,
) -> Pair:
    labels_N, ids = ledgers[0].labels_N, np.asarray(ledgers[0].predictions.ids)
    is_right = [ledgers[place].predictions.codes_N == labels_N for place in (worse, better)]

    def less(score: str) -> Difference | None:
        return drawn[better].less(drawn[worse], score)

    return Pair(
        names[worse],
        names[better],
        {score: less(score) for score in SCORES},
        {one: less(f"attribute {one}") for one in attributes},
        {one: less(f"class {one}") for one in ledgers[0].predictions.class_names},
        tuple(ids[is_right[0] & ~is_right[1]].tolist()),
        tuple(ids[is_right[1] & ~is_right[0]].tolist()),
        p_value,
    )
