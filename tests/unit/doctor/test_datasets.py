"""Any map-style data set, read once."""

import random

import cv2
import numpy as np
import pytest
import torch

from finefold.doctor.datasets import num_rows, read_rows, split_row
from finefold.errors import DataError
from finefold.nn.backbones import EMBEDDED_BACKBONE, find_backbone
from finefold.nn.engines import Choice
from finefold.nn.features import PrefixCache


@pytest.fixture(scope="module")
def cache() -> PrefixCache:
    return PrefixCache(find_backbone(EMBEDDED_BACKBONE, "embedded"), Choice("torch", "fp32", "test"), 10**8)


@pytest.fixture(scope="module")
def files(shapes) -> list[str]:
    return [str(path) for name in ("disc", "square") for path in sorted((shapes / name).glob("*.png"))[:6]]


class Shapes:
    """A data set that reads its files, and draws random numbers as augmentation does."""

    def __init__(self, files: list[str], labels: list[object], *, shown: list[str] | None = None) -> None:
        self.files, self.labels, self.shown = files, labels, dict(enumerate(shown or files))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, object]:
        random.random(), np.random.rand(), torch.rand(1)
        return cv2.imread(self.shown[index])[:, :, ::-1].copy(), self.labels[index]


def test_rows_are_read_in_order_with_names_for_classes(files, cache):
    """Labels become codes in natural order of their texts; features are those of the files; paths are known."""
    labels = ["10"] * 6 + ["9"] * 6
    rows = read_rows(Shapes(files, labels), cache)
    assert rows.class_names == ("9", "10") and rows.labels_N.tolist() == [1] * 6 + [0] * 6 and rows.texts == labels
    own = cache.compute(files, files)
    assert np.allclose(rows.features.rows_ND, own.rows_ND, atol=0.02)
    assert rows.lists.paths == tuple(files) and rows.features.is_readable_N.all()


def test_a_second_look_computes_nothing(files, cache):
    """Pixels that were seen before come from the cache."""
    read_rows(Shapes(files, [0, 1] * 6), cache)
    assert read_rows(Shapes(files[::-1], [0, 1] * 6), cache).features.num_computed == 0


def test_the_random_numbers_of_the_process_stay(files, cache):
    """What the data set draws while it is read does not change what comes after."""
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    read_rows(Shapes(files, [0, 1] * 6), cache)
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_paths_that_are_not_of_the_pictures_are_not_believed(files, cache):
    """A list of files beside other pictures is no list of the rows' paths."""
    told: list[int] = []
    rows = read_rows(Shapes(files, [0, 1] * 6, shown=files[6:] + files[:6]), cache, advance=told.append)
    assert rows.lists.paths == () and sum(told) == 12


def test_of_several_lists_of_paths_the_one_of_the_pictures_is_believed(files, cache):
    """Whichever attribute comes first."""
    data = Shapes(files, [0, 1] * 6, shown=files[6:] + files[:6])
    data.images = files[6:] + files[:6]
    assert read_rows(data, cache).lists.paths == tuple(files[6:] + files[:6])


@pytest.mark.parametrize(
    "label", [1, np.int64(1), torch.tensor(1), torch.tensor([1]), [0.1, 0.9], torch.tensor([0, 1])]
)
def test_labels_in_every_form(label, files, cache):
    """Numbers, tensors of one, and vectors whose largest entry is the class."""
    assert read_rows(Shapes(files[:2], [label, 0]), cache).class_names == ("0", "1")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"picture": 1, "label": 2}, "a dict with the keys picture, label"),
        (torch.zeros(3), "of type Tensor"),
        ((torch.zeros(3),), "of type tuple"),
    ],
)
def test_rows_of_another_form_are_told(row, told):
    """What came, and what is needed."""
    with pytest.raises(DataError, match=told) as error:
        split_row(row, 0)
    assert "(image, label) or a dict" in str(error.value.hint)


def test_a_dict_is_read_by_its_usual_keys():
    """image and label, or pixel_values and labels."""
    assert split_row({"pixel_values": "x", "labels": 3, "id": 1}, 0) == ("x", 3)


def test_what_is_no_data_set_is_told(files, cache):
    """No length, nothing in it, a row that fails, a label of several classes: each in words."""
    with pytest.raises(DataError, match="generator has no"):
        num_rows(x for x in ())
    with pytest.raises(DataError, match="empty"):
        num_rows([])
    with pytest.raises(DataError, match=r"dataset\[1\] failed: IndexError"):
        read_rows(Shapes(files[:2], [0]), cache)
    with pytest.raises(DataError, match="several classes"):
        read_rows(Shapes(files[:1], [[1, 1, 0]]), cache)
