"""Wrong labels of people and of photos are told first, and each as what it is."""

import numpy as np
import pytest

from finefold.auditing.groups import find_contradictions
from finefold.auditing.labels import Labelled, find_suspects, is_of_groups, label_findings

PEOPLE, SHOTS = 80, 4


@pytest.fixture
def people():
    """Groups of four photos: who it is in some features, which kind in others."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(PEOPLE), SHOTS)
    gender, age = rng.integers(0, 2, PEOPLE), rng.uniform(18, 80, PEOPLE)
    kind = np.tile([0, 0, 1, 2], PEOPLE)
    features = rng.normal(size=(PEOPLE * SHOTS, 24))
    features[:, 10:16] += 3 * (2 * gender[groups, None] - 1)
    features[:, 1:5] += (age[groups, None] - 45) / 6
    return groups, gender, age, kind, features


def probs_of(codes: np.ndarray, num_classes: int, sure: float) -> np.ndarray:
    return np.full((len(codes), num_classes), (1 - sure) / (num_classes - 1)) + np.eye(num_classes)[codes] * (
        sure - (1 - sure) / (num_classes - 1)
    )


def labelled(people, *, wrong_gender=(), wrong_age=(), swapped=()) -> list[Labelled]:
    groups, gender, age, kind, _ = people
    gender, age, given = gender.copy(), age.copy(), kind.copy()
    gender[list(wrong_gender)] = 1 - gender[list(wrong_gender)]
    age[list(wrong_age)] = np.where(age[list(wrong_age)] > 45, 20, 78)
    for person in swapped:
        rows = person * SHOTS + np.array([2, 3])
        given[rows] = given[rows[::-1]]
    bands = np.searchsorted([30, 60], age, side="right")[groups]
    return [
        Labelled("kind", ("mask", "wrong", "none"), given, probs_of(kind, 3, 0.97)),
        Labelled("gender", ("male", "female"), gender[groups], np.full((len(groups), 2), 0.5)),
        Labelled(
            "age", ("<30", "30-59", ">=60"), bands, np.full((len(groups), 3), 1 / 3), age[groups], (30.0, 60.0)
        ),
    ]  # fmt: skip


def test_wrong_people_and_swapped_photos_come_first(people):
    """Three people of wrong gender, two of wrong age and one whose photos changed places are the first suspects."""
    extreme = [int(one) for one in np.argsort(np.abs(people[2] - 45))[::-1][:2]]
    others = [one for one in (4, 17, 33, 50) if one not in extreme][:3]
    table = labelled(people, wrong_gender=others, wrong_age=extreme, swapped=[9])
    found, shares = find_suspects(table, people[0], features=[people[4]])
    first = found[:8]  # by chance some people look a little older or younger than they are
    assert {one.group for one in first if one.attribute == "gender"} == set(others)
    assert {one.group for one in first if one.attribute == "age"} >= set(extreme)
    (swap,) = [one for one in found if one.attribute == "kind"]
    assert set(swap.rows) == {9 * SHOTS + 2, 9 * SHOTS + 3} and "swapped" in swap.evidence
    assert set(shares) == {"kind", "gender", "age"}


def test_clean_labels_raise_few(people):
    """Without planted faults hardly anybody is suspected, and nobody strongly."""
    found, _ = find_suspects(labelled(people), people[0], features=[people[4]])
    assert len(found) <= 8 and all(one.odds < 3.5 for one in found)


def test_without_features_the_photos_vote(people):
    """A run's probabilities suffice: a person whom all photos contradict is told."""
    groups, gender = people[0], people[1]
    wrong = gender.copy()
    wrong[11] = 1 - wrong[11]
    table = [Labelled("gender", ("male", "female"), wrong[groups], probs_of(gender[groups], 2, 0.8))]
    (one,) = find_suspects(table, groups)[0]
    assert one.group == 11 and one.evidence["votes"].startswith("4 of 4")


def test_single_samples_need_no_groups():
    """Where every sample is its own group, samples are judged by themselves; missing labels are nobody's fault."""
    truth = np.tile([0, 1, 2], 40)
    given = truth.copy()
    given[7], given[8] = (truth[7] + 1) % 3, -1
    found, _ = find_suspects([Labelled("a", ("x", "y", "z"), given, probs_of(truth, 3, 0.9))], np.arange(120))
    assert [one.rows for one in found] == [(7,)] and found[0].group == -1


def test_who_knows_little_doubts_nothing():
    """Who agrees with labels hardly beyond chance suspects none; who agrees somewhat does not say how many."""
    rng = np.random.default_rng(1)
    given, blind = np.tile([0, 0, 0, 1, 2], 40), rng.dirichlet(np.ones(3), 200)
    groups = np.repeat(np.arange(100), 2)
    for labels, owner in ((given, np.arange(200)), (np.repeat(given[:100], 2), groups)):
        found, shares = find_suspects([Labelled("a", ("x", "y", "z"), labels, blind)], owner)
        assert not found and np.isnan(shares["a"])
    seeing = 0.7 * blind + 0.3 * probs_of(given, 3, 0.9)
    found, shares = find_suspects([Labelled("a", ("x", "y", "z"), given, seeing)], np.arange(200))
    assert found and np.isnan(shares["a"])
    findings = label_findings(found, shares, [str(row) for row in range(200)], ["-"] * 200)
    assert findings[0].evidence["estimated_share_wrong"] is None
    knowing = 0.6 * blind + 0.4 * probs_of(given, 3, 0.9)
    assert 0 < find_suspects([Labelled("a", ("x", "y", "z"), given, knowing)], np.arange(200))[1]["a"] < 0.1


def test_findings_say_who_and_what(people):
    """A group's finding holds all its samples, its given and suggested class, and its rank."""
    found, shares = find_suspects(labelled(people, wrong_gender=[4]), people[0], features=[people[4]])
    ids = [f"{group}/{number}" for number, group in enumerate(people[0])]
    findings = label_findings(found, shares, ids, [f"p{group}" for group in range(PEOPLE)])
    assert [one.evidence["rank"] for one in findings] == list(range(1, len(findings) + 1))
    (first,) = [one for one in findings if one.evidence["attribute"] == "gender"]
    assert first.kind == "label-suspect" and first.severity == "warning" and len(first.ids) == SHOTS
    assert first.evidence["group"] == "p4"
    assert {first.evidence["given"], first.evidence["suggested"]} == {"male", "female"}


def test_a_group_with_two_values_contradicts_itself():
    """One person with two genders is told; an attribute that differs within groups anyway is not."""
    groups = np.repeat(np.arange(30), 3)
    gender = np.zeros(90, np.int64)
    gender[31] = 1
    kinds = np.tile([0, 1, 2], 30)
    assert is_of_groups(gender, groups) and not is_of_groups(kinds, groups)
    labels = {"gender": (("male", "female"), gender), "kind": (("a", "b", "c"), kinds)}
    ids, names = [str(row) for row in range(90)], [f"p{group}" for group in range(30)]
    (told,) = find_contradictions(ids, groups, names, labels)
    assert told.evidence == {"group": "p10", "attribute": "gender", "counts": {"male": 2, "female": 1}}
    assert told.ids == ("30", "31", "32")
