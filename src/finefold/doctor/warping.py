"""Labels of a whole list against images of a part of it, or the other way round: the order is right, places are not.

Row i's label is number j(i) of the list, j rising: an alignment of two sequences, found by dynamic programming on what
the probe says of every image and class; the probe is fitted again to what was found, a few times over.

Shapes: N rows, M labels, C classes; P places that are matched in order with numbers, W of them tried for each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.evidence import gain_of_targets
from finefold.doctor.pairings import Pairing
from finefold.doctor.trials import Court, Trial

RATES = (0.99, 0.95, 0.9, 0.8, 0.7)  # shares that a part may be of the whole, where it is not known; with half of it
# to choose from, any labels can be aligned with any images
SLACK = 0.1  # of a list, by which a rate may be off in the end
SHARP = 0.6  # rows: a blur that is none
ROUNDS = 12
MOST_CELLS = 40_000_000  # of the table that the alignment fills
NUM_NULLS = 3
RUNS = 4  # of each class, from which on the order of the classes is no matter of names
MARGIN = 0.4  # of the nats found, that others must stay below


@dataclass(frozen=True)
class Alignment:
    """What a warp came to.

    Args:
        source_N: position of each row's label, rising where it is not -1.
        information: mean nats of a row that has a label.
    """

    source_N: NDArray[np.int64]
    information: float


def match_in_order(
    worth_PW: NDArray[np.float32], first_P: NDArray[np.int64], width: int, rate: float, *, is_whole: bool
) -> tuple[NDArray[np.int64], float]:
    """Each of P places with one of `width` numbers, rising, so that the sum is largest.

    Args:
        worth_PW: nats of place p being number first_P[p] + w.
        first_P: the lowest number that each place may have, never falling; W from there on.
        width: of the numbers, Q.
        rate: share of the numbers that is not skipped; a skip costs -log(1 - rate), a match -log(rate).
        is_whole: the numbers are all there are, so every place has one; else the last places may lie beyond them (-1).

    Returns:
        [P] numbers, and the sum.
    """
    count, reach = worth_PW.shape
    skip, match = np.float32(-np.log(max(1 - rate, 1e-3))), np.float32(np.log(rate))
    sums_PW = worth_PW + (
        match + skip
    )  # of the best way that ends at a number; what is skipped behind it is added back
    peak_PW = np.empty_like(sums_PW)
    before_W = np.full(reach, -skip, np.float32)
    for row in range(count):
        if row:
            moved = int(first_P[row] - first_P[row - 1])
            before_W = np.full(reach, peak_PW[row - 1, -1], np.float32)
            if moved:
                kept = peak_PW[row - 1, moved - 1 :]
                before_W[: len(kept)] = kept
            else:
                before_W[0], before_W[1:] = -np.inf, peak_PW[row - 1, :-1]
        sums_PW[row] += before_W
        np.maximum.accumulate(sums_PW[row], out=peak_PW[row])
    last = count - 1 if is_whole else int(peak_PW[:, -1].argmax())
    found_P = np.full(count, -1, np.int64)
    end = reach
    for row in range(last, -1, -1):
        found_P[row] = int(sums_PW[row, :end].argmax()) + first_P[row]
        end = min(reach, int(found_P[row] - first_P[row - 1])) if row else 0
    return found_P, float(peak_PW[last, -1] - skip * (width - 1))


def band(count: int, width: int, slope: float) -> tuple[NDArray[np.int64], int]:
    """Where numbers are looked for: the lowest of each place, and how many from there on.

    Args:
        count: of places.
        width: of numbers.
        slope: numbers for a place.
    """
    slack = int(30 + 3 * np.sqrt(width) + SLACK * width)
    reach = min(width, 2 * slack + 1)
    middle_P = np.rint(np.arange(count) * slope).astype(np.int64)
    return np.clip(middle_P - slack, 0, width - reach), reach


def warp(court: Court, *, rate: float, skips_labels: bool, order_N: NDArray[np.int64] | None = None) -> Alignment:
    """Starts from an even stretch by `rate`, then fits and aligns in turn, the labels' places less and less blurred.

    Args:
        court: whose longest list of labels is aligned.
        rate: share of the longer side that the shorter is.
        skips_labels: the labels are those of the whole, the images a part; the other way round otherwise.
        order_N: go through the images in this order instead, for comparison.
    """
    labels_M, count = court.every_label, len(court.labels_N)
    images_N = np.arange(count) if order_N is None else order_N
    steps_N = np.rint(np.arange(count) / rate if skips_labels else np.arange(count) * rate).astype(np.int64)
    source_N = np.where(steps_N < len(labels_M), steps_N, -1)
    width = 1 + 0.5 * float(np.sqrt(count * rate * (1 - rate)))
    flags_MC = np.eye(court.num_classes, dtype=np.float32)[labels_M]
    for _ in range(ROUNDS):
        targets_NC = np.empty((count, court.num_classes), np.float32)
        targets_NC[images_N] = _blurred(flags_MC, source_N, width)
        gain_NC = gain_of_targets(court.probe.scores(targets_NC), targets_NC)
        before_N, source_N = source_N, _aligned(gain_NC[images_N], labels_M, rate, skips_labels)
        if width < SHARP and np.array_equal(before_N, source_N):
            break
        width = max(width / 2, SHARP / 2)
    labels_N = np.full(count, -1, np.int64)
    labels_N[images_N] = np.where(source_N >= 0, labels_M[np.maximum(source_N, 0)], -1)
    return Alignment(source_N, court.probe.believe(labels_N, court.num_classes).information)


def _aligned(
    gain_NC: NDArray[np.float32], labels_M: NDArray[np.int64], rate: float, skips_labels: bool
) -> NDArray[np.int64]:
    """[N] the label of each image; -1 for none."""
    num_images, num_labels = len(gain_NC), len(labels_M)
    if skips_labels:
        first_N, reach = band(num_images, num_labels, 1 / rate)
        classes_NW = labels_M[first_N[:, None] + np.arange(reach)]
        worth_NW = np.take_along_axis(gain_NC, classes_NW, axis=1)
        return match_in_order(worth_NW, first_N, num_labels, rate, is_whole=num_labels > num_images)[0]
    first_M, reach = band(num_labels, num_images, 1 / rate)
    worth_MW = gain_NC[first_M[:, None] + np.arange(reach), labels_M[:, None]]
    found_M, _ = match_in_order(worth_MW, first_M, num_images, rate, is_whole=False)
    source_N = np.full(num_images, -1, np.int64)
    used = np.flatnonzero(found_M >= 0)
    source_N[found_M[used]] = used
    return source_N


def _blurred(flags_MC: NDArray[np.float32], source_N: NDArray[np.int64], width: float) -> NDArray[np.float32]:
    """[N, C] shares of classes among the labels near each image's place; of all labels where it has none."""
    reach = int(3 * width) + 1
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    padded = np.pad(flags_MC, ((reach, reach), (0, 0)), mode="edge")
    soft_MC = np.stack([np.convolve(column, window / window.sum(), mode="valid") for column in padded.T], axis=1)
    targets_NC = np.tile(flags_MC.mean(axis=0), (len(source_N), 1))
    known = np.flatnonzero(source_N >= 0)
    targets_NC[known] = soft_MC[source_N[known]]
    return np.asarray(targets_NC, np.float32)


def best_warp(court: Court, rng: np.random.Generator) -> Trial | None:
    """The alignment that explains images and labels best, if it beats what the same search finds where nothing is."""
    count, num_labels = len(court.labels_N), len(court.every_label)
    if count * num_labels > MOST_CELLS or count < 20:
        return None
    known = num_labels > count
    tries = [(count / num_labels, True)] if known else [(rate, way) for rate in RATES for way in (True, False)]
    found = [(warp(court, rate=rate, skips_labels=way), rate, way) for rate, way in tries]
    best, rate, way = max(found, key=lambda one: _nats(one[0]))
    trial = court.hear(Pairing(_name(way, known, best.source_N, num_labels), best.source_N, "subset"))
    if not trial.is_better:
        return None
    found_nats = _nats(best)
    nulls = (_nats(warp(other, rate=rate, skips_labels=way, order_N=order_N)) for other, order_N in _nulls(court, rng))
    return trial if all(found_nats > nats + MARGIN * found_nats for nats in nulls) else None


def _nats(found: Alignment) -> float:
    return found.information * int((found.source_N >= 0).sum())


def _nulls(court: Court, rng: np.random.Generator) -> Iterator[tuple[Court, NDArray[np.int64] | None]]:
    """What must not be aligned as well: labels in random order, images in random order, labels backwards or rotated.

    Runs of the images alone find something in any labels, and the last keep the runs of both. Where labels come in a
    few long runs, backwards is only another name for each class.
    """
    labels_M = court.every_label
    for _ in range(NUM_NULLS):
        yield court.with_labels(rng.permutation(labels_M)), None
    yield court, rng.permutation(len(court.labels_N))
    if int((np.diff(labels_M) != 0).sum()) > RUNS * court.num_classes:
        yield court.with_labels(labels_M[::-1].copy()), None
        for share in (0.33, 0.67):
            yield court.with_labels(np.roll(labels_M, int(share * len(labels_M)))), None


def _name(skips_labels: bool, known: bool, source_N: NDArray[np.int64], num_labels: int) -> str:
    used = source_N[source_N >= 0]
    if skips_labels:
        whole = f"all {num_labels} labels" if known else "the labels"
        return f"aligning {whole}, of a whole list, with images that are a part of it ({_skipped(used)} labels skipped)"
    return (
        f"aligning the labels of a part with images of the whole ({int((source_N < 0).sum())} images without a label)"
    )


def _skipped(used: Sequence[int] | NDArray[np.int64]) -> int:
    return int(used[-1]) + 1 - len(used) if len(used) else 0
