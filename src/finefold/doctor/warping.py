"""Labels of a whole list against images of a part of it, or the other way round: the order is right, places are not.

Row i's label is number j(i) of the list, j rising: an alignment of two sequences, found by dynamic programming on what
the probe says of every image and class; the probe is fitted again to what was found, a few times over.

Shapes: N rows, M labels, C classes; P places that are matched in order with Q that may be skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.evidence import gain_of_targets
from finefold.doctor.pairings import Pairing
from finefold.doctor.trials import Court, Trial

RATES = (0.99, 0.95, 0.8, 0.67, 0.5)  # shares that a part may be of the whole, where it is not known
SHARP = 0.6  # rows: a blur that is none
ROUNDS = 12
MOST_CELLS = 40_000_000  # of the table that the alignment fills
NUM_NULLS = 2
MARGIN = 0.15  # of the information found, that images in a random order must stay below


@dataclass(frozen=True)
class Alignment:
    """What a warp came to.

    Args:
        source_N: position of each row's label, rising where it is not -1.
        information: mean nats of a row that has a label.
    """

    source_N: NDArray[np.int64]
    information: float


def match_in_order(worth_PQ: NDArray[np.float32], rate: float, *, is_whole: bool) -> tuple[NDArray[np.int64], float]:
    """Each of P places with one of Q, rising, so that the sum is largest.

    Args:
        worth_PQ: nats of place p being number q.
        rate: share of the Q that is not skipped; a skip costs -log(1 - rate), a match -log(rate).
        is_whole: the Q are all there are, so every place has one; else the last places may lie beyond them (-1).

    Returns:
        [P] numbers, and the sum.
    """
    count, width = worth_PQ.shape
    skip, match = np.float32(-np.log(max(1 - rate, 1e-3))), np.float32(np.log(rate))
    ramp_Q = skip * np.arange(width, dtype=np.float32)
    places = np.arange(width, dtype=np.int32)
    back_PQ = np.empty((count, width), np.int32)
    ends_P, tops_P = np.empty(count, np.float32), np.empty(count, np.int64)
    reach_Q, from_Q = -ramp_Q, places  # the best way to stand right before q, and the last q matched on it
    for row in range(count):
        here_Q = reach_Q + worth_PQ[row] + match
        back_PQ[row] = from_Q
        ended_Q = here_Q + ramp_Q - ramp_Q[-1]  # all behind q are skipped
        tops_P[row] = int(ended_Q.argmax())
        ends_P[row] = ended_Q[tops_P[row]]
        lifted_Q = here_Q + ramp_Q
        peak_Q = np.maximum.accumulate(lifted_Q)
        at_Q = np.maximum.accumulate(np.where(lifted_Q >= peak_Q, places, 0)).astype(np.int32)
        reach_Q = np.full(width, -np.inf, np.float32)
        reach_Q[1:] = peak_Q[:-1] - ramp_Q[:-1]
        from_Q = np.concatenate([[0], at_Q[:-1]]).astype(np.int32)
    last = count - 1 if is_whole else int(ends_P.argmax())
    found_P = np.full(count, -1, np.int64)
    place = int(tops_P[last])
    for row in range(last, -1, -1):
        found_P[row] = place
        place = int(back_PQ[row, place])
    return found_P, float(ends_P[last])


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
    if skips_labels:
        return match_in_order(gain_NC[:, labels_M], rate, is_whole=len(labels_M) > len(gain_NC))[0]
    found_M, _ = match_in_order(np.ascontiguousarray(gain_NC[:, labels_M].T), rate, is_whole=False)
    source_N = np.full(len(gain_NC), -1, np.int64)
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
    """The alignment that explains images and labels best, if it beats what the same search finds in shuffled images."""
    count, num_labels = len(court.labels_N), len(court.every_label)
    if count * num_labels > MOST_CELLS or count < 20:
        return None
    known = num_labels > count
    tries = [(count / num_labels, True)] if known else [(rate, way) for rate in RATES for way in (True, False)]
    found = [(warp(court, rate=rate, skips_labels=way), rate, way) for rate, way in tries]
    best, rate, way = max(found, key=lambda one: one[0].information * (one[0].source_N >= 0).sum())
    trial = court.hear(Pairing(_name(way, known, best.source_N, num_labels), best.source_N, "subset"))
    if not trial.is_better:
        return None
    nulls = [
        warp(court, rate=rate, skips_labels=way, order_N=rng.permutation(count)).information for _ in range(NUM_NULLS)
    ]
    return trial if best.information > max(nulls) + MARGIN * best.information else None


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
