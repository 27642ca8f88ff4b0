"""Scores by the values of a column."""

import numpy as np
import pytest

from finefold.metrics.slices import OTHER, UNKNOWN, score_slices, slice_numbers, slice_texts


def test_few_numbers_are_slices_of_their_own():
    """A column of few different numbers has a slice for each, in their order, and one for what is unknown."""
    slices = slice_numbers(np.array([3.0, 1.0, np.nan, 3.0]))
    assert slices.names == ("1", "3", UNKNOWN)
    assert slices.codes_N.tolist() == [1, 0, 2, 1]


def test_many_numbers_are_banded_evenly():
    """A column of many numbers falls into five bands with as many samples each, every number in its own band."""
    values_N = np.random.default_rng(0).normal(size=500)
    slices = slice_numbers(values_N)
    assert len(slices.names) == 5
    assert np.bincount(slices.codes_N).min() >= 99
    for code in range(4):
        assert values_N[slices.codes_N == code].max() < values_N[slices.codes_N == code + 1].min()


def test_texts_are_sorted_and_rare_ones_put_together():
    """Texts come in the order of their names; beyond thirty the rarest are one slice, the empty ones another."""
    texts = [f"t{number % 40:02}" for number in range(80)] + [f"t{number:02}" for number in range(30)] + [""]
    slices = slice_texts(texts)
    assert slices.names == (*(f"t{number:02}" for number in range(30)), OTHER, UNKNOWN)
    assert np.bincount(slices.codes_N)[-2:].tolist() == [20, 1]


def test_numbers_written_as_texts_are_numbers():
    """A column of texts that are all numbers is banded; few of them keep their order as numbers."""
    assert len(slice_texts([str(number) for number in range(100)]).names) == 5
    assert slice_texts(["10", "9"]).names == ("9", "10")


def test_each_slice_is_scored_on_its_own():
    """Accuracy, its difference to the rest, macro F1 and counts are those of the slice's rows."""
    labels_N = np.array([0, 1, 0, 1, 0, 1])
    probs_NK = np.eye(2)[[0, 1, 0, 0, 1, 1]]
    found = score_slices(probs_NK, labels_N, np.arange(6), slice_texts(list("aaabbb")), resamples=100)
    assert [one["value"] for one in found] == ["a", "b"]
    assert [one["n"] for one in found] == [3, 3]
    assert found[0]["accuracy"]["value"] == 1
    assert found[0]["macro_f1"] == 1
    assert found[0]["difference"]["value"] == pytest.approx(2 / 3)
    assert found[1]["difference"]["value"] == pytest.approx(-2 / 3)
    assert found[1]["difference"]["low"] <= found[1]["difference"]["value"] <= found[1]["difference"]["high"]


def test_one_slice_has_nothing_to_differ_from():
    """Where all samples are in one slice there is no difference, and the accuracy is everything's."""
    probs_NK = np.eye(2)[[0, 1]]
    (only,) = score_slices(probs_NK, np.array([0, 0]), np.arange(2), slice_texts(["a", "a"]), resamples=100)
    assert only["difference"] is None
    assert only["accuracy"]["value"] == 0.5


def test_a_slice_of_one_group_is_unsure():
    """Accuracy of a single group has an interval all the same, and so has its difference to the rest."""
    labels_N = np.zeros(40, np.int64)
    probs_NK = np.eye(2)[np.tile([0, 0, 0, 1], 10)]
    groups_N = np.array([0] * 8 + list(range(1, 33)))
    one, rest = score_slices(probs_NK, labels_N, groups_N, slice_texts(["a"] * 8 + ["b"] * 32), resamples=100)
    assert one["num_groups"] == 1 and rest["num_groups"] == 32
    assert one["accuracy"]["low"] < 0.1 and one["accuracy"]["high"] > 0.9
    assert one["difference"]["low"] < -0.5 and one["difference"]["high"] > 0.2
