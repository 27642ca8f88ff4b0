"""Do labels belong to their images? The labels as they are paired, against other pairings and against chance.

A linear probe on the embedded backbone's features is fitted to the labels as they are, to labels in random orders, and
to what other pairings would give. Rows are often sorted, so labels that are a few rows off still score high: the right
pairing is not one that scores well, but one that no other beats.

Shapes: N rows.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.doctor.across import look_across, misaligned_across
from finefold.doctor.apart import Verdicts, hear_all
from finefold.doctor.diagnosis import Checked
from finefold.doctor.hearing import labelled_rows
from finefold.doctor.judging import Verdict
from finefold.doctor.subject import Subject
from finefold.doctor.wording import findings_of, numbers_of, says_of

NAME = "alignment"


def check_alignment(subject: Subject) -> Checked:
    """Whether another pairing of images and labels explains them better than the one they have; of a pair, in both."""
    own = _check(subject)
    if subject.valid is None:
        return own
    other = _check(subject.valid)
    across = _across(subject, subject.valid)
    told = other.findings if across is None else across[1]
    found = [replace(one, cause=f"in {subject.valid.name}: {one.cause}") for one in told]
    says = f"{own.says}. {subject.valid.name}: {other.says if across is None else across[0]}"
    return Checked(NAME, says, (*own.findings, *found), own.is_done or other.is_done, own.numbers)


def _across(train: Subject, valid: Subject) -> tuple[str, tuple[Finding, ...]] | None:
    """Of validation's labels that say little by themselves: what a probe of training says, and what is wrong."""
    own, other = train.memory[NAME], valid.memory[NAME]
    if own.joint is None or other.joint is None or other.apart:
        return None
    found = look_across(train, own.joint, valid, other.joint)
    if found is None:
        return None
    says = f"by themselves these labels say little; a probe of {train.name} gives {found.agreement:.2f} of the labels"
    return says, () if found.is_known else (misaligned_across(found, train, own.joint, valid),)


def _check(subject: Subject) -> Checked:
    verdicts = hear_all(subject)
    subject.memory[NAME] = verdicts
    if verdicts.joint is None and not verdicts.apart:
        labels_n = subject.labels_N[labelled_rows(subject, subject.labels_N)]
        why = f"{len(labels_n)} images of {len(np.unique(labels_n))} classes are too few to judge pairings"
        return Checked(NAME, f"not done: {why}", is_done=False)
    return Checked(NAME, says_of(verdicts), tuple(findings_of(subject, verdicts)), numbers=numbers_of(verdicts))


def repaired_labels(subject: Subject) -> NDArray[np.int64] | None:
    """[N] what the labels should be, after `check_alignment`; -1 where there is none.

    None where no pairing of all labels was found; one attribute's alone: see `repaired_attributes`.
    """
    verdicts = subject.memory.get(NAME)
    if not isinstance(verdicts, Verdicts) or verdicts.joint is None or verdicts.joint.best is None:
        return None
    return _repaired(subject.labels_N, verdicts.joint)


def repaired_attributes(subject: Subject) -> dict[str, NDArray[np.int64]]:
    """[N] what each attribute that alone lies beside the wrong images should be; -1 where there is none."""
    verdicts = subject.memory.get(NAME)
    apart = verdicts.apart if isinstance(verdicts, Verdicts) else {}
    return {name: _repaired(subject.codes_of(name), one) for name, one in apart.items() if one.best is not None}


def _repaired(codes_N: NDArray[np.int64], verdict: Verdict) -> NDArray[np.int64]:
    assert verdict.best is not None
    repaired_N = codes_N.copy()
    repaired_N[verdict.rows_N] = verdict.best.labels_N
    return repaired_N
