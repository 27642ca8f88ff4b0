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
from finefold.doctor.parts import WORTH_A_TRIAL
from finefold.doctor.trials import CLEAR, Court, Trial
from finefold.doctor.witness import ends_of_runs, in_long_runs, is_witnessed

MOST_PLACES = 64  # of ends, tried in all
LEAST_MOVED = 8  # rows, of places that are tried
MOST_OF_A_RUN, COMPARABLE = 0.5, 0.25  # that an end may be moved by
CLOSER_LOOKS = 3
MOST_SEEN = 6  # ends that the probe of the labels as they are would move, those by which most is gained

Run = tuple[int, int, int]  # where a run of one label begins, where it ends and the next begins, where that one ends


def best_end(court: Court) -> Trial | None:
    """The end between two runs that lies elsewhere beyond doubt, moved there; None where all lie as they should.

    Few rows beside a wrong end are seen by the probe of the labels as they are. Many are learned with it, so that it
    says little against them: places are tried, the probe fitted to each. From the best it is looked where exactly the
    end is.
    """
    if not in_long_runs(court):
        return None
    labels_N = court.labels_N
    ends = ends_of_runs(labels_N)
    runs = list(zip(ends[:-2], ends[1:-1], ends[2:], strict=True))
    per_run = min(8, MOST_PLACES // (2 * len(runs)))
    seen = sorted((_closest(labels_N, run, court.current) for run in runs), key=lambda one: -one[0])[:MOST_SEEN]
    trials = [court.hear(pairing) for nats, pairing in seen if nats > WORTH_A_TRIAL]
    trials += [trial] if (trial := court.best(_tried(labels_N, runs, per_run))) is not None else []
    found = max(trials, key=lambda trial: trial.nats, default=None)
    if found is None or found.nats <= 0:
        return None
    for _ in range(CLOSER_LOOKS):
        closer = court.hear(_closest(labels_N, _run_of(runs, found.pairing), found.belief)[1])
        if closer.nats <= found.nats:
            break
        found = closer
    is_clear = found.is_better and court.explains(found) and _is_plausible(court, found, _run_of(runs, found.pairing))
    return found if is_clear and is_witnessed(court, found) else None


def _tried(labels_N: NDArray[np.int64], runs: list[Run], per_run: int) -> Iterator[Pairing]:
    """Each end in so many places of the run before it and of the run behind it, none of them all of a run."""
    for before, end, after in runs:
        for first, last in ((before, end), (end, after)):
            for place in np.linspace(first, last, per_run + 2)[1:-1]:
                if abs(int(place) - end) >= LEAST_MOVED:
                    yield _moved(labels_N, end, int(place))


def _closest(labels_N: NDArray[np.int64], run: Run, belief: Belief) -> tuple[float, Pairing]:
    """An end where a probe says it is, within the runs on its sides, and the nats that are gained by the probe."""
    before, end, after = run
    rows = np.arange(before, after)
    ahead = belief.gain_NC[rows, labels_N[end - 1]] - belief.gain_NC[rows, labels_N[end]]
    sums = np.concatenate([[0.0], np.cumsum(ahead)])[1:-1]  # of the rows before each place, none at the runs' far ends
    place = int(sums.argmax())
    return float(sums[place] - sums[end - before - 1]), _moved(labels_N, end, before + 1 + place)


def _run_of(runs: list[Run], pairing: Pairing) -> Run:
    """The runs whose end a pairing moves."""
    moved = np.flatnonzero(pairing.source_N != np.arange(len(pairing.source_N)))
    return next(one for one in runs if one[1] in (moved[0], moved[-1] + 1))


def _is_plausible(court: Court, found: Trial, run: Run) -> bool:
    """Whether the run that rows are taken from keeps half of its own: else another class is what was looked for.

    Of more than a quarter there may be no other rows to compare them with, so it must be as clear as any stretch.
    """
    before, end, after = run
    is_moved_N = found.labels_N != court.labels_N
    share = float(is_moved_N.sum()) / (end - before if is_moved_N[before:end].any() else after - end)
    return share <= COMPARABLE or (share <= MOST_OF_A_RUN and found.z > CLEAR["stretch"])


def _moved(labels_N: NDArray[np.int64], end: int, to: int) -> Pairing:
    rows = np.arange(min(end, to), max(end, to))
    name = f"moving the end between two runs of labels from row {end} to row {to}"
    source = np.full(len(rows), end - 1 if to > end else end)
    return placed(name, rows, source, len(labels_N), kind="end", scope="end")
