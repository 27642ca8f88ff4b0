"""What each class, attribute and confusion costs macro F1, counted exactly from the confusion matrix.

Every number answers "what would macro F1 be if some of the wrong answers became right, and all others stayed?".
The answers that change leave the columns they stood in, so that other classes gain precision too.

Shapes: K joint classes, A classes of one attribute; rows of a confusion matrix are the truth.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.metrics.classification import FloatArray, IntArray, divide, scores_from_confusion, scores_from_counts

MOST_CONFUSED = 20
DEFINITION = (
    "gain: macro F1 added if recall rose to the mean recall (of all classes, or of all classes of the attribute), "
    "every kind of error of the class shrinking by the same share, all other answers unchanged; if_always_right: "
    "added if that attribute were right in every answer, the answer's other attributes unchanged"
)
Attributes = Mapping[str, tuple[Sequence[str], NDArray[Any]]]


def costs(confusion: IntArray, class_names: Sequence[str], attributes: Attributes) -> dict[str, Any]:
    """What classes and attributes cost macro F1, as JSON values.

    Args:
        confusion: [K, K] counts of joint answers.
        class_names: [K].
        attributes: attribute name -> its A class names, and [K] its code in each joint class.

    Returns:
        `definition`; `classes`: name -> {recall, mean_recall, gain}, None for a class without samples; and
        `attributes`: name -> {if_always_right, classes}. Attributes that do not make the joint class are left out.
    """
    confusion = np.asarray(confusion)
    gains_K, recall_K, mean = class_gains(confusion)
    places = _places(attributes, len(class_names))
    return {
        "definition": DEFINITION,
        "classes": {name: _cost(recall_K[k], mean, gains_K[k]) for k, name in enumerate(class_names)},
        "attributes": {
            name: _attribute_costs(confusion, names, np.asarray(codes_K), places[name])
            for name, (names, codes_K) in attributes.items()
            if name in places
        },
    }


def confused_pairs(
    confusion: IntArray, class_names: Sequence[str], *, most: int = MOST_CONFUSED
) -> list[dict[str, Any]]:
    """The errors that cost macro F1 most: true class, answer, how many, and what putting them right would add.

    Args:
        confusion: [K, K] counts.
        class_names: [K].
        most: how many pairs.
    """
    confusion = np.asarray(confusion)
    gains_KK = pair_gains(confusion)
    support_K = confusion.sum(axis=1)
    pairs = [(int(i), int(j)) for i, j in np.argwhere(confusion > 0) if i != j]
    pairs.sort(key=lambda pair: (-gains_KK[pair], -confusion[pair], pair))
    return [
        {
            "true": class_names[i],
            "predicted": class_names[j],
            "count": int(confusion[i, j]),
            "share": float(confusion[i, j] / support_K[i]),
            "gain": float(gains_KK[i, j]),
        }
        for i, j in pairs[:most]
    ]


def class_gains(confusion: IntArray) -> tuple[FloatArray, FloatArray, float]:
    """Macro F1 that each class would add with the mean recall; recalls; and their mean.

    Returns:
        [K] gains, 0 where recall is at least the mean and NaN for a class without samples; [K] recalls; the mean.
    """
    now = scores_from_confusion(confusion)
    mean = float(now.balanced_accuracy)
    hits_K, misses_K = np.diag(confusion), now.support - np.diag(confusion)
    mended_K = np.nan_to_num(np.clip(divide(mean * now.support - hits_K, misses_K), 0, 1))  # share of the misses
    moved_KK = mended_K[:, None] * confusion
    np.fill_diagonal(moved_KK, 0)
    gained_KK = np.diag(moved_KK.sum(axis=1))
    # row k: the counts of all classes, were class k's recall the mean
    then = scores_from_counts(hits_K + gained_KK, now.support + 0 * moved_KK, now.predicted - moved_KK + gained_KK)
    gains_K = np.where(now.support > 0, np.maximum(then.macro_f1 - now.macro_f1, 0), np.nan)
    return gains_K, now.recall, mean


def pair_gains(confusion: IntArray) -> FloatArray:
    """[K, K]: macro F1 added if the samples of class i that were answered j were answered i."""
    now = scores_from_confusion(confusion)
    counts_KK = np.asarray(confusion, np.float64) * ~np.eye(len(confusion), dtype=bool)
    hits_K, f1_K = np.diag(confusion), np.nan_to_num(now.f1)
    own_KK = divide(2 * (hits_K[:, None] + counts_KK), (now.support + now.predicted)[:, None] + counts_KK)
    other_KK = divide(2 * hits_K, np.where(now.support > 0, now.support + now.predicted - counts_KK, 0))
    gains_KK = np.nan_to_num(own_KK) - f1_K[:, None] + np.nan_to_num(other_KK) - f1_K
    return np.asarray(np.where(counts_KK > 0, gains_KK, 0) / max(1, (now.support > 0).sum()))


def _attribute_costs(
    confusion: IntArray, names: Sequence[str], codes_K: IntArray, places_AK: IntArray
) -> dict[str, Any]:
    """What one attribute costs, and each of its classes."""
    now = float(scores_from_confusion(confusion).macro_f1)
    # rows of an attribute's class, and of them the answers that have it
    support_A = np.array([confusion[codes_K == code].sum() for code in range(len(names))])
    hits_A = np.array([confusion[np.ix_(codes_K == code, codes_K == code)].sum() for code in range(len(names))])
    recall_A = divide(hits_A, support_A)
    mean = float(np.nanmean(recall_A)) if (support_A > 0).any() else 0.0

    def gain(shares_A: FloatArray) -> float:
        """Were so large a share of each class's errors in this attribute put right."""
        shares_KK = np.where(codes_K[:, None] != codes_K, shares_A[codes_K][:, None], 0.0)
        moved_KK = shares_KK * confusion
        then_KK = confusion - moved_KK
        rows_KK = np.broadcast_to(np.arange(len(confusion))[:, None], confusion.shape)
        np.add.at(then_KK, (rows_KK, places_AK[codes_K]), moved_KK)
        return max(0.0, float(scores_from_confusion(then_KK).macro_f1) - now)

    share_A = np.nan_to_num(np.clip(divide(mean * support_A - hits_A, support_A - hits_A), 0, 1))
    one_AA = np.diag(share_A)
    return {
        "if_always_right": gain(np.ones(len(names))),
        "classes": {
            name: _cost(recall_A[code], mean, gain(one_AA[code]) if support_A[code] else np.nan)
            for code, name in enumerate(names)
        },
    }


def _cost(recall: float, mean: float, gain: float) -> dict[str, float] | None:
    return None if np.isnan(gain) else {"recall": float(recall), "mean_recall": mean, "gain": float(gain)}


def _places(attributes: Attributes, num_classes: int) -> dict[str, IntArray]:
    """Per attribute [A, K]: the joint class that class k becomes when the attribute takes that value."""
    codes_KC = np.stack([np.asarray(codes_K) for _, codes_K in attributes.values()], axis=1) if attributes else None
    if codes_KC is None:
        return {}
    place = {tuple(row): k for k, row in enumerate(codes_KC.tolist())}
    if len(place) < num_classes:
        return {}
    found = {}
    for number, (name, (names, _)) in enumerate(attributes.items()):
        rows = []
        for code in range(len(names)):
            changed_KC = codes_KC.copy()
            changed_KC[:, number] = code
            rows.append([place.get(tuple(row), -1) for row in changed_KC.tolist()])
        places_AK = np.array(rows)
        if (places_AK >= 0).all():
            found[name] = places_AK
    return found
