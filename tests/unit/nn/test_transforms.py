"""Views, roles, augmentation and mixing."""

import inspect
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from finefold.data.preprocessing import Preprocessing
from finefold.errors import RecipeError
from finefold.nn.transforms import PRESETS, SWAPPING, Augment, Evaluate, apply_view, make_augment, mix_batch
from finefold.recipe.training import AugmentRecipe, View

VIEWS = get_args(View)
SMALL = Preprocessing(32, 32, crop_fraction=0.875)
NAMES = ("wear/male/<30", "wear/male/>=60", "incorrect/male/<30", "incorrect/male/>=60")
INVERSE = {"rot90": "rot270", "rot270": "rot90"}


def noise(height: int = 50, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_has_an_inverse(view):
    """A view and its inverse give the image back: quarter turns undo each other, all others undo themselves."""
    images_BHWC = np.stack([noise(9, 9), noise(9, 9, 1)])
    there = apply_view(images_BHWC, view)
    assert there.flags.c_contiguous
    assert np.array_equal(apply_view(there, INVERSE.get(view, view)), images_BHWC)
    assert np.array_equal(there[1], apply_view(images_BHWC[1], view))


def test_views_are_seven_of_the_eight_symmetries_of_a_square():
    """The views differ but for rot180, which is hvflip; turns add up, and transpose with hflip is a quarter turn."""
    image = noise(9, 9)
    seen = {view: apply_view(image, view).tobytes() for view in VIEWS}
    assert seen["rot180"] == seen["hvflip"]
    assert len(set(seen.values())) == 7
    twice = apply_view(apply_view(image, "rot90"), "rot90")
    assert twice.tobytes() == seen["rot180"]
    assert apply_view(apply_view(image, "transpose"), "vflip").tobytes() == seen["rot90"]
    assert apply_view(apply_view(image, "hflip"), "vflip").tobytes() == seen["hvflip"]


@pytest.mark.parametrize("view", VIEWS)
def test_views_that_swap_sides_need_a_square(view):
    """An oblong image keeps its shape, or is refused with what to do; an Augment refuses when it is made."""
    if view in SWAPPING:
        with pytest.raises(RecipeError, match=r"swaps height and width.*6x9 px"):
            apply_view(noise(9, 6), view)
        with pytest.raises(RecipeError, match="swaps"):
            make_augment(AugmentRecipe(views=(view,)), Preprocessing(32, 48), NAMES)
    else:
        assert apply_view(noise(9, 6), view).shape == (9, 6, 3)


def test_the_evaluation_role_has_no_place_for_an_augmentation():
    """Evaluate holds a preprocessing and nothing else, takes an image and nothing else, and cannot be added to."""
    assert [field.name for field in fields(Evaluate)] == ["preprocessing"]
    assert list(inspect.signature(Evaluate(SMALL)).parameters) == ["image_HWC"]
    assert np.array_equal(Evaluate(SMALL)(noise()), SMALL.apply(noise()))
    assert not issubclass(Augment, Evaluate)
    with pytest.raises((AttributeError, TypeError)):
        Evaluate(SMALL).transforms = ()


@pytest.mark.parametrize("strength", PRESETS)
@pytest.mark.parametrize("shape", [(50, 40, 3), (8, 300, 3), (33, 35), (1, 1, 3)])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_presets_keep_size_type_and_range(strength, shape, fit):
    """Whatever goes in, grey or tiny, comes out as the preprocessing's size in uint8 RGB."""
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    augment = make_augment(AugmentRecipe(preset=strength), Preprocessing(24, 32, 0.875, fit), NAMES)
    for seed in range(8):
        made = augment(image, 0, np.random.default_rng(seed))
        assert (made.shape, made.dtype, made.flags.c_contiguous) == ((24, 32, 3), np.uint8, True)


@pytest.mark.parametrize("strength", [name for name in PRESETS if name != "none"])
def test_a_preset_changes_images_more_the_stronger_it_is_but_not_beyond_recognition(strength):
    """An even image stays one of about its brightness; a picture does not come out twice the same."""
    augment = make_augment(AugmentRecipe(preset=strength), SMALL, NAMES)
    made = [augment(noise(), 0, np.random.default_rng(seed)).tobytes() for seed in range(10)]
    assert len(set(made)) == 10
    even = np.full((50, 40, 3), 128, np.uint8)
    means = [augment(even, 0, np.random.default_rng(seed)).mean() for seed in range(30)]
    assert 60 < min(means) < max(means) < 200


def test_none_is_a_view_of_what_evaluation_sees():
    """Without a preset a training image is the evaluation input under one of the views, each of which is drawn."""
    augment = make_augment(AugmentRecipe(views=("plain", "hflip", "rot90")), SMALL, NAMES)
    seen = {augment(noise(), 0, np.random.default_rng(seed)).tobytes() for seed in range(40)}
    assert seen == {apply_view(SMALL.apply(noise()), view).tobytes() for view in ("plain", "hflip", "rot90")}


@pytest.mark.parametrize("strength", [*PRESETS, "own", "own of the right size"])
def test_training_never_shows_what_grey_takes_away(strength):
    """Grey is applied after the augmentation, so that no noise or colour change brings colour back."""
    preprocessing = replace(SMALL, grey=True, clahe=2.0)
    if strength.startswith("own"):
        size = 32 if "right" in strength else 40
        augment = Augment.of(lambda _: noise(size, size), preprocessing)
    else:
        augment = make_augment(AugmentRecipe(preset=strength), preprocessing, NAMES)
    for seed in range(8):
        made = augment(noise(), 0, np.random.default_rng(seed))
        assert made.shape == (32, 32, 3)
        assert (made == made[:, :, :1]).all()


def test_a_framed_image_is_not_framed_again():
    """Both roles take an image as it was framed: a centre smaller than it changes nothing."""
    cut = replace(SMALL, centre=(10, 10))
    assert np.array_equal(Evaluate(cut)(noise()), Evaluate(SMALL)(noise()))
    for own in (Augment.of(lambda image: image, cut), make_augment(AugmentRecipe(views=("plain",)), cut, NAMES)):
        assert np.array_equal(own(noise(), 0, np.random.default_rng(0)), Evaluate(SMALL)(noise()))


def test_chance_comes_from_rng_alone():
    """Equal rng states give equal bytes in any thread, order and process copy, whatever the global states are."""
    augment = make_augment(AugmentRecipe(preset="strong"), SMALL, NAMES)
    image = noise()
    expected = [augment(image, 0, np.random.default_rng(seed)).tobytes() for seed in range(24)]
    order = list(reversed(range(24)))
    random.seed(5)
    np.random.seed(5)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda seed: augment(image, 0, np.random.default_rng(seed)).tobytes(), order))
    assert got == [expected[seed] for seed in order]
    sent = pickle.loads(pickle.dumps(augment))
    assert sent(image, 0, np.random.default_rng(3)).tobytes() == expected[3]


def _darker_by_chance(image_HWC):
    return (image_HWC * np.random.rand() * random.random() * float(torch.rand(()))).astype(np.uint8)


def _darker_by_rng(image_HWC, rng):
    return (image_HWC * rng.random()).astype(np.uint8)


def _albumentations():
    import albumentations as A

    return A.Compose([A.RandomCrop(20, 20), A.ColorJitter(p=1)], seed=1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: _darker_by_chance,
        lambda: _darker_by_rng,
        _albumentations,
        lambda: v2.Compose([v2.RandomResizedCrop(32, antialias=True), v2.RandomHorizontalFlip()]),
    ],
)
def test_a_users_own_transform_is_seeded(make, monkeypatch):
    """A callable, an albumentations or torchvision transform repeats by rng; global states are as they were."""
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    augment = Augment.of(make(), SMALL)
    before = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes())
    first, again, other = (augment(noise(), 0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    after = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes())
    assert before == after
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (32, 32, 3)


def test_a_users_transform_may_not_give_floats():
    """A result that is not uint8 RGB is refused with what to leave out; something that cannot be called too."""
    augment = Augment.of(lambda image_HWC: image_HWC / 255, SMALL)
    with pytest.raises(RecipeError, match=r"float64 \[50, 40, 3\](.|\n)*leave out conversions to float"):
        augment(noise(), 0, np.random.default_rng(0))
    with pytest.raises(RecipeError, match="is no augmentation"):
        Augment.of("strong", SMALL)


def test_classes_get_their_own_strength():
    """A class's own name beats a pattern, a pattern beats the preset, and other classes stay as they are."""
    recipe = AugmentRecipe(views=("plain",), classes={"incorrect/*": "strong", "incorrect/male/<30": "none"})
    augment = make_augment(recipe, SMALL, NAMES)
    plain = SMALL.apply(noise())
    is_plain = [np.array_equal(augment(noise(), label, np.random.default_rng(0)), plain) for label in range(4)]
    assert is_plain == [True, True, True, False]


@pytest.mark.parametrize(
    ("pattern", "suggestion"),
    [("incorect", "incorrect/*"), ("male", "*/male/*"), (">=60", "*/>=60"), ("wear/male/<3", "wear/male/<30")],
)
def test_an_unknown_class_is_told_with_a_suggestion(pattern, suggestion):
    """A pattern that fits no class names the nearest class, or the pattern for a part of the joint name."""
    with pytest.raises(RecipeError) as told:
        make_augment(AugmentRecipe(classes={pattern: "light"}), SMALL, NAMES)
    assert f"`{pattern}` is no class, did you mean `{suggestion}`?" in told.value.message


def test_patterns_that_disagree_are_refused():
    """One class, two strengths: an error that names the class and both patterns; every mistake is in it."""
    recipe = AugmentRecipe(classes={"incorrect/*": "strong", "*/>=60": "light", "nobody": "light"})
    with pytest.raises(RecipeError) as told:
        make_augment(recipe, SMALL, NAMES)
    assert "class `incorrect/male/>=60` gets strong from `incorrect/*` and light from `*/>=60`" in told.value.message
    assert "`nobody` is no class" in told.value.message


def _batch(height: int, width: int, batch: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps whose every cell says whose it is, and targets that say the same."""
    maps = torch.arange(batch).float().view(-1, 1, 1, 1).expand(batch, 2, height, width).contiguous()
    return maps, torch.eye(batch)


@pytest.mark.parametrize("mix", ["cutmix", "half_cutmix"])
@pytest.mark.parametrize("size", [(7, 7), (32, 20), (1, 1), (2, 3)])
def test_targets_are_the_pasted_areas(mix, size):
    """Each target's share is exactly the share of cells that come from that sample; what was given is unchanged."""
    recipe = AugmentRecipe(mix=mix, mix_share=1, mix_alpha=1)
    for seed in range(40):
        maps, targets = _batch(*size)
        mixed, shares = mix_batch(maps, targets, recipe, np.random.default_rng(seed))
        areas = torch.stack([(mixed[:, 0] == sample).float().mean(dim=(1, 2)) for sample in range(5)], dim=1)
        assert torch.allclose(areas, shares, atol=1e-6)
        assert torch.equal(maps, _batch(*size)[0])
        if mix == "half_cutmix" and size[1] % 2 == 0:
            assert set(shares.unique().tolist()) <= {0.0, 0.5, 1.0}


@pytest.mark.parametrize("shape", [(5, 3, 4, 4), (5, 6)])
def test_mixup_averages_maps_as_targets(shape):
    """Maps are the same average of samples as targets are: mixed = targets @ maps, for maps and for vectors."""
    maps, recipe = (
        torch.randn(shape, generator=torch.Generator().manual_seed(0)),
        AugmentRecipe(mix="mixup", mix_share=1),
    )
    for seed in range(20):
        mixed, shares = mix_batch(maps, torch.eye(5), recipe, np.random.default_rng(seed))
        assert torch.allclose(mixed, torch.einsum("bs,s...->b...", shares, maps), atol=1e-5)
        assert torch.allclose(shares.sum(dim=1), torch.ones(5))


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix", "half_cutmix"])
def test_what_is_not_mixed_is_what_was_given(mix):
    """A batch of one, a share of 0, and no mixing give the very same tensors; a batch repeats by rng."""
    maps, targets = _batch(6, 6)
    recipe = AugmentRecipe(mix=mix, mix_share=0)
    assert mix_batch(maps, targets, recipe, np.random.default_rng(0))[0] is maps
    always = recipe.model_copy(update={"mix_share": 1.0})
    assert mix_batch(maps[:1], targets[:1], always, np.random.default_rng(0))[1].equal(targets[:1])
    first, again = (mix_batch(maps, targets, always, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


@pytest.mark.parametrize("mix", ["cutmix", "half_cutmix"])
def test_vectors_have_nothing_to_cut(mix):
    """Rows without height and width are refused by cutmix with what to do, also where chance would spare them."""
    with pytest.raises(RecipeError, match=r'write augment.mix = "mixup"'):
        mix_batch(torch.zeros(4, 8), torch.eye(4), AugmentRecipe(mix=mix, mix_share=0), np.random.default_rng(0))


def test_only_allowed_partners_are_mixed():
    """A sample mixes with those its row of `allowed_BB` names, any of them; one that names none stays as it is."""
    maps, targets = _batch(4, 4)
    allowed_BB = torch.zeros(5, 5, dtype=torch.bool)
    allowed_BB[0, 1] = allowed_BB[1, [3, 4]] = allowed_BB[2, 2] = True
    recipe = AugmentRecipe(mix="mixup", mix_share=1)
    seen = torch.zeros(5, 5)
    for seed in range(30):
        seen += mix_batch(maps, targets, recipe, np.random.default_rng(seed), allowed_BB=allowed_BB)[1]
    partners = ((seen > 1e-6) & ~torch.eye(5, dtype=torch.bool)).nonzero().tolist()
    assert partners == [[0, 1], [1, 3], [1, 4]]


def test_mix_share_is_the_share_of_batches():
    """About `mix_share` of the batches are mixed."""
    maps, targets = _batch(4, 4)
    rng = np.random.default_rng(0)
    recipe = AugmentRecipe(mix="mixup", mix_share=0.3)
    mixed = [mix_batch(maps, targets, recipe, rng)[0] is not maps for _ in range(400)]
    assert abs(np.mean(mixed) - 0.3) < 0.08
