"""How a fold's labels are chosen: what training did to the probabilities is not taken for the images' shares."""

from types import SimpleNamespace

import numpy as np
import pytest

from finefold.metrics.pseudo import FoldProbs
from finefold.recipe.schema import Recipe
from finefold.steps.rounds import fold_labels

SHARES = np.array([0.6, 0.37, 0.03])


def drawn(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and what a model says that was trained with smoothed labels and moved logits."""
    labels = rng.choice(3, count, p=SHARES)
    logits = 2.0 * np.eye(3)[labels] + rng.normal(size=(count, 3)) + np.log(SHARES)
    probs = np.exp(logits - 0.5 * np.log(SHARES))
    return labels, 0.8 * probs / probs.sum(axis=1, keepdims=True) + 0.2 / 3


@pytest.fixture
def facts():
    """3,000 samples in three folds, and 1,000 images of the same world that fold 1's model was asked about."""
    rng = np.random.default_rng(0)
    labels_N, probs_NK = drawn(3000, rng)
    samples = SimpleNamespace(labels_N=labels_N, train_labels_N=labels_N, space=SimpleNamespace(num_classes=3))
    said = FoldProbs(1, drawn(1000, rng)[1][None])
    return samples, SimpleNamespace(probs_NK=probs_NK), said


def labelled(facts, **asked):
    samples, predictions, said = facts
    recipe = Recipe.model_validate({"pseudo": asked})
    return fold_labels(said, predictions, SimpleNamespace(recipe=recipe, samples=samples, folds_N=np.arange(3000) % 3))


@pytest.mark.parametrize("calibrate", [True, False])
def test_what_a_loss_did_about_scarce_classes_is_no_share(facts, calibrate):
    """Smoothing and moved logits make a scarce class look frequent; its quota is what the images have all the same."""
    found = labelled(facts, calibrate=calibrate)
    counts = np.bincount(found.answers_M, minlength=3)
    assert found.fold == 1
    np.testing.assert_allclose(counts / 500, SHARES, atol=0.06)


def test_what_a_fold_holds_out_has_no_say_in_its_labels(facts):
    """Other answers for the samples that fold 1 holds out, and other predictions, leave its labels as they are."""
    before = labelled(facts)
    samples, predictions, said = facts
    held = np.arange(3000) % 3 == 1
    other = np.where(held, (samples.labels_N + 1) % 3, samples.labels_N)
    changed = SimpleNamespace(labels_N=other, train_labels_N=other, space=samples.space)
    probs_NK = np.where(held[:, None], predictions.probs_NK[:, ::-1], predictions.probs_NK)
    after = labelled((changed, SimpleNamespace(probs_NK=probs_NK), said))
    assert np.array_equal(after.rows_M, before.rows_M) and np.array_equal(after.targets_MC, before.targets_MC)
