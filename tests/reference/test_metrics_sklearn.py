"""Our scores against scikit-learn's."""

import warnings

import numpy as np
import pytest
from sklearn import metrics

from finefold.metrics.classification import confusion_matrix, log_loss_N, scores_from_confusion
from finefold.metrics.summary import summarise

CASES = [
    (2, 50, (), ()),
    (8, 300, (), ()),
    (8, 200, (2, 5), ()),
    (8, 200, (), (0, 3)),
    (18, 60, (1, 7), (1, 4)),
]


def answers(num_classes, num_samples, absent, never_predicted, seed=0):
    """Random labels without the absent classes, random predictions without the never predicted ones."""
    rng = np.random.default_rng(seed)
    true = [k for k in range(num_classes) if k not in absent]
    answered = [k for k in range(num_classes) if k not in never_predicted]
    labels = rng.choice(true, num_samples)
    agreed = (rng.random(num_samples) < 0.5) & np.isin(labels, answered)
    return labels, np.where(agreed, labels, rng.choice(answered, num_samples))


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_scikit_learn(case):
    """Every score equals scikit-learn's over the classes that have a sample."""
    labels, predicted = answers(*case)
    present = np.unique(labels)
    confusion = confusion_matrix(labels, predicted, case[0])
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(labels, predicted, labels=range(case[0])))
    scores = scores_from_confusion(confusion)
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        assert scores.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    for average, ours in (("macro", scores.macro_f1), ("weighted", scores.weighted_f1)):
        theirs = metrics.f1_score(labels, predicted, labels=present, average=average, zero_division=0)
        assert ours == pytest.approx(theirs)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=present, zero_division=0
    )
    np.testing.assert_allclose(scores.precision[present], precision)
    np.testing.assert_allclose(scores.recall[present], recall)
    np.testing.assert_allclose(scores.f1[present], f1)
    np.testing.assert_array_equal(scores.support[present], support)


def test_log_loss_equals_scikit_learn():
    """Mean log loss equals scikit-learn's, with probabilities of exactly 0 among them."""
    rng = np.random.default_rng(1)
    probs, labels = rng.dirichlet(np.full(6, 0.2), 500), rng.integers(0, 6, 500)
    probs[:20] = np.eye(6)[rng.integers(0, 6, 20)]
    assert log_loss_N(probs, labels).mean() == pytest.approx(metrics.log_loss(labels, probs, labels=range(6)))


def test_intervals_equal_a_plain_bootstrap():
    """Intervals equal those of the loop anyone would write: draw groups, join their rows, score."""
    rng = np.random.default_rng(2)
    labels, groups = rng.choice([0, 0, 0, 1, 1, 2], 90), rng.integers(0, 15, 90)
    probs = rng.dirichlet(np.ones(3), 90) * 0.7 + 0.3 * np.eye(3)[labels]
    summary = summarise(
        probs_NK=probs, labels_N=labels, folds_N=np.zeros(90, int), groups_N=groups,
        class_names=["a", "b", "c"], attributes={}, resamples=200, seed=4,
    )  # fmt: skip
    draws, rows_of = (
        np.random.default_rng(4),
        [np.flatnonzero(groups == group) for group in np.unique(groups)],
    )
    macro_f1, log_loss = [], []
    for _ in range(200):
        rows = np.concatenate([rows_of[drawn] for drawn in draws.integers(0, len(rows_of), len(rows_of))])
        true, predicted = labels[rows], probs[rows].argmax(axis=1)
        macro_f1.append(metrics.f1_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0))
        log_loss.append(metrics.log_loss(true, probs[rows], labels=range(3)))
    for name, resampled in (("macro_f1", macro_f1), ("log_loss", log_loss)):
        low, high = np.percentile(resampled, [2.5, 97.5])
        assert (summary[name]["low"], summary[name]["high"]) == pytest.approx((low, high))


def test_scores_beside_gaps_are_scikit_learns_on_the_known_rows():
    """With values missing, every attribute's scores and the joint ones are scikit-learn's on the rows they know."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 6, 300)
    probs = rng.dirichlet(np.ones(6), 300) * 0.6 + 0.4 * np.eye(6)[labels]
    of = {"first": np.arange(6) // 3, "second": np.arange(6) % 3}
    codes = np.stack([codes_K[labels] for codes_K in of.values()], axis=1)
    codes[rng.random(codes.shape) < 0.3] = -1
    known = (codes >= 0).all(axis=1)
    attributes = {"first": (["x", "y"], of["first"]), "second": (["p", "q", "r"], of["second"])}
    summary = summarise(
        probs_NK=probs, labels_N=np.where(known, labels, -1), folds_N=np.zeros(300, int), groups_N=np.arange(300),
        class_names=list("abcdef"), attributes=attributes, codes_NA=codes, resamples=100,
    )  # fmt: skip
    truths = {"joint": (summary, labels[known], probs[known].argmax(axis=1))}
    for place, (name, codes_K) in enumerate(of.items()):
        rows = codes[:, place] >= 0
        found = (probs @ np.eye(codes_K.max() + 1)[codes_K]).argmax(axis=1)
        truths[name] = (summary["attributes"][name], codes[rows, place], found[rows])
    for scores, true, predicted in truths.values():
        assert scores["accuracy"]["n"] == len(true)
        assert scores["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(true, predicted))
        assert scores["balanced_accuracy"]["value"] == pytest.approx(metrics.balanced_accuracy_score(true, predicted))
        for average in ("macro", "weighted"):
            expected = metrics.f1_score(true, predicted, average=average)
            assert scores[f"{average}_f1"]["value"] == pytest.approx(expected)
        assert scores["confusion"] == metrics.confusion_matrix(true, predicted).tolist()
    assert summary["log_loss"]["value"] == pytest.approx(metrics.log_loss(labels[known], probs[known], labels=range(6)))


@pytest.mark.parametrize("num_levels", [2, 50])
def test_curves_and_areas_are_scikit_learns(num_levels):
    """ROC and precision-recall curves and their areas equal scikit-learn's, ties included."""
    from finefold.metrics.ranking import rank

    rng = np.random.default_rng(num_levels)
    is_class_N = rng.random(300) < 0.2
    scores_N = np.round((rng.normal(size=300) + is_class_N) * num_levels) / num_levels
    ranking = rank(scores_N, is_class_N, np.arange(300))
    assert ranking.auc.value == pytest.approx(metrics.roc_auc_score(is_class_N, scores_N))
    assert ranking.average_precision.value == pytest.approx(metrics.average_precision_score(is_class_N, scores_N))
    false_T, recall_T, _ = metrics.roc_curve(is_class_N, scores_N, drop_intermediate=False)
    np.testing.assert_allclose(ranking.false_T, false_T)
    np.testing.assert_allclose(ranking.recall_T, recall_T)
    precision_T, _, _ = metrics.precision_recall_curve(is_class_N, scores_N)
    np.testing.assert_allclose(ranking.precision_T, precision_T[::-1])
