"""Pairings that a data set's own lists suggest: of all labels, of all paths, of the positions of its rows.

Shapes: N rows, K classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.lists import Lists
from finefold.doctor.pairings import Pairing
from finefold.doctor.trials import Court, Trial


def longest_labels(lists: Lists, own: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64] | None:
    """A list that begins with the labels as they are, under whatever names, and goes on: its codes.

    Args:
        lists: of the data set.
        own: [N] the rows' labels as text.
        class_names: [K].
    """
    codes = {name: code for code, name in enumerate(class_names)}
    for texts in (lists.labels or {}).values():
        named = dict(zip(texts, own, strict=False))
        is_one_to_one = len(set(named.values())) == len(named) and set(texts) <= named.keys()
        if len(texts) > len(own) and is_one_to_one and [named[text] for text in texts[: len(own)]] == list(own):
            return np.array([codes[named[text]] for text in texts], np.int64)
    return None


def by_lists(
    court: Court,
    rows_N: NDArray[np.int64],
    lists: Lists,
    paths: Sequence[str] | None,
    longer: NDArray[np.int64] | None,
    in_folder: Sequence[Pairing],
) -> list[Trial]:
    """Pairings that the data set's own lists, or its folder on disk, suggest.

    Args:
        court: of the rows.
        rows_N: their numbers in the data set.
        lists, paths, longer, in_folder: see `judging.Known`.
    """
    count = len(rows_N)
    indices = lists.indices or {}
    wide = court if longer is None else court.with_labels(longer)
    num_labels = len(wide.every_label)
    found = []
    if longer is None:
        found += [
            Pairing(f"the positions in `{name}`, one for each label", _inverse(places, count), "subset")
            for name, places in indices.items()
            if len(places) == count and list(places) != list(range(count))
        ]
    found += [
        Pairing(f"the positions in `{name}`", np.asarray(places)[rows_N], "subset")
        for name, places in indices.items()
        if len(places) > int(rows_N.max()) and max(places) < num_labels and list(places) != list(range(len(places)))
    ]
    own, every = paths, lists.every_path
    if own and len(every) > count and (longer is None or len(every) == num_labels):
        place_of = {path: place for place, path in enumerate(every)}
        positions = np.array([place_of.get(path, -1) for path in own])
        found.append(Pairing("the place of each path in the whole list of paths", positions, "subset"))
    found += in_folder
    return [wide.hear(pairing) for pairing in found if _is_other(pairing, wide, count)]


def _is_other(pairing: Pairing, court: Court, count: int) -> bool:
    """Whether it labels some rows, and some of them otherwise than they are."""
    labels_N = pairing.labels(court.every_label)
    return bool(((labels_N >= 0) & (labels_N != court.labels_N)).any()) and bool((labels_N >= 0).sum() > count // 5)


def _inverse(places: Sequence[int], count: int) -> NDArray[np.int64]:
    """[N] which entry of an index list names each row; -1 for rows that none names."""
    source_N = np.full(count, -1, np.int64)
    for entry, place in enumerate(places):
        if place < count:
            source_N[place] = entry
    return source_N
