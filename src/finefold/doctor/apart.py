"""Each attribute alone: one column that was laid beside the wrong images, while the others were not.

The joint class cannot show it. A pairing that mends one column breaks the others, so as a pairing of all it is no
better; and where it is, because one column outweighs the others, it is not the right one.

Shapes: N rows, A attributes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from finefold.doctor.hearing import Ground, ground_of, hear, is_enough, labelled_rows
from finefold.doctor.judging import Verdict
from finefold.doctor.subject import Subject
from finefold.doctor.trials import SURE, Court, Trial

OPPOSED = 5.0  # nats that an attribute loses by a pairing of all: it lies as it should
SAME = 0.9  # of an attribute's own gain, that another's pairing must give it to be its pairing too


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What was found of the joint classes, and of each attribute alone.

    Args:
        joint: None where rows with all their labels are too few.
        apart: by the attribute's name; empty where there is one alone, or where all are wrong in the same way.
    """

    joint: Verdict | None
    apart: Mapping[str, Verdict]


def hear_all(subject: Subject) -> Verdicts:
    """The joint classes, then each attribute alone; what is wrong with all in the same way is said once."""
    rows_n = labelled_rows(subject, subject.labels_N)
    ground = ground_of(subject, rows_n) if is_enough(subject.labels_N[rows_n]) else None
    joint = None if ground is None else hear(ground, ground.court(subject.labels_N, subject.num_classes))
    if not subject.attributes:
        return Verdicts(joint, {})
    apart = _hear_apart(subject, ground)
    if joint is None:
        return Verdicts(joint, apart)
    if joint.best is not None:
        if _is_of_all(subject, joint, joint.best, sum(map(_nats, apart.values()))):
            return Verdicts(joint, {})
        joint = replace(joint, best=None, stretch=None)
    return _settled(subject, joint, apart)


def _hear_apart(subject: Subject, ground: Ground | None) -> dict[str, Verdict]:
    """Each attribute's verdict, of all rows where its value is known; no entry where these are too few."""
    apart = {}
    for name, (classes, _) in subject.attributes.items():
        codes_N = subject.codes_of(name)
        rows_n = labelled_rows(subject, codes_N)
        if is_enough(codes_N[rows_n]):
            if ground is None or not np.array_equal(rows_n, ground.rows_n):
                ground = ground_of(subject, rows_n)
            apart[name] = hear(ground, ground.court(codes_N, len(classes)), may_warp=False)
    return apart


def _is_of_all(subject: Subject, joint: Verdict, best: Trial, nats_apart: float) -> bool:
    """Whether the joint classes' pairing is every attribute's.

    It is not where it leaves one as it is, where it makes one less probable, or where the attributes' own pairings,
    which gain `nats_apart` together, explain more.
    """
    if nats_apart == 0:
        return True
    trials = []
    for name, (classes, _) in subject.attributes.items():
        codes_n = subject.codes_of(name)[joint.rows_N]
        court = Court.of(joint.court.probe, codes_n, len(classes), joint.court.clusters_N)
        trials.append(court.hear(best.pairing))
    if any(trial.nats < -OPPOSED or trial.num_changed == 0 for trial in trials):
        return False
    return nats_apart < sum(trial.nats for trial in trials) + SURE


def _settled(subject: Subject, joint: Verdict, apart: Mapping[str, Verdict]) -> Verdicts:
    """What all attributes share is said of the joint classes; what only some have, of them alone."""
    mended = [verdict for verdict in apart.values() if verdict.best is not None]
    if len(mended) == len(subject.attributes) and (shared := _shared(subject, joint, mended)) is not None:
        return Verdicts(shared, {})
    torn = [verdict for verdict in apart.values() if verdict.stretch is not None]
    if joint.stretch is not None and not mended and len(torn) in (0, len(apart)):
        return Verdicts(joint, {name: replace(verdict, stretch=None) for name, verdict in apart.items()})
    return Verdicts(replace(joint, stretch=None), apart)


def _shared(subject: Subject, joint: Verdict, mended: Sequence[Verdict]) -> Verdict | None:
    """The joint verdict with the pairing that mends every attribute; None where they differ."""
    clearest = max(mended, key=_nats)
    rows_n, pairing = clearest.rows_N, clearest.best.pairing if clearest.best is not None else None
    if pairing is None or (subject.labels_N[rows_n] < 0).any():
        return None
    for verdict in mended:
        if not np.array_equal(verdict.rows_N, rows_n) or verdict.court.hear(pairing).nats < SAME * _nats(verdict):
            return None
    court = Court.of(clearest.court.probe, subject.labels_N[rows_n], subject.num_classes, clearest.court.clusters_N)
    return replace(joint, court=court, best=court.hear(pairing), stretch=None, rows_N=rows_n)


def _nats(verdict: Verdict) -> float:
    return 0.0 if verdict.best is None else verdict.best.nats
