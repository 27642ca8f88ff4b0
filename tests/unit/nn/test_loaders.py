"""Rows from images: what is decoded at which size, and that training and evaluation look at the same part."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from finefold.data.images import decode_image
from finefold.data.preprocessing import Preprocessing
from finefold.metrics.pseudo import FoldLabels
from finefold.nn.features import load_framed, load_input
from finefold.nn.loaders import ImageRows, TrainRole
from finefold.nn.loop import HeadLosses
from finefold.nn.losses import cross_entropy
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


def guesses(fold: int = 0, weight: float = 0.25) -> FoldLabels:
    """Soft labels of four extra images, the first of which is image 1 of theirs; two are most likely of class 2."""
    targets_MC = np.array([[0.1, 0.2, 0.7], [0.0, 0.0, 1.0], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
    return FoldLabels(fold, np.array([1, 2, 3, 5]), targets_MC, weight)


@pytest.fixture
def beside(tmp_path) -> Callable[..., TrainRole]:
    """A role of 12 samples of three classes and four of six extra images, the value of each its number."""

    def made(labels: FoldLabels | None, fold: int = 0, **tables: object) -> TrainRole:
        said = {"phase": [{"trainable": "head", "until": "1 epochs"}], "augment": {"views": ["plain"]}, **tables}
        recipe = Recipe.model_validate({"train": {"batch_size": 5}, **said})
        paths = [tmp_path / f"{number}.png" for number in range(18)]
        for number, path in enumerate(paths):
            cv2.imwrite(str(path), np.full((32, 32, 3), number, np.uint8))
        labels_N = np.array([0] * 8 + [1] * 3 + [2])
        rows = ImageRows(paths, SMALL, MAX_PIXELS)
        named = np.append(np.zeros(11, bool), True)
        return TrainRole(
            rows,
            np.arange(12),
            labels_N,
            np.arange(12),
            labels_N,
            3,
            recipe,
            None,
            (0, fold, 1),
            None,
            named,
            extra=labels,
        )

    return made


def shown(role: TrainRole, epoch: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of an epoch: numbers, targets, and one pixel of every row."""
    batches = list(role.epoch(epoch))
    parts = [(one.samples_B, one.targets_BS.numpy(), one.rows.numpy()[:, 16, 16, 0]) for one in batches]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def test_extra_images_train_besides_with_their_weight(beside):
    """An epoch has every sample and every labelled extra image once; an extra image's target sums to its weight."""
    role = beside(guesses())
    numbers, targets, pixels = shown(role)
    assert sorted(numbers.tolist()) == [*range(12), 13, 14, 15, 17]
    assert (role.rows_per_epoch, role.batches_per_epoch, role.num_extra) == (16, 4, 4)
    assert np.array_equal(pixels, numbers)
    is_extra = numbers >= 12
    assert np.array_equal(targets[~is_extra], np.eye(3)[role.labels_N[numbers[~is_extra]]])
    by_number = dict(zip([13, 14, 15, 17], 0.25 * guesses().targets_MC, strict=True))
    assert np.allclose(targets[is_extra], [by_number[number] for number in numbers[is_extra]])
    again = shown(role)
    assert np.array_equal(again[0], numbers) and not np.array_equal(shown(role, 1)[0], numbers)


def test_the_weight_reaches_the_loss(beside):
    """A batch's loss is the mean over its rows of a sample's loss, and of an extra image's times its weight."""
    (batch,) = beside(guesses(), train={"batch_size": 16}).epoch(0)
    logits_BC = torch.from_numpy(np.random.default_rng(0).normal(size=(16, 3))).float()
    losses = HeadLosses(
        {"joint": lambda logs, told: cross_entropy(logs, told).mean()}, {"joint": torch.eye(3)}, {"joint": 1.0}
    )
    is_extra_B = torch.from_numpy(batch.samples_B >= 12)
    whole_BC = batch.targets_BS / torch.where(is_extra_B, 0.25, 1.0)[:, None]
    each_B = cross_entropy(logits_BC, whole_BC)
    expected = (each_B[~is_extra_B].sum() + 0.25 * each_B[is_extra_B].sum()) / 16
    assert torch.isclose(losses({"joint": logits_BC}, batch.targets_BS), expected)


def test_a_fold_refuses_another_folds_labels(beside):
    """Labels that fold 1's model made are no training data of fold 0: an error, not a training."""
    beside(guesses(fold=1), fold=1)
    with pytest.raises(ValueError, match="a fold trains on its own alone"):
        beside(guesses(fold=1), fold=0)


@pytest.mark.parametrize("tables", [{"loss": {"balance": "sampler"}}, {"sampling": {"quota": 0.3, "at_most": 1}}])
def test_samples_come_as_they_would_without_extra_images(beside, tables):
    """Samples are drawn, thinned and repeated among themselves: with extra images an epoch shows the same ones."""
    numbers = shown(beside(guesses(), **tables))[0]
    assert sorted(numbers[numbers < 12].tolist()) == sorted(shown(beside(None, **tables))[0].tolist())
    assert (numbers >= 12).sum() >= 4


def test_mixed_extra_images_bring_their_weight(beside):
    """Half of an extra image brings half of its weight; the same class is the likeliest; named partners are samples."""
    mix = {"views": ["plain"], "mix": "half_cutmix", "mix_share": 1.0}
    role = beside(guesses(), augment=mix, train={"batch_size": 16})
    (batch,) = role.epoch(0)
    values = batch.rows.numpy()[:, 16, [4, 28], 0].round().astype(int)
    assert np.allclose(batch.targets_BS.sum(1), np.where(values >= 12, 0.25, 1.0).mean(axis=1))
    (batch,) = beside(guesses(), augment={**mix, "mix_partners": ["c"]}, train={"batch_size": 16}).epoch(0)
    values = batch.rows.numpy()[:, 16, [4, 28], 0].round().astype(int)
    partners = np.where(values[:, 0] == batch.samples_B, values[:, 1], values[:, 0])
    assert set(partners[batch.samples_B != 11].tolist()) == {11}
    (batch,) = beside(guesses(), augment={**mix, "mix_partners": "same"}, train={"batch_size": 16}).epoch(0)
    likeliest = np.append(role.labels_N, [0, 2, 2, 0, 0, 1])
    values = batch.rows.numpy()[:, 16, [4, 28], 0].round().astype(int)
    assert np.array_equal(*likeliest[values].T)
