"""metrics.counts: counts known by design."""

import numpy as np
import pytest

from finefold.metrics.counts import answer_by_counts, assign_to_counts, in_groups, scale_to_counts

MASK, SEX = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1])


@pytest.fixture
def probs_NK():
    """40 images of two attributes, three classes by two."""
    return np.random.default_rng(0).dirichlet(np.full(6, 0.3), 40)


def sums(probs_NK, codes_K):
    return probs_NK.sum(axis=0) @ np.eye(codes_K.max() + 1)[codes_K]


def test_sums_become_the_counts_of_every_attribute(probs_NK):
    """Rows keep summing to 1, and both margins are met at once."""
    scaled_NK = scale_to_counts(probs_NK, [(MASK, np.array([5, 30, 5])), (SEX, np.array([20, 20]))])
    np.testing.assert_allclose(scaled_NK.sum(axis=1), 1)
    np.testing.assert_allclose(sums(scaled_NK, MASK), [5, 30, 5], atol=1e-5)
    np.testing.assert_allclose(sums(scaled_NK, SEX), [20, 20], atol=1e-5)


def test_counts_that_hold_already_change_nothing():
    """Where the sums are the counts, probabilities stay as they are."""
    probs_NK = np.array([[0.7, 0.3], [0.3, 0.7]])
    np.testing.assert_allclose(scale_to_counts(probs_NK, [(np.array([0, 1]), np.array([1, 1]))]), probs_NK)


def test_answers_have_exactly_the_counts(probs_NK):
    """Both attributes' histograms of answers are the counts, a count of 0 too."""
    answered_NK = answer_by_counts(probs_NK, [(MASK, np.array([0, 33, 7])), (SEX, np.array([25, 15]))])
    answers_N = answered_NK.argmax(axis=1)
    assert np.bincount(MASK[answers_N], minlength=3).tolist() == [0, 33, 7]
    assert np.bincount(SEX[answers_N]).tolist() == [25, 15]
    np.testing.assert_allclose(answered_NK.sum(axis=1), 1)


def test_rows_in_another_order_get_the_same_answers(probs_NK):
    """What an image gets does not depend on its place."""
    margins = [(MASK, np.array([10, 20, 10]))]
    order = np.random.default_rng(1).permutation(40)
    np.testing.assert_allclose(answer_by_counts(probs_NK, margins)[order], answer_by_counts(probs_NK[order], margins))


def test_what_a_model_rules_out_is_still_given():
    """Probabilities of 0 and 1 leave the counts in force."""
    sure_NC = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert np.bincount(assign_to_counts(sure_NC, np.array([1, 2]))).tolist() == [1, 2]


def test_each_group_has_counts_of_its_own():
    """In every group the surest image gets the class that occurs once."""
    probs_NK = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.1, 0.9]])
    margins = [[(np.array([0, 1]), np.array([1, 1]))]] * 2
    assert in_groups(probs_NK, np.array([0, 0, 1, 1]), margins).argmax(axis=1).tolist() == [0, 1, 0, 1]
