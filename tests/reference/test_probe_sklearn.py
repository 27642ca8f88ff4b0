"""All folds' heads at once are scikit-learn's LogisticRegression, fold by fold."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from finefold.nn import probe
from finefold.nn.probe import fit_probe

N, D, C, F = 240, 40, 4, 3
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)


@pytest.fixture(scope="module")
def problem():
    """Features of very different location and scale, one constant; labels that they tell with noise; folds."""
    rng = np.random.default_rng(0)
    labels_N = rng.choice(C, N, p=[0.4, 0.3, 0.2, 0.1])
    centres_CD = rng.normal(size=(C, D))
    features_ND = centres_CD[labels_N] + rng.normal(scale=1.8, size=(N, D))
    features_ND = features_ND * rng.uniform(0.05, 20, D) + rng.normal(scale=30, size=D)
    features_ND[:, 7] = 3.25
    return features_ND.astype(np.float32), labels_N, rng.permutation(np.arange(N) % F)


def fit(problem, train_N=None, strengths=(30.0,), **options):
    features_ND, labels_N, folds_N = problem
    train_N = labels_N if train_N is None else train_N
    options = {"num_classes": int(labels_N.max()) + 1, "strengths": strengths} | options
    return fit_probe(features_ND, labels_N, train_N, folds_N, **options)


def sklearn_probs(features_ND, train_N, folds_N, *, inverse_strength):
    """Out-of-fold probabilities of scikit-learn, with the same rows in training."""
    probs_NC = np.empty((len(folds_N), train_N.max() + 1))
    for fold in range(F):
        is_trained_N = (folds_N != fold) & (train_N >= 0)
        scaler = StandardScaler().fit(features_ND[is_trained_N].astype(np.float64))
        model = LogisticRegression(C=inverse_strength, max_iter=10_000, tol=1e-8)
        model.fit(scaler.transform(features_ND[is_trained_N].astype(np.float64)), train_N[is_trained_N])
        probs_NC[folds_N == fold] = model.predict_proba(scaler.transform(features_ND[folds_N == fold].astype(float)))
    return probs_NC


@pytest.mark.parametrize("strength", [10.0, 100.0, 1000.0])
def test_probs_are_those_of_logistic_regression(problem, strength):
    """Every fold's head gives the probabilities of LogisticRegression(C=1/s) on StandardScaler's features."""
    features_ND, labels_N, folds_N = problem
    expected_NC = sklearn_probs(features_ND, labels_N, folds_N, inverse_strength=1 / strength)
    assert np.abs(fit(problem, strengths=(strength,)).probs_NC - expected_NC).max() < 5e-3


def test_a_finer_tolerance_comes_closer(problem, monkeypatch):
    """The rest of the difference is the tolerance: with a tiny one, probabilities agree to 1e-4."""
    features_ND, labels_N, folds_N = problem
    monkeypatch.setattr(probe, "FINE", 1e-12)
    expected_NC = sklearn_probs(features_ND, labels_N, folds_N, inverse_strength=1 / 30)
    assert np.abs(fit(problem, max_steps=1000).probs_NC - expected_NC).max() < 1e-4


def test_two_classes_are_the_binary_model(problem, monkeypatch):
    """With two classes the two weight vectors share the penalty: scikit-learn's binary model at half the strength."""
    features_ND, labels_N, folds_N = problem
    monkeypatch.setattr(probe, "FINE", 1e-10)
    two_N = (labels_N > 0).astype(np.int64)
    expected_NC = sklearn_probs(features_ND, two_N, folds_N, inverse_strength=2 / 30)
    assert np.abs(fit((features_ND, two_N, folds_N)).probs_NC - expected_NC).max() < 1e-3


def test_rows_without_a_training_label_are_left_out(problem):
    """A row whose training label is -1 teaches nothing, neither weights nor standardisation, and is still predicted."""
    features_ND, labels_N, folds_N = problem
    train_N = np.where(np.random.default_rng(1).random(N) < 0.25, -1, labels_N)
    expected_NC = sklearn_probs(features_ND, train_N, folds_N, inverse_strength=1 / 30)
    found = fit(problem, train_N)
    assert np.abs(found.probs_NC - expected_NC).max() < 5e-3
    shouted_ND = np.where((train_N < 0)[:, None], features_ND * 3, features_ND)
    shouted = fit((shouted_ND, labels_N, folds_N), train_N)
    assert np.abs(shouted.probs_NC - found.probs_NC)[train_N >= 0].max() < 5e-3


def test_powers_are_raised_before_standardising(problem):
    """`power` is sign(x) |x|^power of every feature, and the head remembers it."""
    features_ND, labels_N, folds_N = problem
    rooted_ND = (np.sign(features_ND) * np.sqrt(np.abs(features_ND))).astype(np.float32)
    found = fit(problem, power=0.5)
    assert np.allclose(found.probs_NC, fit((rooted_ND, labels_N, folds_N)).probs_NC, atol=1e-6)
    held_N = folds_N == 1
    assert np.allclose(found.heads[1].probs(features_ND[held_N]), found.probs_NC[held_N], atol=1e-6)


def test_losses_are_those_of_each_folds_own_rows(problem, monkeypatch):
    """The table of losses is the mean log loss of a fold's rows under the head that did not see them."""
    features_ND, labels_N, folds_N = problem
    monkeypatch.setattr(probe, "ROUGH", 1e-8)
    losses_FS = fit(problem, strengths=STRENGTHS).losses_FS
    for number, strength in enumerate(STRENGTHS):
        probs_NC = sklearn_probs(features_ND, labels_N, folds_N, inverse_strength=1 / strength)
        losses_N = -np.log(probs_NC[np.arange(N), labels_N])
        assert np.allclose(losses_FS[:, number], [losses_N[folds_N == fold].mean() for fold in range(F)], atol=2e-3)


@pytest.mark.parametrize("fold", range(F))
def test_no_row_has_a_say_in_the_strength_it_is_scored_with(problem, fold):
    """Other truths for the rows of a fold change its losses and the other folds' strengths, never its own."""
    features_ND, labels_N, folds_N = problem
    before = fit(problem, strengths=STRENGTHS)
    other_N = np.where(folds_N == fold, (labels_N + 1) % C, labels_N)  # wrong everywhere: flat heads lose least
    after = fit_probe(features_ND, other_N, labels_N, folds_N, num_classes=C, strengths=STRENGTHS)
    assert after.strengths_F[fold] == before.strengths_F[fold]
    assert not np.allclose(after.losses_FS[fold], before.losses_FS[fold])
    rest = [other for other in range(F) if other != fold]
    assert [after.strengths_F[other] for other in rest] != [before.strengths_F[other] for other in rest]
    assert np.allclose(after.probs_NC[folds_N == fold], before.probs_NC[folds_N == fold], atol=1e-5)


def test_the_strength_is_the_best_for_the_other_folds(problem):
    """The strength of fold k has the least summed loss over all rows outside k."""
    _, _, folds_N = problem
    found = fit(problem, strengths=STRENGTHS)
    rows_F = np.bincount(folds_N)
    for fold in range(F):
        others = [other for other in range(F) if other != fold]
        sums_S = (found.losses_FS[others] * rows_F[others, None]).sum(axis=0)
        assert found.strengths_F[fold] == STRENGTHS[int(sums_S.argmin())]


def test_a_row_is_predicted_by_the_head_that_did_not_see_it(problem):
    """Out-of-fold probabilities are those of the row's own fold's head."""
    features_ND, _, folds_N = problem
    found = fit(problem, strengths=STRENGTHS)
    for fold, head in enumerate(found.heads):
        held_N = folds_N == fold
        assert np.allclose(head.probs(features_ND[held_N]), found.probs_NC[held_N], atol=1e-6)


def test_the_order_of_the_rows_does_not_matter(problem):
    """Permuted rows give the same heads, so the same probabilities."""
    order_N = np.random.default_rng(2).permutation(N)
    found = fit(problem)
    permuted = fit(tuple(part[order_N] for part in problem))
    assert np.allclose(permuted.probs_NC, found.probs_NC[order_N], atol=2e-3)


def test_blocks_of_rows_do_not_matter(problem, monkeypatch):
    """Rows are summed in blocks to bound memory; how large they are changes nothing."""
    found = fit(problem)
    monkeypatch.setattr(probe, "ROWS_AT_ONCE", 37)
    assert np.allclose(fit(problem).probs_NC, found.probs_NC, atol=2e-3)


def test_rows_of_unknown_class_train_and_score_nothing(problem):
    """With classes missing, heads are scikit-learn's of the known rows, losses too, and all rows are predicted."""
    features_ND, labels_N, folds_N = problem
    known_N = np.where(np.random.default_rng(1).random(N) < 0.3, -1, labels_N)
    found = fit_probe(features_ND, known_N, known_N, folds_N, num_classes=C, strengths=(30.0,))
    expected_NC = sklearn_probs(features_ND, known_N, folds_N, inverse_strength=1 / 30)
    assert np.abs(found.probs_NC - expected_NC).max() < 5e-3
    rows = known_N >= 0
    losses_N = -np.log(expected_NC[rows, known_N[rows]])
    expected_F = [losses_N[folds_N[rows] == fold].mean() for fold in range(F)]
    assert np.allclose(found.losses_FS[:, 0], expected_F, atol=5e-3)


def test_extra_rows_are_scikit_learns_sample_weights(problem, monkeypatch):
    """A fold's extra rows with hard labels and a weight train as scikit-learn's rows of that sample weight do."""
    from finefold.metrics.pseudo import FoldLabels
    from finefold.nn.probe import Extra

    features_ND, labels_N, folds_N = problem
    monkeypatch.setattr(probe, "FINE", 1e-10)
    rng = np.random.default_rng(7)
    extra_UD = features_ND[rng.integers(0, N, 40)] + 0.1 * rng.normal(size=(40, features_ND.shape[1]))
    extra_UD = extra_UD.astype(np.float32)
    labels = [
        FoldLabels(fold, rng.permutation(40)[: 10 + fold], np.eye(C)[rng.integers(0, C, 10 + fold)], 0.5)
        for fold in range(F)
    ]
    found = fit_probe(
        features_ND, labels_N, labels_N, folds_N, num_classes=C, strengths=[30.0],
        extra=Extra(extra_UD, tuple(labels)),
    )  # fmt: skip
    for fold, one in enumerate(labels):
        is_trained_N = folds_N != fold
        scaler = StandardScaler().fit(features_ND[is_trained_N])
        rows = np.concatenate([features_ND[is_trained_N], extra_UD[one.rows_M]])
        truths = np.concatenate([labels_N[is_trained_N], one.targets_MC.argmax(axis=1)])
        weights = np.concatenate([np.ones(is_trained_N.sum()), np.full(len(one), one.weight)])
        model = LogisticRegression(C=1 / 30, tol=1e-8, max_iter=5000).fit(scaler.transform(rows), truths, weights)
        expected = model.predict_proba(scaler.transform(features_ND[~is_trained_N]))
        assert np.abs(expected - found.probs_NC[~is_trained_N]).max() < 1e-3
