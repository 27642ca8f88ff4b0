"""Which way up an image is, by its EXIF."""

import struct
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

_TAG = 0x0112


def orientation_of(image: ImageFile) -> int:
    """The EXIF orientation still to be applied, 1 to 8; 1 (upright) where there is none or it is broken."""
    if isinstance(image, TiffImageFile):
        # Pillow turns a TIFF itself while loading, and then drops the tag.
        found = image.tag_v2.get(_TAG, 1)
        return found if found in range(1, 9) else 1
    exif = image.info.get("exif", b"")
    if raw := image.info.get("Raw profile type exif"):  # ImageMagick's way with PNG: hex after three lines
        with suppress(ValueError):
            exif = exif or bytes.fromhex("".join(raw.split("\n")[3:]))
    return _exif_orientation(exif)


def _exif_orientation(exif: bytes) -> int:
    # By hand: Pillow's reader warns about broken EXIF, through a filter that threads share.
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    with suppress(struct.error):
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(num_entries):
            tag, sort, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
            if tag == _TAG:
                return value if sort == 3 and 1 <= value <= 8 else 1
    return 1


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation. Source: TIFF 6.0, tag 274 (row 0 and column 0 are on which sides)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
