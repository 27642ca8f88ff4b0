"""Image files: found, decoded alike whatever their format, and refused with the reason."""

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from finefold.data import images
from finefold.data.images import (
    content_hash,
    decode_image,
    is_hidden_or_system,
    list_images,
    natural_key,
    read_image,
)
from finefold.errors import DataError, ImageError


def make_picture(width: int = 61, height: int = 43) -> np.ndarray:
    """A smooth colour picture without any symmetry."""
    coarse = np.random.default_rng(3).integers(20, 236, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def encode(picture: np.ndarray | Image.Image, form: str, **options: object) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def make_exif(orientation: int, order: str = "<") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(f"{order}HHIHH", 0x010F, 3, 1, 7, 0) + struct.pack(
        f"{order}HHIHH", 0x0112, 3, 1, orientation, 0
    )
    return b"Exif\0\0" + head + struct.pack(f"{order}IH", 8, 2) + entries + bytes(4)


def make_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, **options)
    return caught.value.message


PICTURE = make_picture()
LOSSLESS = {
    "png": encode(PICTURE, "PNG"),
    "bmp": encode(PICTURE, "BMP"),
    "tiff": encode(PICTURE, "TIFF"),
    "tiff lzw": encode(PICTURE, "TIFF", compression="tiff_lzw"),
    "tiff deflate": encode(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
    "webp": encode(PICTURE, "WEBP", lossless=True),
}
LOSSY = {
    "jpeg": encode(PICTURE, "JPEG", quality=95),
    "jpeg progressive": encode(PICTURE, "JPEG", quality=95, progressive=True),
    "jpeg 4:4:4": encode(PICTURE, "JPEG", quality=95, subsampling=0),
    "jpeg as rgb": encode(PICTURE, "JPEG", quality=95, keep_rgb=True),
    "webp": encode(PICTURE, "WEBP", quality=95),
    "tiff jpeg": encode(PICTURE, "TIFF", compression="jpeg", quality=95),
}


# --------------------------------------------------------------------------------------------- pixel formats


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_return_the_pixels_that_went_in(form: str) -> None:
    """A lossless file decodes to exactly its pixels, contiguous, writable, RGB uint8."""
    pixels = decode_image(LOSSLESS[form])
    np.testing.assert_array_equal(pixels, PICTURE)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("form", LOSSY)
def test_lossy_formats_stay_near_the_pixels_that_went_in(form: str) -> None:
    """A lossy file decodes to nearly its pixels, so channels are in order."""
    pixels = decode_image(LOSSY[form])
    assert pixels.shape == PICTURE.shape
    assert np.abs(pixels.astype(int) - PICTURE).mean() < 4


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_grey_comes_as_three_equal_channels(form: str) -> None:
    """A grey file gives three equal channels."""
    grey = PICTURE[:, :, 0]
    pixels = decode_image(encode(grey, form, **({"lossless": True} if form == "WEBP" else {})))
    assert pixels.shape == PICTURE.shape
    assert np.ptp(pixels, axis=2).max() == 0
    assert np.abs(pixels[:, :, 0].astype(int) - grey).max() <= (12 if form == "JPEG" else 0)


def test_gif_gives_its_first_frame() -> None:
    """An animated GIF gives its first frame."""
    first, second = Image.new("RGB", (20, 10), (255, 0, 0)), Image.new("RGB", (20, 10), (0, 0, 255))
    pixels = decode_image(encode(first, "GIF", save_all=True, append_images=[second]))
    assert (pixels == (255, 0, 0)).all()


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_other_animations_give_their_first_frame(form: str) -> None:
    """An animated PNG or WebP gives its first frame."""
    first, second = Image.new("RGB", (20, 10), (255, 0, 0)), Image.new("RGB", (20, 10), (0, 0, 255))
    options = {"lossless": True} if form == "WEBP" else {}
    pixels = decode_image(encode(first, form, save_all=True, append_images=[second], **options))
    assert (pixels == (255, 0, 0)).all()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_is_its_high_byte(form: str) -> None:
    """16-bit grey spans the whole range: 65535 is white, and each value gives its high byte."""
    values = np.linspace(0, 65535, 40 * 30).astype(np.uint16).reshape(30, 40)
    pixels = decode_image(encode(values, form))
    np.testing.assert_array_equal(pixels[:, :, 1], values >> 8)


def test_16_bit_big_endian_tiff_is_its_high_byte() -> None:
    """A TIFF written on a big-endian machine gives the same pixels."""
    values = np.linspace(0, 65535, 40 * 30).astype(">u2").reshape(30, 40)
    image = Image.frombytes("I;16B", (40, 30), values.tobytes())
    np.testing.assert_array_equal(decode_image(encode(image, "TIFF"))[:, :, 0], values >> 8)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_colour_is_its_high_byte(suffix: str) -> None:
    """16-bit RGB gives each value's high byte."""
    values = PICTURE.astype(np.uint16) * 257
    data = cv2.imencode(suffix, values[:, :, ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image(data), PICTURE)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 25700, 65535]], np.int32), [0, 100, 255]),
        (np.array([[-100, 0, 300]], np.int32), [0, 64, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 100, 255]], np.float32), [0, 100, 255]),
        (np.array([[np.nan, 0.2, 1]], np.float32), [0, 51, 255]),
        (np.array([[-1e6, 0, 3e6]], np.float32), [0, 64, 255]),
        (np.array([[-3, -3, -3]], np.float32), [0, 0, 0]),
    ],
)
def test_32_bit_tiffs_are_scaled_by_the_range_that_holds_them(values: np.ndarray, expected: list[int]) -> None:
    """32-bit TIFFs: 0..1, 0..255 and 0..65535 are taken as such, the rest is stretched."""
    assert decode_image(encode(values, "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF"])
def test_palettes_are_looked_up(form: str) -> None:
    """A palette image gives its palette's colours."""
    image = Image.fromarray(PICTURE).quantize(32)
    np.testing.assert_array_equal(decode_image(encode(image, form)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("form", "as_bytes"), [("PNG", False), ("PNG", True), ("GIF", False)])
def test_transparent_palette_entries_become_white(form: str, as_bytes: bool) -> None:
    """A palette's transparent entries are white, half transparent ones half white."""
    image = Image.new("P", (3, 1))
    image.putpalette([200, 0, 0, 0, 100, 0, 0, 0, 50])
    image.putdata([0, 1, 2])
    data = encode(image, form, transparency=bytes([255, 0, 127]) if as_bytes else 1)
    pixels = decode_image(data)
    assert pixels[0, :2].tolist() == [[200, 0, 0], [255, 255, 255]]
    assert pixels[0, 2].tolist() == ([128, 128, 153] if as_bytes else [0, 0, 50])


@pytest.mark.parametrize(("mode", "form"), [("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("LA", "PNG")])
def test_transparency_is_laid_over_white(mode: str, form: str) -> None:
    """Alpha 0 is white, alpha 255 the colour, between them the mix."""
    image = Image.new(mode, (3, 1))
    colour = (40,) if mode == "LA" else (40, 40, 40)
    for x, alpha in enumerate((0, 255, 128)):
        image.putpixel((x, 0), (*colour, alpha))
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    pixels = decode_image(encode(image, form, **options)).astype(int)
    assert np.abs(pixels[0, :, 0] - [255, 40, 147]).max() <= 1
    assert np.ptp(pixels, axis=2).max() == 0


@pytest.mark.parametrize(("mode", "key"), [("L", 40), ("RGB", (40, 40, 40))])
def test_a_transparent_colour_becomes_white(mode: str, key: object) -> None:
    """A PNG that names one colour as transparent shows white there."""
    image = Image.new(mode, (2, 1), key)
    image.putpixel((1, 0), 90 if mode == "L" else (90, 90, 90))
    assert decode_image(encode(image, "PNG", transparency=key))[0, :, 0].tolist() == [255, 90]


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 255, 0), (255, 255, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_cmyk_inks_give_their_colours(form: str, ink: tuple[int, ...], colour: tuple[int, ...]) -> None:
    """CMYK gives the ink's colour, in a JPEG too, where Adobe stores inks inverted."""
    data = encode(Image.new("CMYK", (16, 16), ink), form)
    assert form != "JPEG" or b"Adobe" in data
    assert np.abs(decode_image(data).astype(int) - colour).max() <= 2


def test_black_and_white_bits() -> None:
    """A one-bit image is black and white."""
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    for form in ("PNG", "TIFF", "BMP"):
        assert decode_image(encode(image, form))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


# ----------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "grey JPEG", "CMYK JPEG"])
def test_every_exif_orientation_is_undone(form: str, orientation: int) -> None:
    """A picture stored in any of the 8 orientations comes out upright, in every format that can say so."""
    image = Image.fromarray(PICTURE)
    options: dict[str, object] = {"lossless": True} if form == "WEBP" else {}
    if form == "TIFF":
        options = {"tiffinfo": {274: orientation}}
    else:
        options["exif"] = make_exif(orientation, "<" if orientation % 2 else ">")
    image = image.convert({"grey JPEG": "L", "CMYK JPEG": "CMYK"}.get(form, "RGB"))
    data = encode(image, form.split()[-1], **options)
    with Image.open(io.BytesIO(data)) as reference:
        expected = np.asarray(ImageOps.exif_transpose(reference).convert("RGB"))
    assert expected.shape[:2] == ((61, 43) if orientation >= 5 else (43, 61))
    np.testing.assert_array_equal(decode_image(data), expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_header_tells_the_size_of_what_is_decoded(form: str, orientation: int) -> None:
    """Height and width by the header alone are those of the upright pixels, in every format."""
    options = {"exif": make_exif(orientation)[0 if form != "TIFF" else 6 :]} if form not in ("BMP", "GIF") else {}
    stream = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 10, 60)).save(stream, form, **options)
    data = stream.getvalue()
    assert images.image_size(data) == decode_image(data).shape[:2]
    assert sorted(images.image_size(data)) == [20, 30]


def test_no_header_has_no_size() -> None:
    """What is no image, or claims too much, is told in the words of decoding."""
    with pytest.raises(ImageError, match="not an image"):
        images.image_size(b"hello, this is text and nothing else at all")
    stream = io.BytesIO()
    Image.new("RGB", (30, 20)).save(stream, "PNG")
    with pytest.raises(ImageError, match="exceeds the limit"):
        images.image_size(stream.getvalue(), max_pixels=599)


def test_png_orientation_after_the_pixels_or_in_a_text_chunk() -> None:
    """A PNG's EXIF counts when it follows the pixels, and when ImageMagick wrote it as text."""
    end = make_chunk(b"IEND", b"")
    plain = LOSSLESS["png"]
    assert plain.endswith(end)
    exif = make_exif(6)[6:]
    late = plain[: -len(end)] + make_chunk(b"eXIf", exif) + end
    text = b"Raw profile type exif\0\nexif\n" + f"{len(exif):8}\n{make_exif(6).hex()}\n".encode()
    early = plain[:33] + make_chunk(b"tEXt", text) + plain[33:]
    for data in (late, early):
        np.testing.assert_array_equal(decode_image(data), np.rot90(PICTURE, -1))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0junk",
        make_exif(6)[:20],
        make_exif(9),
        make_exif(0),
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x01\x02\x03" * 9,
    ],
)
def test_broken_exif_is_no_reason_to_refuse(exif: bytes) -> None:
    """A picture with broken EXIF decodes as if it were upright, without a warning."""
    data = LOSSY["jpeg"]
    with_exif = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    np.testing.assert_array_equal(decode_image(with_exif), decode_image(data))


# ----------------------------------------------------------------------------------------------------- faults


def test_files_that_are_no_images_say_so() -> None:
    """Zero bytes, text and formats not taken are told apart."""
    assert reason(b"") == "empty file"
    assert reason(b"this is a note named photo.jpg\n") == "not an image"
    assert reason(bytes(500)) == "not an image"
    assert reason(b"\0\0\0\x1cftypheic" + bytes(20)) == "unsupported format HEIC or video"
    assert reason(b"\0\0\0\x1cftypavif" + bytes(20)) == "unsupported format AVIF"
    assert reason(b"8BPS" + bytes(20)) == "unsupported format Photoshop"


@pytest.mark.parametrize(("kind", "form"), [("lossy", k) for k in LOSSY] + [("less", k) for k in LOSSLESS])
def test_a_file_cut_anywhere_is_never_half_a_picture(kind: str, form: str) -> None:
    """A file cut at any length is refused as truncated, or all its pixels were there."""
    data = (LOSSY if kind == "lossy" else LOSSLESS)[form]
    whole = decode_image(data)
    for length in [12, 20, 30, 60, *range(100, len(data), max(len(data) // 40, 1)), len(data) - 1]:
        try:
            pixels = decode_image(data[:length])
        except ImageError as error:
            assert error.message in ("truncated", "not an image") or "tiff" in form, (length, error.message)
        else:
            np.testing.assert_array_equal(pixels, whole, err_msg=f"cut at {length} of {len(data)}")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("form", ["jpeg", "jpeg progressive"])
def test_a_truncated_jpeg_is_found(form: str, share: float) -> None:
    """A JPEG cut short is truncated, also where its thumbnail has an end mark of its own."""
    data = LOSSY[form]
    cut = data[: int(len(data) * share)]
    assert reason(cut) == "truncated"
    thumbnail = b"Exif\0\0" + data
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    assert reason(data[:2] + segment + cut[2:]) == "truncated"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_png_or_gif_is_found(share: float) -> None:
    """A PNG or GIF cut short is truncated."""
    for data in (LOSSLESS["png"], encode(PICTURE, "GIF")):
        assert reason(data[: int(len(data) * share)]) == "truncated"


def test_a_cut_keeps_standard_error_clean(capfd: pytest.CaptureFixture[str]) -> None:
    """A truncated file is told by its reason alone, not by a library's chatter."""
    for data in (LOSSY["jpeg"], LOSSLESS["png"]):
        assert reason(data[: len(data) // 2]) == "truncated"
    assert capfd.readouterr().err == ""


def test_scrambled_pixels_are_a_reason_and_not_a_crash() -> None:
    """A PNG whose compressed pixels are garbage is refused with what was wrong."""
    data = bytearray(LOSSLESS["png"])
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    assert reason(bytes(data)).startswith("does not decode: ")


def test_random_damage_never_raises_anything_else() -> None:
    """Flipped bytes anywhere give pixels or an ImageError, nothing else."""
    rng = np.random.default_rng(0)
    for data in [*LOSSY.values(), *LOSSLESS.values(), encode(PICTURE, "GIF")]:
        for _ in range(25):
            damaged = bytearray(data)
            for position in rng.integers(0, min(len(data), 400), 6):
                damaged[position] = rng.integers(256)
            try:
                assert decode_image(bytes(damaged)).ndim == 3
            except ImageError:
                continue


def test_unsupported_variants_say_which() -> None:
    """A format we take, in a variant nobody reads, is told as unsupported."""
    deep = bytearray(LOSSY["jpeg"])
    frame = deep.index(b"\xff\xc0")
    deep[frame + 4] = 12
    assert reason(bytes(deep)) == "unsupported JPEG: cannot handle 12-bit layers"
    floats = cv2.imencode(".tiff", PICTURE.astype(np.float32) / 255)[1].tobytes()
    assert reason(floats).startswith("unsupported TIFF")


# ------------------------------------------------------------------------------------------------ pixel limit


def make_huge_headers() -> dict[str, bytes]:
    """Small files whose headers claim 60000 x 60000 pixels (WebP: 16383 x 16383, its most)."""
    png = b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    png += make_chunk(b"IDAT", zlib.compress(bytes(100))) + make_chunk(b"IEND", b"")
    jpeg = bytearray(LOSSY["jpeg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60000, 60000)
    bmp = bytearray(LOSSLESS["bmp"])
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    gif = bytearray(encode(PICTURE, "GIF"))
    gif[6:10] = struct.pack("<HH", 60000, 60000)
    tiff = encode(Image.new("L", (8, 8)), "TIFF").replace(
        struct.pack("<HHI", 256, 4, 1) + struct.pack("<I", 8), struct.pack("<HHII", 256, 4, 1, 60000)
    )
    tiff = tiff.replace(struct.pack("<HHII", 257, 4, 1, 8), struct.pack("<HHII", 257, 4, 1, 60000))
    lossy = bytearray(encode(PICTURE, "WEBP"))
    lossy[26:30] = struct.pack("<HH", 16383, 16383)
    lossless = bytearray(encode(PICTURE, "WEBP", lossless=True))
    lossless[21:25] = struct.pack("<I", 16382 | 16382 << 14)
    extended = bytearray(encode(PICTURE, "WEBP", exif=make_exif(1)))
    extended[24:30] = (59999).to_bytes(3, "little") * 2
    return {
        "png": png,
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "gif": bytes(gif),
        "tiff": tiff,
        "webp lossy": bytes(lossy),
        "webp lossless": bytes(lossless),
        "webp extended": bytes(extended),
    }


@pytest.mark.parametrize("form", make_huge_headers())
def test_a_header_that_claims_too_much_is_refused_before_decoding(form: str) -> None:
    """A header over the limit is refused with our limit's wording, never Pillow's."""
    assert reason(make_huge_headers()[form]) == "exceeds the limit of 100 Mpx"


def test_the_limit_is_a_setting() -> None:
    """A picture of exactly the limit passes, one pixel less refuses."""
    assert decode_image(LOSSLESS["png"], max_pixels=61 * 43).shape == (43, 61, 3)
    assert reason(LOSSLESS["png"], max_pixels=61 * 43 - 1) == "exceeds the limit of 0.002622 Mpx"


def test_pillow_s_own_limit_stays_out_of_the_way() -> None:
    """95 Mpx, which Pillow warns about, decode quietly under our default of 100."""
    png = b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", struct.pack(">IIBBBBB", 9500, 10000, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes((1 + (9500 + 7) // 8) * 10000), 1)
    assert decode_image(png + make_chunk(b"IDAT", rows) + make_chunk(b"IEND", b"")).shape == (10000, 9500, 3)


# ---------------------------------------------------------------------------------------------- reduced scale


@pytest.mark.parametrize(
    ("at_least_px", "expected"),
    [(None, (600, 802)), (400, (600, 802)), (300, (300, 401)), (224, (300, 401)), (150, (150, 201)), (10, (75, 101))],
)
@pytest.mark.parametrize("form", ["RGB", "L", "CMYK"])
def test_large_jpegs_are_decoded_smaller_but_never_too_small(
    form: str, at_least_px: int | None, expected: tuple[int, int]
) -> None:
    """A JPEG comes at the smallest of 1, 1/2, 1/4, 1/8 whose short side still suffices, and looks the same."""
    image = Image.fromarray(make_picture(802, 600)).convert(form)
    data = encode(image, "JPEG", quality=95)
    pixels = decode_image(data, at_least_px=at_least_px)
    assert pixels.shape[:2] == expected
    full = decode_image(data)
    resized = cv2.resize(full, expected[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(pixels.astype(int) - resized).mean() < 2.5


def test_reduced_jpegs_are_turned_upright_too() -> None:
    """Scale and orientation work together, on either decoder."""
    for mode in ("RGB", "CMYK"):
        image = Image.fromarray(make_picture(802, 600)).convert(mode)
        data = encode(image, "JPEG", exif=make_exif(6))
        assert decode_image(data, at_least_px=150).shape[:2] == (201, 150)


def test_other_formats_ignore_the_needed_size() -> None:
    """Only JPEG is decoded at reduced scale."""
    np.testing.assert_array_equal(decode_image(LOSSLESS["png"], at_least_px=8), PICTURE)


# ------------------------------------------------------------------------------- decoders, threads, files, hash


@pytest.mark.parametrize("form", ["jpeg", "jpeg progressive", "jpeg as rgb", "png"])
def test_both_decoders_agree(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenCV refuses, Pillow gives the same picture."""
    data = (LOSSY | LOSSLESS)[form]
    fast = decode_image(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    assert np.abs(decode_image(data).astype(int) - fast).max() <= 1


def test_an_opencv_exception_goes_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of OpenCV is not the last word."""

    def refuse(*_: object) -> None:
        raise cv2.error("no")

    monkeypatch.setattr(images.cv2, "imdecode", refuse)
    np.testing.assert_array_equal(decode_image(LOSSLESS["png"]), PICTURE)


def test_many_threads_get_what_one_gets() -> None:
    """Eight threads over good and broken files give the same pixels and reasons as one."""
    good = [*LOSSY.values(), *LOSSLESS.values()]
    files = (good + [data[: len(data) // 2] for data in good if data[:2] not in (b"II", b"MM")]) * 8

    def outcome(data: bytes) -> bytes | str:
        try:
            return content_hash(decode_image(data).tobytes())
        except ImageError as error:
            return error.message

    alone = [outcome(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, files)) == alone


def test_reading_a_file(tmp_path: Path) -> None:
    """A file reads as its bytes decode; one that cannot be read says why."""
    (tmp_path / "a.png").write_bytes(LOSSLESS["png"])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), PICTURE)
    with pytest.raises(ImageError, match=r"^cannot be read: No such file or directory$"):
        read_image(tmp_path / "b.png")
    with pytest.raises(ImageError, match=r"^cannot be read: Is a directory$"):
        read_image(tmp_path)


def test_content_hash_names_content() -> None:
    """The hash has 16 bytes, repeats, and changes with one bit."""
    assert len(content_hash(b"")) == 16
    assert content_hash(b"abc") == content_hash(b"abc")
    assert content_hash(b"abc") != content_hash(b"abb")


# -------------------------------------------------------------------------------------------------- listing


def test_natural_order() -> None:
    """Numbers count as numbers, at any length, and leading zeros break ties."""
    names = ["10", "9", "1", "01", "2a10", "2a9", "a", "", "123456789012345678901234567890", "99999"]
    expected = ["", "01", "1", "2a9", "2a10", "9", "10", "99999", "123456789012345678901234567890", "a"]
    assert sorted(names, key=natural_key) == expected
    assert sorted(["a-b/1", "a/10", "a/2"], key=natural_key) == ["a/2", "a/10", "a-b/1"]


def test_a_listing_is_in_natural_order_and_counts_what_it_skipped(tmp_path: Path) -> None:
    """Images come in natural order at any depth; everything else is counted by reason."""
    wanted = ["2/1.jpg", "2/10.JPEG", "10/1.png", "10/deep/er/1.webp", "x.TIF", "y.gif", "z.bmp"]
    skipped = ["._x.jpg", ".hidden.png", "Thumbs.db", "notes.txt", "train.csv", "2/._1.jpg", ".git/a.jpg"]
    for name in [*wanted, *skipped, "__MACOSX/2/1.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listing = list_images(tmp_path)
    assert list(listing.paths) == wanted
    assert listing.skipped == {
        "hidden or system file": 4,
        "hidden or system folder": 2,
        "not an image suffix": 2,
    }


def test_hidden_and_system_names() -> None:
    """Hidden, resource-fork and thumbnail files are the system's own."""
    assert all(map(is_hidden_or_system, [".x", "._a.jpg", "Thumbs.db", "thumbs.DB", ".DS_Store", "desktop.ini"]))
    assert not any(map(is_hidden_or_system, ["a.jpg", "_a.jpg", "thumbs.jpg", "1"]))


def test_links_are_followed_once(tmp_path: Path) -> None:
    """A link to a folder elsewhere is listed, loops and second visits are not, broken links are counted."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "real", elsewhere):
        folder.mkdir(parents=True)
        (folder / "1.jpg").touch()
    (root / "again").symlink_to(root / "real")
    (root / "real" / "loop").symlink_to(root)
    (root / "one").symlink_to(elsewhere)
    (root / "two").symlink_to(elsewhere)
    (elsewhere / "self").symlink_to(elsewhere)
    (root / "broken.jpg").symlink_to(root / "nothing.jpg")
    listing = list_images(root)
    assert listing.paths == ("one/1.jpg", "real/1.jpg")
    assert listing.skipped == {"link to a folder already listed": 4, "not a file, or a broken link": 1}


def test_names_no_table_can_store_are_counted(tmp_path: Path) -> None:
    """A name that is not UTF-8 is skipped and counted."""
    try:
        (tmp_path / os.fsdecode(b"\xff.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / "é.jpg").touch()
    assert list_images(tmp_path).paths == ("é.jpg",)
    assert list_images(tmp_path).skipped == {"name is not UTF-8": 1}


def test_a_root_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    """A missing root says which and why."""
    with pytest.raises(DataError, match=r"image folder .*/nothing cannot be listed: No such file or directory"):
        list_images(tmp_path / "nothing")


def test_grey_is_kept_only_where_asked(tmp_path):
    """`keep_grey` gives a plain grey file's one channel, the same values; colour stays colour."""
    grey_HW = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    Image.fromarray(grey_HW).save(tmp_path / "grey.png")
    data = (tmp_path / "grey.png").read_bytes()
    assert np.array_equal(decode_image(data, keep_grey=True), grey_HW)
    assert np.array_equal(decode_image(data), np.repeat(grey_HW[:, :, None], 3, axis=2))
    Image.fromarray(decode_image(data)).save(tmp_path / "colour.png")
    assert decode_image((tmp_path / "colour.png").read_bytes(), keep_grey=True).shape == (20, 30, 3)
