"""One decoding pass over all images: what the other checks need to know of each, cached by the file's content.

As many workers as processors; each takes some files through the whole way, and a row per file goes to the store.
In memory is one row of 5 KB per image, most of it a small grey picture.

Shapes: N images.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from finefold.auditing.perceptual import THUMB_PX, perceptual_hashes
from finefold.data.findings import Finding
from finefold.data.images import content_hash, decode_image, image_kind, open_header
from finefold.data.machine import num_threads
from finefold.data.orientation import orientation_of
from finefold.data.readable import bytes_or_reason, unreadable
from finefold.data.store import ContentStore
from finefold.data.tables import zero_rows
from finefold.errors import ImageError

FORMATS = ("JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF")
PERCENTILES = (1, 5, 95, 99)
MEASURES = (
    "width",
    "height",
    "channels",
    "orientation",
    "jpeg_quality",
    "bytes",
    "brightness",
    *(f"brightness_p{percent}" for percent in PERCENTILES),
    "contrast",
    "saturation",
    "entropy",
    "edges",
    "tones",
    "border_brightness",
    "border_spread",
)

_REASON_BYTES = 64
_LOOK = np.dtype(
    [
        ("reason", f"S{_REASON_BYTES}"),
        ("format", "u1"),
        ("measures", "<f4", (len(MEASURES),)),
        ("hash", "<u8"),
        ("mirrored", "<u8"),
        ("thumb", "u1", (THUMB_PX, THUMB_PX)),
    ]
)
_VERSION = 1  # of what the measures mean; another one is another folder of the cache
_CHUNK = 32
_MEASURED_PX = 256  # longest side at which brightness is measured
_BLUR_PX = 64  # and edges, as cleanvision does
_BRIGHTNESS = np.array([0.241, 0.691, 0.068], np.float32)  # of squared red, green, blue
_STANDARD_LUMINANCE_SUM = 3688.0  # of the JPEG standard's luminance table, annex K, at quality 50

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Looks:
    """What one pass saw of some images.

    Args:
        ids: [N].
        paths: [N] files.
        content_N: [N] 16-byte content hashes, empty where the file cannot be read.
        rows_N: [N] records; all zero where the file is no readable image.
        findings: one `unreadable` per file that is none.
    """

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    content_N: tuple[bytes, ...]
    rows_N: NDArray[Any]
    findings: tuple[Finding, ...]

    @property
    def is_readable_N(self) -> NDArray[np.bool_]:
        """[N] whether the file is an image."""
        return np.asarray(self.rows_N["format"] > 0)

    def measure(self, name: str) -> NDArray[np.float64]:
        """[N] one of `MEASURES`; 0 where unreadable."""
        return np.asarray(self.rows_N["measures"][:, MEASURES.index(name)], np.float64)

    @property
    def formats_N(self) -> NDArray[Any]:
        """[N] names of formats, empty where unreadable."""
        return np.asarray(np.asarray(("", *FORMATS))[self.rows_N["format"]])


def look_at(
    ids: Sequence[str],
    paths: Sequence[Path],
    *,
    cache: Path,
    max_pixels: int,
    advance: Progress = lambda _: None,
) -> Looks:
    """Looks at every file once; what was seen before is read from the cache.

    Args:
        ids: [N] names for findings.
        paths: [N] files.
        cache: folder of the cache.
        max_pixels: larger images are refused before they are decoded.
        advance: told how many files were looked at since.

    Raises:
        CacheError: the cache cannot be written.
    """
    about = {"kind": "looks", "what": f"measures of images (up to {max_pixels / 1e6:g} Mpx)"}
    store = ContentStore.open(cache / "looks" / f"{_VERSION}-{max_pixels}", (), _LOOK, about=about)
    rows_N = zero_rows((len(paths),), _LOOK, folder=store.folder)
    contents: list[bytes] = [b""] * len(paths)

    def look(start: int) -> None:
        part = list(paths[start : start + _CHUNK])
        contents[start : start + len(part)], rows_N[start : start + len(part)] = _look_at_some(part, store, max_pixels)
        advance(len(part))

    cv2.setNumThreads(1)  # the workers are the threads
    try:
        with ThreadPoolExecutor(num_threads()) as pool:
            futures = [pool.submit(look, start) for start in range(0, len(paths), _CHUNK)]
            try:
                for future in futures:
                    future.result()
            except BaseException:  # an error or Ctrl-C: do not go through the rest first
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        store.close()
    findings = tuple(
        unreadable(ids[row], paths[row], rows_N["reason"][row].decode(errors="ignore"))
        for row in np.flatnonzero(rows_N["format"] == 0).tolist()
    )
    return Looks(tuple(ids), tuple(paths), tuple(contents), rows_N, findings)


def _look_at_some(paths: list[Path], store: ContentStore, max_pixels: int) -> tuple[list[bytes], NDArray[Any]]:
    rows = np.zeros(len(paths), _LOOK)
    data = [bytes_or_reason(path) for path in paths]
    hashes = [content_hash(one) if isinstance(one, bytes) else b"" for one in data]
    known = [place for place, one in enumerate(hashes) if one]
    stored, is_found = store.read([hashes[place] for place in known])
    fresh = []
    for place, row, found in zip(known, stored, is_found, strict=True):
        content = data[place]
        assert isinstance(content, bytes)
        rows[place] = row if found else look_at_bytes(content, max_pixels)
        if not found:
            fresh.append(place)
    if fresh:
        store.append([hashes[place] for place in fresh], rows[fresh])
    for place, one in enumerate(data):
        if isinstance(one, str):  # told anew each time: a file that is gone may come back
            rows[place]["reason"] = one.encode()[:_REASON_BYTES]
    return hashes, rows


def look_at_bytes(data: bytes, max_pixels: int) -> Any:
    """The record of one file; its format is 0 and its reason set where it is no readable image."""
    look = np.zeros((), _LOOK)
    try:
        kind = image_kind(data)
        header, _ = open_header(data, kind, max_pixels=max_pixels)
        image_HWC = decode_image(data, at_least_px=2 * _MEASURED_PX, max_pixels=max_pixels)
    except ImageError as reason:
        look["reason"] = reason.message.encode()[:_REASON_BYTES].decode(errors="ignore").encode()
        return look
    orientation = orientation_of(header)
    size = header.size[::-1] if orientation >= 5 else header.size
    seen = {
        "width": size[0],
        "height": size[1],
        "channels": len(header.getbands()),
        "orientation": orientation,
        "jpeg_quality": _jpeg_quality(header) if isinstance(header, JpegImageFile) else 0,
        "bytes": len(data),
        **measure_pixels(image_HWC),
    }
    look["format"] = FORMATS.index(kind) + 1
    look["measures"] = [seen[name] for name in MEASURES]
    grey = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)
    look["hash"], look["mirrored"] = perceptual_hashes(grey)
    look["thumb"] = cv2.resize(grey, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA)
    return look


def measure_pixels(image_HWC: NDArray[np.uint8]) -> dict[str, float]:
    """Brightness, contrast, colour, information, sharpness and border of an image.

    Brightness of a pixel is sqrt(0.241 r^2 + 0.691 g^2 + 0.068 b^2) / 255; its mean, as cleanvision takes it, is
    that of the channels' means. Entropy is that of grey levels in bits. Edges are the deviation of a Laplacian at
    64 pixels, tones the deviation of the histogram's 256 counts there: cleanvision 0.3.7's measures of blur. The border
    is the outermost fortieth.

    Args:
        image_HWC: [H, W, 3] RGB uint8.
    """
    small_HWC = _at_most(image_HWC, _MEASURED_PX)
    brightness_HW = np.sqrt(np.square(small_HWC.astype(np.float32)) @ _BRIGHTNESS) / 255
    percentiles = np.percentile(brightness_HW, PERCENTILES)
    mean_C = small_HWC.reshape(-1, 3).mean(axis=0)
    grey = cv2.cvtColor(small_HWC, cv2.COLOR_RGB2GRAY)
    counts = np.bincount(grey.ravel(), minlength=256)
    shares = counts[counts > 0] / grey.size
    tiny = cv2.cvtColor(_at_most(image_HWC, _BLUR_PX), cv2.COLOR_RGB2GRAY)
    edges = cv2.filter2D(tiny, -1, np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32))
    depth = max(1, min(grey.shape) // 40)
    inner = np.zeros(grey.shape, bool)
    inner[depth:-depth, depth:-depth] = True
    border = brightness_HW[~inner]
    spread = small_HWC.astype(np.int16)
    return {
        "brightness": float(np.sqrt(np.square(mean_C) @ _BRIGHTNESS) / 255),
        **{f"brightness_p{percent}": float(value) for percent, value in zip(PERCENTILES, percentiles, strict=True)},
        "contrast": float(brightness_HW.std()),
        "saturation": float((spread.max(axis=2) - spread.min(axis=2)).mean() / 255),
        "entropy": float(-(shares * np.log2(shares)).sum()),
        "edges": float(edges.std()),
        "tones": float(np.bincount(tiny.ravel(), minlength=256).std()),
        "border_brightness": float(border.mean()),
        "border_spread": float(border.std()),
    }


def _at_most(image_HWC: NDArray[np.uint8], longest_px: int) -> NDArray[np.uint8]:
    ratio = max(image_HWC.shape[:2]) / longest_px
    if ratio <= 1:
        return image_HWC
    height, width = image_HWC.shape[:2]
    size = (max(1, int(width / ratio)), max(1, int(height / ratio)))
    return np.asarray(cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg_quality(image: JpegImageFile) -> float:
    """The quality 1..100 that the luminance table was scaled by in libjpeg's way; 0 where there is none."""
    table = (image.quantization or {}).get(0)
    if not table:
        return 0.0
    scale = 100 * sum(table) / _STANDARD_LUMINANCE_SUM
    return float(np.clip(round((200 - scale) / 2 if scale <= 100 else 5000 / scale), 1, 100))
