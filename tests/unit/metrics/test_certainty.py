"""How sure one can be of a scarce class."""

import numpy as np
import pytest
from scipy.stats import binomtest

from finefold.metrics.certainty import certainty, certainty_of_attributes, wilson_interval


@pytest.mark.parametrize(("hits", "trials"), [(0, 4), (3, 10), (10, 10), (40, 100)])
def test_the_interval_is_scipys(hits, trials):
    """Wilson's interval agrees with scipy's."""
    expected = binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson_interval(hits / trials, trials) == pytest.approx((expected.low, expected.high))


def test_people_count_not_photos():
    """Seven photos of each of three people are three trials, and a class all of whose photos are missed is not sure."""
    labels_N = np.zeros(21, int)
    found = certainty(labels_N, labels_N + 1, np.repeat([0, 1, 2], 7), ["rare", "other"])
    assert found["rare"]["groups"] == 3
    assert found["rare"]["is_scarce"]
    assert found["rare"]["recall"]["low"] == 0
    assert found["rare"]["recall"]["high"] > 0.5
    assert found["other"] is None


def test_many_groups_are_not_scarce():
    """A class of twenty groups is not marked."""
    labels_N = np.zeros(20, int)
    assert not certainty(labels_N, labels_N, np.arange(20), ["one"])["one"]["is_scarce"]


def test_attributes_answer_by_summed_probability():
    """An attribute's recall is of the answer with the largest sum, not of the most probable joint class."""
    probs_NK = np.array([[0.3, 0.3, 0.4, 0.0]])
    table = {"mask": (["wear", "normal"], np.array([0, 0, 1, 1]))}
    found = certainty_of_attributes(probs_NK, {"mask": np.array([0])}, np.array([0]), table)
    assert found["mask"]["wear"]["recall"]["high"] == 1
    assert found["mask"]["normal"] is None
