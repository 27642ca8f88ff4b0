"""Finding image files and turning their bytes into pixels: RGB, uint8, [H, W, 3].

Plain JPEG and PNG go through OpenCV, which is fastest and lets other threads run meanwhile; anything
unusual, and what OpenCV refuses, through Pillow, which knows why a file is broken. No setting of either
library is touched, so every function here may run in many threads at once.
"""

import hashlib
import io
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from finefold.data.orientation import orientation_of, upright
from finefold.errors import DataError, ImageError

Pixels = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
MAX_PIXELS = 100_000_000

_SYSTEM_NAMES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"})
_DIGITS = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class ImageListing:
    """The image files below a folder.

    Args:
        paths: POSIX paths relative to the folder, in natural order.
        skipped: how many files and folders were passed over, by reason.
    """

    paths: tuple[str, ...]
    skipped: Mapping[str, int]


def natural_key(text: str) -> tuple[str, str]:
    """A sorting key that puts '2' before '10', and a folder's files before its longer-named neighbours'."""
    parts = text.replace("/", "\0")
    return _DIGITS.sub(lambda match: f"{len(digits := match[0].lstrip('0')):05}{digits}", parts), text


def is_hidden_or_system(name: str) -> bool:
    """Whether a file or folder of this name is the system's own: `.x`, `._x`, `Thumbs.db` and the like."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def list_images(root: Path) -> ImageListing:
    """List the image files below `root`, told by their suffix alone.

    Links to folders are followed once every real folder has been listed, and never into a folder that was
    listed already, so that a loop ends and no file comes twice.

    Raises:
        DataError: `root` is not a folder, or cannot be read.
    """
    paths: list[str] = []
    skipped: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    waiting = [""]  # folders still to list: POSIX paths relative to root, "" or ending in "/"
    linked: list[str] = []
    while waiting or linked:
        if not waiting:
            linked.sort(key=natural_key, reverse=True)
        prefix = waiting.pop() if waiting else linked.pop()
        try:
            status = os.stat(root / prefix)  # noqa: PTH116 - Path.stat costs twice as much
            if (identity := (status.st_dev, status.st_ino)) in seen:
                skipped["link to a folder already listed"] += 1
                continue
            seen.add(identity)
            _list_folder(root, prefix, paths=paths, waiting=waiting, linked=linked, skipped=skipped)
        except OSError as error:
            if not prefix:
                raise DataError(
                    f"image folder {root} cannot be listed: {error.strerror}",
                    "check the path; it is relative to data.toml unless it is absolute",
                ) from error
            skipped["unreadable folder"] += 1
    paths.sort(key=natural_key)
    return ImageListing(tuple(paths), MappingProxyType(dict(sorted(skipped.items()))))


def _list_folder(
    root: Path, prefix: str, *, paths: list[str], waiting: list[str], linked: list[str], skipped: Counter[str]
) -> None:
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            name = entry.name
            is_folder = entry.is_dir()
            if is_hidden_or_system(name):
                skipped[f"hidden or system {'folder' if is_folder else 'file'}"] += 1
            elif not is_utf8(name):
                skipped["name is not UTF-8"] += 1
            elif is_folder:
                (linked if entry.is_symlink() else waiting).append(f"{prefix}{name}/")
            elif os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES:  # noqa: PTH122 - a Path costs 2 us
                skipped["not an image suffix"] += 1
            elif not entry.is_file():
                skipped["not a file, or a broken link"] += 1
            else:
                paths.append(prefix + name)


def is_utf8(name: str) -> bool:
    """Whether a file's name can be written down; some that other systems made cannot."""
    # The system's undecodable bytes come as lone surrogates, which no table or CSV can store.
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def content_hash(data: bytes) -> bytes:
    """The 16-byte name of a file's content (BLAKE2b)."""
    return hashlib.blake2b(data, digest_size=16).digest()


def read_image(path: Path, *, at_least_px: int | None = None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read and decode one file as `decode_image` does; one that cannot be read is an ImageError as well."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
    return decode_image(data, at_least_px=at_least_px, max_pixels=max_pixels)


def decode_image(
    data: bytes, *, at_least_px: int | None = None, max_pixels: int = MAX_PIXELS, keep_grey: bool = False
) -> Pixels:
    """Decode an image file's bytes: JPEG, PNG, WebP, BMP, TIFF or GIF (first frame or page).

    Rotated and mirrored as its EXIF orientation says; transparency laid over white; 16-bit values by
    their high byte; 32-bit integers and floats as `_wide_to_uint8` says; colour profiles are not applied.

    Args:
        at_least_px: the short side needed; a JPEG twice as large is decoded at 1/2, 1/4 or 1/8, never below.
        max_pixels: an image whose header claims more pixels than this is refused before it is decoded.
        keep_grey: gives a plain grey image as [H, W], so that later work on it is a third.

    Returns:
        [H, W, 3] RGB, contiguous and writable.

    Raises:
        ImageError: the message is the reason in a few words, e.g. `truncated`.
    """
    kind = image_kind(data)
    image, start = open_header(data, kind, max_pixels=max_pixels)
    scale = _reduction(min(image.size), at_least_px) if kind == "JPEG" else 1
    pixels = None
    if _is_plain(image, data, kind) and not _lacks_end(data, kind, start=start):
        pixels = _decode_opencv(data, is_grey=image.mode == "L", scale=scale, keep_grey=keep_grey)
    if pixels is None:
        pixels = _decode_pillow(image, data, kind, scale=scale)
    return np.ascontiguousarray(upright(pixels, orientation_of(image)))


def image_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of what `decode_image` would give, by the header alone where that is enough.

    Raises:
        ImageError: there is no header of an image; what follows a good one may still be broken.
    """
    kind = image_kind(data)
    if kind == "TIFF" or (kind == "PNG" and b"eXIf" in data):  # which way up they are is known after a full read
        height, width = decode_image(data, max_pixels=max_pixels).shape[:2]
        return height, width
    image, _ = open_header(data, kind, max_pixels=max_pixels)
    return image.size if orientation_of(image) >= 5 else image.size[::-1]


class _Jpeg(JpegImageFile):
    """A JPEG whose EXIF is left alone when opened: Pillow looks for a resolution and warns of broken EXIF."""

    def _read_dpi_from_exif(self) -> None:
        return


# Opened through these, not through Image.open: that warns about large images and tries formats we don't take.
_READERS: dict[str, Callable[[io.BytesIO], ImageFile]] = {
    "JPEG": _Jpeg,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "GIF": GifImageFile,
}
_OPENINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
}
_OTHER_OPENINGS = {b"8BPS": "Photoshop", b"\0\0\0\x0cjP": "JPEG 2000", b"\0\0\0\x0cJXL": "JPEG XL"}


def image_kind(data: bytes) -> str:
    if not data:
        raise ImageError("empty file")
    for opening, kind in _OPENINGS.items():
        if data.startswith(opening):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        raise ImageError(f"unsupported format {'AVIF' if data[8:11] == b'avi' else 'HEIC or video'}")
    for opening, name in _OTHER_OPENINGS.items():
        if data.startswith(opening):
            raise ImageError(f"unsupported format {name}")
    raise ImageError("not an image")


def open_header(data: bytes, kind: str, *, max_pixels: int) -> tuple[ImageFile, int]:
    """The image, not decoded yet, and where its header ends."""
    if kind == "WebP":  # its reader allocates the canvas right away
        _check_size(_webp_size(data), max_pixels=max_pixels)
    stream = io.BytesIO(data)
    try:
        image = _READERS[kind](stream)
    except Exception as error:  # hostile bytes: Pillow raises nearly everything
        raise _told(error, data, kind, otherwise=f"unsupported {kind}") from error
    _check_size(image.size, max_pixels=max_pixels)
    return image, stream.tell()


def _check_size(size: tuple[int, int], *, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ImageError(f"exceeds the limit of {max_pixels / 1e6:g} Mpx")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height, (0, 0) where the header has none. Source: RFC 9649, sections 2.5 to 2.7."""
    sort, head = data[12:16], data[:30].ljust(30, b"\0")
    if sort == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    if sort == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if sort == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return 0, 0


def _lacks_end(data: bytes, kind: str, *, start: int = 0) -> bool:
    """Whether the file's own marks say that it goes on; `start` keeps out a JPEG's embedded thumbnail."""
    if kind == "JPEG":
        return data.rfind(b"\xff\xd9", start) < 0
    if kind == "PNG":
        return data.rfind(b"IEND\xaeB`\x82") < 0
    if kind == "WebP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if kind == "BMP":
        return int.from_bytes(data[2:6], "little") > len(data)
    if kind == "TIFF":
        return int.from_bytes(data[4:8], "little" if data[:1] == b"I" else "big") >= len(data)
    return data.rstrip(b"\0")[-1:] != b";"


def _told(error: Exception, data: bytes, kind: str, *, otherwise: str) -> ImageError:
    """The reason for what Pillow raised, in our words."""
    text = str(error)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return ImageError("exceeds the limit of Pillow's own pixel guard")
    if len(data) < 30 or "truncated" in text.lower() or _lacks_end(data, kind):
        return ImageError("truncated")
    return ImageError(f"{otherwise}: {text or type(error).__name__}")


def _reduction(short_px: int, at_least_px: int | None) -> int:
    """The largest of 8, 4, 2, 1 by which the short side may be divided."""
    if at_least_px is None:
        return 1
    return next((scale for scale in (8, 4, 2) if short_px // scale >= max(at_least_px, 1)), 1)


def _is_plain(image: ImageFile, data: bytes, kind: str) -> bool:
    """Whether OpenCV decodes this file as Pillow would: 8-bit grey or RGB, no transparency."""
    if kind == "JPEG":
        return image.mode in ("L", "RGB")
    return (
        kind == "PNG"
        and image.mode in ("L", "RGB")
        and data[24] == 8  # bits per value
        and "transparency" not in image.info
        and not getattr(image, "is_animated", False)
        and b"eXIf" not in data  # it may follow the pixels, where only a full read finds it
    )


_FLAGS = {  # by scale: colour, grey
    1: (cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE),
    2: (cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    4: (cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    8: (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
}


def _decode_opencv(data: bytes, *, is_grey: bool, scale: int, keep_grey: bool) -> Pixels | None:
    """RGB or grey pixels, not turned upright; None where OpenCV gives up."""
    pixels = None
    flags = _FLAGS[scale][is_grey] | cv2.IMREAD_IGNORE_ORIENTATION
    with suppress(cv2.error):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None or (is_grey and keep_grey):
        return pixels if pixels is None else np.asarray(pixels)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB if is_grey else cv2.COLOR_BGR2RGB))


def _decode_pillow(image: ImageFile, data: bytes, kind: str, *, scale: int) -> Pixels:
    """RGB pixels, not turned upright, or the reason why there are none."""
    try:
        if scale > 1:
            image.draft(None, (image.size[0] // scale, image.size[1] // scale))
        image.load()
    except Exception as error:  # hostile bytes: Pillow raises nearly everything
        raise _told(error, data, kind, otherwise="does not decode") from error
    try:
        return _to_rgb(image)
    except (ValueError, OSError) as error:
        raise ImageError(f"unsupported pixel format {image.mode}") from error


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode == "F" or image.mode.startswith("I"):
        is_16_bit = image.mode != "F" and (image.mode != "I" or image.format == "PNG")
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8) if is_16_bit else _wide_to_uint8(values)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return np.array(image.convert("RGB"))  # np.asarray would be read-only, and torch warns about that


def _wide_to_uint8(values: NDArray[Any]) -> Pixels:
    """32-bit values to 8 bits by the narrowest range that holds them.

    Floats within 0..1 are scaled by 255; values within 0..255 are kept; within 0..65535 they are scaled as
    16 bits; others are stretched from their own minimum and maximum. Not-a-number becomes 0.
    """
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if low < 0 or high > 65535:
        finite, scale = finite - low, 255 / max(high - low, 1e-300)
    elif high <= 1 and np.issubdtype(values.dtype, np.floating):
        scale = 255.0
    else:
        scale = 1.0 if high <= 255 else 1 / 257
    return np.rint(finite * scale).astype(np.uint8)
