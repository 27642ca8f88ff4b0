"""Multinomial heads for all folds and all regularisation strengths, fitted together.

For fold f and strength s, on the rows of the other folds,

    minimise  sum_n loss(y_n, W'z_n + b) + s/2 |W|^2        (the intercept b is free)

where z are features (raised to a power) standardised with the mean and deviation of those rows:
scikit-learn's LogisticRegression(C=1/s) on StandardScaler's output. All F x S problems share the features, so one
matrix product serves them all: standardisation is folded into the weights, z'W = x'(W/d) - m'(W/d).

Shapes: N rows, D features, C classes, F folds, S strengths, P = F x S problems (folds slowest).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finefold.data.cachedir import cache_root
from finefold.data.tables import zero_rows
from finefold.metrics.pseudo import FoldLabels, check_matched
from finefold.nn.devices import set_threads
from finefold.nn.heads import LinearHead, raise_features
from finefold.nn.lbfgs import minimise

ROUGH = 3e-4  # nats per row that all problems may be above their minimum, to choose a strength
FINE = 1e-6  # and the chosen ones, of which predictions are made
ROWS_AT_ONCE = 16_384  # bounds memory: logits of all problems for so many rows at a time

Progress = Callable[[str, int], None]


@dataclass(frozen=True, eq=False)
class Extra:
    """Rows without a label of their own, which every fold trains on with the labels that its own model gave them.

    Args:
        features_UD: any float type.
        labels: [F] one for each fold.
    """

    features_UD: NDArray[Any]
    labels: tuple[FoldLabels, ...]

    def under(self, codes_K: NDArray[np.int64], num_classes: int) -> "Extra":
        """The same rows under one attribute's classes, whose code in each joint class is given."""
        return replace(self, labels=tuple(one.under(codes_K, num_classes) for one in self.labels))


@dataclass(frozen=True)
class Probe:
    """What fitting gave.

    Args:
        heads: [F], each with the strength chosen for its fold.
        probs_NC: out-of-fold probabilities.
        strengths_F: the strength chosen for each fold.
        losses_FS: mean log loss of each fold's own rows of known class under each strength; 0 where it has none.
    """

    heads: tuple[LinearHead, ...]
    probs_NC: NDArray[np.float64]
    strengths_F: tuple[float, ...]
    losses_FS: NDArray[np.float64]


def fit_probe(
    features_ND: NDArray[Any],
    labels_N: NDArray[np.int64],
    train_labels_N: NDArray[np.int64],
    folds_N: NDArray[np.int64],
    *,
    num_classes: int,
    strengths: Sequence[float],
    power: float = 1.0,
    floor: float = 0.0,
    max_steps: int = 200,
    extra: Extra | None = None,
    advance: Progress = lambda _stage, _step: None,
) -> Probe:
    """Heads for every fold, each with the strength that serves the other folds best.

    The strength of fold k is the one with the least log loss on the rows of the folds other than k, each
    predicted by the head that did not see it: no row's own loss has a say in the strength it is scored with,
    though it helped to train the other folds' heads.

    Args:
        features_ND: any float type.
        labels_N: codes in [0, C) that losses are measured against, -1 where that is not known.
        train_labels_N: codes that training sees, -1 to leave a row out of training.
        folds_N: which fold holds each row out, 0..F-1.
        num_classes: C.
        strengths: candidates, each > 0.
        power: of every feature, see `heads.raise_features`.
        floor: share of the features' mean variance added to each one's before standardising. Above 0, features that
            hardly vary get no large weights, which training on would blow up as soon as they vary more.
        max_steps: of the optimiser.
        extra: rows that train besides; they have no say in how features are standardised, nor in the strength.
        advance: told (which of two stages, step).

    Raises:
        ValueError: a fold would train on another fold's labels.
        CacheError: there are so many rows that they lie in a file, and the cache's folder cannot be written.
    """
    set_threads()
    num_folds, num_strengths = int(folds_N.max()) + 1, len(strengths)
    held_ND = zero_rows(features_ND.shape, np.float32, folder=cache_root())
    raised_ND = raise_features(features_ND, power, out=held_ND)
    problems = _Problems(raised_ND, train_labels_N, folds_N, num_classes, num_folds, tuple(strengths), floor)
    if extra is not None:
        check_matched(extra.labels, num_folds)
        problems.add(raise_features(extra.features_UD, power), extra.labels)
    everything_P = torch.arange(num_folds * num_strengths)
    fit = partial(minimise, problems.loss_and_gradient, precondition=problems.precondition, max_steps=max_steps)
    start_PX = torch.zeros(len(everything_P), (problems.num_features + 1) * num_classes)
    rough_PX = fit(start_PX, everything_P, tolerance=ROUGH, advance=lambda step: advance("all strengths", step))
    probs_SNC = _out_of_fold(problems.to_heads(rough_PX), raised_ND, folds_N)
    is_known_N = labels_N >= 0
    losses_FS = _fold_losses(probs_SNC[:, is_known_N], labels_N[is_known_N], folds_N[is_known_N], num_folds)
    best_F = _best_for_other_folds(losses_FS, np.bincount(folds_N[is_known_N], minlength=num_folds))
    chosen_F = torch.from_numpy(best_F) + torch.arange(num_folds) * num_strengths
    fine_FX = fit(rough_PX[chosen_F], chosen_F, tolerance=FINE, advance=lambda step: advance("chosen strengths", step))
    heads = problems.to_heads(fine_FX, chosen_F)
    return Probe(
        tuple(replace(head, power=power) for (head,) in heads),
        _out_of_fold(heads, raised_ND, folds_N)[0],
        tuple(float(strengths[best]) for best in best_F),
        losses_FS,
    )


def _best_for_other_folds(losses_FS: NDArray[np.float64], rows_F: NDArray[np.int64]) -> NDArray[np.int64]:
    """[F]: for each fold, the strength with the least loss over the rows of all other folds."""
    sums_FS = losses_FS * rows_F[:, None]
    return np.asarray((sums_FS.sum(axis=0) - sums_FS).argmin(axis=1))


def _out_of_fold(
    heads_FS: list[list[LinearHead]], features_ND: NDArray[Any], folds_N: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[S, N, C]: every row by its own fold's head, for each strength."""
    num_classes = len(heads_FS[0][0].bias_C)
    probs_SNC = np.empty((len(heads_FS[0]), len(folds_N), num_classes))
    for fold, heads_S in enumerate(heads_FS):
        held = np.flatnonzero(folds_N == fold)
        for start in range(0, len(held), ROWS_AT_ONCE):
            part = held[start : start + ROWS_AT_ONCE]
            for number, head in enumerate(heads_S):
                probs_SNC[number, part] = head.probs(features_ND[part])
    return probs_SNC


def _fold_losses(
    probs_SNC: NDArray[np.float64], labels_N: NDArray[np.int64], folds_N: NDArray[np.int64], num_folds: int
) -> NDArray[np.float64]:
    """[F, S] mean log loss of each fold's rows."""
    losses_SN = -np.log(np.maximum(probs_SNC[:, np.arange(len(labels_N)), labels_N], 1e-15))
    by_fold = [losses_SN[:, folds_N == fold] for fold in range(num_folds)]
    return np.stack([of_SN.mean(axis=1) if of_SN.size else np.zeros(len(of_SN)) for of_SN in by_fold])


class _Problems:
    """All F x S problems over the same features."""

    def __init__(
        self,
        features_ND: NDArray[Any],
        train_labels_N: NDArray[np.int64],
        folds_N: NDArray[np.int64],
        num_classes: int,
        num_folds: int,
        strengths: tuple[float, ...],
        floor: float,
    ) -> None:
        self.features_ND = torch.from_numpy(np.ascontiguousarray(features_ND))
        self.num_features = features_ND.shape[1]
        self.num_classes = num_classes
        self.labels_N = torch.from_numpy(train_labels_N)
        is_trained_FN = (np.arange(num_folds)[:, None] != folds_N) & (train_labels_N >= 0)
        self.num_rows_F = torch.from_numpy(is_trained_FN.sum(axis=1))
        self.is_trained_FN = torch.from_numpy(is_trained_FN)
        self.mean_FD, self.scale_FD = self._standardisation(is_trained_FN, floor)
        self.strength_P = torch.tensor(strengths, dtype=torch.float32).repeat(num_folds)
        self.fold_P = torch.arange(num_folds).repeat_interleave(len(strengths))
        self.axes_DD, self.spread_D = self._principal_axes()
        counts_C = torch.bincount(self.labels_N[self.labels_N >= 0], minlength=num_classes).float()
        share_C = (counts_C + 1) / (counts_C.sum() + num_classes)
        self.curvature_C = share_C * (1 - share_C)
        self.extra_F: list[tuple[Tensor, Tensor, float]] = []

    def add(self, features_UD: NDArray[Any], labels: Sequence[FoldLabels]) -> None:
        """Rows that each fold trains on besides, with soft labels and a weight."""
        for one in labels:
            rows_MD = torch.from_numpy(np.ascontiguousarray(features_UD[one.rows_M]))
            self.extra_F.append((rows_MD, torch.from_numpy(one.targets_MC).float(), one.weight))
        self.num_rows_F = self.num_rows_F + torch.tensor([one.weight * len(one) for one in labels])

    def _standardisation(self, is_trained_FN: NDArray[np.bool_], floor: float) -> tuple[Tensor, Tensor]:
        """Mean and 1/deviation of each fold's training rows, in float64 over blocks of rows."""
        folds, width = is_trained_FN.shape[0], self.num_features
        count_F1 = torch.from_numpy(is_trained_FN.sum(axis=1, keepdims=True)).double()
        mean_FD = torch.zeros(folds, width, dtype=torch.float64)
        square_FD = torch.zeros(folds, width, dtype=torch.float64)
        for rows in self._blocks():
            block_BD, member_FB = self.features_ND[rows].double(), self.is_trained_FN[:, rows].double()
            mean_FD += member_FB @ block_BD
            square_FD += member_FB @ block_BD.square()
        mean_FD /= count_F1
        variance_FD = (square_FD / count_F1 - mean_FD.square()).clamp_min(0)
        variance_FD += floor * variance_FD.mean(dim=1, keepdim=True)
        constant = variance_FD <= 1e-10 * mean_FD.square() + 1e-12
        scale_FD = torch.where(constant, torch.ones_like(variance_FD), variance_FD).rsqrt()
        return mean_FD.float(), scale_FD.float()

    def _principal_axes(self) -> tuple[Tensor, Tensor]:
        """Axes [D, D] (columns) and variances [D] of all rows' standardised features."""
        mean_D, scale_D = self.mean_FD.mean(dim=0), self.scale_FD.mean(dim=0)
        gram_DD = torch.zeros(self.num_features, self.num_features)
        for rows in self._blocks():
            block_BD = (self.features_ND[rows].float() - mean_D) * scale_D
            gram_DD += block_BD.T @ block_BD
        spread_D, axes_DD = torch.linalg.eigh(gram_DD / len(self.features_ND))
        return axes_DD, spread_D.clamp_min(0)

    def precondition(self, vectors_QX: Tensor, problems_Q: Tensor) -> Tensor:
        """Divides by the Hessian as it is where every row is predicted with the classes' shares.

        There it is, for class c, share_c (1 - share_c) Cov(z) + s/n, which is diagonal along the features'
        principal axes. It costs two more products per step and saves most of the steps.
        """
        shaped = vectors_QX.view(len(problems_Q), self.num_features + 1, self.num_classes)
        flat_DX = shaped[:, :-1].permute(1, 0, 2).reshape(self.num_features, -1)  # one product, not one per problem
        along_DQC = (self.axes_DD.T @ flat_DX).view(self.num_features, -1, self.num_classes)
        ridge_Q = self.strength_P[problems_Q] / self.num_rows_F[self.fold_P[problems_Q]]
        along_DQC /= (self.spread_D[:, None] * self.curvature_C)[:, None, :] + ridge_Q[:, None]
        back_DQC = (self.axes_DD @ along_DQC.view_as(flat_DX)).view_as(along_DQC)
        intercept_QC = shaped[:, -1] / self.curvature_C
        return torch.cat([back_DQC.permute(1, 0, 2), intercept_QC[:, None]], dim=1).view_as(vectors_QX)

    def _blocks(self) -> list[slice]:
        return [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(self.features_ND), ROWS_AT_ONCE)]

    def _unfold(self, weights_QX: Tensor, problems_Q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights on standardised features [Q, D, C], the same on plain features, and the plain intercept [Q, C]."""
        shaped = weights_QX.view(-1, self.num_features + 1, self.num_classes)
        weight_QDC, bias_QC = shaped[:, :-1], shaped[:, -1]
        folds_Q = self.fold_P[problems_Q]
        plain_QDC = weight_QDC * self.scale_FD[folds_Q, :, None]
        return weight_QDC, plain_QDC, bias_QC - (self.mean_FD[folds_Q, :, None] * plain_QDC).sum(dim=1)

    def loss_and_gradient(self, weights_QX: Tensor, problems_Q: Tensor) -> tuple[Tensor, Tensor]:
        """Loss per training row [Q] and its gradient [Q, X] for some of the problems.

        Args:
            weights_QX: parameters of these problems.
            problems_Q: their numbers in 0..P-1.
        """
        weight_QDC, plain_QDC, plain_bias_QC = self._unfold(weights_QX, problems_Q)
        folds_Q, count = self.fold_P[problems_Q], len(problems_Q)
        flat_DX = plain_QDC.permute(1, 0, 2).reshape(self.num_features, -1)
        loss_Q = torch.zeros(count, dtype=torch.float64)
        gradient_DX, residual_QC = torch.zeros_like(flat_DX), torch.zeros(count, self.num_classes)
        for rows in self._blocks():
            block_BD, member_BQ = self.features_ND[rows].float(), self.is_trained_FN[:, rows][folds_Q].T.float()
            labels_B = self.labels_N[rows].clamp_min(0)
            logits_BQC = (block_BD @ flat_DX).view(-1, count, self.num_classes) + plain_bias_QC
            log_probs_BQC = logits_BQC.log_softmax(dim=2)
            picked = labels_B[:, None, None].expand(-1, count, 1)
            loss_Q -= (log_probs_BQC.gather(2, picked).squeeze(2) * member_BQ).sum(dim=0).double()
            residual_BQC = log_probs_BQC.exp_().scatter_add_(
                2, picked, torch.full_like(picked, -1.0, dtype=torch.float32)
            )
            residual_BQC *= member_BQ[:, :, None]
            gradient_DX += block_BD.T @ residual_BQC.view(len(block_BD), -1)
            residual_QC += residual_BQC.sum(dim=0)
        for fold, extra in enumerate(self.extra_F):
            places_q = (folds_Q == fold).nonzero().flatten()
            if not len(places_q):  # its problems have converged
                continue
            loss_q, slope_DqC, residual_qC = _extra_loss(extra, plain_QDC[places_q], plain_bias_QC[places_q])
            loss_Q[places_q] += loss_q
            gradient_DX.view(self.num_features, count, -1)[:, places_q] += slope_DqC
            residual_QC[places_q] += residual_qC
        gradient_QDC = gradient_DX.view(self.num_features, count, -1).permute(1, 0, 2)
        gradient_QDC = self.scale_FD[folds_Q, :, None] * (
            gradient_QDC - self.mean_FD[folds_Q, :, None] * residual_QC[:, None, :]
        )
        strength_Q, rows_Q = self.strength_P[problems_Q], self.num_rows_F[folds_Q]
        gradient_QDC = gradient_QDC + strength_Q[:, None, None] * weight_QDC
        loss_Q += strength_Q * weight_QDC.square().sum(dim=(1, 2)) / 2
        gradient_QX = torch.cat([gradient_QDC, residual_QC[:, None, :]], dim=1).reshape(count, -1)
        return loss_Q / rows_Q, gradient_QX / rows_Q[:, None]

    def to_heads(self, weights_QX: Tensor, problems_Q: Tensor | None = None) -> list[list[LinearHead]]:
        """[F][S] heads on plain features, of all problems or of as many of each fold."""
        _, plain_QDC, plain_bias_QC = self._unfold(
            weights_QX, torch.arange(len(weights_QX)) if problems_Q is None else problems_Q
        )
        per_fold = len(weights_QX) // len(self.num_rows_F)
        heads = [LinearHead(w.numpy(), b.numpy()) for w, b in zip(plain_QDC, plain_bias_QC, strict=True)]
        return [heads[start : start + per_fold] for start in range(0, len(heads), per_fold)]


def _extra_loss(
    extra: tuple[Tensor, Tensor, float], plain_qDC: Tensor, bias_qC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [q] of a fold's extra rows under q heads, and its slope by plain weights [D, q, C] and intercepts [q, C]."""
    features_MD, targets_MC, weight = extra
    count, num_features, num_classes = plain_qDC.shape
    flat_DX = plain_qDC.permute(1, 0, 2).reshape(num_features, -1)
    loss_q = torch.zeros(count, dtype=torch.float64)
    slope_DX, residual_qC = torch.zeros_like(flat_DX), torch.zeros(count, num_classes)
    for start in range(0, len(features_MD), ROWS_AT_ONCE):
        block_BD, targets_B1C = (
            features_MD[start : start + ROWS_AT_ONCE],
            targets_MC[start : start + ROWS_AT_ONCE, None],
        )
        log_probs_BqC = ((block_BD @ flat_DX).view(-1, count, num_classes) + bias_qC).log_softmax(dim=2)
        loss_q -= weight * (targets_B1C * log_probs_BqC).sum(dim=(0, 2)).double()
        residual_BqC = weight * (log_probs_BqC.exp_() - targets_B1C)
        slope_DX += block_BD.T @ residual_BqC.view(len(block_BD), -1)
        residual_qC += residual_BqC.sum(dim=0)
    return loss_q, slope_DX.view(num_features, count, num_classes), residual_qC
