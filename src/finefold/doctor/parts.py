"""Pairings that are wrong for a part of the rows only: a shard, a folder, a stretch of rows.

The probe of all rows still knows the classes where most rows are right. What it says row by row is then scanned for
stretches where other labels fit better, or where the labels fit worse than labels drawn at random.

Shapes: N rows, C classes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.pairings import Pairing, Ranks, Scope, by_orders
from finefold.doctor.trials import SURE, Court, Trial

MOST_REVERSED = 6000  # rows; beyond, only where labels misfit
WORTH_A_TRIAL = 15.0  # nats by a first look
CAP = 4.0  # nats that one cluster may add: one person with a wrong label is no stretch
VERY_NEAR = 3  # rows
NEAR = 200  # rows that labels are looked for, forwards and backwards, all along
SLACK = 12  # rows by which the ends of a stretch may be off
NUM_SHUFFLES = 200
FORESEEN = 6.0  # deviations that labels which belong would lie above shuffled ones, for a stretch to be judged
LEAST_ROWS = 8
NUM_TRIED = 4  # of each kind of candidates, those that a first look ranks highest


Candidate = tuple[float, Pairing]  # what a first look makes of it, in nats


@dataclass(frozen=True)
class Stretch:
    """Rows first..last-1, and the nats by which something explains their labels better than the probe does."""

    first: int
    last: int
    nats: float

    @property
    def rows(self) -> NDArray[np.int64]:
        return np.arange(self.first, self.last)


def best_stretch(gains_N: NDArray[np.float64]) -> Stretch:
    """The contiguous rows whose gains have the largest sum."""
    sums_N = np.concatenate([[0.0], np.cumsum(gains_N)])
    lowest_N = np.minimum.accumulate(sums_N)
    last = int((sums_N - lowest_N).argmax())
    first = int(sums_N[: last + 1].argmin())
    return Stretch(first, last, float(sums_N[last] - sums_N[first]))


def capped(gains_N: NDArray[np.floating], clusters_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Gains of which no cluster adds more than CAP."""
    sums_G = np.bincount(clusters_N, weights=gains_N)
    factor_G = np.where(sums_G > CAP, CAP / np.maximum(sums_G, CAP), 1.0)
    return np.asarray(gains_N * factor_G[clusters_N], np.float64)


def shifted_stretches(court: Court) -> Iterator[Candidate]:
    """For shifts up to NEAR rows, the stretch whose labels fit so much better that chance is ruled out."""
    gain_NC, labels_N = court.current.gain_NC, court.labels_N
    count = len(labels_N)
    rows_N = np.arange(count)
    own_N = gain_NC[rows_N, labels_N]
    for by in range(-min(NEAR, count - 1), min(NEAR, count - 1) + 1):
        low, high = max(0, -by), min(count, count - by)
        if by == 0:
            continue
        gains_N = np.full(count, -CAP)
        gains_N[low:high] = (gain_NC[rows_N[low:high], labels_N[low + by : high + by]] - own_N[low:high]).clip(
            -CAP, None
        )
        found = best_stretch(capped(gains_N, court.clusters_N))
        if found.nats > WORTH_A_TRIAL:
            yield found.nats, _moved(found, by, count)


def reversed_stretches(court: Court) -> Iterator[Candidate]:
    """For every middle, the stretch around it whose labels fit so much better backwards that chance is ruled out."""
    gain_NC, labels_N = court.current.gain_NC, court.labels_N
    count = len(labels_N)
    if count > MOST_REVERSED:
        return
    own_N = gain_NC[np.arange(count), labels_N]
    for ends in range(LEAST_ROWS, 2 * count - LEAST_ROWS):
        first, last = max(0, ends - count + 1), (ends + 1) // 2
        rows = np.arange(first, last)  # of the first half; each is exchanged with its mirror
        gains = (
            gain_NC[rows, labels_N[ends - rows]]
            - own_N[rows]
            + gain_NC[ends - rows, labels_N[rows]]
            - own_N[ends - rows]
        )
        sums = np.cumsum(gains[::-1].clip(-2 * CAP, 2 * CAP))  # from the middle outwards
        if len(sums) and sums.max() > WORTH_A_TRIAL:
            reach = int(sums.argmax()) + 1
            first, stop = last - reach, ends - (last - reach) + 1
            turned = np.arange(first, stop)[::-1]
            yield float(sums.max()), _placed(turned, first, stop, count, "reversing the labels", "stretch")


def _moved(stretch: Stretch, by: int, count: int) -> Pairing:
    source_N = np.arange(count)
    source_N[stretch.first : stretch.last] += by
    name = f"a shift of the labels by {-by:+d} rows in rows {stretch.first}-{stretch.last - 1}"
    return Pairing(name, source_N, "shift", "near" if abs(by) <= VERY_NEAR else "stretch")


def misfit(court: Court) -> Stretch | None:
    """The stretch whose labels fit worse than labels drawn at random would; None where there is none beyond doubt."""
    own_N = court.current.gain_NC[np.arange(len(court.labels_N)), court.labels_N]
    found = best_stretch(capped(-own_N, court.clusters_N))
    return found if found.nats > SURE + np.log(len(own_N)) and found.last - found.first >= LEAST_ROWS else None


def within(court: Court, stretch: Stretch, orders: Mapping[str, Ranks]) -> Iterator[Candidate]:
    """Pairings of a stretch whose labels misfit: moved, turned round, rotated, in another order; ends may be off."""
    count = len(court.labels_N)
    where = f"in rows {stretch.first}-{stretch.last - 1}"
    gain_NC, labels_N = court.current.gain_NC, court.labels_N
    firsts = np.unique(np.clip(np.arange(stretch.first - SLACK, stretch.first + SLACK + 1), 0, count))
    lasts = np.unique(np.clip(np.arange(stretch.last - SLACK, stretch.last + SLACK + 1), 0, count))
    size = stretch.last - stretch.first
    rotations = [(_worth(gain_NC, labels_N, stretch.rows, np.roll(stretch.rows, -by)), by) for by in range(1, size)]
    for _, by in sorted(rotations, reverse=True)[:4]:
        short = by if by <= size // 2 else by - size
        name = f"rotating the labels by {-short:+d} rows"
        for worth, first, last in _best_ends(gain_NC, labels_N, firsts, lasts, partial(np.roll, shift=-by)):
            yield worth, _placed(np.roll(np.arange(first, last), -by), first, last, count, name, "misfit")
    for worth, first, last in _best_ends(gain_NC, labels_N, firsts, lasts, np.flip):
        yield worth, _placed(np.arange(first, last)[::-1], first, last, count, "reversing the labels", "misfit")
    for pairing in by_orders(orders, stretch.rows, count):
        worth = _worth(gain_NC, labels_N, stretch.rows, pairing.source_N[stretch.rows])
        yield worth, Pairing(f"{pairing.name} {where}", pairing.source_N, pairing.kind, "misfit")


def _worth(
    gain_NC: NDArray[np.float32], labels_N: NDArray[np.int64], rows: NDArray[np.int64], source: NDArray[np.int64]
) -> float:
    return float((gain_NC[rows, labels_N[source]] - gain_NC[rows, labels_N[rows]]).sum())


def _best_ends(
    gain_NC: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    firsts: NDArray[np.int64],
    lasts: NDArray[np.int64],
    turn: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> list[tuple[float, int, int]]:
    """The two best pairs of ends between which a turn of the rows gains most: what it gains, first, last."""
    found = []
    for first, last in product(firsts.tolist(), lasts.tolist()):
        if last - first >= LEAST_ROWS:
            rows = np.arange(first, last)
            found.append((_worth(gain_NC, labels_N, rows, turn(rows)), first, last))
    return sorted(found, reverse=True)[:2]


def _placed(source: NDArray[np.int64], first: int, last: int, count: int, name: str, scope: Scope) -> Pairing:
    source_N = np.arange(count)
    source_N[first:last] = source
    kind = "reversed" if name.startswith("reversing") else "shift"
    return Pairing(f"{name} in rows {first}-{last - 1}", source_N, kind, scope)


def is_shuffled(court: Court, stretch: Stretch, rng: np.random.Generator) -> bool:
    """Whether a stretch's labels fit no better than the same labels shuffled, where right ones surely would.

    Where images are hard, or differ from all others, the probe says little for the right label and little against it.
    """
    rows, labels = stretch.rows, court.labels_N[stretch.rows]
    gain_NC = court.current.gain_NC[rows]
    own = float(gain_NC[np.arange(len(rows)), labels].sum())
    drawn = [float(gain_NC[np.arange(len(rows)), rng.permutation(labels)].sum()) for _ in range(NUM_SHUFFLES)]
    spread = float(np.std(drawn)) or 1e-9
    others = np.delete(np.arange(len(court.labels_N)), rows)
    if len(others) < LEAST_ROWS:
        return False
    usual = float(court.current.gain_NC[others, court.labels_N[others]].mean()) * len(rows)
    return float((usual - np.mean(drawn)) / spread) > FORESEEN and own < float(np.quantile(drawn, 0.99))


def by_folders(
    court: Court, folders: Mapping[str, NDArray[np.int64]], orders: Mapping[str, Ranks]
) -> Iterator[Candidate]:
    """For each folder by itself, and for all that gain from the same, another order of the labels inside."""
    count = len(court.labels_N)
    gain_NC, labels_N = court.current.gain_NC, court.labels_N
    together: dict[str, NDArray[np.int64]] = {}
    gaining: dict[str, list[float]] = {}
    for folder, rows in folders.items():
        choices = list(by_orders(orders, rows, count))
        for by in (1, -1, 2, -2, 3, -3):
            if abs(by) < len(rows) // 2:
                source_N = np.arange(count)
                source_N[rows] = np.roll(rows, -by)
                choices.append(Pairing(f"rotating the labels by {-by:+d} rows", source_N, "shift"))
        for choice in choices:
            worth = _worth(gain_NC, labels_N, rows, choice.source_N[rows])
            if worth > np.log(max(2, len(folders) * len(choices))):
                together.setdefault(choice.name, np.arange(count))[rows] = choice.source_N[rows]
                gaining.setdefault(choice.name, []).append(worth)
            if worth > WORTH_A_TRIAL:
                yield worth, Pairing(f"{choice.name} in {folder}/", choice.source_N, choice.kind, "folder")
    for name, source_N in together.items():
        if len(gaining[name]) > 1:
            yield sum(gaining[name]), Pairing(f"{name} in {len(gaining[name])} folders", source_N, "order", "folder")


def best_part(
    court: Court, orders: Mapping[str, Ranks], folders: Mapping[str, NDArray[np.int64]], rng: np.random.Generator
) -> Trial | None:
    """The best pairing of a part, put to the test; None where none is better beyond doubt."""
    looks = [shifted_stretches(court), reversed_stretches(court), by_folders(court, folders, orders)]
    stretch = misfit(court)
    if stretch is not None:
        looks.append(within(court, stretch, orders))
    pairings = [pairing for look in looks for _, pairing in sorted(look, key=lambda one: -one[0])[:NUM_TRIED]]
    return court.best(pairings, lambda trial: trial.is_better and court.is_about_order(trial, rng))
