"""Scores with an interval: a percentile bootstrap over groups.

Samples of one group (a person, a solar module) are not independent, so whole groups are drawn, with
replacement. A score depends on a resample only through sums over its groups, so each group's sums
are taken once and a thousand resamples are one sparse matrix product.

Shapes: R resamples, G groups, C summed columns.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from finefold.metrics.classification import FloatArray, IntArray

RESAMPLES = 1000
LEVELS = (0.025, 0.975)
CHUNK_BYTES = 4 * 2**20  # measured: 1 and 4 MB are fastest (they fit the cache), 64 MB half as fast


@dataclass(frozen=True)
class Score:
    """A number that never travels without its 95 % interval.

    Args:
        value: the score on all samples.
        low: lower end of the interval, never above `value`.
        high: upper end of the interval, never below `value`.
        n: number of samples the score is about; for a class, its true samples.

    Raises:
        ValueError: a number is not finite, or the interval does not contain the value.
    """

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        if not all(map(isfinite, (self.value, self.low, self.high))):
            raise ValueError(f"a score must be finite, got {self.value} [{self.low}, {self.high}]")
        if not self.low <= self.value <= self.high:
            raise ValueError(f"interval [{self.low}, {self.high}] does not contain the score {self.value}")

    @classmethod
    def from_resamples(
        cls, value: float, resampled_R: FloatArray, n: int, *, num_counted: int | None = None
    ) -> "Score":
        """The value with the 2.5 and 97.5 percentiles of its resamples, widened to contain it.

        Widening matters for few samples only: macro F1 is biased downward in resamples, which repeat
        samples and lose classes, so with a dozen samples its percentiles can lie below the value.
        A share that is 0 or 1, or comes from a single group, does not vary between resamples, and its interval would
        have no width however few groups it is of: there it is the interval of counting as many.

        Args:
            value: the score on all samples.
            resampled_R: [R] the same score on every resample; NaN where a resample has no such score.
            n: number of samples the score is about.
            num_counted: of a share in 0..1 (accuracy, recall, F1), how many groups it is of; None for other scores.
        """
        known = resampled_R[~np.isnan(resampled_R)]
        low, high = np.quantile(known, LEVELS) if len(known) else (value, value)
        if num_counted and low == high == value:
            low, high = counting_interval(float(value), num_counted)
        return cls(float(value), float(min(low, value)), float(max(high, value)), int(n))

    def to_dict(self) -> dict[str, Any]:
        """The score as plain JSON values."""
        return asdict(self)


def counting_interval(share: float, count: int, *, chance: float = 0.05) -> tuple[float, float]:
    """The exact interval of a share that was counted.

    Args:
        share: in 0..1; of `count` need not be a whole number.
        count: how many were counted, at least 1.
        chance: of missing the true share, both sides together.

    References:
        Clopper, Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial,
        Biometrika 26, 1934.
    """
    hits = share * count
    low = 0.0 if hits <= 0 else float(special.betaincinv(hits, count - hits + 1, chance / 2))
    high = 1.0 if hits >= count else float(special.betaincinv(hits + 1, count - hits, 1 - chance / 2))
    return low, high


def group_codes(groups_N: NDArray[Any]) -> tuple[IntArray, int]:
    """Number the groups 0..G-1 in sorted order, so that the order of rows does not matter.

    Returns:
        [N] code of each row's group, and G.
    """
    groups_N = np.asarray(groups_N)
    names, codes_N = np.unique(groups_N.astype(str) if groups_N.dtype == object else groups_N, return_inverse=True)
    return codes_N.astype(np.int64), len(names)


def group_bootstrap_weights(num_groups: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[IntArray]:
    """Draw `num_groups` groups with replacement, `resamples` times.

    Yields:
        [r, G] how often each group was drawn, rows sum to G; some rows at a time, so that memory does
        not grow with `resamples`. The draws depend on the seed and not on how they are chunked.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK_BYTES // (8 * max(1, num_groups)))
    for start in range(0, resamples, rows):
        counts = np.empty((min(rows, resamples - start), num_groups), np.int64)
        for row in counts:
            row[:] = np.bincount(rng.integers(0, num_groups, num_groups), minlength=num_groups)
        yield counts


def group_sums(columns_NC: Any, groups_N: IntArray, num_groups: int) -> Any:
    """Sum the rows of each group.

    Args:
        columns_NC: [N, C] scipy sparse matrix, one row per sample.
        groups_N: [N] group codes, 0..G-1.
        num_groups: G.

    Returns:
        [G, C] scipy sparse matrix.
    """
    num_rows = len(groups_N)
    members_GN = sparse.csr_array((np.ones(num_rows), (groups_N, np.arange(num_rows))), shape=(num_groups, num_rows))
    return members_GN @ columns_NC


def bootstrap_sums(sums_GC: Any, *, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """Sum the columns over the groups of every resample.

    Args:
        sums_GC: [G, C] scipy sparse matrix of each group's sums.
        resamples: R.
        seed: of the draws; the same seed gives the same numbers.

    Returns:
        [R, C] the sums of each resample.

    Raises:
        ValueError: fewer than one resample.
    """
    if resamples < 1:
        raise ValueError(f"an interval needs resamples, got {resamples}")
    sums_CG = sparse.csr_array(sums_GC.T)
    num_columns, num_groups = sums_CG.shape
    sums_RC = np.empty((resamples, num_columns))
    start = 0
    for weights_rG in group_bootstrap_weights(num_groups, resamples=resamples, seed=seed):
        # scipy walks the dense side row by row: resamples must be the fast axis
        weights_Gr = np.ascontiguousarray(weights_rG.T, dtype=np.float64)
        stop = start + len(weights_rG)
        sums_RC[start:stop] = (sums_CG @ weights_Gr).T
        start = stop
    return sums_RC
