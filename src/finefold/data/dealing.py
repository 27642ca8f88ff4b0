"""Deal groups of samples to folds so that every class is spread as evenly as its groups allow.

The search behind `splits.make_split`. Groups with the same number of samples of every class are
interchangeable, so the search works on *patterns* and how many groups of each go to each fold; which
group goes where is drawn at the end. Everything is computed in integers: the same seed gives the same
folds on every machine.

Shapes: N samples, G groups, P patterns, F folds, K classes; one more column (K) counts all samples;
Z non-zero cells of the patterns' counts, pattern by pattern.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

GREEDY_BUDGET = 200_000  # groups placed one by one, over all tries
SWAP_BUDGET = 1_000_000_000  # multiplications spent on swaps, over all tries
SWAP_CANDIDATES = 128  # patterns looked at on each side of a swap
SWAP_PAIRS = 60  # pairs of folds looked at in one round
REPAIR_STEPS = 400


@dataclass(frozen=True)
class Patterns:
    """The distinct class-count vectors of the groups, as sparse rows, with the weights of the cost.

    The cost of a deal is the sum over folds and columns of weight * (F * count - total)^2, with weight
    about 1 / total^2: deviations count relative to the class, a rare class as much as a common one.
    """

    folds: int
    pattern_G: Ints
    num_groups_P: Ints
    start_P: Ints
    end_P: Ints
    column_Z: Ints
    count_Z: Ints
    weighted_Z: Ints  # count times the column's weight
    total_K: Ints  # of every column, the one of all samples last
    weight_K: Ints

    @property
    def self_cost_P(self) -> Ints:
        """What a pattern costs for its own size when it moves."""
        return self.folds * np.add.reduceat(self.weighted_Z * self.count_Z, self.start_P)

    def pull_of(self, deviation_K: Ints) -> Ints:
        """How much dearer each pattern makes a fold with these deviations: [P], lower is better."""
        return np.add.reduceat(self.weighted_Z * deviation_K[self.column_Z], self.start_P)

    def cells_of(self, pattern: int) -> slice:
        """Where the cells of a pattern lie."""
        return slice(int(self.start_P[pattern]), int(self.end_P[pattern]))

    def dense(self, chosen: Ints) -> Ints:
        """The counts of the chosen patterns as a matrix, one row each."""
        counts = np.zeros((len(chosen), len(self.total_K)), dtype=np.int64)
        for row, pattern in enumerate(chosen):
            cells = self.cells_of(pattern)
            counts[row, self.column_Z[cells]] = self.count_Z[cells]
        return counts


@dataclass
class Deal:
    """A deal under way: how many groups of each pattern lie in each fold, and what is off by how much."""

    dealt_PF: Ints
    deviation_FK: Ints  # F * count - total

    def move(self, patterns: Patterns, pattern: int, *, source: int, target: int) -> None:
        """Move one group of a pattern to another fold."""
        self.dealt_PF[pattern, source] -= 1
        self.dealt_PF[pattern, target] += 1
        cells = patterns.cells_of(pattern)
        step = patterns.folds * patterns.count_Z[cells]
        self.deviation_FK[source, patterns.column_Z[cells]] -= step
        self.deviation_FK[target, patterns.column_Z[cells]] += step


def deal_groups(group_N: Ints, labels_N: Ints, *, num_classes: int, folds: int, seed: int, tries: int) -> Ints:
    """The fold of every group, [G].

    Args:
        group_N: the group of each sample, 0..G-1, every group used, G >= folds.
        labels_N: the class of each sample, 0..num_classes-1.
        num_classes: K.
        folds: F, at least 2.
        seed: decides which of the interchangeable groups go where, and the order of the tries.
        tries: how many deals are made; the best is kept. Fewer are made of very many groups, whose
            balance the first deal reaches anyway.
    """
    patterns = find_patterns(group_N, labels_N, num_classes=num_classes, folds=folds)
    loose = int((patterns.num_groups_P % folds).sum())
    tries = max(1, min(tries, GREEDY_BUDGET // max(1, loose)))
    best, best_cost = None, None
    for attempt in range(tries):
        rng = np.random.PCG64([seed, attempt + 1])
        deal = place(patterns, rng, first=attempt == 0)
        improve(patterns, deal, rng, budget=SWAP_BUDGET // tries)
        spread_classes(patterns, deal, rng)
        cost = cost_of(patterns, deal)
        if best_cost is None or cost < best_cost:
            best, best_cost = deal, cost
    assert best is not None
    by_pattern_G = np.lexsort((np.random.PCG64([seed, 0]).random_raw(len(patterns.pattern_G)), patterns.pattern_G))
    fold_G = np.empty(len(by_pattern_G), dtype=np.int64)
    fold_G[by_pattern_G] = np.repeat(np.tile(np.arange(folds), len(best.dealt_PF)), best.dealt_PF.ravel())
    return fold_G


def find_patterns(group_N: Ints, labels_N: Ints, *, num_classes: int, folds: int) -> Patterns:
    """Count classes per group and find the groups with the same counts."""
    cell_C, count_C = np.unique(group_N * num_classes + labels_N, return_counts=True)
    column_C, cells_G = cell_C % num_classes, np.bincount(cell_C // num_classes)
    start_G = np.cumsum(cells_G) - cells_G
    pattern_G = np.empty(len(cells_G), dtype=np.int64)
    columns, counts, lengths, found = [], [], [], 0
    for num_cells in np.unique(cells_G):  # groups with as many classes make a matrix
        chosen = np.flatnonzero(cells_G == num_cells)
        cells = start_G[chosen][:, None] + np.arange(num_cells)
        rows, inverse = np.unique(np.hstack([column_C[cells], count_C[cells]]), axis=0, return_inverse=True)
        pattern_G[chosen] = found + inverse.ravel()
        found += len(rows)
        sizes = rows[:, num_cells:].sum(axis=1, keepdims=True)
        columns.append(np.hstack([rows[:, :num_cells], np.full_like(sizes, num_classes)]).ravel())
        counts.append(np.hstack([rows[:, num_cells:], sizes]).ravel())
        lengths.append(np.full(len(rows), num_cells + 1))
    column_Z, count_Z, length_P = np.concatenate(columns), np.concatenate(counts), np.concatenate(lengths)
    total_K = np.append(np.bincount(labels_N, minlength=num_classes), len(labels_N))
    scale = 1 << (58 - (folds * len(total_K)).bit_length())  # sums of weighted cells stay below 2^62
    weight_K = np.array([max(1, scale // max(1, int(total)) ** 2) for total in total_K], dtype=np.int64)
    end_P = np.cumsum(length_P)
    return Patterns(
        folds=folds,
        pattern_G=pattern_G,
        num_groups_P=np.bincount(pattern_G, minlength=found),
        start_P=end_P - length_P,
        end_P=end_P,
        column_Z=column_Z,
        count_Z=count_Z,
        weighted_Z=weight_K[column_Z] * count_Z,
        total_K=total_K,
        weight_K=weight_K,
    )


def place(patterns: Patterns, rng: np.random.PCG64, *, first: bool) -> Deal:
    """Deal equal shares of every pattern, then the rest one by one, heaviest first, where it fits best.

    The first try goes strictly by weight, the others shake the order by up to a half.
    """
    folds = patterns.folds
    share_P, rest_P = np.divmod(patterns.num_groups_P, folds)
    dealt_PF = np.repeat(share_P[:, None], folds, axis=1)
    length_P = patterns.end_P - patterns.start_P
    placed_K = np.zeros_like(patterns.total_K)
    np.add.at(placed_K, patterns.column_Z, np.repeat(share_P, length_P) * patterns.count_Z)
    deviation_FK = np.tile(folds * placed_K - patterns.total_K, (folds, 1))
    key_P = rng.random_raw(len(share_P))
    weight_P = patterns.self_cost_P // 1024
    if not first:
        weight_P = weight_P * (512 + (key_P >> 55).astype(np.int64))
    order_P = np.lexsort((key_P, -weight_P))
    for pattern in np.repeat(order_P, rest_P[order_P]).tolist():
        cells = patterns.cells_of(pattern)
        column = patterns.column_Z[cells]
        fold = int((deviation_FK[:, column] @ patterns.weighted_Z[cells]).argmin())
        deviation_FK[fold, column] += folds * patterns.count_Z[cells]
        dealt_PF[pattern, fold] += 1
    return Deal(dealt_PF, deviation_FK)


def improve(patterns: Patterns, deal: Deal, rng: np.random.PCG64, *, budget: int) -> None:
    """Move and swap groups between folds while that makes the deal better."""
    pull_FP = np.stack([patterns.pull_of(deviation_K) for deviation_K in deal.deviation_FK])
    self_P = patterns.self_cost_P
    width = min(len(self_P), SWAP_CANDIDATES)
    pairs = [(a, b) for a in range(patterns.folds) for b in range(a + 1, patterns.folds)]
    rounds = budget // (min(len(pairs), SWAP_PAIRS) * width * width * len(patterns.total_K))
    moves_left = min(1000, budget // (10 * pull_FP.size))
    for _ in range(max(2, min(100, rounds))):
        moves_left -= _move_all(patterns, deal, pull_FP, self_P, limit=moves_left)
        chosen = pairs
        if len(pairs) > SWAP_PAIRS:
            chosen = [pairs[draw % len(pairs)] for draw in rng.random_raw(SWAP_PAIRS).tolist()]
        if not sum(_swap_best(patterns, deal, pull_FP, self_P, pair, rng) for pair in chosen):
            return


def _refresh(patterns: Patterns, deal: Deal, pull_FP: Ints, *folds: int) -> None:
    for fold in folds:
        pull_FP[fold] = patterns.pull_of(deal.deviation_FK[fold])


def _move_all(patterns: Patterns, deal: Deal, pull_FP: Ints, self_P: Ints, *, limit: int) -> int:
    """Make the best single moves until none helps; the number made."""
    groups_F = deal.dealt_PF.sum(axis=0)
    never = np.iinfo(np.int64).min // 2
    for made in range(limit):
        may_leave_PF = (deal.dealt_PF > 0) & (groups_F > 1)
        gain_P = np.where(may_leave_PF.T, pull_FP, never).max(axis=0) - pull_FP.min(axis=0) - self_P
        pattern = int(gain_P.argmax())
        if gain_P[pattern] <= 0:
            return made
        source = int(np.where(may_leave_PF[pattern], pull_FP[:, pattern], never).argmax())
        target = int(pull_FP[:, pattern].argmin())
        deal.move(patterns, pattern, source=source, target=target)
        groups_F[source] -= 1
        groups_F[target] += 1
        _refresh(patterns, deal, pull_FP, source, target)
    return limit


def _swap_best(
    patterns: Patterns, deal: Deal, pull_FP: Ints, self_P: Ints, pair: tuple[int, int], rng: np.random.PCG64
) -> bool:
    """Make the best swap between two folds, if one helps."""
    a, b = pair
    leave_a, leave_b = (_draw(np.flatnonzero(deal.dealt_PF[:, fold]), rng) for fold in pair)
    cost_a = pull_FP[b, leave_a] - pull_FP[a, leave_a] + self_P[leave_a]
    cost_b = pull_FP[a, leave_b] - pull_FP[b, leave_b] + self_P[leave_b]
    shared = (patterns.dense(leave_a) * patterns.weight_K) @ patterns.dense(leave_b).T
    cost = cost_a[:, None] + cost_b[None, :] - 2 * patterns.folds * shared
    best = int(cost.argmin())
    if cost.flat[best] >= 0:
        return False
    row, column = divmod(best, cost.shape[1])
    deal.move(patterns, int(leave_a[row]), source=a, target=b)
    deal.move(patterns, int(leave_b[column]), source=b, target=a)
    _refresh(patterns, deal, pull_FP, a, b)
    return True


def _draw(candidates: Ints, rng: np.random.PCG64) -> Ints:
    """At most SWAP_CANDIDATES of the candidates, all of them if they are few."""
    if len(candidates) <= SWAP_CANDIDATES:
        return candidates
    drawn = rng.random_raw(SWAP_CANDIDATES) % np.uint64(len(candidates))
    return candidates[np.unique(drawn).astype(np.int64)]


def spread_classes(patterns: Patterns, deal: Deal, rng: np.random.PCG64) -> None:
    """Move groups until no class that could be in two folds lies wholly in one.

    The cost alone nearly always sees to it. Where it does not, walk: take such a class, move one of its
    groups to where fewest classes are stuck afterwards. Some inputs cannot be spread at all (the question
    contains graph colouring), so the walk ends after REPAIR_STEPS.
    """
    length_P = patterns.end_P - patterns.start_P
    groups_K = np.bincount(patterns.column_Z, np.repeat(patterns.num_groups_P, length_P))
    can_spread_K = groups_K > 1
    for _ in range(REPAIR_STEPS):
        stuck = np.flatnonzero(_in_one_fold(patterns, deal) & can_spread_K)
        if len(stuck) == 0:
            return
        column = int(stuck[int(rng.random_raw()) % len(stuck)])
        source = int(deal.deviation_FK[:, column].argmax())
        holders = np.unique(np.searchsorted(patterns.end_P, np.flatnonzero(patterns.column_Z == column), "right"))
        holders = _draw(holders[deal.dealt_PF[holders, source] > 0], rng)
        options = [(int(p), f) for p in holders for f in range(patterns.folds) if f != source]
        scores = [_score_of_move(patterns, deal, option, source, can_spread_K) for option in options]
        pick = min(range(len(options)), key=scores.__getitem__)
        if rng.random_raw() % 4 == 0:
            pick = int(rng.random_raw()) % len(options)
        deal.move(patterns, options[pick][0], source=source, target=options[pick][1])


def _score_of_move(
    patterns: Patterns, deal: Deal, option: tuple[int, int], source: int, can_spread_K: NDArray[np.bool_]
) -> tuple[int, int]:
    """How many classes are stuck in one fold after a move, and what the move costs."""
    pattern, target = option
    cells = patterns.cells_of(pattern)
    apart_K = deal.deviation_FK[target, patterns.column_Z[cells]] - deal.deviation_FK[source, patterns.column_Z[cells]]
    cost = int((apart_K * patterns.weighted_Z[cells]).sum())
    deal.move(patterns, pattern, source=source, target=target)
    stuck = int((_in_one_fold(patterns, deal) & can_spread_K).sum())
    deal.move(patterns, pattern, source=target, target=source)
    return stuck, cost


def _in_one_fold(patterns: Patterns, deal: Deal) -> NDArray[np.bool_]:
    """Whether all samples of a column lie in one fold."""
    is_full_FK = deal.deviation_FK == (patterns.folds - 1) * patterns.total_K
    in_one_K: NDArray[np.bool_] = is_full_FK.any(axis=0) & (patterns.total_K > 0)
    return in_one_K


def cost_of(patterns: Patterns, deal: Deal) -> tuple[int, float, int]:
    """What to compare deals by: classes stuck in one fold, the largest relative deviation, the cost."""
    relative_FK = np.abs(deal.deviation_FK) / np.maximum(1, patterns.total_K)
    squares = deal.deviation_FK.astype(object) ** 2 * patterns.weight_K.astype(object)
    return int(_in_one_fold(patterns, deal).sum()), float(relative_FK.max()), int(squares.sum())
