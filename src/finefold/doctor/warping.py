"""Labels of a whole list against images of a part of it, or the other way round: the order is right, places are not.

Row i's label is number j(i) of the list, j rising. All such alignments are weighed at once by what the probe says of
every image and class; the probe is fitted again to the shares of classes that this gives each image, a few times over.
A single best alignment in place of the shares would take what it chose itself for evidence.

Shapes: N rows, M labels, C classes; P places that are matched in order with numbers, W of them tried for each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.evidence import gain_of_targets
from finefold.doctor.matching import match_in_order, odds_in_order
from finefold.doctor.pairings import Pairing
from finefold.doctor.trials import SURE, Court, Trial

# shares that a part may be of the whole, where it is not known; with half of it to choose from, any labels can be
# aligned with any images
RATES = tuple(percent / 100 for percent in range(66, 100))
APART = 0.025  # by which two rates differ that are both worth a warp
NUM_STARTS = 2  # rates of each way
LEAST_RATE, MOST_RATE = 0.5, 0.999
SLACK = 0.02  # of a list, by which a rate may be off
FIRST_ROUNDS, ROUNDS = 3, 15  # of fitting and aligning: of each start, and of the best in the end
STILL, LEAST_CHANGE = 1e-3, 0.5  # of its nats, and nats, by which a warp may still change when it ends
MOST_CELLS = 40_000_000  # of the table that the alignment fills
LEAST_TOLD = 0.05  # of the labels' entropy, that an alignment must explain
NUM_SHUFFLED = 2
BLOCKS = (64, 100, 150)  # rows that are turned round together: further than a wrong start is off
LEAST_TURNED = 0.1  # of the labels, that such blocks must change for their order to matter
MARGIN = 0.4  # of the nats found, that others must stay below
NEAR_MARGIN = 0.1  # the same of labels that stay near their places


@dataclass(frozen=True)
class Warp:
    """What is held of an alignment, after some rounds.

    Args:
        targets_NC: shares of classes that it gives each image.
        nats: log of the mean likelihood ratio of the labels, over all alignments, to labels that images do not tell.
        rate: share of the longer side that the shorter is.
        skips_labels: the labels are those of the whole, the images a part; the other way round otherwise.
        is_still: whether the last round changed little.
    """

    targets_NC: NDArray[np.float32]
    nats: float
    rate: float
    skips_labels: bool
    is_still: bool = False


def best_warp(court: Court, rng: np.random.Generator) -> Trial | None:
    """The alignment that explains images and labels best, if it beats what the same search finds where nothing is."""
    count, num_labels = len(court.labels_N), len(court.every_label)
    if count * num_labels > MOST_CELLS or count < 20:
        return None
    known = num_labels > count
    found = _search(court, (True,) if known else (True, False))
    shares = np.bincount(court.every_label) / num_labels
    entropy = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    if found.nats < max(LEAST_TOLD * entropy * count, court.current.information * count + SURE):
        return None
    source_N = aligned(court, found)
    trial = court.hear(Pairing(_name(found, source_N, num_labels if known else None), source_N, "subset"))
    if not trial.is_better:
        return None
    if any(null > found.nats - max(SURE, margin * found.nats) for null, margin in _nulls(court, found, rng)):
        return None
    return trial


def _search(court: Court, ways: Sequence[bool]) -> Warp:
    """From the even stretches that images say most of; where the longer list is known, from the only one."""
    count, num_labels = len(court.labels_N), len(court.every_label)
    if num_labels > count:
        return warp(court, begun(court, count / num_labels, skips_labels=True))
    starts: list[tuple[float, bool]] = []
    for way in ways:
        worth = {rate: court.quick_of_targets(_stretched(court, rate, way)) for rate in RATES}
        rates: list[float] = []
        for rate in sorted(RATES, key=lambda rate: -worth[rate]):
            if len(rates) < NUM_STARTS and all(abs(rate - other) > APART for other in rates):
                rates.append(rate)
        starts += [(rate, way) for rate in rates]
    first = [warp(court, begun(court, rate, skips_labels=way), rounds=FIRST_ROUNDS) for rate, way in starts]
    return warp(court, max(first, key=lambda one: one.nats))


def begun(court: Court, rate: float, *, skips_labels: bool) -> Warp:
    """An even stretch of one list to the other."""
    return Warp(_stretched(court, rate, skips_labels), -np.inf, rate, skips_labels)


def _stretched(court: Court, rate: float, skips_labels: bool) -> NDArray[np.float32]:
    """[N, C] shares of classes near each image's place, if one list were the other stretched evenly.

    An even stretch is off by some rows, most in the middle; labels are blurred by as much.
    """
    labels_M, count = court.every_label, len(court.labels_N)
    steps_N = np.rint(np.arange(count) / rate if skips_labels else np.arange(count) * rate).astype(np.int64)
    width = 1 + 0.5 * float(np.sqrt(count * rate * (1 - rate)))
    flags_MC = np.eye(court.num_classes, dtype=np.float32)[labels_M]
    reach = int(3 * width) + 1
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    padded = np.pad(flags_MC, ((reach, reach), (0, 0)), mode="edge")
    soft_MC = np.stack([np.convolve(column, window / window.sum(), mode="valid") for column in padded.T], axis=1)
    targets_NC = np.tile(flags_MC.mean(axis=0), (count, 1))
    known = np.flatnonzero(steps_N < len(labels_M))
    targets_NC[known] = soft_MC[steps_N[known]]
    return np.asarray(targets_NC, np.float32)


def warp(court: Court, begun: Warp, *, rounds: int = ROUNDS) -> Warp:
    """Fits and aligns in turn until little changes; the rate too, where lists are as long.

    Args:
        court: whose longest list of labels is aligned.
        begun: to go on from.
        rounds: at most.
    """
    for _ in range(rounds):
        if begun.is_still:
            break
        begun = _turn(court, begun)
    return begun


def _turn(court: Court, warp: Warp) -> Warp:
    labels_M, count, num_classes = court.every_label, len(court.labels_N), court.num_classes
    worth_PW, first_P, width, cells_PW = _worth(court, warp)
    odds = odds_in_order(worth_PW, first_P, width, warp.rate)
    told = np.bincount(cells_PW.ravel(), odds.share_PW.ravel(), count * num_classes)
    told_NC = told.reshape(count, num_classes)
    missing_N = np.maximum(1 - told_NC.sum(axis=1), 0)
    share_C = np.bincount(labels_M, minlength=num_classes) / len(labels_M)
    rate = warp.rate
    if len(labels_M) == count:
        rate = float(np.clip(odds.share_PW.sum() / width, LEAST_RATE, MOST_RATE))
    targets_NC = (told_NC + missing_N[:, None] * share_C).astype(np.float32)
    is_still = abs(odds.nats - warp.nats) < max(LEAST_CHANGE, STILL * odds.nats)
    return Warp(targets_NC, odds.nats, rate, warp.skips_labels, is_still)


def _worth(court: Court, warp: Warp) -> tuple[NDArray[np.float32], NDArray[np.int64], int, NDArray[np.int64]]:
    """As `odds_in_order` takes them: what each match is worth, the lowest numbers, how many; and image * C + class."""
    labels_M, count = court.every_label, len(court.labels_N)
    gain_NC = gain_of_targets(court.probe.scores(warp.targets_NC), warp.targets_NC)
    num_places, width = (count, len(labels_M)) if warp.skips_labels else (len(labels_M), count)
    first_P, reach = band(num_places, width, 1 / warp.rate)
    numbers_PW, places_P1 = first_P[:, None] + np.arange(reach), np.arange(num_places)[:, None]
    images_PW, of_labels_PW = (places_P1, numbers_PW) if warp.skips_labels else (numbers_PW, places_P1)
    cells_PW = images_PW * court.num_classes + labels_M[of_labels_PW]
    return gain_NC.ravel()[cells_PW], first_P, width, cells_PW


def aligned(court: Court, warp: Warp) -> NDArray[np.int64]:
    """[N] position of each row's label in the best alignment, rising where it is not -1."""
    count = len(court.labels_N)
    worth_PW, first_P, width, _ = _worth(court, warp)
    is_whole = warp.skips_labels and width > count
    found_P, _ = match_in_order(worth_PW, first_P, width, warp.rate, is_whole=is_whole)
    if warp.skips_labels:
        return found_P
    source_N = np.full(count, -1, np.int64)
    used = np.flatnonzero(found_P >= 0)
    source_N[found_P[used]] = used
    return source_N


def band(count: int, width: int, slope: float) -> tuple[NDArray[np.int64], int]:
    """Where numbers are looked for: the lowest of each place, and how many from there on.

    Args:
        count: of places.
        width: of numbers.
        slope: numbers for a place.
    """
    slack = int(20 + 2 * np.sqrt(width) + SLACK * width)
    reach = min(width, 2 * slack + 1)
    middle_P = np.rint(np.arange(count) * slope).astype(np.int64)
    return np.clip(middle_P - slack, 0, width - reach), reach


def _nulls(court: Court, found: Warp, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    """(nats, the margin they must stay below) of labels that must not be aligned as well.

    In random order, by the same search; or turned round in blocks, which keeps runs of labels and about where they lie,
    and only loses their order. Where labels come in a few long runs there is no such order; then it is the runs' ends
    alone that an alignment moves.
    """
    labels_M = court.every_label
    for _ in range(NUM_SHUFFLED):
        yield _search(court.with_labels(rng.permutation(labels_M)), (found.skips_labels,)).nats, MARGIN
    for size in BLOCKS:
        turned_M = _turned(labels_M, min(size, len(labels_M) // 3))
        if float((turned_M != labels_M).mean()) > LEAST_TURNED:
            other = court.with_labels(turned_M)
            yield warp(other, begun(other, found.rate, skips_labels=found.skips_labels)).nats, NEAR_MARGIN


def _turned(labels_M: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Each block of `size` labels backwards."""
    return np.concatenate([labels_M[start : start + size][::-1] for start in range(0, len(labels_M), size)])


def _name(found: Warp, source_N: NDArray[np.int64], num_labels: int | None) -> str:
    used = source_N[source_N >= 0]
    if found.skips_labels:
        whole = "the labels" if num_labels is None else f"all {num_labels} labels"
        skipped = int(used[-1]) + 1 - len(used) if len(used) else 0
        return f"aligning {whole}, of a whole list, with images that are a part of it ({skipped} labels skipped)"
    without = int((source_N < 0).sum())
    return f"aligning the labels of a part with images of the whole ({without} images without a label)"
