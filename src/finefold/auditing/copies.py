"""Which images show the same photo: the same file twice, or the same picture in another crop, size, light or encoding.

Shapes: N images, P pairs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from finefold.auditing.looks import Looks
from finefold.auditing.neighbours import likeness_of_pairs, nearest
from finefold.auditing.perceptual import Likeness, hash_pairs
from finefold.data.images import content_hash
from finefold.data.machine import num_threads
from finefold.data.store import ContentStore

NEIGHBOURS = 6  # of each image that are looked at; of large data fewer
MOST_CANDIDATES = 250_000  # pairs that are aligned: minutes on two processors
MOST_BITS = 6  # of 64 that perceptual hashes of candidates differ in
LEAST_LIKENESS = 0.8  # whatever the data's own neighbours say
MOST_LIKENESS = 0.995
_SURE = 4.75  # standard deviations: of a million pairs that are merely alike about one is that much alike
_UPPER = 1.2816  # of the normal distribution, 90 %
_NULL_IMAGES = 150
_EVEN_TONES = 1.0  # deviation of grey below which a thumb shows nothing to compare
_BLOCK = 1_024

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Copies:
    """Pairs of images that show the same photo.

    Args:
        pairs_P2: i < j, best first; exact copies come first.
        likeness_P: correlation of aligned local contrast, 1 for exact copies.
        is_exact_P: whether the two files are the same, byte by byte.
        is_mirrored_P: whether one is the other's mirror image.
        least: likeness from which pairs count as copies.
        typical: median likeness of neighbours that are no copies.
        num_candidates: pairs that were compared.
        num_left: less alike candidates that were not, so that there may be more copies.
    """

    pairs_P2: NDArray[np.int64]
    likeness_P: NDArray[np.float64]
    is_exact_P: NDArray[np.bool_]
    is_mirrored_P: NDArray[np.bool_]
    least: float
    typical: float
    num_candidates: int
    num_left: int = 0

    def __len__(self) -> int:
        return len(self.pairs_P2)

    def across(self, codes_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the pairs whose two images have different codes, say of groups or folds."""
        return np.flatnonzero(codes_N[self.pairs_P2[:, 0]] != codes_N[self.pairs_P2[:, 1]])

    def among(self, is_in_N: NDArray[np.bool_]) -> "Copies":
        """The pairs of which both images are in."""
        keep = is_in_N[self.pairs_P2].all(axis=1)
        return replace(
            self,
            pairs_P2=self.pairs_P2[keep],
            likeness_P=self.likeness_P[keep],
            is_exact_P=self.is_exact_P[keep],
            is_mirrored_P=self.is_mirrored_P[keep],
        )


def find_copies(
    looks: Looks,
    groups_N: NDArray[np.int64],
    features_ND: NDArray[np.floating] | None,
    *,
    cache: Path | None = None,
    is_near: bool = True,
    most_pairs: int = MOST_CANDIDATES,
    seed: int = 0,
    advance: Progress = lambda _: None,
) -> Copies:
    """Exact copies everywhere, and near ones between groups.

    Candidates are neighbours by features and by perceptual hash. Each is aligned and compared, and counts as a copy
    where it is more alike than images of this data ever are that are merely similar: the bar lies 4.75 deviations
    above the median of neighbours, on Fisher's scale, and nowhere below 0.8.

    Args:
        looks: of the images.
        groups_N: codes; images of one group are no near copies of each other, whatever they look like.
        features_ND: of the images, zero where unreadable; without them only the hashes find candidates.
        cache: folder of the cache, where pairs that were compared before are known; None compares all.
        is_near: False looks for exact copies alone.
        most_pairs: that are compared; of more candidates those whose features are most alike.
        seed: of what is drawn.
        advance: told how many pairs were compared since.
    """
    exact_P2 = _exact_pairs(looks.content_N, looks.is_readable_N)
    if not is_near or len(groups_N) < 2:
        return _copies(exact_P2, [], LEAST_LIKENESS, 0.0, 0)
    rng = np.random.default_rng(seed)
    usable = looks.is_readable_N & _shows_something(looks.rows_N["thumb"])
    if usable.sum() < 2:
        return _copies(exact_P2, [], LEAST_LIKENESS, 0.0, 0)
    neighbours_NK = np.zeros((len(groups_N), 0), np.int64)
    if features_ND is not None:
        neighbours_NK = nearest(features_ND, groups_N, num_neighbours=NEIGHBOURS, rng=rng)
    exact = {(i, j) for i, j in exact_P2.tolist()}
    most = max(2, min(NEIGHBOURS, MOST_CANDIDATES // len(groups_N)))
    pairs = [pair for pair in _candidates(looks, groups_N, usable, neighbours_NK[:, :most]) if pair not in exact]
    num_found = len(pairs)
    if features_ND is not None and num_found > most_pairs:
        alike_P = likeness_of_pairs(features_ND, np.array(pairs), rng=rng)
        pairs = [pairs[place] for place in np.sort(np.argsort(-alike_P, kind="stable")[:most_pairs]).tolist()]
    likeness = Likeness(looks.rows_N["thumb"], rng=rng)
    null_pairs = _null_pairs(groups_N, usable, neighbours_NK, rng)
    with _known(cache) as known:
        compare = partial(_compare, likeness, looks.content_N, known)
        least, typical = _bar([alike for _, alike, _ in compare(null_pairs, lambda _: None)])
        near = [one for one in compare(pairs, advance) if one[1] >= least]
    return _copies(exact_P2, near, least, typical, len(pairs), num_found - len(pairs))


def clusters(pairs: Iterable[Sequence[int]]) -> list[list[int]]:
    """Connected sets of what pairs connect, each sorted, in the order of their first members."""
    parent: dict[int, int] = {}

    def root(one: int) -> int:
        while parent.setdefault(one, one) != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    for i, j in pairs:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    members: dict[int, list[int]] = {}
    for one in sorted(parent):
        members.setdefault(root(one), []).append(one)
    return list(members.values())


def _shows_something(thumbs_NHW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[N] whether there is more than one tone; in blocks, for the deviations of all at once take 33 kB an image."""
    starts = range(0, len(thumbs_NHW), _BLOCK)
    return np.concatenate([thumbs_NHW[start : start + _BLOCK].std(axis=(1, 2)) for start in starts]) > _EVEN_TONES


def _exact_pairs(content_N: Sequence[bytes], is_readable_N: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[P, 2]: of files with equal content, each with the first."""
    first: dict[bytes, int] = {}
    pairs = []
    for row, content in enumerate(content_N):
        if is_readable_N[row]:  # empty and broken files are told of as such
            earlier = first.setdefault(content, row)
            if earlier != row:
                pairs.append((earlier, row))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _candidates(
    looks: Looks, groups_N: NDArray[np.int64], usable_N: NDArray[np.bool_], neighbours_NK: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Pairs worth comparing, i < j, of different groups."""
    rows = np.repeat(np.arange(len(groups_N)), neighbours_NK.shape[1])
    by_features = np.sort(np.stack([rows, neighbours_NK.ravel()], axis=1)[neighbours_NK.ravel() >= 0], axis=1)
    hashes_N, mirrored_N = looks.rows_N["hash"].copy(), looks.rows_N["mirrored"].copy()
    most = max(1000, min(len(groups_N), MOST_CANDIDATES - len(by_features)))
    by_hash = [
        hash_pairs(hashes_N, others_N, most_bits=MOST_BITS, most_pairs=most) for others_N in (hashes_N, mirrored_N)
    ]
    pairs_P2 = np.unique(np.concatenate([by_features, *by_hash]), axis=0)
    i, j = pairs_P2.T
    return [(a, b) for a, b in pairs_P2[usable_N[i] & usable_N[j] & (groups_N[i] != groups_N[j])].tolist()]


def _null_pairs(
    groups_N: NDArray[np.int64], usable_N: NDArray[np.bool_], neighbours_NK: NDArray[np.int64], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Pairs that are alike and, but for a few, no copies: later neighbours of some images, or any other image's."""
    rows = rng.permutation(np.flatnonzero(usable_N))[:_NULL_IMAGES]
    if neighbours_NK.shape[1] >= NEIGHBOURS:
        others = neighbours_NK[rows][:, NEIGHBOURS // 2 :]
    else:
        others = rng.choice(np.flatnonzero(usable_N), (len(rows), NEIGHBOURS // 2))
    pairs = np.stack([np.repeat(rows, others.shape[1]), others.ravel()], axis=1)
    i, j = pairs.T
    keep = (j >= 0) & usable_N[j] & (groups_N[i] != groups_N[j])
    return [(a, b) for a, b in pairs[keep].tolist()]


def _bar(likenesses: Sequence[float]) -> tuple[float, float]:
    """The likeness from which a pair is a copy, and what is typical of neighbours."""
    aligned = np.clip([alike for alike in likenesses if alike > -1], -0.99, 0.9999)
    if len(aligned) < 20:
        return LEAST_LIKENESS, 0.0
    middle, upper = np.arctanh(np.quantile(aligned, [0.5, 0.9]))
    bar = float(np.tanh(middle + _SURE * (upper - middle) / _UPPER))
    return float(np.clip(bar, LEAST_LIKENESS, MOST_LIKENESS)), float(np.tanh(middle))


@contextmanager
def _known(cache: Path | None) -> Iterator[ContentStore | None]:
    """The store of pairs that were compared before."""
    if cache is None:
        yield None
        return
    about = {"kind": "likeness", "what": "pairs of images that were aligned and compared"}
    store = ContentStore.open(cache / "likeness" / "1", (2,), np.float32, about=about)
    try:
        yield store
    finally:
        store.close()


def _compare(
    likeness: Likeness,
    contents: Sequence[bytes],
    known: ContentStore | None,
    pairs: Sequence[tuple[int, int]],
    advance: Progress,
) -> list[tuple[tuple[int, int], float, bool]]:
    """Each pair with its likeness, and whether it is one of mirror images."""

    def compare(start: int) -> list[tuple[tuple[int, int], float, bool]]:
        part = pairs[start : start + 200]
        keys = [content_hash(likeness.digest + contents[i] + contents[j]) for i, j in part]
        rows, is_found = np.zeros((len(part), 2), np.float32), np.zeros(len(part), bool)
        if known is not None:
            rows, is_found = known.read(keys)
        fresh = np.flatnonzero(~is_found)
        for place in fresh.tolist():
            rows[place] = likeness.of(*part[place])
        if known is not None and len(fresh):
            known.append([keys[place] for place in fresh], rows[fresh])
        advance(len(part))
        return [(pair, float(row[0]), bool(row[1])) for pair, row in zip(part, rows, strict=True)]

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(num_threads()) as pool:
        return [one for part in pool.map(compare, range(0, len(pairs), 200)) for one in part]


def _copies(
    exact_P2: NDArray[np.int64],
    near: Sequence[tuple[tuple[int, int], float, bool]],
    least: float,
    typical: float,
    num_candidates: int,
    num_left: int = 0,
) -> Copies:
    near = sorted(near, key=lambda one: -one[1])
    pairs = [*exact_P2.tolist(), *(pair for pair, _, _ in near)]
    return Copies(
        np.array(pairs, np.int64).reshape(-1, 2),
        np.array([1.0] * len(exact_P2) + [alike for _, alike, _ in near]),
        np.arange(len(pairs)) < len(exact_P2),
        np.array([False] * len(exact_P2) + [mirrored for _, _, mirrored in near], bool),
        least,
        typical,
        num_candidates,
        num_left,
    )
