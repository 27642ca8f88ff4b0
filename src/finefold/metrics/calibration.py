"""Are probabilities what they say? Measuring it, and mending it with few numbers fitted on the ledger.

A calibration is fitted on log-probabilities and keeps which class is likelier, or nearly so; it mends how sure
the model says it is. What `fit_*` gives is to be judged on rows it was not fitted on: see `metrics.nested`.

Shapes: N samples, K joint classes, C classes of an attribute, B bins, R resamples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from finefold.metrics.classification import SMALLEST_PROB, FloatArray, IntArray, divide
from finefold.metrics.intervals import RESAMPLES, Score, bootstrap_sums, group_codes, group_sums

BINS = 15
POWERS = (0.01, 100.0)  # powers of probabilities that a fit may choose: temperatures from 100 down to 0.01
PRIOR = 1.0  # of vector scaling: each scale and offset is believed to lie about 1 from doing nothing

Calibrate = Literal["none", "temperature", "vector", "per_attribute"]


@dataclass(frozen=True, eq=False)
class Calibration:
    """A map from probabilities to probabilities.

    log p' = scale_K log p + offset_K + the sum over attributes of (power - 1) log p(attribute), made to sum to 1.

    Args:
        method: what fitted it.
        scale_K: 1 / temperature, of each class.
        offset_K: added to each class.
        powers: attribute -> power of its marginal probabilities; 1 leaves it as it is.
        codes: attribute -> [K] its code in each joint class, for those in `powers`.
    """

    method: Calibrate
    scale_K: FloatArray
    offset_K: FloatArray
    powers: Mapping[str, float] = field(default_factory=dict)
    codes: Mapping[str, IntArray] = field(default_factory=dict)

    def apply(self, probs_NK: FloatArray) -> FloatArray:
        """[N, K] probabilities -> [N, K] calibrated ones, rows sum to 1."""
        if self.method == "none":
            return probs_NK
        logits_NK = self.scale_K * log_probs(probs_NK) + self.offset_K
        for name, power in self.powers.items():
            logits_NK = logits_NK + (power - 1) * _log_marginal(probs_NK, self.codes[name])
        return softmax(logits_NK)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "method": self.method,
            "scale": self.scale_K.tolist(),
            "offset": self.offset_K.tolist(),
            "powers": dict(self.powers),
            "codes": {name: codes_K.tolist() for name, codes_K in self.codes.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """What `to_dict` gave."""
        codes = {name: np.asarray(codes_K, np.int64) for name, codes_K in values["codes"].items()}
        return cls(values["method"], np.asarray(values["scale"]), np.asarray(values["offset"]), values["powers"], codes)


def no_calibration(num_classes: int) -> Calibration:
    """Leaves probabilities as they are."""
    return Calibration("none", np.ones(num_classes), np.zeros(num_classes))


def fit_temperature(probs_NK: FloatArray, labels_N: IntArray) -> Calibration:
    """One temperature for all classes, by least log loss.

    Args:
        probs_NK: of rows that the model did not see, rows sum to 1.
        labels_N: [N] true class codes.

    References:
        Guo, Pleiss, Sun, Weinberger, On calibration of modern neural networks, ICML 2017, section 4.2. Fitted on
        log-probabilities instead of logits, which differ by a constant per row.
    """
    logs_NK = log_probs(probs_NK)
    rows_N = np.arange(len(labels_N))

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        fitted_NK, value = _softmax_loss(theta[0] * logs_NK, labels_N)
        slope = (fitted_NK * logs_NK).sum() - logs_NK[rows_N, labels_N].sum()
        return value, np.asarray([slope])

    power = _minimise(loss, np.ones(1), [POWERS], len(labels_N))[0]
    num_classes = probs_NK.shape[1]
    return Calibration("temperature", np.full(num_classes, power), np.zeros(num_classes))


def fit_vector(probs_NK: FloatArray, labels_N: IntArray) -> Calibration:
    """A scale and an offset for every class, by least log loss and a prior that they do nothing.

    Args:
        probs_NK: of rows that the model did not see, rows sum to 1.
        labels_N: [N] true class codes.

    References:
        Guo et al. 2017, section 4.2. Departs from it by the prior, a normal distribution about doing nothing, which
        holds what a scarce class cannot tell; with many samples of every class it counts for nothing.
    """
    from scipy import optimize  # a third of a second, and evaluating needs none of it

    (num_samples, num_classes), logs_NK = probs_NK.shape, log_probs(probs_NK)
    truth_NK = np.eye(num_classes)[labels_N]

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        fitted_NK, value = _softmax_loss(theta[:num_classes] * logs_NK + theta[num_classes:], labels_N)
        error_NK, moved = fitted_NK - truth_NK, theta - start
        slope = np.concatenate([(error_NK * logs_NK).sum(axis=0), error_NK.sum(axis=0)]) + PRIOR * moved
        return (value + PRIOR * float(moved @ moved) / 2) / num_samples, slope / num_samples

    def curvature(theta: FloatArray) -> FloatArray:
        fitted_NK = softmax(theta[:num_classes] * logs_NK + theta[num_classes:])
        weighted_NK = fitted_NK * logs_NK
        both_N2K = np.concatenate([weighted_NK, fitted_NK], axis=1)
        across = np.diag(weighted_NK.sum(axis=0))
        own = np.block(
            [[np.diag((weighted_NK * logs_NK).sum(axis=0)), across], [across, np.diag(fitted_NK.sum(axis=0))]]
        )
        return np.asarray((own - both_N2K.T @ both_N2K + PRIOR * np.eye(2 * num_classes)) / num_samples)

    start = np.concatenate([np.ones(num_classes), np.zeros(num_classes)])
    # scales and offsets pull together, which first-order methods need hundreds of steps to undo
    found = optimize.minimize(
        loss, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-8, "maxiter": 100}
    )
    return Calibration("vector", found.x[:num_classes], found.x[num_classes:])


def fit_per_attribute(probs_NK: FloatArray, labels_N: IntArray, codes: Mapping[str, IntArray]) -> Calibration:
    """A temperature for every attribute, by least log loss of the joint class.

    An attribute's marginal probabilities are raised to a power, and the joint ones multiplied by how that changed
    them. Where attributes are independent given the image, this is a temperature for each of their heads.

    Args:
        probs_NK: of rows that the model did not see, rows sum to 1.
        labels_N: [N] true class codes.
        codes: attribute -> [K] its code in each joint class.
    """
    logs_NK, rows_N = log_probs(probs_NK), np.arange(len(labels_N))
    marginals_ANK = np.stack([_log_marginal(probs_NK, codes_K) for codes_K in codes.values()])
    true_A = marginals_ANK[:, rows_N, labels_N].sum(axis=1)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        fitted_NK, value = _softmax_loss(logs_NK + np.tensordot(theta - 1, marginals_ANK, 1), labels_N)
        return value, np.tensordot(marginals_ANK, fitted_NK, 2) - true_A

    theta = _minimise(loss, np.ones(len(codes)), [POWERS] * len(codes), len(labels_N))
    num_classes = probs_NK.shape[1]
    powers = dict(zip(codes, theta.tolist(), strict=True))
    return Calibration("per_attribute", np.ones(num_classes), np.zeros(num_classes), powers, dict(codes))


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often answers of a confidence are right; equal-width bins of the likeliest class's probability.

    Args:
        confidence_B: mean confidence; NaN in an empty bin.
        accuracy_B: share of right answers; NaN in an empty bin.
        counts_B: samples.
    """

    confidence_B: FloatArray
    accuracy_B: FloatArray
    counts_B: IntArray


def reliability_curve(probs_NK: FloatArray, labels_N: IntArray, *, bins: int = BINS) -> Reliability:
    """The reliability curve of the likeliest class."""
    confidence_N, hits_N = probs_NK.max(axis=1), probs_NK.argmax(axis=1) == labels_N
    bins_N = _bins(confidence_N, bins)
    counts_B = np.bincount(bins_N, minlength=bins)
    return Reliability(
        divide(np.bincount(bins_N, confidence_N, bins), counts_B),
        divide(np.bincount(bins_N, hits_N, bins), counts_B),
        counts_B,
    )


def calibration_scores(
    probs_NK: FloatArray,
    labels_N: IntArray,
    groups_N: NDArray[Any],
    *,
    bins: int = BINS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Score]:
    """How far probabilities are from what they say, with intervals over groups; less is better.

    * `ece`: mean distance of confidence and accuracy over bins of the likeliest class's probability.
    * `classwise_ece`: the same over bins of every class's probability against how often it is the true one, mean
      over the classes.
    * `brier`: mean squared distance of probabilities and truth, summed over the classes: 0 to 2.

    Both calibration errors are above 0 even for perfect probabilities, the more so the fewer samples.

    Args:
        probs_NK: rows sum to 1.
        labels_N: [N] true class codes.
        groups_N: [N] the group of each sample.
        bins: of equal width.
        resamples: of groups.
        seed: of the draws.

    References:
        Guo et al. 2017, eq. 3; Nixon et al., Measuring calibration in deep learning, 2019 (static calibration error).
    """
    num_samples, num_classes = probs_NK.shape
    truth_NK = np.eye(num_classes)[labels_N]
    top = _gaps(probs_NK.max(axis=1)[:, None], (probs_NK.argmax(axis=1) == labels_N)[:, None].astype(float), bins)
    every = _gaps(probs_NK, truth_NK, bins)
    brier_N1 = sparse.csr_array(((probs_NK - truth_NK) ** 2).sum(axis=1)[:, None])
    columns = sparse.hstack([top, every, brier_N1, sparse.csr_array(np.ones((num_samples, 1)))], format="csr")
    sums_GC = group_sums(columns, *group_codes(groups_N))
    sums_RC = bootstrap_sums(sums_GC, resamples=resamples, seed=seed)
    whole_1C = np.asarray(columns.sum(axis=0)).reshape(1, -1)

    def scored(sums_RC: FloatArray) -> dict[str, FloatArray]:
        num_R = sums_RC[:, -1]
        gaps_RC = np.abs(sums_RC[:, :-2])
        return {
            "ece": gaps_RC[:, :bins].sum(axis=1) / num_R,
            "classwise_ece": gaps_RC[:, bins:].sum(axis=1) / num_R / num_classes,
            "brier": sums_RC[:, -2] / num_R,
        }

    values, drawn = scored(whole_1C), scored(sums_RC)
    return {name: Score.from_resamples(float(values[name][0]), drawn[name], num_samples) for name in values}


def log_probs(probs_NK: FloatArray) -> FloatArray:
    """Logarithms; probabilities are raised to at least 2.2e-16, as for log loss."""
    logs_NK: FloatArray = np.log(np.maximum(probs_NK, SMALLEST_PROB))
    return logs_NK


def softmax(logits_NK: FloatArray) -> FloatArray:
    """Rows that sum to 1."""
    exps_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return np.asarray(exps_NK / exps_NK.sum(axis=1, keepdims=True))


def _gaps(said_NC: FloatArray, true_NC: FloatArray, bins: int) -> Any:
    """[N, C * bins] sparse: what was said less what is true, in the column of its class and bin."""
    num_samples, num_columns = said_NC.shape
    places = (_bins(said_NC, bins) + np.arange(num_columns) * bins).ravel()
    rows = np.repeat(np.arange(num_samples), num_columns)
    return sparse.csr_array(((said_NC - true_NC).ravel(), (rows, places)), shape=(num_samples, num_columns * bins))


def _bins(probs: FloatArray, bins: int) -> IntArray:
    return np.minimum((probs * bins).astype(np.int64), bins - 1)


def _log_marginal(probs_NK: FloatArray, codes_K: IntArray) -> FloatArray:
    """[N, K]: log of the attribute's marginal probability, at each joint class."""
    membership_KC = np.eye(int(codes_K.max()) + 1)[codes_K]
    return log_probs(probs_NK @ membership_KC)[:, codes_K]


def _softmax_loss(logits_NK: FloatArray, labels_N: IntArray) -> tuple[FloatArray, float]:
    """Probabilities, and the summed log loss."""
    shifted_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
    exps_NK = np.exp(shifted_NK)
    sums_N1 = exps_NK.sum(axis=1, keepdims=True)
    true_N = shifted_NK[np.arange(len(labels_N)), labels_N]
    return exps_NK / sums_N1, float(np.log(sums_N1).sum() - true_N.sum())


def _minimise(
    loss: Callable[[FloatArray], tuple[float, FloatArray]], start: FloatArray, bounds: Any, num_samples: int
) -> FloatArray:
    """Where a convex summed loss is least."""
    from scipy import optimize  # a third of a second, and evaluating needs none of it

    def mean(theta: FloatArray) -> tuple[float, FloatArray]:
        value, slope = loss(theta)
        return value / num_samples, slope / num_samples

    options = {"maxiter": 500, "ftol": 1e-14, "gtol": 1e-8}
    found = optimize.minimize(mean, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(found.x, np.float64)
