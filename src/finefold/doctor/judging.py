"""All pairings of images and labels put to the test on one court: of all rows, of parts, and those that lists suggest.

Shapes: N rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.ends import best_end
from finefold.doctor.listed import by_lists
from finefold.doctor.lists import Lists
from finefold.doctor.pairings import Pairing, Ranks, by_class_folders, by_orders
from finefold.doctor.parts import Parts, Stretch, best_part, is_shuffled, misfit
from finefold.doctor.trials import Court, Trial
from finefold.doctor.warping import best_warp
from finefold.doctor.witness import is_witnessed

NUM_CHANCE = 20  # random orders of the labels
ROUNDS = 6  # of parts that are re-paired one after the other
AHEAD = 1.05  # of the nats of a shift, that an alignment in their place must have
WEAK = 0.1  # of the labels' entropy: with less known of the labels, nearly anything may be wrong


@dataclass(frozen=True)
class Known:
    """What is known of the rows besides images and labels, in the court's order.

    Args:
        paths: [N] of the files; None where not known.
        orders: in which a program may have listed them.
        parts: folders, groups, folds: what a program may have gone through one at a time.
        lists: what the data set keeps.
        longer: codes of a list of labels that begins with the rows' labels and goes on; None where there is none.
        in_folder: pairings by the places of the files among all files of their folder.
    """

    paths: Sequence[str] | None = None
    orders: Mapping[str, Ranks] = field(default_factory=dict)
    parts: Parts = field(default_factory=dict)
    lists: Lists = field(default_factory=Lists)
    longer: NDArray[np.int64] | None = None
    in_folder: Sequence[Pairing] = ()


@dataclass(frozen=True)
class Verdict:
    """What was found of some rows.

    Args:
        court: the labels as they are.
        chance: [times, 2] information and accuracy of random orders.
        best: the pairing that beats theirs beyond doubt.
        stretch: rows whose labels do not belong, and for which no pairing was found.
        num_pairings: how many others were looked at.
        rows_N: of the data set, the court's rows.
    """

    court: Court
    chance: NDArray[np.float64]
    best: Trial | None
    stretch: Stretch | None
    num_pairings: int
    rows_N: NDArray[np.int64]

    @property
    def is_wrong(self) -> bool:
        """Whether any labels do not belong to their images."""
        return self.best is not None or self.stretch is not None

    @property
    def has_signal(self) -> bool:
        """Whether the probe knows more of the labels than of all random orders."""
        return self.court.current.information > float(self.chance[:, 0].max()) + 1e-3


def judge(court: Court, known: Known, rows_N: NDArray[np.int64], *, seed: int, may_warp: bool = True) -> Verdict:
    """All pairings.

    Args:
        court: of the rows.
        known: besides.
        rows_N: their numbers in the data set.
        seed: of random orders.
        may_warp: align lists of unequal length too, where a longer one is known, the probe knows little, labels misfit
            or a shift is found.
    """
    rng = np.random.default_rng(seed)
    count = len(court.labels_N)
    wide = court if known.longer is None else court.with_labels(known.longer)
    chance = court.probe.permuted(court.labels_N, court.num_classes, times=NUM_CHANCE, rng=rng)
    whole = [*court.shifts(), *by_orders(known.orders, np.arange(count), count)]
    listed = by_lists(court, rows_N, known.lists, known.paths, known.longer, known.in_folder)
    listed += [court.hear(pairing) for pairing in by_class_folders(known.paths or (), court.labels_N)]
    found = court.best(whole, partial(_is_borne_out, court))
    trials = [trial for trial in (found, *listed) if trial is not None and trial.is_better]
    if trials and trials[0].pairing.kind == "shift":
        trials[0] = court.cut_or_cyclic(trials[0])
    best = max(trials, key=lambda trial: trial.nats, default=None)
    is_warped = best is None and may_warp and (known.longer is not None or _is_weak(court))
    if is_warped:
        best = _warped(court, wide, rng)
    two_ends = 2 * float(np.log(count))  # nats that the choice of a part's ends is worth
    steps = _steps(court, known, rng)
    part = court.hear(_joined(steps, count)) if steps else None
    if part is not None and part.nats > (0.0 if best is None else best.nats + two_ends):
        best = part
    is_odd = misfit(court) is not None if best is None else best.pairing.kind == "shift"
    if may_warp and not is_warped and is_odd and (warped := _warped(court, wide, rng)) is not None:
        best = warped if best is None or warped.nats > AHEAD * best.nats else best
    if best is None:
        best = best_end(court)
    stretch = _unexplained(court, best, rng)
    return Verdict(court, chance, best, stretch, len(whole) + len(listed), rows_N)


def _steps(court: Court, known: Known, rng: np.random.Generator) -> list[Trial]:
    """Re-pairings of parts, each on top of those before."""
    steps: list[Trial] = []
    for _ in range(ROUNDS):
        step = best_part(court, known.orders, known.parts, rng)
        if step is None or not _is_borne_out(court, step):
            break
        steps.append(step)
        court = Court.of(court.probe, step.labels_N, court.num_classes, court.clusters_N)
    return steps


def _is_borne_out(court: Court, trial: Trial) -> bool:
    """Whether the rows that a pairing changes look like what it says."""
    return court.explains(trial) and is_witnessed(court, trial)


def _warped(court: Court, wide: Court, rng: np.random.Generator) -> Trial | None:
    """The best alignment of lists of unequal length."""
    found = best_warp(wide, rng)
    return found if found is not None and is_witnessed(court, found) else None


def _joined(steps: list[Trial], count: int) -> Pairing:
    """Several re-pairings as one."""
    source_N = np.arange(count)
    for step in steps:
        source_N = source_N[step.pairing.source_N]
    first = max(steps, key=lambda step: step.nats).pairing
    more = f", and {len(steps) - 1} more such parts" if len(steps) > 1 else ""
    return Pairing(f"{first.name}{more}", source_N, first.kind, first.scope)


def _unexplained(court: Court, best: Trial | None, rng: np.random.Generator) -> Stretch | None:
    """Rows whose labels do not belong, once the best pairing is made."""
    if best is not None and (best.labels_N < 0).any():
        return None
    left = court if best is None else Court.of(court.probe, best.labels_N, court.num_classes, court.clusters_N)
    stretch = misfit(left)
    return stretch if stretch is not None and is_shuffled(left, stretch, rng) else None


def _is_weak(court: Court) -> bool:
    """Whether the probe knows little of the labels, so that nearly all may lie beside wrong images."""
    shares = np.bincount(court.labels_N) / len(court.labels_N)
    entropy = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    return court.current.information < WEAK * entropy


def in_order(court: Court, known: Known, order_N: NDArray[np.int64]) -> tuple[Court, Known]:
    """The same rows in another order: row i is what `order_N[i]` was."""
    place_N = np.empty_like(order_N)
    place_N[order_N] = np.arange(len(order_N))
    labels_N = court.labels_N[order_N]
    probe, clusters_N = court.probe.reordered(order_N), court.clusters_N[order_N]
    parts = {
        kind: {name: np.sort(place_N[rows]) for name, rows in rows_of.items()} for kind, rows_of in known.parts.items()
    }
    paths = None if known.paths is None else [known.paths[row] for row in order_N]
    orders = {name: ranks_N[order_N] for name, ranks_N in known.orders.items()}
    in_folder = [replace(one, source_N=one.source_N[order_N]) for one in known.in_folder]
    other = replace(known, paths=paths, orders=orders, parts=parts, longer=None, in_folder=in_folder)
    return Court.of(probe, labels_N, court.num_classes, clusters_N), other
