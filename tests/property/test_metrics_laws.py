"""Laws of the scores, for any ledger."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finefold.metrics.summary import summarise

laws = settings(deadline=None, max_examples=30)
AVERAGES = ("macro_f1", "accuracy", "balanced_accuracy", "weighted_f1", "log_loss")


@st.composite
def ledgers(draw):
    """Any small ledger: 2-6 classes, some perhaps absent; 1-40 samples in 1-40 groups."""
    num_classes, num_samples = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # continuous probabilities: no ties, so that no law depends on the order of the classes
    return {
        "probs_NK": rng.dirichlet(np.ones(num_classes), num_samples),
        "labels_N": rng.integers(0, draw(st.integers(1, num_classes)), num_samples),
        "folds_N": rng.integers(0, 3, num_samples),
        "groups_N": rng.integers(0, draw(st.integers(1, num_samples)), num_samples),
        "class_names": [f"class-{k}" for k in range(num_classes)],
        "attributes": {"parity": (["even", "odd"], np.arange(num_classes) % 2)},
        "resamples": 25,
    }


def scores_in(value):
    """Every {value, low, high, n} anywhere in a summary."""
    if isinstance(value, dict) and set(value) == {"value", "low", "high", "n"}:
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from scores_in(part)


def rounded(value):
    """The same JSON with numbers at nine decimals: sums in another order differ in the last ones."""
    return json.loads(json.dumps(value), parse_float=lambda text: round(float(text), 9))


@laws
@given(ledgers(), st.randoms(use_true_random=False))
def test_permuting_rows_changes_nothing(facts, random):
    """The order of the samples does not matter, for values and intervals alike."""
    order = np.array(random.sample(range(len(facts["labels_N"])), len(facts["labels_N"])))
    shuffled = facts | {name: facts[name][order] for name in ("probs_NK", "labels_N", "folds_N", "groups_N")}
    first, second = rounded(summarise(**facts)), rounded(summarise(**shuffled))
    for name in ("log_loss", "folds"):
        assert np.allclose(numbers(first.pop(name)), numbers(second.pop(name)), atol=1e-7)
    assert first == second


def numbers(value):
    """All numbers in a piece of JSON, in order."""
    if isinstance(value, dict | list):
        return [n for part in (value.values() if isinstance(value, dict) else value) for n in numbers(part)]
    return [value] if isinstance(value, int | float) else []


@laws
@given(ledgers(), st.randoms(use_true_random=False))
def test_permuting_classes_permutes_their_scores(facts, random):
    """Another order of the classes gives every class the same scores, and the same averages."""
    num_classes = len(facts["class_names"])
    order = np.array(random.sample(range(num_classes), num_classes))
    names, codes = facts["attributes"]["parity"]
    permuted = facts | {
        "probs_NK": facts["probs_NK"][:, order],
        "labels_N": np.argsort(order)[facts["labels_N"]],
        "class_names": [facts["class_names"][k] for k in order],
        "attributes": {"parity": (names, codes[order])},
    }
    first, second = rounded(summarise(**facts)), rounded(summarise(**permuted))
    assert first["classes"] == second["classes"]
    assert sorted(first["absent"]) == sorted(second["absent"])
    assert (np.array(first["confusion"])[np.ix_(order, order)] == second["confusion"]).all()
    for name in AVERAGES:
        assert numbers(first[name]) == pytest.approx(numbers(second[name]), abs=1e-8)


@laws
@given(ledgers())
def test_grouping_moves_no_value(facts):
    """Who belongs to which group changes intervals only."""
    alone = facts | {"groups_N": np.arange(len(facts["labels_N"]))}
    for first, second in zip(scores_in(summarise(**facts)), scores_in(summarise(**alone)), strict=True):
        assert first["value"] == second["value"] and first["n"] == second["n"]


@laws
@given(ledgers(), st.integers(2, 4))
def test_duplicates_in_their_group_change_nothing_but_counts(facts, times):
    """Every sample repeated inside its own group gives the same values and the same intervals."""
    repeated = facts | {
        name: np.repeat(facts[name], times, axis=0) for name in ("probs_NK", "labels_N", "folds_N", "groups_N")
    }
    once, more = summarise(**facts), summarise(**repeated)
    for first, second in zip(scores_in(once), scores_in(more), strict=True):
        assert second["n"] == times * first["n"]
        for part in ("value", "low", "high"):
            assert second[part] == pytest.approx(first[part], abs=1e-9)


@laws
@given(ledgers())
def test_intervals_contain_their_value(facts):
    """low <= value <= high for every score, all of them finite, all but log loss within 0..1."""
    summary = summarise(**facts)
    json.dumps(summary, allow_nan=False)
    for score in scores_in(summary):
        assert score["low"] <= score["value"] <= score["high"]
        assert score["low"] >= 0 and (score["high"] <= 1 or score == summary["log_loss"])


@laws
@given(ledgers())
def test_perfect_predictions_score_one(facts):
    """Right and certain everywhere: every score is 1, no surer than counting its groups, and log loss is 0."""
    num_classes = len(facts["class_names"])
    summary = summarise(**facts | {"probs_NK": np.eye(num_classes)[facts["labels_N"]]})
    loss = summary.pop("log_loss")
    assert (loss["value"], loss["low"], loss["high"]) == (0, 0, 0)
    for score in scores_in(summary):
        assert (score["value"], score["high"]) == (1, 1)
    for name in ("accuracy", "macro_f1", "balanced_accuracy", "weighted_f1"):
        assert summary[name]["low"] == pytest.approx(0.025 ** (1 / summary["num_groups"]))
    assert all(fold["accuracy"] == fold["macro_f1"] == 1 for fold in summary["folds"])
