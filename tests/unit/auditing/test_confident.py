"""Confident learning: thresholds, the joint, suspects in their order, and votes of groups."""

import numpy as np

from finefold.auditing.confident import (
    confident_classes,
    confident_joint,
    confident_thresholds,
    group_vote,
    margins,
    noise_share,
    suspects,
)


def planted(rng: np.random.Generator, *, wrong: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of which some are wrong, probabilities that know better, and the wrong ones' numbers."""
    truth = rng.integers(0, 3, 300)
    logits = rng.normal(size=(300, 3)) + 4 * np.eye(3)[truth]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels, rows = truth.copy(), rng.choice(300, wrong, replace=False)
    labels[rows] = (truth[rows] + 1) % 3
    return labels, probs, rows


def test_planted_labels_come_first():
    """Of twelve wrong labels among 300 at least nine are suspects, before all others, and their share is estimated."""
    labels, probs, wrong = planted(np.random.default_rng(0))
    found = suspects(labels, probs)
    assert len(found) >= 9 and len(set(found[:9].tolist()) - set(wrong.tolist())) == 0
    assert 0.02 < noise_share(labels, probs) < 0.08
    assert (np.diff(margins(labels, probs)[found]) >= 0).all()


def test_thresholds_are_mean_self_confidence():
    """A class's threshold is the mean of what its samples are given; a class without samples is never confident."""
    labels = np.array([0, 0, 1])
    probs = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    assert np.allclose(confident_thresholds(labels, probs), [0.7, 0.2, 2.0])
    assert confident_classes(labels, probs).tolist() == [0, 1, 1]
    assert confident_joint(labels, probs).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_many_weak_votes_outweigh_one():
    """Seven photos that each lean to a class make a sure group; one label against six others is still a label."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), 7)
    labels = rng.integers(0, 2, 60)
    strength = 0.5 + 0.08 * rng.standard_normal(420) + 0.12 * (2 * labels[groups] - 1)
    probs = np.clip(np.stack([1 - strength, strength], axis=1), 0.05, 0.95)
    voted = group_vote(probs / probs.sum(axis=1, keepdims=True), groups, labels)
    single = (probs.argmax(axis=1) == labels[groups]).mean()
    assert (voted.argmax(axis=1) == labels).mean() > single + 0.02
    assert np.allclose(voted.sum(axis=1), 1)
