"""Which images belong together, found by features: what tells one person's photos apart is no difference.

Features of a pretrained network say more about what a photo shows than about whom. From images whose groups are known
it is learned which directions vary within a group, and these are shrunk; distances are taken in what is left.

Shapes: N images, D features, G groups.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from finefold.metrics.classification import FloatArray, IntArray

SHRINK = 0.01  # share of the mean variance that every direction has at least; 0.1 and 0.3 group worse, see the log
MOST_AXES = 512  # of features that vary most; more are slow and group no better
MOST_IMAGES = 10_000  # all distances are held at once: 400 MB

Links = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GroupSpace:
    """Where images of one group lie close together.

    Args:
        mean_D, scale_D: features are standardised by them.
        turn_DD: then turned and stretched, so that within a group all directions vary alike.
    """

    mean_D: FloatArray
    scale_D: FloatArray
    turn_DD: FloatArray

    @classmethod
    def fit(cls, features_ND: NDArray[np.floating], groups_N: IntArray, *, shrink: float = SHRINK) -> "GroupSpace":
        """Learned from images whose groups are known.

        Args:
            features_ND: of the images.
            groups_N: their groups.
            shrink: share of the mean variance within groups that is added to every direction's.

        References:
            Hatch, Kajarekar, Stolcke, Within-class covariance normalization for SVM-based speaker recognition, 2006.
        """
        features_ND = np.asarray(features_ND, np.float64)
        mean_D, scale_D = features_ND.mean(axis=0), features_ND.std(axis=0)
        scale_D = np.where(scale_D > 0, scale_D, 1.0)
        plain_ND = (features_ND - mean_D) / scale_D
        _, codes_N = np.unique(groups_N, return_inverse=True)
        order_N = np.argsort(codes_N, kind="stable")
        starts_G = np.flatnonzero(np.diff(codes_N[order_N], prepend=-1))
        sums_GD = np.add.reduceat(plain_ND[order_N], starts_G, axis=0)
        within_ND = plain_ND - (sums_GD / np.bincount(codes_N)[:, None])[codes_N]
        spread_DD = within_ND.T @ within_ND / len(within_ND)
        typical = float(np.trace(spread_DD)) / len(spread_DD)
        values_D, axes_DD = np.linalg.eigh((1 - shrink) * spread_DD + shrink * typical * np.eye(len(spread_DD)))
        return cls(mean_D, scale_D, axes_DD / np.sqrt(np.maximum(values_D, 1e-12)))

    def link(self, features_ND: NDArray[np.floating]) -> Links:
        """Which images join first: average linkage of cosine distances, as scipy writes it.

        Raises:
            ValueError: there are more than 10,000 images.
        """
        if len(features_ND) > MOST_IMAGES:
            raise ValueError(f"{len(features_ND)} images are too many to cluster, at most {MOST_IMAGES}")
        turned_ND = ((np.asarray(features_ND, np.float64) - self.mean_D) / self.scale_D) @ self.turn_DD
        lengths_N1 = np.linalg.norm(turned_ND, axis=1, keepdims=True)
        return np.asarray(linkage(turned_ND / np.maximum(lengths_N1, 1e-12), "average", metric="cosine"))


def groups_at(links: Links, height: float) -> IntArray:
    """[N] group codes: images that join below a height belong together."""
    return np.asarray(fcluster(links, height, "distance") - 1, np.int64)


def best_height(links: Links, groups_N: IntArray) -> float:
    """The height whose groups agree best with the true ones: by the F1 of pairs of images that belong together."""
    members = [Counter({group: 1}) for group in groups_N.tolist()]
    wanted = sum(count * (count - 1) // 2 for count in Counter(groups_N.tolist()).values())
    found = right = 0
    best, height = -1.0, 0.0
    for place, (first, second, joined, _) in enumerate(links.tolist()):
        small, large = sorted((members[int(first)], members[int(second)]), key=len)
        found += small.total() * large.total()
        right += sum(count * large[group] for group, count in small.items())
        large.update(small)
        members.append(large)
        above = links[place + 1, 2] if place + 1 < len(links) else joined + 1e-9
        f1 = 2 * right / (found + wanted)
        if above > joined and f1 > best:  # equal heights join together
            best, height = f1, (joined + above) / 2
    return float(height)


def pair_f1(found_N: IntArray, groups_N: IntArray) -> float:
    """F1 of pairs of images that belong together; 1 where the groups are the same."""

    def pairs(names: Sequence[object]) -> int:
        return sum(count * (count - 1) // 2 for count in Counter(names).values())

    found, true = found_N.tolist(), groups_N.tolist()
    both, total = pairs(list(zip(found, true, strict=True))), pairs(found) + pairs(true)
    return 2 * both / total if total else 1.0


@dataclass(frozen=True, eq=False)
class _Axes:
    """Directions along which features vary most: all that is looked at."""

    mean_D: FloatArray
    axes_DP: FloatArray

    @classmethod
    def fit(cls, features_ND: NDArray[np.floating]) -> "_Axes":
        mean_D, scale_D = features_ND.mean(axis=0), features_ND.std(axis=0)
        plain_ND = (features_ND - mean_D) / np.where(scale_D > 0, scale_D, 1.0)
        _, axes_DD = np.linalg.eigh(plain_ND.T @ plain_ND / len(plain_ND))
        return cls(mean_D, axes_DD[:, -MOST_AXES:] / np.where(scale_D > 0, scale_D, 1.0)[:, None])

    def along(self, features_ND: NDArray[np.floating]) -> FloatArray:
        return np.asarray((features_ND - self.mean_D) @ self.axes_DP, np.float64)


@dataclass(frozen=True, eq=False)
class Grouper:
    """How images that nobody grouped are grouped.

    Args:
        axes: along which features are looked at.
        space: learned from known groups.
        height: where the linkage is cut, learned on groups that the space was not.
    """

    axes: _Axes
    space: GroupSpace
    height: float

    @classmethod
    def fit(cls, features_ND: NDArray[np.floating], groups_N: IntArray, folds_N: IntArray) -> "Grouper":
        """Learned from known groups, none of which is in two folds."""
        axes = _Axes.fit(features_ND)
        along_NP = axes.along(features_ND)
        heights = []
        for fold in np.unique(folds_N).tolist():
            space = GroupSpace.fit(*_without(along_NP, groups_N, folds_N, (fold,)))
            heights.append(_height(space, along_NP, groups_N, folds_N, fold))
        return cls(axes, GroupSpace.fit(along_NP, groups_N), float(np.mean(heights)))

    def groups(self, features_ND: NDArray[np.floating]) -> IntArray:
        """[N] group codes of new images.

        Raises:
            ValueError: there are more than 10,000 images.
        """
        return _groups(self.space, self.axes.along(features_ND), self.height)


def _groups(space: GroupSpace, along_NP: FloatArray, height: float) -> IntArray:
    if len(along_NP) < 2:
        return np.zeros(len(along_NP), np.int64)
    return groups_at(space.link(along_NP), height)


def nested_groups(features_ND: NDArray[np.floating], groups_N: IntArray, folds_N: IntArray) -> IntArray:
    """[N] groups of every fold's images, found as if they were new: by what was learned on the other folds.

    Raises:
        ValueError: fewer than three folds: a height is learned on one, a space on another.
    """
    folds = np.unique(folds_N).tolist()
    if len(folds) < 3:
        raise ValueError(f"finding groups needs at least three folds, got {len(folds)}")
    along_NP = _Axes.fit(features_ND).along(features_ND)  # of features alone: no group has a say in it
    heights: dict[tuple[int, int], dict[int, float]] = {}
    for left_out in combinations(folds, 2):  # one space serves two folds' heights
        space = GroupSpace.fit(*_without(along_NP, groups_N, folds_N, left_out))
        heights[left_out] = {fold: _height(space, along_NP, groups_N, folds_N, fold) for fold in left_out}
    found_N = np.zeros(len(groups_N), np.int64)
    for fold in folds:
        height = float(
            np.mean([of[one] for pair, of in heights.items() if fold in pair for one in pair if one != fold])
        )
        space = GroupSpace.fit(*_without(along_NP, groups_N, folds_N, (fold,)))
        is_in_N = folds_N == fold
        found_N[is_in_N] = found_N.max() + 1 + _groups(space, along_NP[is_in_N], height)
    return found_N


def _without(
    features_ND: NDArray[np.floating], groups_N: IntArray, folds_N: IntArray, left_out: Sequence[int]
) -> tuple[NDArray[np.floating], IntArray]:
    is_kept_N = ~np.isin(folds_N, left_out)
    return features_ND[is_kept_N], groups_N[is_kept_N]


def _height(
    space: GroupSpace, features_ND: NDArray[np.floating], groups_N: IntArray, folds_N: IntArray, fold: int
) -> float:
    is_in_N = folds_N == fold
    return best_height(space.link(features_ND[is_in_N]), groups_N[is_in_N])
