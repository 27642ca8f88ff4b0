"""Losses for scarce classes and soft targets, and the weighted sum of them that a recipe asks for.

Functions give a loss per row, but for `soft_f1`, which is of a batch. Targets are probabilities: one-hot where the
label is certain, in between where images are mixed or labels smoothed. Rows sum to 1, or to less where images are
mixed and the class of one is missing. Half precision is computed in float32.

Shapes: B rows of a batch, C classes, K joint classes, P partial labels, S = K + P strata.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from finefold.errors import UsageError
from finefold.recipe.training import LossName, LossRecipe

UNSEEN_ROWS = 0.5  # that a class without training rows counts as in a prior, whose logarithm is else minus infinity

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Loss = Callable[[Tensor, Tensor], Tensor]


def smooth(targets_BC: Tensor, amount: float) -> Tensor:
    """[B, C] targets of which `amount`, from 0 to below 1, is dealt to all classes alike; rows keep their sums.

    References:
        Szegedy et al., Rethinking the Inception architecture for computer vision, CVPR 2016, section 7.
    """
    return targets_BC * (1 - amount) + targets_BC.sum(dim=1, keepdim=True) * (amount / targets_BC.shape[1])


def cross_entropy(logits_BC: Tensor, targets_BC: Tensor, *, weights_C: Tensor | None = None) -> Tensor:
    """[B] losses sum_c w_c t_c (-log p_c).

    Args:
        logits_BC: of any floating type.
        targets_BC: rows sum to 1.
        weights_C: of the classes, 0 or more; all 1 where None.
    """
    return _over_classes(-_log_probs(logits_BC), targets_BC, weights_C)


def focal(logits_BC: Tensor, targets_BC: Tensor, *, gamma: float, weights_C: Tensor | None = None) -> Tensor:
    """[B] losses sum_c w_c t_c (1 - p_c)^gamma (-log p_c): what is already right weighs less.

    Args:
        logits_BC: of any floating type.
        targets_BC: rows sum to 1.
        gamma: 0 or more; 0 is cross-entropy.
        weights_C: of the classes, 0 or more; all 1 where None.

    References:
        Lin et al., Focal loss for dense object detection, ICCV 2017, eq. 4 and 5. Of a softmax over the classes
        where theirs is a sigmoid per class, and for soft targets the mean of the classes' losses.
    """
    surprise_BC = -_log_probs(logits_BC)
    miss_BC = -torch.expm1(-surprise_BC)
    # At p = 1 a power below 1 has an infinite slope, which times a surprise of 0 would be NaN.
    miss_BC = miss_BC.clamp_min(torch.finfo(miss_BC.dtype).tiny)
    return _over_classes(miss_BC**gamma * surprise_BC, targets_BC, weights_C)


def logit_adjusted(
    logits_BC: Tensor, targets_BC: Tensor, *, log_prior_C: Tensor, tau: float, weights_C: Tensor | None = None
) -> Tensor:
    """[B] cross-entropies of logits + tau log prior: the logits then need not learn how frequent classes are.

    Args:
        logits_BC: of any floating type.
        targets_BC: rows sum to 1.
        log_prior_C: as `log_prior` makes it.
        tau: 0 or more; 1 makes the logits' argmax the one of least balanced error.
        weights_C: of the classes, 0 or more; all 1 where None.

    References:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021, eq. 10.
    """
    return cross_entropy(_widened(logits_BC) + tau * log_prior_C, targets_BC, weights_C=weights_C)


def soft_f1(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Scalar 1 - macro F1 of the batch, with probabilities in place of decisions; from 0 to 1.

    F1 of a class is 2 sum_b p t / sum_b (p + t). Classes without targets in the batch are left out of the mean,
    since whatever is done about them their F1 is 0. A row counts by the sum of its targets.

    Args:
        logits_BC: of any floating type, at least one row.
        targets_BC: rows sum to 1, or less; not smoothed, or every class has targets.

    References:
        Benedict et al., sigmoidF1: a smooth F1 score surrogate loss for multilabel classification, TMLR 2022,
        section 4. Of a softmax, where theirs is a sigmoid with two parameters.
    """
    probs_BC = torch.softmax(_widened(logits_BC), dim=1)
    num_targets_C = targets_BC.sum(dim=0)
    is_present_C = num_targets_C > 0
    both_C = (probs_BC * targets_BC).sum(dim=0)
    num_found_C = (probs_BC * targets_BC.sum(dim=1, keepdim=True)).sum(dim=0)
    either_C = torch.where(is_present_C, num_found_C + num_targets_C, 1.0)
    return 1 - (2 * both_C / either_C).sum() / is_present_C.sum()


def power_weights(counts_C: Ints, power: float) -> Floats:
    """[C] weights proportional to count^-power, of mean 1 over training rows; 0 for a class without rows.

    Args:
        counts_C: training rows per class, at least one in all.
        power: 0 weighs rows alike, 1 classes.
    """
    return _of_mean_one(np.maximum(counts_C, 1).astype(np.float64) ** -power, counts_C)


def class_balanced_weights(counts_C: Ints, beta: float) -> Floats:
    """[C] weights (1 - beta) / (1 - beta^count), of mean 1 over training rows; 0 for a class without rows.

    Args:
        counts_C: training rows per class, at least one in all.
        beta: 0 weighs rows alike, near 1 classes; below 1.

    References:
        Cui et al., Class-balanced loss based on effective number of samples, CVPR 2019, eq. 2 and 3. Theirs sum
        to the number of classes, which changes the size of the loss with the data.
    """
    if beta == 0:
        return _of_mean_one(np.ones(len(counts_C)), counts_C)
    effective_C = np.expm1(np.maximum(counts_C, 1) * np.log(beta)) / (beta - 1)
    return _of_mean_one(1 / effective_C, counts_C)


def log_prior(counts_C: Ints) -> Floats:
    """[C] logarithms of the classes' shares of training rows; one without counts as UNSEEN_ROWS of a row."""
    assert counts_C.sum() > 0
    return np.asarray(np.log(np.maximum(counts_C, UNSEEN_ROWS) / counts_C.sum()))


@dataclass(frozen=True, eq=False)
class RecipeLoss:
    """The weighted sum of a recipe's terms, a mean over the batch: (logits [B, C], targets [B, C]) -> scalar.

    One correction of scarcity is made once: `class_balanced` has its own weights and takes no others; `soft_f1`
    counts classes alike already and takes none, and sees targets before smoothing, after which no class is absent;
    `logit_adjusted` moves logits that the recipe has not moved already.

    Args:
        recipe: which terms.
        weights_C: of classes in the other terms; None where the recipe balances otherwise.
        balanced_C: weights of `class_balanced`.
        log_prior_C: of the training rows.
    """

    recipe: LossRecipe
    weights_C: Tensor | None
    balanced_C: Tensor
    log_prior_C: Tensor

    def __call__(self, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        logits_BC = _widened(logits_BC)
        if self.recipe.balance == "logit_adjust":
            logits_BC = logits_BC + self.recipe.tau * _beside(self.log_prior_C, logits_BC)
        terms = [weight * self._term(name, logits_BC, targets_BC) for name, weight in self.recipe.terms.items()]
        return torch.stack(terms).sum()

    def _term(self, name: LossName, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        if name == "soft_f1":
            return soft_f1(logits_BC, targets_BC)
        targets_BC = smooth(targets_BC, self.recipe.label_smoothing)
        return _PER_ROW[name](self, logits_BC, targets_BC).mean()

    def _cross_entropy(self, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        return cross_entropy(logits_BC, targets_BC, weights_C=self._weights(logits_BC))

    def _focal(self, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        return focal(logits_BC, targets_BC, gamma=self.recipe.focal_gamma, weights_C=self._weights(logits_BC))

    def _class_balanced(self, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        return cross_entropy(logits_BC, targets_BC, weights_C=_beside(self.balanced_C, logits_BC))

    def _logit_adjusted(self, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        tau = 0.0 if self.recipe.balance == "logit_adjust" else self.recipe.tau
        log_prior_C, weights_C = _beside(self.log_prior_C, logits_BC), self._weights(logits_BC)
        return logit_adjusted(logits_BC, targets_BC, log_prior_C=log_prior_C, tau=tau, weights_C=weights_C)

    def _weights(self, logits_BC: Tensor) -> Tensor | None:
        return None if self.weights_C is None else _beside(self.weights_C, logits_BC)


_PER_ROW: dict[LossName, Callable[[RecipeLoss, Tensor, Tensor], Tensor]] = {
    "cross_entropy": RecipeLoss._cross_entropy,
    "focal": RecipeLoss._focal,
    "class_balanced": RecipeLoss._class_balanced,
    "logit_adjusted": RecipeLoss._logit_adjusted,
}


@dataclass(frozen=True)
class UserLoss:
    """A user's function of float32 logits and targets, both [B, C], whose value is seen to be a scalar tensor."""

    function: Loss

    def __call__(self, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        """The function's value.

        Raises:
            UsageError: it is no scalar tensor.
        """
        value: object = self.function(_widened(logits_BC), targets_BC)
        if isinstance(value, Tensor) and value.ndim == 0:
            return value
        got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(f"the loss gives {got}, not a scalar tensor", "end it with .mean()")


def make_loss(recipe: LossRecipe | Loss, counts_C: Ints) -> Loss:
    """The loss of a batch: (logits [B, C], targets [B, C]) -> scalar, on the logits' device.

    Args:
        recipe: `[loss]`, or a function of logits and targets that is the loss, and is not balanced or smoothed.
        counts_C: training rows per class, at least one in all.
    """
    if not isinstance(recipe, LossRecipe):
        return UserLoss(recipe)
    weights_C = power_weights(counts_C, recipe.balance_power) if recipe.balance == "loss" else None
    return RecipeLoss(
        recipe,
        weights_C=None if weights_C is None else torch.from_numpy(weights_C).float(),
        balanced_C=torch.from_numpy(class_balanced_weights(counts_C, recipe.balanced_beta)).float(),
        log_prior_C=torch.from_numpy(log_prior(counts_C)).float(),
    )


@dataclass(frozen=True, eq=False)
class Spread:
    """Targets over joint classes and partial labels as targets over the joint classes.

    What a target has of a partial label is dealt to the classes that it may be, by what the model says of them at the
    moment, and no gradient flows through that. The gradient of cross-entropy to such targets is that of minus the
    logarithm of the classes' summed probability, the marginal likelihood of what is known. Dealt so, it works under
    every loss, smoothed and mixed, which the sum in a logarithm does not.

    Args:
        possible_PK: which classes each partial label may be.
        offset_K: added to logits before, where the loss adds it: classes are then as frequent as in training.

    References:
        Dempster, Laird, Rubin, Maximum likelihood from incomplete data via the EM algorithm, Journal of the Royal
        Statistical Society B 39(1), 1977, section 2: the expectation step, made anew for every batch.
    """

    possible_PK: Tensor
    offset_K: Tensor

    def __call__(self, logits_BK: Tensor, targets_BS: Tensor) -> Tensor:
        num_classes = logits_BK.shape[1]
        sure_BK, partial_BP = targets_BS[:, :num_classes], targets_BS[:, num_classes:]
        offered_BK = _widened(logits_BK.detach()) + _beside(self.offset_K, logits_BK)
        is_out_PK = _beside(~self.possible_PK, logits_BK)
        shares_BPK = offered_BK[:, None, :].masked_fill(is_out_PK, -torch.inf).softmax(dim=2)
        return sure_BK + (partial_BP[:, :, None] * shares_BPK).sum(dim=1)


def make_spread(recipe: LossRecipe | Loss, possible_PK: NDArray[np.bool_], counts_K: Ints) -> Spread:
    """How partial labels become targets of the joint classes under a loss.

    Args:
        recipe: as of `make_loss`.
        possible_PK: which classes each partial label may be.
        counts_K: training rows per class, of those whose class is known.
    """
    offset_K = np.zeros(len(counts_K))
    if isinstance(recipe, LossRecipe) and (recipe.balance == "logit_adjust" or "logit_adjusted" in recipe.terms):
        offset_K = recipe.tau * log_prior(counts_K)
    return Spread(torch.from_numpy(possible_PK), torch.from_numpy(offset_K).float())


def of_known(loss: Loss, logits_BC: Tensor, targets_BC: Tensor, share: float) -> Tensor:
    """The loss of the rows that have targets at all, times how many they are over how many were to be expected.

    The expectation is then the mean over all known rows of training, whichever fall into a batch, and no row's part
    depends on whether another one's class is known.

    Args:
        loss: a mean over rows.
        logits_BC: of all rows.
        targets_BC: rows of zeros where the class is missing.
        share: of the training rows, those whose class is known; above 0.
    """
    is_known_B = targets_BC.sum(dim=1) > 0
    num_known = int(is_known_B.sum())
    if not num_known:
        return (logits_BC * 0.0).sum()
    return loss(logits_BC[is_known_B], targets_BC[is_known_B]) * (num_known / (share * len(logits_BC)))


def _widened(logits_BC: Tensor) -> Tensor:
    return logits_BC.float() if logits_BC.dtype in (torch.float16, torch.bfloat16) else logits_BC


def _log_probs(logits_BC: Tensor) -> Tensor:
    return F.log_softmax(_widened(logits_BC), dim=1)


def _over_classes(losses_BC: Tensor, targets_BC: Tensor, weights_C: Tensor | None) -> Tensor:
    weighed_BC = targets_BC if weights_C is None else targets_BC * weights_C
    return (weighed_BC * losses_BC).sum(dim=1)


def _beside(constants_C: Tensor, logits_BC: Tensor) -> Tensor:
    return constants_C.to(logits_BC.device, non_blocking=True)  # blocking, every step would wait for the device


def _of_mean_one(weights_C: Floats, counts_C: Ints) -> Floats:
    assert counts_C.sum() > 0
    return np.asarray(np.where(counts_C > 0, weights_C, 0.0) * (counts_C.sum() / (weights_C * counts_C).sum()))
