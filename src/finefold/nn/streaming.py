"""Probabilities of any number of images in memory that does not grow with how many there are.

Shapes: N images, B of them at a time, K joint classes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.data.imageset import ImageSet
from finefold.data.machine import num_threads
from finefold.data.preprocessing import Box
from finefold.data.readable import bytes_or_reason, unreadable
from finefold.errors import ImageError
from finefold.nn.backbones import IMAGES
from finefold.nn.engines import BATCH, Choice
from finefold.nn.features import PrefixCache, Progress, load_input
from finefold.nn.infer import FoldEnsemble
from finefold.nn.transforms import apply_view
from finefold.recipe.training import View

IMAGES_AT_ONCE = 4096  # of the cache; the features of so many are held at a time
NUMBERS_AT_ONCE = 2e8  # and of maps, so many numbers
CACHED_IMAGES = 20_000  # from here on rows are not kept: nobody asks a million images twice, and they fill the disk
CACHED_BYTES = 4e9
BATCHES_AT_ONCE = 16  # that the folds' models are given together, where rows are not kept


@dataclass(frozen=True)
class Part:
    """Some images' probabilities.

    Args:
        start: place of the first of them among all.
        probs_BK: rows sum to 1.
        findings: one for every unreadable image.
    """

    start: int
    probs_BK: NDArray[np.float64]
    findings: tuple[Finding, ...]


def stream_probs(
    model: FoldEnsemble,
    ids: Sequence[str],
    paths: Sequence[Path],
    *,
    choice: Choice,
    max_pixels: int,
    fallback_K: NDArray[np.float64],
    boxes: Sequence[Box | None] | None = None,
    start: int = 0,
    is_fresh: bool = False,
    advance: Progress = lambda _: None,
) -> Iterator[Part]:
    """The folds' mean probabilities, some images at a time, in order.

    Few images' rows go through the prefix cache, so that asking again costs nothing; many pass it by. Then threads
    read images and run the prefix ahead of the folds' models, by so many batches and no more.

    Args:
        model: of the folds.
        ids: [N] names for findings.
        paths: [N] files.
        choice: the engine the folds were trained on.
        max_pixels: larger images are refused before they are decoded.
        fallback_K: what an unreadable image gets.
        boxes: [N] what is kept of each image, instead of its centre.
        start: the first image that is wanted.
        is_fresh: pass the cache by, however few they are.
        advance: told how many images are done since.
    """
    cache = PrefixCache(model.backbone, choice, max_pixels)
    is_kept = not is_fresh and model.backbone.cut != IMAGES and are_kept(model, cache, len(ids))
    images = ImageSet(ids, paths, boxes)
    for part in (_kept if is_kept else _passing)(model, cache, images, start, advance):
        yield replace(part, probs_BK=np.where(np.isfinite(part.probs_BK), part.probs_BK, fallback_K))


def are_kept(model: FoldEnsemble, cache: PrefixCache, num_images: int, most_bytes: float = CACHED_BYTES) -> bool:
    """Whether rows of so many images go through the cache, or pass it by.

    Args:
        model: whose views are asked for.
        cache: of its prefix.
        num_images: that are asked about.
        most_bytes: that may be kept of them.
    """
    num_bytes = num_images * len(model.views) * cache.row_bytes
    return num_images <= CACHED_IMAGES and num_bytes <= min(CACHED_BYTES, most_bytes)


def _kept(model: FoldEnsemble, cache: PrefixCache, images: ImageSet, start: int, advance: Progress) -> Iterator[Part]:
    """Over the prefix cache; NaN for an unreadable image."""
    at_once = max(1, min(IMAGES_AT_ONCE, int(NUMBERS_AT_ONCE / np.prod(model.backbone.shape))))
    for first in range(start, len(images), at_once):
        part = images.part(first, at_once)
        filled = cache.fill(part.ids, part.paths, boxes=part.boxes, views=model.views, advance=advance)
        found = [model.head_probs(cache.read(filled, view)) for view in model.views]  # one view's rows at a time
        probs_BK = np.asarray(np.mean(found, axis=0))
        probs_BK[~filled.is_readable_N] = np.nan
        yield Part(first, probs_BK, filled.findings)


def stream_uncached(
    model: FoldEnsemble,
    paths: Sequence[Path],
    *,
    cache: PrefixCache,
    boxes: Sequence[Box | None] | None = None,
) -> Iterator[Part]:
    """As `stream_probs` does with many images, whatever the cache holds: what an image that is new costs.

    Args:
        model: of the folds.
        paths: [N] files.
        cache: whose engine computes the prefix; nothing is read from it or kept.
        boxes: [N] what is kept of each image, instead of its centre.
    """
    return _passing(model, cache, ImageSet([str(path) for path in paths], paths, boxes), 0, lambda _: None)


@dataclass(frozen=True)
class Batch:
    """What threads made of a few images: each view's rows of those that are readable.

    Args:
        rows: empty where none is.
        is_readable_B: for each image.
        findings: one for every unreadable image.
    """

    rows: dict[View, NDArray[Any]]
    is_readable_B: NDArray[np.bool_]
    findings: tuple[Finding, ...]

    @classmethod
    def joined(cls, batches: Sequence["Batch"]) -> "Batch":
        """Several, one behind the other."""
        whole = [batch for batch in batches if batch.rows]
        rows = {view: np.concatenate([batch.rows[view] for batch in whole]) for view in whole[0].rows} if whole else {}
        is_readable_B = np.concatenate([batch.is_readable_B for batch in batches])
        return cls(rows, is_readable_B, tuple(finding for batch in batches for finding in batch.findings))


def stream_rows(model: FoldEnsemble, cache: PrefixCache, images: ImageSet, start: int = 0) -> Iterator[Batch]:
    """Rows of the prefix under the model's views, by the cache, in order from `start` on."""

    def load(first: int) -> Batch:
        return _load(model, cache, images.part(first, BATCH))

    for batches in _chunks(_in_order(load, range(start, len(images), BATCH)), BATCHES_AT_ONCE):
        yield Batch.joined(batches)


def _passing(
    model: FoldEnsemble, cache: PrefixCache, images: ImageSet, start: int, advance: Progress
) -> Iterator[Part]:
    """By the prefix cache; NaN for an unreadable image."""
    first = start
    for batch in stream_rows(model, cache, images, start):
        probs_BK = np.full((len(batch.is_readable_B), model.space.num_classes), np.nan)
        if batch.rows:
            probs_BK[batch.is_readable_B] = model.mean_over_views(batch.rows)
        yield Part(first, probs_BK, batch.findings)
        first += len(probs_BK)
        advance(len(probs_BK))


def _load(model: FoldEnsemble, cache: PrefixCache, images: ImageSet) -> Batch:
    inputs: list[NDArray[np.uint8]] = []
    is_readable_B = np.zeros(len(images), bool)
    findings: list[Finding] = []
    boxes = images.boxes or [None] * len(images)
    for place, (name, path, box) in enumerate(zip(images.ids, images.paths, boxes, strict=True)):
        data = bytes_or_reason(path)
        try:
            if isinstance(data, str):
                raise ImageError(data)
            inputs.append(load_input(data, model.backbone.preprocessing, cache.max_pixels, box))
            is_readable_B[place] = True
        except ImageError as reason:
            findings.append(unreadable(name, path, reason.message))
    rows: dict[View, NDArray[Any]] = {}
    for view in model.views if inputs else ():
        seen_BHWC = apply_view(np.stack(inputs), view)
        rows[view] = seen_BHWC if model.backbone.cut == IMAGES else cache.forward(seen_BHWC)
    return Batch(rows, is_readable_B, tuple(findings))


def _in_order(work: Callable[[int], Batch], tasks: Sequence[int]) -> Iterator[Batch]:
    """The work of threads in the tasks' order, at most a few tasks ahead of what was taken."""
    threads = num_threads()
    cv2.setNumThreads(1)  # the workers are the threads
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:  # an error, Ctrl-C, or nobody wants more: do not go through the rest first
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _chunks(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of so many batches; the last may be shorter."""
    chunk: list[Batch] = []
    for batch in batches:
        chunk.append(batch)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
