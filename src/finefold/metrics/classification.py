"""Confusion matrices and the scores that follow from them.

Shapes: N samples, K classes, `...` any leading axes (resamples, folds).

A class with no true sample cannot be scored: it has no recall, no F1, and no part in any average.
Inside arrays such a number is NaN; `summary.summarise` turns it into `None`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SMALLEST_PROB = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Scores of one or many confusion matrices, all between 0 and 1.

    Args:
        accuracy: [...] share of samples predicted right.
        balanced_accuracy: [...] mean recall of the classes with a true sample.
        macro_f1: [...] mean F1 of the classes with a true sample.
        weighted_f1: [...] mean F1 weighted by the number of true samples.
        precision: [..., K] 0 for a class that has samples but is never predicted; NaN for a class
            that has neither.
        recall: [..., K] NaN for a class with no true sample.
        f1: [..., K] NaN for a class with no true sample.
        support: [..., K] number of true samples.
        predicted: [..., K] number of samples predicted as the class.
    """

    accuracy: FloatArray
    balanced_accuracy: FloatArray
    macro_f1: FloatArray
    weighted_f1: FloatArray
    precision: FloatArray
    recall: FloatArray
    f1: FloatArray
    support: NDArray[Any]
    predicted: NDArray[Any]


def confusion_matrix(labels_N: NDArray[Any], predicted_N: NDArray[Any], num_classes: int) -> IntArray:
    """Count samples by true and predicted class.

    Args:
        labels_N: [N] true class codes, 0..K-1.
        predicted_N: [N] predicted class codes, 0..K-1.
        num_classes: K, also when some classes never occur.

    Returns:
        [K, K] counts; rows are the truth, columns the prediction.

    Raises:
        ValueError: the two differ in length, or a code lies outside 0..K-1.
    """
    labels_N, predicted_N = np.asarray(labels_N), np.asarray(predicted_N)
    if labels_N.shape != predicted_N.shape or labels_N.ndim != 1:
        raise ValueError(f"labels have shape {labels_N.shape}, predictions {predicted_N.shape}; expected [N] twice")
    check_codes("labels", labels_N, num_classes)
    check_codes("predictions", predicted_N, num_classes)
    cells_N = labels_N.astype(np.int64) * num_classes + predicted_N
    counts = np.bincount(cells_N, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def scores_from_confusion(confusion: NDArray[Any]) -> ClassScores:
    """Score confusion matrices [..., K, K], rows the truth, over all leading axes at once."""
    confusion = np.asarray(confusion)
    return scores_from_counts(
        np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1), confusion.sum(axis=-2)
    )


def scores_from_counts(hits: NDArray[Any], support: NDArray[Any], predicted: NDArray[Any]) -> ClassScores:
    """Score from the three counts per class that are all the scores need of a confusion matrix.

    The same as scikit-learn with `labels=` the classes that have a true sample and `zero_division=0`.
    scikit-learn's default differs in one case: it gives a class that is predicted but has no true
    sample an F1 of 0 and averages over it.

    Args:
        hits: [..., K] samples of the class predicted as the class.
        support: [..., K] true samples of the class.
        predicted: [..., K] samples predicted as the class.
    """
    present = support > 0
    recall = divide(hits, support)
    f1 = divide(2 * hits, np.where(present, support + predicted, 0))
    precision = np.where(present & (predicted == 0), 0.0, divide(hits, predicted))
    total, num_present = support.sum(axis=-1), present.sum(axis=-1)
    return ClassScores(
        accuracy=divide(hits.sum(axis=-1), total),
        balanced_accuracy=divide(np.where(present, recall, 0.0).sum(axis=-1), num_present),
        macro_f1=divide(np.where(present, f1, 0.0).sum(axis=-1), num_present),
        weighted_f1=divide((np.where(present, f1, 0.0) * support).sum(axis=-1), total),
        precision=precision,
        recall=recall,
        f1=f1,
        support=support,
        predicted=predicted,
    )


def log_loss_N(probs_NK: NDArray[Any], labels_N: NDArray[Any]) -> FloatArray:
    """Negative log probability of the true class, per sample, in nats.

    Probabilities are raised to at least 2.2e-16 (the float64 epsilon, whatever the type they are
    stored in), so one certain mistake costs 36.04 and not infinity. Rows are not rescaled.

    Args:
        probs_NK: [N, K] class probabilities, rows sum to 1.
        labels_N: [N] true class codes.
    """
    true_N = np.asarray(probs_NK)[np.arange(len(labels_N)), labels_N].astype(np.float64)
    # the + 0.0 turns the -0.0 of a certain right answer into 0.0
    losses_N: FloatArray = -np.log(np.clip(true_N, SMALLEST_PROB, 1.0)) + 0.0
    return losses_N


def check_codes(what: str, codes: NDArray[Any], num_classes: int) -> None:
    """Raise ValueError unless every code is a whole number in 0..num_classes-1."""
    if not np.issubdtype(codes.dtype, np.integer) and codes.size:
        raise ValueError(f"{what} have type {codes.dtype}; expected whole numbers")
    if codes.size and (codes.min() < 0 or codes.max() >= num_classes):
        raise ValueError(f"{what} run from {codes.min()} to {codes.max()}; expected 0..{num_classes - 1}")


def divide(numerator: NDArray[Any], denominator: NDArray[Any]) -> FloatArray:
    """Divide, NaN where the denominator is 0, without a warning."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    quotient = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
