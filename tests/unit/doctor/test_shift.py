"""Training against test."""

from dataclasses import replace

import numpy as np
import pytest

from finefold.doctor.evidence import ClosedProbe
from finefold.doctor.shift import check_shift, discriminate
from finefold.nn.features import Features
from unit.doctor.planted import planted, subject_of
from unit.doctor.test_memory import people


def with_test(subject, test_TD):
    count = len(test_TD)
    found = Features(test_TD, np.ones(count, bool), (), 0, (bytes(16),) * count)
    names = tuple(f"t{row}" for row in range(count))
    return replace(subject, test_ids=names, test_paths=names, look_at_test=lambda: found)


def test_without_a_test_set_it_is_not_done():
    """No images to be predicted, or a handful: said, and no finding."""
    subject = subject_of(*planted(200))
    assert not check_shift(subject).is_done
    assert not check_shift(with_test(subject, subject.features.rows_ND[:8])).is_done


def test_the_same_world_has_no_finding():
    """Test images drawn like the training images."""
    features_ND, labels_N = planted(600)
    order = np.random.default_rng(0).permutation(600)
    said = check_shift(with_test(subject_of(features_ND[order[:400]], labels_N[order[:400]]), features_ND[order[400:]]))
    assert said.is_done and not said.findings and "no class share differs beyond chance" in said.says


def test_another_world_is_a_warning_that_names_images():
    """Test features that lie elsewhere: an AUC with its interval, and the images that give it away."""
    features_ND, labels_N = planted(600)
    moved_TD = features_ND[400:] + np.where(np.arange(32) < 4, 2, 0).astype(np.float16)
    said = check_shift(with_test(subject_of(features_ND[:400], labels_N[:400]), moved_TD))
    found = said.findings[0]
    assert (found.kind, found.severity, found.evidence["what"]) == ("test-shift", "warning", "features")
    assert found.evidence["auc"]["low"] > 0.9 and len(found.ids) == 12 and all(one.startswith("t") for one in found.ids)
    assert len(found.evidence["most_alike_in_training"]) == 12


def test_people_of_the_test_set_are_no_other_world():
    """Photos of one person tell each other; so do parts of the training set, and that is what counts."""
    features_ND, _, person_N = people(count=80, own=1.5)
    is_test_N = person_N >= 55
    both = ClosedProbe(np.concatenate([features_ND[~is_test_N], features_ND[is_test_N]]), np.arange(len(person_N)) % 5)
    found = discriminate(both, person_N[~is_test_N], np.random.default_rng(0))
    assert found.auc.value > 0.55  # well above one half, and no finding
    assert found.auc.low < found.usual + 0.05


def test_people_whom_only_folders_name_are_no_other_world_either():
    """Without groups, whole folders play the test set: other people in validation are no other world."""
    features_ND, labels_N, person_N = people(count=80, own=1.5)
    rows, others = np.flatnonzero(person_N < 55), np.flatnonzero(person_N >= 55)
    paths = [f"{person_N[row]:03}/{row:04}.png" for row in rows]
    train = replace(
        subject_of(features_ND[rows], labels_N[rows], paths=paths),
        valid=subject_of(features_ND[others], labels_N[others]),
        dataset=[(np.full((4, 4), row), 0) for row in rows],
    )
    assert check_shift(train).is_done and not check_shift(train).findings
    assert check_shift(replace(train, paths=None)).findings  # nothing says that they are other people


def test_other_class_shares_are_estimated():
    """A test set with twice the share of one class: its estimate, with an interval that holds the truth."""
    features_ND, labels_N = planted(1200, num_classes=2, run=1, noise=1.5)
    test = np.concatenate([np.flatnonzero(labels_N[:600] == 1), np.flatnonzero(labels_N[:600] == 0)[:60]])
    truth = float((labels_N[test] == 1).mean())
    subject = subject_of(features_ND[600:], labels_N[600:], num_classes=2)
    (found,) = [
        one for one in check_shift(with_test(subject, features_ND[test])).findings if one.evidence["what"] == "shares"
    ]
    share = found.evidence["classes"]["b"]["em"]
    assert found.severity == "warning" and share["low"] < truth < share["high"]


@pytest.mark.parametrize(("is_random", "number"), [(False, 1), (True, 0)])
def test_a_pair_is_compared_unless_training_is_augmented(is_random, number):
    """Validation rows of another world are told; where training rows are drawn anew each time they may differ."""
    rng = np.random.default_rng(0)

    class Rows:
        def __len__(self):
            return 200

        def __getitem__(self, row):
            return np.full((4, 4), row + is_random * rng.random()), 0

    features_ND, labels_N = planted(400)
    moved_ND = features_ND[200:] + np.where(np.arange(32) < 4, 2, 0).astype(np.float16)
    train = replace(subject_of(features_ND[:200], labels_N[:200]), dataset=Rows())
    valid = replace(subject_of(moved_ND, labels_N[200:]), dataset=Rows())
    said = check_shift(replace(train, valid=valid))
    assert len(said.findings) == number and "validation rows against 200" in said.says
