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

from finefold.doctor.pairings import Pairing, Ranks, Scope, by_orders, placed, turned_by_orders
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
NUM_ROTATIONS = 2  # of a part, those that gain most
NUM_TRIED = 4  # of each kind of candidates, those that a first look ranks highest


Parts = Mapping[str, Mapping[str, NDArray[np.int64]]]  # what a part is (a folder, a group) -> its name -> its rows
Candidate = tuple[float, Pairing]  # what a first look makes of it, in nats


@dataclass(frozen=True)
class Stretch:
    """Rows first..last-1, and the nats by which something explains their labels better than the probe does."""

    first: int
    last: int
    nats: float

    @property
    def rows(self) -> NDArray[np.int64]:
        """Their numbers."""
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
            yield float(sums.max()), _stretched(turned, first, stop, count, "reversing the labels", "stretch")


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
            yield worth, _stretched(np.roll(np.arange(first, last), -by), first, last, count, name, "misfit")
    for worth, first, last in _best_ends(gain_NC, labels_N, firsts, lasts, np.flip):
        yield worth, _stretched(np.arange(first, last)[::-1], first, last, count, "reversing the labels", "misfit")
    for pairing in by_orders(orders, stretch.rows, count):
        worth = _worth(gain_NC, labels_N, stretch.rows, pairing.source_N[stretch.rows])
        yield worth, Pairing(f"{pairing.name} {where}", pairing.source_N, pairing.kind, "misfit")


def _worth(
    gain_NC: NDArray[np.float32], labels_N: NDArray[np.int64], rows: NDArray[np.int64], source: NDArray[np.int64]
) -> float:
    """Nats by which rows fit better once each takes the label of its source; by a probe of the labels as they are."""
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


def _stretched(source: NDArray[np.int64], first: int, last: int, count: int, name: str, scope: Scope) -> Pairing:
    kind = "reversed" if name.startswith("reversing") else "shift"
    return placed(f"{name} in rows {first}-{last - 1}", np.arange(first, last), source, count, kind=kind, scope=scope)


def is_shuffled(court: Court, stretch: Stretch, rng: np.random.Generator) -> bool:
    """Whether a stretch's labels fit no better than the same labels shuffled, where right ones surely would.

    Where images are hard, or differ from all others, the probe says little for the right label and little against it.
    """
    rows, labels = stretch.rows, court.labels_N[stretch.rows]
    gain_NC = court.current.gain_NC[rows]
    own = float(gain_NC[np.arange(len(rows)), labels].sum())
    drawn = [float(gain_NC[np.arange(len(rows)), rng.permutation(labels)].sum()) for _ in range(NUM_SHUFFLES)]
    spread = float(np.std(drawn)) or 1e-9
    foreseen = _foreseen(court, rows)
    return foreseen > max(SURE, FORESEEN * spread) and own < float(np.quantile(drawn, 0.99))


def _foreseen(court: Court, rows: NDArray[np.int64]) -> float:
    """By how much the labels of some rows would be ahead of the same labels shuffled, were they as clear as all others.

    In a run of one class there is hardly anything to shuffle, so that labels which belong are not ahead by much.
    """
    is_other_N = np.ones(len(court.labels_N), bool)
    is_other_N[rows] = False
    classes, counts = np.unique(court.labels_N[rows], return_counts=True)
    ahead = 0.0
    for place, code in enumerate(classes):
        alike = np.flatnonzero(is_other_N & (court.labels_N == code))
        if len(alike):
            usual = court.current.gain_NC[alike][:, classes].mean(axis=0)
            ahead += float(counts[place] * (usual[place] - (usual * counts).sum() / len(rows)))
    return ahead


def by_parts(court: Court, parts: Parts, orders: Mapping[str, Ranks]) -> Iterator[Candidate]:
    """For each folder (group, fold) by itself, for all that gain, and for every one: another order of the labels."""
    for kind, rows_of in parts.items():
        yield from _by_part(court, kind, rows_of, orders)


def _by_part(
    court: Court, kind: str, rows_of: Mapping[str, NDArray[np.int64]], orders: Mapping[str, Ranks]
) -> Iterator[Candidate]:
    count = len(court.labels_N)
    gain_NC, labels_N = court.current.gain_NC, court.labels_N
    turns: dict[str, dict[str, tuple[float, NDArray[np.int64]]]] = {}
    for part, rows in rows_of.items():
        if (labels_N[rows] == labels_N[rows[0]]).all():
            continue
        for turn, source in (*turned_by_orders(orders, rows), *_rotations(gain_NC, labels_N, rows)):
            worth = _worth(gain_NC, labels_N, rows, source)
            turns.setdefault(turn, {})[part] = (worth, source)
            if worth > WORTH_A_TRIAL:
                where = f"in {part}/" if kind == "folder" else f"in {kind} {part}"
                yield worth, placed(f"{turn} {where}", rows, source, count, kind=_family(turn), scope="folder")
    least = np.log(max(2, len(rows_of) * len(turns)))
    for turn, found in turns.items():
        gaining = {part: one for part, one in found.items() if one[0] > least}
        together: list[tuple[dict[str, tuple[float, NDArray[np.int64]]], Scope]] = [(found, "all")]
        if len(gaining) < len(found):
            together.insert(0, (gaining, "folders"))
        for some, scope in together:
            worth = sum(one[0] for one in some.values())
            if len(some) > 1 and worth > WORTH_A_TRIAL:
                rows = np.concatenate([rows_of[part] for part in some])
                source = np.concatenate([one[1] for one in some.values()])
                where = f"in {len(some)} {kind}s" if len(some) < len(found) else f"in every {kind}"
                yield worth, placed(f"{turn} {where}", rows, source, count, kind=_family(turn), scope=scope)


def _family(turn: str) -> str:
    """A pairing's kind, by its name."""
    return "shift" if turn.startswith("rotating") else "order"


def _rotations(
    gain_NC: NDArray[np.float32], labels_N: NDArray[np.int64], rows: NDArray[np.int64]
) -> list[tuple[str, NDArray[np.int64]]]:
    """By a few rows, and by what gains most of all that there are: one product of Fourier transforms for each class."""
    labels, size = labels_N[rows], len(rows)
    gained = np.zeros(size)
    for code in np.unique(labels):
        waves = np.conj(np.fft.rfft(gain_NC[rows, code])) * np.fft.rfft(labels == code)
        gained += np.fft.irfft(waves, n=size)
    gained[0] = -np.inf
    near = [by % size for by in (1, -1, 2, -2, 3, -3) if 2 * abs(by) < size]
    places = dict.fromkeys([*near, *np.argsort(gained)[::-1][:NUM_ROTATIONS].tolist()])
    shorter = [(by if 2 * by <= size else by - size) for by in places if by]
    return [(f"rotating the labels by {-by:+d} rows", np.roll(rows, -by)) for by in shorter]


def best_part(court: Court, orders: Mapping[str, Ranks], parts: Parts, rng: np.random.Generator) -> Trial | None:
    """The best pairing of a part, put to the test; None where none is better beyond doubt."""
    looks = [shifted_stretches(court), reversed_stretches(court), by_parts(court, parts, orders)]
    stretch = misfit(court)
    if stretch is not None:
        looks.append(within(court, stretch, orders))
    pairings = [pairing for look in looks for _, pairing in sorted(look, key=lambda one: -one[0])[:NUM_TRIED]]
    return court.best(pairings, lambda trial: trial.is_better and court.is_about_order(trial, rng))
