"""A multinomial regression on several models' log-probabilities.

Shapes: M members, N samples, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from finefold.metrics.calibration import log_probs, softmax
from finefold.metrics.classification import FloatArray, IntArray, log_loss_N

PENALTIES = (0.01, 0.1, 1.0)  # per sample; the largest hardly leaves the geometric mean


@dataclass(frozen=True, eq=False)
class Stack:
    """logits = the geometric mean's, plus weights times the members' centred log-probabilities, plus offsets.

    Args:
        weights_MKK: for each member, from its class (first K) to the ensemble's (second K).
        offset_K: of each class.
        penalty: that the weights were held by.
    """

    weights_MKK: FloatArray
    offset_K: FloatArray
    penalty: float

    def apply(self, probs_MNK: FloatArray) -> FloatArray:
        """[M, N, K] members' probabilities -> [N, K], rows sum to 1."""
        logs_MNK = _centred(probs_MNK)
        return softmax(logs_MNK.mean(axis=0) + np.einsum("mnk,mkj->nj", logs_MNK, self.weights_MKK) + self.offset_K)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "weights": self.weights_MKK.tolist(),
            "offset": self.offset_K.tolist(),
            "penalty": self.penalty,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Stack":
        """What `to_dict` gave."""
        return cls(np.asarray(values["weights"]), np.asarray(values["offset"]), float(values["penalty"]))


def fit_stack(probs_MNK: FloatArray, labels_N: IntArray, folds_N: NDArray[Any]) -> Stack:
    """Fits a stack; its penalty is the one of least log loss over the folds that are given.

    Args:
        probs_MNK: members' probabilities of rows they did not see.
        labels_N: [N] true class codes.
        folds_N: [N]; of one fold alone, the strongest penalty is taken.

    References:
        Wolpert, Stacked generalization, Neural Networks 5, 1992. The regression is held at the geometric mean instead
        of at nothing, so that it falls back on that where the ledger is small.
    """
    folds = np.unique(folds_N)
    losses = []
    for penalty in PENALTIES if len(folds) > 1 else ():
        loss = 0.0
        for fold in folds:
            rows = folds_N != fold
            fitted = _fit(probs_MNK[:, rows], labels_N[rows], penalty)
            loss += float(log_loss_N(fitted.apply(probs_MNK[:, ~rows]), labels_N[~rows]).sum())
        losses.append(loss)
    penalty = PENALTIES[int(np.argmin(losses))] if losses else PENALTIES[-1]
    return _fit(probs_MNK, labels_N, penalty)


def _fit(probs_MNK: FloatArray, labels_N: IntArray, penalty: float) -> Stack:
    num_members, num_samples, num_classes = probs_MNK.shape
    logs_MNK = _centred(probs_MNK)
    mean_NK = logs_MNK.mean(axis=0)
    seen_ND = logs_MNK.transpose(1, 0, 2).reshape(num_samples, num_members * num_classes)
    truth_NK = np.eye(num_classes)[labels_N]
    size = num_members * num_classes * num_classes

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        weights_DK, offset_K = theta[:size].reshape(-1, num_classes), theta[size:]
        fitted_NK = softmax(mean_NK + seen_ND @ weights_DK + offset_K)
        error_NK = (fitted_NK - truth_NK) / num_samples
        value = log_loss_N(fitted_NK, labels_N).mean() + penalty * float(theta @ theta) / 2
        slope = np.concatenate([(seen_ND.T @ error_NK).ravel(), error_NK.sum(axis=0)])
        return float(value), slope + penalty * theta

    options = {"maxiter": 300, "ftol": 1e-12, "gtol": 1e-7}
    found = optimize.minimize(loss, np.zeros(size + num_classes), jac=True, method="L-BFGS-B", options=options)
    weights_MKK = found.x[:size].reshape(num_members, num_classes, num_classes)
    return Stack(weights_MKK, found.x[size:], penalty)


def _centred(probs_MNK: FloatArray) -> FloatArray:
    """Log-probabilities less their mean over the classes."""
    logs_MNK = log_probs(probs_MNK)
    return np.asarray(logs_MNK - logs_MNK.mean(axis=2, keepdims=True))
