"""How sure one can be of a scarce class: an interval of its recall that counts people, not photos.

Resampling cannot tell what it has not seen: a class of three people, all of them missed, has recall 0 in every
resample. Wilson's interval can, and with whole groups as its trials it says how little three people are.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCARCE_GROUPS = 20  # fewer than so many, and recall is not known to within about 0.2 either way
Z = 1.959963984540054


def certainty(
    labels_N: NDArray[Any],
    predicted_N: NDArray[Any],
    groups_N: NDArray[Any],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Per class: how many groups show it, the interval of its recall, and whether it is scarce.

    Args:
        labels_N: true class codes; a row below 0 counts for no class.
        predicted_N: predicted class codes.
        groups_N: group codes or names.
        class_names: names of the codes.

    Returns:
        name -> {groups, recall: {low, high}, is_scarce}; None for a class without samples.
    """
    found: dict[str, Any] = {}
    for code, name in enumerate(class_names):
        of_class_N = labels_N == code
        if not of_class_N.any():
            found[name] = None
            continue
        groups = len(np.unique(groups_N[of_class_N]))
        low, high = wilson_interval(float((predicted_N[of_class_N] == code).mean()), groups)
        found[name] = {"groups": groups, "recall": {"low": low, "high": high}, "is_scarce": groups < SCARCE_GROUPS}
    return found


def certainty_of_attributes(
    probs_NK: NDArray[Any],
    labels: Mapping[str, NDArray[Any]],
    groups_N: NDArray[Any],
    attributes: Mapping[str, tuple[Sequence[str], NDArray[Any]]],
) -> dict[str, Any]:
    """`certainty` of every attribute's classes; an attribute's answer is that of the summed probabilities."""
    return {
        name: certainty(
            labels[name],
            (probs_NK @ np.eye(len(names))[np.asarray(codes_K)]).argmax(axis=1),
            groups_N,
            names,
        )
        for name, (names, codes_K) in attributes.items()
    }


def wilson_interval(share: float, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share, which need not be a whole number of trials.

    References:
        Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.
    """
    centre = (share + Z**2 / (2 * trials)) / (1 + Z**2 / trials)
    half = Z / (1 + Z**2 / trials) * sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
