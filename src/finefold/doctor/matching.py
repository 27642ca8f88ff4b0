"""Places matched with numbers in rising order, some numbers skipped: the best way, and how probable each match is.

Shapes: P places that are matched in order with numbers, W of them tried for each.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FAINT = 1e-12  # share of all ways, below which a long skip is left out


@dataclass(frozen=True)
class Odds:
    """All ways together, each weighed by how probable it is.

    Args:
        share_PW: of the ways in which place p is number first_P[p] + w; what a row lacks of 1 lies beyond the numbers.
        nats: log of the mean likelihood over all ways, each as frequent as skips at random make it.
    """

    share_PW: NDArray[np.float64]
    nats: float


def match_in_order(
    worth_PW: NDArray[np.float32], first_P: NDArray[np.int64], width: int, rate: float, *, is_whole: bool
) -> tuple[NDArray[np.int64], float]:
    """Each of P places with one of `width` numbers, rising, so that the sum is largest.

    Args:
        worth_PW: nats of place p being number first_P[p] + w.
        first_P: the lowest number that each place may have, never falling; W from there on.
        width: of the numbers, Q.
        rate: share of the numbers that is not skipped; a skip costs -log(1 - rate), a match -log(rate).
        is_whole: the numbers are all there are, so every place has one; else the last places may lie beyond them (-1).

    Returns:
        [P] numbers, and the sum.
    """
    count, reach = worth_PW.shape
    skip, match = np.float32(-np.log(max(1 - rate, 1e-3))), np.float32(np.log(rate))
    sums_PW = worth_PW + (
        match + skip
    )  # of the best way that ends at a number; what is skipped behind it is added back
    peak_PW = np.empty_like(sums_PW)
    before_W = np.full(reach, -skip, np.float32)
    for row in range(count):
        if row:
            moved = int(first_P[row] - first_P[row - 1])
            before_W = np.full(reach, peak_PW[row - 1, -1], np.float32)
            if moved:
                kept = peak_PW[row - 1, moved - 1 :]
                before_W[: len(kept)] = kept
            else:
                before_W[0], before_W[1:] = -np.inf, peak_PW[row - 1, :-1]
        sums_PW[row] += before_W
        np.maximum.accumulate(sums_PW[row], out=peak_PW[row])
    last = count - 1 if is_whole else int(peak_PW[:, -1].argmax())
    found_P = np.full(count, -1, np.int64)
    end = reach
    for row in range(last, -1, -1):
        found_P[row] = int(sums_PW[row, :end].argmax()) + first_P[row]
        end = min(reach, int(found_P[row] - first_P[row - 1])) if row else 0
    return found_P, float(peak_PW[last, -1] - skip * (width - 1))


def odds_in_order(worth_PW: NDArray[np.float32], first_P: NDArray[np.int64], width: int, rate: float) -> Odds:
    """How probable each match is, by passing forwards and backwards through the places.

    Args:
        worth_PW, first_P, width, rate: as in `match_in_order`. The last places may lie beyond the numbers, worth 0.

    References:
        Rabiner, A tutorial on hidden Markov models, Proceedings of the IEEE 77(2), 1989, section III A and B, scaled.
    """
    count, reach = worth_PW.shape
    skip = 1 - rate
    moved_P, at_end_P = np.diff(first_P), first_P + reach >= width
    longest = min(reach + int(moved_P.max(initial=0)), int(np.log(FAINT) / np.log(skip)) + 2)
    kernel = rate * skip ** np.arange(longest)
    past_W = skip ** np.arange(reach)[::-1].astype(float)  # of a place at a number, that the next one lies beyond all
    top_P = np.maximum(worth_PW.max(axis=1), 0).astype(np.float64)
    likely_PW, blank_P = np.exp(worth_PW - top_P[:, None]), np.exp(-top_P)
    share_PW, beyond_P = np.empty((count, reach)), np.empty(count)
    before_W, beyond, nats = rate * skip ** (first_P[0] + np.arange(reach)), skip**width, 0.0
    for row in range(count):
        if row:
            before_W = _ahead(share_PW[row - 1], kernel, int(moved_P[row - 1]))
            beyond = beyond_P[row - 1] + (float(share_PW[row - 1] @ past_W) if at_end_P[row - 1] else 0.0)
        found_W, beyond = before_W * likely_PW[row], beyond * blank_P[row]
        total = max(float(found_W.sum()) + beyond, np.finfo(float).tiny)
        share_PW[row], beyond_P[row] = found_W / total, beyond / total
        nats += float(np.log(total)) + float(top_P[row])
    after_W, after = np.ones(reach), 1.0
    for row in range(count - 2, -1, -1):
        after *= float(blank_P[row + 1])
        after_W = _behind(after_W * likely_PW[row + 1], kernel, int(moved_P[row]))
        if at_end_P[row]:
            after_W += past_W * after
        total = max(float(share_PW[row] @ after_W) + beyond_P[row] * after, np.finfo(float).tiny)
        after_W, after = after_W / total, after / total
        share_PW[row] *= after_W
    return Odds(share_PW, nats)


def _ahead(mass_W: NDArray[np.float64], kernel: NDArray[np.float64], moved: int) -> NDArray[np.float64]:
    """[W] of the next place, whose numbers start `moved` further on: each number from all below it."""
    found = np.convolve(mass_W, kernel)
    ahead_W = np.zeros(len(mass_W))
    kept = found[max(moved - 1, 0) :][: len(mass_W) - (moved == 0)]
    ahead_W[int(moved == 0) :][: len(kept)] = kept
    return ahead_W


def _behind(value_W: NDArray[np.float64], kernel: NDArray[np.float64], moved: int) -> NDArray[np.float64]:
    """[W] of the place before, whose numbers start `moved` further back: each number from all above it."""
    found = np.convolve(value_W, kernel[::-1])
    padded = np.concatenate([np.zeros(moved), found, [0.0]])
    return padded[len(kernel) : len(kernel) + len(value_W)]
