"""Width, height and brightness of image files."""

import numpy as np
from PIL import Image

from finefold.data.measures import measure_images


def test_sizes_and_brightness(tmp_path):
    """Width and height are those of the upright image, brightness is mean luma; a broken file has none."""
    Image.new("RGB", (40, 30), (255, 255, 255)).save(tmp_path / "white.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "red.jpg", exif=exif, quality=95)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    seen: list[int] = []
    paths = [tmp_path / name for name in ("white.png", "red.jpg", "broken.jpg")]
    found = measure_images(paths, advance=seen.append)
    np.testing.assert_array_equal(found["width"], [40, 30, np.nan])
    np.testing.assert_array_equal(found["height"], [30, 40, np.nan])
    np.testing.assert_allclose(found["brightness"], [255, 0.299 * 255, np.nan], atol=2)
    assert sum(seen) == 3
