"""The ledger in numbers."""

import json

import numpy as np
import pytest

from finefold.metrics.summary import summarise

NAMES = ["wear/male", "wear/female", "normal/male", "normal/female"]
ATTRIBUTES = {
    "mask": (["wear", "normal"], np.array([0, 0, 1, 1])),
    "gender": (["male", "female"], np.array([0, 1, 0, 1])),
}


def ledger(num_samples=60, *, labels=None, seed=0):
    """Random probabilities that lean toward the truth; groups of three samples, two folds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num_samples) if labels is None else np.asarray(labels)
    scores = rng.random((len(labels), 4)) + 0.6 * np.eye(4)[labels]
    groups = np.arange(len(labels)) // 3
    return {
        "probs_NK": scores / scores.sum(axis=1, keepdims=True),
        "labels_N": labels,
        "folds_N": groups % 2,
        "groups_N": np.array([f"person-{group}" for group in groups]),
        "class_names": NAMES,
        "attributes": ATTRIBUTES,
        "resamples": 60,
    }


def test_the_shape_of_a_summary():
    """Every key of the contract is there, and all of it is JSON without NaN."""
    summary = json.loads(json.dumps(summarise(**ledger()), allow_nan=False))
    assert list(summary) == [
        "macro_f1", "accuracy", "balanced_accuracy", "weighted_f1", "log_loss", "n", "num_groups",
        "classes", "confusion", "attributes", "folds", "absent", "missing",
    ]  # fmt: skip
    assert set(summary["macro_f1"]) == {"value", "low", "high", "n"}
    assert summary["n"] == 60 and summary["num_groups"] == 20
    assert list(summary["classes"]) == NAMES
    one = summary["classes"]["wear/male"]
    assert set(one) == {"precision", "recall", "f1", "support", "true_share", "predicted_share"}
    assert one["f1"]["n"] == one["support"]
    assert list(summary["attributes"]) == ["mask", "gender"]
    mask = summary["attributes"]["mask"]
    assert {"accuracy", "balanced_accuracy", "macro_f1", "classes", "confusion"} <= set(mask)
    assert list(mask["classes"]) == ["wear", "normal"] and np.sum(mask["confusion"]) == 60
    assert [fold["fold"] for fold in summary["folds"]] == [0, 1]
    assert sum(fold["n"] for fold in summary["folds"]) == 60
    assert set(summary["folds"][0]) == {"fold", "n", "accuracy", "macro_f1", "log_loss", "absent"}


def test_attributes_are_decided_by_summed_probability():
    """An attribute's class is the one whose joint classes are most probable together."""
    facts = ledger(labels=[0]) | {"probs_NK": np.array([[0.3, 0.3, 0.4, 0.0]])}
    summary = summarise(**facts)
    assert summary["accuracy"]["value"] == 0
    assert summary["attributes"]["mask"]["accuracy"]["value"] == 1
    assert summary["attributes"]["gender"]["accuracy"]["value"] == 1


def test_an_absent_class_is_null_and_named():
    """A class without a sample has null scores, is listed, and its wrong predictions still show."""
    summary = summarise(**ledger(labels=[0, 1, 2] * 10))
    absent = summary["classes"]["normal/female"]
    assert summary["absent"] == ["normal/female"]
    assert absent["precision"] is None and absent["recall"] is None and absent["f1"] is None
    assert absent["support"] == 0 and absent["true_share"] == 0 and absent["predicted_share"] > 0
    present = [one["f1"]["value"] for one in summary["classes"].values() if one["f1"]]
    assert summary["macro_f1"]["value"] == pytest.approx(np.mean(present))


def test_a_fold_names_its_absent_classes():
    """A class missing from one fold is named there and left out of that fold's macro F1."""
    facts = ledger(labels=[0, 1, 2, 3] * 6)
    facts["folds_N"] = (facts["labels_N"] == 3).astype(int)
    facts["probs_NK"] = np.eye(4)[facts["labels_N"]]
    first, second = summarise(**facts)["folds"]
    assert first["absent"] == ["normal/female"] and first["macro_f1"] == 1
    assert second["absent"] == NAMES[:3] and second["macro_f1"] == 1


def test_the_same_seed_gives_the_same_summary():
    """A summary depends on its seed alone; another seed moves intervals and never values."""
    first, again = summarise(**ledger()), summarise(**ledger())
    other = summarise(**ledger(), seed=1)
    assert first == again
    assert first["accuracy"]["value"] == other["accuracy"]["value"]
    assert first["accuracy"] != other["accuracy"]


def test_larger_groups_widen_the_interval():
    """Samples of one person are not independent: whole groups give a wider interval than rows."""
    facts = ledger(400)
    facts["groups_N"] = np.arange(400) // 20
    facts["probs_NK"][::] = np.eye(4)[np.where(facts["groups_N"] % 2, facts["labels_N"], 0)]
    by_group = summarise(**facts)["accuracy"]
    by_row = summarise(**facts | {"groups_N": np.arange(400)})["accuracy"]
    assert by_group["value"] == by_row["value"]
    assert by_group["high"] - by_group["low"] > 2 * (by_row["high"] - by_row["low"])


def test_all_mistakes_are_named_at_once():
    """A ledger that does not fit together is refused with every reason."""
    facts = ledger() | {
        "folds_N": np.zeros(3, int),
        "labels_N": np.full(60, 4),
        "class_names": ["a", "a", "b", "c"],
        "attributes": {"mask": (["wear", "normal"], np.array([0, 1]))},
    }
    with pytest.raises(ValueError, match="the ledger cannot be scored") as caught:
        summarise(**facts)
    for part in (
        "folds have shape (3,), expected (60,)",
        "class codes run from 4 to 4; expected 0..3",
        "class names are not unique",
        "attribute `mask` has codes of shape (2,), expected (4,)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, -0.1])
def test_probabilities_must_be_numbers(bad):
    """NaN or negative probabilities are refused instead of being scored."""
    facts = ledger()
    facts["probs_NK"][3, 2] = bad
    with pytest.raises(ValueError, match="probs hold negative or non-finite numbers"):
        summarise(**facts)


def test_nothing_to_score_is_an_error():
    """An empty ledger has no score."""
    with pytest.raises(ValueError, match="there are no samples to score"):
        summarise(**ledger(labels=np.array([], int)))


def with_gaps(facts):
    """The same ledger with every third mask and every fifth gender missing."""
    labels = facts["labels_N"]
    codes = np.stack([labels // 2, labels % 2], axis=1)
    codes[::3, 0] = codes[::5, 1] = -1
    return facts | {"labels_N": np.where((codes >= 0).all(axis=1), labels, -1), "codes_NA": codes}


def test_a_missing_value_leaves_only_its_own_scores():
    """The joint label is scored where all is known, each attribute where it is, and what is missing is counted."""
    facts = with_gaps(ledger())
    summary = summarise(**facts)
    known = facts["labels_N"] >= 0
    assert summary["missing"] == {"mask": 20, "gender": 12}
    assert summary["n"] == summary["accuracy"]["n"] == known.sum() == np.sum(summary["confusion"]) == 32
    assert sum(fold["n"] for fold in summary["folds"]) == 32
    assert summary["attributes"]["mask"]["accuracy"]["n"] == np.sum(summary["attributes"]["mask"]["confusion"]) == 40
    assert summary["attributes"]["gender"]["accuracy"]["n"] == 48
    assert summarise(**ledger())["missing"] == {}


def test_codes_without_gaps_change_nothing():
    """Saying the attributes' codes of whole labels gives what the labels alone give."""
    facts = ledger()
    codes = np.stack([facts["labels_N"] // 2, facts["labels_N"] % 2], axis=1)
    assert summarise(**facts, codes_NA=codes) == summarise(**facts)


def test_a_resample_without_a_known_sample_is_left_out():
    """Where all known samples are of one group, resamples without it have no joint score, and no number is NaN."""
    facts = ledger()
    codes = np.stack([facts["labels_N"] // 2, facts["labels_N"] % 2], axis=1)
    codes[3:, 0] = -1
    facts |= {"labels_N": np.where(codes[:, 0] < 0, -1, facts["labels_N"]), "codes_NA": codes}
    summary = json.loads(json.dumps(summarise(**facts), allow_nan=False))
    assert (summary["n"], summary["num_groups"]) == (3, 1)
    assert summary["log_loss"]["low"] == pytest.approx(summary["log_loss"]["high"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_N": np.arange(60) % 4}, "samples that lack an attribute have a class"),
        ({"codes_NA": np.full((60, 2), -1)}, "there are no samples to score"),
        ({"codes_NA": np.zeros((60, 1), int)}, "attribute codes have shape (60, 1), expected (60, 2)"),
        ({"codes_NA": np.full((60, 2), 2), "labels_N": np.zeros(60, int)}, "codes of `mask` run from 2 to 2"),
        ({"codes_NA": np.zeros((60, 2), int), "labels_N": np.ones(60, int)}, "codes of `gender` are not those of"),
        ({"codes_NA": None}, "class codes run from -1 to 3; expected 0..3"),
    ],
)  # fmt: skip
def test_codes_that_do_not_fit_are_refused(change, message):
    """Labels and attributes' codes must agree; a gap that no code explains is no label."""
    with pytest.raises(ValueError, match="cannot be scored") as caught:
        summarise(**(with_gaps(ledger()) | change))
    assert message in str(caught.value)
