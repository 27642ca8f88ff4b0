"""Copies, groups and folds."""

from dataclasses import replace

import numpy as np

from finefold.doctor.honesty import check_honesty
from finefold.doctor.subject import Subject
from finefold.nn.features import Features
from unit.doctor.planted import planted, subject_of
from unit.doctor.test_memory import people


def pictures(subject: Subject, keys: list[int]) -> Subject:
    """The same rows with other hashes of their pictures."""
    found = subject.features
    hashes = tuple(key.to_bytes(16, "big") for key in keys)
    other = Features(found.rows_ND, found.is_readable_N, (), 0, hashes)
    return replace(subject, look=lambda: other)


def kinds(subject: Subject) -> list[tuple[str, str]]:
    return [(one.kind, one.severity) for one in check_honesty(subject).findings]


def test_clean_rows_have_no_finding_and_a_statement():
    """Different pictures without groups: nothing found, and what was tried is said."""
    subject = pictures(subject_of(*planted(300)), list(range(1, 301)))
    said = check_honesty(subject)
    assert not said.findings and "3 groupings by names and looks tried, 0 that labels follow" in said.says


def test_a_picture_that_is_there_twice():
    """Equal pixels under two ids are one warning that names both."""
    subject = pictures(subject_of(*planted(300)), [*range(1, 300), 5])
    (found,) = check_honesty(subject).findings
    assert (found.kind, found.severity, found.ids) == ("exact-duplicate", "warning", ("4", "299"))


def test_a_pair_that_shares_rows_is_an_error():
    """Validation rows whose picture is in training are named, and their share."""
    train = pictures(subject_of(*planted(200)), list(range(1, 201)))
    features_ND, labels_N = planted(50, seed=1)
    valid = pictures(subject_of(features_ND, labels_N), [*range(301, 341), *range(1, 11)])
    (found,) = check_honesty(replace(train, valid=valid)).findings
    assert (found.kind, found.severity) == ("split-leak", "error")
    assert found.ids == tuple(map(str, range(40, 50))) and found.evidence["share"] == 0.2
    clean = pictures(subject_of(features_ND, labels_N), list(range(301, 351)))
    assert not check_honesty(replace(train, valid=clean)).findings


def test_folds_that_tear_groups_are_an_error_with_both_scores():
    """Given folds with a person in two: an error with the score torn and whole; folds that keep people whole: info."""
    features_ND, labels_N, person_N = people()
    subject = replace(subject_of(features_ND, labels_N, num_classes=3), groups=tuple(map(str, person_N)))
    torn = replace(subject, given_folds_N=np.arange(len(labels_N)) % 5)
    assert kinds(torn) == [("split-leak", "error"), ("group-leak", "info")]
    (found, known) = check_honesty(torn).findings
    assert found.evidence["torn_groups"] == 60 and found.evidence["torn"] > found.evidence["whole"] + 0.2
    assert "memory of groups" in known.cause
    assert kinds(replace(subject, given_folds_N=person_N % 5)) == [("group-leak", "info")]


def test_unnoticed_groups_are_suggested():
    """People in a column that nobody named as group: a warning with the score under it, never an error."""
    features_ND, labels_N, person_N = people()
    order = np.random.default_rng(0).permutation(len(labels_N))
    subject = replace(
        subject_of(features_ND[order], labels_N[order], num_classes=3),
        columns={"who": [str(p) for p in person_N[order]]},
    )
    (found,) = check_honesty(subject).findings
    assert (found.kind, found.severity) == ("group-leak", "warning")
    assert found.evidence["grouping"] == "the column `who`" and "`[samples] group`" in found.remedy
    assert found.evidence["random"] > found.evidence["grouped"] + 0.2


def test_a_fold_that_is_unlike_the_others_is_told():
    """A fold whose answers are much worse than chance deals of groups allow is a warning; even folds are none."""
    features_ND, labels_N = planted(400)
    folds_N = np.arange(400) % 5
    wrong_N = np.where((folds_N == 2) & (np.arange(400) % 10 < 8), (labels_N + 1) % 4, labels_N)
    subject = replace(subject_of(features_ND, labels_N), given_folds_N=folds_N)
    (found,) = check_honesty(replace(subject, predict=lambda: wrong_N)).findings
    assert (found.kind, found.severity) == ("fold-spread", "warning") and "fold 2" in found.cause
    assert not check_honesty(replace(subject, predict=lambda: labels_N)).findings
