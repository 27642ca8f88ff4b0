"""Rows from images: what is decoded at which size, and that training and evaluation look at the same part."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from finefold.data.images import decode_image
from finefold.data.preprocessing import Preprocessing
from finefold.nn.features import load_framed, load_input
from finefold.nn.loaders import ImageRows, TrainRole
from finefold.recipe.schema import Recipe

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


@pytest.fixture
def mixing(tmp_path) -> Callable[..., TrainRole]:
    """A role of 12 plain grey images of three classes, the value of each its number, all mixed by halves."""

    def made(partners: object, **more: object) -> TrainRole:
        augment = {"views": ["plain"], "mix": "half_cutmix", "mix_share": 1.0, "mix_partners": partners}
        recipe = Recipe.model_validate(
            {"phase": [{"trainable": "head", "until": "1 epochs"}], "augment": augment, "train": {"batch_size": 12}}
        )
        paths = [tmp_path / f"{number}.png" for number in range(12)]
        for number, path in enumerate(paths):
            cv2.imwrite(str(path), np.full((32, 32, 3), number, np.uint8))
        labels_N = np.arange(12) % 3
        rows = ImageRows(paths, SMALL, MAX_PIXELS)
        return TrainRole(rows, np.arange(12), labels_N, np.arange(12), labels_N, 3, recipe, None, (0, 0, 1), **more)

    return made


def halves(role: TrainRole) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one batch: each row's own number, the number of the image that is mixed into it, and its targets."""
    (batch,) = role.epoch(0)
    values = batch.rows.numpy()[:, 16, [4, 28], 0].round().astype(int)
    own = batch.samples_B
    other = np.where(values[:, 0] == own, values[:, 1], values[:, 0])
    return own, other, batch.targets_BS.numpy()


def test_partners_of_the_same_class_keep_labels_hard(mixing):
    """Another image of the same class is mixed in, and the target stays what it was."""
    own, other, targets = halves(mixing("same"))
    assert (own % 3 == other % 3).all() and (own != other).all()
    assert np.array_equal(targets, np.eye(3)[own % 3])


def test_partners_come_from_the_classes_named(mixing):
    """One half of every image comes from the scarce class, and so does half of its target."""
    own, other, targets = halves(mixing(["scarce"], partners_N=np.arange(12) % 3 == 2))
    assert (other % 3 == 2).all() and (own != other).all()
    assert np.allclose(targets[:, 2], np.where(own % 3 == 2, 1, 0.5))


def test_anybody_is_a_partner_by_default(mixing):
    """Without a word images of all classes are mixed into others."""
    own, other, _ = halves(mixing("any"))
    assert len(set((other % 3).tolist())) == 3 and len(set(other.tolist())) == 12
    assert (own % 3 != other % 3).any()
