"""What groups look like is predicted without their own label."""

import numpy as np

from finefold.auditing.voting import _RIDGES, _ridge_left_out, group_kernel, oddness_of_numbers, vote_of_groups


def test_leaving_one_out_in_closed_form_is_leaving_one_out():
    """The closed form equals a fit without the group, one group after the other."""
    rng = np.random.default_rng(0)
    kernel = group_kernel([rng.random((60, 9))], np.repeat(np.arange(30), 2), np.zeros(60, np.int64))
    targets = rng.normal(size=(30, 2))
    got = _ridge_left_out(kernel, targets, np.ones(30, bool))
    expected = {}
    for ridge in _RIDGES:
        rows = []
        for group in range(30):
            rest = np.arange(30) != group
            inner = kernel[np.ix_(rest, rest)] + 1 + ridge * np.eye(29)
            rows.append((kernel[group, rest] + 1) @ np.linalg.solve(inner, targets[rest]))
        expected[ridge] = np.array(rows)
    best = min(_RIDGES, key=lambda ridge: np.square(expected[ridge] - targets).sum())
    assert np.allclose(got, expected[best], atol=1e-8)


def test_the_own_label_has_no_say():
    """Turning one group's label does not change what it is predicted to be, given the same strength."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 40)
    features = rng.normal(size=(40, 12)) + 2 * labels[:, None]
    kernel = group_kernel([features], np.arange(40), np.zeros(40, np.int64))
    turned = labels.copy()
    turned[5] = 1 - turned[5]
    assert vote_of_groups(kernel, turned, 2)[5].argmax() == vote_of_groups(kernel, labels, 2)[5].argmax() == labels[5]


def test_an_odd_number_stands_out():
    """A number far from what its features say has the largest deviation, and its usual number is near the truth."""
    rng = np.random.default_rng(2)
    numbers = rng.uniform(20, 80, 120)
    features = rng.normal(size=(120, 8))
    features[:, 0] = numbers / 10 + rng.normal(scale=0.4, size=120)
    kernel = group_kernel([features], np.arange(120), np.zeros(120, np.int64))
    given = numbers.copy()
    row = int(numbers.argmax())
    given[row], given[3] = 22.0, np.nan
    oddness, usual = oddness_of_numbers(kernel, given)
    assert np.nanargmax(np.abs(oddness)) == row and usual[row] > 60 and np.isnan(oddness[3])


def test_a_group_without_a_kind_counts_as_average_there():
    """Missing kinds of photos leave the kernel finite and its diagonal 1."""
    groups, kinds = np.array([0, 0, 1, 2, 2, 3]), np.array([0, 1, 0, 0, 1, 1])
    kernel = group_kernel([np.random.default_rng(3).random((6, 5))], groups, kinds)
    assert np.isfinite(kernel).all() and np.allclose(np.diag(kernel), 1) and np.allclose(kernel, kernel.T)
