"""Which unit of one state belongs where in another, by structure: containers first, then what is left in each.

Containers that hold the same multiset of units, whatever their names and depth, are paired and looked into; what
occurs once on both sides needs no more evidence. Where several could go to the same places, names, numbers,
neighbours and order decide together, and where they do not, the pair is marked with its rivals.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from finefold.nn.units import Unit, name_likeness, natural_order, words_and_numbers

# what each kind of evidence weighs
_NAMES, _SAME_WORDS, _NUMBERS, _SAME_NUMBER, _NEIGHBOURS, _ORDER = 3.0, 2.0, 1.5, 1.5, 1.5, 0.4
_CLEAR = 0.5  # by how much a pairing must beat the best other one
_SMALL_PART = 2  # units
_UNIQUE, _CHOSEN, _IN_DOUBT = 0.95, 0.8, 0.5  # confidences
_ALONE, _SAME_PART = "the only one of its shape there", "its part of the model,"
_IN_ORDER = 0.8  # the share of those pairs that must stand in order
_ALIKE = 0.6  # words this like each other may be numbered alike
_SOLVED_AGAIN = 40  # elements; of more, only exchanges of two are looked at for rivals
_MIN_ANCHORS = 2  # pairs in order before order counts as evidence


@dataclass(frozen=True)
class Pair:
    """A unit of the source and its place in the target.

    Args:
        source, target: numbers of the units.
        confidence: 0 to 1.
        reason: in words.
        rivals: other units of the source that would fit as well; empty where it is clear.
    """

    source: int
    target: int
    confidence: float
    reason: str
    rivals: tuple[int, ...] = ()


@dataclass
class _Side:
    """One side's units and what is known of each."""

    units: Sequence[Unit]
    labels: list[Hashable]
    names: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = [unit.path.split(".") for unit in self.units]

    def containers(self, inside: Sequence[int], root: str) -> dict[str, tuple[int, ...]]:
        """The containers strictly below `root` with the units of `inside` that each holds, outermost of equals."""
        depth = len(root.split(".")) if root else 0
        held: dict[str, list[int]] = defaultdict(list)
        for number in inside:
            names = self.names[number]
            for length in range(depth + 1, len(names)):
                held[".".join(names[:length])].append(number)
        seen: set[tuple[int, ...]] = {tuple(inside)}
        found: dict[str, tuple[int, ...]] = {}
        for path, numbers in sorted(held.items(), key=lambda pair: pair[0].count(".")):
            key = tuple(numbers)
            if len(key) > 1 and key not in seen:
                seen.add(key)
                found[path] = key
        return found


@dataclass(frozen=True)
class _Element:
    """A container or a single unit, as something to be paired."""

    path: str
    units: tuple[int, ...]


class Aligner:
    """Pairs the units of a source with those of a target.

    Args:
        source, target: the units.
        source_labels, target_labels: what each is; only units of equal labels are paired.
        order_is_kept: whether the source's units come in the order in which its model defines them.
    """

    def __init__(
        self,
        source: Sequence[Unit],
        target: Sequence[Unit],
        *,
        source_labels: Sequence[Hashable],
        target_labels: Sequence[Hashable],
        order_is_kept: bool,
    ) -> None:
        self._source = _Side(source, list(source_labels))
        self._target = _Side(target, list(target_labels))
        self._order_is_kept = order_is_kept
        self.pairs: dict[int, Pair] = {}  # by target
        self._places: dict[int, int] = {}  # source -> target

    def fix(self, pair: Pair) -> None:
        """Takes a pair as given."""
        self.pairs[pair.target] = pair
        self._places[pair.source] = pair.target

    def run(self) -> dict[int, Pair]:
        """Pairs what can be paired; target -> pair."""
        self._align(range(len(self._source.units)), range(len(self._target.units)), "", "")
        return self.pairs

    def _align(self, sources: Sequence[int], targets: Sequence[int], source_root: str, target_root: str) -> None:
        """Pairs units within one pair of containers."""
        left = [number for number in sources if number not in self._places]
        right = [number for number in targets if number not in self.pairs]
        if not left or not right:
            return
        groups = self._container_groups(left, right, source_root, target_root)
        scope = (tuple(sources), tuple(targets))
        # what occurs once comes first: it is the evidence by which the rest is told apart
        for is_tied in (False, True):
            for ours, theirs in groups:
                ours_free = [one for one in ours if not any(number in self._places for number in one.units)]
                theirs_free = [one for one in theirs if not any(number in self.pairs for number in one.units)]
                if (len(ours) > 1) == is_tied and len(ours_free) == len(theirs_free) == len(ours):
                    self._pair_containers(ours_free, theirs_free, scope)
            if not is_tied:
                self._pair_single(left, right, scope, only_unique=True)
        self._pair_single(left, right, scope, only_unique=False)

    def _container_groups(
        self, left: Sequence[int], right: Sequence[int], source_root: str, target_root: str
    ) -> list[tuple[list[_Element], list[_Element]]]:
        """Containers of both sides that hold the same units, as many here as there; the largest first."""
        ours = self._by_content(self._source, left, source_root)
        theirs = self._by_content(self._target, right, target_root)
        groups = [
            (elements, theirs[content])
            for content, elements in ours.items()
            if content in theirs and len(theirs[content]) == len(elements)
        ]
        return sorted(groups, key=lambda group: -len(group[0][0].units))

    @staticmethod
    def _by_content(side: _Side, inside: Sequence[int], root: str) -> dict[Hashable, list[_Element]]:
        found: dict[Hashable, list[_Element]] = defaultdict(list)
        for path, numbers in side.containers(inside, root).items():
            content = frozenset(Counter(side.labels[number] for number in numbers).items())
            found[content].append(_Element(path, numbers))
        return found

    def _pair_containers(
        self, ours: list[_Element], theirs: list[_Element], scope: tuple[Sequence[int], Sequence[int]]
    ) -> None:
        if len(ours) == 1 and self._is_interchangeable(ours[0], theirs[0], scope):
            return
        for one, other, doubt, why in self._choose(ours, theirs, scope, _ALONE):
            before = set(self.pairs)
            self._align(one.units, other.units, one.path, other.path)
            if why == _ALONE:
                continue
            for target in set(self.pairs) - before:
                pair = self.pairs[target]
                rivals = pair.rivals or self._likewise(pair, one, doubt)
                confidence = min(pair.confidence, _IN_DOUBT if doubt else _CHOSEN)
                reason = f"{_SAME_PART} {why}" if pair.reason == _ALONE else pair.reason
                self.pairs[target] = Pair(pair.source, target, confidence, reason, rivals)

    def _is_interchangeable(self, one: _Element, other: _Element, scope: tuple[Sequence[int], Sequence[int]]) -> bool:
        """Whether units like all of a container's stand outside it on both sides: then it need not be the same one."""
        sides = ((self._source, one, scope[0], self._places), (self._target, other, scope[1], self.pairs))
        for side, element, numbers, taken in sides:
            inside = set(element.units)
            outside = {side.labels[number] for number in numbers if number not in inside and number not in taken}
            if not {side.labels[number] for number in element.units} <= outside:
                return False
        return True

    def _likewise(self, pair: Pair, one: _Element, doubt: Sequence[_Element]) -> tuple[int, ...]:
        """The units of rival containers that stand where a pair's source stands in its own."""
        label = self._source.labels[pair.source]
        rank = [number for number in one.units if self._source.labels[number] == label].index(pair.source)
        same = ([number for number in rival.units if self._source.labels[number] == label] for rival in doubt)
        return tuple(numbers[rank] for numbers in same)

    def _pair_single(
        self,
        left: Sequence[int],
        right: Sequence[int],
        scope: tuple[Sequence[int], Sequence[int]],
        *,
        only_unique: bool,
    ) -> None:
        ours: dict[Hashable, list[_Element]] = defaultdict(list)
        theirs: dict[Hashable, list[_Element]] = defaultdict(list)
        for number in left:
            if number not in self._places:
                ours[self._source.labels[number]].append(_Element(self._source.units[number].path, (number,)))
        for number in right:
            if number not in self.pairs:
                theirs[self._target.labels[number]].append(_Element(self._target.units[number].path, (number,)))
        for label in sorted(theirs.keys() & ours.keys(), key=lambda one: len(theirs[one])):
            if only_unique and not len(ours[label]) == len(theirs[label]) == 1:
                continue
            for one, other, doubt, why in self._choose(ours[label], theirs[label], scope, _ALONE):
                confidence = _IN_DOUBT if doubt else _UNIQUE if why == _ALONE else _CHOSEN
                rivals = tuple(rival.units[0] for rival in doubt)
                self.fix(Pair(one.units[0], other.units[0], confidence, why, rivals))

    def _choose(
        self,
        ours: list[_Element],
        theirs: list[_Element],
        scope: tuple[Sequence[int], Sequence[int]],
        alone: str,
    ) -> list[tuple[_Element, _Element, list[_Element], str]]:
        """Who goes where among elements that would all fit: (ours, theirs, rivals, reason)."""
        if len(ours) == len(theirs) == 1:
            return [(ours[0], theirs[0], [], alone)]
        evidence = self._evidence(ours, theirs, scope)
        scores = np.sum(list(evidence.values()), axis=0)
        rows, columns = linear_sum_assignment(-scores)
        chosen = []
        for row, column in zip(rows, columns, strict=True):
            doubt = _rivals(scores, rows, columns, int(row), int(column))
            why = [name for name, part in evidence.items() if part[row, column] > 0 and np.ptp(part) > 0]
            reason = "by " + " and ".join(why) if why else "nothing tells it apart"
            chosen.append((ours[row], theirs[column], [ours[other] for other in doubt], reason))
        return chosen

    def _evidence(
        self, ours: list[_Element], theirs: list[_Element], scope: tuple[Sequence[int], Sequence[int]]
    ) -> dict[str, NDArray[np.float64]]:
        our_names, their_names = _short_names(ours), _short_names(theirs)
        likeness = np.array([[name_likeness(one, other) for other in their_names] for one in our_names])
        found = {"name": _NAMES * likeness + _SAME_WORDS * (likeness == 1)}
        same_number = _same_numbers(our_names, their_names, likeness)
        (our_ranks, are_ours_one), (their_ranks, are_theirs_one) = _number_ranks(ours), _number_ranks(theirs)
        same_rank = np.equal.outer(our_ranks, their_ranks)
        if not (are_ours_one and are_theirs_one):
            same_rank &= likeness >= _ALIKE
        if len(ours) == len(theirs):
            found["number"] = _NUMBERS * same_rank
            if (same_number > same_rank).any():  # counted from another number
                same_number = np.zeros_like(same_number)
        found["same number"] = _SAME_NUMBER * same_number
        trust = self._trust(scope)
        if trust:
            found["neighbours"] = _NEIGHBOURS * trust * self._neighbours(ours, theirs, scope)
        if trust and len(ours) == len(theirs):
            first, second = (_ranks([one.units[0] for one in side]) for side in (ours, theirs))
            found["order"] = _ORDER * trust * np.equal.outer(first, second)
        return found

    def _neighbours(
        self, ours: list[_Element], theirs: list[_Element], scope: tuple[Sequence[int], Sequence[int]]
    ) -> NDArray[np.float64]:
        """How many of the units right before and right after both elements are paired with each other."""
        sources, targets = ({number: place for place, number in enumerate(sorted(side))} for side in scope)
        in_source, in_target = sorted(scope[0]), sorted(scope[1])
        counts = np.zeros((len(ours), len(theirs)))
        for row, one in enumerate(ours):
            for column, other in enumerate(theirs):
                for edge, step in ((min, -1), (max, 1)):
                    place, spot = sources[edge(one.units)] + step, targets[edge(other.units)] + step
                    if 0 <= place < len(in_source) and 0 <= spot < len(in_target):
                        counts[row, column] += self._are_paired(in_source[place], in_target[spot])
        return counts

    def _are_paired(self, source: int, target: int) -> bool:
        """Whether a unit has its place at another, or right beside it in one small part (a layer with its norm)."""
        place = self._places.get(source)
        if place is None or place == target:
            return place == target
        parent = self._target.names[target][:-1]
        if self._target.names[place][:-1] != parent:
            return False
        return sum(names[:-1] == parent for names in self._target.names) <= _SMALL_PART

    def _trust(self, scope: tuple[Sequence[int], Sequence[int]]) -> float:
        """How far order can be believed: the share of the pairs so far that stand in order, here or else anywhere."""
        if not self._order_is_kept:
            return 0.0
        here = [self._places[number] for number in sorted(scope[0]) if number in self._places]
        if len(here) < _MIN_ANCHORS:
            here = [self._places[number] for number in sorted(self._places)]
        share = _longest_rise(here) / len(here) if len(here) >= _MIN_ANCHORS else 0.0
        return share if share >= _IN_ORDER else 0.0


def _rivals(
    scores: NDArray[np.float64], rows: NDArray[np.intp], columns: NDArray[np.intp], row: int, column: int
) -> list[int]:
    """The other rows that could have this column with hardly any loss to the whole."""
    places: Mapping[int, int] = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    found = []
    for other in range(len(scores)):
        if other == row:
            continue
        if other in places:
            loss = scores[row, column] + scores[other, places[other]]
            loss -= scores[other, column] + scores[row, places[other]]
        else:
            loss = scores[row, column] - scores[other, column]
        if loss < _CLEAR:
            found.append(other)
    if not found and len(scores) <= _SOLVED_AGAIN and scores.shape[0] >= scores.shape[1]:
        found = _rivals_in_rings(scores, rows, columns, row, column)
    return found


def _rivals_in_rings(
    scores: NDArray[np.float64], rows: NDArray[np.intp], columns: NDArray[np.intp], row: int, column: int
) -> list[int]:
    """The same where more than two would have to change places."""
    without = scores.copy()
    without[row, column] = scores.min() - scores.max() * len(scores) - 1
    other_rows, other_columns = linear_sum_assignment(-without)
    loss = scores[rows, columns].sum() - without[other_rows, other_columns].sum()
    return other_rows[other_columns == column].tolist() if loss < _CLEAR else []


def _same_numbers(names: Sequence[str], others: Sequence[str], likeness: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where names of like words end in the same number: conv2 and my_conv2."""
    numbers = [words_and_numbers(name)[1][-1:] for name in names]
    theirs = [words_and_numbers(name)[1][-1:] for name in others]
    same = np.array([[bool(one) and one == other for other in theirs] for one in numbers])
    return np.asarray(same.reshape(likeness.shape) * (likeness >= _ALIKE), np.float64)


def _short_names(elements: Sequence[_Element]) -> list[str]:
    """The elements' names without what stands before all of them, and without words that all of them have."""
    names = [element.path.split(".") for element in elements]
    shortest = min(len(parts) for parts in names)
    common = next((n for n in range(shortest) if len({parts[n] for parts in names}) > 1), shortest - 1)
    short = [".".join(parts[min(common, shortest - 1) :]) for parts in names]
    everywhere = set.intersection(*(set(words_and_numbers(name)[0]) for name in short))
    telling = [_without(name, everywhere) for name in short]
    return telling if all(words_and_numbers(name)[0] for name in telling) else short


def _without(name: str, words: set[str]) -> str:
    """A name without some words, numbers kept."""
    own, numbers = words_and_numbers(name)
    return "_".join([*(word for word in own if word not in words), *map(str, numbers)])


def _number_ranks(elements: Sequence[_Element]) -> tuple[NDArray[np.int64], bool]:
    """Ranks by the numbers in the names among those of the same words, -1 where they do not tell; whether all are."""
    parsed = [words_and_numbers(element.path) for element in elements]
    order = natural_order([element.path for element in elements])
    ranks = []
    for place, (words, _) in enumerate(parsed):
        alike = [other for other in range(len(parsed)) if parsed[other][0] == words]
        is_told = len({parsed[other][1] for other in alike}) == len(alike)
        ranks.append(sorted(order[other] for other in alike).index(order[place]) if is_told else -1 - place)
    return np.array(ranks), len({words for words, _ in parsed}) == 1


def _ranks(values: Sequence[int]) -> NDArray[np.int64]:
    return np.argsort(np.argsort(values))


def _longest_rise(values: Sequence[int]) -> int:
    """Length of the longest increasing subsequence."""
    tails: list[int] = []
    for value in values:
        place = bisect_left(tails, value)
        tails[place : place + 1] = [value]
    return len(tails)
