"""The out-of-fold ledger in numbers: every score with its interval, ready to be written as JSON.

Shapes: N samples, K joint classes, A classes of one attribute, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from finefold.metrics.classification import (
    ClassScores,
    FloatArray,
    IntArray,
    check_codes,
    confusion_matrix,
    log_loss_N,
    scores_from_confusion,
    scores_from_counts,
)
from finefold.metrics.intervals import RESAMPLES, Score, bootstrap_sums, group_codes, group_sums

AVERAGES = ("macro_f1", "accuracy", "balanced_accuracy", "weighted_f1")
PER_CLASS = ("precision", "recall", "f1")


@dataclass(frozen=True, eq=False)
class _Answers:
    """True and predicted class codes [N] of every sample: of the joint label, or of one attribute."""

    class_names: tuple[str, ...]
    labels: IntArray
    predicted: IntArray

    def confusion(self) -> IntArray:
        return confusion_matrix(self.labels, self.predicted, len(self.class_names))


def summarise(
    *,
    probs_NK: NDArray[Any],
    labels_N: NDArray[Any],
    folds_N: NDArray[Any],
    groups_N: NDArray[Any],
    class_names: Sequence[str],
    attributes: Mapping[str, tuple[Sequence[str], NDArray[Any]]],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a ledger: over everything, per class, per attribute and per fold.

    The predicted class is the most probable one; an attribute's is the one whose joint classes have
    the largest summed probability. Intervals come from one bootstrap over groups, the same resamples
    for every number. Where a class is missing from a resample, that resample's averages leave it out
    and its own interval ignores the resample.

    Args:
        probs_NK: [N, K] out-of-fold class probabilities.
        labels_N: [N] true class codes.
        folds_N: [N] the fold that held the sample out.
        groups_N: [N] the group of each sample, texts or numbers.
        class_names: K names, in the order of the columns.
        attributes: attribute name -> its A class names, and [K] the attribute's class code in each
            joint class. May be empty.
        resamples: R.
        seed: of the resamples.

    Returns:
        A dict of plain JSON values: `macro_f1`, `accuracy`, `balanced_accuracy`, `weighted_f1` and
        `log_loss` as {value, low, high, n}; `n`, `num_groups`; `classes`, `confusion`, `attributes`,
        `folds`; `absent`, the classes without a true sample. What cannot be scored is None, never NaN.

    Raises:
        ValueError: the arrays do not fit together; all mistakes are named at once.
    """
    probs_NK, labels_N = np.asarray(probs_NK), np.asarray(labels_N)
    folds_N, groups_N = np.asarray(folds_N), np.asarray(groups_N)
    _check_ledger(probs_NK, labels_N, folds_N, groups_N, class_names, attributes)
    losses_N = log_loss_N(probs_NK, labels_N)
    joint = _Answers(tuple(class_names), labels_N.astype(np.int64), probs_NK.argmax(axis=1))
    of_attribute = {name: _attribute_answers(probs_NK, joint.labels, *of) for name, of in attributes.items()}
    groups, num_groups = group_codes(groups_N)
    counts, losses_R = _resample([joint, *of_attribute.values()], losses_N, groups, num_groups, resamples, seed)

    breakdown = _breakdown(joint, counts[0])
    loss = Score.from_resamples(losses_N.mean(), losses_R, len(losses_N))
    return {
        **{name: breakdown[name] for name in AVERAGES},
        "log_loss": loss.to_dict(),
        "n": len(losses_N),
        "num_groups": num_groups,
        "classes": breakdown["classes"],
        "confusion": breakdown["confusion"],
        "attributes": {
            name: _breakdown(answers, sums_R3A)
            for (name, answers), sums_R3A in zip(of_attribute.items(), counts[1:], strict=True)
        },
        "folds": [_fold_scores(joint, losses_N, folds_N, fold) for fold in np.unique(folds_N)],
        "absent": _absent(joint.class_names, joint.confusion()),
    }


def _attribute_answers(
    probs_NK: NDArray[Any], labels_N: IntArray, class_names: Sequence[str], codes_K: NDArray[Any]
) -> _Answers:
    """What the joint probabilities say about one attribute."""
    codes_K = np.asarray(codes_K).astype(np.int64)
    membership_KA = np.eye(len(class_names))[codes_K]
    return _Answers(tuple(class_names), codes_K[labels_N], (probs_NK @ membership_KA).argmax(axis=1))


def _resample(
    answers: Sequence[_Answers],
    losses_N: FloatArray,
    groups_N: IntArray,
    num_groups: int,
    resamples: int,
    seed: int,
) -> tuple[list[FloatArray], FloatArray]:
    """Bootstrap everything the scores need.

    Returns:
        for each of the answers [R, 3, K] hits, support and predictions per class; and [R] mean loss.
    """
    blocks = [_count_columns(one) for one in answers]
    losses_N1 = sparse.csr_array(losses_N[:, None])
    ones_N1 = sparse.csr_array(np.ones_like(losses_N)[:, None])
    columns_NC = sparse.hstack([*blocks, losses_N1, ones_N1], format="csr")
    sums_RC = bootstrap_sums(group_sums(columns_NC, groups_N, num_groups), resamples=resamples, seed=seed)
    ends = np.cumsum([block.shape[1] for block in blocks])
    counts = [part.reshape(resamples, 3, -1) for part in np.split(sums_RC[:, : ends[-1]], ends[:-1], axis=1)]
    return counts, sums_RC[:, -2] / sums_RC[:, -1]


def _count_columns(answers: _Answers) -> Any:
    """[N, 3K] sparse: one-hot of the class where it was hit, of the true class, of the predicted class."""
    num_samples, num_classes = len(answers.labels), len(answers.class_names)
    rows_N = np.arange(num_samples)
    hits = answers.labels == answers.predicted
    rows = np.concatenate([rows_N[hits], rows_N, rows_N])
    columns = np.concatenate([answers.labels[hits], num_classes + answers.labels, 2 * num_classes + answers.predicted])
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(num_samples, 3 * num_classes))


def _breakdown(answers: _Answers, sums_R3K: FloatArray) -> dict[str, Any]:
    """Averages, per-class scores and confusion matrix of the joint label or of one attribute."""
    confusion = answers.confusion()
    scores = scores_from_confusion(confusion)
    resampled = scores_from_counts(sums_R3K[:, 0], sums_R3K[:, 1], sums_R3K[:, 2])
    num_samples = len(answers.labels)
    averages = {
        name: Score.from_resamples(getattr(scores, name), getattr(resampled, name), num_samples).to_dict()
        for name in AVERAGES
    }
    classes = {
        class_name: {
            **{name: _class_score(name, scores, resampled, k) for name in PER_CLASS},
            "support": int(scores.support[k]),
            "true_share": float(scores.support[k] / num_samples),
            "predicted_share": float(scores.predicted[k] / num_samples),
        }
        for k, class_name in enumerate(answers.class_names)
    }
    return {**averages, "classes": classes, "confusion": confusion.tolist()}


def _class_score(name: str, scores: ClassScores, resampled: ClassScores, k: int) -> dict[str, Any] | None:
    """One score of class k, or None where the class has no true sample."""
    support = int(scores.support[k])
    if support == 0:
        return None
    with_class = resampled.support[:, k] > 0
    return Score.from_resamples(getattr(scores, name)[k], getattr(resampled, name)[with_class, k], support).to_dict()


def _fold_scores(answers: _Answers, losses_N: FloatArray, folds_N: NDArray[Any], fold: Any) -> dict[str, Any]:
    """The scores of one fold, and the classes it has no sample of."""
    of_fold = folds_N == fold
    confusion = confusion_matrix(answers.labels[of_fold], answers.predicted[of_fold], len(answers.class_names))
    scores = scores_from_confusion(confusion)
    return {
        "fold": int(fold),
        "n": int(of_fold.sum()),
        "accuracy": float(scores.accuracy),
        "macro_f1": float(scores.macro_f1),
        "log_loss": float(losses_N[of_fold].mean()),
        "absent": _absent(answers.class_names, confusion),
    }


def _absent(class_names: Sequence[str], confusion: IntArray) -> list[str]:
    """The classes without a true sample."""
    return [name for name, support in zip(class_names, confusion.sum(axis=1), strict=True) if support == 0]


def _check_ledger(
    probs_NK: NDArray[Any],
    labels_N: NDArray[Any],
    folds_N: NDArray[Any],
    groups_N: NDArray[Any],
    class_names: Sequence[str],
    attributes: Mapping[str, tuple[Sequence[str], NDArray[Any]]],
) -> None:
    """Raise one ValueError that names everything that does not fit together."""
    num_samples, num_classes = len(labels_N), len(class_names)
    mistakes = []
    if num_samples == 0:
        mistakes.append("there are no samples to score")
    if probs_NK.shape != (num_samples, num_classes):
        mistakes.append(f"probs have shape {probs_NK.shape}, expected {(num_samples, num_classes)}")
    elif not (np.isfinite(probs_NK).all() and (probs_NK >= 0).all()):
        mistakes.append("probs hold negative or non-finite numbers")
    mistakes += [
        f"{what} have shape {array.shape}, expected ({num_samples},)"
        for what, array in (("labels", labels_N), ("folds", folds_N), ("groups", groups_N))
        if array.shape != (num_samples,)
    ]
    owned = {"class": (class_names, labels_N, num_classes)}
    for name, (names, codes_K) in attributes.items():
        owned[f"attribute `{name}`"] = (names, np.asarray(codes_K), len(names))
        if np.shape(codes_K) != (num_classes,):
            mistakes.append(f"attribute `{name}` has codes of shape {np.shape(codes_K)}, expected ({num_classes},)")
    for what, (names, codes, num_codes) in owned.items():
        if len(set(names)) != len(names):
            mistakes.append(f"{what} names are not unique: {list(names)}")
        try:
            check_codes(f"{what} codes", codes, num_codes)
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ValueError("the ledger cannot be scored: " + "; ".join(mistakes))
