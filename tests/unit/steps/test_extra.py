"""Unlabelled images with a fold's own labels: as workers read them, under one attribute, and in no count of classes."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from finefold.data.imageset import ImageSet
from finefold.data.labels import Attribute, LabelSpace
from finefold.data.samples import SampleTable
from finefold.metrics.pseudo import FoldLabels
from finefold.recipe.schema import Recipe
from finefold.steps.extra import ExtraImages
from finefold.steps.own import NOTHING
from finefold.steps.training import head_losses

SPACE = LabelSpace(
    (
        Attribute("mask", ("worn", "none"), "mask", (("worn",), ("none",))),
        Attribute("age", ("young", "old"), "age", (("young",), ("old",))),
    )
)
POOL = ImageSet(
    [f"{number}.png" for number in range(5)],
    [Path(f"/photos/{number}.png") for number in range(5)],
    [(0, 1, 5, 9), None, (2, 2, 8, 8), None, (-3, 0, 4, 4)],
)


def labels(fold: int, rows: list[int]) -> FoldLabels:
    targets_MC = np.full((len(rows), 4), 0.1)
    targets_MC[:, fold] = 0.7
    return FoldLabels(fold, np.array(rows, np.int64), targets_MC, 0.3)


def test_workers_read_what_was_written(tmp_path):
    """Images without any label are left out; names, files, boxes, places, targets and weights come back."""
    made = ExtraImages.of(POOL, (labels(0, [1, 4]), labels(1, [2]), labels(2, [])))
    assert [one.rows_M.tolist() for one in made.labels] == [[0, 2], [1], []]
    made.write(tmp_path / "work" / "extra.npz")
    found = ExtraImages.read(tmp_path / "work" / "extra.npz")
    assert found.images == ImageSet(
        ["1.png", "2.png", "4.png"],
        [Path("/photos/1.png"), Path("/photos/2.png"), Path("/photos/4.png")],
        [None, (2, 2, 8, 8), (-3, 0, 4, 4)],
    )
    for one, other in zip(made.labels, found.labels, strict=True):
        assert (one.fold, one.weight) == (other.fold, other.weight)
        assert np.array_equal(one.rows_M, other.rows_M) and np.array_equal(one.targets_MC, other.targets_MC)


def test_labels_in_another_order_of_folds_are_refused():
    """There is no value that would train fold 0 on labels of fold 1."""
    with pytest.raises(ValueError, match="a fold trains on its own alone"):
        ExtraImages(POOL, (labels(1, [0]), labels(0, [0])))


def test_one_attribute_has_the_labels_summed_up():
    """A model of one attribute learns the probabilities of its classes."""
    under = ExtraImages(POOL, (labels(0, [3]),)).under(SPACE, "age")
    np.testing.assert_allclose(under.labels[0].targets_MC, [[0.8, 0.2]])


@pytest.mark.parametrize("heads", ["joint", "per_attribute"])
def test_extra_images_are_in_no_count_of_classes(heads):
    """What corrects for scarce classes knows the samples alone; of what is known extra images are a part."""
    codes = [0, 1, 2, 3, 0]
    rows = {"id": list("abcde"), "path": list("abcde"), "group": list("abcde"), "source": ["x"] * 5}
    names = [SPACE.class_names[code].split("/") for code in codes]
    values = {"mask": [name[0] for name in names], "age": [name[1] for name in names[:4]] + [None]}
    told = {"label": [*codes[:4], None], "train_label": [*codes[:4], None]}
    train_codes = [[code // 2, code % 2] for code in codes[:4]] + [[0, -1]]
    samples = SampleTable(pl.DataFrame({**rows, **told, **values, "train_codes": train_codes}), SPACE, Path())
    recipe = Recipe.model_validate(
        {
            "model": {"heads": heads},
            "loss": {"balance": "logit_adjust"},
            "phase": [{"trainable": "head", "until": "1 epochs"}],
        }
    )
    training = SimpleNamespace(recipe=recipe, samples=samples, own=NOTHING, teacher_FNK=None)
    without, beside = (
        head_losses(training, SimpleNamespace(shown_E=np.arange(5), num_extra=count)) for count in (0, 15)
    )
    for name, loss in without.losses.items():
        assert np.array_equal(loss.log_prior_C, beside.losses[name].log_prior_C)
    if heads == "per_attribute":
        assert (without.shares, beside.shares) == ({"age": 4 / 5}, {"age": 19 / 20})
