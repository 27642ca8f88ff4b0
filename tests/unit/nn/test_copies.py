"""Augmented copies of scarce classes: which images have them, what they look like, and who is shown them."""

import cv2
import numpy as np
import pytest
import torch

from finefold.data.preprocessing import Preprocessing
from finefold.errors import RecipeError
from finefold.nn.copies import Copy, copies_by_class, copies_of, wanted_by
from finefold.nn.loaders import EvaluateRole, ImageRows, TrainRole
from finefold.recipe.schema import Recipe

INPUT = Preprocessing(32, 32)
CLASSES = ("a/young", "a/old", "b/young", "b/old")
TRAINS = {"phase": [{"trainable": "head", "until": "1 epochs"}]}


def recipe(**augment: object) -> Recipe:
    return Recipe.model_validate({**TRAINS, "augment": augment})


def image(seed: int = 0) -> np.ndarray:
    return cv2.resize(np.random.default_rng(seed).integers(0, 256, (8, 6, 3), dtype=np.uint8), (48, 64))


def test_classes_are_named_or_matched():
    """A pattern serves all classes that fit, a class's own name beats it, and others have none."""
    said = recipe(copies={"*/old": 3, "b/old": 1})
    assert copies_by_class(said, CLASSES).tolist() == [0, 3, 0, 1]
    assert [copy.number for copy in copies_of(said)] == [1, 2, 3]


def test_no_such_class_is_told_with_a_suggestion():
    """A name that fits nothing is an error that says where it stands and what may be meant."""
    with pytest.raises(RecipeError, match=r"augment\.copies: `oldd` is no class, did you mean `\*/old`"):
        copies_by_class(recipe(copies={"oldd": 3}), CLASSES)


def test_a_copy_follows_from_image_number_and_seed():
    """The same bytes each time; others for another number, another seed, and another image of the same pixels."""
    copy = Copy(1, "medium", ("plain",), 0)
    first = copy.make(image(), INPUT, bytes(16))
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, copy.make(image(), INPUT, bytes(16)))
    others = [Copy(2, "medium", ("plain",), 0), Copy(1, "medium", ("plain",), 1), Copy(1, "strong", ("plain",), 0)]
    made = [other.make(image(), INPUT, bytes(16)) for other in others] + [copy.make(image(), INPUT, b"1" * 16)]
    assert all(not np.array_equal(first, one) for one in made)
    assert len({str(one) for one in [copy, *others]}) == 4  # each has rows of its own in the cache


def test_views_are_drawn_for_copies_too():
    """Among many copies some are mirrored where the recipe says so, and none where it does not."""
    gradient = np.repeat(np.linspace(0, 255, 48).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2)

    def falls(views: tuple[str, ...]) -> list[bool]:
        made = [Copy(n, "light", views, 0).make(gradient, INPUT, bytes(16)).astype(int) for n in range(1, 21)]
        return [one[:, :8].mean() > one[:, -8:].mean() for one in made]

    assert not any(falls(("plain",)))
    assert 3 < sum(falls(("plain", "hflip"))) < 17


def test_the_cache_is_asked_for_what_is_wanted_only():
    """The second copies are those of images that have two."""
    wanted = wanted_by(np.array([0, 1, 2]), copies_of(recipe(copies={"*": 2})))
    assert [mask.tolist() for mask in wanted.values()] == [[False, True, True], [False, False, True]]


@pytest.fixture
def role(tmp_path) -> TrainRole:
    """Four images of two classes, of which the second has two copies; the last image does not train."""
    said = Recipe.model_validate(
        {**TRAINS, "augment": {"views": ["plain"], "copies": {"b": 2}}, "train": {"batch_size": 3}}
    )
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), image(number))
    labels_N = np.array([0, 1, 1, 1])
    rows = ImageRows(paths, INPUT, 10**8)
    copies_N = copies_by_class(said, ("a", "b"))[labels_N]
    return TrainRole(rows, np.arange(3), labels_N, np.arange(4), labels_N, 2, said, None, (0, 0, 1), copies_N)


def test_an_epoch_shows_every_image_and_its_copies_once(role):
    """1 + 3 + 3 rows; those of one image are its plain view and two different copies; no other image is shown."""
    assert role.rows_per_epoch == 7 and role.batches_per_epoch == 3
    batches = list(role.epoch(0))
    samples = np.concatenate([batch.samples_B for batch in batches])
    rows = torch.cat([batch.rows for batch in batches]).numpy()
    targets = torch.cat([batch.targets_BS for batch in batches]).argmax(1).numpy()
    assert sorted(samples.tolist()) == [0, 1, 1, 1, 2, 2, 2]
    assert np.array_equal(targets, role.labels_N[samples])
    for sample in (1, 2):
        shown = {row.tobytes() for row in rows[samples == sample]}
        assert len(shown) == 3
        assert role.rows.read(np.array([sample]), "plain")[0].tobytes() in shown


def test_copies_are_the_same_in_every_epoch_and_other_orders(role):
    """What is computed once is shown again."""
    shown = [{row.numpy().tobytes() for batch in role.epoch(epoch) for row in batch.rows} for epoch in (0, 1)]
    assert shown[0] == shown[1]


def test_thinning_counts_copies(role):
    """At most two rows of one image's group and class an epoch, whichever they are."""
    thinned = role.recipe.model_copy(update={"sampling": role.recipe.sampling.model_copy(update={"at_most": 2})})
    samples = TrainRole(
        role.rows, role.samples, role.labels_N, role.groups_N, role.strata_N, 2, thinned, None, role.key, role.copies_N
    )
    assert sorted(np.concatenate([batch.samples_B for batch in samples.epoch(0)]).tolist()) == [0, 1, 1, 2, 2]


def test_evaluation_sees_each_image_once_and_plain(role):
    """An evaluation role knows no copies."""
    found = torch.cat(list(EvaluateRole(role.rows, np.arange(4), 3).batches())).numpy()
    assert np.array_equal(found, role.rows.read(np.arange(4), "plain"))


def test_copies_and_what_changes_every_epoch_exclude_each_other():
    """With a preset nothing is made once, and a probe has no epochs: both are told when the recipe is read."""
    with pytest.raises(ValueError, match=r"sampling\.quota"):
        recipe(copies={"*": 1}, preset="light")
    with pytest.raises(ValueError, match="needs a phase that trains"):
        Recipe.model_validate({"augment": {"copies": {"*": 1}}})
