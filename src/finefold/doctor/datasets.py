"""Any map-style data set -> its labels, pictures on demand, and the lists that it keeps.

What `dataset[i]` yields is the truth: labels and images come from there, whatever lists the object has besides.
Shapes: N rows, K classes.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from finefold.data.images import content_hash, decode_image, natural_key
from finefold.data.store import ContentStore
from finefold.doctor.lists import Lists, find_lists, label_text
from finefold.doctor.pixels import Scale, find_scale
from finefold.errors import DataError, ImageError
from finefold.nn.engines import BATCH
from finefold.nn.features import DTYPE, Features, PrefixCache

IMAGE_KEYS = ("image", "img", "images", "pixel_values", "x", "input", "inputs")
LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "class_id")
NEEDED = (
    "the doctor needs a map-style data set: len(dataset), and dataset[i] that gives (image, label) or a dict with "
    f"one of {', '.join(IMAGE_KEYS[:3])} and one of {', '.join(LABEL_KEYS[:3])}"
)
NUM_LOOKED_AT = 32  # rows by which the numbers' scale is told
NUM_COMPARED = 12  # rows whose picture is compared with the file of that name
THUMB_PX = 12
CLOSE = 0.02  # correlations that tell no two pictures apart

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Rows:
    """A data set, read once.

    Args:
        dataset: the object.
        labels_N: codes in the order of `class_names`.
        class_names: [K] the labels' texts in natural order.
        features: of the images as the data set gives them.
        lists: what it keeps in attributes.
        scale: how its numbers were taken.
    """

    dataset: Any
    labels_N: NDArray[np.int64]
    class_names: tuple[str, ...]
    features: Features
    lists: Lists
    scale: Scale

    @property
    def texts(self) -> list[str]:
        """[N] labels as text."""
        return [self.class_names[code] for code in self.labels_N]


def num_rows(dataset: Any) -> int:
    """N.

    Raises:
        DataError: it is no map-style data set, or it is empty.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        kind = type(dataset).__name__
        raise DataError(f"no data set: {kind} has no {'length' if hasattr(dataset, '__getitem__') else '[i]'}", NEEDED)
    if len(dataset) == 0:
        raise DataError("the data set is empty: len(dataset) is 0", "give one that has rows")
    return len(dataset)


def read_rows(dataset: Any, cache: PrefixCache, *, advance: Advance = lambda _: None) -> Rows:
    """Goes through the data set once, in order, and leaves the random numbers of this process as they were.

    Args:
        dataset: map-style.
        cache: whose backbone and engine look at the images; rows are cached by pixels.
        advance: told how many rows were read since.

    Raises:
        DataError: a row cannot be read, or is no image with a label.
    """
    count = num_rows(dataset)
    with random_numbers_kept():
        places = np.unique(np.linspace(0, count - 1, min(count, NUM_LOOKED_AT)).astype(int))
        scale = find_scale([split_row(row_of(dataset, int(place)), int(place))[0] for place in places])
        texts: list[str] = []
        store = cache.open()
        rows_ND = np.zeros((count, *cache.backbone.shape), DTYPE)
        thumbs: dict[int, NDArray[np.uint8]] = {}
        compared = set(places[:: max(1, len(places) // NUM_COMPARED)].tolist())
        hashes: list[bytes] = []
        num_computed = 0
        cv2.setNumThreads(1)
        try:
            for start in range(0, count, BATCH):
                images = []
                for place in range(start, min(start + BATCH, count)):
                    image, label = split_row(row_of(dataset, place), place)
                    pixels_HWC = scale.to_bytes(image)
                    if place in compared:
                        thumbs[place] = pixels_HWC
                    images.append(cache.backbone.preprocessing.apply(pixels_HWC))
                    texts.append(_text_of(label, place))
                rows_ND[start : start + len(images)], seen = _features(np.stack(images), store, cache)
                hashes += seen.hashes
                num_computed += seen.num_computed
                advance(len(images))
        finally:
            store.close()
    names = tuple(sorted(set(texts), key=natural_key))
    codes = {name: code for code, name in enumerate(names)}
    labels_N = np.array([codes[text] for text in texts], np.int64)
    lists = find_lists(dataset, count, texts)
    lists = replace(lists, paths=_believed(lists, thumbs))
    features = Features(rows_ND, np.ones(count, bool), (), num_computed, tuple(hashes))
    return Rows(dataset, labels_N, names, features, lists, scale)


def row_of(dataset: Any, place: int) -> Any:
    """dataset[place].

    Raises:
        DataError: it fails.
    """
    try:
        return dataset[place]
    except Exception as reason:
        raise DataError(
            f"dataset[{place}] failed: {type(reason).__name__}: {str(reason)[:200]}",
            "the doctor reads every row as training would: mend that row, or leave it out",
        ) from reason


def split_row(row: Any, place: int) -> tuple[Any, Any]:
    """(image, label) of what a data set gave.

    Raises:
        DataError: it is neither a pair nor a dict of known keys.
    """
    if isinstance(row, Mapping):
        image = next((key for key in IMAGE_KEYS if key in row), None)
        label = next((key for key in LABEL_KEYS if key in row), None)
        if image is not None and label is not None:
            return row[image], row[label]
        raise DataError(f"dataset[{place}] is a dict with the keys {', '.join(map(str, row))}", NEEDED)
    if isinstance(row, (tuple, list)) and len(row) >= 2:
        return row[0], row[1]
    raise DataError(f"dataset[{place}] is of type {type(row).__name__}", NEEDED)


def _text_of(label: Any, place: int) -> str:
    """A label's text; of a vector of class scores, the largest one's position.

    Raises:
        DataError: it is no label of one class.
    """
    array = np.asarray(label.detach().cpu().numpy() if hasattr(label, "detach") else label)
    if array.size == 1:
        return label_text(array.reshape(-1)[0])
    if array.ndim == 1 and array.dtype.kind in "fiub":
        if (array == array.max()).sum() == 1:
            return str(int(array.argmax()))
        raise DataError(f"the label of dataset[{place}] has several classes: {array.tolist()[:8]}", NEEDED)
    raise DataError(f"the label of dataset[{place}] is of type {type(label).__name__}", NEEDED)


@dataclass(frozen=True)
class _Seen:
    """What was made of some pictures: the hashes of their pixels, and how many were not cached."""

    hashes: list[bytes]
    num_computed: int


def _features(
    images_BHWC: NDArray[np.uint8], store: ContentStore, cache: PrefixCache
) -> tuple[NDArray[np.float16], _Seen]:
    """[B, D] of pictures in memory, from the cache where their pixels were seen before."""
    hashes = [content_hash(b"pixels" + image.tobytes()) for image in images_BHWC]
    rows, is_found_B = store.read(hashes)
    lacking = np.flatnonzero(~is_found_B)
    if len(lacking):
        rows[lacking] = cache.engine()(images_BHWC[lacking]).astype(DTYPE)
        store.append([hashes[place] for place in lacking], rows[lacking])
    return rows, _Seen(hashes, len(lacking))


def _believed(lists: Lists, thumbs: Mapping[int, NDArray[np.uint8]]) -> tuple[str, ...]:
    """[N] the list of paths whose files are the rows' pictures; where no file is there to be read, one of N entries."""
    for paths in (lists.paths, *lists.others):
        if paths and _are_of(paths, thumbs):
            return paths
    return next((paths for paths in lists.beginnings if _are_of(paths, thumbs, unread=False)), ())


def _are_of(paths: Sequence[str], thumbs: Mapping[int, NDArray[np.uint8]], *, unread: bool = True) -> bool:
    """Whether the rows' pictures look like the files that a list names; `unread` where no two files can be read."""
    shown, named = [], []
    for place, pixels_HWC in thumbs.items():
        try:
            with open(paths[place], "rb") as file:  # noqa: PTH123 - a str that may be no path
                own = decode_image(file.read(), at_least_px=64)
        except (OSError, ImageError):
            continue
        shown.append(_thumb(pixels_HWC))
        named.append(_thumb(own))
    alike = np.array(
        [[max(_agreement(one, other), _agreement(one, other[:, ::-1])) for other in named] for one in shown]
    )
    if len(alike) < 2:
        return unread
    return float((np.diag(alike) >= alike.max(axis=1) - CLOSE).mean()) >= 0.5


def _thumb(pixels_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey = pixels_HWC.mean(axis=2).astype(np.float32)
    return np.asarray(cv2.resize(grey, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA), np.float32)


def _agreement(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Correlation of two small pictures."""
    first, second = first - first.mean(), second - second.mean()
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / size if size > 0 else 1.0


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """What the data set draws (augmentation) does not move the caller's random numbers."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
