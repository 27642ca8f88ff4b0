"""What the images of one group share, decided by all of them: a person's gender is the same in every photo.

The pooled attributes' probabilities of a group's images are combined, and each image keeps its own of the others:

    p'(image, class) = pooled(group, the class's pooled attributes) x p(image, the class's other attributes)

so that all images of a group get the same answer in the pooled attributes.

Shapes: N images, K joint classes, G groups, S values of the pooled attributes together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.metrics.classification import SMALLEST_PROB, FloatArray, IntArray

Attributes = Mapping[str, tuple[Sequence[str], NDArray[Any]]]
MEAN, PRODUCT = 1.0, np.inf  # how many independent images a group's images are worth, at most
EVIDENCE = (MEAN, 1.5, 2.0, 3.0, 5.0, PRODUCT)  # that a fit may choose from


def pool(
    probs_NK: FloatArray,
    groups_N: IntArray,
    attributes: Attributes,
    pooled: Sequence[str],
    *,
    prior_K: FloatArray,
    evidence: float = MEAN,
    counts_N: NDArray[np.bool_] | None = None,
) -> FloatArray:
    """Probabilities with some attributes pooled over each group.

    A group of n images is worth e = min(n, evidence) independent ones: its pooled probabilities are those with
    log p = e x mean of the images' log p - (e - 1) x log prior, made to sum to 1. So e = 1 is the geometric mean and
    e = n the product of experts, which takes the images for independent given the truth.

    Args:
        probs_NK: rows sum to 1.
        groups_N: group codes, 0..G-1.
        attributes: `LabelSpace.attribute_table()`.
        pooled: names of the attributes that are the same within a group; their joint values are pooled together.
        prior_K: class shares that the model was trained on.
        evidence: from 1 on.
        counts_N: which images have something to say; a group of none keeps the prior. All where None.

    Returns:
        [N, K] rows sum to 1.

    References:
        Hinton, Training products of experts by minimizing contrastive divergence, Neural Computation 14, 2002.
    """
    slow_K, num_slow = joint_codes(attributes, pooled)
    fast_K, num_fast = joint_codes(attributes, [name for name in attributes if name not in pooled])
    slow_KS, fast_KF = np.eye(num_slow)[slow_K], np.eye(num_fast)[fast_K]
    logs_NS = np.log(np.maximum(probs_NK @ slow_KS, SMALLEST_PROB))
    says_N = np.ones(len(probs_NK)) if counts_N is None else counts_N.astype(np.float64)
    num_groups = int(groups_N.max()) + 1
    sizes_G = np.bincount(groups_N, says_N, num_groups)
    sums_GS = np.stack(
        [np.bincount(groups_N, says_N * logs_NS[:, value], num_groups) for value in range(num_slow)], axis=1
    )
    prior_S = np.log(np.maximum(prior_K @ slow_KS, SMALLEST_PROB))
    worth_G1 = np.minimum(evidence, sizes_G)[:, None]
    pooled_GS = worth_G1 * sums_GS / np.maximum(sizes_G, 1)[:, None] - (worth_G1 - 1) * prior_S
    exps_GS = np.exp(pooled_GS - pooled_GS.max(axis=1, keepdims=True))
    exps_GS /= exps_GS.sum(axis=1, keepdims=True)
    found_NK = exps_GS[groups_N][:, slow_K] * (probs_NK @ fast_KF)[:, fast_K]
    return np.asarray(found_NK / found_NK.sum(axis=1, keepdims=True))


def joint_codes(attributes: Attributes, names: Sequence[str]) -> tuple[IntArray, int]:
    """[K] code of some attributes' values together in each joint class, and how many such values there are."""
    num_classes = len(next(iter(attributes.values()))[1])
    codes_K, count = np.zeros(num_classes, np.int64), 1
    for name in names:
        classes, own_K = attributes[name]
        codes_K = codes_K * len(classes) + np.asarray(own_K, np.int64)
        count *= len(classes)
    return codes_K, count
