"""How much labels have to do with features: a linear probe in closed form, so cheap that hundreds can be tried.

Ridge regression of the classes' indicators on the first principal components, out of fold; its scores become
probabilities by one temperature. Everything of it but a small product depends on the features alone.

Shapes: N rows, R components, C classes, F folds.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

COMPONENTS = 256
STRENGTH = 1.0  # of the ridge, in mean variances of a feature; see the benchmark
POWER = 0.5  # of features, as in recipes
TINY = 1e-9
MOST_HEAT = 1000.0


@dataclass(frozen=True)
class Belief:
    """What the probe says of every row, by heads that did not see it.

    Args:
        gain_NC: log p(class | image) - log share of the class, in nats: what the image adds.
        accuracy: share of rows whose most probable class is their label.
        information: mean gain of the labels, in nats; about 0 where images say nothing of labels.
    """

    gain_NC: NDArray[np.float32]
    accuracy: float
    information: float


class ClosedProbe:
    """The part of the probe that no label changes.

    Args:
        features_ND: any float type.
        folds_N: which fold holds each row out, 0..F-1.
    """

    def __init__(self, features_ND: NDArray[Any], folds_N: NDArray[np.int64]) -> None:
        self._prepare(*_components(features_ND), folds_N)

    def with_folds(self, folds_N: NDArray[np.int64], rows: NDArray[np.int64] | None = None) -> "ClosedProbe":
        """The same components of all rows, or of some, under other folds."""
        other = ClosedProbe.__new__(ClosedProbe)
        kept_NR = self.components_NR if rows is None else self.components_NR[rows]
        other._prepare(kept_NR, self.mean_variance, folds_N)
        return other

    def _prepare(self, components_NR: NDArray[np.float32], mean_variance: float, folds_N: NDArray[np.int64]) -> None:
        self.components_NR, self.mean_variance = components_NR, mean_variance
        self.num_rows = len(folds_N)
        self._rows_F = [np.flatnonzero(folds_N == fold) for fold in np.unique(folds_N)]
        self._blocks_F = [np.ascontiguousarray(self.components_NR[rows]) for rows in self._rows_F]
        whole_RR = self._fit(self._blocks_F)
        spread_R = np.diag(whole_RR)[:-1]
        scale_R = 1 / np.sqrt(spread_R + STRENGTH * mean_variance * self.num_rows)
        self.white_RN = (
            self.components_NR[:, :-1] * scale_R
        ).T  # the sum of squares of its products: what ridge explains

    def _fit(self, fitted_F: list[NDArray[np.float32]], num_out: int = 0) -> NDArray[np.float32]:
        """Inverses of every fold's training rows; the sum of products of all rows.

        Args:
            fitted_F: each fold's block, zero in rows that are not to be learned from.
            num_out: how many of all these are.
        """
        self._fitted_F = fitted_F
        grams_FRR = [block.T @ block for block in fitted_F]
        whole_RR = np.asarray(np.sum(grams_FRR, axis=0), np.float32)
        self._inverses_FRR = []
        for block, gram_RR in zip(fitted_F, grams_FRR, strict=True):
            num_fitted = self.num_rows - num_out - int(block[:, -1].sum())  # the last column is ones
            ridge_R = np.full(len(whole_RR), STRENGTH * self.mean_variance * num_fitted)
            ridge_R[-1] = 1e-6  # the intercept is free
            self._inverses_FRR.append(np.linalg.inv(whole_RR - gram_RR + np.diag(ridge_R)).astype(np.float32))
        return whole_RR

    def blind_to(self, is_out_N: NDArray[np.bool_]) -> "ClosedProbe":
        """The same probe that learns nothing of some rows, not even that they are there, but is asked about them."""
        other = copy(self)
        blocks = zip(self._blocks_F, self._rows_F, strict=True)
        other._fit([block * ~is_out_N[rows, None] for block, rows in blocks], int(is_out_N.sum()))
        return other

    def reordered(self, order_N: NDArray[np.int64]) -> "ClosedProbe":
        """The same probe of the same rows in another order: row i is what `order_N[i]` was."""
        other = copy(self)
        place_N = np.empty_like(order_N)
        place_N[order_N] = np.arange(len(order_N))
        other.components_NR = self.components_NR[order_N]
        other.white_RN = self.white_RN[:, order_N]
        other._rows_F = [place_N[rows] for rows in self._rows_F]
        return other

    def scores(self, targets_NC: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, C] regression of any targets, every row by the fit that did not see it."""
        products = [block.T @ targets_NC[rows] for block, rows in zip(self._fitted_F, self._rows_F, strict=True)]
        whole_RC = np.sum(products, axis=0)
        found_NC = np.empty_like(targets_NC)
        for rows, block, product, inverse in zip(
            self._rows_F, self._blocks_F, products, self._inverses_FRR, strict=True
        ):
            found_NC[rows] = block @ (inverse @ (whole_RC - product))
        return found_NC

    def believe(self, labels_N: NDArray[np.int64], num_classes: int) -> Belief:
        """What the probe fitted to these labels says of every row.

        Args:
            labels_N: codes in [0, C); -1 for a row that is not fitted to, and about which it is asked all the same.
            num_classes: C.
        """
        known = np.flatnonzero(labels_N >= 0)
        targets_NC = np.zeros((self.num_rows, num_classes), np.float32)
        targets_NC[known, labels_N[known]] = 1
        share_C = targets_NC[known].mean(axis=0) if len(known) else np.full(num_classes, 1 / num_classes)
        targets_NC[labels_N < 0] = share_C
        return belief_of(self.scores(targets_NC), share_C, labels_N)

    def permuted(
        self, labels_N: NDArray[np.int64], num_classes: int, *, times: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """[times, 2] information and accuracy of the labels in random orders."""
        found = [self.believe(rng.permutation(labels_N), num_classes) for _ in range(times)]
        return np.array([(one.information, one.accuracy) for one in found])


def belief_of(scores_NC: NDArray[np.float32], share_C: NDArray[np.floating], labels_N: NDArray[np.int64]) -> Belief:
    """Regression scores as probabilities: one temperature, chosen so that the labels are most probable.

    Args:
        scores_NC: of each class's indicator.
        share_C: of each class.
        labels_N: codes; -1 for rows that have no say.
    """
    prior_C = np.log(np.maximum(share_C, TINY)).astype(np.float32)
    lift_NC = ((scores_NC - share_C) / np.sqrt(share_C + 1e-3)).astype(np.float32)
    known = np.flatnonzero(labels_N >= 0)
    heat = _temperature(lift_NC[known], prior_C, float(lift_NC[known, labels_N[known]].sum()))
    logits_NC = heat * lift_NC + prior_C
    gain_NC = logits_NC - _log_sum(logits_NC)[:, None] - prior_C
    right = logits_NC[known].argmax(axis=1) == labels_N[known]
    information = float(gain_NC[known, labels_N[known]].mean()) if len(known) else 0.0
    return Belief(gain_NC, float(right.mean()) if len(known) else 0.0, information)


def gain_of_targets(scores_NC: NDArray[np.float32], targets_NC: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, C] the gain, as in `Belief`, of scores that were fitted to shares of classes instead of labels.

    Args:
        scores_NC: of the targets.
        targets_NC: rows sum to 1.
    """
    share_C = targets_NC.mean(axis=0)
    prior_C = np.log(np.maximum(share_C, TINY)).astype(np.float32)
    lift_NC = ((scores_NC - share_C) / np.sqrt(share_C + 1e-3)).astype(np.float32)
    logits_NC = _temperature(lift_NC, prior_C, float((targets_NC * lift_NC).sum())) * lift_NC + prior_C
    return np.asarray(logits_NC - _log_sum(logits_NC)[:, None] - prior_C, np.float32)


def _temperature(lift_NC: NDArray[np.float32], prior_C: NDArray[np.float32], picked: float) -> float:
    """The factor at which the labels are most probable, by Newton's method; 0 where the scores say nothing of them.

    Args:
        lift_NC: scores.
        prior_C: log shares of the classes.
        picked: sum of the labels' scores.
    """
    heat, low, high = 4.0, 0.0, MOST_HEAT
    if picked <= float((np.exp(prior_C) * lift_NC).sum()):
        return 0.0
    for _ in range(30):
        logits_NC = heat * lift_NC + prior_C
        probs_NC = np.exp(logits_NC - _log_sum(logits_NC)[:, None])
        mean_N = (probs_NC * lift_NC).sum(axis=1)
        slope = picked - float(mean_N.sum())
        bend = float((probs_NC * lift_NC**2).sum() - (mean_N**2).sum())
        low, high = (heat, high) if slope > 0 else (low, heat)
        step = heat + slope / max(bend, TINY)
        after = step if low < step < high else (low + high) / 2
        if abs(after - heat) < 1e-3 * heat:
            return after
        heat = after
    return heat


def _log_sum(logits_NC: NDArray[np.float32]) -> NDArray[np.float32]:
    most_N = logits_NC.max(axis=1)
    return np.asarray(most_N + np.log(np.exp(logits_NC - most_N[:, None]).sum(axis=1)), np.float32)


def _components(features_ND: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """[N, R + 1] principal components of standardised features and a column of ones; the mean variance of a feature."""
    plain_ND = features_ND.astype(np.float32)
    raised_ND = np.sign(plain_ND) * np.abs(plain_ND) ** POWER
    raised_ND -= raised_ND.mean(axis=0)
    variance_D = raised_ND.var(axis=0)
    raised_ND /= np.sqrt(variance_D + 1e-3 * variance_D.mean() + TINY)
    count, width = raised_ND.shape
    mean_variance = float(raised_ND.var(axis=0).mean()) or 1.0
    if count < width:  # the same axes from the smaller of the two products
        spread, vectors = np.linalg.eigh(raised_ND @ raised_ND.T)
        kept = max(1, min(COMPONENTS, count - 1))
        found_NR = vectors[:, ::-1][:, :kept] * np.sqrt(np.maximum(spread[::-1][:kept], 0))
    else:
        _, vectors = np.linalg.eigh(raised_ND.T @ raised_ND)
        found_NR = raised_ND @ vectors[:, ::-1][:, :COMPONENTS]
    ones_N1 = np.ones((count, 1), np.float32)
    return np.concatenate([found_NR.astype(np.float32), ones_N1], axis=1), mean_variance
