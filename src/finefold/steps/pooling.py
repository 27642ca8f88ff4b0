"""Answers that agree within a group: which test images belong together, what is pooled over them, what that gives.

Off unless asked for. What the rule gives is measured on the ledger, where groups are known; what it fits is
judged on folds it was not fitted on.

Shapes: N images, K joint classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from finefold.data.predictions import Ledger
from finefold.data.preprocessing import Box
from finefold.data.rows import read_rows
from finefold.data.split_checks import counted
from finefold.data.submission import Template
from finefold.errors import DataError, RunError, SubmissionError, UsageError
from finefold.metrics.classification import FloatArray, IntArray, confusion_matrix, scores_from_confusion
from finefold.metrics.grouping import MOST_IMAGES, Grouper, nested_groups, pair_f1
from finefold.metrics.intervals import Score, group_codes
from finefold.metrics.nested import nested_probs
from finefold.metrics.paired import Difference, draw
from finefold.metrics.pooling import EVIDENCE, MEAN, PRODUCT, pool
from finefold.nn.heads import raise_features
from finefold.steps.answers import EXPECTED, Answers, as_template_ids
from finefold.steps.columns import sample_table, samples_of
from finefold.steps.progress import SILENT, Progress
from finefold.steps.run import Run

CLUSTER = "cluster"
FEATURE_POWER = 0.5  # of features that are clustered, as of the probe's
Rule = Literal["mean", "product", "fitted"]


@dataclass(frozen=True)
class Pooling:
    """A rule for images of one group.

    Args:
        attributes: that are the same within a group.
        groups: a column of the template, a CSV with `id` and `group`, or "cluster": found by clustering the test
            images' features.
        rule: what a group's images are worth: one image ("mean" of their log-probabilities), as many as there are
            ("product"), or what serves the ledger's macro F1 best ("fitted").
    """

    attributes: tuple[str, ...]
    groups: str
    rule: Rule = "fitted"

    @property
    def is_transductive(self) -> bool:
        """Whether an image's answer depends on which other images are asked with it, and nobody said how."""
        return self.groups == CLUSTER


@dataclass(frozen=True)
class Pooled:
    """What the rule gives on the ledger.

    Args:
        evidence: how many independent images a group's are worth at most, for new images.
        before, after: scores of the ledger.
        difference: of macro F1.
        agreement: where groups were found by clustering, F1 of pairs that belong together; else None.
    """

    evidence: float
    before: Mapping[str, Score]
    after: Mapping[str, Score]
    difference: Difference

    agreement: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "evidence": None if np.isinf(self.evidence) else self.evidence,
            "before": {name: one.to_dict() for name, one in self.before.items()},
            "after": {name: one.to_dict() for name, one in self.after.items()},
            "difference": self.difference.to_dict(),
            **({} if self.agreement is None else {"pairs_f1": self.agreement}),
        }


def check_pooling(run: Run, pooling: Pooling) -> None:
    """Before the work.

    Raises:
        UsageError: an attribute is unknown, named twice, or the label has none to tell apart.
        DataError: the run's samples have no groups to measure the rule on.
    """
    unknown = [name for name in pooling.attributes if name not in run.space.names]
    if unknown or not pooling.attributes:
        what = f"there is no attribute `{unknown[0]}`" if unknown else "no attribute is named"
        raise UsageError(what, f"the label has {', '.join(run.space.names)}: --pool {run.space.names[-1]}")
    if len(set(pooling.attributes)) < len(pooling.attributes):
        raise UsageError("--pool names an attribute twice", "name every attribute once")
    samples = sample_table(run)
    if samples["group"].n_unique() == samples.height:
        raise DataError(
            "every training sample is a group of its own, so what pooling gives cannot be measured",
            "say in data.toml which samples belong together: [samples] group",
        )
    shared = samples.group_by("group").agg(pl.col(name).drop_nulls().n_unique() for name in pooling.attributes)
    for name in pooling.attributes:
        if odd := int((shared[name] > 1).sum()):
            raise DataError(
                f"`{name}` differs within {odd} of {shared.height} training groups: images of a group do not share it",
                "pool only what is the same in all images of a group",
            )


def pool_answers(
    answers: Answers,
    pooling: Pooling,
    form: Template | None,
    *,
    ledger: Ledger,
    weights_N: FloatArray | None = None,
    progress: Progress = SILENT,
) -> tuple[Answers, Pooled]:
    """The answers with attributes pooled over groups, and what that gives on the ledger.

    Args:
        answers: of all test images.
        pooling: the rule.
        form: the template that is filled in, where there is one.
        ledger: of the run, under all that was done to the answers before.
        weights_N: how much each of its samples counts; alike where None.
        progress: told of features that are computed.

    Raises:
        SubmissionError: an image has no group, or there are too many to cluster.
        UsageError, DataError: see `check_pooling`.
    """
    run = answers.run
    check_pooling(run, pooling)
    if pooling.is_transductive:
        groups_N, measured = _clustered(answers, pooling, ledger, weights_N, progress)
    else:
        groups_N, _ = group_codes(np.asarray(given_groups(answers, pooling.groups, form)))
        true_N, _ = group_codes(np.asarray(ledger.groups))
        measured = pooled_ledger(run, ledger, pooling, true_N, weights_N=weights_N)
    unreadable = {finding.ids[0] for finding in answers.findings}
    probs_NK = pool(
        answers.predictions.probs_NK,
        groups_N,
        run.space.attribute_table(),
        pooling.attributes,
        prior_K=run.train_shares_K,
        evidence=measured.evidence,
        counts_N=np.array([name not in unreadable for name in answers.predictions.ids]),
    )
    sizes_G = np.bincount(groups_N)
    about = {
        "kind": "pool",
        "attributes": list(pooling.attributes),
        "rule": pooling.rule,
        "is_transductive": pooling.is_transductive,
        "groups": {
            "from": pooling.groups,
            "count": len(sizes_G),
            "largest": int(sizes_G.max()),
            "alone": int((sizes_G == 1).sum()),
        },
        "ledger": measured.to_dict(),
        "expected": {name: measured.after[name].to_dict() for name in EXPECTED},
    }
    return answers.corrected(probs_NK, about), measured


def pooled_ledger(
    run: Run, ledger: Ledger, pooling: Pooling, groups_N: IntArray, *, weights_N: FloatArray | None = None
) -> Pooled:
    """What the rule gives on the ledger; where it is fitted, every fold by what was fitted on the others.

    Args:
        run: of the ledger.
        ledger: out-of-fold predictions.
        pooling: the rule; its groups are not looked at.
        groups_N: of the ledger's samples: the true ones, or those found without knowing them.
        weights_N: how much each sample counts in the scores; alike where None.
    """
    probs_NK, labels_N = ledger.predictions.probs_NK, ledger.labels_N
    attributes = run.space.attribute_table()

    def pooled(rows_N: Any, evidence: float) -> FloatArray:
        return pool(
            probs_NK[rows_N],
            np.unique(groups_N[rows_N], return_inverse=True)[1],
            attributes,
            pooling.attributes,
            prior_K=run.train_shares_K,
            evidence=evidence,
        )

    def best(rows_N: Any) -> float:
        def macro_f1(evidence: float) -> float:
            found_N, true_N = pooled(rows_N, evidence).argmax(axis=1), labels_N[rows_N]
            known_N = true_N >= 0
            confusion = confusion_matrix(true_N[known_N], found_N[known_N], len(run.space.class_names))
            return float(scores_from_confusion(confusion).macro_f1)

        return max(EVIDENCE, key=macro_f1)  # of equally good ones the least

    everything = np.ones(len(labels_N), bool)
    if pooling.rule == "fitted":
        evidence = best(everything)
        after_NK = nested_probs(probs_NK, ledger.folds_N, lambda fit_N: partial(pooled, evidence=best(fit_N)))
    else:
        evidence = {"mean": MEAN, "product": PRODUCT}[pooling.rule]
        after_NK = pooled(everything, evidence)
    num_known = int((labels_N >= 0).sum())
    drawn = [
        draw(
            one_NK,
            labels_N,
            np.asarray(ledger.groups),
            ledger.predictions.class_names,
            attributes,
            codes_NA=ledger.codes_NA,
            weights_N=weights_N,
            resamples=run.recipe.scores.resamples,
        )
        for one_NK in (probs_NK, after_NK)
    ]
    scores = [{name: one.score(name, num_known) for name in EXPECTED} for one in drawn]
    difference = drawn[1].less(drawn[0], "macro_f1")
    assert difference is not None
    return Pooled(evidence, scores[0], scores[1], difference)


def given_groups(answers: Answers, source: str, form: Template | None) -> list[str]:
    """The group of every test image, from a column of the template or a CSV; without one an image is alone.

    Raises:
        SubmissionError: neither is there, or rows are missing.
    """
    ids = answers.predictions.ids
    said = answers.run.spec.predict
    suffix = said.suffix if said else ""
    if form is not None and source in form.frame.columns:
        group_of = dict(zip(form.ids, form.frame[source].to_list(), strict=True))
        named: Sequence[str] = as_template_ids(ids, form.ids, suffix)
    else:
        if not Path(source).is_file():
            columns = "" if form is None else f"; the template has {', '.join(form.frame.columns)}"
            raise SubmissionError(
                f"`{source}` is neither a column of the template nor a file{columns}",
                "give a column, a CSV with the columns id and group, or `cluster`",
            )
        rows = read_rows(Path(source))
        if lacking := [name for name in ("id", "group") if name not in rows.columns]:
            raise SubmissionError(f"{source} has no column `{lacking[0]}`", f"it has {', '.join(rows.columns)}")
        group_of = dict(zip(rows["id"].to_list(), rows["group"].to_list(), strict=True))
        named = as_template_ids(ids, list(group_of), suffix)
    missing = [name for name in named if name not in group_of]
    if missing:
        raise SubmissionError(
            f"{counted(len(missing), 'image')} without a group in `{source}`, e.g. `{missing[0]}`",
            "add a row for each; leave its group empty where an image is alone",
        )
    return [f"group {group_of[name]}" if group_of[name] else f"alone {name}" for name in named]


def _clustered(
    answers: Answers, pooling: Pooling, ledger: Ledger, weights_N: FloatArray | None, progress: Progress
) -> tuple[IntArray, Pooled]:
    """Groups of the test images found by their features, and what the rule gives where the ledger's are found alike."""
    run = answers.run
    if len(answers.predictions) > MOST_IMAGES:
        raise SubmissionError(
            f"{len(answers.predictions):,} images are too many to cluster, at most {MOST_IMAGES:,}",
            "say which belong together: --groups FILE with the columns id and group",
        )
    samples = samples_of(run)
    place_of = {name: place for place, name in enumerate(samples.ids)}
    places = [place_of[name] for name in ledger.predictions.ids]
    paths, boxes = samples.paths, samples.boxes
    known_boxes = None if boxes is None else [boxes[place] for place in places]
    known_ND = _features(run, [paths[place] for place in places], known_boxes, progress)
    new_ND = _features(run, [answers.root / name for name in answers.predictions.ids], answers.boxes, progress)
    groups_N, _ = group_codes(np.asarray(ledger.groups))
    with progress.stage("finding groups", 0, ""):
        try:
            found_N = nested_groups(known_ND, groups_N, ledger.folds_N)
        except ValueError as reason:
            raise RunError(f"groups cannot be found: {reason}", "say which images belong together") from reason
        grouper = Grouper.fit(known_ND, groups_N, ledger.folds_N)
        measured = pooled_ledger(run, ledger, pooling, found_N, weights_N=weights_N)
        return grouper.groups(new_ND), Pooled(**{**vars(measured), "agreement": pair_f1(found_N, groups_N)})


def _features(run: Run, paths: Sequence[Path], boxes: Sequence[Box | None] | None, progress: Progress) -> FloatArray:
    """Pooled features of the network before training; zero for an unreadable image, which then is in some group.

    Of an ensemble they are its first member's.
    """
    if run.is_ensemble:
        return _features(run.members()[0], paths, boxes, progress)
    cache = run.prefix_cache()
    with progress.stage("features", len(paths), "images") as advance:
        found = cache.compute([path.name for path in paths], paths, boxes=boxes, advance=advance)
    return np.asarray(raise_features(found.rows_ND, FEATURE_POWER), np.float64)
