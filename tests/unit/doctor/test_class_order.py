"""Whether a class has the same number everywhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finefold.doctor.class_order import class_order_findings
from unit.doctor.planted import planted, subject_of

FEATURES, LABELS = planted(400)


class Rows:
    """A data set that says how it numbers its classes."""

    def __init__(self, **said):
        vars(self).update(said)

    def __getitem__(self, row):
        return np.zeros((4, 4)), 0

    def __len__(self):
        return 200


def pair(labels_N, *, train=None, valid=None, names="abcd"):
    first = replace(subject_of(FEATURES[:200], LABELS[:200]), dataset=train or Rows())
    other = replace(subject_of(FEATURES[200:], labels_N), dataset=valid or Rows(), class_names=tuple(names))
    return replace(first, valid=other)


def test_the_same_order_has_no_finding():
    """Classes numbered alike, named or not."""
    assert not class_order_findings(pair(LABELS[200:]))
    codes = {"cat": 0, "dog": 1}
    assert not class_order_findings(
        pair(LABELS[200:], train=Rows(class_to_idx=codes), valid=Rows(classes=["cat", "dog"]))
    )


def test_classes_that_declare_other_numbers():
    """A folder less in validation moves the numbers behind it: which class moved is said."""
    subject = pair(LABELS[200:], train=Rows(classes=["a", "b", "c"]), valid=Rows(class_to_idx={"a": 0, "c": 1}))
    (found,) = class_order_findings(subject)
    assert found.severity == "error" and "`c` is 2 in training and 1 in validation" in found.cause


def test_classes_that_are_exchanged_without_saying_so():
    """Validation labels under another numbering: the images say which class is which."""
    renamed_C = np.array([2, 0, 1, 3])
    (found,) = class_order_findings(pair(renamed_C[LABELS[200:]]))
    assert found.severity == "error" and found.evidence["renamed"] == {"a": "c", "b": "a", "c": "b"}
    assert found.evidence["best"] > 0.8 > 0.5 > found.evidence["current"]


@pytest.mark.parametrize("noise", [1.0, 6.0])
def test_random_or_hard_labels_are_no_exchange(noise):
    """Labels that no renaming explains are another check's matter."""
    features_ND, labels_N = planted(400, noise=noise)
    shuffled_N = np.random.default_rng(0).permutation(labels_N[200:])
    first = replace(subject_of(features_ND[:200], labels_N[:200]), dataset=Rows())
    for own_N in (shuffled_N, labels_N[200:]):
        other = replace(subject_of(features_ND[200:], own_N), dataset=Rows())
        assert not class_order_findings(replace(first, valid=other))


def test_labels_that_training_never_saw():
    """A class of validation alone is a warning."""
    (found,) = class_order_findings(pair(LABELS[200:], names="abce"))
    assert found.severity == "warning" and found.evidence["only_in_validation"] == ["e"]


def test_folders_sorted_as_text_are_told():
    """Folders 1, 10, 2: output 1 is class 10; by the list that the object keeps, or by folders against labels."""
    kept = replace(subject_of(FEATURES, LABELS), dataset=Rows(classes=["1", "10", "2"]))
    (found,) = class_order_findings(kept)
    assert found.severity == "info" and "output 1 is class `10`" in found.cause
    folders = sorted(map(str, range(1, 12)))
    rows = np.arange(110)
    paths = tuple(Path(f"{folders[row % 11]}/{row}.png") for row in rows)
    subject = replace(
        subject_of(FEATURES[:110], rows % 11, num_classes=8),
        class_names=tuple(map(str, range(11))),
        paths=paths,
        dataset=Rows(),
    )
    (found,) = class_order_findings(subject)
    assert found.evidence["classes"][:3] == ["1", "10", "11"]
    natural = tuple(Path(f"{row % 11 + 1}/{row}.png") for row in rows)
    assert not class_order_findings(replace(subject, paths=natural))
