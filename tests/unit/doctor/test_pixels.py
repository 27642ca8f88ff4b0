"""Images as people's own code gives them."""

import numpy as np
import pytest
import torch
from PIL import Image

from finefold.doctor.pixels import find_scale, to_array
from finefold.errors import DataError

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
UNIT = PHOTO.transpose(2, 0, 1).astype(np.float32) / 255
MEAN, STD = np.array([0.485, 0.456, 0.406])[:, None, None], np.array([0.229, 0.224, 0.225])[:, None, None]


@pytest.mark.parametrize(
    ("image", "says", "slack"),
    [
        (Image.fromarray(PHOTO), "", 0),
        (PHOTO, "", 0),
        (torch.from_numpy(PHOTO).permute(2, 0, 1), "", 0),
        (torch.from_numpy(UNIT), "floats in 0..1", 0),
        (UNIT * 255, "floats in 0..255", 0),
        ((UNIT - MEAN) / STD, "ImageNet's mean and std", 1),
        (UNIT * 2 - 1, "mean 0.5 and std 0.5", 1),
        (UNIT * 7 - 3.3, "unknown scale", 3),
    ],
)
def test_every_form_gives_the_same_picture(image, says, slack):
    """PIL, uint8, floats of known and unknown scales: the photo comes back, and what was assumed is said."""
    scale = find_scale([image])
    assert says in scale.says and bool(scale.says) == bool(says)
    assert np.abs(scale.to_bytes(image).astype(int) - PHOTO).max() <= slack


def test_grey_and_transparent_images_become_rgb():
    """[H, W], [1, H, W] and [H, W, 4] have three channels afterwards."""
    for grey in (PHOTO[:, :, 0], PHOTO[:, :, :1].transpose(2, 0, 1), Image.fromarray(PHOTO[:, :, 0])):
        assert np.array_equal(to_array(grey), np.repeat(PHOTO[:, :, :1], 3, axis=2))
    assert np.array_equal(to_array(np.dstack([PHOTO, PHOTO[:, :, 0]])), PHOTO)


@pytest.mark.parametrize("thing", ["photo.jpg", None, np.zeros(5), np.zeros((2, 3, 4, 5)), {"a": 1}])
def test_what_is_no_image_is_told(thing):
    """The error says what came, and what an image may be."""
    with pytest.raises(DataError, match=r"an image (has shape|is of type)") as told:
        to_array(thing)
    assert "PIL image" in str(told.value.hint)
