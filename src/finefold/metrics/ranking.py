"""How well a probability ranks: ROC and precision-recall curves, their areas, and intervals over groups.

A curve does not depend on where one would cut it, so it judges a class that is never the most probable one too.

Shapes: N samples, T thresholds, G groups, A classes of a question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.metrics.classification import FloatArray, IntArray
from finefold.metrics.intervals import Score

Z = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Ranking:
    """One class against the rest.

    Args:
        false_T, recall_T: the ROC curve from (0, 0) to (1, 1): shares of the others and of the class above a threshold.
        precision_T: of the rows above each threshold; 1 where there are none, as scikit-learn has it.
        auc: area under the ROC curve.
        average_precision: sum of precisions, weighted by the recall that each threshold adds.
        share: of the rows that are of the class: what a coin would have as its average precision.
    """

    false_T: FloatArray
    recall_T: FloatArray
    precision_T: FloatArray
    auc: Score
    average_precision: Score
    share: float

    def to_dict(self) -> dict[str, Any]:
        """The areas, without the curves."""
        return {"auc": self.auc.to_dict(), "average_precision": self.average_precision.to_dict(), "share": self.share}


def rank_classes(
    probs_NA: FloatArray, labels_N: IntArray, groups_N: IntArray, class_names: Sequence[str]
) -> dict[str, Ranking | None]:
    """Every class against the rest; None for a class that no row or every row is of.

    Args:
        probs_NA: probabilities of the classes.
        labels_N: true codes; rows below 0 are left out.
        groups_N: group codes, 0..G-1.
        class_names: [A].
    """
    known_N = labels_N >= 0
    probs_NA, labels_N, groups_N = probs_NA[known_N], labels_N[known_N], groups_N[known_N]
    found: dict[str, Ranking | None] = {}
    for code, name in enumerate(class_names):
        is_class_N = labels_N == code
        found[name] = rank(probs_NA[:, code], is_class_N, groups_N) if 0 < is_class_N.sum() < len(labels_N) else None
    return found


def rank(scores_N: FloatArray, is_class_N: NDArray[np.bool_], groups_N: IntArray) -> Ranking:
    """The curves of one class, and their areas with intervals.

    Intervals are those of the infinitesimal jackknife over groups: how much each group's weight moves the area, in
    closed form, so that no resample needs to be sorted.

    Args:
        scores_N: higher for rows that are more likely of the class; ties are one threshold.
        is_class_N: of both kinds there is at least one.
        groups_N: group codes, 0..G-1.

    References:
        Efron, The jackknife, the bootstrap and other resampling plans, 1982, section 6.3.
    """
    order_N = np.argsort(-scores_N, kind="stable")
    sorted_N = scores_N[order_N]
    ends_T = np.flatnonzero(np.append(np.diff(sorted_N) != 0, True))
    block_N = np.empty(len(scores_N), np.int64)  # the threshold of each row, highest first
    block_N[order_N] = np.searchsorted(ends_T, np.arange(len(scores_N)))
    above_T = np.cumsum(is_class_N[order_N])[ends_T].astype(np.float64)
    total_T = ends_T + 1.0
    false_T = total_T - above_T
    num_class, num_others = above_T[-1], false_T[-1]
    own_T, others_T = np.diff(above_T, prepend=0), np.diff(false_T, prepend=0)

    below_N = (num_others - false_T + others_T / 2)[block_N]  # others ranked below each row, ties by half
    beyond_N = (above_T - own_T / 2)[block_N]  # rows of the class ranked above
    auc = float((own_T * (num_others - false_T + others_T / 2)).sum() / (num_class * num_others))
    slope_N = np.where(
        is_class_N, below_N / (num_class * num_others) - auc / num_class,
        beyond_N / (num_class * num_others) - auc / num_others,
    )  # fmt: skip

    precision_T = above_T / total_T
    area = float((own_T * precision_T).sum() / num_class)
    # a row's weight moves the precision of its own threshold and of all below
    up_T = np.cumsum((own_T * false_T / total_T**2)[::-1])[::-1]
    down_T = np.cumsum((own_T * above_T / total_T**2)[::-1])[::-1]
    moved_N = np.where(is_class_N, precision_T[block_N] - area + up_T[block_N], -down_T[block_N]) / num_class
    size = int(num_class)
    return Ranking(
        np.append(0.0, false_T / num_others),
        np.append(0.0, above_T / num_class),
        np.append(1.0, precision_T),
        _with_interval(auc, slope_N, groups_N, size),
        _with_interval(area, moved_N, groups_N, size),
        size / len(scores_N),
    )


def _with_interval(value: float, slopes_N: FloatArray, groups_N: IntArray, size: int) -> Score:
    deviation = float(np.sqrt(np.square(np.bincount(groups_N, weights=slopes_N)).sum()))
    value = min(1.0, max(0.0, value))
    return Score(value, max(0.0, value - Z * deviation), min(1.0, value + Z * deviation), size)
