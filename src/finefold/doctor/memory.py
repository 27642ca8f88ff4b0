"""How much of a score is memory: of people, places, scenes that are on both sides of a split.

The same probe under folds that tear groups and under folds that keep them whole. That alone says little where groups
were only found by looking alike, for without its look-alikes every image is harder. So labels are drawn from what the
probe believes when groups are whole, as if nothing but the images told them, and the difference must be larger than
with those.

Shapes: N rows, C classes, G groups.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.evidence import ClosedProbe

FOLDS = 5
DRAWS = 2  # of folds
NUM_CHANCE = 8  # labels drawn from the probe's belief
LEAST_GROUPS = 10
MOST_GROUPS = 0.8  # of the rows; with more nearly every row is alone
LARGEST = 0.3  # share of the rows in one group
SIZES = (2, 4, 8)  # mean images of a cluster of look-alikes
MOST_LINKED = 8_000  # rows whose distances are held at once: 256 MB
SURE = 4.0  # deviations
LEAST_DROP = 0.02  # of accuracy, beyond chance

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Memory:
    """A grouping, and the probe's accuracy with and without it.

    Args:
        name: of the grouping, in words.
        groups_N: codes.
        torn: accuracy with rows dealt to folds at random.
        whole: accuracy with groups kept together.
        z: mean difference of a group over its standard error.
        chance: mean and deviation of the difference where images alone tell the labels; None where not asked.
    """

    name: str
    groups_N: Rows
    torn: float
    whole: float
    z: float
    chance: tuple[float, float] | None = None

    @property
    def drop(self) -> float:
        """By how much tearing groups flatters."""
        return self.torn - self.whole

    @property
    def excess(self) -> float:
        """What of it is memory, and not plain likeness."""
        return self.drop - (0.0 if self.chance is None else self.chance[0])

    @property
    def is_clear(self) -> bool:
        """Whether the difference is more than chance."""
        if self.z < SURE or self.drop < LEAST_DROP:
            return False
        if self.chance is None:
            return True
        return self.excess > LEAST_DROP and self.excess > SURE * max(self.chance[1], 1e-3)


def remembered(
    probe: ClosedProbe,
    labels_N: Rows,
    num_classes: int,
    groups_N: Rows,
    rng: np.random.Generator,
    *,
    name: str = "",
    is_found: bool = False,
) -> Memory:
    """The probe with groups torn and whole.

    Args:
        probe: of the rows, under any folds.
        labels_N: codes.
        num_classes: C.
        groups_N: codes.
        rng: deals folds.
        name: of the grouping.
        is_found: whether the groups are only supposed; then the difference is set against chance.
    """
    count = len(labels_N)
    groups_N = np.unique(groups_N, return_inverse=True)[1]
    torn, whole = _both_ways(probe, groups_N, rng)
    torn_N, whole_N = _right(torn, labels_N, num_classes), _right(whole, labels_N, num_classes)
    sums_G = np.bincount(groups_N, weights=torn_N - whole_N)
    error = float(np.sqrt(((sums_G - sums_G.mean()) ** 2).sum()))
    z = float(sums_G.sum()) / max(error, 1e-9)
    found = Memory(name, groups_N, float(torn_N.mean()), float(whole_N.mean()), z)
    if not is_found or not found.is_clear:
        return found
    probs_NC = _probs(whole[0], labels_N, num_classes)
    drops = []
    for _ in range(NUM_CHANCE):
        drawn_N = (probs_NC.cumsum(axis=1) > rng.random(count)[:, None]).argmax(axis=1)
        drops.append(float((_right(torn, drawn_N, num_classes) - _right(whole, drawn_N, num_classes)).mean()))
    return Memory(name, groups_N, found.torn, found.whole, z, (float(np.mean(drops)), float(np.std(drops))))


def accuracies(
    probe: ClosedProbe, labels_N: Rows, num_classes: int, groups_N: Rows, rng: np.random.Generator, rows: Rows
) -> tuple[float, float]:
    """Accuracy on some rows with groups torn, and with groups whole."""
    ways = _both_ways(probe, np.unique(groups_N, return_inverse=True)[1], rng)
    torn, whole = (float(_right(one, labels_N, num_classes)[rows].mean()) for one in ways)
    return torn, whole


def _both_ways(
    probe: ClosedProbe, groups_N: Rows, rng: np.random.Generator
) -> tuple[list[ClosedProbe], list[ClosedProbe]]:
    """The probe under folds that tear groups, and under folds that keep them whole."""
    torn = [probe.with_folds(rng.permutation(len(groups_N)) % FOLDS) for _ in range(DRAWS)]
    return torn, [probe.with_folds(_dealt(groups_N, rng)) for _ in range(DRAWS)]


def _dealt(groups_N: Rows, rng: np.random.Generator) -> Rows:
    """[N] folds of about equal size, groups whole."""
    sizes_G = np.bincount(groups_N)
    order = rng.permutation(len(sizes_G))
    order = order[np.argsort(-sizes_G[order], kind="stable")]
    filled, fold_G = np.zeros(FOLDS), np.zeros(len(sizes_G), np.int64)
    for group in order.tolist():
        fold_G[group] = filled.argmin()
        filled[fold_G[group]] += sizes_G[group]
    return fold_G[groups_N]


def _right(probes: Sequence[ClosedProbe], labels_N: Rows, num_classes: int) -> Floats:
    """[N] share of the foldings under which a row's label is found."""
    found = [_probs(one, labels_N, num_classes).argmax(axis=1) == labels_N for one in probes]
    return np.asarray(np.mean(found, axis=0))


def _probs(probe: ClosedProbe, labels_N: Rows, num_classes: int) -> Floats:
    share_C = np.bincount(labels_N, minlength=num_classes) / len(labels_N)
    probs_NC = np.exp(probe.believe(labels_N, num_classes).gain_NC.astype(np.float64)) * share_C
    return np.asarray(probs_NC / probs_NC.sum(axis=1, keepdims=True))


def supposed_groups(
    paths: Sequence[str], columns: Mapping[str, Sequence[str]], labels_N: Rows
) -> list[tuple[str, Rows]]:
    """(name, [N] codes) of every grouping that columns, folders and file names suggest and that could be one."""
    named: list[tuple[str, Sequence[str]]] = [(f"the column `{name}`", texts) for name, texts in columns.items()]
    if paths:
        files = [PurePath(path) for path in paths]
        named.append(("the folder", [str(file.parent) for file in files]))
        for what, cut in (
            ("file names without their last number", r"[-_. ]*\d+$"),
            ("file names up to their last separator", r"[-_. ][^-_. ]*$"),
            ("file names up to their first separator", r"[-_. ].*$"),
        ):
            named.append((what, [f"{file.parent}/{re.sub(cut, '', file.stem)}" for file in files]))
    found: list[tuple[str, Rows]] = []
    for name, texts in named:
        codes_N = np.unique(np.asarray(texts), return_inverse=True)[1]
        if _could_be_groups(codes_N, labels_N) and not any(_is_same(codes_N, other) for _, other in found):
            found.append((name, codes_N))
    return found


def _could_be_groups(codes_N: Rows, labels_N: Rows) -> bool:
    sizes_G = np.bincount(codes_N)
    is_one_to_one = (
        len(np.unique(codes_N * (labels_N.max() + 1) + labels_N)) == len(sizes_G) == len(np.unique(labels_N))
    )
    return (
        LEAST_GROUPS <= len(sizes_G) <= MOST_GROUPS * len(codes_N)
        and sizes_G.max() <= LARGEST * len(codes_N)
        and not is_one_to_one
    )


def _is_same(one_N: Rows, other_N: Rows) -> bool:
    pairs = len(np.unique(one_N.astype(np.int64) * (other_N.max() + 1) + other_N))
    return bool(pairs == one_N.max() + 1 == other_N.max() + 1)


def look_alikes(components_NR: NDArray[np.float32], labels_N: Rows) -> Iterable[tuple[str, Rows]]:
    """Clusters of images that look alike, at several sizes; none where there are too many images."""
    from scipy.cluster.hierarchy import fcluster, linkage  # a third of a second, and known groups do without

    if len(components_NR) > MOST_LINKED:
        return
    unit_NR = components_NR / np.maximum(np.linalg.norm(components_NR, axis=1, keepdims=True), 1e-9)
    links = linkage(unit_NR, "average", metric="cosine")
    for size in SIZES:
        codes_N = fcluster(links, max(2, len(unit_NR) // size), "maxclust") - 1
        if _could_be_groups(codes_N, labels_N):
            yield f"clusters of about {size} images that look alike", np.asarray(codes_N, np.int64)
