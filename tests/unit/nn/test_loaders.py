"""Rows from images: what is decoded at which size, and that training and evaluation look at the same part."""

from dataclasses import replace

import cv2
import numpy as np

from finefold.data.images import decode_image
from finefold.data.preprocessing import Preprocessing
from finefold.nn.features import load_framed, load_input
from finefold.nn.loaders import ImageRows

SMALL = Preprocessing(32, 32)
MAX_PIXELS = 10**8


def photo(height: int = 600, width: int = 400, suffix: str = ".jpg") -> bytes:
    """Red grows to the right, green downward; large enough for a JPEG to be decoded at an eighth."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 2] = np.linspace(0, 255, width).astype(np.uint8)
    image[:, :, 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return bytes(cv2.imencode(suffix, image)[1])


def test_a_crop_in_own_pixels_is_right_where_a_jpeg_would_be_decoded_smaller():
    """The middle 200 x 100 of a 600 x 400 JPEG is that of the image at full size, and not of an eighth of it."""
    data = photo()
    assert load_framed(data, SMALL, MAX_PIXELS).shape[0] < 600
    cut = replace(SMALL, centre=(200, 100))
    assert np.array_equal(load_framed(data, cut, MAX_PIXELS), decode_image(data)[200:400, 150:250])
    assert np.array_equal(load_framed(data, cut, MAX_PIXELS, (0, 10, 20, 40)), decode_image(data)[10:40, :20])
    assert np.array_equal(load_input(data, cut, MAX_PIXELS), cut.apply(decode_image(data)))


def test_training_starts_from_the_same_part_that_evaluation_sees(tmp_path):
    """What an augmentation is given is framed already, and nothing frames it again."""
    file = tmp_path / "photo.png"
    file.write_bytes(photo(suffix=".png"))
    cut = replace(SMALL, centre=(200, 100))
    rows = ImageRows([file], cut, MAX_PIXELS)
    assert rows.decode(0).shape == (200, 100, 3)
    assert np.array_equal(cut.finished(rows.decode(0)), rows.read(np.array([0]), "plain")[0])
