"""Scores by the values of any column: where a model is good, and for whom.

Shapes: N samples, S slices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from finefold.metrics.classification import FloatArray, IntArray, confusion_matrix, log_loss_N, scores_from_confusion
from finefold.metrics.intervals import RESAMPLES, Score, bootstrap_sums, group_codes, group_sums

BANDS = 5  # of a column of numbers with more values
MOST_VALUES = 30  # of a column of texts that are shown; rarer ones are put together
OTHER, UNKNOWN = "(other)", "(unknown)"


@dataclass(frozen=True)
class Slices:
    """Which slice each sample is in.

    Args:
        names: [S] of the slices, in the order they are shown.
        codes_N: slice of each sample.
    """

    names: tuple[str, ...]
    codes_N: IntArray


def slice_numbers(values_N: FloatArray) -> Slices:
    """Each number for itself where there are few, else bands with about as many samples each.

    A band holds its lower end and, but for the last, not its upper end. NaN is unknown.
    """
    known_N = np.isfinite(values_N)
    values = np.unique(values_N[known_N])
    if len(values) <= 2 * BANDS:
        names = [f"{value:g}" for value in values]
        codes_N = np.searchsorted(values, values_N)
    else:
        edges = np.unique(np.quantile(values_N[known_N], np.linspace(0, 1, BANDS + 1), method="inverted_cdf"))
        names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
        codes_N = np.clip(np.searchsorted(edges, values_N, side="right") - 1, 0, len(names) - 1)
    return _with_unknown(names, np.where(known_N, codes_N, len(names)))


def slice_texts(values: Sequence[str | None]) -> Slices:
    """A slice per value, in the order of their names; numbers written as texts are banded where there are many.

    Of more than 30 values those with the most samples are kept and the others put together.
    """
    texts = ["" if value is None else value for value in values]
    numbers = _as_numbers(texts)
    if numbers is not None and len(set(texts)) > 2 * BANDS:
        return slice_numbers(numbers)
    counts: dict[str, int] = {}
    for text in filter(None, texts):
        counts[text] = counts.get(text, 0) + 1
    kept = sorted(counts, key=lambda text: (-counts[text], text))[:MOST_VALUES]
    order = {text: number for number, text in enumerate(sorted(kept, key=_natural))}
    names = list(order)
    has_others = len(counts) > len(kept)
    if has_others:
        names.append(OTHER)
    unknown = len(names)
    codes_N = np.array([order.get(text, unknown - has_others) if text else unknown for text in texts], np.int64)
    return _with_unknown(names, codes_N)


def score_slices(
    probs_NK: NDArray[Any],
    labels_N: NDArray[Any],
    groups_N: NDArray[Any],
    slices: Slices,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Accuracy with its interval, macro F1 and log loss of every slice.

    Args:
        probs_NK: probabilities, rows sum to 1.
        labels_N: true class codes.
        groups_N: of each sample; whole groups are drawn for the intervals.
        slices: of the samples; one without samples is left out.
        resamples: of groups.
        seed: of the draws.

    Returns:
        {value, n, num_groups, accuracy: {value, low, high, n}, macro_f1, log_loss, difference: {value, low, high}};
        `macro_f1` is over the classes that the slice has, `difference` is accuracy in the slice less accuracy outside
        of it, None where there is no outside.
    """
    groups_N, num_groups = group_codes(groups_N)
    num_slices, num_classes = len(slices.names), probs_NK.shape[1]
    predicted_N = probs_NK.argmax(axis=1)
    is_right_N = (predicted_N == labels_N).astype(np.float64)
    losses_N = log_loss_N(probs_NK, labels_N)
    rows_N = np.arange(len(labels_N))
    ones = sparse.csr_array((np.ones(len(rows_N)), (rows_N, slices.codes_N)), shape=(len(rows_N), num_slices))
    right = sparse.csr_array((is_right_N, (rows_N, slices.codes_N)), shape=(len(rows_N), num_slices))
    sums = group_sums(sparse.hstack([right, ones], format="csr"), groups_N, num_groups)
    sums_RC = bootstrap_sums(sums, resamples=resamples, seed=seed)
    hits_RS, counts_RS = sums_RC[:, :num_slices], sums_RC[:, num_slices:]
    found = []
    for code, name in enumerate(slices.names):
        of_slice_N = slices.codes_N == code
        count = int(of_slice_N.sum())
        if not count:
            continue
        drawn_R = _ratio(hits_RS[:, code], counts_RS[:, code])
        outside_R = _ratio(hits_RS.sum(axis=1) - hits_RS[:, code], counts_RS.sum(axis=1) - counts_RS[:, code])
        accuracy = float(is_right_N[of_slice_N].mean())
        num_of_slice = len(np.unique(groups_N[of_slice_N]))
        within = Score.from_resamples(accuracy, drawn_R, count, num_counted=num_of_slice)
        difference = None
        if count < len(labels_N):
            outside = float(is_right_N[~of_slice_N].mean())
            gap = Score.from_resamples(accuracy - outside, drawn_R - outside_R, count)
            low, high = min(gap.low, within.low - outside), max(gap.high, within.high - outside)
            difference = {"value": gap.value, "low": low, "high": high}
        confusion = confusion_matrix(labels_N[of_slice_N], predicted_N[of_slice_N], num_classes)
        found.append(
            {
                "value": name,
                "n": count,
                "num_groups": num_of_slice,
                "accuracy": within.to_dict(),
                "macro_f1": float(scores_from_confusion(confusion).macro_f1),
                "log_loss": float(losses_N[of_slice_N].mean()),
                "difference": difference,
            }
        )
    return found


def _ratio(hits_R: FloatArray, counts_R: FloatArray) -> FloatArray:
    ratio_R = np.full(len(hits_R), np.nan)
    np.divide(hits_R, counts_R, out=ratio_R, where=counts_R > 0)
    return ratio_R


def _with_unknown(names: Sequence[str], codes_N: IntArray) -> Slices:
    is_complete = not (codes_N == len(names)).any()
    return Slices((*names, *(() if is_complete else (UNKNOWN,))), codes_N.astype(np.int64))


def _as_numbers(texts: Sequence[str]) -> FloatArray | None:
    """The texts as numbers, NaN for an empty one; None where one is no number."""
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return None


def _natural(text: str) -> tuple[float, str]:
    """Numbers by their size before texts by their letters."""
    try:
        return float(text), text
    except ValueError:
        return np.inf, text
