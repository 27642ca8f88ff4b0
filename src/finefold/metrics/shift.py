"""The class shares of a set without labels, and probabilities corrected to them.

Both ways assume *label shift*: the classes' shares changed, and how an image of a class looks did not. Where that is
wrong (another camera, another kind of people), the estimates are wrong too, and their intervals do not know it.

Shapes: N samples, L rows of the ledger, K classes, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from finefold.metrics.calibration import fit_vector
from finefold.metrics.classification import FloatArray, IntArray
from finefold.metrics.intervals import (
    Score,
    bootstrap_sums,
    counting_interval,
    group_bootstrap_weights,
    group_codes,
    group_sums,
)

RESAMPLES = 400  # an estimate costs some twenty passes over the rows, so fewer than of scores
TOLERANCE = 1e-6
RESAMPLE_TOLERANCE = 1e-4  # of resamples, whose own noise is a hundred times that
ROUNDS = 5000
LONGEST_LEAP = 1000  # rounds; what asks for more is rounding
FEW = 5  # groups of a class, or of all others, below which resamples say too little of an interval
CHANCE = 0.05  # of calling an unchanged set shifted, over the classes of a question


@dataclass(frozen=True, eq=False)
class ShareEstimate:
    """Estimated shares of the classes of one question: an attribute, or the joint class.

    Args:
        name: of the attribute, or `joint`.
        class_names: [K].
        before_K: shares in the ledger, where probabilities are calibrated.
        em: [K] estimates by expectation maximisation, with intervals.
        bbse: [K] estimates from the confusion of the ledger, with intervals.
        has_changed_K: whether a share differs by more than chance from the ledger's, which is a sample too; where none
            did, one question in twenty has such a class.
    """

    name: str
    class_names: tuple[str, ...]
    before_K: FloatArray
    em: tuple[Score, ...]
    bbse: tuple[Score, ...]
    has_changed_K: NDArray[np.bool_]

    @property
    def shares_K(self) -> FloatArray:
        """[K] the estimate that corrections use: by expectation maximisation."""
        return np.asarray([score.value for score in self.em])

    @property
    def is_shifted(self) -> bool:
        """Whether the share of some class changed by more than chance."""
        return bool(self.has_changed_K.any())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        columns = (self.class_names, self.before_K.tolist(), self.em, self.bbse, self.has_changed_K.tolist())
        classes = {
            name: {"before": before, "em": em.to_dict(), "bbse": bbse.to_dict(), "has_changed": has_changed}
            for name, before, em, bbse, has_changed in zip(*columns, strict=True)
        }
        return {"is_shifted": self.is_shifted, "classes": classes}


def saerens_prior(probs_NK: FloatArray, train_prior_K: FloatArray, *, tolerance: float = TOLERANCE) -> FloatArray:
    """Estimate class shares of an unlabelled set by expectation maximisation.

    Assumes p(image | class) is unchanged and `probs_NK` are calibrated; with uncalibrated probabilities the estimate
    is biased toward the training shares.

    Args:
        probs_NK: class probabilities, rows sum to 1.
        train_prior_K: class shares that the probabilities are calibrated to, each > 0.
        tolerance: stops once a round moves the shares by no more, in sum.

    Returns:
        [K] estimated shares, summing to 1.

    Raises:
        ValueError: a class of `train_prior_K` is 0, so its share cannot be estimated.

    References:
        Saerens, Latinne, Decaestecker, Adjusting the outputs of a classifier to new a priori probabilities, Neural
        Computation 14(1), 2002, eq. 2.9. Stops on the L1 change instead of a fixed number of rounds, and leaps between
        rounds, which changes where it goes through and not where it ends.
    """
    _check_prior(train_prior_K)
    weights_N1 = np.ones((len(probs_NK), 1))
    start_K1 = train_prior_K[:, None]
    return _em(np.asarray(probs_NK / train_prior_K, np.float64), weights_N1, start_K1, tolerance)[:, 0]


def bbse_prior(probs_NK: FloatArray, ledger_LK: FloatArray, labels_L: IntArray) -> FloatArray:
    """Estimate class shares of an unlabelled set from what the model says of labelled ones.

    Needs no calibration: how the mean probabilities of a set come about is read off the ledger.

    Args:
        probs_NK: class probabilities of the unlabelled set.
        ledger_LK: those of labelled rows that the model did not see.
        labels_L: their true class codes.

    Returns:
        [K] estimated shares, none below 0, summing to 1.

    References:
        Lipton, Wang, Smola, Detecting and correcting for label shift with black box predictors, ICML 2018, with
        mean probabilities instead of counts ("soft"). Solved by least squares for shares not below 0, and not
        by an inverse, which for scarce classes gives negative ones.
    """
    return _solved(_joint_means(ledger_LK, labels_L), probs_NK.mean(axis=0))


def estimate_shares(
    name: str,
    class_names: Sequence[str],
    probs_NK: FloatArray,
    ledger_LK: FloatArray,
    labels_L: IntArray,
    ledger_groups_L: NDArray[Any],
    *,
    groups_N: NDArray[Any] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ShareEstimate:
    """Shares by both ways, with 95 % intervals.

    Probabilities are first calibrated by vector scaling on the ledger, so that any loss or sampling that a model was
    trained with is undone. Intervals have two parts: groups of the unlabelled set are drawn anew; and the estimator is
    tried on groups of the ledger, weighted to the estimated shares, where its errors can be seen.

    Args:
        name: of the question.
        class_names: [K], each with a row in the ledger.
        probs_NK: of the unlabelled set.
        ledger_LK: of the ledger.
        labels_L: its true class codes.
        ledger_groups_L: its groups.
        groups_N: groups of the unlabelled set; every sample one of its own where left out.
        resamples: R.
        seed: of the draws.

    Raises:
        ValueError: a class has no row in the ledger.
    """
    num_classes = len(class_names)
    if groups_N is None:
        probs_NK = probs_NK[np.lexsort(probs_NK.T)]  # so that the draws do not depend on the order of rows
    before_K = np.bincount(labels_L, minlength=num_classes) / len(labels_L)
    _check_prior(before_K)
    calibration = fit_vector(ledger_LK, labels_L)
    own_NK, known_LK = calibration.apply(probs_NK), calibration.apply(ledger_LK)
    em_K, bbse_K = saerens_prior(own_NK, before_K), bbse_prior(own_NK, known_LK, labels_L)
    own, known = group_codes(np.arange(len(probs_NK)) if groups_N is None else groups_N), group_codes(ledger_groups_L)
    own_NR = _row_draws(*own, resamples, seed)
    drawn_KR = _em((own_NK / before_K).astype(np.float32), own_NR, em_K[:, None], RESAMPLE_TOLERANCE)
    known_LR = _row_draws(*known, resamples, seed + 1)
    drawn_KR = drawn_KR - _errors(known_LK, labels_L, before_K, em_K, known_LR)
    before_KR = np.eye(num_classes)[labels_L].T @ known_LR / known_LR.sum(axis=0)
    low_K, high_K = np.quantile(drawn_KR - before_KR, (CHANCE / 2 / num_classes, 1 - CHANCE / 2 / num_classes), axis=1)
    means_RK = bootstrap_sums(group_sums(sparse.csr_array(own_NK), *own), resamples=resamples, seed=seed)
    means_RK /= own_NR.sum(axis=0)[:, None]
    confusions_RKK = _drawn_confusions(known_LK, labels_L, *known, resamples, seed + 1)
    solved_RK = np.stack([_solved(one, mean) for one, mean in zip(confusions_RKK, means_RK, strict=True)])
    return ShareEstimate(
        name,
        tuple(class_names),
        before_K,
        _scores(em_K, np.clip(drawn_KR, 0, 1), len(probs_NK), own[1]),
        _scores(bbse_K, solved_RK.T, len(probs_NK), own[1]),
        ((low_K > 0) | (high_K < 0)) & ~_might_be_counted(before_K, em_K, own[1]),
    )


def rake(shares_K: FloatArray, wanted: Mapping[str, FloatArray], codes: Mapping[str, IntArray]) -> FloatArray:
    """Joint shares with given marginals, and otherwise the dependence between attributes as it was.

    Args:
        shares_K: joint shares to start from.
        wanted: attribute -> shares of its classes.
        codes: attribute -> [K] its code in each joint class.

    Returns:
        [K], summing to 1.

    References:
        Deming, Stephan, On a least squares adjustment of a sampled frequency table, Ann. Math. Stat. 11, 1940.
    """
    raked_K = shares_K / shares_K.sum()
    for _ in range(1000):
        before_K = raked_K
        for name, wanted_C in wanted.items():
            now_C = np.bincount(codes[name], raked_K, len(wanted_C))
            raked_K = raked_K * np.divide(wanted_C, now_C, out=np.zeros_like(now_C), where=now_C > 0)[codes[name]]
            raked_K = raked_K / raked_K.sum()
        if np.abs(raked_K - before_K).sum() < 1e-12:
            break
    return np.asarray(raked_K)


def _check_prior(prior_K: FloatArray) -> None:
    if (prior_K <= 0).any():
        missing = np.flatnonzero(prior_K <= 0).tolist()
        raise ValueError(f"classes {missing} have no share before, so theirs cannot be estimated")


def _em(likelihoods_NK: NDArray[Any], weights_NR: NDArray[Any], start_K1: FloatArray, tolerance: float) -> FloatArray:
    """[K, R] shares of greatest likelihood, for each column of row weights.

    Args:
        likelihoods_NK: probabilities divided by the shares they are calibrated to; all is computed in its type.
        weights_NR: how much each row counts.
        start_K1: where to start; a share of 0 stays 0.
        tolerance: of the summed change in a round.
    """
    kind = likelihoods_NK.dtype
    totals_R = weights_NR.sum(axis=0)
    weights_NR = weights_NR.astype(kind)
    likelihoods_KN = np.ascontiguousarray(likelihoods_NK.T)

    def round_of(shares_KR: NDArray[Any]) -> NDArray[Any]:
        mixed_NR = likelihoods_NK @ shares_KR
        np.divide(weights_NR, mixed_NR, out=mixed_NR, where=mixed_NR > 0)
        next_KR = shares_KR * (likelihoods_KN @ mixed_NR)
        next_KR /= totals_R
        return np.asarray(next_KR, kind)

    shares_KR = np.repeat(start_K1, weights_NR.shape[1], axis=1).astype(kind)
    for _ in range(ROUNDS):
        once_KR = round_of(shares_KR)
        first_KR = once_KR - shares_KR
        if np.abs(first_KR).sum(axis=0).max() <= tolerance:
            shares_KR = once_KR
            break
        twice_KR = round_of(once_KR)
        shares_KR = round_of(_leap(shares_KR, first_KR, twice_KR - once_KR - first_KR, twice_KR))
    return np.asarray(shares_KR / shares_KR.sum(axis=0), np.float64)


def _leap(
    shares_KR: NDArray[Any], first_KR: NDArray[Any], second_KR: NDArray[Any], twice_KR: NDArray[Any]
) -> NDArray[Any]:
    """Where two rounds were heading, which plain rounds would take a hundred to reach where classes look alike.

    Args:
        shares_KR: where the two rounds started.
        first_KR: what the first round changed.
        second_KR: what the second changed, less that.
        twice_KR: where they ended; the leap leaves at least a hundredth of each share, for a share of 0 stays 0.

    References:
        Varadhan, Roland, Simple and globally convergent methods for accelerating the convergence of any EM algorithm,
        Scand. J. Statistics 35, 2008 (SQUAREM, scheme S3).
    """
    first_R, second_R = np.sqrt((first_KR**2).sum(axis=0)), np.sqrt((second_KR**2).sum(axis=0))
    is_known_R = second_R > first_R / LONGEST_LEAP
    step_R = np.maximum(np.divide(first_R, second_R, out=np.ones_like(first_R), where=is_known_R), 1)
    far_KR = shares_KR + 2 * step_R * first_KR + step_R**2 * second_KR
    far_KR = np.maximum(far_KR, twice_KR / 100)
    return np.asarray(far_KR / far_KR.sum(axis=0), shares_KR.dtype)


def _errors(
    known_LK: FloatArray, labels_L: IntArray, before_K: FloatArray, after_K: FloatArray, draws_LR: FloatArray
) -> FloatArray:
    """[K, R] how far the estimator is off on drawn ledgers that are weighted to the shares `after_K`."""
    weights_LR = (after_K / before_K)[labels_L][:, None] * draws_LR
    true_KR = np.eye(len(before_K))[labels_L].T @ weights_LR
    found_KR = _em((known_LK / before_K).astype(np.float32), weights_LR, after_K[:, None], RESAMPLE_TOLERANCE)
    return np.asarray(found_KR - true_KR / weights_LR.sum(axis=0))


def _row_draws(groups_N: IntArray, num_groups: int, resamples: int, seed: int) -> FloatArray:
    """[N, R] how often each row's group was drawn."""
    drawn_RG = np.concatenate(list(group_bootstrap_weights(num_groups, resamples=resamples, seed=seed)))
    return np.ascontiguousarray(drawn_RG.T[groups_N], np.float64)


def _joint_means(ledger_LK: FloatArray, labels_L: IntArray) -> FloatArray:
    """[K, K]: of the rows of true class j, summed probability of class i, per row of the ledger."""
    return np.asarray(ledger_LK.T @ np.eye(ledger_LK.shape[1])[labels_L] / len(labels_L))


def _drawn_confusions(
    ledger_LK: FloatArray, labels_L: IntArray, groups_L: IntArray, num_groups: int, resamples: int, seed: int
) -> FloatArray:
    """[R, K, K] `_joint_means` of drawn groups."""
    num_rows, num_classes = ledger_LK.shape
    rows = np.repeat(np.arange(num_rows), num_classes)
    columns = (np.arange(num_classes) * num_classes + labels_L[:, None]).ravel()
    each = sparse.csr_array((ledger_LK.ravel(), (rows, columns)), shape=(num_rows, num_classes**2))
    sums_RC = bootstrap_sums(group_sums(each, groups_L, num_groups), resamples=resamples, seed=seed)
    return np.asarray(sums_RC / sums_RC.sum(axis=1, keepdims=True)).reshape(resamples, num_classes, num_classes)


def _solved(confusion_KK: FloatArray, means_K: FloatArray) -> FloatArray:
    """[K] shares that make the mean probabilities, as the confusion has it."""
    ratios_K, _ = optimize.nnls(confusion_KK, means_K)
    shares_K = ratios_K * confusion_KK.sum(axis=0)
    return np.asarray(shares_K / shares_K.sum())


def _scores(values_K: FloatArray, drawn_KR: FloatArray, n: int, num_groups: int) -> tuple[Score, ...]:
    """Estimates with their intervals; near 0 and 1, where draws hardly differ, at least that of counting the groups."""
    found = []
    for value, drawn_R, is_of_few in zip(values_K, drawn_KR, _is_of_few(values_K, num_groups), strict=True):
        score = Score.from_resamples(value, drawn_R, n)
        if is_of_few:
            low, high = counting_interval(score.value, num_groups)
            score = Score(score.value, min(low, score.low), max(high, score.high), n)
        found.append(score)
    return tuple(found)


def _might_be_counted(before_K: FloatArray, shares_K: FloatArray, num_groups: int) -> NDArray[np.bool_]:
    """[K] whether a share near 0 or 1 is what so few groups show by chance, even if every class were known for sure."""
    ends = [counting_interval(share, num_groups, chance=CHANCE / len(shares_K)) for share in shares_K.tolist()]
    is_inside_K = [low <= before <= high for before, (low, high) in zip(before_K.tolist(), ends, strict=True)]
    return np.asarray(_is_of_few(shares_K, num_groups) & is_inside_K)


def _is_of_few(shares_K: FloatArray, num_groups: int) -> NDArray[np.bool_]:
    return np.minimum(shares_K, 1 - shares_K) * num_groups < FEW
