"""The leak that fold-matched labels prevent: built on purpose, and the score that it would have faked."""

import numpy as np
import pytest

from finefold.metrics.pseudo import FoldProbs, choose_labels
from finefold.nn import probe
from finefold.nn.probe import Extra, fit_probe

N, D, C, F = 300, 60, 3, 5


@pytest.fixture(scope="module")
def noise():
    """Labels that features do not tell at all, and unlabelled images that are other photos of the same people."""
    rng = np.random.default_rng(0)
    features_ND = rng.normal(size=(N, D)).astype(np.float32)
    more_UD = (features_ND + 0.3 * rng.normal(size=(N, D))).astype(np.float32)
    return features_ND, more_UD, rng.integers(0, C, N), np.arange(N) % F


def fit(noise, extra=None):
    features_ND, _, labels_N, folds_N = noise
    return fit_probe(features_ND, labels_N, labels_N, folds_N, num_classes=C, strengths=(10.0,), extra=extra)


def labelled(noise, probs_FUC, target="hard"):
    """Every fold's labels, out of what is said to be its own model's probabilities."""
    return Extra(
        noise[1],
        tuple(
            choose_labels(
                FoldProbs(fold, probs_UC[None]), np.full(C, 1 / C), share=1.0, threshold=0.0, target=target, weight=1.0
            )
            for fold, probs_UC in enumerate(probs_FUC)
        ),
    )


def accuracy(found, noise):
    return float((found.probs_NC.argmax(axis=1) == noise[2]).mean())


def test_the_ensembles_labels_would_have_faked_a_score(noise):
    """Nothing can be learned here: a fold's own labels say so, and those of all folds together lift the score far up.

    Four of the five models saw a sample's answer, and hand it back by the label of the other photo.
    """
    before = fit(noise)
    own = fit(noise, labelled(noise, [head.probs(noise[1]) for head in before.heads]))
    together_UC = np.mean([head.probs(noise[1]) for head in before.heads], axis=0)
    leaky = fit(noise, labelled(noise, [together_UC] * F))
    chance = 1 / C
    assert accuracy(before, noise) < chance + 0.08
    assert accuracy(own, noise) < chance + 0.08
    assert accuracy(leaky, noise) > chance + 0.2


def test_a_folds_labels_do_not_depend_on_what_it_holds_out(noise, monkeypatch):
    """Other answers for the samples of a fold change neither that fold's labels nor the model that they train."""
    monkeypatch.setattr(probe, "FINE", 1e-12)
    features_ND, more_UD, labels_N, folds_N = noise
    other_N = np.where(folds_N == 1, (labels_N + 1) % C, labels_N)
    heads = []
    for truths_N in (labels_N, other_N):
        facts = (features_ND, more_UD, truths_N, folds_N)
        before = fit(facts)
        heads.append(fit(facts, labelled(facts, [head.probs(more_UD) for head in before.heads], "soft")).heads)
    held_ND = features_ND[folds_N == 1]
    np.testing.assert_allclose(heads[0][1].probs(held_ND), heads[1][1].probs(held_ND), atol=1e-3)
    assert not np.allclose(heads[0][2].probs(held_ND), heads[1][2].probs(held_ND), atol=1e-2)


def test_labels_of_another_fold_are_refused(noise):
    """Labels in another order of folds are an error, not a training."""
    before = fit(noise)
    extra = labelled(noise, [head.probs(noise[1]) for head in before.heads])
    with pytest.raises(ValueError, match="a fold trains on its own alone"):
        fit(noise, Extra(extra.features_UD, extra.labels[::-1]))
