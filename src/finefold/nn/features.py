"""The prefix cache: every image is decoded, preprocessed and put through the frozen network once per view, ever.

As many workers as processors, each taking 16 images at a time through the whole way: read, hash, look up,
decode, preprocess, forward, append. No stage waits for another, because no stage has a queue.

Shapes: N images, D features; a row is [D], or the maps [C, H, W] where the network is cut.
"""

import hashlib
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from finefold.data.cachedir import cache_root
from finefold.data.findings import Finding
from finefold.data.images import content_hash, decode_image
from finefold.data.machine import num_threads
from finefold.data.preprocessing import Box, Preprocessing
from finefold.data.readable import bytes_or_reason, unreadable
from finefold.data.store import ContentStore
from finefold.errors import EngineError, ImageError
from finefold.nn.backbones import POOLED, Backbone
from finefold.nn.copies import Copy, Version, versions_of
from finefold.nn.engines import BATCH, Choice, Engine, make_engine
from finefold.recipe.training import View

PLAIN: View = "plain"
DTYPE = np.dtype(np.float16)  # finer than bf16 in the range that features have; checked when rows are made

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Filled:
    """What a pass over some images found.

    Args:
        hashes: one per image, of its content and its box, by which its rows are read; 16 zero bytes where it is
            unreadable.
        is_readable_N: which images have rows.
        findings: one `unreadable` per image without.
        num_computed: how many rows were not in the cache.
    """

    hashes: tuple[bytes, ...]
    is_readable_N: NDArray[np.bool_]
    findings: tuple[Finding, ...]
    num_computed: int


@dataclass(frozen=True)
class Features:
    """Features of some images.

    Args:
        rows_ND: float16, one row per image; zero where the image is unreadable.
        is_readable_N: which images have features.
        findings: one `unreadable` per image without.
        num_computed: how many were not in the cache.
        hashes: one per image, see `Filled`.
    """

    rows_ND: NDArray[np.float16]
    is_readable_N: NDArray[np.bool_]
    findings: tuple[Finding, ...]
    num_computed: int
    hashes: tuple[bytes, ...]


@dataclass
class PrefixCache:
    """Rows of one backbone, up to its cut, on one engine, cached by content.

    Args:
        backbone: the frozen network with its preprocessing, and how far it is run.
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

    def forward(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float16]:
        """[B, H, W, 3] inputs -> [B, ...] rows, as the cache would keep them.

        Raises:
            EngineError: the engine fails, or gives features that float16 cannot hold.
        """
        features = self.engine()(images_BHWC)
        with np.errstate(over="ignore"):
            rows = features.astype(DTYPE)
        if not np.isfinite(rows).all():
            raise EngineError(
                f"{self.backbone.name} gives features that are not finite (largest {features.max():g})",
                'check its weights; with model.precision = "bf16", try "fp32"',
            )
        return rows

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on disk."""
        return int(np.prod(self.backbone.shape, dtype=np.int64)) * DTYPE.itemsize

    def open(self, view: Version = PLAIN) -> ContentStore:
        """The rows of a view, or of a copy, cached so far."""
        backbone, choice = self.backbone, self.choice
        preprocessing = backbone.preprocessing
        address = [backbone.weights_hash, preprocessing.hash, choice.engine, choice.precision, backbone.cut, DTYPE.name]
        if view != PLAIN:
            address.append(str(view))
        key = hashlib.sha256("|".join(address).encode()).hexdigest()[:16]
        size = f"{preprocessing.width_px}x{preprocessing.height_px} px"
        what = f"{backbone.name}, {size}, {choice.engine} {choice.precision}"
        if (backbone.cut, view) != (POOLED, PLAIN):
            what += f", up to {backbone.cut}, {view}"
        folder = cache_root() / "features" / key
        return ContentStore.open(folder, backbone.shape, DTYPE, about={"kind": "features", "what": what})

    def fill(
        self,
        ids: Sequence[str],
        paths: Sequence[Path],
        *,
        boxes: Sequence[Box | None] | None = None,
        views: Sequence[View] = (PLAIN,),
        copies: Mapping[Copy, NDArray[np.bool_]] = MappingProxyType({}),
        advance: Progress = lambda _: None,
    ) -> Filled:
        """Computes what is not cached yet.

        Args:
            ids: [N] names for findings.
            paths: [N] files.
            boxes: [N] what is kept of each image, instead of its centre.
            views: of each image.
            copies: augmented copies, each of the images of its [N] mask.
            advance: told how many images are done since.

        Raises:
            CacheError: the cache cannot be written; what it held stays valid.
            EngineError: the engine fails, or gives features that float16 cannot hold.
        """
        stores = {version: self.open(version) for version in (*views, *copies)}
        sources = [
            _Source(Path(path), box, (*views, *(copy for copy, wanted_N in copies.items() if wanted_N[place])))
            for place, (path, box) in enumerate(zip(paths, boxes or [None] * len(paths), strict=True))
        ]
        work = _Work(self, stores, sources, advance)
        cv2.setNumThreads(1)  # the workers are the threads
        try:
            outcomes = work.run()
        finally:
            for store in stores.values():
                store.close()
        is_readable_N = np.array([isinstance(outcome, bytes) for outcome in outcomes], bool)
        findings = tuple(
            unreadable(name, path, outcome)
            for name, path, outcome in zip(ids, paths, outcomes, strict=True)
            if isinstance(outcome, str)
        )
        hashes = tuple(outcome if isinstance(outcome, bytes) else bytes(16) for outcome in outcomes)
        return Filled(hashes, is_readable_N, findings, work.num_computed)

    def compute(
        self,
        ids: Sequence[str],
        paths: Sequence[Path],
        *,
        boxes: Sequence[Box | None] | None = None,
        advance: Progress = lambda _: None,
    ) -> Features:
        """Plain rows of images, from the cache where they are in it: `fill`, then all of them in memory."""
        filled = self.fill(ids, paths, boxes=boxes, advance=advance)
        return Features(self.read(filled), filled.is_readable_N, filled.findings, filled.num_computed, filled.hashes)

    def read(self, filled: Filled, view: View = PLAIN) -> NDArray[np.float16]:
        """[N, ...] rows of what was filled; zero where an image is unreadable.

        Raises:
            EngineError: a row is gone.
        """
        rows, is_found_N = self.open(view).read(filled.hashes)
        lost = filled.is_readable_N & ~is_found_N
        if lost.any():
            raise lost_rows(int(lost.sum()))
        rows[~filled.is_readable_N] = 0
        return rows


def lost_rows(count: int) -> EngineError:
    """The error of rows that were there a moment ago."""
    return EngineError(f"{count} rows just cached cannot be read back", "the cache was cleared meanwhile: run again")


@dataclass(frozen=True)
class _Source:
    """An image, what is kept of it, and the versions whose rows are asked for."""

    path: Path
    box: Box | None
    versions: tuple[Version, ...]


class _Work:
    """One pass over some files: for each, the hash of its content, or the reason why it is no image."""

    def __init__(
        self,
        cache: PrefixCache,
        stores: Mapping[Version, ContentStore],
        sources: list[_Source],
        advance: Progress,
    ) -> None:
        self.cache = cache
        self.stores = stores
        self.sources = sources
        self.advance = advance
        self.num_computed = 0
        self._lock = threading.Lock()

    def run(self) -> list[bytes | str]:
        starts = range(0, len(self.sources), BATCH)
        outcomes: list[bytes | str] = []
        with ThreadPoolExecutor(num_threads()) as pool:
            futures = [pool.submit(self._chunk, self.sources[start : start + BATCH]) for start in starts]
            try:
                for future in futures:
                    outcomes += future.result()
            except BaseException:  # an error or Ctrl-C: do not go through the rest first
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return outcomes

    def _chunk(self, sources: list[_Source]) -> list[bytes | str]:
        contents = [bytes_or_reason(source.path) for source in sources]
        hashes = {
            place: row_hash(data, sources[place].box) for place, data in enumerate(contents) if isinstance(data, bytes)
        }
        outcomes: list[bytes | str] = [
            hashes[place] if isinstance(data, bytes) else data for place, data in enumerate(contents)
        ]
        lacking: dict[int, list[Version]] = {}
        for version, store in self.stores.items():
            places = [place for place in hashes if version in sources[place].versions]
            _, is_found = store.read([hashes[place] for place in places])
            for place, known in zip(places, is_found, strict=True):
                if not known:
                    lacking.setdefault(place, []).append(version)
        inputs: dict[Version, dict[int, NDArray[np.uint8]]] = {version: {} for version in self.stores}
        preprocessing, max_pixels = self.cache.backbone.preprocessing, self.cache.max_pixels
        for place, versions in lacking.items():
            data = contents[place]
            assert isinstance(data, bytes)
            try:
                framed_HWC = load_framed(data, preprocessing, max_pixels, sources[place].box, keep_grey=True)
            except ImageError as reason:
                outcomes[place] = reason.message
                continue
            made = versions_of(framed_HWC, versions, preprocessing, partial(hashes.__getitem__, place))
            for version, image_HWC in zip(versions, made, strict=True):
                inputs[version][place] = image_HWC
        num_computed = sum(self._append(version, images, hashes) for version, images in inputs.items())
        with self._lock:
            self.num_computed += num_computed
            self.advance(len(sources))
        return outcomes

    def _append(self, version: Version, images: Mapping[int, NDArray[np.uint8]], hashes: Mapping[int, bytes]) -> int:
        """Computes and stores one version's rows of some images; how many."""
        if images:
            rows = self.cache.forward(np.stack(list(images.values())))
            self.stores[version].append([hashes[place] for place in images], rows)
        return len(images)


def row_hash(data: bytes, box: Box | None) -> bytes:
    """The 16-byte address of an image's rows: its content, and what of it is kept."""
    whole = content_hash(data)
    return whole if box is None else content_hash(whole + struct.pack("<4q", *box))


def load_framed(
    data: bytes, preprocessing: Preprocessing, max_pixels: int, box: Box | None = None, *, keep_grey: bool = False
) -> NDArray[np.uint8]:
    """A file's bytes -> uint8 [H, W, 3] of any size, or grey [H, W] where that is kept: what an augmentation takes.

    Raises:
        ImageError: the bytes are no readable image.
    """
    at_least_px = preprocessing.decode_px(box)
    image_HWC = decode_image(data, at_least_px=at_least_px, max_pixels=max_pixels, keep_grey=keep_grey)
    return preprocessing.framed(image_HWC, box)


def load_input(data: bytes, preprocessing: Preprocessing, max_pixels: int, box: Box | None = None) -> NDArray[np.uint8]:
    """A file's bytes -> uint8 [height, width, 3], as the model wants it.

    Raises:
        ImageError: the bytes are no readable image.
    """
    return preprocessing.finished(load_framed(data, preprocessing, max_pixels, box, keep_grey=True))
