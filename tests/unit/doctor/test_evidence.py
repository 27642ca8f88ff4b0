"""The probe in closed form."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from finefold.doctor.evidence import STRENGTH, ClosedProbe
from unit.doctor.planted import planted


def test_it_is_ridge_regression_out_of_fold():
    """Scores are scikit-learn's Ridge on the components of the other folds, with a free intercept."""
    features_ND, labels_N = planted(200)
    folds_N = np.arange(200) % 4
    probe = ClosedProbe(features_ND, folds_N)
    targets_NC = np.eye(4, dtype=np.float32)[labels_N]
    rows = probe.components_NR[:, :-1]
    for fold in range(4):
        train, held = folds_N != fold, folds_N == fold
        ridge = Ridge(STRENGTH * train.sum(), tol=1e-8).fit(rows[train], targets_NC[train])
        assert np.allclose(probe.scores(targets_NC)[held], ridge.predict(rows[held]), atol=2e-3)


def test_information_is_high_for_right_labels_and_none_for_shuffled_ones():
    """Right labels are worth most of their entropy; shuffled ones nothing, and their accuracy is chance."""
    features_ND, labels_N = planted(400, noise=0.5)
    probe = ClosedProbe(features_ND, np.arange(400) % 5)
    right = probe.believe(labels_N, 4)
    assert right.accuracy > 0.95 and right.information > 0.8
    chance = probe.permuted(labels_N, 4, times=10, rng=np.random.default_rng(0))
    assert chance[:, 0].max() < 0.03 and chance[:, 1].max() < 0.4


def test_rows_without_a_label_are_told_about_all_the_same():
    """A row of label -1 trains nothing, and its class is still found."""
    features_ND, labels_N = planted(400, noise=0.5)
    hidden_N = labels_N.copy()
    hidden_N[::7] = -1
    belief = ClosedProbe(features_ND, np.arange(400) % 5).believe(hidden_N, 4)
    assert (belief.gain_NC[::7].argmax(axis=1) == labels_N[::7]).mean() > 0.9


@pytest.mark.parametrize("width", [8, 600])
def test_few_and_many_features_alike(width):
    """More features than rows, or fewer, work alike."""
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 2, 120)
    features_ND = rng.normal(size=(120, width)) + 2.0 * labels_N[:, None]
    assert ClosedProbe(features_ND, np.arange(120) % 5).believe(labels_N, 2).accuracy > 0.95


def test_rows_in_another_order_are_told_the_same():
    """The probe of reordered rows says of each row what it said before."""
    features_ND, labels_N = planted(200)
    probe = ClosedProbe(features_ND, np.arange(200) % 4)
    order_N = np.random.default_rng(0).permutation(200)
    own, other = probe.believe(labels_N, 4), probe.reordered(order_N).believe(labels_N[order_N], 4)
    assert np.allclose(own.gain_NC[order_N], other.gain_NC, rtol=3e-3, atol=1e-3)  # the temperature is that exact
    assert own.accuracy == other.accuracy
