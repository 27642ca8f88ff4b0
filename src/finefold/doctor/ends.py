"""Labels in a few long runs: does each run end where it should?

Where lists of different lengths are cut to one, or one lost entries, labels of later rows move. Within a run every
order of the labels is the same; so all that is left to be seen is that an end lies some rows off.

Shapes: N rows, C classes.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.evidence import Belief
from finefold.doctor.pairings import Pairing, placed
from finefold.doctor.trials import Court, Trial

LONG_RUNS = 4  # of each class, up to which ends are looked at
MOST_PLACES = 64  # of ends, tried in all
LEAST_MOVED = 8  # rows
CLOSER_LOOKS = 3


def best_end(court: Court) -> Trial | None:
    """The end between two runs that lies elsewhere beyond doubt, moved there; None where all lie as they should.

    Rows beside a wrong end are learned with it, so the probe of the labels as they are says little against them: places
    are tried, the probe fitted to each, and from the best one it is looked where exactly the end is.
    """
    labels_N, count = court.labels_N, len(court.labels_N)
    ends = [0, *(np.flatnonzero(labels_N[1:] != labels_N[:-1]) + 1).tolist(), count]
    if len(ends) > LONG_RUNS * court.num_classes:
        return None
    runs = list(zip(ends[:-2], ends[1:-1], ends[2:], strict=True))
    per_run = min(8, MOST_PLACES // (2 * len(runs)))
    found = court.best(_tried(labels_N, runs, per_run), lambda trial: trial.nats > 0)
    if found is None:
        return None
    for _ in range(CLOSER_LOOKS):
        closer = court.hear(_closer(labels_N, runs, found.pairing, found.belief))
        if closer.nats <= found.nats:
            break
        found = closer
    return found if found.is_better and court.explains(found) else None


def _tried(labels_N: NDArray[np.int64], runs: list[tuple[int, int, int]], per_run: int) -> Iterator[Pairing]:
    """Each end in so many places of the run before it and of the run behind it, none of them all of a run."""
    for before, end, after in runs:
        for first, last in ((before, end), (end, after)):
            for place in np.linspace(first, last, per_run + 2)[1:-1]:
                if abs(int(place) - end) >= LEAST_MOVED:
                    yield _moved(labels_N, end, int(place))


def _closer(labels_N: NDArray[np.int64], runs: list[tuple[int, int, int]], pairing: Pairing, belief: Belief) -> Pairing:
    """The same end, where the probe that was fitted to a place of it says it is."""
    moved = np.flatnonzero(pairing.source_N != np.arange(len(labels_N)))
    before, end, after = next(one for one in runs if one[1] in (moved[0], moved[-1] + 1))
    rows = np.arange(before, after)
    ahead = belief.gain_NC[rows, labels_N[end - 1]] - belief.gain_NC[rows, labels_N[end]]
    sums = np.concatenate([[0.0], np.cumsum(ahead)])[1:-1]  # of the rows before each place, none at the runs' far ends
    return _moved(labels_N, end, before + 1 + int(sums.argmax()))


def _moved(labels_N: NDArray[np.int64], end: int, to: int) -> Pairing:
    rows = np.arange(min(end, to), max(end, to))
    name = f"moving the end between two runs of labels from row {end} to row {to}"
    source = np.full(len(rows), end - 1 if to > end else end)
    return placed(name, rows, source, len(labels_N), kind="end", scope="stretch")
