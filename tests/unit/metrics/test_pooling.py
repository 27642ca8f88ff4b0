"""What images of one group share, decided by all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finefold.metrics.pooling import EVIDENCE, MEAN, PRODUCT, joint_codes, pool

ATTRIBUTES = {
    "mask": (("wear", "normal"), np.array([0, 0, 1, 1])),
    "gender": (("male", "female"), np.array([0, 1, 0, 1])),
}
PRIOR = np.array([0.4, 0.3, 0.2, 0.1])
GENDER = np.eye(2)[[0, 1, 0, 1]]
MASK = np.eye(2)[[0, 0, 1, 1]]


def probs(count, *, seed=0):
    found = np.random.default_rng(seed).dirichlet(np.ones(4), count)
    return found / found.sum(axis=1, keepdims=True)


@given(seed=st.integers(0, 50), evidence=st.sampled_from(EVIDENCE))
def test_a_groups_images_agree(seed, evidence):
    """Pooled attributes are answered alike within a group, the others as the image alone says; rows sum to 1."""
    plain_NK, groups_N = probs(12, seed=seed), np.arange(12) % 4
    found_NK = pool(plain_NK, groups_N, ATTRIBUTES, ["gender"], prior_K=PRIOR, evidence=evidence)
    np.testing.assert_allclose(found_NK.sum(axis=1), 1)
    np.testing.assert_allclose(found_NK @ MASK, plain_NK @ MASK)
    answers_N = np.array([0, 1, 0, 1])[found_NK.argmax(axis=1)]
    for group in range(4):
        assert len(set(answers_N[groups_N == group])) == 1
        np.testing.assert_allclose(np.ptp((found_NK @ GENDER)[groups_N == group], axis=0), 0, atol=1e-12)


@pytest.mark.parametrize("evidence", [MEAN, PRODUCT])
def test_an_image_alone_keeps_its_probabilities(evidence):
    """A group of one is worth one image, whatever the rule, so its marginal probabilities stay."""
    plain_NK = probs(5)
    found_NK = pool(plain_NK, np.arange(5), ATTRIBUTES, ["gender"], prior_K=PRIOR, evidence=evidence)
    np.testing.assert_allclose(found_NK @ GENDER, plain_NK @ GENDER)


def test_the_mean_is_geometric():
    """Under the mean rule a group's probabilities are the geometric mean of its images', made to sum to 1."""
    plain_NK = probs(3)
    found_NK = pool(plain_NK, np.zeros(3, int), ATTRIBUTES, ["gender"], prior_K=PRIOR)
    wanted = np.exp(np.log(plain_NK @ GENDER).mean(axis=0))
    np.testing.assert_allclose((found_NK @ GENDER)[0], wanted / wanted.sum())


def test_the_product_is_bayes_rule():
    """Under the product rule independent images give the posterior that Bayes' rule gives."""
    prior_S, rng = PRIOR @ GENDER, np.random.default_rng(1)
    likelihoods_N2 = rng.random((3, 2))
    seen_N2 = likelihoods_N2 * prior_S / (likelihoods_N2 * prior_S).sum(axis=1, keepdims=True)
    plain_NK = seen_N2[:, [0, 1, 0, 1]] / 2
    found_NK = pool(plain_NK, np.zeros(3, int), ATTRIBUTES, ["gender"], prior_K=PRIOR, evidence=PRODUCT)
    wanted = prior_S * likelihoods_N2.prod(axis=0)
    np.testing.assert_allclose((found_NK @ GENDER)[0], wanted / wanted.sum())


def test_images_that_say_nothing_do_not_count():
    """An unreadable image gets what the readable ones of its group say, and a group without any keeps the prior."""
    plain_NK = np.concatenate([probs(2), [PRIOR], [PRIOR]])
    counts_N = np.array([True, True, False, False])
    with_it = pool(plain_NK, np.array([0, 0, 0, 1]), ATTRIBUTES, ["gender"], prior_K=PRIOR, counts_N=counts_N)
    without = pool(plain_NK[:2], np.array([0, 0]), ATTRIBUTES, ["gender"], prior_K=PRIOR)
    np.testing.assert_allclose(with_it[:2], without)
    np.testing.assert_allclose(with_it[2] @ GENDER, without[0] @ GENDER)
    np.testing.assert_allclose(with_it[3] @ GENDER, PRIOR @ GENDER)


def test_all_attributes_may_be_pooled():
    """Where every attribute is pooled, a group's images have the same probabilities."""
    found_NK = pool(probs(4), np.zeros(4, int), ATTRIBUTES, ["mask", "gender"], prior_K=PRIOR)
    np.testing.assert_allclose(found_NK, np.broadcast_to(found_NK[0], (4, 4)))
    assert joint_codes(ATTRIBUTES, ["mask", "gender"])[0].tolist() == [0, 1, 2, 3]
    assert joint_codes(ATTRIBUTES, [])[1] == 1
