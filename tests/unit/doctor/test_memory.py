"""Memory of groups: known ones, ones that names suggest, and ones that only look alike."""

import numpy as np
import pytest

from finefold.doctor.evidence import ClosedProbe
from finefold.doctor.memory import accuracies, look_alikes, remembered, supposed_groups


def people(seed: int = 0, *, own: float = 1.0, count: int = 60, photos: int = 7):
    """[N, 64] features, [N] labels that belong to people, and [N] who is shown; `own` is what only a person's have."""
    rng = np.random.default_rng(seed)
    labels_G = rng.integers(0, 3, count)
    person_N = np.repeat(np.arange(count), photos)
    common_CD, own_GD = rng.normal(size=(3, 64)), rng.normal(size=(count, 64))
    noise_ND = rng.normal(size=(count * photos, 64))
    features_ND = 0.25 * common_CD[labels_G[person_N]] + own * own_GD[person_N] + 0.5 * noise_ND
    return features_ND.astype(np.float16), labels_G[person_N], person_N


def test_memory_of_people_is_seen():
    """Where photos of a person look alike and share a label, a random split flatters, and both numbers say so."""
    features_ND, labels_N, person_N = people()
    probe = ClosedProbe(features_ND, person_N % 5)
    found = remembered(probe, labels_N, 3, person_N, np.random.default_rng(0), is_found=True)
    assert found.torn > 0.9 and found.whole < 0.75 and found.is_clear
    assert found.chance is not None and found.chance[0] < found.drop / 2


def test_rows_that_have_nothing_in_common_are_no_groups():
    """Groups dealt at random, and images without anything of their own, are no memory."""
    features_ND, labels_N, person_N = people(own=0.0)
    probe = ClosedProbe(features_ND, person_N % 5)
    rng = np.random.default_rng(1)
    assert not remembered(probe, labels_N, 3, person_N, rng, is_found=True).is_clear
    features_ND, labels_N, person_N = people()
    assert not remembered(probe, labels_N, 3, rng.permutation(person_N), rng, is_found=True).is_clear


def test_some_rows_can_be_asked_alone():
    """Accuracy on the rows of one half only, torn and whole."""
    features_ND, labels_N, person_N = people()
    probe = ClosedProbe(features_ND, person_N % 5)
    torn, whole = accuracies(probe, labels_N, 3, person_N, np.random.default_rng(0), np.arange(200))
    assert torn > 0.9 > 0.8 > whole


def test_look_alikes_find_people_and_nothing_where_there_are_none():
    """Without names, clusters of features are people, and labels follow them; plain classes make no such finding."""
    for own, expected in ((1.5, True), (0.0, False)):
        features_ND, labels_N, _ = people(own=own)
        probe = ClosedProbe(features_ND, np.arange(len(labels_N)) % 5)
        found = [
            remembered(probe, labels_N, 3, codes_N, np.random.default_rng(0), name=name, is_found=True).is_clear
            for name, codes_N in look_alikes(probe.components_NR[:, :-1], labels_N)
        ]
        assert len(found) == 3 and any(found) == expected


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([f"all/{row // 4}_{row % 4}.jpg" for row in range(80)], ["file names without their last number"]),
        ([f"{row // 4}/{row % 4}.jpg" for row in range(80)], ["the folder"]),
        ([f"{'ab'[row % 2]}/{row}.jpg" for row in range(80)], []),
        ([f"{'ab'[row % 2]}/cell{row:04}.jpg" for row in range(80)], []),
    ],
)
def test_names_suggest_groups(paths, names):
    """Numbers behind a name, folders; never a class's folder, never a running number."""
    labels_N = np.arange(80) % 2
    assert [name for name, _ in supposed_groups(paths, {}, labels_N)] == names


def test_columns_suggest_groups_and_labels_do_not():
    """A column with several rows of each value is one; one that says the label is none."""
    labels_N = np.arange(120) % 12
    columns = {"person": [str(row // 6) for row in range(120)], "class": [str(label) for label in labels_N]}
    assert [name for name, _ in supposed_groups([], columns, labels_N)] == ["the column `person`"]
