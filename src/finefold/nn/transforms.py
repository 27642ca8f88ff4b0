"""What images go through on their way to a model: views, roles, augmentation. albumentations lives here alone.

A role says what is done: `Augment` is training's, `Evaluate` is validation's and test's and takes no augmentation.

Shapes: B images, H x W pixels, C channels, K joint classes.
"""

import copy
import inspect
import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from finefold.data.preprocessing import Preprocessing
from finefold.errors import RecipeError
from finefold.nn.classwise import by_class
from finefold.nn.mixing import mix_batch as mix_batch  # found here with everything else that changes images
from finefold.recipe.training import AugmentRecipe, Strength, View

Pixels = NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)
_TURNS: dict[View, int] = {"rot90": 1, "rot180": 2, "rot270": 3}  # quarter turns, counterclockwise
_FLIPS: dict[View, tuple[int, ...]] = {"hflip": (-2,), "vflip": (-3,), "hvflip": (-3, -2)}
SWAPPING: frozenset[View] = frozenset({"rot90", "rot270", "transpose"})  # height becomes width


def apply_view(images_BHWC: NDArray[Scalar], view: View) -> NDArray[Scalar]:
    """Images, or one image, under a view: pixels change places, and no value changes.

    Args:
        images_BHWC: [B, H, W, C] or [H, W, C].
        view: quarter turns are counterclockwise; `transpose` mirrors at the diagonal from the upper left.

    Returns:
        The same shape, contiguous; the array itself where nothing moves.

    Raises:
        RecipeError: the view swaps height and width, which differ.
    """
    height, width = images_BHWC.shape[-3:-1]
    _check_square(view, height, width)
    if view in _FLIPS:
        moved = np.flip(images_BHWC, _FLIPS[view])
    elif view in _TURNS:
        moved = np.rot90(images_BHWC, _TURNS[view], (-3, -2))
    else:
        moved = np.swapaxes(images_BHWC, -3, -2) if view == "transpose" else images_BHWC
    return np.ascontiguousarray(moved)


def _check_square(view: View, height: int, width: int) -> None:
    if view in SWAPPING and height != width:
        raise RecipeError(
            f"view `{view}` swaps height and width, and the input is {width}x{height} px",
            "leave it out of augment.views and predict.views, or give image.size_px, which makes inputs square",
        )


@dataclass(frozen=True)
class Change:
    """What a preset does, each a range or a greatest value. One table, so that presets can be compared.

    Args:
        area: share of the preprocessing's own crop that a random crop keeps, at least.
        aspect: how much wider or taller the crop may become, as a factor.
        turn_deg, shift, scale, shear_deg: of the affine map.
        light, hue: of the colour jitter; `light` for brightness, contrast and saturation alike.
        affine, colour, damage, holes: shares of images that get each; damage is one of blur, noise and JPEG.
    """

    area: float
    aspect: float
    turn_deg: float
    shift: float
    scale: float
    shear_deg: float
    light: float
    hue: float
    affine: float
    colour: float
    damage: float = 0.0
    holes: float = 0.0

    @property
    def words(self) -> str:
        """In words, for a person."""
        said = [
            f"crop of {self.area:.0%} to 100 % of the area",
            f"turn to {self.turn_deg:g} degrees and shift to {self.shift:.0%} ({self.affine:.0%} of images)",
            f"colour to {self.light:.0%} ({self.colour:.0%})",
        ]
        said += [f"blur, noise or JPEG ({self.damage:.0%})"] if self.damage else []
        said += [f"holes ({self.holes:.0%})"] if self.holes else []
        return ", ".join(said).replace("%", " %").replace("  ", " ")


PRESETS: dict[Strength, Change | None] = {
    "none": None,
    # what another photographer would have done: nothing that a person notices without the original beside it
    "light": Change(0.8, 1.1, 8, 0.03, 0.05, 0, 0.15, 0.01, affine=0.5, colour=0.8),
    # another camera and room; 60 % of the area still holds what is in the middle of the image
    "medium": Change(0.6, 1.2, 15, 0.05, 0.1, 5, 0.25, 0.03, affine=0.6, colour=0.8, damage=0.3),
    # long training of all layers; hue stays below a tenth, for where colour tells classes apart
    "strong": Change(0.4, 1.33, 25, 0.08, 0.15, 8, 0.4, 0.06, affine=0.8, colour=0.9, damage=0.5, holes=0.5),
}
GROWN = 0.1  # a random crop may leave the preprocessing's own by so much of its side, where the image goes on


class Transform(Protocol):
    """uint8 [H, W, 3] -> uint8 [H', W', 3], all chance from `rng`."""

    def __call__(self, image_HWC: Pixels, rng: np.random.Generator) -> Pixels: ...


@final
@dataclass(frozen=True, slots=True)
class Evaluate:
    """The role of validation and test: the preprocessing. There is no place for an augmentation to go."""

    preprocessing: Preprocessing

    def __call__(self, image_HWC: Pixels) -> Pixels:
        """uint8 [H, W, 3] or grey [H, W], as `Preprocessing.framed` gives it -> uint8 [height, width, 3]."""
        return self.preprocessing.finished(image_HWC)


@final
@dataclass(frozen=True)
class Augment:
    """The role of training: a random view, then what the image's class gets. Safe to share between threads.

    Views come from the recipe alone, so that no preset mirrors images which a recipe says not to mirror.

    Args:
        preprocessing: what the result looks like: size, crop, interpolation.
        views: one is drawn for every image.
        transforms_K: for each class; a single one serves all classes.
    """

    preprocessing: Preprocessing
    views: tuple[View, ...]
    transforms_K: tuple[Transform, ...]

    def __post_init__(self) -> None:
        for view in self.views:
            _check_square(view, self.preprocessing.height_px, self.preprocessing.width_px)

    def __call__(self, image_HWC: Pixels, label: int, rng: np.random.Generator) -> Pixels:
        """An image as training sees it this time; equal states of `rng` give equal bytes.

        Args:
            image_HWC: uint8 [H, W, 3] or grey [H, W], of any size, as `Preprocessing.framed` gives it.
            label: the joint class.
            rng: the only source of chance.

        Returns:
            uint8 [height, width, 3].
        """
        transform = self.transforms_K[label if len(self.transforms_K) > 1 else 0]
        view = self.views[int(rng.integers(len(self.views)))]
        return apply_view(transform(image_HWC, rng), view)

    @classmethod
    def of(cls, transform: Any, preprocessing: Preprocessing, *, views: tuple[View, ...] = ("plain",)) -> "Augment":
        """The user's own transform in place of a preset; what comes out is preprocessed where its size is another.

        Repeatable as far as the library lets: an albumentations transform exactly (a copy per thread, seeded before
        every image); a callable that takes `rng` as far as it uses that. For any other callable and for torchvision
        v2 the global states of random, numpy and torch are seeded for each image and put back, one image at a
        time: exact unless another thread draws from those states meanwhile.

        Args:
            transform: uint8 [H, W, 3] -> uint8 [H', W', 3], an albumentations transform, or a torchvision v2 one.
        """
        return cls(preprocessing, views, (_Own(transform, preprocessing),))


Role = Augment | Evaluate


def make_augment(recipe: AugmentRecipe, preprocessing: Preprocessing, class_names: Sequence[str]) -> Augment:
    """Training's role as a recipe says it.

    Raises:
        RecipeError: `classes` names no class, or gives one class two strengths, or a view does not fit the input.
    """
    made = {strength: _Preset(strength, preprocessing) for strength in PRESETS}
    strengths_K = strengths_for(recipe, class_names)
    return Augment(preprocessing, recipe.views, tuple(made[strength] for strength in strengths_K))


def preset_augment(strength: Strength, preprocessing: Preprocessing, views: tuple[View, ...]) -> Augment:
    """One preset for all classes.

    Raises:
        RecipeError: a view does not fit the input.
    """
    return Augment(preprocessing, views, (_Preset(strength, preprocessing),))


def strengths_for(recipe: AugmentRecipe, class_names: Sequence[str]) -> tuple[Strength, ...]:
    """[K] the preset of each class. A class's own name beats patterns, which beat `preset`.

    Raises:
        RecipeError: names nothing, or patterns disagree; all such mistakes at once.
    """
    return by_class("augment.classes", recipe.classes, class_names, recipe.preset)


class _PerThread:
    """A pipeline of albumentations, which keeps its chance inside, so that every thread needs one of its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._local = threading.local()

    def __reduce__(self) -> tuple[type["_PerThread"], tuple[Callable[[], Any]]]:
        return _PerThread, (self._make,)

    def __call__(self, image_HWC: Pixels, rng: np.random.Generator) -> Any:
        if not hasattr(self._local, "pipeline"):
            self._local.pipeline = self._make()
        self._local.pipeline.set_random_seed(int(rng.integers(2**32)))
        return self._local.pipeline(image=np.ascontiguousarray(image_HWC))["image"]


@dataclass(frozen=True)
class _Pipeline:
    """How a preset's pipeline is made; can be sent to another process."""

    change: Change
    preprocessing: Preprocessing

    def __call__(self) -> Any:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else importing it asks the network for a newer one
        import albumentations as A
        import cv2

        change, grey = self.change, tuple(round(value) for value in self.preprocessing.mean)
        light = (1 - change.light, 1 + change.light)
        affine = A.Affine(
            scale=(1 - change.scale, 1 + change.scale),
            translate_percent=(-change.shift, change.shift),
            rotate=(-change.turn_deg, change.turn_deg),
            shear=(-change.shear_deg, change.shear_deg),
            border_mode=cv2.BORDER_REFLECT_101,  # black corners would be a sign that only training has
            p=change.affine,
        )
        colour = A.ColorJitter(light, light, light, (-change.hue, change.hue), p=change.colour)
        damage = A.OneOf(
            [
                A.GaussianBlur(sigma_limit=(0.3, 1.2), p=1),  # out of focus by a pixel, not beyond recognition
                A.GaussNoise(std_range=(0.02, 0.06), p=1),  # of a phone in a room
                A.ImageCompression(quality_range=(40, 80), p=1),  # of a messenger
            ],
            p=change.damage,
        )
        # holes of the channel mean are zeros for the network; up to 4 of a fifth of the side leave most in sight
        holes = A.CoarseDropout((1, 4), (0.08, 0.2), (0.08, 0.2), fill=grey, p=change.holes)
        return A.Compose([affine, colour, *([damage] if change.damage else []), *([holes] if change.holes else [])])


class _Preset:
    """A random crop around the preprocessing's own, resized as it resizes, then the pipeline."""

    def __init__(self, strength: Strength, preprocessing: Preprocessing) -> None:
        change = PRESETS[strength]
        self.change = change
        self.preprocessing = preprocessing
        self._resize = replace(preprocessing, fit="squash")
        self._pipeline = None if change is None else _PerThread(_Pipeline(change, preprocessing))

    def __call__(self, image_HWC: Pixels, rng: np.random.Generator) -> Pixels:
        if self.change is None or self._pipeline is None:
            return self.preprocessing.finished(image_HWC)
        height, width = image_HWC.shape[:2]
        top, left, crop_h, crop_w = _random_crop(height, width, self.change, self.preprocessing, rng)
        window_HWC = self._resize.fitted(image_HWC[top : top + crop_h, left : left + crop_w])
        return self.preprocessing.toned(np.asarray(self._pipeline(window_HWC, rng), np.uint8))


def _random_crop(
    height: int, width: int, change: Change, preprocessing: Preprocessing, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop inside the preprocessing's own, grown a little, and inside the image."""
    own_h, own_w = float(height), float(width)
    if preprocessing.fit == "crop":
        scale = min(height / preprocessing.height_px, width / preprocessing.width_px) * preprocessing.crop_fraction
        own_h, own_w = preprocessing.height_px * scale, preprocessing.width_px * scale
    side = rng.uniform(change.area, 1) ** 0.5
    stretch = np.exp(rng.uniform(-1, 1) * np.log(change.aspect) / 2)
    crop_h = max(1, min(height, round(own_h * side / stretch)))
    crop_w = max(1, min(width, round(own_w * side * stretch)))
    places = []
    for length, own, crop in ((height, own_h, crop_h), (width, own_w, crop_w)):
        room = max(0.0, min(length - crop, own * (1 + 2 * GROWN) - crop))
        middle = (length - crop) / 2
        places.append(int(np.clip(round(middle + room * rng.uniform(-0.5, 0.5)), 0, length - crop)))
    return places[0], places[1], crop_h, crop_w


class _Own:
    """A user's transform as one of ours."""

    def __init__(self, transform: Any, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._call = _adapted(transform)

    def __call__(self, image_HWC: Pixels, rng: np.random.Generator) -> Pixels:
        given = image_HWC if image_HWC.ndim == 3 else np.repeat(image_HWC[:, :, None], 3, axis=2)
        made = np.asarray(self._call(given.copy(), rng))  # a copy: they may work in place
        if made.dtype != np.uint8 or made.ndim != 3 or made.shape[2] != 3:
            raise RecipeError(
                f"the augmentation gives {made.dtype} {list(made.shape)}, expected uint8 [H, W, 3]",
                "leave out conversions to float and Normalize: mean and std are applied inside the model",
            )
        is_fitted = made.shape[:2] == (self.preprocessing.height_px, self.preprocessing.width_px)
        return self.preprocessing.toned(np.ascontiguousarray(made) if is_fitted else self.preprocessing.fitted(made))


def _adapted(transform: Any) -> Callable[[Pixels, np.random.Generator], Any]:
    """A user's transform behind one way of calling it."""
    if hasattr(transform, "set_random_seed"):  # albumentations, without importing it for those who do not use it
        return _PerThread(_Copies(transform))
    if isinstance(transform, torch.nn.Module):
        return lambda image_HWC, rng: _by_torchvision(transform, image_HWC, rng)
    if not callable(transform):
        raise RecipeError(f"{transform!r} is no augmentation", "give a callable: image [H, W, 3] -> image")
    try:
        takes_rng = "rng" in inspect.signature(transform).parameters
    except (TypeError, ValueError):  # built into C
        takes_rng = False
    if takes_rng:
        return lambda image_HWC, rng: transform(image_HWC, rng=rng)
    return lambda image_HWC, rng: _with_seed(lambda: transform(image_HWC), rng)


@dataclass(frozen=True)
class _Copies:
    """Copies of a user's pipeline."""

    original: Any

    def __call__(self) -> Any:
        return copy.deepcopy(self.original)


def _by_torchvision(transform: torch.nn.Module, image_HWC: Pixels, rng: np.random.Generator) -> Any:
    image_CHW = torch.from_numpy(image_HWC).permute(2, 0, 1)
    return _with_seed(lambda: transform(image_CHW), rng).permute(1, 2, 0).numpy()


_seeding = threading.Lock()


def _with_seed(call: Callable[[], Any], rng: np.random.Generator) -> Any:
    """Calls with the process's own random states seeded, and puts them back."""
    seed = int(rng.integers(2**32))
    with _seeding, torch.random.fork_rng(devices=[]):
        python, numpy = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            return call()
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
