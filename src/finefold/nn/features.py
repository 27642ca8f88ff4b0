"""The prefix cache: every image is decoded, preprocessed and put through the frozen network once, ever.

As many workers as processors, each taking 16 images at a time through the whole way: read, hash, look up,
decode, preprocess, forward, append. No stage waits for another, because no stage has a queue.

Shapes: N images, D features.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from finefold.data.cachedir import cache_root
from finefold.data.findings import Finding
from finefold.data.images import content_hash, decode_image
from finefold.data.machine import num_threads
from finefold.data.preprocessing import Preprocessing
from finefold.data.readable import bytes_or_reason, unreadable
from finefold.data.store import ContentStore
from finefold.errors import EngineError, ImageError
from finefold.nn.backbones import Backbone
from finefold.nn.engines import BATCH, Choice, Engine, make_engine

CUT = "pooled"  # the prefix is the whole network up to its pooled features
DTYPE = np.dtype(np.float16)  # finer than bf16 in the range that features have; checked when rows are made

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Features:
    """Features of some images.

    Args:
        rows_ND: float16, one row per image; zero where the image is unreadable.
        is_readable_N: which images have features.
        findings: one `unreadable` per image without.
        num_computed: how many were not in the cache.
    """

    rows_ND: NDArray[np.float16]
    is_readable_N: NDArray[np.bool_]
    findings: tuple[Finding, ...]
    num_computed: int


@dataclass
class PrefixCache:
    """Features of one backbone on one engine, cached by content.

    Args:
        backbone: the frozen network with its preprocessing.
        choice: engine and precision; part of the cache's address.
        max_pixels: larger images are refused before they are decoded.
    """

    backbone: Backbone
    choice: Choice
    max_pixels: int
    _engine: Engine | None = None
    _starting: threading.Lock = field(default_factory=threading.Lock)

    def engine(self) -> Engine:
        """The engine, started when first asked for: a pass that finds everything cached never does."""
        with self._starting:
            if self._engine is None:
                self._engine = make_engine(self.backbone, self.choice)
            return self._engine

    def open(self) -> ContentStore:
        """The rows cached so far."""
        preprocessing = self.backbone.preprocessing
        address = [self.backbone.weights_hash, preprocessing.hash, self.choice.engine, self.choice.precision, CUT]
        key = hashlib.sha256("|".join([*address, DTYPE.name]).encode()).hexdigest()[:16]
        what = (
            f"{self.backbone.name}, {preprocessing.width_px}x{preprocessing.height_px} px, "
            f"{self.choice.engine} {self.choice.precision}"
        )
        folder = cache_root() / "features" / key
        return ContentStore.open(folder, (self.backbone.num_features,), DTYPE, about={"kind": "features", "what": what})

    def compute(self, ids: Sequence[str], paths: Sequence[Path], *, advance: Progress = lambda _: None) -> Features:
        """Features of images, from the cache where they are in it.

        Args:
            ids: [N] names for findings.
            paths: [N] files.
            advance: told how many images are done since.

        Raises:
            CacheError: the cache cannot be written; what it held stays valid.
            EngineError: the engine fails, or gives features that float16 cannot hold.
        """
        store = self.open()
        work = _Work(self, store, [Path(path) for path in paths], advance)
        cv2.setNumThreads(1)  # the workers are the threads
        try:
            outcomes = work.run()
        finally:
            store.close()
        store.refresh()
        hashes = [outcome if isinstance(outcome, bytes) else bytes(16) for outcome in outcomes]
        rows_ND, is_found_N = store.read(hashes)
        is_readable_N = np.array([isinstance(outcome, bytes) for outcome in outcomes], bool)
        lost = is_readable_N & ~is_found_N
        if lost.any():
            raise EngineError(
                f"{int(lost.sum())} rows just cached cannot be read back", "the cache was cleared meanwhile: run again"
            )
        rows_ND[~is_readable_N] = 0
        findings = tuple(
            unreadable(name, path, outcome)
            for name, path, outcome in zip(ids, paths, outcomes, strict=True)
            if isinstance(outcome, str)
        )
        return Features(rows_ND, is_readable_N, findings, work.num_computed)


class _Work:
    """One pass over some files: for each, the hash of its content, or the reason why it is no image."""

    def __init__(self, cache: PrefixCache, store: ContentStore, paths: list[Path], advance: Progress) -> None:
        self.cache = cache
        self.store = store
        self.paths = paths
        self.advance = advance
        self.num_computed = 0
        self._lock = threading.Lock()

    def run(self) -> list[bytes | str]:
        starts = range(0, len(self.paths), BATCH)
        outcomes: list[bytes | str] = []
        with ThreadPoolExecutor(num_threads()) as pool:
            futures = [pool.submit(self._chunk, self.paths[start : start + BATCH]) for start in starts]
            try:
                for future in futures:
                    outcomes += future.result()
            except BaseException:  # an error or Ctrl-C: do not go through the rest first
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return outcomes

    def _chunk(self, paths: list[Path]) -> list[bytes | str]:
        contents = [bytes_or_reason(path) for path in paths]
        hashes = {place: content_hash(data) for place, data in enumerate(contents) if isinstance(data, bytes)}
        _, is_found = self.store.read(list(hashes.values()))
        missing = [place for place, known in zip(hashes, is_found, strict=True) if not known]
        outcomes: list[bytes | str] = [
            hashes[place] if isinstance(data, bytes) else data for place, data in enumerate(contents)
        ]
        images: list[NDArray[np.uint8]] = []
        decoded: list[int] = []
        for place in missing:
            data = contents[place]
            assert isinstance(data, bytes)
            try:
                images.append(load_input(data, self.cache.backbone.preprocessing, self.cache.max_pixels))
                decoded.append(place)
            except ImageError as reason:
                outcomes[place] = reason.message
        if images:
            features_BD = self._forward(np.stack(images))
            self.store.append([hashes[place] for place in decoded], features_BD)
        with self._lock:
            self.num_computed += len(images)
            self.advance(len(paths))
        return outcomes

    def _forward(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float16]:
        features_BD = self.cache.engine()(images_BHWC)
        with np.errstate(over="ignore"):
            rows_BD = features_BD.astype(DTYPE)
        if not np.isfinite(rows_BD).all():
            raise EngineError(
                f"{self.cache.backbone.name} gives features that are not finite (largest {features_BD.max():g})",
                'check its weights; with model.precision = "bf16", try "fp32"',
            )
        return rows_BD


def load_input(data: bytes, preprocessing: Preprocessing, max_pixels: int) -> NDArray[np.uint8]:
    """A file's bytes -> uint8 [height, width, 3], as the model wants it.

    Raises:
        ImageError: the bytes are no readable image.
    """
    image_HWC = decode_image(data, at_least_px=preprocessing.short_side_px, max_pixels=max_pixels, keep_grey=True)
    return preprocessing.apply(image_HWC)
