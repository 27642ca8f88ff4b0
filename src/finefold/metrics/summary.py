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
    divide,
    log_loss_N,
    scores_from_confusion,
    scores_from_counts,
)
from finefold.metrics.intervals import RESAMPLES, Score, bootstrap_sums, group_codes, group_sums

AVERAGES = ("macro_f1", "accuracy", "balanced_accuracy", "weighted_f1")
PER_CLASS = ("precision", "recall", "f1")


@dataclass(frozen=True, eq=False)
class _Answers:
    """True and predicted class codes of the joint label, or of one attribute, where the truth is known.

    Args:
        class_names: what the codes mean.
        labels, predicted: codes.
        rows: which of the N samples they are of.
    """

    class_names: tuple[str, ...]
    labels: IntArray
    predicted: IntArray
    rows: IntArray

    @classmethod
    def of(cls, class_names: Sequence[str], labels_N: NDArray[Any], predicted_N: IntArray) -> "_Answers":
        """Of the samples whose label is not -1."""
        rows = np.flatnonzero(labels_N >= 0)
        return cls(tuple(class_names), labels_N[rows].astype(np.int64), predicted_N[rows], rows)

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
    codes_NA: NDArray[Any] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a ledger: over everything, per class, per attribute and per fold.

    The predicted class is the most probable one; an attribute's is the one whose joint classes have
    the largest summed probability. Intervals come from one bootstrap over groups, the same resamples
    for every number. Where a class is missing from a resample, that resample's averages leave it out
    and its own interval ignores the resample.

    A sample that lacks an attribute's value counts for the attributes it has, and not for the joint label.

    Args:
        probs_NK: [N, K] out-of-fold class probabilities.
        labels_N: [N] true class codes; -1 where `codes_NA` has a gap.
        folds_N: [N] the fold that held the sample out.
        groups_N: [N] the group of each sample, texts or numbers.
        class_names: K names, in the order of the columns.
        attributes: attribute name -> its A class names, and [K] the attribute's class code in each
            joint class. May be empty.
        codes_NA: true class codes of the attributes, in their order, -1 where missing; those of the joint
            class where None.
        resamples: R.
        seed: of the resamples.

    Returns:
        A dict of plain JSON values: `macro_f1`, `accuracy`, `balanced_accuracy`, `weighted_f1` and
        `log_loss` as {value, low, high, n}; `n`, `num_groups`, of the samples whose joint class is known;
        `classes`, `confusion`, `attributes`, `folds`; `absent`, the classes without a true sample;
        `missing`, how many samples lack an attribute, of attributes that any lacks. What cannot be scored is
        None, never NaN.

    Raises:
        ValueError: the arrays do not fit together; all mistakes are named at once.
    """
    probs_NK, labels_N = np.asarray(probs_NK), np.asarray(labels_N)
    folds_N, groups_N = np.asarray(folds_N), np.asarray(groups_N)
    if codes_NA is not None:
        codes_NA = np.asarray(codes_NA)
    _check_ledger(probs_NK, labels_N, folds_N, groups_N, class_names, attributes, codes_NA)
    joint = _Answers.of(class_names, labels_N, probs_NK.argmax(axis=1))
    losses = log_loss_N(probs_NK[joint.rows], joint.labels)
    of_attribute = {
        name: _attribute_answers(
            probs_NK, np.asarray(codes_K)[labels_N] if codes_NA is None else codes_NA[:, place], names, codes_K
        )
        for place, (name, (names, codes_K)) in enumerate(attributes.items())
    }
    groups, num_groups = group_codes(groups_N)
    counts, losses_R = _resample([joint, *of_attribute.values()], losses, groups, num_groups, resamples, seed)

    breakdown = _breakdown(joint, counts[0], groups)
    return {
        **{name: breakdown[name] for name in AVERAGES},
        "log_loss": Score.from_resamples(losses.mean(), losses_R, len(losses)).to_dict(),
        "n": len(losses),
        "num_groups": len(np.unique(groups[joint.rows])),
        "classes": breakdown["classes"],
        "confusion": breakdown["confusion"],
        "attributes": {
            name: _breakdown(answers, sums_R3A, groups)
            for (name, answers), sums_R3A in zip(of_attribute.items(), counts[1:], strict=True)
        },
        "folds": [_fold_scores(joint, losses, folds_N[joint.rows], fold) for fold in np.unique(folds_N[joint.rows])],
        "absent": _absent(joint.class_names, joint.confusion()),
        "missing": {
            name: lacking for name, answers in of_attribute.items() if (lacking := len(labels_N) - len(answers.labels))
        },
    }


def _attribute_answers(
    probs_NK: NDArray[Any], labels_N: NDArray[Any], class_names: Sequence[str], codes_K: NDArray[Any]
) -> _Answers:
    """What the joint probabilities say about one attribute, whose true codes are `labels_N`."""
    membership_KA = np.eye(len(class_names))[np.asarray(codes_K).astype(np.int64)]
    return _Answers.of(class_names, labels_N, (probs_NK @ membership_KA).argmax(axis=1))


def _resample(
    answers: Sequence[_Answers],
    losses: FloatArray,
    groups_N: IntArray,
    num_groups: int,
    resamples: int,
    seed: int,
) -> tuple[list[FloatArray], FloatArray]:
    """Bootstrap everything the scores need; `losses` are of the first answers' rows.

    Returns:
        for each of the answers [R, 3, K] hits, support and predictions per class; and [R] mean loss.
    """
    num_samples = len(groups_N)
    blocks = [_count_columns(one, num_samples) for one in answers]
    totals_N2 = np.zeros((num_samples, 2))
    totals_N2[answers[0].rows] = np.stack([losses, np.ones_like(losses)], axis=1)
    columns_NC = sparse.hstack([*blocks, sparse.csr_array(totals_N2)], format="csr")
    sums_RC = bootstrap_sums(group_sums(columns_NC, groups_N, num_groups), resamples=resamples, seed=seed)
    ends = np.cumsum([block.shape[1] for block in blocks])
    counts = [part.reshape(resamples, 3, -1) for part in np.split(sums_RC[:, : ends[-1]], ends[:-1], axis=1)]
    return counts, divide(sums_RC[:, -2], sums_RC[:, -1])


def _count_columns(answers: _Answers, num_samples: int) -> Any:
    """[N, 3K] sparse: one-hot of the class where it was hit, of the true class, of the predicted class."""
    num_classes = len(answers.class_names)
    hits = answers.labels == answers.predicted
    rows = np.concatenate([answers.rows[hits], answers.rows, answers.rows])
    columns = np.concatenate([answers.labels[hits], num_classes + answers.labels, 2 * num_classes + answers.predicted])
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(num_samples, 3 * num_classes))


def _breakdown(answers: _Answers, sums_R3K: FloatArray, groups_N: IntArray) -> dict[str, Any]:
    """Averages, per-class scores and confusion matrix of the joint label or of one attribute."""
    groups = groups_N[answers.rows]
    groups_K = [len(np.unique(groups[answers.labels == k])) for k in range(len(answers.class_names))]
    confusion = answers.confusion()
    scores = scores_from_confusion(confusion)
    resampled = scores_from_counts(sums_R3K[:, 0], sums_R3K[:, 1], sums_R3K[:, 2])
    num_samples = len(answers.labels)
    averages = {
        name: Score.from_resamples(
            getattr(scores, name), getattr(resampled, name), num_samples, num_counted=len(np.unique(groups))
        ).to_dict()
        for name in AVERAGES
    }
    classes = {
        class_name: {
            **{name: _class_score(name, scores, resampled, k, groups_K[k]) for name in PER_CLASS},
            "support": int(scores.support[k]),
            "true_share": float(scores.support[k] / num_samples),
            "predicted_share": float(scores.predicted[k] / num_samples),
        }
        for k, class_name in enumerate(answers.class_names)
    }
    return {**averages, "classes": classes, "confusion": confusion.tolist()}


def _class_score(
    name: str, scores: ClassScores, resampled: ClassScores, k: int, num_groups: int
) -> dict[str, Any] | None:
    """One score of class k, which is in so many groups; None where it has no true sample."""
    support = int(scores.support[k])
    if support == 0:
        return None
    with_class = resampled.support[:, k] > 0
    value, drawn_R = getattr(scores, name)[k], getattr(resampled, name)[with_class, k]
    return Score.from_resamples(value, drawn_R, support, num_counted=num_groups).to_dict()


def _fold_scores(answers: _Answers, losses: FloatArray, folds: NDArray[Any], fold: Any) -> dict[str, Any]:
    """The scores of one fold, and the classes it has no sample of; losses and folds are of the answers' rows."""
    of_fold = folds == fold
    confusion = confusion_matrix(answers.labels[of_fold], answers.predicted[of_fold], len(answers.class_names))
    scores = scores_from_confusion(confusion)
    return {
        "fold": int(fold),
        "n": int(of_fold.sum()),
        "accuracy": float(scores.accuracy),
        "macro_f1": float(scores.macro_f1),
        "log_loss": float(losses[of_fold].mean()),
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
    codes_NA: NDArray[Any] | None,
) -> None:
    """Raise one ValueError that names everything that does not fit together."""
    num_samples, num_classes = len(labels_N), len(class_names)
    mistakes: list[str] = []
    is_known_N: NDArray[np.bool_] = np.full(num_samples, True)
    if codes_NA is not None and codes_NA.shape != (num_samples, len(attributes)):
        mistakes.append(f"attribute codes have shape {codes_NA.shape}, expected {(num_samples, len(attributes))}")
    elif codes_NA is not None:
        is_known_N = np.asarray((codes_NA >= 0).all(axis=1))
    if not is_known_N.any():
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
    owned = {"class": (class_names, labels_N[is_known_N], num_classes)}
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
    if codes_NA is not None and not mistakes:
        mistakes += _mistakes_of_codes(labels_N, codes_NA, attributes)
    if mistakes:
        raise ValueError("the ledger cannot be scored: " + "; ".join(mistakes))


def _mistakes_of_codes(
    labels_N: NDArray[Any], codes_NA: NDArray[Any], attributes: Mapping[str, tuple[Sequence[str], NDArray[Any]]]
) -> list[str]:
    """Where the attributes' own codes and the joint ones say different things."""
    is_known_N = np.asarray((codes_NA >= 0).all(axis=1))
    mistakes = []
    if (labels_N[~is_known_N] != -1).any():
        mistakes.append("samples that lack an attribute have a class")
    for (name, (names, codes_K)), codes_N in zip(attributes.items(), codes_NA.T, strict=True):
        if codes_N.min() < -1 or codes_N.max() >= len(names):
            mistakes.append(
                f"codes of `{name}` run from {codes_N.min()} to {codes_N.max()}; expected -1..{len(names) - 1}"
            )
        elif (codes_N[is_known_N] != np.asarray(codes_K)[labels_N[is_known_N]]).any():
            mistakes.append(f"codes of `{name}` are not those of the classes")
    return mistakes
