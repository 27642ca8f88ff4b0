"""A subject's rows before the court: what all pairings of them are compared on, and the verdict on any labels of them.

Shapes: N rows of the subject, n of them heard.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.evidence import ClosedProbe
from finefold.doctor.judging import Known, Verdict, in_order, judge
from finefold.doctor.listed import longest_labels
from finefold.doctor.pairings import folders_of, of_whole_folder, orders_of, parts_of
from finefold.doctor.probing import LEAST_ROWS, judged
from finefold.doctor.subject import Subject
from finefold.doctor.trials import Court

SORTED = ("natural order", "text order")  # by which rows that were shuffled are laid out again


@dataclass(frozen=True, eq=False)
class Ground:
    """What is the same for all labels of some rows, so that another question about them costs little.

    Args:
        rows_n: of the subject, ascending.
        probe: of their features.
        clusters_n: rows of one cluster are no independent evidence.
        known: their paths, orders and parts, and the data set's lists.
        seed: of random orders.
    """

    rows_n: NDArray[np.int64]
    probe: ClosedProbe
    clusters_n: NDArray[np.int64]
    known: Known
    seed: int

    def court(self, labels_N: NDArray[np.int64], num_classes: int) -> Court:
        """Of labels of all the subject's rows."""
        return Court.of(self.probe, labels_N[self.rows_n], num_classes, self.clusters_n)


def labelled_rows(subject: Subject, labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that are readable and have a label."""
    return np.flatnonzero(subject.features.is_readable_N & (labels_N >= 0))


def is_enough(labels_n: NDArray[np.int64]) -> bool:
    """Whether there are rows and classes enough to compare pairings of them."""
    return len(labels_n) >= LEAST_ROWS and len(np.unique(labels_n)) > 1


def ground_of(subject: Subject, rows_n: NDArray[np.int64]) -> Ground:
    """Everything but the labels; the probe is the other checks' where they ask about the same rows."""
    shared = judged(subject)
    if shared is not None and np.array_equal(shared.rows, rows_n):
        probe, clusters_n = shared.probe, shared.groups_n
    else:
        probe = ClosedProbe(subject.features.rows_ND[rows_n], subject.folds_N[rows_n])
        clusters_n = np.unique(subject.group_codes_N[rows_n], return_inverse=True)[1]
    return Ground(rows_n, probe, clusters_n, _known(subject, rows_n), subject.recipe.seed)


def hear(ground: Ground, court: Court, *, may_warp: bool = True) -> Verdict:
    """The rows in their order; where no pairing is found so, as their files are sorted.

    Args:
        ground: of the rows.
        court: of its labels.
        may_warp: look for lists of unequal length too, which takes seconds where the probe knows little.
    """
    known, rows_n, seed = ground.known, ground.rows_n, ground.seed
    first = judge(court, known, rows_n, seed=seed, may_warp=may_warp)
    if first.best is not None:
        return first
    for name, order_n in _other_orders(known):
        verdict = judge(*in_order(court, known, order_n), rows_n[order_n], seed=seed, may_warp=may_warp)
        if verdict.best is not None:
            pairing = replace(verdict.best.pairing, name=f"{verdict.best.pairing.name}, the files in {name}")
            return replace(verdict, best=replace(verdict.best, pairing=pairing))
    return first


def _known(subject: Subject, rows_n: NDArray[np.int64]) -> Known:
    paths = None if subject.paths is None else [str(subject.paths[row]) for row in rows_n]
    parts = {"folder": {} if paths is None else folders_of(paths)}
    if subject.groups is not None:
        groups = parts_of([subject.groups[row] for row in rows_n])
        if not _are_the_same(parts["folder"], groups):
            parts["group"] = groups
    if subject.given_folds_N is not None:
        parts["fold"] = parts_of(subject.given_folds_N[rows_n])
    longer = None
    if len(rows_n) == len(subject.ids) and (subject.labels_N >= 0).all():
        texts = [subject.class_names[code] for code in subject.labels_N]
        longer = longest_labels(subject.lists, texts, subject.class_names)
    if paths is None:
        return Known(parts=parts, lists=subject.lists, longer=longer)
    in_folder = tuple(of_whole_folder(paths, None if longer is None else len(longer)))
    return Known(paths, orders_of(paths), parts, subject.lists, longer, in_folder)


def _are_the_same(one: Mapping[str, NDArray[np.int64]], other: Mapping[str, NDArray[np.int64]]) -> bool:
    """Whether two partitions differ in names alone: a folder for each group, say."""
    sets = [{rows.tobytes() for rows in parts.values()} for parts in (one, other)]
    return sets[0] == sets[1]


def _other_orders(known: Known) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Orders in which files that lie in none may have lain, when labels were given to them."""
    if any(np.array_equal(np.argsort(ranks_n), np.arange(len(ranks_n))) for ranks_n in known.orders.values()):
        return
    seen: list[NDArray[np.int64]] = []
    for name in SORTED:
        if name in known.orders:
            order_n = np.argsort(known.orders[name])
            if not any(np.array_equal(order_n, one) for one in seen):
                seen.append(order_n)
                yield name, order_n
