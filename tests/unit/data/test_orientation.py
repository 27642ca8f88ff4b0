"""Which way up: the tag of the eight ways that TIFF 6.0 has. More in test_images.py, on real files."""

import numpy as np
import pytest

from finefold.data.orientation import upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_first_pixel_goes_where_the_tag_says(orientation):
    """Row 0 and column 0 of what is stored are the sides that tag 274 names."""
    stored = np.zeros((2, 3, 3), np.uint8)
    stored[0, 0] = 255
    sides = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left"}
    sides |= {5: "top left", 6: "top right", 7: "bottom right", 8: "bottom left"}
    made = upright(stored, orientation)
    assert made.shape == ((2, 3, 3) if orientation < 5 else (3, 2, 3))
    row, column = np.argwhere(made[:, :, 0])[0]
    found = f"{'top' if row == 0 else 'bottom'} {'left' if column == 0 else 'right'}"
    assert found == sides[orientation]
