"""Confident learning: which labels a model, asked out of fold, confidently contradicts.

Written out here because the library that made it known needs scikit-learn and pandas; tests compare with it.

Shapes: N samples, C classes.

References:
    Northcutt, Jiang, Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70, 2021.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

_LEAST_THRESHOLD = 1e-6
_TINY = 1e-12

Floats = NDArray[np.float64]


def confident_thresholds(labels_N: NDArray[np.int64], probs_NC: Floats) -> Floats:
    """[C] the mean probability of each class among samples labelled so; 2, which none reaches, where there are none."""
    num_classes = probs_NC.shape[1]
    sums_C = np.bincount(labels_N, probs_NC[np.arange(len(labels_N)), labels_N], num_classes)
    counts_C = np.bincount(labels_N, minlength=num_classes)
    return np.where(counts_C > 0, np.maximum(sums_C / np.maximum(counts_C, 1), _LEAST_THRESHOLD), 2.0)


def confident_classes(labels_N: NDArray[np.int64], probs_NC: Floats) -> NDArray[np.int64]:
    """[N] the class each sample confidently is, by the thresholds; -1 where there is none."""
    is_confident_NC = probs_NC >= confident_thresholds(labels_N, probs_NC) - 1e-6
    best_N = np.where(is_confident_NC, probs_NC, -1).argmax(axis=1)
    # with several confident classes the most probable class counts, as in the paper's reference implementation
    best_N = np.where(is_confident_NC.sum(axis=1) > 1, probs_NC.argmax(axis=1), best_N)
    return np.where(is_confident_NC.any(axis=1), best_N, -1)


def confident_joint(labels_N: NDArray[np.int64], probs_NC: Floats) -> NDArray[np.int64]:
    """[C, C] samples by given label (rows) and the class that they confidently are."""
    num_classes = probs_NC.shape[1]
    confident_N = confident_classes(labels_N, probs_NC)
    sure = confident_N >= 0
    cells = labels_N[sure] * num_classes + confident_N[sure]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def noise_share(labels_N: NDArray[np.int64], probs_NC: Floats) -> float:
    """The share of labels estimated to be wrong: off the diagonal of the joint, scaled to the given labels' counts."""
    joint_CC = confident_joint(labels_N, probs_NC).astype(np.float64)
    given_C = np.bincount(labels_N, minlength=probs_NC.shape[1])
    rows_C = joint_CC.sum(axis=1)
    scaled_CC = joint_CC * np.where(rows_C > 0, given_C / np.maximum(rows_C, 1), 0)[:, None]
    scaled_CC[rows_C == 0, rows_C == 0] = given_C[rows_C == 0]
    return float(1 - np.trace(scaled_CC) / max(1, given_C.sum()))


def agreement(labels_N: NDArray[np.int64], probs_NC: Floats) -> float:
    """Cohen's kappa of the given labels and the most probable classes: 1 agrees in all, 0 as often as by chance.

    References:
        Cohen, A Coefficient of Agreement for Nominal Scales, Educational and Psychological Measurement 20, 1960.
    """
    num_classes, said_N = probs_NC.shape[1], probs_NC.argmax(axis=1)
    given_C, said_C = (np.bincount(codes, minlength=num_classes) / len(labels_N) for codes in (labels_N, said_N))
    by_chance = float(given_C @ said_C)
    return (float((said_N == labels_N).mean()) - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0


def suspects(labels_N: NDArray[np.int64], probs_NC: Floats) -> NDArray[np.int64]:
    """Numbers of the samples off the confident joint's diagonal, the most contradicted first."""
    confident_N = confident_classes(labels_N, probs_NC)
    rows = np.flatnonzero((confident_N >= 0) & (confident_N != labels_N) & (probs_NC.argmax(axis=1) != labels_N))
    return rows[np.argsort(margins(labels_N, probs_NC)[rows], kind="stable")]


def margins(labels_N: NDArray[np.int64], probs_NC: Floats) -> Floats:
    """[N] log odds of the given label against the most probable other one."""
    logs_NC = np.log(np.maximum(probs_NC, _TINY))
    rows = np.arange(len(labels_N))
    given_N = logs_NC[rows, labels_N].copy()
    logs_NC[rows, labels_N] = -np.inf
    return np.asarray(given_N - logs_NC.max(axis=1))


def group_vote(probs_NC: Floats, groups_N: NDArray[np.int64], labels_G: NDArray[np.int64]) -> Floats:
    """[G, C] probabilities of whole groups whose samples share one label: their log probabilities, summed.

    Photos of one person are no independent witnesses. How sharp the sum may be is one number, fitted to the given
    labels by their likelihood.

    Args:
        probs_NC: of the samples.
        groups_N: codes 0..G-1, none empty.
        labels_G: given labels of the groups, -1 where there is none.
    """
    logs_NC = np.log(np.maximum(probs_NC, _TINY))
    sums_GC = np.stack([np.bincount(groups_N, column, len(labels_G)) for column in logs_NC.T], axis=1)
    rows = np.flatnonzero(labels_G >= 0)

    def loss(log_sharpness: float) -> float:
        sharp_GC = _softmax(np.exp(log_sharpness) * sums_GC[rows])
        return float(-np.log(np.maximum(sharp_GC[np.arange(len(rows)), labels_G[rows]], _TINY)).sum())

    best = minimize_scalar(loss, bounds=(-5, 2), method="bounded").x
    return _softmax(np.exp(best) * sums_GC)


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
