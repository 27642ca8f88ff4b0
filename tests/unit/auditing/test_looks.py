"""One pass sees what files are like, and sees the same from the cache."""

import cv2
import numpy as np
from PIL import Image

from finefold.auditing import looks as module
from finefold.auditing.looks import MEASURES, measure_pixels


def test_a_pass_measures_images_and_tells_of_broken_files(look, faces):
    """Size, format and quality are the file's; a torn, an empty and a foreign file are findings with their reasons."""
    jpeg = cv2.imencode(".jpg", faces[0], [cv2.IMWRITE_JPEG_QUALITY, 61])[1].tobytes()
    seen = look({"a.jpg": jpeg, "b.png": faces[1], "c.jpg": jpeg[:400], "d.jpg": b"", "e.jpg": b"hello"})
    assert seen.formats_N.tolist() == ["JPEG", "PNG", "", "", ""]
    assert seen.measure("width").tolist() == [96, 96, 0, 0, 0] and seen.measure("height")[0] == 128
    assert seen.measure("jpeg_quality").tolist()[:2] == [61, 0]
    assert seen.measure("bytes")[0] == len(jpeg)
    told = {one.ids[0]: one.evidence["reason"] for one in seen.findings}
    assert told == {"c.jpg": "truncated", "d.jpg": "empty file", "e.jpg": "not an image"}
    assert seen.is_readable_N.tolist() == [True, True, False, False, False]


def test_the_cache_says_the_same_and_saves_the_decoding(look, faces, monkeypatch):
    """A second pass decodes nothing and gives equal rows and findings, broken files included."""
    contents = {"a.png": faces[0], "b.jpg": b"hello", "c.jpg": faces[2]}
    first = look(contents)

    def never(*_args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "look_at_bytes", never)
    again = look(contents)
    assert (again.rows_N == first.rows_N).all() and again.findings == first.findings
    assert again.content_N == first.content_N


def test_exif_orientation_turns_width_and_height(look, tmp_path):
    """Width and height are those one sees; the mark itself is kept."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "turned.jpg"
    Image.fromarray(np.full((20, 40, 3), 90, np.uint8)).save(file, exif=exif)
    seen = look({"a.jpg": file.read_bytes()})
    assert (seen.measure("width")[0], seen.measure("height")[0], seen.measure("orientation")[0]) == (20, 40, 6)


def test_measures_of_plain_pictures():
    """An even picture has no contrast, entropy, edges or spread; half black, half white has one bit."""
    even = measure_pixels(np.full((50, 60, 3), 128, np.uint8))
    assert set(even) <= set(MEASURES)
    assert max(abs(even[name]) for name in ("contrast", "entropy", "edges", "border_spread", "saturation")) < 1e-6
    assert abs(even["brightness"] - 128 / 255) < 1e-5
    half = np.zeros((40, 40, 3), np.uint8)
    half[:, 20:] = 255
    assert abs(measure_pixels(half)["entropy"] - 1) < 1e-9
