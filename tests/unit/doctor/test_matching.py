"""Places matched with numbers in rising order."""

from itertools import combinations

import numpy as np
import pytest

from finefold.doctor.matching import match_in_order, odds_in_order


@pytest.mark.parametrize("is_whole", [True, False])
def test_matching_in_order_is_the_best_there_is(is_whole):
    """Against every choice of rising numbers, of all places or of the first ones."""
    rng = np.random.default_rng(0)
    rate = 0.6
    for _ in range(10):
        worth_PQ = rng.normal(3, 1, size=(4, 7)).astype(np.float32)
        found_P, total = match_in_order(worth_PQ, np.zeros(4, np.int64), 7, rate, is_whole=is_whole)

        def value(chosen, worth_PQ=worth_PQ):
            skipped = 7 - len(chosen)
            return worth_PQ[range(len(chosen)), chosen].sum() + len(chosen) * np.log(rate) + skipped * np.log(1 - rate)

        best = max(
            value(list(chosen))
            for size in (range(4, 5) if is_whole else range(1, 5))
            for chosen in combinations(range(7), size)
        )
        assert total == pytest.approx(best, abs=1e-3)
        assert value(found_P[found_P >= 0].tolist()) == pytest.approx(best, abs=1e-3)


def test_a_band_around_the_right_numbers_gives_what_all_numbers_give():
    """Only what lies far from the even stretch is left out, whichever way the windows move."""
    rng = np.random.default_rng(3)
    worth_PQ = rng.normal(size=(60, 90)).astype(np.float32)
    own_P = np.sort(rng.permutation(90)[:60])
    worth_PQ[np.arange(60), own_P] += 6
    whole_P, total = match_in_order(worth_PQ, np.zeros(60, np.int64), 90, 0.67, is_whole=True)
    first_P = np.clip(np.rint(np.arange(60) * 1.5).astype(int) - 15, 0, 90 - 31)
    banded_PW = worth_PQ[np.arange(60)[:, None], first_P[:, None] + np.arange(31)]
    found_P, same = match_in_order(banded_PW, first_P, 90, 0.67, is_whole=True)
    assert found_P.tolist() == whole_P.tolist() and same == pytest.approx(total, abs=1e-2)
    assert (found_P == own_P).mean() > 0.9


@pytest.mark.parametrize("slope", [0, 1, 2])
def test_odds_are_those_of_all_ways_together(slope):
    """Against every choice of rising numbers, the last places beyond them or not, in windows that move."""
    rng = np.random.default_rng(1)
    rate, count, reach = 0.7, 4, 5
    first_P = slope * np.arange(count)
    width = int(first_P[-1]) + reach
    for _ in range(5):
        worth_PW = rng.normal(0, 2, size=(count, reach)).astype(np.float32)
        share_PW, whole = np.zeros((count, reach)), 0.0
        for size in range(count + 1):
            for chosen in combinations(range(width), size):
                windows = np.array(chosen, int) - first_P[:size]
                is_past = 0 < size < count and first_P[size - 1] + reach < width  # the end, from a window before it
                if ((windows >= 0) & (windows < reach)).all() and not is_past:
                    used = width if size < count else chosen[-1] + 1  # the numbers that were gone through
                    likely = rate**size * (1 - rate) ** (used - size)
                    likely *= np.exp(worth_PW[range(size), windows].sum())
                    whole += likely
                    share_PW[range(size), windows] += likely
        odds = odds_in_order(worth_PW, first_P, width, rate)
        assert odds.share_PW == pytest.approx(share_PW / whole, abs=1e-5)
        assert odds.nats == pytest.approx(np.log(whole), abs=1e-4)
