"""What rows of which a pairing changes nothing say of those that it changes.

Where labels lie in a few long runs, as class folders one behind the other, another pairing draws the borders of classes
anew. If images in a run lie in an order of their own (solar cells by module, say), such borders may fall between two
makes of a thing, which any probe tells apart better than the classes. Rows whose label the pairing leaves alone have
the right one whichever pairing is right; a probe of these alone favours neither.

Shapes: N rows.
"""

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.parts import CAP, LEAST_ROWS, WORTH_A_TRIAL, capped
from finefold.doctor.trials import Court, Trial

LONG_RUNS = 4  # of each class, up to which labels lie in a few long runs
LEAST_KNOWN = 10  # rows of each class concerned, to bear witness
USUAL = 0.5  # see `is_witnessed`
LEAST_AT_ENDS = 0.3  # of the changed rows, that must lie in stretches where a run begins or ends


def ends_of_runs(labels_N: NDArray[np.int64]) -> list[int]:
    """Where runs of one label begin, and N."""
    return [0, *(np.flatnonzero(labels_N[1:] != labels_N[:-1]) + 1).tolist(), len(labels_N)]


def in_long_runs(court: Court) -> bool:
    """Whether the labels lie in a few long runs."""
    return len(ends_of_runs(court.labels_N)) <= LONG_RUNS * court.num_classes


def is_witnessed(court: Court, trial: Trial) -> bool:
    """Whether a probe of the rows that keep their label takes the others for what the pairing says.

    It must do so half as clearly as for rows that have that label. And photos of one thing lie together, so that a few
    in a row may look like another class: nowhere else in a run may as many in a row do so half as much. That is asked
    of all together, and of every stretch of `LEAST_ROWS` that all change from one label to another. Nor may all lie in
    the midst of runs: labels that are moved, turned round or listed in another order change where runs end.

    Of labels in many runs nothing is asked: there the borders of another pairing fall everywhere.
    """
    if not in_long_runs(court):
        return True
    labels_N, other_N = court.labels_N, trial.labels_N
    is_kept_N = other_N == labels_N
    changed = np.flatnonzero((other_N >= 0) & ~is_kept_N)
    if not len(changed):
        return False
    concerned = np.union1d(labels_N[changed], other_N[changed])
    if (np.bincount(labels_N[is_kept_N], minlength=court.num_classes)[concerned] < LEAST_KNOWN).any():
        return False
    stretches, ends = np.split(changed, _breaks(changed, labels_N, other_N)), set(ends_of_runs(labels_N))
    num_at_ends = sum(len(rows) for rows in stretches if rows[0] in ends or rows[-1] + 1 in ends)
    if num_at_ends < LEAST_AT_ENDS * len(changed):  # before all that takes time: such stretches may be many
        return False
    witness = court.probe.blind_to(~is_kept_N)
    gain_NC = witness.believe(np.where(is_kept_N, labels_N, -1), court.num_classes).gain_NC
    said = []
    for rows in stretches:
        given, taken = labels_N[rows[0]], other_N[rows[0]]
        ahead_N = (gain_NC[:, taken] - gain_NC[:, given]).clip(-CAP, CAP)
        own = float(capped(ahead_N[rows], court.clusters_N[rows]).sum())
        usual = len(rows) * float(ahead_N[is_kept_N & (labels_N == taken)].mean())
        elsewhere = _most_in_a_row(np.where(is_kept_N & (labels_N == given), ahead_N, -np.inf), len(rows))
        if len(rows) >= LEAST_ROWS and not _is_clear(own, usual, elsewhere):
            return False
        said.append((own, usual, elsewhere))
    own, usual, elsewhere = np.sum(said, axis=0)
    return own > WORTH_A_TRIAL and _is_clear(own, usual, elsewhere)


def _is_clear(own: float, usual: float, elsewhere: float) -> bool:
    return own > USUAL * usual and elsewhere < USUAL * own


def _breaks(rows: NDArray[np.int64], labels_N: NDArray[np.int64], other_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places among some rows where another stretch of neighbours begins that all change from one label to another."""
    is_next = np.diff(rows) == 1
    is_alike = (np.diff(labels_N[rows]) == 0) & (np.diff(other_N[rows]) == 0)
    return np.flatnonzero(~(is_next & is_alike)) + 1


def _most_in_a_row(values_N: NDArray[np.float64], size: int) -> float:
    """The largest sum of so many neighbours, none of them -inf; 0 where there are none."""
    is_out = np.concatenate([[0], np.cumsum(np.isinf(values_N))])
    sums = np.concatenate([[0.0], np.cumsum(np.where(np.isinf(values_N), 0.0, values_N))])
    windows = (sums[size:] - sums[:-size])[is_out[size:] == is_out[:-size]]
    return max(0.0, float(windows.max(initial=0.0)))
