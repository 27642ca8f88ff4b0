"""One object from image to input: geometry by construction, and a hash over all of it."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from finefold.data.preprocessing import Preprocessing
from finefold.errors import DataError

PLAIN = Preprocessing(16, 24)


def gradient(height: int, width: int) -> Any:
    """Red grows to the right, green downward."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = np.linspace(0, 255, width).astype(np.uint8)
    image[:, :, 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return image


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.875, 0.1])
@pytest.mark.parametrize("size", [(16, 24), (1, 1), (1, 500), (500, 1), (7, 9), (333, 500), (24, 16), (48, 32)])
def test_every_image_gets_the_models_size(fit: Any, crop_fraction: float, size: tuple[int, int]) -> None:
    """Whatever its shape, an image becomes height by width, three channels, contiguous bytes."""
    made = Preprocessing(16, 24, crop_fraction, fit).apply(gradient(*size))
    assert made.shape == (16, 24, 3)
    assert made.dtype == np.uint8
    assert made.flags.c_contiguous


def test_height_and_width_are_not_swapped() -> None:
    """Rows stay rows: red still grows to the right and green downward."""
    made = PLAIN.apply(gradient(160, 240)).astype(int)
    assert (np.diff(made[8, :, 0]) > 0).all()
    assert (np.diff(made[:, 12, 1]) > 0).all()
    assert np.ptp(made[:, :, 0], axis=0).max() <= 1


def test_the_right_size_passes_unchanged() -> None:
    """An image of the model's size is not touched."""
    image = gradient(16, 24)
    np.testing.assert_array_equal(PLAIN.apply(image), image)


def test_a_crop_keeps_the_middle_and_the_aspect() -> None:
    """A wide image loses as much on the left as on the right; a squashed one loses nothing."""
    image = gradient(160, 480)
    cut = PLAIN.apply(image)[:, :, 0].astype(int)
    assert abs(cut[0, 0] - 64) <= 6
    assert abs(cut[0, -1] - 191) <= 6
    whole = replace(PLAIN, fit="squash").apply(image)[:, :, 0].astype(int)
    assert whole[0, 0] <= 6
    assert whole[0, -1] >= 249


def test_the_crop_fraction_is_of_the_resized_image() -> None:
    """Half the fraction shows the middle half."""
    cut = replace(PLAIN, crop_fraction=0.5).apply(gradient(160, 240))[:, :, 0].astype(int)
    assert abs(cut[0, 0] - 64) <= 6
    assert abs(cut[0, -1] - 191) <= 6


def test_shrinking_averages() -> None:
    """A fine checkerboard becomes grey, not black or white."""
    board = np.indices((160, 240)).sum(axis=0) % 2 * 255
    made = PLAIN.apply(np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8))
    assert np.abs(made.astype(int) - 127).max() <= 2


@pytest.mark.parametrize(("crop_fraction", "needed"), [(1.0, 24), (0.875, 28), (0.5, 48)])
def test_the_short_side_that_is_needed(crop_fraction: float, needed: int) -> None:
    """An image decoded at this short side is not enlarged."""
    assert replace(PLAIN, crop_fraction=crop_fraction).short_side_px == needed


@pytest.mark.parametrize(
    "change",
    [
        {"height_px": 24},
        {"width_px": 16},
        {"crop_fraction": 0.9},
        {"fit": "squash"},
        {"interpolation": "bilinear"},
        {"mean": (127.0, 127.5, 127.5)},
        {"std": (127.5, 127.5, 128.0)},
    ],
)
def test_the_hash_sees_every_field(change: dict[str, Any]) -> None:
    """16 hex digits, fixed for good, another one for any change."""
    assert PLAIN.hash == Preprocessing(16, 24).hash == "677f740b707f9f3a"
    assert replace(PLAIN, **change).hash != PLAIN.hash


def test_goes_through_plain_values() -> None:
    """What a weights file's header keeps gives the same object back."""
    odd = Preprocessing(32, 48, 0.9, "squash", "lanczos", (1.5, 2.0, 3.0), (0.1, 1.0, 255.0))
    assert Preprocessing.from_dict(odd.to_dict()) == odd


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height_px": 7}, "an input of 24x7 px is too small"),
        ({"width_px": 0}, "an input of 0x16 px is too small"),
        ({"crop_fraction": 0.0}, "crop_fraction is 0.0"),
        ({"crop_fraction": 1.1}, "crop_fraction is 1.1"),
        ({"crop_fraction": float("nan")}, "crop_fraction is nan"),
        ({"fit": "stretch"}, "fit is `stretch`"),
        ({"interpolation": "area"}, "interpolation is `area`"),
        ({"std": (1.0, 0.0, 1.0)}, "std is (1.0, 0.0, 1.0)"),
        ({"std": (1.0, float("nan"), 1.0)}, "std is (1.0, nan, 1.0)"),
        ({"std": (1.0,)}, "std is (1.0,)"),
        ({"mean": (1.0, 2.0)}, "mean is (1.0, 2.0)"),
        ({"mean": (1.0, 2.0, float("inf"))}, "mean is (1.0, 2.0, inf)"),
    ],
)
def test_an_impossible_one_cannot_be_made(change: dict[str, Any], message: str) -> None:
    """Sizes, fractions, choices and channels out of range are errors with what to choose."""
    with pytest.raises(DataError) as caught:
        replace(PLAIN, **change)
    assert caught.value.message == message
    assert caught.value.hint


@pytest.mark.parametrize("change", [{"more": 1}, {"mean": None}, {"mean": 3}, {"std": "abc"}, {"height_px": "16"}])
def test_a_foreign_header_is_refused(change: dict[str, Any]) -> None:
    """Values that another program wrote are an error, not a traceback."""
    with pytest.raises(DataError):
        Preprocessing.from_dict({**PLAIN.to_dict(), **change})
    with pytest.raises(DataError, match="this is no preprocessing"):
        Preprocessing.from_dict({})


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_grey_and_its_three_equal_channels_give_the_same_input(fit):
    """A grey image is resized once, and comes out as it would with its channel repeated."""
    grey_HW = np.random.default_rng(0).integers(0, 256, (75, 91), dtype=np.uint8)
    for size in (32, 224):
        preprocessing = Preprocessing(size, size, crop_fraction=0.875, fit=fit)
        rgb_HWC = np.repeat(grey_HW[:, :, None], 3, axis=2)
        assert np.array_equal(preprocessing.apply(grey_HW), preprocessing.apply(rgb_HWC))


def noise(height: int, width: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_centre_is_cut_first_in_the_images_own_pixels() -> None:
    """The middle 40 x 60 goes on as an image of its own; rows that are odd leave the extra one below and right."""
    image = noise(101, 99)
    cut = replace(PLAIN, centre=(40, 60))
    assert cut.frame(101, 99) == (19, 30, 79, 70)
    np.testing.assert_array_equal(cut.apply(image), PLAIN.apply(image[30:70, 19:79]))


@pytest.mark.parametrize("size", [(20, 200), (200, 20), (20, 30), (1, 1)])
def test_a_smaller_image_keeps_what_it_has(size: tuple[int, int]) -> None:
    """A side shorter than the centre's is kept whole."""
    left, top, right, bottom = replace(PLAIN, centre=(40, 60)).frame(*size)
    assert (bottom - top, right - left) == (min(size[0], 40), min(size[1], 60))


def test_a_box_takes_the_place_of_the_centre() -> None:
    """What is inside the box is preprocessed as an image of its own, whatever the centre."""
    image = noise(100, 100)
    for one in (PLAIN, replace(PLAIN, centre=(10, 10))):
        np.testing.assert_array_equal(one.apply(image, (5, 10, 65, 50)), PLAIN.apply(image[10:50, 5:65]))


def test_pixels_of_a_crop_need_the_image_at_its_own_size() -> None:
    """A JPEG may be decoded smaller only where nothing is said in its own pixels."""
    assert PLAIN.decode_px() == PLAIN.short_side_px
    assert PLAIN.decode_px((0, 0, 1, 1)) is None
    assert replace(PLAIN, centre=(40, 60)).decode_px() is None


@pytest.mark.parametrize("clahe", [0.0, 2.0])
def test_grey_takes_all_colour_away(clahe: float) -> None:
    """The three channels are equal, and a grey image's are what they are without it."""
    grey = replace(PLAIN, grey=True, clahe=clahe)
    made = grey.apply(noise(64, 96))
    assert (made == made[:, :, :1]).all()
    plain_HW = noise(64, 96)[:, :, 0]
    np.testing.assert_array_equal(grey.apply(plain_HW), replace(grey, grey=False).apply(plain_HW))


def test_clahe_evens_out_contrast_and_keeps_colour() -> None:
    """A flat, dark image spreads over more of the range; its hue stays, and a limit of 0 changes nothing."""
    flat = (60 + gradient(160, 240) // 16).astype(np.uint8)
    flat[:, :, 2] = 90
    plain, even = PLAIN.apply(flat).astype(int), replace(PLAIN, clahe=4.0).apply(flat).astype(int)
    assert np.ptp(even.sum(axis=2)) > 2 * np.ptp(plain.sum(axis=2))
    assert np.abs((even[:, :, 2] - even[:, :, 0]) - (plain[:, :, 2] - plain[:, :, 0])).max() <= 3
    np.testing.assert_array_equal(replace(PLAIN, clahe=0.0).apply(flat), PLAIN.apply(flat))


@pytest.mark.parametrize("change", [{"centre": (40, 60)}, {"centre": (60, 40)}, {"grey": True}, {"clahe": 2.0}])
def test_later_settings_change_hash_and_header_only_where_used(change: dict[str, Any]) -> None:
    """A header of before has none of them; one that uses them says so and reads back the same."""
    assert not {"centre", "grey", "clahe"} & set(PLAIN.to_dict())
    used = replace(PLAIN, **change)
    assert used.hash != PLAIN.hash
    assert set(used.to_dict()) - set(PLAIN.to_dict()) == set(change)
    through = json.loads(json.dumps(used.to_dict()))
    assert Preprocessing.from_dict(through) == used
    assert Preprocessing.from_dict(through).hash == used.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"centre": (0, 10)}, "centre is (0, 10)"),
        ({"centre": (10,)}, "centre is (10,)"),
        ({"centre": (10.5, 10)}, "centre is (10.5, 10)"),
        ({"clahe": -1.0}, "clahe is -1.0"),
        ({"clahe": float("nan")}, "clahe is nan"),
        ({"clahe": float("inf")}, "clahe is inf"),
    ],
)
def test_impossible_later_settings_cannot_be_made(change: dict[str, Any], message: str) -> None:
    """A centre without area and a clip limit below 0 are errors with what to choose."""
    with pytest.raises(DataError) as caught:
        replace(PLAIN, **change)
    assert caught.value.message == message
    assert caught.value.hint
