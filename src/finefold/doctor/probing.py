"""The closed probe of a subject's labelled rows, made once for every check that asks.

Shapes: N rows of the subject, n of them judged.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.evidence import ClosedProbe
from finefold.doctor.subject import Subject

LEAST_ROWS = 40


@dataclass(frozen=True, eq=False)
class Judged:
    """Rows that are readable and labelled, and the probe of them under the subject's folds.

    Args:
        rows: [n] of the subject.
        labels_n, groups_n, folds_n: theirs; groups from 0 without gaps.
        probe: of their features.
    """

    rows: NDArray[np.int64]
    labels_n: NDArray[np.int64]
    groups_n: NDArray[np.int64]
    folds_n: NDArray[np.int64]
    probe: ClosedProbe


def judged(subject: Subject) -> Judged | None:
    """None where rows or classes are too few for a probe."""
    if "judged" not in subject.memory:
        rows = np.flatnonzero(subject.features.is_readable_N & (subject.labels_N >= 0))
        labels_n = subject.labels_N[rows]
        if len(rows) < LEAST_ROWS or len(np.unique(labels_n)) < 2:
            subject.memory["judged"] = None
        else:
            groups_n = np.unique(subject.group_codes_N[rows], return_inverse=True)[1]
            folds_n = subject.folds_N[rows]
            probe = ClosedProbe(subject.features.rows_ND[rows], folds_n)
            subject.memory["judged"] = Judged(rows, labels_n, groups_n, folds_n, probe)
    found = subject.memory["judged"]
    assert found is None or isinstance(found, Judged)
    return found
