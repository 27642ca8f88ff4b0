"""What checks are given."""

from dataclasses import replace

import numpy as np

from unit.doctor.planted import planted, subject_of


def test_features_are_looked_at_once():
    """However many checks ask."""
    features_ND, labels_N = planted(60)
    subject, asked = subject_of(features_ND, labels_N), []
    counted = replace(subject, look=lambda: asked.append(1) or subject.look())
    assert counted.features is counted.features and asked == [1]


def test_folds_keep_groups_whole_even_where_classes_are_scarce():
    """Five folds, no group in two, also where a class has fewer groups than folds."""
    features_ND, labels_N = planted(100)
    labels_N[:98], labels_N[98:] = 0, 1
    groups = tuple(str(row // 5) for row in range(100))
    folds_N = replace(subject_of(features_ND, labels_N), groups=groups).folds_N
    assert set(folds_N) == set(range(5))
    assert all(len(set(folds_N[start : start + 5])) == 1 for start in range(0, 100, 5))


def test_folds_that_are_given_are_taken():
    """Those of a run or split file."""
    features_ND, labels_N = planted(60)
    given = np.arange(60) % 3
    assert replace(subject_of(features_ND, labels_N), given_folds_N=given).folds_N is given
