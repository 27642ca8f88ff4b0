"""Is one set of predictions better than another of the same samples? Differences over the same resamples.

Two scores of the same samples vary together: what is hard for one model is hard for the other. So not the scores'
intervals are compared, but the difference is taken in every resample of groups.

Shapes: N samples, K classes, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from finefold.metrics.classification import FloatArray, IntArray, divide, log_loss_N, scores_from_counts
from finefold.metrics.intervals import RESAMPLES, Score, bootstrap_sums, group_codes, group_sums

SCORES = ("macro_f1", "accuracy", "balanced_accuracy", "log_loss")
LOWER_IS_BETTER = frozenset({"log_loss"})


@dataclass(frozen=True)
class Difference:
    """How much better the second is than the first: above 0 is better, whatever the score.

    Args:
        value: on all samples.
        low, high: 95 % interval over resamples of groups.
        better: share of the resamples in which the second is better; ties count half.
    """

    value: float
    low: float
    high: float
    better: float

    @property
    def p_value(self) -> float:
        """Two-sided: how often resamples would show the other sign, or none."""
        return min(1.0, 2 * min(self.better, 1 - self.better))

    def to_dict(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Scores of one set of predictions, on all samples and on every resample.

    Args:
        values: score -> its value. Scores are `macro_f1` and so on, `class NAME` (F1), `attribute NAME`
            (accuracy) and `attribute NAME macro_f1`; NaN for a class without samples.
        drawn: score -> [R] the same on every resample.
        num_groups: of the samples whose class is known.
    """

    values: Mapping[str, float]
    drawn: Mapping[str, FloatArray]
    num_groups: int

    def score(self, name: str, num_samples: int) -> Score:
        """One score of the joint class with its interval; a share's is never that of a single point."""
        num_counted = None if name in LOWER_IS_BETTER else self.num_groups
        return Score.from_resamples(self.values[name], self.drawn[name], num_samples, num_counted=num_counted)

    def less(self, other: "Drawn", score: str) -> Difference | None:
        """How much better this is than another of the same samples and seed; None where neither can be scored."""
        sign = -1.0 if score in LOWER_IS_BETTER else 1.0
        value = sign * (self.values[score] - other.values[score])
        drawn_R = sign * (self.drawn[score] - other.drawn[score])
        known_R = drawn_R[np.isfinite(drawn_R)]
        if not np.isfinite(value) or not len(known_R):
            return None
        low, high = np.quantile(known_R, (0.025, 0.975))
        better = float(((known_R > 0) + 0.5 * (known_R == 0)).mean())
        return Difference(float(value), float(min(low, value)), float(max(high, value)), better)


def draw(
    probs_NK: NDArray[Any],
    labels_N: NDArray[Any],
    groups_N: NDArray[Any],
    class_names: Sequence[str],
    attributes: Mapping[str, tuple[Sequence[str], NDArray[Any]]],
    *,
    codes_NA: NDArray[Any] | None = None,
    weights_N: FloatArray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Drawn:
    """Scores on all samples and on resamples of groups; the same groups and seed draw the same resamples.

    Args:
        probs_NK: rows sum to 1.
        labels_N: true class codes; -1 where `codes_NA` has a gap, which scores of the class leave out.
        groups_N: of each sample.
        class_names: [K].
        attributes: `LabelSpace.attribute_table()`.
        codes_NA: true codes of the attributes, in their order, -1 where missing; those of the class where None.
        weights_N: how much each sample counts, e.g. as often as its class is in another set; 1 where left out.
        resamples: R.
        seed: of the draws.
    """
    groups, num_groups = group_codes(groups_N)
    weights_N = np.ones(len(labels_N)) if weights_N is None else weights_N
    values: dict[str, float] = {}
    drawn: dict[str, FloatArray] = {}

    def add(names: tuple[str, str, str], codes_N: IntArray, found_N: IntArray, num_classes: int) -> Any:
        columns = _counts(codes_N, found_N, num_classes, weights_N)
        sums_RC = bootstrap_sums(group_sums(columns, groups, num_groups), resamples=resamples, seed=seed)
        everything = scores_from_counts(*np.asarray(columns.sum(axis=0)).reshape(3, num_classes))
        resampled = scores_from_counts(*sums_RC.reshape(resamples, 3, num_classes).swapaxes(0, 1))
        for name, key in zip(names, ("macro_f1", "accuracy", "balanced_accuracy"), strict=True):
            values[name], drawn[name] = float(getattr(everything, key)), getattr(resampled, key)
        return everything.f1, resampled.f1

    f1_K, f1_RK = add(
        ("macro_f1", "accuracy", "balanced_accuracy"), labels_N, probs_NK.argmax(axis=1), len(class_names)
    )
    for code, name in enumerate(class_names):
        values[f"class {name}"], drawn[f"class {name}"] = float(f1_K[code]), f1_RK[:, code]
    is_known_N = labels_N >= 0
    losses, weights = log_loss_N(probs_NK[is_known_N], labels_N[is_known_N]), weights_N[is_known_N]
    columns = sparse.csr_array(np.stack([weights * losses, weights], axis=1))
    sums_RC = bootstrap_sums(group_sums(columns, groups[is_known_N], num_groups), resamples=resamples, seed=seed)
    values["log_loss"], drawn["log_loss"] = (
        float(np.average(losses, weights=weights)),
        divide(sums_RC[:, 0], sums_RC[:, 1]),
    )
    for place, (name, (classes, codes_K)) in enumerate(attributes.items()):
        found_N = (probs_NK @ np.eye(len(classes))[codes_K]).argmax(axis=1)
        keys = (f"attribute {name} macro_f1", f"attribute {name}", f"attribute {name} balanced_accuracy")
        codes_N = np.asarray(codes_K)[labels_N] if codes_NA is None else codes_NA[:, place]
        add(keys, codes_N, found_N, len(classes))
    return Drawn(values, drawn, len(np.unique(groups[is_known_N])))


def _counts(codes_N: IntArray, found_N: IntArray, num_classes: int, weights_N: FloatArray) -> Any:
    """[N, 3K] sparse: the weight at the class where it was hit, at the true class, at the predicted class.

    A row whose true class is not known, -1, counts nowhere.
    """
    known, hits = np.flatnonzero(codes_N >= 0), np.flatnonzero(codes_N == found_N)
    rows = np.concatenate([hits, known, known])
    columns = np.concatenate([codes_N[hits], num_classes + codes_N[known], 2 * num_classes + found_N[known]])
    return sparse.csr_array((weights_N[rows], (rows, columns)), shape=(len(codes_N), 3 * num_classes))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for how many there are; each at least as large as it was.

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6, 1979.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
