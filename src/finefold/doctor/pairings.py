"""Other ways in which labels may belong to images.

A pairing is [N] positions: row i's image belongs to label number `source[i]`, or to none (-1). The pairing that the
data have is 0, 1, 2, ...

Shapes: N rows, M labels.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finefold.data.images import is_hidden_or_system, list_images, natural_key
from finefold.errors import DataError

Ranks = NDArray[np.int64]
Scope = Literal["all", "folder", "folders", "near", "misfit", "end", "stretch"]
LISTED = "the order of the rows"
MOST_FILES, TIMES_AS_MANY = 2000, 10  # that a folder may hold beyond the rows, to be gone through
MOST_OTHERS = 0.3  # of all rows, that may have another label than the rest of their folder, if folders name classes


@dataclass(frozen=True)
class Pairing:
    """Which label belongs to which image.

    Args:
        name: in words, as it completes "re-pairing by ...".
        source_N: position of each row's label; -1 for a row that would have none.
        kind: a family: `shift`, `order`, `reversed`, `subset`, `end` (of a run of labels), `name` (of folders).
        scope: what was free when it was looked for: nothing (`all` rows), a `folder`, which `folders` of several, the
            stretch of a `near` shift, a stretch that labels `misfit`, where a run of labels `end`s, any `stretch`. The
            more was free, the clearer it must be.
    """

    name: str
    source_N: NDArray[np.int64]
    kind: str
    scope: Scope = "all"

    def labels(self, labels_M: NDArray[np.int64]) -> NDArray[np.int64]:
        """[N] labels under this pairing; -1 where there is none."""
        inside = (self.source_N >= 0) & (self.source_N < len(labels_M))
        return np.where(inside, labels_M[np.where(inside, self.source_N, 0)], -1)


def shifted(count: int, by: int, *, cyclic: bool) -> Pairing:
    """Each row takes the label of the row `by` rows further on; cyclic, or with the end cut off."""
    source_N = np.arange(count) + by
    if cyclic:
        return Pairing(f"a cyclic shift of the labels by {-by:+d} rows", source_N % count, "shift")
    inside = (source_N >= 0) & (source_N < count)
    return Pairing(f"a shift of the labels by {-by:+d} rows", np.where(inside, source_N, -1), "shift")


def orders_of(paths: Sequence[str], *, on_disk: bool = True) -> Mapping[str, Ranks]:
    """Orders in which a program may have listed these files: name -> [N] place of each.

    Args:
        paths: of the rows.
        on_disk: look at their folders for the order in which the file system lists them.
    """
    files = [PurePath(path) for path in paths]
    keys: dict[str, list[tuple[str, ...]]] = {
        "natural order": [natural_key(path) for path in paths],
        "text order": [(path, "") for path in paths],
        "text order without regard to case": [(path.lower(), path) for path in paths],
        "order by extension": [(file.suffix, path) for file, path in zip(files, paths, strict=True)],
        "folder-wise text order": [(*natural_key(str(file.parent)), file.name) for file in files],
        "text order of the file names": [(file.name, path) for file, path in zip(files, paths, strict=True)],
        "natural order of the file names": [
            (*natural_key(file.name), path) for file, path in zip(files, paths, strict=True)
        ],
    }
    orders = {name: _ranks(sorted(range(len(paths)), key=values.__getitem__)) for name, values in keys.items()}
    if on_disk and (places := _places_on_disk(paths)) is not None:
        orders["the file system's order"] = places
    return orders


def by_orders(orders: Mapping[str, Ranks], rows: NDArray[np.int64], count: int) -> Iterator[Pairing]:
    """Labels that were listed in one order with images that were listed in another, for some rows among themselves.

    Args:
        orders: of all rows.
        rows: ascending; the others keep their labels.
        count: N.
    """
    for name, source in turned_by_orders(orders, rows):
        yield placed(name, rows, source, count, kind="order")


def turned_by_orders(orders: Mapping[str, Ranks], rows: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """(name, the row whose label each of `rows` takes) of every two orders, also backwards; none comes twice."""
    ranks = {LISTED: np.arange(len(rows))} | {name: _ranks(np.argsort(places[rows])) for name, places in orders.items()}
    distinct: dict[bytes, str] = {}
    for name, places in ranks.items():
        distinct.setdefault(places.tobytes(), name)
    ranks = {name: ranks[name] for name in distinct.values()}
    seen = {np.asarray(rows, np.int64).tobytes()}
    last = len(rows) - 1
    for images, of_images in ranks.items():
        at_rank = _ranks(of_images)  # which row has that rank
        for labels, of_labels in ranks.items():
            for is_reversed in (False, True):
                source = rows[at_rank[last - of_labels if is_reversed else of_labels]]
                if source.tobytes() not in seen:
                    seen.add(source.tobytes())
                    yield _order_name(images, labels, is_reversed), source


def placed(
    name: str, rows: NDArray[np.int64], source: NDArray[np.int64], count: int, *, kind: str, scope: Scope = "all"
) -> Pairing:
    """Some rows take others' labels; all others keep theirs."""
    source_N = np.arange(count)
    source_N[rows] = source
    return Pairing(name, source_N, kind, scope)


def _order_name(images: str, labels: str, is_reversed: bool) -> str:
    if labels == LISTED and images == LISTED:
        return "reversing the labels"
    backwards = ", backwards" if is_reversed else ""
    if labels == LISTED:
        return f"taking {images} for the images' and {LISTED} for the labels'{backwards}"
    return f"{labels} of the files{backwards}" + ("" if images == LISTED else f" (images were listed in {images})")


def folders_of(paths: Sequence[str]) -> Mapping[str, NDArray[np.int64]]:
    """The rows of each folder, where there is more than one."""
    return parts_of([str(PurePath(path).parent) for path in paths])


def parts_of(names: Sequence[str] | NDArray[np.int64]) -> Mapping[str, NDArray[np.int64]]:
    """Name -> rows that have it, ascending; nothing where all have the same, or each its own."""
    distinct, codes_N = np.unique(np.asarray(names), return_inverse=True)
    if len(distinct) < 2 or len(distinct) == len(codes_N):
        return {}
    by_part, starts = np.argsort(codes_N, kind="stable"), np.cumsum(np.bincount(codes_N))[:-1]
    return {str(name): rows for name, rows in zip(distinct, np.split(by_part, starts), strict=True)}


def by_class_folders(paths: Sequence[str], labels_N: NDArray[np.int64]) -> Iterator[Pairing]:
    """Where each class has a folder of its name, but for some rows: these take the label of their folder's others.

    Args:
        paths: of the rows; folders at all depths are looked at, counted from the file.
        labels_N: codes.
    """
    parents = [PurePath(path).parts[:-1] for path in paths]
    for depth in range(1, min(map(len, parents), default=0) + 1):
        rows_of = parts_of([names[-depth] for names in parents])
        own = {name: np.bincount(labels_N[rows]).argmax() for name, rows in rows_of.items()}
        if len(own) < 2 or len(set(own.values())) < len(own):
            continue
        source_N = np.arange(len(labels_N))
        for name, rows in rows_of.items():
            others = rows[labels_N[rows] != own[name]]
            source_N[others] = rows[labels_N[rows] == own[name]][0]
        num_others = int((source_N != np.arange(len(labels_N))).sum())
        if 0 < num_others <= MOST_OTHERS * len(labels_N):
            yield Pairing("the names of the files' folders", source_N, "name")


def of_whole_folder(paths: Sequence[str], num_labels: int | None = None) -> Iterator[Pairing]:
    """Labels of all images of the rows' common folder, in some order, against rows that are a part of them.

    Args:
        paths: of the rows.
        num_labels: in the list of labels; None where only those that came with the rows are known, the first of it.
    """
    files = [Path(path) for path in paths]
    try:
        root = Path(os.path.commonpath([str(file.parent) for file in files]))
        found = list_images(root).paths if _is_small(root, MOST_FILES + TIMES_AS_MANY * len(paths)) else ()
    except (DataError, ValueError, OSError):
        return
    if len(found) <= len(paths) or num_labels not in (None, len(found)):
        return
    inside = [file.relative_to(root).as_posix() for file in files]
    if not set(inside) <= set(found):
        return
    seen = set()
    for name, places in orders_of(found, on_disk=False).items():
        place_of = dict(zip(found, places.tolist(), strict=True))
        source_N = np.array([place_of[path] for path in inside])
        if source_N.tobytes() not in seen:
            seen.add(source_N.tobytes())
            yield Pairing(f"{name} of all {len(found)} files in {root.name}/", source_N, "subset")


def _is_small(root: Path, most: int) -> bool:
    """Whether a folder holds no more than so many files and folders at any depth; none is opened."""
    count = 0
    for _, folders, files in os.walk(root):
        count += len(folders) + len(files)
        if count > most:
            return False
    return True


def _ranks(order: Sequence[int] | NDArray[np.int64]) -> Ranks:
    """The inverse of a permutation."""
    ranks = np.empty(len(order), np.int64)
    ranks[np.asarray(order, np.int64)] = np.arange(len(order))
    return ranks


def _places_on_disk(paths: Sequence[str]) -> Ranks | None:
    """[N] place of each file as the file system lists its folder; None where some are not there."""
    place: dict[str, int] = {}
    for parent in dict.fromkeys(os.path.dirname(path) for path in paths):  # noqa: PTH120 - paths stay as they are said
        try:
            names = os.listdir(parent or ".")  # noqa: PTH208 - its order is what is asked for
        except OSError:
            return None
        for name in names:
            if not is_hidden_or_system(name):
                place[os.path.join(parent, name)] = len(place)  # noqa: PTH118
    if not set(paths) <= place.keys():
        return None
    return _ranks(sorted(range(len(paths)), key=lambda row: place[paths[row]]))
