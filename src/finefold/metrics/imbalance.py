"""Scarce classes after the fact: offsets on log-probabilities that raise macro F1.

The likeliest class maximises accuracy and forgets the scarce ones. Adding an offset to every class before the largest
is taken trades one for the other, without training again. What comes out decides; it no longer says how sure one is.
What `fit_*` gives is to be judged on rows it was not fitted on: see `metrics.nested`.

Shapes: N samples, K classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.metrics.calibration import log_probs, softmax
from finefold.metrics.classification import FloatArray, IntArray, scores_from_counts

STRENGTHS = tuple(round(0.05 * step, 2) for step in range(41))  # 0 to 2
ROUNDS = 6  # of coordinate ascent; it mostly stands still after three
LEAST_GAIN = 1e-4  # of macro F1, for a class's offset to be moved


def logit_adjust(probs_NK: FloatArray, shares_K: FloatArray, strength: float) -> FloatArray:
    """[N, K] probabilities divided by the classes' shares to the power `strength`, rows sum to 1.

    Strength 0 changes nothing; 1 answers as if all classes were equally frequent.

    References:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021, section 4.1 (post-hoc).
    """
    return shift_logs(probs_NK, share_offsets(shares_K, strength))


def share_offsets(shares_K: FloatArray, strength: float) -> FloatArray:
    """[K] what logit adjustment adds to log-probabilities; nothing for a class of no share."""
    offset_K: FloatArray = -strength * np.log(np.where(shares_K > 0, shares_K, 1.0))
    return offset_K


def shift_logs(probs_NK: FloatArray, offset_K: FloatArray) -> FloatArray:
    """[N, K] probabilities whose logarithms got offsets, rows sum to 1."""
    return softmax(log_probs(probs_NK) + offset_K)


def macro_f1(labels_N: IntArray, found_N: IntArray, num_classes: int, weights_N: FloatArray | None = None) -> float:
    """Mean F1 of the classes with a true sample, where samples may count differently."""
    return float(scores_from_counts(*_counts(labels_N, found_N, num_classes, weights_N)).macro_f1)


def fit_strength(
    probs_NK: FloatArray, labels_N: IntArray, shares_K: FloatArray, weights_N: FloatArray | None = None
) -> float:
    """The strength of logit adjustment with the best macro F1, out of 0, 0.05 ... 2; the least of equally good ones.

    Args:
        probs_NK: of rows that the model did not see.
        labels_N: [N] true class codes.
        shares_K: class shares of what training saw.
        weights_N: how much each sample counts; 1 where left out.
    """
    logs_NK, offset_K = log_probs(probs_NK), share_offsets(shares_K, 1.0)
    scores = [
        macro_f1(labels_N, (logs_NK + strength * offset_K).argmax(axis=1), len(shares_K), weights_N)
        for strength in STRENGTHS
    ]
    return STRENGTHS[int(np.argmax(scores))]


def fit_bias(
    probs_NK: FloatArray, labels_N: IntArray, start_K: FloatArray, weights_N: FloatArray | None = None
) -> FloatArray:
    """An offset for every class by coordinate ascent on macro F1.

    Class by class, all offsets at which an answer changes are tried at once and the best is taken, until no class
    gains. That the score is of the same rows makes it too good: scarce classes are easily fitted to their few samples.

    Args:
        probs_NK: of rows that the model did not see.
        labels_N: [N] true class codes.
        start_K: offsets to start from; the maximum found is near them.
        weights_N: how much each sample counts; 1 where left out.

    Returns:
        [K] offsets on log-probabilities, of mean 0.
    """
    logs_NK, offset_K = log_probs(probs_NK), start_K.astype(np.float64).copy()
    weights_N = np.ones(len(labels_N)) if weights_N is None else weights_N
    num_present = max(1, int((np.bincount(labels_N, weights_N, len(offset_K)) > 0).sum()))
    for _ in range(ROUNDS):
        has_moved = False
        for code in range(len(offset_K)):
            offset, gain = _best_offset(logs_NK, labels_N, weights_N, offset_K, code)
            if gain / num_present > LEAST_GAIN:
                offset_K[code], has_moved = offset, True
        if not has_moved:
            break
    return np.asarray(offset_K - offset_K.mean())


def to_thresholds(offset_K: FloatArray) -> FloatArray:
    """[K] thresholds that say the same as offsets: the class of the largest probability / threshold; they sum to 1.

    Of two classes, the second is taken where its probability is above its threshold.
    """
    thresholds_K = np.exp(offset_K.min() - offset_K)
    return np.asarray(thresholds_K / thresholds_K.sum())


def _best_offset(
    logs_NK: FloatArray, labels_N: IntArray, weights_N: FloatArray, offset_K: FloatArray, code: int
) -> tuple[float, float]:
    """The offset of one class with the largest sum of F1 over classes, and how much it gains.

    A sample is answered with the class once its offset is above the sample's threshold. Samples in the order of their
    thresholds change their answers one by one, which changes two F1s each.
    """
    scores_NK = logs_NK + offset_K
    scores_NK[:, code] = -np.inf
    rivals_N = scores_NK.argmax(axis=1)
    thresholds_N = scores_NK[np.arange(len(labels_N)), rivals_N] - logs_NK[:, code]
    order_N = np.argsort(thresholds_N, kind="stable")
    sorted_N, rivals_N = thresholds_N[order_N], rivals_N[order_N]
    truth_N, weights_N = labels_N[order_N], weights_N[order_N]
    support_K = np.bincount(truth_N, weights_N, len(offset_K))
    steps_N = np.zeros(len(labels_N))  # what each change does to the rivals' F1s
    for rival in np.unique(rivals_N):
        rows = np.flatnonzero(rivals_N == rival)
        steps_N[rows] = np.diff(_f1_while_losing(truth_N[rows] == rival, weights_N[rows], support_K[rival]))
    gained = np.concatenate([[0.0], np.cumsum(weights_N)])
    hits = np.concatenate([[0.0], np.cumsum(weights_N * (truth_N == code))])
    own = np.where(support_K[code] > 0, 2 * hits / np.maximum(support_K[code] + gained, 1e-300), 0.0)
    total = own + np.concatenate([[0.0], np.cumsum(steps_N)])
    now = int(np.searchsorted(sorted_N, offset_K[code], side="left"))
    can_stop = np.concatenate([[True], np.diff(sorted_N) > 0, [True]])  # equal thresholds change together
    best = int(np.argmax(np.where(can_stop, total, -np.inf)))
    ends = np.concatenate([[sorted_N[0] - 1], sorted_N, [sorted_N[-1] + 1]])
    return float((ends[best] + ends[best + 1]) / 2), float(total[best] - total[now])


def _f1_while_losing(is_hit_n: NDArray[np.bool_], weights_n: FloatArray, support: float) -> FloatArray:
    """[n + 1] F1 of a class that loses its answers one by one."""
    predicted = np.concatenate([[0.0], np.cumsum(weights_n[::-1])])[::-1]
    hits = np.concatenate([[0.0], np.cumsum((weights_n * is_hit_n)[::-1])])[::-1]
    return np.asarray(2 * hits / np.maximum(support + predicted, 1e-300))


def _counts(
    labels_N: IntArray, found_N: IntArray, num_classes: int, weights_N: FloatArray | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Hits, support and predictions per class."""
    is_hit_N = labels_N == found_N
    hit_weights = None if weights_N is None else weights_N[is_hit_N]
    return (
        np.bincount(labels_N[is_hit_N], hit_weights, num_classes),
        np.bincount(labels_N, weights_N, num_classes),
        np.bincount(found_N, weights_N, num_classes),
    )
